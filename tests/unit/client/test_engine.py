"""What runs behind an executor, with a store in memory and the test in the place of the workers."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from starburst_executor.client import exits
from starburst_executor.client.batches import Acknowledged
from starburst_executor.client.engine import Engine
from starburst_executor.errors import AccessDenied, ExecutorBroken, SessionExpired, SessionNotFound, StarburstError
from starburst_executor.protocol.records import SessionState
from starburst_executor.protocol.spans.record import State
from starburst_executor.testing import Fault
from tests.support.engine_rig import PATIENCE_S, Client
from tests.support.rows import parts_of


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


def ends(target: Any) -> bool:
    """Whether a call ends in time."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return not thread.is_alive()


def test_submits_are_stored_and_outcomes_come_back(client: Client) -> None:
    futures = [client.submit() for _ in range(50)]
    assert client.sending.flush(PATIENCE_S)
    client.work()
    assert [future.result(PATIENCE_S) for future in futures] == [8] * 50
    assert ends(client.engine.ending.wait_done)


class Interrupted:
    """What is being pickled as the user presses ^C."""

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt

    def __call__(self) -> None:
        """As a function that is being pickled."""


def test_an_interrupt_while_a_call_is_pickled_is_the_callers(client: Client) -> None:
    for function, args in ((pow, (Interrupted(), 2)), (Interrupted(), ())):
        with pytest.raises(KeyboardInterrupt):
            client.sending.submit(function, args, {})
    assert client.submit().index == 0, "nothing was queued"


def test_calls_that_cannot_be_pickled_fail_on_their_futures_and_hold_nothing_up(client: Client) -> None:
    """Their object has ended when it is written: nothing will ever change in it."""
    for _ in range(20):
        futures = [client.submit(pow, threading.Lock()), client.submit(i for i in "ab")]
        for future in futures:
            assert isinstance(future.exception(0), TypeError)
        assert client.sending.flush(PATIENCE_S)
    assert ends(client.engine.ending.wait_done)


def test_an_object_that_had_ended_before_its_futures_were_done_is_collected(client: Client) -> None:
    """The sender was faster than the thread that submits: a future is watched that is not completed yet."""
    engine = client.engine
    future = client.submit(pow, threading.Lock())
    assert client.sending.flush(PATIENCE_S)
    twin = engine._new_future(0, 0)
    (group,) = client.rig.another().statuses.all()
    assert client.rig.states(group.key) == [State.FAILED]
    sent: list[Acknowledged] = []
    client.sending._submitter._writer._acknowledged = sent.append  # type: ignore[union-attr]
    client.submit(pow, threading.Lock())
    assert client.sending.flush(PATIENCE_S)
    client.sending._on_acknowledged(Acknowledged(group.key, group.ref, sent[0].etag, parts_of([twin])))
    assert isinstance(twin.exception(PATIENCE_S), TypeError)
    assert str(twin.exception(0)) == str(future.exception(0))


def test_what_is_being_sent_is_cancelled_with_the_rest(client: Client) -> None:
    """It is not queued any more, and the store does not list it yet."""
    is_sent, go = threading.Event(), threading.Event()

    def plan(asked: Any) -> None:
        if asked.kind == "create" and "/status/" in asked.key:
            is_sent.set()
            assert go.wait(PATIENCE_S)

    client.rig.plan = plan
    future = client.submit()
    assert is_sent.wait(PATIENCE_S)
    n_cancelled: list[int] = []
    thread = threading.Thread(target=lambda: n_cancelled.append(client.engine.tasks.cancel()))
    thread.start()
    thread.join(0.1)
    go.set()
    thread.join(PATIENCE_S)
    assert n_cancelled == [1]
    assert future.cancelled()


def test_when_the_store_refuses_every_future_says_so(client: Client) -> None:
    early = client.submit()
    assert client.sending.flush(PATIENCE_S)
    client.rig.plan = lambda asked: Fault.DENIED if "/status/" in asked.key else None
    late = client.submit()
    for future in (early, late):
        assert isinstance(future.exception(PATIENCE_S), AccessDenied)
    with pytest.raises(AccessDenied):
        client.submit()
    assert ends(client.engine.ending.wait_done)


def test_what_is_acknowledged_after_all_was_given_up_is_told_too(client: Client) -> None:
    engine = client.engine
    future = client.submit()
    assert client.sending.flush(PATIENCE_S)
    engine._fail(StarburstError("no more"))
    assert isinstance(future.exception(PATIENCE_S), StarburstError)
    late = engine._new_future(0, 1)
    key = client.rig.submit(1, first=1)
    client.sending._on_acknowledged(Acknowledged(key, client.rig.keys.parse_status(key), "", parts_of([late])))
    assert isinstance(late.exception(0), StarburstError)
    assert ends(engine.ending.wait_done)


def test_a_deleted_session_is_told_on_every_future(client: Client) -> None:
    futures = [client.submit() for _ in range(3)]
    assert client.sending.flush(PATIENCE_S)
    other = client.rig.another()
    other.manifest.end(SessionState.DELETED, "")
    client.rig.objects.delete([line.key for line in client.rig.objects.list(client.rig.keys.statuses)])
    for future in futures:
        assert isinstance(future.exception(PATIENCE_S), SessionNotFound)
    assert ends(client.engine.ending.wait_done)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (SessionState.EXPIRED, SessionExpired),
        (SessionState.BROKEN, ExecutorBroken),
        (SessionState.TERMINATED, RuntimeError),
    ],
)
def test_a_session_that_is_over_takes_no_more_work(client: Client, state: SessionState, kind: type[Exception]) -> None:
    client.engine.session.manifest.end(state, "why")
    with pytest.raises(kind):
        client.submit()


