"""Creates, changes and deletes a CloudFormation stack, and reports the progress.

Guarantee: an attempt can continue from any state that an interrupted or failed attempt left: it waits for an operation in
progress, and removes a stack whose creation was rolled back.

    no stack, REVIEW_IN_PROGRESS          create it
    …_IN_PROGRESS                         wait, then as below
    ROLLBACK_…, CREATE_FAILED, DELETE_…   delete, then create it: none of its resources was ever used
    …_COMPLETE                            change it
    UPDATE_ROLLBACK_FAILED                an error: the user has to choose the resources to skip
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
    """A resource in a change set: the action (`Add`, `Modify`, `Remove`), its name, its type, and whether it is replaced."""

    action: str
    resource: str
    kind: str
    replaced: bool

    @property
    def is_lost(self) -> bool:
        """Whether the existing resource is removed."""
        return self.replaced or self.action == "Remove"

    def __str__(self) -> str:
        return f"{self.action.lower():<8} {self.resource:<26} {self.kind}{' (replaced)' if self.replaced else ''}"


class Changes:
    """Creates, changes and deletes one stack.

    Args:
        say: Called with each line of progress.
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

    # --- create, change -------------------------------------------------------------------------------------------------

    def propose(self, template: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> list[Change] | None:
        """Create a change set, without executing it; return the resources in it, or None if it has no changes.

        Args:
            parameters: The parameters to set; the others of an existing stack keep their values.

        Raises: LaunchError, ConfigError.
        """
        record = self._settled()
        kept = [parameter["ParameterKey"] for parameter in (record or {}).get("Parameters", [])]
        try:
            self._cloudformation.create_change_set(
                StackName=self._name,
                ChangeSetName=self._change_set,
                ChangeSetType="CREATE" if record is None else "UPDATE",
                TemplateBody=template,
                Parameters=[
                    *({"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()),
                    *({"ParameterKey": key, "UsePreviousValue": True} for key in kept if key not in parameters),
                ],
                # The stack names its roles itself if a prefix for their names is given.
                Capabilities=["CAPABILITY_NAMED_IAM"],
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )
            return self._proposed()
        except FOREIGN as error:
            raise self._failed(error, "proposing changes to") from error

    def apply(self) -> None:
        """Execute the change set, and return when it is complete. Raises: LaunchError with the first cause."""
        before = self._newest_event()
        try:
            self._cloudformation.execute_change_set(StackName=self._name, ChangeSetName=self._change_set)
        except FOREIGN as error:
            raise self._failed(error, "changing") from error
        self._follow(before, wanted=("CREATE_COMPLETE", "UPDATE_COMPLETE"))

    def discard(self) -> None:
        """Delete the change set, and the empty stack that was created for it."""
        record = find_stack(self._clients)
        try:
            if record is not None and record["StackStatus"] == "REVIEW_IN_PROGRESS":
                self._cloudformation.delete_stack(StackName=self._name)
            elif record is not None:
                self._cloudformation.delete_change_set(StackName=self._name, ChangeSetName=self._change_set)
        except FOREIGN as error:
            raise self._failed(error, "deleting the proposed changes to") from error

    @property
    def _change_set(self) -> str:
        # A constant name: a new proposal replaces the one that an interrupted attempt left.
        return f"{self._name}-setup"

    def _settled(self) -> dict[str, Any] | None:
        """Bring the stack into a state in which it can be changed, and return it; None if it must be created."""
        record = find_stack(self._clients)
        status = "" if record is None else str(record["StackStatus"])
        if record is not None and status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
            self._say(f"the stack is busy ({status}): waiting")
            self._follow(self._newest_event(), wanted=None)
            record = find_stack(self._clients)
            status = "" if record is None else str(record["StackStatus"])
        if status == "UPDATE_ROLLBACK_FAILED":
            raise LaunchError(
                f"stack {self._name!r} cannot be changed before its last rollback is continued: find the failed resource "
                f"and run `aws cloudformation continue-update-rollback --stack-name {self._name}`: status={status}"
            )
        if status in _NEVER_USED:
            self._say(f"removing the stack that an earlier attempt left ({status})")
            self.delete()
            return None
        if status == "REVIEW_IN_PROGRESS":
            self._drop_old_change_set()
            return None
        if record is not None:
            self._drop_old_change_set()
        return record

    def _drop_old_change_set(self) -> None:
        try:
            self._cloudformation.describe_change_set(StackName=self._name, ChangeSetName=self._change_set)
            self._cloudformation.delete_change_set(StackName=self._name, ChangeSetName=self._change_set)
        except FOREIGN as error:
            if error_code(error) not in ("ChangeSetNotFound", "ChangeSetNotFoundException", "ValidationError"):
                raise self._failed(error, "deleting an earlier proposal for") from error

    def _proposed(self) -> list[Change] | None:
        while True:
            request = {"StackName": self._name, "ChangeSetName": self._change_set}
            answer = self._cloudformation.describe_change_set(**request)
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
            answer = self._cloudformation.describe_change_set(**request, NextToken=answer["NextToken"])
            changes += answer.get("Changes", [])
        return [_change(change["ResourceChange"]) for change in changes]

    # --- delete -------------------------------------------------------------------------------------------------------

    def delete(self) -> None:
        """Delete the stack if it exists, and return when it is deleted. Raises: LaunchError with the first cause."""
        record = find_stack(self._clients)
        if record is None:
            return
        before = self._newest_event()
        try:
            # By its id: only the id still identifies a deleted stack.
            self._cloudformation.delete_stack(StackName=record["StackId"])
        except FOREIGN as error:
            raise self._failed(error, "deleting") from error
        self._follow(before, wanted=(_GONE,), stack_id=str(record["StackId"]))

    # --- follow -------------------------------------------------------------------------------------------------------

    def _follow(self, before: str, *, wanted: tuple[str, ...] | None, stack_id: str = "") -> None:
        """Report every event after `before` until the operation ends; raise if the final state is not in `wanted`."""
        reported: set[str] = {before}
        deadline = self._clock.monotonic() + _BEGIN_S
        stack_id = stack_id or str((find_stack(self._clients) or {}).get("StackId", self._name))
        while True:
            # Read the state first: all events before it are then available.
            status = self._status(stack_id)
            fresh = self._events_since(stack_id, before)
            for event in reversed(fresh):
                if event["EventId"] not in reported:
                    reported.add(str(event["EventId"]))
                    self._report(event)
            # Just after the call, the stack may still have its previous state.
            has_begun = bool(fresh) or wanted is None or status == _GONE or self._clock.monotonic() >= deadline
            if has_begun and not status.endswith("_IN_PROGRESS"):
                break
            self._clock.wait(self._never, _POLL_S)
        if wanted is not None and status not in wanted:
            cause = first_cause(fresh)
            words = f"{cause}; {advice(cause.reason)}" if cause else "see the events of the stack in the console"
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
        """Return the events after `before`, newest first."""
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

    def _report(self, event: dict[str, Any]) -> None:
        status = str(event["ResourceStatus"])
        reason = str(event.get("ResourceStatusReason", "")) if status.endswith("_FAILED") else ""
        words = f"  {status.lower().replace('_', ' '):<28} {event['LogicalResourceId']}"
        self._say(f"{words}: {reason}" if reason else words)

    def _failed(self, error: Exception, doing: str) -> Exception:
        failure = meaning(error, f"{doing} the stack {self._name!r} in {self._clients.region}")
        return type(failure)(f"{failure}; {advice(str(error))}") if isinstance(failure, LaunchError) else failure


def _change(record: dict[str, Any]) -> Change:
    return Change(
        action=str(record.get("Action", "Modify")),
        resource=str(record.get("LogicalResourceId", "")),
        kind=str(record.get("ResourceType", "")),
        replaced=record.get("Replacement") == "True",
    )
