"""Large arguments end to end on both stores: what is shared goes up once, and every task has a copy of its own."""

from __future__ import annotations

from starburst_executor import DetachedExecutor, Local, StarburstExecutor
from tests.sessions import timings_for
from tests.support.inside import session_of

MB = 2**20
N = 60


def change(number: int, table: bytearray, names: list[str]) -> tuple[int, int, int]:
    seen = number, table[0], len(names)
    table[0] += 1
    names.append("one more")
    return seen


def test_what_all_calls_share_goes_up_once_and_is_changed_by_none(store_url: str) -> None:
    table, names = bytearray(MB), [f"name {i}" for i in range(20_000)]
    with StarburstExecutor(
        launcher=Local(agents=2), workers=2, store=store_url, timings=timings_for(store_url)
    ) as executor:
        futures = [executor.submit(change, i, table, names) for i in range(N)]
        assert [future.result() for future in futures] == [(i, 0, 20_000) for i in range(N)]
        session = session_of(executor)
        stored = session.store.list(f"{session.keys.folder}calls/")
        # Far from here the workers may need this module as well.
        code = sum(line.size for line in session.store.list("code/"))
        sent = session.store.requests.snapshot()["bytes_out"] - code
    assert len(stored) == 1
    assert MB < stored[0].size < 1.5 * MB
    assert sent < 1.7 * MB


def test_what_changes_between_submits_is_sent_as_it_was(store_url: str) -> None:
    table = bytearray(MB)
    with StarburstExecutor(workers=1, store=store_url, timings=timings_for(store_url)) as executor:
        futures = []
        for i in range(5):
            table[0] = i
            futures.append(executor.submit(change, i, table, []))
        assert [future.result() for future in futures] == [(i, i, 0) for i in range(5)]


def test_a_failed_task_and_another_client_find_what_was_stored(store_url: str) -> None:
    shared = b"1" * MB
    first = DetachedExecutor(workers=1, store=store_url, timings=timings_for(store_url))
    with first:
        failed = first.submit(divide, shared, 0)
        assert isinstance(failed.exception(), ZeroDivisionError)
        first.submit(divide, shared, 2).result()
        key = first.key
    with DetachedExecutor.reattach(first.url, key=key) as second:
        second.retry_failed()
        (again,) = [future for future in second.futures if future.index == 0]
        assert isinstance(again.exception(), ZeroDivisionError)
        assert second.submit(divide, shared, 4).result() == MB / 4
        second.cleanup(force=True)


def divide(data: bytes, by: int) -> float:
    return len(data) / by
