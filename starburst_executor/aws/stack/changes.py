"""A CloudFormation stack is made, changed or deleted, and how that goes is told while it goes.

Guarantee: whatever state an earlier attempt left the stack in, interrupted or failed, the next one starts from there:
what is under way is waited for, what was rolled back whole is removed first.

    no stack, REVIEW_IN_PROGRESS          make it
    …_IN_PROGRESS                         wait, then as below
    ROLLBACK_…, CREATE_FAILED, DELETE_…   delete, then make it: nothing in it was ever used
    …_COMPLETE                            change it
    UPDATE_ROLLBACK_FAILED                an error: a person has to say what to skip
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starburst_executor.aws.clients import FOREIGN, Clients, error_code, meaning
from starburst_executor.aws.stack.causes import advice, first_cause
from starburst_executor.aws.stack.outputs import find_stack
from starburst_executor.clock import Clock
from starburst_executor.errors import LaunchError

__all__ = ["Change", "Changes"]

_POLL_S = 3.0
_BEGIN_S = 60.0
_NEVER_USED = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")
_GONE = "DELETE_COMPLETE"


@dataclass(frozen=True, slots=True)
class Change:
    """One resource that a change set would change: `Add`, `Modify` or `Remove`, its name, its type; whether it is replaced."""

    action: str
    resource: str
    kind: str
    replaced: bool

    @property
    def is_lost(self) -> bool:
        """Whether what is there now goes away."""
        return self.replaced or self.action == "Remove"

    def __str__(self) -> str:
        return f"{self.action.lower():<8} {self.resource:<26} {self.kind}{' (replaced)' if self.replaced else ''}"


class Changes:
    """Makes, changes and deletes one stack.

    Args:
        say: Is told each line of progress.
    """

    def __init__(self, clients: Clients, clock: Clock, say: Callable[[str], None]) -> None:
        self._clients = clients
        self._clock = clock
        self._say = say
        self._name = clients.settings.stack
        self._never = threading.Event()

    @property
    def _cloudformation(self) -> Any:
        return self._clients.get("cloudformation")

    # --- make, change -------------------------------------------------------------------------------------------------

    def propose(self, template: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> list[Change] | None:
        """Make a change set, which changes nothing yet; the resources that it would change, or None if nothing differs.

        Args:
            parameters: Those to set; of a stack that exists the others keep their values.

        Raises: LaunchError, ConfigError.
        """
        found = self._settled()
        kept = [one["ParameterKey"] for one in (found or {}).get("Parameters", [])]
        try:
            self._cloudformation.create_change_set(
                StackName=self._name,
                ChangeSetName=self._change_set,
                ChangeSetType="CREATE" if found is None else "UPDATE",
                TemplateBody=template,
                Parameters=[
                    *({"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()),
                    *({"ParameterKey": key, "UsePreviousValue": True} for key in kept if key not in parameters),
                ],
                # Roles have names of ours where a prefix for them is given.
                Capabilities=["CAPABILITY_NAMED_IAM"],
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )
            return self._proposed()
        except FOREIGN as error:
            raise self._failed(error, "proposing changes to") from error

    def apply(self) -> None:
        """Carry out the change set, and return when that is done. Raises: LaunchError with the first cause."""
        before = self._newest_event()
        try:
            self._cloudformation.execute_change_set(StackName=self._name, ChangeSetName=self._change_set)
        except FOREIGN as error:
            raise self._failed(error, "changing") from error
        self._follow(before, wanted=("CREATE_COMPLETE", "UPDATE_COMPLETE"))

    def discard(self) -> None:
        """Drop the change set, and the empty stack that it was for if there was none."""
        found = find_stack(self._clients)
        try:
            if found is not None and found["StackStatus"] == "REVIEW_IN_PROGRESS":
                self._cloudformation.delete_stack(StackName=self._name)
            elif found is not None:
                self._cloudformation.delete_change_set(StackName=self._name, ChangeSetName=self._change_set)
        except FOREIGN as error:
            raise self._failed(error, "dropping the proposed changes to") from error

    @property
    def _change_set(self) -> str:
        # One name: whoever proposes anew replaces what an interrupted attempt left behind.
        return f"{self._name}-setup"

    def _settled(self) -> dict[str, Any] | None:
        """The stack in a state that it can be changed from; None where it is to be made."""
        found = find_stack(self._clients)
        status = "" if found is None else str(found["StackStatus"])
        if found is not None and status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
            self._say(f"the stack is busy ({status}): waiting")
            self._follow(self._newest_event(), wanted=None)
            found = find_stack(self._clients)
            status = "" if found is None else str(found["StackStatus"])
        if status == "UPDATE_ROLLBACK_FAILED":
            raise LaunchError(
                f"stack {self._name!r} cannot be changed before its last roll back is continued: see which resource is stuck "
                f"and type `aws cloudformation continue-update-rollback --stack-name {self._name}`: status={status}"
            )
        if status in _NEVER_USED:
            self._say(f"removing what an earlier attempt left ({status})")
            self.delete()
            return None
        if status == "REVIEW_IN_PROGRESS":
            self._drop_old_change_set()
            return None
        if found is not None:
            self._drop_old_change_set()
        return found

    def _drop_old_change_set(self) -> None:
        try:
            self._cloudformation.describe_change_set(StackName=self._name, ChangeSetName=self._change_set)
            self._cloudformation.delete_change_set(StackName=self._name, ChangeSetName=self._change_set)
        except FOREIGN as error:
            if error_code(error) not in ("ChangeSetNotFound", "ChangeSetNotFoundException", "ValidationError"):
                raise self._failed(error, "dropping what was proposed earlier for") from error

    def _proposed(self) -> list[Change] | None:
        while True:
            asked = {"StackName": self._name, "ChangeSetName": self._change_set}
            answer = self._cloudformation.describe_change_set(**asked)
            if answer["Status"] not in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
                break
            self._clock.wait(self._never, _POLL_S)
        reason = str(answer.get("StatusReason", ""))
        if answer["Status"] == "FAILED":
            if "didn't contain changes" in reason or "No updates are to be performed" in reason:
                return None
            raise LaunchError(f"CloudFormation refused the changes: {reason}; {advice(reason)}")
        changes = list(answer.get("Changes", []))
        while answer.get("NextToken"):
            answer = self._cloudformation.describe_change_set(**asked, NextToken=answer["NextToken"])
            changes += answer.get("Changes", [])
        return [_change(one["ResourceChange"]) for one in changes]

    # --- delete -------------------------------------------------------------------------------------------------------

    def delete(self) -> None:
        """Delete the stack, and return when it is gone; at once if there is none. Raises: LaunchError with the first cause."""
        found = find_stack(self._clients)
        if found is None:
            return
        before = self._newest_event()
        try:
            # By its id: a stack that is gone can be asked about by that alone.
            self._cloudformation.delete_stack(StackName=found["StackId"])
        except FOREIGN as error:
            raise self._failed(error, "deleting") from error
        self._follow(before, wanted=(_GONE,), stack_id=str(found["StackId"]))

    # --- follow -------------------------------------------------------------------------------------------------------

    def _follow(self, before: str, *, wanted: tuple[str, ...] | None, stack_id: str = "") -> None:
        """Tell every event after `before` until the stack comes to rest; an error if not in one of the `wanted` states."""
        told: set[str] = {before}
        deadline = self._clock.monotonic() + _BEGIN_S
        stack_id = stack_id or str((find_stack(self._clients) or {}).get("StackId", self._name))
        while True:
            # The state first: events that came before it are then all there to be told.
            status = self._status(stack_id)
            fresh = self._events_since(stack_id, before)
            for event in reversed(fresh):
                if event["EventId"] not in told:
                    told.add(str(event["EventId"]))
                    self._tell(event)
            # Right after the call the stack may still show the state before it.
            has_begun = bool(fresh) or wanted is None or status == _GONE or self._clock.monotonic() >= deadline
            if has_begun and not status.endswith("_IN_PROGRESS"):
                break
            self._clock.wait(self._never, _POLL_S)
        if wanted is not None and status not in wanted:
            cause = first_cause(fresh)
            words = f"{cause}; {advice(cause.reason)}" if cause else "the events of the stack in the console say why"
            raise LaunchError(f"stack {self._name!r} in {self._clients.region}: {status}: {words}")

    def _status(self, stack_id: str) -> str:
        try:
            answer = self._cloudformation.describe_stacks(StackName=stack_id)
        except FOREIGN as error:
            if error_code(error) == "ValidationError" and "does not exist" in str(error):
                return _GONE
            raise self._failed(error, "watching") from error
        return str(answer["Stacks"][0]["StackStatus"])

    def _newest_event(self) -> str:
        return next((str(event["EventId"]) for event in self._events(self._name)), "")

    def _events_since(self, stack_id: str, before: str) -> list[dict[str, Any]]:
        """Newest first."""
        fresh = []
        for event in self._events(stack_id):
            if event["EventId"] == before:
                break
            fresh.append(event)
        return fresh

    def _events(self, stack_id: str) -> Iterator[dict[str, Any]]:
        try:
            for page in self._cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id):
                yield from page["StackEvents"]
        except FOREIGN as error:
            if error_code(error) != "ValidationError":
                raise self._failed(error, "reading the events of") from error

    def _tell(self, event: dict[str, Any]) -> None:
        status = str(event["ResourceStatus"])
        reason = str(event.get("ResourceStatusReason", "")) if status.endswith("_FAILED") else ""
        words = f"  {status.lower().replace('_', ' '):<28} {event['LogicalResourceId']}"
        self._say(f"{words}: {reason}" if reason else words)

    def _failed(self, error: Exception, doing: str) -> Exception:
        known = meaning(error, f"{doing} the stack {self._name!r} in {self._clients.region}")
        return type(known)(f"{known}; {advice(str(error))}") if isinstance(known, LaunchError) else known


def _change(record: dict[str, Any]) -> Change:
    return Change(
        action=str(record.get("Action", "Modify")),
        resource=str(record.get("LogicalResourceId", "")),
        kind=str(record.get("ResourceType", "")),
        replaced=record.get("Replacement") == "True",
    )
