"""One poller for all tabs of a session: when it runs, what it asks of the store, and what it says when the store is silent."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack

import pytest
from starlette.concurrency import run_in_threadpool

from starburst_executor.client.finding import Visit
from starburst_executor.clock import SystemClock
from starburst_executor.dashboard.hub import Hub, Places
from starburst_executor.dashboard.polling import in_time
from starburst_executor.dashboard.query import Query
from starburst_executor.dashboard.tabs import Tab
from starburst_executor.dashboard.watch import MOST_REQUESTS, Watch
from starburst_executor.errors import SessionNotFound, StoreUnavailable
from starburst_executor.store.patient import PatientStore
from starburst_executor.testing import Fault
from tests.support.event_loops import run, until
from tests.support.session_rig import Rig


def watching(rig: Rig) -> Watch:
    session = rig.another()
    assert isinstance(session.store, PatientStore)
    session.manifest.refresh()
    return Watch(Visit(session, session.store), ExitStack(), rig.clock)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_EACH_S", "_QUIET_S", "_HIDDEN_S"):
        monkeypatch.setattr(f"starburst_executor.dashboard.watch.{name}", 0.01)


@pytest.mark.usefixtures("quick")
def test_the_poller_runs_only_while_a_tab_is_open() -> None:
    rig = Rig(clock=SystemClock())
    rig.submit(5)

    async def test() -> None:
        watch = watching(rig)
        snapshot = await watch.fresh()
        assert (snapshot.status.total, watch.is_polling) == (5, False)
        n_asked = len(rig.asked)
        await asyncio.sleep(0.05)
        assert len(rig.asked) == n_asked
        tabs = [Tab("session") for _ in range(5)]
        for tab in tabs:
            watch.join(tab)
        task = watch._poller.task
        await until(lambda: watch.snapshot is not None and watch.snapshot.number >= 4)
        assert watch._poller.task is task
        assert all(tab.woken.is_set() for tab in tabs)
        for tab in tabs:
            watch.leave(tab)
        await until(lambda: not watch.is_polling)
        n_asked = len(rig.asked)
        await asyncio.sleep(0.05)
        assert len(rig.asked) == n_asked
        watch.join(tabs[0])
        assert watch.is_polling
        await watch.close()
        assert tabs[0].is_closed
        assert not watch.is_polling

    run(test)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("was_read", [True, False])
def test_a_session_that_is_deleted_wakes_its_tabs_and_is_asked_for_no_more(*, was_read: bool) -> None:
    rig = Rig(clock=SystemClock())
    rig.submit(5)

    async def test() -> None:
        watch, tab = watching(rig), Tab("session")
        if was_read:
            await watch.fresh()
        rig.objects.delete([line.key for line in rig.objects.list("")])
        watch.join(tab)
        await until(lambda: watch.is_gone)
        await until(lambda: not watch.is_polling)
        assert tab.woken.is_set()
        n_asked = len(rig.asked)
        with pytest.raises(SessionNotFound, match="was deleted"):
            await watch.fresh()
        late = Tab("session")
        watch.join(late)
        assert late.woken.is_set()
        await until(lambda: not watch.is_polling)
        assert len(rig.asked) == n_asked
        await watch.close()

    run(test)


@pytest.mark.usefixtures("quick")
def test_an_update_asks_at_most_twenty_times_while_much_changes() -> None:
    rig = Rig(clock=SystemClock())
    keys = [rig.submit(10, first=10 * i) for i in range(80)]
    for number in range(30):
        rig.beat(f"w{number}")

    async def test() -> None:
        watch = watching(rig)
        await watch.fresh()
        for number in range(6):
            for key in keys[number * 12 : number * 12 + 12]:
                rig.end(key, claim_id=f"w{number}.{number}")
            for worker in range(30):
                rig.beat(f"w{worker}", number + 2)
            with rig.requests() as asked:
                snapshot = await watch.fresh(0.0)
            assert 0 < asked.total() <= MOST_REQUESTS
            assert snapshot.usage.n_requests == asked.total()
        # Nothing changes any more: what was not read is read by and by, then only what is conditional is asked.
        for _ in range(10):
            await watch.fresh(0.0)
        with rig.requests() as asked:
            await watch.fresh(0.0)
        assert asked.total() <= 5, asked  # the manifest, two listings, and up to two more samples of durations
        assert watch.index.unread() == []
        await watch.close()

    run(test)


def test_pages_share_a_look_and_many_at_once_make_one() -> None:
    rig = Rig(clock=SystemClock())
    rig.submit(5)

    async def test() -> None:
        watch = watching(rig)
        found = await asyncio.gather(*(watch.fresh() for _ in range(10)))
        assert {snapshot.number for snapshot in found} == {1}
        assert (await watch.page(Query())).total == 5
        await watch.close()

    run(test)


def test_a_store_that_is_silent_shows_as_a_problem_and_the_rest_stays() -> None:
    rig = Rig(clock=SystemClock())
    rig.submit(5)

    async def test() -> None:
        watch = watching(rig)
        watch.visit.store.patience_s = 0.05
        assert (await watch.fresh()).problem == ""
        rig.plan = lambda _: Fault.THROTTLED
        snapshot = await watch.fresh(0.0)
        assert snapshot.problem
        assert snapshot.status.total == 5
        rig.plan = lambda _: None
        assert (await watch.fresh(0.0)).problem == ""
        await watch.close()

    run(test)


def test_a_store_that_hangs_shows_as_a_problem_and_holds_up_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starburst_executor.dashboard.watch._PATIENCE_S", 0.05)
    monkeypatch.setattr("starburst_executor.dashboard.polling._MOST_S", 0.05)
    rig = Rig(clock=SystemClock())
    rig.submit(5)
    hangs = threading.Event()

    async def test() -> None:
        watch = watching(rig)
        assert (await watch.fresh()).problem == ""
        real = watch._looks.look

        def hanging() -> object:
            hangs.wait(60)
            return real()

        monkeypatch.setattr(watch._looks, "look", hanging)
        tab = Tab("session")
        watch.join(tab)
        found = await asyncio.gather(*(watch.fresh(0.0) for _ in range(5)))
        assert all("takes longer" in snapshot.problem and snapshot.status.total == 5 for snapshot in found)
        await until(tab.woken.is_set)  # open pages show it too
        with pytest.raises(StoreUnavailable):
            await in_time(run_in_threadpool(hangs.wait, 60))
        hangs.set()
        await until(lambda: watch.snapshot is not None and watch.snapshot.problem == "")
        watch.leave(tab)
        await watch.close()

    run(test)


def test_a_session_that_is_open_is_shown_while_another_one_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(clock=SystemClock())
    rig.submit(5)
    hangs = threading.Event()

    async def test() -> None:
        watch = watching(rig)
        hub = Hub(Places([], known={"20260401-slow": "x"}), rig.clock)
        hub._watches["20260401-known"] = watch
        monkeypatch.setattr(Watch, "open", lambda *_: hangs.wait(60))
        opening = asyncio.ensure_future(hub.watch("20260401-slow"))
        await asyncio.sleep(0.01)
        assert await asyncio.wait_for(hub.watch("20260401-known"), 5) is watch
        hangs.set()
        await asyncio.wait([opening])
        await watch.close()

    run(test)


def test_a_session_that_never_answered_is_an_error() -> None:
    rig = Rig(clock=SystemClock())

    async def test() -> None:
        watch = watching(rig)
        watch.visit.store.patience_s = 0.05
        rig.plan = lambda _: Fault.THROTTLED
        with pytest.raises(StoreUnavailable):
            await watch.fresh()
        await watch.close()

    run(test)


def test_a_look_that_its_page_no_longer_waits_for_meets_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(clock=SystemClock())
    looks = 0
    most = 0

    async def test() -> None:
        watch = watching(rig)
        real = watch._looks.look

        def slow() -> object:
            nonlocal looks, most
            looks += 1
            most = max(most, looks)
            SystemClock().wait(threading.Event(), 0.05)
            found = real()
            looks -= 1
            return found

        monkeypatch.setattr(watch._looks, "look", slow)
        for _ in range(4):
            asking = asyncio.ensure_future(watch.fresh(0.0))
            await asyncio.sleep(0.01)
            asking.cancel()
        await watch.fresh(0.0)
        assert most == 1
        await watch.close()

    run(test)


def test_the_pause_grows_when_tabs_are_hidden_nothing_changes_or_looks_are_slow() -> None:
    rig = Rig(clock=SystemClock())

    async def test() -> None:
        watch = watching(rig)
        await watch.fresh()
        assert watch.pause_s() == pytest.approx(2.0, abs=1.5)
        hidden, seen = Tab("session", is_hidden=True), Tab("session")
        watch._poller.tabs = {hidden}
        assert watch.pause_s() >= 15
        watch._poller.tabs = {hidden, seen}
        assert watch.pause_s() < 15
        watch._changed_at -= 60
        assert watch.pause_s() >= 10
        watch._rest_s = 40.0
        assert watch.pause_s() >= 40
        await watch.close()

    run(test)
