"""What the answers of RunTask mean: which ECS tasks were started, and whether an error is final or temporary.

Pure: no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from starburst_executor.aws.clients import error_code, is_throttled, is_unclear, meaning
from starburst_executor.errors import LaunchError, NoCapacity, QuotaExceeded, StarburstError
from starburst_executor.launch.aws.remote import with_advice

__all__ = ["Answer", "failure_error", "is_no_room", "launch_error", "read_answer", "read_refusal", "task_ids"]

# Each resource by its name: a refusal by IAM names the "resource:" that it is about. `agent`: an instance whose ECS agent is
# disconnected for the moment. "provisioning capacity limit": at most 500 ECS tasks of a capacity provider with managed
# scaling may wait for an instance, which is no quota of the account.
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/api_failures_messages.html
# https://github.com/aws/aws-sdk-ruby/issues/3047
_NO_ROOM = re.compile(
    r"capacity is unavailable|resource:(?:cpu|memory|eni|gpu|port|fpga|accelerator)|no container instances|unable to place|"
    r"insufficient|provisioning capacity limit|(?:^|: )agent(?:$|[:,])"
)
_QUOTA = ("reached the limit", "limit exceeded", "quota", "above your limit")


class Answer(NamedTuple):
    """The result of a RunTask call.

    `error` is why fewer tasks than requested were started; NoCapacity is temporary, all other errors are final.
    `is_unclear`: the call may have started tasks and must be repeated unchanged. `is_throttled`: it started none and may
    be repeated later.
    """

    ids: tuple[str, ...] = ()
    error: StarburstError | None = None
    is_unclear: bool = False
    is_throttled: bool = False


def read_answer(answer: Mapping[str, Any], provider: str) -> Answer:
    """Return what an answer of ECS means."""
    errors = [failure_error(failure, provider) for failure in answer.get("failures", [])]
    # Final errors before temporary ones.
    errors.sort(key=lambda error: isinstance(error, NoCapacity))
    return Answer(task_ids(task["taskArn"] for task in answer.get("tasks", [])), errors[0] if errors else None)


def read_refusal(error: Exception) -> Answer:
    """Return what an error of a call means."""
    if error_code(error) == "ConflictException":
        # A client with another version or other options made this call before: these are the tasks of that call.
        return Answer(task_ids(getattr(error, "response", {}).get("resourceIds", [])))
    text = str(error).lower()
    failure = meaning(error, "starting ECS tasks")
    if is_throttled(error):
        return Answer(error=failure, is_throttled=True)
    if is_unclear(error):
        return Answer(error=failure, is_unclear=True)
    if is_no_room(_words_of(error)):
        return Answer(error=NoCapacity(str(failure)))
    if any(words in text for words in _QUOTA):
        return Answer(error=QuotaExceeded(f"{failure}; see `starburst quota`"))
    return Answer(error=with_advice(failure))


def failure_error(failure: Mapping[str, Any], provider: str) -> LaunchError:
    """Return the error for an entry of `failures[]`."""
    reason, detail = str(failure.get("reason", "")), str(failure.get("detail", ""))
    message = f"{reason}: {detail}" if detail else reason
    text = message.lower()
    if is_no_room(text):
        return NoCapacity(
            f"ECS answered for {provider}: {message}; try again later, another size or architecture, or On-Demand"
        )
    if any(words in text for words in _QUOTA):
        return QuotaExceeded(f"ECS answered for {provider}: {message}; see `starburst quota`")
    return LaunchError(f"ECS answered for {provider}: {message}")


def is_no_room(text: str) -> bool:
    """Whether a message of ECS says that there is no capacity at the moment."""
    return _NO_ROOM.search(text.lower()) is not None


def launch_error(error: StarburstError) -> LaunchError:
    """Return the error in a class that says that workers could not be started."""
    return error if isinstance(error, LaunchError) else LaunchError(str(error))


def task_ids(arns: Iterable[object]) -> tuple[str, ...]:
    """Return the ids of ECS tasks from their ARNs."""
    return tuple(str(arn).rpartition("/")[2] for arn in arns)


def _words_of(error: Exception) -> str:
    """Return AWS's message, without the text that the SDK adds."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Message", "")) or str(error)
