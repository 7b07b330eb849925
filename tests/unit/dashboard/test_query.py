"""Pages of tasks from columns: the same rows and totals as a plain list of all tasks gives."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from starburst_executor.client.reading import Block, Task
from starburst_executor.dashboard.index import TaskIndex
from starburst_executor.dashboard.query import SORTS, Key, Page, Query, page, undecided
from starburst_executor.errors import ConfigError
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.labels import LABELS, packed_labels
from starburst_executor.protocol.outcomes import Failure
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.session.statuses import ListedStatus
from tests.support.session_rig import Rig

LABELLED = ("plate 7", "", '<b>&"', " spaced ")
MESSAGES = ["no reading for <b>", "out of range", "Sensor OFFLINE"]


def size_class(states: set[State]) -> SizeClass:
    if State.PENDING in states:
        return SizeClass.ALL_PENDING if len(states) == 1 else SizeClass.SOME_PENDING
    if State.CLAIMED in states:
        return SizeClass.SOME_CLAIMED
    return SizeClass.ALL_COMPLETED if states == {State.COMPLETED} else SizeClass.ALL_ENDED


@dataclass
class FakeReading:
    """Tasks in objects, as `Reading` reads them; counts what is read."""

    objects: dict[str, Block]
    has_key: bool = True
    n_read: int = 0
    session: Any = field(default_factory=lambda: Rig().session)
    beside: frozenset[str] = frozenset()

    def blocks(self, listing: Iterable[ListedStatus]) -> Iterator[Block]:
        for listed in listing:
            self.n_read += 1
            yield self.objects[listed.key]

    def block(self, listed: ListedStatus) -> Block:
        return next(self.blocks([listed]))

    def failure(self, block: Block, task: Task, *, may_fetch: bool = True) -> Failure | None:
        if task.id in self.beside and not may_fetch:
            return None
        name = "ValueError" if task.sequence % 2 else "OSError"
        return Failure(f"builtins.{name}", MESSAGES[task.sequence % 3], "")

    @property
    def listing(self) -> list[ListedStatus]:
        return [block.listed for block in self.objects.values()]

    @property
    def tasks(self) -> list[Task]:
        return [task for block in self.objects.values() for task in block.tasks]


def made(seed: int, n_objects: int = 30, *, labels: Sequence[str] = ()) -> FakeReading:
    """Objects of 1 to 40 tasks of two submitters, in every mixture of states, with many equal durations.

    Args:
        labels: The tasks of every second object have these in turn, by their number.
    """
    lots = random.Random(seed)
    objects: dict[str, Block] = {}
    for ordinal in (0, 1):
        first = 0
        for number in range(n_objects // 2):
            n_tasks = lots.randint(1, 40)
            kinds = lots.choice([[State.PENDING], [State.COMPLETED], list(State), [State.COMPLETED, State.FAILED]])
            tasks = []
            for i in range(n_tasks):
                state = lots.choice(kinds)
                worker = lots.choice(["w-a", "w-b"])
                claim = "" if state in (State.PENDING, State.CANCELLED) else f"{worker}.{number}"
                at = 0.0 if state == State.PENDING else 1000.0 + lots.randint(0, 50)
                seconds = lots.choice([0.0, 0.25, 0.5, 3.0]) if claim else 0.0
                tasks.append(Task(ordinal, first + i, state, 1, int(bool(claim)), 0, 0, 0, claim, at, seconds))
            ref = StatusRef(ordinal, first, n_tasks, 0)
            listed = ListedStatus(f"{ordinal}.{first:06}", ref, size_class({t.state for t in tasks}), "e1", 1060.0)
            objects[listed.key] = Block(listed, labelled(tasks, labels) if number % 2 else None, tuple(tasks))
            first += n_tasks
    return FakeReading(objects)


def labelled(tasks: Sequence[Task], labels: Sequence[str]) -> Any:
    """What a block is decoded from, as far as labels are read from it."""
    return SimpleNamespace(
        more=packed_labels(labels[task.sequence % len(labels)] for task in tasks) if labels else None
    )


def label_of(reading: FakeReading, task: Task) -> str:
    """The label of a task, by its object and its number."""
    for block in reading.objects.values():
        if task in block.tasks and block.stored is not None and block.stored.more:
            return LABELLED[task.sequence % len(LABELLED)]
    return ""


def indexed(reading: FakeReading) -> TaskIndex:
    index = TaskIndex(reading, 1000.0)  # type: ignore[arg-type]  # the part of it that is used
    index.set_listing(reading.listing)
    return index


def asked(index: TaskIndex, query: Query, n_rows: int = 17) -> Page:
    index.fill(undecided(index, query), lambda: True)
    shown, unread = page(index, query, n_rows)
    if unread:
        index.fill(unread, lambda: True)
        shown, unread = page(index, query, n_rows)
    assert unread == []
    return shown


def expected(reading: FakeReading, query: Query) -> list[str]:
    def matches(task: Task) -> bool:
        failure = reading.failure(Block(None, None, ()), task) if task.state == State.FAILED else None  # type: ignore[arg-type]
        text = "" if failure is None else f"{failure.type_name} {failure.message}".lower()
        return (
            (not query.states or task.state in query.states)
            and (not query.worker or task.worker == query.worker)
            and (not query.label or label_of(reading, task).strip() == query.label)
            and (not query.text or query.text.lower() in text or query.text == task.id)
        )

    def place(task: Task) -> tuple[float, int, int]:
        value = {"task": 0.0, "seconds": task.seconds, "at": task.at}[query.column]
        return value, task.ordinal, task.sequence

    found = sorted(filter(matches, reading.tasks), key=place, reverse=query.sort.startswith("-"))
    return [task.id for task in found]


QUERIES = [
    Query(),
    Query(states=frozenset({State.FAILED})),
    Query(states=frozenset({State.PENDING, State.CLAIMED})),
    Query(worker="w-a"),
    Query(worker="w-a", states=frozenset({State.COMPLETED})),
    Query(worker="nowhere"),
    Query(text="sensor offline"),
    Query(text="ValueError", worker="w-b"),
    Query(text="1-3"),
    Query(text="nothing like it"),
    Query(label="plate 7"),
    Query(label="spaced", states=frozenset({State.PENDING, State.FAILED})),
    Query(label='<b>&"', worker="w-a"),
    Query(label="plate 7", text="range"),
    Query(label="plate"),
]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.address())
def test_pages_forwards_and_back_are_all_that_matches_once_and_in_order(query: Query, sort: str) -> None:
    reading = made(3, labels=LABELLED)
    index, query = indexed(reading), replace(query, sort=sort)
    wanted = expected(reading, query)
    forwards: list[list[str]] = []
    shown = asked(index, query)
    while True:
        assert shown.total == len(wanted)
        assert shown.n_unread == 0
        forwards.append([row.id for row in shown.rows])
        if shown.after is None:
            break
        shown = asked(index, replace(query, key=shown.after))
    assert [task for rows in forwards for task in rows] == wanted
    backwards = [[row.id for row in shown.rows]]
    while shown.before is not None:
        shown = asked(index, replace(query, key=shown.before, is_back=True))
        if not shown.rows:
            break
        backwards.append([row.id for row in shown.rows])
    assert list(reversed(backwards)) == forwards


def test_rows_have_the_facts_of_their_task() -> None:
    reading = made(5, labels=LABELLED)
    tasks = {task.id: task for task in reading.tasks}
    for row in asked(indexed(reading), Query(), 1000).rows:
        task = tasks[row.id]
        assert (row.state, row.worker, row.at, row.attempt) == (
            task.state.name.lower(),
            task.worker,
            task.at,
            task.attempt,
        )
        assert row.seconds == pytest.approx(task.seconds)
        assert bool(row.kind) == (task.state == State.FAILED)
        assert row.label == label_of(reading, task)


def test_only_what_a_query_needs_is_read_and_only_once() -> None:
    reading = made(7, 200)
    index = indexed(reading)
    first = asked(index, Query())
    assert first.total == len(reading.tasks)
    assert reading.n_read <= 17
    query = Query(states=frozenset({State.FAILED}))
    asked(index, query)
    decided = {SizeClass.ALL_PENDING, SizeClass.ALL_COMPLETED}
    mixed = sum(listed.size_class not in decided for listed in reading.listing)
    assert reading.n_read <= 17 + mixed
    n_read = reading.n_read
    asked(index, query)
    assert reading.n_read == n_read
    asked(index, Query(worker="w-a", sort="-seconds"))
    assert reading.n_read <= len(reading.objects)


def test_labels_that_cannot_be_read_are_none_and_break_nothing() -> None:
    reading = made(5)
    for key, block in reading.objects.items():
        spoilt: Any = SimpleNamespace(more={LABELS: b"garbage"})
        reading.objects[key] = Block(block.listed, spoilt, block.tasks)
    index = indexed(reading)
    assert {row.label for row in asked(index, Query(), 1000).rows} == {""}
    assert asked(index, Query(label="plate 7")).total == 0
    assert not index.has_labels


def test_what_changed_is_read_again_and_totals_follow() -> None:
    reading = made(9)
    index, query = indexed(reading), Query(states=frozenset({State.FAILED}))
    before = asked(index, query).total
    key, block = next(
        (key, block) for key, block in reading.objects.items() if block.listed.size_class == SizeClass.ALL_ENDED
    )
    tasks = tuple(task._replace(state=State.FAILED) for task in block.tasks)
    reading.objects[key] = Block(block.listed._replace(etag="e2"), None, tasks)
    n_failed = sum(task.state == State.FAILED for task in block.tasks)
    assert asked(index, query).total == before
    index.set_listing(reading.listing)
    assert page(index, query)[0].n_unread == 1
    assert asked(index, query).total == before - n_failed + len(tasks)
    assert sum(kind.n_tasks for kind in index.failures()) == before - n_failed + len(tasks)


def test_what_a_look_reads_is_not_read_again() -> None:
    reading = made(11)
    index = TaskIndex(reading, 1000.0)  # type: ignore[arg-type]  # the part of it that is used
    for block in reading.objects.values():
        index.absorb_ahead(block)
    # Written since it was listed: the row is newer than its line in the listing.
    index.set_listing([listed._replace(etag="e0") for listed in reading.listing])
    assert asked(index, Query(sort="-at")).n_unread == 0
    assert reading.n_read == 0


def test_reading_stops_in_time_and_the_page_says_what_is_missing() -> None:
    reading = made(13, 200)
    index, query = indexed(reading), Query(sort="-seconds")
    index.fill(undecided(index, query), iter([True, False]).__next__)
    shown, _ = page(index, query)
    assert 0 < shown.n_unread < len(reading.objects)
    assert asked(index, query).n_unread == 0


def test_failures_that_are_not_inline_are_fetched_on_demand() -> None:
    reading = made(15)
    failed = [task.id for task in reading.tasks if task.state == State.FAILED]
    reading.beside = frozenset(failed[::2])
    index = indexed(reading)
    index.fill(reading.listing, lambda: True)
    assert index.n_unfetched == len(reading.beside)
    assert index.failures()[-1].type_name == "not read yet"
    assert page(index, Query(text="error"))[0].n_unread == len(reading.beside)
    index.fetch(lambda: True)
    assert index.n_unfetched == 0
    assert {kind.type_name for kind in index.failures()} == {"builtins.ValueError", "builtins.OSError"}
    assert sum(kind.n_tasks for kind in index.failures()) == len(failed)
    query = Query(text="range")
    assert asked(index, query).total == len(expected(reading, query))


def test_the_first_failures_of_a_kind_are_those_that_ended_first() -> None:
    reading = made(15)
    kinds = []
    for listing in (reading.listing, reading.listing[::-1]):
        index = indexed(reading)
        index.fill(listing, lambda: True)
        kinds.append(sorted(index.failures(), key=lambda kind: kind.type_name))
    assert kinds[0] == kinds[1]
    failed = [task for task in reading.tasks if task.state == State.FAILED and task.sequence % 2]
    failed.sort(key=lambda task: (task.at, task.ordinal, task.sequence))
    kind = kinds[0][-1]
    assert (kind.type_name, kind.tasks) == ("builtins.ValueError", [task.id for task in failed[:3]])
    assert (kind.first_at, kind.message) == (failed[0].at, MESSAGES[failed[0].sequence % 3])


def test_the_state_of_a_task_is_known_once_its_object_was_read() -> None:
    reading = made(15)
    index = indexed(reading)
    assert index.state_of(0, 0) == ""
    index.fill(reading.listing, lambda: True)
    assert all(index.state_of(task.ordinal, task.sequence) == task.state.name.lower() for task in reading.tasks)
    assert index.state_of(0, 10**9) == index.state_of(7, 0) == ""


def test_without_the_key_no_failure_is_described() -> None:
    reading = made(17)
    reading.has_key = False
    index = indexed(reading)
    shown = asked(index, Query(states=frozenset({State.FAILED})))
    assert shown.total > 0
    assert {row.kind for row in shown.rows} == {""}
    assert index.failures() == []


def test_a_session_that_is_too_big_is_listed_in_order_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starburst_executor.dashboard.index.MOST_TASKS", 100)
    reading = made(19, 60)
    index = indexed(reading)
    assert index.is_too_big
    index.fill(reading.listing, lambda: True)
    assert reading.n_read == 0
    assert page(index, Query())[0].total == len(reading.tasks)


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.address())
def test_an_address_says_the_query_it_was_made_of(query: Query) -> None:
    from urllib.parse import parse_qsl

    query = replace(query, sort="-at", key=Key(0.30000001192092896, 1, 17), is_back=True)
    address = query.address(key=query.key, is_back=True)
    assert Query.parse(parse_qsl(address[1:])) == query
    assert Query.parse(parse_qsl(query.address()[1:])) == replace(query, key=None, is_back=False)


@pytest.mark.parametrize(
    "fields",
    [
        [("state", "done")],
        [("sort", "name")],
        [("after", "x")],
        [("after", "1.0:0-x")],
        [("before", ":0-1")],
        [("after", "0.0:0-1:2")],
    ],
)
def test_a_forged_address_is_an_error_and_no_fault(fields: list[tuple[str, str]]) -> None:
    with pytest.raises(ConfigError):
        Query.parse(fields)
