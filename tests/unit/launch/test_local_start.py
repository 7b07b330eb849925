"""`Local` by itself: what it says of agents that cannot work, and of a fork server that cannot start or was killed."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from starburst_executor.errors import LaunchError
from starburst_executor.launch.base import Order
from starburst_executor.launch.local import fork_server
from starburst_executor.launch.local.launcher import Local, LocalLauncher
from tests.sessions import descendants, kill, wait_until

FORKS = pytest.mark.skipif(not fork_server.FORKS, reason="agents are interpreters of their own here")
SESSION = "20200101-000000-aaaaaaaa"


@pytest.fixture
def order(tmp_path: Path) -> Order:
    """For a session that does not exist: its agents end at once, and say why."""
    return Order("launch", f"sqlite://{tmp_path}/sessions/{SESSION}", "ab" * 32, 3, detached=False)


@pytest.fixture
def local() -> Iterator[LocalLauncher]:
    launcher = Local(agents=3).open()
    before = set(descendants(os.getpid()))
    yield launcher
    launcher.resume("").let_go()
    # Nothing is left, no zombie either, but the `ps` that looks.
    wait_until(lambda: len(set(descendants(os.getpid())) - before) <= 1)


@pytest.mark.parametrize("forks", [pytest.param(True, marks=FORKS), False], ids=["forked", "interpreters"])
def test_agents_that_cannot_go_on_are_dead_with_their_status_and_words(
    local: LocalLauncher, order: Order, forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "FORKS", forks)
    handle = local.start(order).handle
    wait_until(lambda: len(local.resume(handle).deaths()) == 3)
    assert local.resume(handle).slots_alive() == 0
    for death in local.resume(handle).deaths():
        assert "exit status 3" in death.words
        assert "SessionNotFound" in death.words
        assert not death.was_killed
    # Another client saw no end of theirs, only what they left behind.
    assert not any(death.was_killed for death in Local().open().resume(handle).deaths())
    assert sorted(death.worker_id for death in Local().open().resume(handle).deaths()) == sorted(
        death.worker_id for death in local.resume(handle).deaths()
    )
    local.resume(handle).let_go()


@pytest.mark.parametrize("forks", [pytest.param(True, marks=FORKS), False], ids=["forked", "interpreters"])
def test_agents_that_ended_long_ago_are_forgotten_and_stay_dead(
    local: LocalLauncher, order: Order, forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "FORKS", forks)
    monkeypatch.setattr("starburst_executor.launch.local.agents._ENDED_KEPT", 2)
    handles = []
    for _ in range(3):
        handles.append(local.start(order).handle)
        wait_until(lambda: len(local.resume(handles[-1]).deaths()) == 3)
    assert len(local._agents._children) <= 2 + 3
    assert all(len(server._exit_codes) <= 2 + 3 for server in local._agents._servers.values())
    assert [len(local.resume(handle).deaths()) for handle in handles] == [3, 3, 3]
    assert not any(death.was_killed for handle in handles for death in local.resume(handle).deaths())
    for handle in handles:
        local.resume(handle).let_go()


def test_a_fork_server_that_cannot_start_says_why(
    local: LocalLauncher, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starburst_executor.launch.local.agents._START", "import sys; sys.exit('no such luck')")
    monkeypatch.setattr(fork_server, "FORKS", True)
    with pytest.raises(LaunchError, match=r"ended; exit status 1; no such luck"):
        local.start(order)


@FORKS
def test_a_fork_server_that_was_killed_is_replaced(local: LocalLauncher, order: Order) -> None:
    first = local.start(order).handle
    [server] = local._agents._servers.values()
    kill(server._process.pid)
    server._process.wait()
    second = local.start(order).handle
    [other] = local._agents._servers.values()
    assert other is not server
    wait_until(lambda: len(local.resume(first).deaths()) == len(local.resume(second).deaths()) == 3)
    for handle in (first, second):
        local.resume(handle).let_go()


@FORKS
def test_a_fork_server_that_is_killed_at_its_start_proves_nothing_and_another_one_starts_them(
    local: LocalLauncher, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # Before it has answered, each time.
        patch.setattr("starburst_executor.launch.local.agents._START", "import os; os.kill(os.getpid(), 9)")
        handle = ""
        for _ in range(4):
            started = local.start(order, handle)
            assert (started.n_slots, started.more_s is not None) == (0, True)
            assert "the process that forks workers has ended; exit status -9" in str(started.error)
            handle = started.handle
        assert started.more_s is not None
        assert started.more_s > 0.15
    done = local.start(order, handle)
    assert (done.n_slots, done.more_s, done.error) == (3, None, None)
    wait_until(lambda: len(local.resume(done.handle).deaths()) == 3)
    local.resume(done.handle).let_go()


@FORKS
def test_a_fork_server_that_is_killed_between_two_agents_leaves_the_first_in_the_handle(
    local: LocalLauncher, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, n_asked = fork_server.fork_wire.ask, [0]

    def ask_and_kill(*arguments: object) -> None:
        n_asked[0] += 1
        if n_asked[0] == 2:
            for server in local._agents._servers.values():
                kill(server._process.pid)
                server._process.wait()
        ask(*arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(fork_server.fork_wire, "ask", ask_and_kill)
    started = local.start(order)
    while started.more_s is not None:
        started = local.start(order, started.handle)
    assert started.n_slots == 3
    wait_until(lambda: len(local.resume(started.handle).deaths()) == 3)
    local.resume(started.handle).let_go()


@FORKS
def test_an_agent_that_is_killed_before_it_has_read_a_word_is_dead_and_not_an_error(
    local: LocalLauncher, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = fork_server.ForkServer.fork

    def fork_and_kill(self: fork_server.ForkServer, *arguments: object) -> fork_server.Forked:
        forked = fork(self, *arguments)  # type: ignore[arg-type]  # passed on
        kill(forked.pid)
        wait_until(lambda: forked.has_ended(closely=True))
        return forked

    monkeypatch.setattr(fork_server.ForkServer, "fork", fork_and_kill)
    handle = local.start(order).handle
    deaths = local.resume(handle).deaths()
    assert [(death.words, death.was_killed) for death in deaths] == [("exit status -9", True)] * 3
    local.resume(handle).let_go()


@FORKS
def test_what_the_system_refuses_half_way_leaves_a_handle_for_the_others(
    local: LocalLauncher, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork, n_forked = fork_server.ForkServer.fork, [0]

    def fork_two(self: fork_server.ForkServer, *arguments: object) -> fork_server.Forked:
        n_forked[0] += 1
        if n_forked[0] > 2:
            raise LaunchError("the system refused another process")
        return fork(self, *arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(fork_server.ForkServer, "fork", fork_two)
    handle = local.start(order).handle
    wait_until(lambda: len(local.resume(handle).deaths()) == 2)
    local.resume(handle).let_go()
    with pytest.raises(LaunchError, match="refused"):
        local.start(order)


@FORKS
def test_a_fork_server_that_is_stopped_does_not_stop_the_end(
    local: LocalLauncher, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[object] = []
    handle = local.start(order).handle
    [server] = local._agents._servers.values()
    kill(server._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(local._agents, "signal", lambda one, _number: killed.append(one))
    local.resume(handle).let_go()
    assert not killed  # as it would be at the end of a wait without an event
    assert not local._agents._servers


@FORKS
def test_those_that_were_stopped_at_once_are_known_to_be_dead(local: LocalLauncher, order: Order) -> None:
    """Whoever ends a session counts on it, instead of waiting until they are lost."""
    for _ in range(5):
        handle = local.start(order).handle
        local.resume(handle).kill()
        assert len(local.resume(handle).deaths()) == 3
        local.resume(handle).let_go()


@FORKS
def test_a_client_that_can_open_no_more_files_keeps_its_fork_server(
    local: LocalLauncher, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = local.start(order).handle
    servers = dict(local._agents._servers)

    def refuse(_fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(fork_server, "_duplicate", refuse)
        with pytest.raises(LaunchError, match="Too many open files"):
            local.start(order)
    second = local.start(order).handle
    assert local._agents._servers == servers
    for handle in (first, second):
        local.resume(handle).let_go()
