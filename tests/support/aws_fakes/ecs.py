"""A fake of Amazon ECS: RunTask and what belongs to it, with a real process for each ECS task.

Source of limits and sentences: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html,
…/developerguide/stopped-task-error-codes.html, …/api_failures_messages.html
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.sizes import fargate_size
from tests.support.aws_fakes.containers import Container, environment_of, refused_secret
from tests.support.aws_fakes.refusal import Bucket, LostAnswer, Refusal

CAPACITY = "Capacity is unavailable at this time. Please try again later or in a different availability zone"
VCPUS = "You've reached the limit on the number of vCPUs you can run concurrently"
TAKEN = "Your Spot Task was interrupted."
_OVERRIDES_MOST = 8192

Step = Callable[["FakeEcs", dict[str, Any]], "dict[str, Any] | None"]


class FakeEcs:
    """One cluster.

    Attributes:
        script: What the next RunTask calls meet, one each; then all is well. See the functions below the class.
        vcpus: How many each provider may run; what is beyond is refused in `failures[]`.
        images: Those that can be pulled.
        roles: Those that can be assumed.
        secrets: What AWS may fetch for containers, by reference.
        never_start: Stays PROVISIONING, as with a provider that finds no machine.
    """

    cluster = "starburst-cluster"

    def __init__(
        self, folder: Path, platform: Callable[[str], dict[str, str]], images: set[str], roles: set[str]
    ) -> None:
        self._folder, self._platform = folder, platform
        self.images, self.roles = images, roles
        self.providers = {"FARGATE", "FARGATE_SPOT", "ec2", "ec2-spot"}
        self.vcpus: dict[str, float] = {}
        self.script: deque[Step] = deque()
        self.never_start = False
        self.secrets: dict[str, str] = {}
        self.kill_after_s = 20.0
        self.lock = threading.RLock()
        self.definitions: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.containers: dict[str, Container] = {}
        self.threads: list[threading.Thread] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._tokens: dict[str, tuple[str, list[str]]] = {}
        self.launches = Bucket(20, 20.0)
        self.registrations = Bucket(20, 1.0)
        self.n_hang = 0  # the number of the next containers that run and never beat
        self.hyphens = False  # ids of ECS tasks have them, as those of older accounts

    def ask(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.calls.append((operation, request))
            answer: dict[str, Any] = getattr(self, f"_{operation}")(request)
            # As it is now: it changes with time.
            return json.loads(json.dumps(answer))  # type: ignore[no-any-return]

    def n_calls(self, operation: str) -> int:
        with self.lock:  # a call counts once it has been carried out
            return sum(name == operation for name, _ in self.calls)

    # --- definitions --------------------------------------------------------------------------------------------------

    def _RegisterTaskDefinition(self, request: dict[str, Any]) -> dict[str, Any]:
        self.registrations.take()
        if "FARGATE" in request["requiresCompatibilities"]:
            try:
                fargate_size(int(request["cpu"]) / 1024, f"{request['memory']}MB")
            except ConfigError as error:
                raise Refusal("ClientException", f"No Fargate configuration exists for given values: {error}") from None
        made = {
            **request,
            "status": "ACTIVE",
            "revision": 1,
            "taskDefinitionArn": f"{_arn('task-definition')}/{request['family']}:1",
        }
        self.definitions[request["family"]] = made
        return {"taskDefinition": made}

    def _DescribeTaskDefinition(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["taskDefinition"] not in self.definitions:
            raise Refusal("ClientException", "Unable to describe task definition.")
        return {"taskDefinition": self.definitions[request["taskDefinition"]]}

    def _ListTaskDefinitionFamilies(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"families": [family for family in self.definitions if family.startswith(request["familyPrefix"])]}

    def _ListTaskDefinitions(self, request: dict[str, Any]) -> dict[str, Any]:
        definitions = [self.definitions[family] for family in self.definitions if family == request["familyPrefix"]]
        return {"taskDefinitionArns": [definition["taskDefinitionArn"] for definition in definitions]}

    def _DeregisterTaskDefinition(self, request: dict[str, Any]) -> dict[str, Any]:
        self.registrations.take()
        family = request["taskDefinition"].rpartition("/")[2].partition(":")[0]
        return {"taskDefinition": {**self.definitions.pop(family), "status": "INACTIVE"}}

    # --- running ------------------------------------------------------------------------------------------------------

    def _RunTask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.launches.take()
        self._check(request)
        token, asked = request.get("clientToken"), json.dumps(request, sort_keys=True)
        if token in self._tokens:
            before, arns = self._tokens[token]
            if before != asked:
                raise Refusal("ConflictException", "The clientToken is in use with other parameters", resourceIds=arns)
            return {"tasks": [self.tasks[arn.rpartition("/")[2]] for arn in arns], "failures": []}
        answer = self.script.popleft()(self, request) if self.script else None
        answer = answer or self.run(request, request["count"])
        if token and answer["tasks"]:
            self._tokens[token] = (asked, [task["taskArn"] for task in answer["tasks"]])
        if answer.pop("lost", False):
            raise LostAnswer
        return answer

    def _check(self, request: dict[str, Any]) -> None:
        strategy = request.get("capacityProviderStrategy", [])
        definition = self.definitions.get(request["taskDefinition"])
        wrong = None
        if request["cluster"] != self.cluster:
            raise Refusal("ClusterNotFoundException", "Cluster not found.")
        if not 1 <= request["count"] <= 10:
            wrong = "Count must be between 1 and 10."
        elif strategy and "launchType" in request:
            wrong = "Specify either a capacity provider strategy or a launch type."
        elif unknown := [item for item in strategy if item["capacityProvider"] not in self.providers]:
            wrong = (
                f"The specified capacity provider {unknown[0]['capacityProvider']} is not associated with the cluster."
            )
        elif definition is None:
            raise Refusal("ClientException", "TaskDefinition not found.")
        elif definition["networkMode"] == "awsvpc" and not request.get("networkConfiguration"):
            wrong = "Network Configuration must be provided when networkMode 'awsvpc' is specified."
        elif len(json.dumps(request.get("overrides", {}))) > _OVERRIDES_MOST:
            wrong = "Container Overrides length must be at most 8192"
        elif not re.fullmatch(r"[A-Za-z0-9/_-]{0,128}", request.get("startedBy", "")):
            wrong = "Invalid startedBy."
        elif not re.fullmatch(r"[!-~]{1,64}", request.get("clientToken", "!")):
            wrong = "Invalid clientToken."
        if wrong:
            raise Refusal("InvalidParameterException", wrong)
        assert definition is not None
        for role in (definition["executionRoleArn"], definition["taskRoleArn"]):
            if role not in self.roles:
                raise Refusal(
                    "ClientException",
                    f"ECS was unable to assume the role '{role}' that was provided for this task. Please verify that the role "
                    "being passed has the proper trust relationship and permissions and that your IAM user has permissions "
                    "to pass this role.",
                )

    def run(self, request: dict[str, Any], count: int) -> dict[str, Any]:
        """As many as the provider's quota has room for."""
        tasks, failures = [], []
        provider = request["capacityProviderStrategy"][0]["capacityProvider"]
        vcpu = int(self.definitions[request["taskDefinition"]]["cpu"]) / 1024
        for _ in range(count):
            running = [task for task in self.tasks.values() if task["lastStatus"] != "STOPPED"]
            used = sum(int(task["cpu"]) / 1024 for task in running if task["capacityProviderName"] == provider)
            if used + vcpu > self.vcpus.get(provider, 1e9):
                failures.append({"arn": "", "reason": VCPUS})
            else:
                tasks.append(self._start(request, provider))
        return {"tasks": tasks, "failures": failures}

    def _start(self, request: dict[str, Any], provider: str) -> dict[str, Any]:
        task_id = Path("/proc/sys/kernel/random/uuid").read_text(encoding="ascii").strip()
        task_id = task_id if self.hyphens else task_id.replace("-", "")
        definition = self.definitions[request["taskDefinition"]]
        arn = f"{_arn('task')}/{self.cluster}/{task_id}"
        self.tasks[task_id] = task = {
            "taskArn": arn,
            "clusterArn": f"{_arn('cluster')}/{self.cluster}",
            "taskDefinitionArn": definition["taskDefinitionArn"],
            "lastStatus": "PROVISIONING",
            "desiredStatus": "RUNNING",
            "capacityProviderName": provider,
            "cpu": definition["cpu"],
            "memory": definition["memory"],
            "startedBy": request.get("startedBy", ""),
            "overrides": request.get("overrides", {}),
            "createdAt": time.time(),
            "containers": [],
        }
        thread = threading.Thread(target=self._live, args=(task_id, definition), name=f"ecs-{task_id[:8]}", daemon=True)
        self.threads.append(thread)
        thread.start()
        return task

    def _live(self, task_id: str, definition: dict[str, Any]) -> None:
        task = self.tasks[task_id]
        while self.never_start and task["desiredStatus"] == "RUNNING":
            time.sleep(0.02)
        container = definition["containerDefinitions"][0]
        with self.lock:
            if task["desiredStatus"] == "STOPPED":
                return self._stopped(task, [])
            task["lastStatus"] = "PENDING"
            shown = {"name": container["name"], "image": container["image"], "lastStatus": "PENDING"}
            if container["image"] not in self.images:
                reason = (
                    f"CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref "
                    f"{container['image']}: {container['image']}: not found"
                )
                task.update(stopCode="TaskFailedToStart", stoppedReason=reason, desiredStatus="STOPPED")
                return self._stopped(task, [{**shown, "lastStatus": "STOPPED", "reason": reason}])
            denied = refused_secret(container, self.secrets)
            if denied is not None:
                task.update(stopCode="TaskFailedToStart", stoppedReason=denied, desiredStatus="STOPPED")
                return self._stopped(task, [{**shown, "lastStatus": "STOPPED"}])
            override = task["overrides"]["containerOverrides"][0]
            environment = environment_of(container, override, self.secrets)
            command = [*container["entryPoint"], *override["command"]]
            hangs, self.n_hang = self.n_hang > 0, max(0, self.n_hang - 1)
            running = Container(command, environment, self._platform(task_id), self._folder, hangs=hangs)
            self.containers[task_id] = running
            task.update(lastStatus="RUNNING", containers=[{**shown, "lastStatus": "RUNNING"}])
        status = running.wait()
        with self.lock:
            task.setdefault("stopCode", "EssentialContainerExited")
            task.setdefault("stoppedReason", "Essential container in task exited")
            return self._stopped(task, [{**shown, "lastStatus": "STOPPED", "exitCode": status}])

    def _stopped(self, task: dict[str, Any], containers: list[dict[str, Any]]) -> None:
        task.update(lastStatus="STOPPED", desiredStatus="STOPPED", containers=containers, stoppedAt=time.time())

    # --- asking and stopping ------------------------------------------------------------------------------------------

    def _DescribeTasks(self, request: dict[str, Any]) -> dict[str, Any]:
        if len(request["tasks"]) > 100:
            raise Refusal("InvalidParameterException", "Tasks cannot have more than 100 elements.")
        ids = [name.rpartition("/")[2] for name in request["tasks"]]
        return {
            "tasks": [self.tasks[name] for name in ids if name in self.tasks],
            "failures": [
                {"arn": f"{_arn('task')}/{name}", "reason": "MISSING"} for name in ids if name not in self.tasks
            ],
        }

    def _ListTasks(self, request: dict[str, Any]) -> dict[str, Any]:
        if "startedBy" in request and {"family", "serviceName", "desiredStatus"} & request.keys():
            raise Refusal("InvalidParameterException", "startedBy must be the only filter.")
        wanted = request.get("desiredStatus", "RUNNING")
        tasks = [task for task in self.tasks.values() if task["desiredStatus"] == wanted]
        tasks = [task for task in tasks if task["startedBy"] == request.get("startedBy", task["startedBy"])]
        return {"taskArns": [task["taskArn"] for task in tasks]}

    def _StopTask(self, request: dict[str, Any]) -> dict[str, Any]:
        task_id = request["task"].rpartition("/")[2]
        if task_id not in self.tasks:
            raise Refusal("InvalidParameterException", "The referenced task was not found.")
        self.take_down(task_id, "UserInitiated", request.get("reason", ""))
        return {"task": self.tasks[task_id]}

    def take_down(self, task_id: str, code: str, reason: str) -> None:
        """SIGTERM, and SIGKILL after a while."""
        with self.lock:
            task = self.tasks[task_id]
            if task["desiredStatus"] == "RUNNING":
                task.update(desiredStatus="STOPPED", stopCode=code, stoppedReason=reason)
                if task_id in self.containers:
                    self.containers[task_id].stop(self.kill_after_s)

    def interrupt(self, task_id: str) -> None:
        """AWS wants the machine back."""
        self.take_down(task_id, "SpotInterruption", TAKEN)

    # --- for tests ----------------------------------------------------------------------------------------------------

    def running(self) -> list[str]:
        """Ids of the ECS tasks that run and are meant to, oldest first."""
        with self.lock:
            return [
                name
                for name, task in self.tasks.items()
                if (task["lastStatus"], task["desiredStatus"]) == ("RUNNING", "RUNNING")
            ]

    def not_stopped(self) -> list[str]:
        with self.lock:
            return [name for name, task in self.tasks.items() if task["lastStatus"] != "STOPPED"]

    def close(self) -> None:
        self.never_start = False
        with self.lock:
            for task in self.tasks.values():
                task["desiredStatus"] = "STOPPED"
            for container in self.containers.values():
                container.kill()
        for thread in self.threads:
            thread.join()


def failing(reason: str, n_started: int = 0) -> Step:
    """Some are started; the others are in `failures[]`."""

    def step(ecs: FakeEcs, request: dict[str, Any]) -> dict[str, Any]:
        answer = ecs.run(request, min(n_started, request["count"]))
        answer["failures"] += [{"arn": "", "reason": reason}] * (request["count"] - len(answer["tasks"]))
        return answer

    return step


def refusing(code: str, message: str, status: int = 400) -> Step:
    """An error; nothing is started."""

    def step(ecs: FakeEcs, request: dict[str, Any]) -> None:
        raise Refusal(code, message, status)

    return step


def losing() -> Step:
    """All are started, and the answer is lost."""

    def step(ecs: FakeEcs, request: dict[str, Any]) -> dict[str, Any]:
        return {**ecs.run(request, request["count"]), "lost": True}

    return step


def _arn(kind: str) -> str:
    return f"arn:aws:ecs:us-east-1:123456789012:{kind}"