def test_cancel_reaches_what_is_queued_and_what_is_pending_but_not_what_is_claimed(client: Client) -> None:
    engine = client.engine
    claimed, pending = client.submit(), client.submit()
    assert client.sending.flush(PATIENCE_S)
    (first, *rest) = client.rig.another().statuses.all()
    client.rig.claim(first.key, "w.1", 1)
    assert (len(rest), first.ref.n_tasks) in ((0, 2), (1, 1))
    assert engine.cancel([claimed, pending]) == 1
    assert pending.cancelled()
    assert not claimed.done()
    assert ends(lambda: engine.cancel([claimed]))


def test_nothing_is_submitted_after_the_end_began(client: Client) -> None:
    client.submit()
    client.engine.ending.begin()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        client.submit()
    with pytest.raises(RuntimeError):
        client.sending._submitter.add(None, "", b"", b"")  # type: ignore[union-attr, arg-type]


def test_an_attached_session_leaves_nothing_behind(client: Client) -> None:
    future = client.submit()
    assert client.sending.flush(PATIENCE_S)
    client.work()
    assert future.result(PATIENCE_S) == 8
    client.end()
    client.end()
    assert client.rig.objects.list("") == []
    assert not any(
        thread.name.startswith("starburst-") and thread.is_alive() for thread in client.engine.parts.threads._threads
    )


# --- whatever a thread raises -----------------------------------------------------------------------------------------


class Odd(BaseException):
    """What no `except Exception` catches."""


@pytest.mark.parametrize("kind", [RuntimeError, TypeError, SystemExit, Odd])
@pytest.mark.parametrize("where", ["/status/", "/clients/", "/workers/"])
def test_what_no_store_should_raise_ends_in_good_order(client: Client, where: str, kind: type[BaseException]) -> None:
    """As botocore does of a program that prints credentials: in each thread, and in those that end the session."""
    early = client.submit()
    assert client.sending.flush(PATIENCE_S)

    def plan(asked: Any) -> None:
        if where in asked.key:
            raise kind("credentials were refreshed, but they have expired")

    client.rig.plan = plan
    with contextlib.suppress(ExecutorBroken):
        client.submit()
    error = early.exception(PATIENCE_S)
    assert isinstance(error, ExecutorBroken)
    assert "they have expired" in str(error)
    threads = list(client.engine.parts.threads._threads)

    def end() -> None:
        # What is no `Exception` goes on to the caller, once everything is closed.
        with contextlib.suppress(SystemExit, Odd):
            client.end()

    assert ends(end)
    assert client.engine.parts.state.ended.is_set()
    assert not any(thread.is_alive() for thread in threads)


def test_a_callback_that_leaves_does_not_silence_the_client(client: Client) -> None:
    first = client.submit()
    first.add_done_callback(lambda _: sys.exit())
    second = client.submit()
    second.add_done_callback(lambda _: sys.exit())
    assert client.sending.flush(PATIENCE_S)
    client.work()
    assert (first.result(PATIENCE_S), second.result(PATIENCE_S)) == (8, 8)
    third = client.submit()
    assert client.sending.flush(PATIENCE_S)
    client.work()
    assert third.result(PATIENCE_S) == 8


def test_everything_is_let_go_whatever_of_it_fails(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(client.engine.parts.workforce, "let_go", lambda: 1 / 0)
    monkeypatch.setattr(client.rig.faulty, "close", lambda: closed.append("store"))
    assert ends(client.end)
    assert closed == ["store"]
    assert client.engine.parts.state.ended.is_set()


def test_one_engine_that_fails_at_the_interpreters_end_does_not_keep_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = [Client() for _ in range(3)]
    for one in clients[:2]:
        monkeypatch.setattr(one.engine, "flush", lambda: 1 / 0)
        monkeypatch.setattr(one.engine.ending, "wait_done", lambda: sys.exit("no"))
    monkeypatch.setattr(Engine, "all_here", staticmethod(lambda: [one.engine for one in clients]))
    exits._end_all()
    assert clients[2].engine.parts.state.ended.is_set()
    for one in clients[:2]:
        one.engine.ending.end_session()


def test_partials_and_lambdas_cost_the_requests_of_plain_calls() -> None:
    made: dict[str, Callable[[int], tuple[Any, ...]]] = {
        "plain": lambda i: (pow, 2, i),
        "partial": lambda i: (functools.partial(pow, 2), i),
        "partial of all": lambda i: (functools.partial(pow, 2, i),),
        "lambda": lambda i: (lambda x, i=i: x**i, 2),
    }
    counts: dict[str, int] = {}
    for name, call in made.items():
        client = Client()
        for i in range(200):
            client.sending.submit(call(i)[0], call(i)[1:], {})
        assert client.sending.flush(PATIENCE_S)
        counts[name] = len(list(client.rig.objects.list(client.rig.keys.function(""))))
        for future in client.engine.parts.futures.unfinished():
            future.mark_cancelled()
        client.engine.ending.begin()
        client.engine.ending.end_session()
    assert counts["plain"] == counts["partial"] == counts["partial of all"] <= 2
    assert counts["lambda"] <= counts["plain"] + 3
