"""A newcomer's way from an empty account to fifty workers and back, by the commands and programs that they would type.

`make test-emulated` runs it. Rights are checked: after setup all is done as a user with the stack's policy and no other.
What MiniStack cannot do, Batch above all, is in docs/explanation/tested.md.
"""

from __future__ import annotations

import json

import pytest

from tests.emulated.account import STEP_S, emulated_account
from tests.sessions import wait_until

pytestmark = [pytest.mark.emulated, pytest.mark.timeout(1500)]

N_WORKERS = 50
# Checks of `starburst doctor` that the emulator cannot pass: it drops lifecycle rules.
KNOWN_WRONG = {"bucket"}

# Each look asks the emulator and the machine.
ASKS_EVERY_S = 0.3

RUN = f"""
import time
from starburst_executor import StarburstExecutor

def square(x):
    time.sleep(0.5)
    return x * x

if __name__ == "__main__":
    with StarburstExecutor(workers={N_WORKERS}, launcher="fargate-spot") as ex:
        print(sum(ex.map(square, range(30 * {N_WORKERS}))), flush=True)
"""

DETACHED = """
import signal, sys, time
from starburst_executor import DetachedExecutor

def slow(x):
    print("task", x, flush=True)
    time.sleep(0.5)
    return x + 1

if __name__ == "__main__":
    if sys.argv[1] == "begin":
        ex = DetachedExecutor(workers=2, launcher="fargate-spot")
        futures = [ex.submit(slow, x) for x in range(40)]
        ex.flush()
        futures[0].result(timeout=300)
        print(ex.id, flush=True)
        signal.pause()
    else:
        ex = DetachedExecutor.reattach(sys.argv[1])
        print(sum(future.result(timeout=300) for future in ex.futures))
        if sys.argv[2] == "end":
            ex.cleanup(force=True)
        else:
            ex.detach()
"""


def test_from_an_empty_account_to_fifty_workers_and_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("newcomer")
    with emulated_account(home, checks_rights=True) as account:
        (account.project / "run.py").write_text(RUN)
        (account.project / "detached.py").write_text(DETACHED)
        before = account.resources()

        account.starburst("setup", "--batch", "--ec2", as_root=True)
        account.become_user()
        (config,) = home.glob(".config/*/config.toml")
        assert 'stack = "starburst"' in config.read_text()

        findings = json.loads(account.python("-m", "starburst_executor.cli", "doctor", "--json", status=1))
        assert {one["check"] for one in findings if one["verdict"] == "wrong"} == KNOWN_WRONG, findings
        assert [one for one in findings if one["verdict"] == "unknown"] == [], "the policy for users covers every check"

        uri = account.starburst("image", "build", "run.py", "--engine", "codebuild")
        assert account.starburst("image", "build", "detached.py", "--engine", "codebuild") == uri
        assert len(account.client("codebuild").list_builds()["ids"]) == 1

        run = account.begin("run.py")
        wait_until(lambda: len(account.containers()) >= N_WORKERS, STEP_S, every_s=ASKS_EVERY_S)
        for container in account.containers()[: N_WORKERS // 3]:
            account.take(container)
        said, _ = run.communicate(timeout=600)
        assert (run.returncode, said.strip()) == (0, str(sum(x * x for x in range(30 * N_WORKERS))))
        wait_until(lambda: not account.containers() and not account.running_tasks(), STEP_S, every_s=ASKS_EVERY_S)

        client = account.begin("detached.py", "begin")
        assert client.stdout is not None
        session = client.stdout.readline().strip()
        client.kill()
        assert account.python("detached.py", session, "stay") == str(sum(x + 1 for x in range(40)))
        assert session in account.starburst("sessions"), "the stack's bucket is looked into"
        assert "task 0" in account.starburst("logs", session)
        assert account.python("detached.py", session, "end") == str(sum(x + 1 for x in range(40)))
        wait_until(lambda: not account.containers() and not account.running_tasks(), STEP_S, every_s=ASKS_EVERY_S)

        made = account.resources()
        # With a choice, since the emulator takes a change of outputs alone for none.
        account.starburst("setup", "--log-days", "7", as_root=True, version="99.0.0")
        assert account.outputs()["Version"] == "99.0.0"
        assert account.resources() == made, "an upgrade replaces nothing"

        account.starburst("teardown", "--yes", as_root=True)
        assert account.resources() - before == set()
        assert "nothing to remove" in account.starburst("teardown", "--yes", status=4, as_root=True)
