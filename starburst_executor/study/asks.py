"""The asks of one stage's search, in the order that docs/design/0017-search.md fixes, and the log that makes each of them stand.

    outcomes ──advance──► tell, ask, tell, ask, … ──create the next entry──► proposals, which are submitted

Guarantee: a proposal depends on the search, its seed, its index and the outcomes of trials up to index - `ahead`; neither on time nor on
kills. One that is in the log never changes. An entry is unpickled only if it was sealed with the study's key for its place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgpack

from starburst_executor.errors import (
    KeyNotFound,
    ObjectNotFound,
    PreconditionFailed,
    RecordInvalid,
    StarburstError,
    VersionMismatch,
)
from starburst_executor.protocol.seal import Sealer
from starburst_executor.store.base import ObjectStore
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.plain import check_params, plain_copy
from starburst_executor.study.search import Search, Searcher, fingerprint_of
from starburst_executor.study.spec import search_seed
from starburst_executor.study.stage import Stage
from starburst_executor.study.tables import TrialRow

__all__ = ["Asks", "Proposals", "SearchFailed", "SearchLog", "entries_of", "put_entries"]

_log = logging.getLogger(__name__)

FORMAT = 1
_KIND = "search"
_MOST_ASKED = 10_000  # in one entry, besides those of earlier entries that it repeats
_SURROGATES = "surrogateescape"

Proposals = list[dict[str, Any]]


class SearchLog:
    """The log of one stage's search in the store. Not thread-safe.

    Attributes:
        number: The number of its last entry; 0 for an empty log.
        proposed: All proposals, by index.
        journal: All lines of the journals of this search, and of others before it.
        begins: Where the journal of this search begins.
        heard: The number of trials whose outcomes the search had got.
        state: The search, pickled, after the last ask.
        search: The fingerprint of the search that wrote the last entry.
    """

    def __init__(self, store: ObjectStore, keys: StudyKeys, sealer: Sealer, stage: str, edition: int) -> None:
        self.number = 0
        self.proposed: Proposals = []
        self.journal: list[Any] = []
        self.heard = 0
        self.state = b""
        self.search = ""
        self._store, self._sealer = store, sealer
        self._folder = keys.searches(stage, edition)
        self._place = f"{stage}.{edition}"
        # Where the proposals and the journal of each entry end: an entry repeats those of some entries before it.
        self._ends: list[tuple[int, int]] = [(0, 0)]
        self.begins = 0

    def load(self) -> None:
        """Read the log. Raises: KeyNotFound, RecordInvalid, VersionMismatch. Store: 1 LIST, at most log2(n) + 1 GETs for n entries."""
        last = len(self._store.list(self._folder))
        for number in _path(last):
            try:
                body = self._store.get(self._key(number)).body
            except ObjectNotFound as error:
                raise RecordInvalid(f"an entry of a search is missing: {self._place}/{number}") from error
            self._take(number, body)

    def append(self, asked: Proposals, state: bytes, lines: list[Any], *, heard: int, search: str) -> bool:
        """Write the next entry; return False if another driver was first: its entry is then read instead.

        Args:
            asked: The proposals since the last entry.
            state: The search after that, pickled.
            lines: Those that its journal got since.
        Raises: as `load`. Store: 1 create; 1 GET if another driver was first.
        """
        number = self.number + 1
        first, first_line = self._ends[number - _lowbit(number)]
        body = msgpack.packb(
            {
                "format": FORMAT,
                "first": first,
                "asked": [*self.proposed[first:], *asked],
                "first_line": first_line,
                "journal": [*self.journal[first_line:], *lines],
                "begins": self.begins,
                "heard": heard,
                "search": search,
                "state": state,
            },
            unicode_errors=_SURROGATES,
        )
        sealed = self._sealer.sealed(_KIND, f"{self._place}/{number}", body)
        try:
            self._store.create(self._key(number), sealed)
        except PreconditionFailed:
            self._take(number, self._store.get(self._key(number)).body)
            return False
        # Read back from its bytes, as a driver that resumes reads it: both submit the same calls.
        self._take(number, sealed)
        return True

    def _take(self, number: int, body: bytes) -> None:
        where = f"{self._place}/{number}"
        try:
            entry = msgpack.unpackb(
                bytes(self._sealer.open_sealed(_KIND, where, body)),
                unicode_errors=_SURROGATES,
                strict_map_key=False,
            )
        except RecordInvalid as error:
            raise KeyNotFound(
                f"an entry of a search was sealed with another key, or has been changed: copy the key file of the user who began the "
                f"study, or pass key=: {error}"
            ) from error
        if entry["format"] != FORMAT:
            raise VersionMismatch(f"an entry of a search has a newer format: {where}, format={entry['format']}")
        first, first_line = entry["first"], entry["first_line"]
        if first > len(self.proposed) or first_line > len(self.journal):
            raise RecordInvalid(f"an entry of a search does not follow the ones before it: {where}")
        self.proposed[first:] = entry["asked"]
        self.journal[first_line:] = entry["journal"]
        self.heard, self.search, self.state = entry["heard"], entry["search"], entry["state"]
        self.begins = entry["begins"]
        # Entries that this one repeats are not read; no later entry begins inside it.
        self._ends += [(first, first_line)] * (number - len(self._ends))
        self._ends.append((len(self.proposed), len(self.journal)))
        self.number = number

    def _key(self, number: int) -> str:
        return f"{self._folder}{number:08}"


def entries_of(store: ObjectStore, keys: StudyKeys, stage: str, edition: int) -> list[bytes]:
    """Return the entries of a log as they are stored. Store: 1 LIST, 1 GET each."""
    return [store.get(listed.key).body for listed in sorted(store.list(keys.searches(stage, edition)))]


def put_entries(
    store: ObjectStore,
    keys: StudyKeys,
    stage: str,
    edition: int,
    entries: Iterable[bytes],
    sealers: tuple[Sealer, Sealer] | None = None,
) -> None:
    """Store the entries of another study's log; one that is there stays.

    Args:
        sealers: That of the other study and that of this one, if they differ.
    Raises: RecordInvalid: an entry has a wrong seal. Store: 1 create each.
    """
    for number, entry in enumerate(entries, 1):
        place = f"{stage}.{edition}/{number}"
        if sealers is not None:
            old, new = sealers
            entry = new.sealed(_KIND, place, bytes(old.open_sealed(_KIND, place, entry)))  # noqa: PLW2901 - the same in other words
        with suppress(PreconditionFailed):
            store.create(f"{keys.searches(stage, edition)}{number:08}", entry)


class SearchFailed(StarburstError):
    """A search raised, or proposed what a record cannot hold. The driver aborts the study; everything is kept."""


class Asks:
    """The search of one running stage in its driver. Not thread-safe.

    Args:
        seed: The seed of the stage.
        log: As it was loaded.

    Attributes:
        by_index: The proposals that stand, by index.
    """

    def __init__(self, stage: Stage, seed: int, log: SearchLog) -> None:
        assert stage.search is not None  # noqa: S101 - a stage with a search
        self.by_index: dict[int, dict[str, Any]] = dict(enumerate(log.proposed))
        self._name, self._trials = stage.name, stage.trials
        self._search: Search = stage.search
        self._seed = search_seed(seed, stage.name)
        self._log = log
        self._fingerprint = fingerprint_of(self._search)
        self._heard = log.heard
        self._searcher: Searcher | None = None

    @property
    def proposed(self) -> Proposals:
        """The proposals that stand, in the order of their trials."""
        return self._log.proposed

    def advance(self, rows: Mapping[int, TrialRow]) -> bool:
        """Tell and ask as far as the outcomes allow; return whether there are new proposals.

        Raises: SearchFailed. Store: 1 create for each 10,000 proposals.
        """
        if not self._can_ask(rows):
            return False
        n_before = len(self.proposed)
        while self._can_ask(rows):
            try:
                fresh = self._asked(rows)
                state, lines = self._searcher_of(rows).dump()
            except Exception as error:  # user code
                _log.warning("the search of a stage raised: stage=%s", self._name, exc_info=True)
                raise SearchFailed(
                    f"the search of stage {self._name} raised {type(error).__name__}: {error}"
                ) from error
            stands = self._log.append(fresh, state, lines, heard=self._heard, search=self._fingerprint)
            if not stands:
                # Another driver asked first: go on from its entry.
                self._searcher, self._heard = None, self._log.heard
        self.by_index.update(enumerate(self.proposed[n_before:], n_before))
        return True

    def _can_ask(self, rows: Mapping[int, TrialRow]) -> bool:
        index, ahead = len(self.proposed), self._search.ahead
        if index >= self._trials:
            return False
        return ahead is None or all(heard in rows for heard in range(self._heard, index - ahead + 1))

    def _asked(self, rows: Mapping[int, TrialRow]) -> Proposals:
        searcher, ahead = self._searcher_of(rows), self._search.ahead
        asked = list(self.proposed)
        first = len(asked)
        for index in range(first, min(self._trials, first + _MOST_ASKED)):
            while ahead is not None and self._heard <= index - ahead:
                row = rows.get(self._heard)
                if row is None:
                    return asked[first:]
                searcher.tell(row, asked[self._heard])
                self._heard += 1
            params = dict(searcher.ask(index))
            check_params(params, f"the search of stage {self._name} for trial {index}")
            asked.append(plain_copy(params))
        return asked[first:]

    def _searcher_of(self, rows: Mapping[int, TrialRow]) -> Searcher:
        if self._searcher is None:
            self._searcher = self._begun(rows)
        return self._searcher

    def _begun(self, rows: Mapping[int, TrialRow]) -> Searcher:
        log = self._log
        if not log.number:
            return self._search.begin(self._seed, self._trials)
        if log.search == self._fingerprint:
            return self._search.restore(self._seed, self._trials, log.state, log.journal[log.begins :])
        # It was changed, and goes on after the one before it. Its journal begins anew.
        log.begins = len(log.journal)
        self._heard = next(index for index in range(len(log.proposed) + 1) if index not in rows)
        known = [rows[index] for index in range(self._heard)]
        return self._search.adopt(self._seed, self._trials, log.proposed, known)


def _lowbit(number: int) -> int:
    return number & -number


def _path(last: int) -> list[int]:
    """Return the numbers of the entries that together have everything up to the last one, ascending."""
    numbers = []
    while last:
        numbers.append(last)
        last -= _lowbit(last)
    return numbers[::-1]
