"""Pages of tasks: by state, label, worker and text, in submission order or by duration or time, 100 at a time, with exact totals.

    Query ──► which objects must be read first (`undecided`) ──► `page`: totals from columns, rows after a key

A page begins after the key of a row, not at a number of rows, so that it does not shift while tasks before it change.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple
from urllib.parse import urlencode

from starburst_executor.client.reading import parse_task
from starburst_executor.dashboard.index import Columns, TaskIndex, unread_columns
from starburst_executor.errors import ConfigError
from starburst_executor.protocol.keys import task_id
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.session.statuses import ListedStatus

__all__ = ["PAGE", "SORTS", "Key", "Page", "Query", "Row", "page", "undecided"]

PAGE = 100
SORTS = ("task", "-task", "seconds", "-seconds", "at", "-at")
_STATES = {state.name.lower(): state for state in State}
_LONGEST = 200


class Key(NamedTuple):
    """The place of a task in an order: the value by which it is sorted, 0 in submission order; ordinal and sequence."""

    value: float
    ordinal: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.value!r}:{self.ordinal}-{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> Key:
        """Return the key of a link. Raises: ConfigError."""
        value, _, task = text.partition(":")
        try:
            return cls(float(value), *parse_task(task))
        except ValueError as error:
            raise ConfigError(f"not a place in a list of tasks: {text[:80]!r}; begin with the first page") from error


@dataclass(frozen=True, slots=True)
class Query:
    """Which tasks, in which order, from which place on.

    Attributes:
        states: In one of these states; all if empty.
        label: With this label; all if empty.
        worker: With this worker; all if empty.
        text: With this text, in any case, in the kind or message of their failure, or with this id.
        sort: One of `SORTS`; a minus for descending.
        key: The page begins after this task, or ends before it if `is_back`.
    """

    states: frozenset[State] = frozenset()
    worker: str = ""
    text: str = ""
    sort: str = "task"
    key: Key | None = None
    is_back: bool = False
    label: str = ""

    @classmethod
    def parse(cls, fields: Sequence[tuple[str, str]]) -> Query:
        """Return the query of a page's address. Raises: ConfigError."""
        first: dict[str, str] = {}
        for name, value in fields:
            first.setdefault(name, value.strip()[:_LONGEST])
        names = [value for name, value in fields if name == "state" and value]
        unknown = [name for name in names if name not in _STATES]
        sort = first.get("sort") or "task"
        if unknown or sort not in SORTS:
            raise ConfigError(
                f"the address has an unknown state or order: {(unknown or [sort])[0][:80]!r}; choose on the page"
            )
        place = first.get("before") or first.get("after")
        return cls(
            frozenset(_STATES[name] for name in names),
            first.get("worker", ""),
            first.get("text", ""),
            sort,
            Key.parse(place) if place else None,
            bool(first.get("before")),
            first.get("label", ""),
        )

    def address(self, **changes: object) -> str:
        """Return the query string of this query with changes; it begins at the first page unless a key is given."""
        new = replace(self, **{"key": None, "is_back": False, **changes})  # type: ignore[arg-type]  # fields of this class
        fields = [("state", state.name.lower()) for state in sorted(new.states)]
        texts = (("label", new.label), ("worker", new.worker), ("text", new.text))
        fields += [(name, value) for name, value in texts if value]
        if new.sort != "task":
            fields.append(("sort", new.sort))
        if new.key is not None:
            fields.append(("before" if new.is_back else "after", str(new.key)))
        return f"?{urlencode(fields)}" if fields else "?"

    @property
    def column(self) -> str:
        """The column to sort by: `task`, `seconds` or `at`."""
        return self.sort.lstrip("-")

    @property
    def has_filter(self) -> bool:
        """Whether not all tasks are meant."""
        return bool(self.states or self.label or self.worker or self.text)


class Row(NamedTuple):
    """One task of a page.

    Attributes:
        worker: Its id; empty while none has it.
        at: When it was claimed or ended, UTC epoch seconds; 0 if neither.
        kind: The kind of its failure; empty if it did not fail, or that is not known here.
        label: Empty if it has none.
    """

    id: str
    state: str
    worker: str
    at: float
    seconds: float
    attempt: int
    kind: str
    message: str
    label: str


