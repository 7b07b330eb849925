"""Several agents of one fork server, as real processes: who outlives whom, and what a new one inherits."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from starburst_executor import DetachedExecutor, Local, StarburstExecutor
from starburst_executor.launch.local import fork_server
from starburst_executor.launch.local.launcher import LocalLauncher
from tests.sessions import descendants, is_alive, kill, run_python, timings_for, wait_until, worker_pids
from tests.support.inside import key_of, parts_of
from tests.support.moto_server import ROOT

pytestmark = pytest.mark.skipif(not fork_server.FORKS, reason="agents are interpreters of their own here")
SQLITE = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


def agent_of_runner() -> int:
    """The agent's process id: the parent of this runner's parent."""
    with open(f"/proc/{os.getppid()}/stat", encoding="ascii") as file:
        return int(file.read().rpartition(")")[2].split()[1])


@pytest.fixture
def interpreters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to which every interpreter that starts from now on adds a line."""
    seen = tmp_path / "interpreters"
    (tmp_path / "sitecustomize.py").write_text(f"print('here', file=open({str(seen)!r}, 'a'))\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return seen


def session(store_url: str, n_agents: int) -> StarburstExecutor:
    return StarburstExecutor(
        workers=n_agents, store=store_url, timings=timings_for(store_url), launcher=Local(agents=n_agents)
    )


def server_pid(executor: StarburstExecutor) -> int:
    launcher = parts_of(executor).workforce._launcher
    assert isinstance(launcher, LocalLauncher)
    [server] = launcher._agents._servers.values()
    return server._process.pid


def held_by(pid: int) -> list[str]:
    """What its descriptors are."""
    held = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            held.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return held


def test_eight_agents_are_one_interpreter(store_url: str, interpreters: Path) -> None:
    with session(store_url, 8) as executor:
        assert executor.submit(pow, 2, 3).result(60) == 8
        wait_until(lambda: len(worker_pids(executor)) == 8)
        agents, server = worker_pids(executor), server_pid(executor)
        # The last one was forked a moment ago; what was sent with its order is closed then.
        wait_until(lambda: [os.getsid(pid) for pid in agents] == agents)
        wait_until(lambda: not any(held.startswith("pipe:") for held in held_by(server)))
        # A fork of a process with threads is not safe; and no connection may be shared by all.
        assert len(os.listdir(f"/proc/{server}/task")) == 1
        held = held_by(server)
        assert sum(name.startswith("socket:") for name in held) == 4  # the client's twice, and two for SIGCHLD
        assert not any("sessions" in name or name.startswith("pipe:") for name in held)
        # All of one session's keys, from a pipe alone.
        key = key_of(executor).hex().encode()
        for pid in [server, *agents]:
            assert key not in Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        kill(agents[3])
        wait_until(lambda: not is_alive(agents[3]))
        wait_until(lambda: executor.submit(pow, 2, 4).result(60) == 16 and len(worker_pids(executor)) == 8)
        assert set(agents) - set(worker_pids(executor)) == {agents[3]}
        assert interpreters.read_text().splitlines() == ["here"]
        everything = [server, *descendants(server)]
    wait_until(lambda: not any(map(is_alive, everything)))


def test_a_killed_client_takes_all_of_them_along(store_url: str) -> None:
    code = """
import os, signal, sys, time
from starburst_executor import Local, StarburstExecutor
from tests.sessions import descendants, timings_for, wait_until, worker_pids
executor = StarburstExecutor(workers=3, store=sys.argv[1], timings=timings_for(sys.argv[1]), launcher=Local(agents=3))
futures = [executor.submit(time.sleep, 600) for _ in range(3)]
wait_until(lambda: len(worker_pids(executor)) == 3 and all(future.running() for future in futures))
# The fork server; agent, nursery and runner of each. A task is claimed a moment before its runner is there.
wait_until(lambda: len(descendants(os.getpid())) >= 1 + 3 * 3)
print(*descendants(os.getpid()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    client = run_python(code, store_url)
    beneath = [int(pid) for pid in client.communicate(timeout=100)[0].split()]
    assert client.returncode == -signal.SIGKILL
    assert len(beneath) >= 1 + 3 * 3
    wait_until(lambda: not any(map(is_alive, beneath)))


def test_detached_agents_outlive_the_client_and_the_fork_server_does_not(store_url: str, tmp_path: Path) -> None:
    code = """
import os, signal, sys
from starburst_executor import DetachedExecutor, Local
from tests.sessions import timings_for, wait_until, worker_pids
from tests.support.inside import parts_of
def wait_for_file(path):
    import os, time
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.getppid()
executor = DetachedExecutor(workers=3, store=sys.argv[1], timings=timings_for(sys.argv[1]), launcher=Local(agents=3))
futures = [executor.submit(wait_for_file, sys.argv[2]) for _ in range(3)]
wait_until(lambda: len(worker_pids(executor)) == 3 and all(future.running() for future in futures))
[server] = parts_of(executor).workforce._launcher._agents._servers.values()
print(executor.url, server._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    go = tmp_path / "go"
    client = run_python(code, store_url, str(go))
    url, server = client.communicate(timeout=100)[0].split()
    wait_until(lambda: not is_alive(int(server)))
    executor = DetachedExecutor.reattach(url)
    agents = worker_pids(executor)
    go.touch()
    assert len({future.result() for future in executor.as_completed(60)}) == 3
    assert worker_pids(executor) == agents
    assert len(agents) == 3
    kill(agents[0])  # a later client on this machine sees it, although it is not the parent
    assert executor.submit(pow, 2, 3).result(60) == 8
    wait_until(lambda: agents[0] not in worker_pids(executor))
    executor.cleanup(force=True)
    wait_until(lambda: not any(map(is_alive, agents)))


@SQLITE
def test_a_killed_fork_server_takes_no_agent_along_and_is_replaced(store_url: str, interpreters: Path) -> None:
    with session(store_url, 2) as executor:
        first = {executor.submit(agent_of_runner).result(60) for _ in range(2)}
        wait_until(lambda: len(worker_pids(executor)) == 2)
        agents = worker_pids(executor)
        assert first <= set(agents)
        server = server_pid(executor)
        kill(server)
        wait_until(lambda: not is_alive(server))
        assert executor.submit(agent_of_runner).result(60) in agents
        assert worker_pids(executor) == agents
        kill(agents[0])
        kill(agents[1])
        assert executor.submit(agent_of_runner).result(60) not in agents
        assert server_pid(executor) != server
        assert interpreters.read_text().splitlines() == ["here"] * 2


@SQLITE
def test_an_agent_that_is_forked_later_inherits_what_the_client_has_by_then(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surroundings() -> tuple[str, str | None]:
        return os.getcwd(), os.environ.get("STARBURST_TEST_MARK")

    with session(store_url, 1) as executor:
        assert executor.submit(surroundings).result(60) == (os.getcwd(), None)
        [agent] = worker_pids(executor)
        server = server_pid(executor)
        monkeypatch.setenv("STARBURST_TEST_MARK", "new")
        monkeypatch.chdir(tmp_path)
        kill(agent)
        wait_until(lambda: not is_alive(agent))
        assert executor.submit(surroundings).result(60) == (str(tmp_path), "new")
        assert server_pid(executor) == server
