"""`starburst doctor`: checks whether the account has all that workers on AWS need, and gives advice where it does not.

Each check (`checks.py`) examines one part; no check changes the account, except for one object that is deleted again. A
part that the credentials may not read is neither right nor wrong, but unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from starburst_executor.aws.checks import CHECKS, Patient, Wrong
from starburst_executor.aws.clients import FOREIGN, Clients, error_code, is_denied, meaning
from starburst_executor.aws.stack.outputs import Stack, find_stack, read_stack
from starburst_executor.clock import Clock
from starburst_executor.errors import StarburstError
from starburst_executor.version import __version__

__all__ = ["RIGHT", "UNKNOWN", "WRONG", "Finding", "examine"]

RIGHT, WRONG, UNKNOWN = "right", "wrong", "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check.

    Attributes:
        check: The check's name.
        verdict: `right`, `wrong` or `unknown`.
        words: The state, or the problem.
        todo: What to do about it; empty if nothing.
    """

    check: str
    verdict: str
    words: str
    todo: str = ""


def examine(clients: Clients, clock: Clock) -> Iterator[Finding]:
    """Run all checks and yield each finding. Without credentials or a stack, the other checks are skipped.

    AWS: about 25 requests; S3: 7 more, and 10 for a bucket in S3 Express One Zone.
    """
    yield (identity := _checked("identity", lambda: _identity(clients)))
    if identity.verdict == WRONG:
        return
    stacks: list[Stack] = []
    yield (whole := _checked("stack", lambda: _stack(clients, stacks)))
    if whole.verdict == WRONG or not stacks:
        return
    patient = Patient(clients, clock, stacks[0])
    for name, check in CHECKS.items():
        yield _checked(name, partial(check, patient))


def _checked(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, RIGHT, check())
    except Wrong as error:
        return Finding(name, WRONG, error.words, error.todo)
    except FOREIGN as error:
        if is_denied(error):
            return Finding(name, UNKNOWN, "these credentials may not read it", f"{error_code(error)}: {error}")
        return Finding(name, WRONG, str(meaning(error, f"checking the {name}")))
    except StarburstError as error:
        return Finding(name, WRONG, str(error))


def _identity(clients: Clients) -> str:
    return f"{clients.get('sts').get_caller_identity()['Arn']} in {clients.region}"


def _stack(clients: Clients, stacks: list[Stack]) -> str:
    stack = read_stack(clients)
    stacks.append(stack)
    record = find_stack(clients) or {}
    status = str(record.get("StackStatus", ""))
    if stack.version != __version__:
        made_by = f"version {stack.version}" if stack.version else "an older version"
        raise Wrong(f"{stack.name} was made by {made_by}, this is {__version__}", "run `starburst setup` to update it")
    return f"{stack.name}: {status.lower().replace('_', ' ')}"