class Page(NamedTuple):
    """A page of tasks.

    Attributes:
        total: The number of tasks that the query matches.
        n_unread: Objects and failures that are not read yet, because of which the total may be too low; 0 if it is exact.
        before: The key to go back from; None on the first page.
        after: The key to go on from; None on the last page.
    """

    rows: list[Row]
    total: int
    n_unread: int
    before: Key | None
    after: Key | None


def undecided(index: TaskIndex, query: Query) -> list[ListedStatus]:
    """Return the objects that must be read before the query can be answered, those most likely to matter first."""
    if not query.has_filter and query.column == "task":
        return []
    if query.label:
        wanted = list(index.listing)
    elif query.worker or query.column != "task":
        wanted = [listed for listed in index.listing if listed.size_class != SizeClass.ALL_PENDING]
    else:
        wanted = [listed for listed in index.listing if listed.size_class.all_in is None]
    return [listed for listed in wanted if index.known(listed) is None]


def page(index: TaskIndex, query: Query, n_rows: int = PAGE) -> tuple[Page, list[ListedStatus]]:
    """Return a page from memory, and the objects of its rows that are not read yet; read them, and ask again."""
    matcher = _Matcher(index, query)
    found = list(islice(_places(index, query, matcher), n_rows + 1))
    has_more, found = len(found) > n_rows, found[:n_rows]
    if query.is_back:
        found.reverse()
    places = [(listed, position) for _, listed, position in found]
    has_before, has_after = (has_more, True) if query.is_back else (query.key is not None, has_more)
    keys = [key for key, _, _ in found]
    shown = Page(
        [_row(index, listed, position) for listed, position in places],
        matcher.total(),
        len(undecided(index, query)) + (index.n_unfetched if query.text else 0),
        keys[0] if keys and has_before else None,
        keys[-1] if keys and has_after else None,
    )
    # Also of objects whose tasks all wait: they may have labels.
    unread = {listed.key: listed for listed, _ in places if index.known(listed) is None}
    return shown, list(unread.values())


def _row(index: TaskIndex, listed: ListedStatus, position: int) -> Row:
    columns = _columns(index, listed)
    kind = columns.kinds[position] if columns.kinds is not None else 0
    labels = columns.labels()
    return Row(
        task_id(listed.ref.ordinal, listed.ref.first + position),
        State(columns.states[position]).name.lower(),
        index.worker_ids[columns.workers[position]],
        columns.at[position],
        columns.seconds[position],
        columns.attempts[position],
        index.kinds[kind - 1].type_name if kind else "",
        columns.messages.get(position, ""),
        labels[position] if labels else "",
    )


def _columns(index: TaskIndex, listed: ListedStatus) -> Columns:
    known = index.known(listed)
    if known is not None:
        return known
    guess = {SizeClass.SOME_CLAIMED: State.CLAIMED, SizeClass.SOME_PENDING: State.PENDING}
    state = listed.size_class.all_in
    return unread_columns(listed.ref.n_tasks, guess.get(listed.size_class, State.COMPLETED) if state is None else state)


