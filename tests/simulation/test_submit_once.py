"""The simulation knows tasks that are submitted once, and finds bugs in how they are: each of these breaks a promise within some seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from starburst_executor.client import once, once_statuses
from starburst_executor.client.once import Once
from starburst_executor.protocol import records
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.records import OnceEntry
from starburst_executor.protocol.spans.record import SizeClass
from starburst_executor.session.once import OnceLog
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.testing.simulation import simulate
from starburst_executor.testing.simulation.lots import Lots
from starburst_executor.testing.simulation.plot import Plot, draw_plot
from starburst_executor.testing.simulation.weather import Weather
from tests.support.mutations import Patch, assert_found


def busy(seed: int) -> Plot:
    """A seed's plot with clients that submit the same calls, and are killed while they do."""
    plot = replace(draw_plot(Lots(seed).fork()), is_detached=True, absolute_timeout=None, n_once=15, n_clients=3)
    return replace(
        plot, latency_s=0.3, storm_s=20.0, weather=Weather(slow=0.02, lost=0.02, kill=0.01), tasks=plot.tasks[:2]
    )


def skip_an_entry(patch: pytest.MonkeyPatch) -> None:
    """An entry that another client has written meanwhile is passed over."""
    find = OnceLog.find

    def forgetful(self: OnceLog, keys: Any) -> dict[bytes, int]:
        return {key: sequence for key, sequence in find(self, keys).items() if self.entry_of(sequence).number % 2 == 0}

    patch.setattr(OnceLog, "find", forgetful)


def leave_what_a_killed_client_left_out(patch: pytest.MonkeyPatch) -> None:
    """What an entry names counts as stored."""

    def listed(self: Once, _ordinal: int, refs: Sequence[StatusRef]) -> list[ListedStatus]:
        keys = self._session.keys
        return [ListedStatus(keys.status(ref), ref, SizeClass.SOME_PENDING, "", 0.0) for ref in refs]

    patch.setattr(Once, "_listed", listed)


def write_entries_over_each_other(patch: pytest.MonkeyPatch) -> None:
    """An entry is written whether or not its number is taken."""

    def append(self: OnceLog, entry: OnceEntry) -> bool:
        entry = replace(entry, number=self.n_entries, first=self.n_tasks, first_object=self.n_objects)
        entry = entry.sealed(self._session.sealer)
        self._session.store.put(
            self._session.keys.once(entry.number), records.encode(entry, self._session.clock.new_id())
        )
        self._add(entry)
        return True

    patch.setattr(OnceLog, "append", append)


def open_no_epochs(patch: pytest.MonkeyPatch) -> None:
    """Status objects are stored where no worker looks."""
    patch.setattr(once, "open_epoch", lambda *_: None)


def forget_for_what_a_call_waits(patch: pytest.MonkeyPatch) -> None:
    """A call with the result of another task counts as one that may run."""
    patch.setattr(once_statuses, "_upstream_in", lambda *_: ())


MUTATIONS: dict[Patch, tuple[int, str]] = {
    skip_an_entry: (30, "one submit became two tasks"),
    leave_what_a_killed_client_left_out: (30, "is not in the store"),
    write_entries_over_each_other: (30, "written once was changed|replaced by another"),
    open_no_epochs: (10, "in no open epoch"),
    forget_for_what_a_call_waits: (10, "does not wait for a result"),
}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_bug_is_found(mutation: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    n_seeds, words = MUTATIONS[mutation]
    assert_found(mutation, monkeypatch, n_seeds=n_seeds, words=words, plot_of=busy)


def test_clients_that_submit_the_same_and_are_killed_break_no_promise() -> None:
    n_created = 0
    for seed in range(12):
        report = simulate(seed, busy(seed))
        assert not report.violations, report.story()
        n_created += sum(
            "/once/" in what and "create " in what and what.endswith(": ok") for _, _, what in report.history
        )
    assert n_created > 12
