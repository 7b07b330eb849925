"""The list of sessions, kept up to date: what it asks of the store, whose turn it is, and when it stops."""

from __future__ import annotations

import asyncio

import pytest

from starburst_executor.clock import SystemClock
from starburst_executor.dashboard.hub import Places
from starburst_executor.dashboard.lister import Lister
from starburst_executor.dashboard.sessions import MOST_REQUESTS, PAGE, Sessions
from starburst_executor.dashboard.tabs import Tab
from starburst_executor.dashboard.views import part
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.records import (
    DETACHED,
    Manifest,
    SessionState,
    Submitter,
    WorkerBeat,
    WorkerState,
    encode,
)
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans import encoding
from starburst_executor.session.manifest import new_token
from starburst_executor.session.store import SessionStore
from starburst_executor.store.open import register_scheme
from tests.support.event_loops import run, until
from tests.support.session_rig import KEY, Rig
from tests.support.spans import ended, pending

STORE = "listed://somewhere"


class Stored:
    """Many sessions in one store, each with a task and some workers."""

    def __init__(self, n_sessions: int) -> None:
        self.rig = Rig(clock=SystemClock())
        self.rig.objects.delete([line.key for line in self.rig.objects.list("")])
        register_scheme("listed", lambda _: self.rig.faulty)
        self.sessions = [self._session(f"2026-{i:03}") for i in range(n_sessions)]
        self.places = Places([STORE], is_given=True)
        self.read = Sessions(self.places, self.rig.clock)
        self.rig.asked.clear()

    def _session(self, session_id: str) -> SessionStore:
        rig, sealer = self.rig, Sealer(KEY, session_id)
        session = SessionStore(rig.objects, session_id, sealer, rig.clock)
        session.manifest.create(
            Manifest(
                session_id,
                created_at=rig.clock.now(),
                python="3.11",
                library="0",
                token=new_token(sealer),
                kind=DETACHED,
                slots=1,
                timings=rig.timings,
                submitters=(Submitter("c0", 1, (0,)),),
            )
        )
        for i in range(12):
            beat = WorkerBeat(f"w{i}", 1, WorkerState.IDLE, 1, 0.0, rig.clock.now())
            rig.objects.put(session.keys.worker(f"w{i}"), encode(beat, rig.clock.new_id()))
        self.submit(session, 0)
        return session

    def submit(self, session: SessionStore, first: int) -> None:
        record = pending(session.sealer, [b""], first=first, digest="0" * 32)
        self.rig.objects.create(
            session.keys.status(StatusRef(0, first, 1, 0)), encoding.encode(record, self.rig.clock.new_id())
        )


def test_an_update_asks_at_most_twenty_times_and_each_session_has_its_turn() -> None:
    stored = Stored(PAGE + 3)
    found = stored.read.page()
    assert (len(found.lines), found.total, found.n_requests) == (PAGE, PAGE + 3, len(stored.rig.asked))
    assert found.n_requests > 10 * PAGE  # the first answer reads beats too
    usage = Lister(stored.read, SystemClock()).usage(found)
    assert usage.per_s * usage.each_s == pytest.approx(MOST_REQUESTS)  # which is not repeated
    for session in stored.sessions:
        stored.submit(session, 1)
    n_updates = 0
    while any(line.n_tasks != 2 for line in found.lines):
        stored.rig.asked.clear()
        found = stored.read.page(whole=False)
        assert 0 < found.n_requests == len(stored.rig.asked) <= MOST_REQUESTS
        n_updates += 1
    assert n_updates <= PAGE


def test_ended_tasks_of_an_object_with_others_count() -> None:
    stored = Stored(1)
    rig = Rig(clock=SystemClock())
    register_scheme("listed", lambda _: rig.faulty)
    key = rig.submit(10)
    rig.claim(key, "w0.1", at_most=4)
    body = outcomes.dump_value(8)
    rig.write(key, lambda current: ended(rig.sealer, current, "w0.1", body, 1000.0))
    (line,) = stored.read.page().lines
    assert (line.n_ended, line.n_tasks, line.is_exact) == (4, 10, True)


def test_a_new_session_and_an_end_are_in_the_next_updates() -> None:
    stored = Stored(3)
    stored.read.page()
    stored._session("2026-900")
    stored.sessions[1].manifest.end(SessionState.TERMINATED, "")
    found = stored.read.page(whole=False)
    assert [line.id for line in found.lines] == ["2026-900", "2026-002", "2026-001", "2026-000"]
    assert (found.lines[0].state, found.lines[0].n_tasks) == ("open", 1)
    for _ in range(4):
        found = stored.read.page(whole=False)
    assert found.lines[2].state == "terminated"
    # What cannot change any more is not read again.
    stored.rig.asked.clear()
    for _ in range(4):
        stored.read.page(whole=False)
    assert not [asked for asked in stored.rig.asked if "2026-001" in asked.key]


def test_a_session_that_was_deleted_is_not_in_the_next_update() -> None:
    """Also one that was named or opened before, which is known without the listing."""
    stored = Stored(3)
    for session in stored.sessions[:2]:
        stored.places.known[session.session_id] = f"{STORE}/{session.session_id}"
    stored.places.known["2026-elsewhere"] = "listed://elsewhere/2026-elsewhere"
    assert len(stored.read.page().lines) == 4
    keys = [line.key for line in stored.rig.objects.list("") if "2026-001" in line.key]
    stored.rig.objects.delete(keys)
    found = stored.read.page(whole=False)
    assert [line.id for line in found.lines] == ["2026-elsewhere", "2026-002", "2026-000"]
    assert (found.total, found.n_elsewhere) == (3, 1)
    assert part("list_total", found, [STORE]) == f"2 in {STORE}, 1 of yours elsewhere"


def test_it_polls_only_while_a_tab_is_open_and_each_tab_gets_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starburst_executor.dashboard.lister._EACH_S", 0.01)
    stored = Stored(PAGE + 2)

    async def test() -> None:
        lister = Lister(stored.read, stored.rig.clock)
        first = await lister.page("")
        assert (lister.is_polling, lister.pages) == (False, {"": first})
        tabs = [Tab("sessions", subject=after) for after in ("", "", first.after or "")]
        for tab in tabs:
            lister.join(tab)
        for session in stored.sessions:
            stored.submit(session, 1)
        await until(lambda: all(tab.woken.is_set() for tab in tabs))
        await until(lambda: {line.n_tasks for found in lister.pages.values() for line in found.lines} == {2})
        assert [len(lister.pages[tab.subject].lines) for tab in tabs] == [PAGE, PAGE, 2]
        assert lister.usage(lister.pages[""]).n_requests <= MOST_REQUESTS
        for tab in tabs:
            lister.leave(tab)
        await until(lambda: not lister.is_polling)
        n_asked = len(stored.rig.asked)
        await asyncio.sleep(0.05)
        assert len(stored.rig.asked) == n_asked
        await lister.close()

    run(test)