class _Matcher:
    """Decides which tasks of an object a query matches."""

    def __init__(self, index: TaskIndex, query: Query) -> None:
        self._index = index
        self._states = frozenset(map(int, query.states))
        self._worker = index.number_of(query.worker) if query.worker else None
        self._is_nowhere = bool(query.worker) and self._worker is None
        self._text = query.text.lower()
        self._label = query.label
        # By key of an object: totals and rows need them, and labels are inflated for each look at them.
        self._labelled: dict[str, list[int]] = {}
        self._task: tuple[int, int] | None = None
        if self._text:
            try:
                self._task = parse_task(self._text)
            except ConfigError:
                self._task = None
        self._kinds = {
            number
            for number, kind in enumerate(index.kinds, 1)
            if self._text and self._text in f"{kind.type_name} {kind.place}".lower()
        }
        self._messages: dict[str, bool] = {}

    def columns(self, listed: ListedStatus) -> Columns | None:
        """Return the columns of an object; None if the query can match none of its tasks, or it must be read first."""
        known = self._index.known(listed)
        if known is None:
            all_in = listed.size_class.all_in
            if self._states and (all_in is None or all_in not in self._states):
                return None
            if self._worker is not None or self._is_nowhere or self._label or (self._text and self._task is None):
                return None
            return _columns(self._index, listed)
        if self._is_nowhere or (self._worker is not None and self._worker not in known.workers):
            return None
        if self._text and self._task is None and known.kinds is None:
            return None
        if self._label and not self._with_label(listed, known):
            return None
        return known

    def positions(self, listed: ListedStatus, columns: Columns) -> range | list[int]:
        """Return the positions of the tasks that it matches, ascending."""
        found: range | list[int] = range(len(columns.states))
        if self._label:
            found = self._with_label(listed, columns)
        if self._text:
            found = [i for i in found if self._has_text(listed, columns, i)]
        if self._states and not self._states.issuperset(columns.states):
            states = columns.states
            found = [i for i in found if states[i] in self._states]
        if self._worker is not None:
            workers = columns.workers
            found = [i for i in found if workers[i] == self._worker]
        return found

    def total(self) -> int:
        """Return how many tasks it matches, of those that are known."""
        total = 0
        for listed in self._index.listing:
            columns = self.columns(listed)
            if columns is None:
                continue
            if self._text or self._label or (self._states and self._worker is not None):
                total += len(self.positions(listed, columns))
            elif self._worker is not None:
                total += columns.workers.count(self._worker)
            elif self._states:
                total += sum(columns.states.count(state) for state in self._states)
            else:
                total += listed.ref.n_tasks
        return total

    def _with_label(self, listed: ListedStatus, columns: Columns) -> list[int]:
        if listed.key not in self._labelled:
            # An address has no spaces around its values.
            self._labelled[listed.key] = [i for i, label in enumerate(columns.labels()) if label.strip() == self._label]
        return self._labelled[listed.key]

    def _has_text(self, listed: ListedStatus, columns: Columns, position: int) -> bool:
        if self._task is not None and self._task == (listed.ref.ordinal, listed.ref.first + position):
            return True
        if columns.kinds is None or not columns.kinds[position]:
            return False
        if columns.kinds[position] in self._kinds:
            return True
        message = columns.messages.get(position, "")
        if message not in self._messages:
            self._messages[message] = self._text in message.lower()
        return self._messages[message]


_Place = tuple[Key, ListedStatus, int]


def _places(index: TaskIndex, query: Query, matcher: _Matcher) -> Iterator[_Place]:
    """Yield the tasks that match from the query's key on, in its order or, going back, in the opposite one."""
    is_down = query.sort.startswith("-") != query.is_back
    if query.column == "task":
        return _in_order(index, query, matcher, is_down=is_down)
    found = [
        _by_value(listed, columns, matcher, query, is_down=is_down)
        for listed in index.listing
        if (columns := matcher.columns(listed)) is not None
    ]
    return heapq.merge(*found, key=lambda place: place[0], reverse=is_down)


def _in_order(index: TaskIndex, query: Query, matcher: _Matcher, *, is_down: bool) -> Iterator[_Place]:
    listing: Sequence[ListedStatus] = index.listing
    if query.key is not None:
        firsts = [listed.ref[:2] for listed in listing]
        place = bisect_right(firsts, query.key[1:])
        listing = listing[:place] if is_down else listing[max(0, place - 1) :]
    for listed in reversed(listing) if is_down else listing:
        columns = matcher.columns(listed)
        if columns is None:
            continue
        positions = matcher.positions(listed, columns)
        for position in reversed(positions) if is_down else positions:
            key = Key(0.0, listed.ref.ordinal, listed.ref.first + position)
            if query.key is None or ((key[1:] < query.key[1:]) if is_down else (key[1:] > query.key[1:])):
                yield key, listed, position


def _by_value(
    listed: ListedStatus, columns: Columns, matcher: _Matcher, query: Query, *, is_down: bool
) -> Iterator[_Place]:
    order = columns.order(query.column)
    values = columns.at if query.column == "at" else columns.seconds
    start, stop = 0, len(order)
    if query.key is not None:
        # Tasks with the same value follow each other by their ids, so they are compared one by one below.
        if is_down:
            stop = bisect_right(order, query.key.value, key=values.__getitem__)
        else:
            start = bisect_left(order, query.key.value, key=values.__getitem__)
    matching = matcher.positions(listed, columns)
    chosen = None if isinstance(matching, range) else set(matching)
    for i in range(stop - 1, start - 1, -1) if is_down else range(start, stop):
        position = order[i]
        if chosen is not None and position not in chosen:
            continue
        key = Key(values[position], listed.ref.ordinal, listed.ref.first + position)
        if query.key is None or ((key < query.key) if is_down else (key > query.key)):
            yield key, listed, position
