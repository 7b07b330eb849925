"""`starburst doctor`: is everything there that workers on AWS need, and if not, what is to be done.

Each check (`checks.py`) looks at one thing; none changes anything but an object that it deletes again. What these
credentials may not look at is neither right nor wrong.
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
    """What one check found.

    Attributes:
        check: Its name.
        verdict: `right`, `wrong` or `unknown`.
        words: What is there, or what is wrong.
        todo: What to do about it; empty if nothing.
    """

    check: str
    verdict: str
    words: str
    todo: str = ""


def examine(clients: Clients, clock: Clock) -> Iterator[Finding]:
    """Every check's finding, as it is made. Without credentials or a stack the others are not tried.

    AWS: about 25 requests; S3: 7 more.
    """
    yield (who := _checked("identity", lambda: _identity(clients)))
    if who.verdict == WRONG:
        return
    found: list[Stack] = []
    yield (whole := _checked("stack", lambda: _stack(clients, found)))
    if whole.verdict == WRONG or not found:
        return
    patient = Patient(clients, clock, found[0])
    for name, check in CHECKS.items():
        yield _checked(name, partial(check, patient))


def _checked(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, RIGHT, check())
    except Wrong as error:
        return Finding(name, WRONG, error.words, error.todo)
    except FOREIGN as error:
        if is_denied(error):
            return Finding(name, UNKNOWN, "these credentials may not look", f"{error_code(error)}: {error}")
        return Finding(name, WRONG, str(meaning(error, f"checking the {name}")), "correct what it says")
    except StarburstError as error:
        return Finding(name, WRONG, str(error), "correct what it says")


def _identity(clients: Clients) -> str:
    return f"{clients.get('sts').get_caller_identity()['Arn']} in {clients.region}"


def _stack(clients: Clients, found: list[Stack]) -> str:
    stack = read_stack(clients)
    found.append(stack)
    record = find_stack(clients) or {}
    status = str(record.get("StackStatus", ""))
    if stack.version != __version__:
        made_by = f"version {stack.version}" if stack.version else "an older version"
        raise Wrong(f"{stack.name} was made by {made_by}, this is {__version__}", "run `starburst setup` to update it")
    return f"{stack.name}: {status.lower().replace('_', ' ')}"
