"""MiniStack with what it lacks for `starburst setup`, `image build` and ECS launchers, put in before it starts.

Configured as MiniStack is, by environment variables; `start.py` sets them. Ends when its standard input closes.
The names that start with "_" are MiniStack's own and not an interface: hence the exact version in `lock.txt`.

What it does otherwise than AWS and the library has to bear all the same is left as it is: ids of ECS tasks with hyphens,
an empty list for an image that is not there.
"""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import uuid
import zipfile
from typing import Any
from urllib.parse import urlsplit

from ministack.core import iam_actions, iam_evaluator
from ministack.core.responses import get_account_id, get_region
from ministack.services import batch, cloudformation, codebuild, ecr, ecs, imds, s3, sts
from ministack.services.cloudformation import provisioners


def answer(response: tuple[int, Any, Any]) -> dict[str, Any]:
    """The body of a service's answer; a failed one fails the stack's resource."""
    status, _, body = response
    if status != 200:
        raise RuntimeError(body)
    return dict(json.loads(body))


def lower(value: Any) -> Any:
    """CloudFormation's property names as the services' own APIs spell them: `MinvCpus` is `minvCpus`."""
    if isinstance(value, dict):
        return {key[0].lower() + key[1:]: lower(one) for key, one in value.items()}
    return [lower(one) for one in value] if isinstance(value, list) else value


def generated_name(logical_id: str) -> str:
    return f"{logical_id}-{uuid.uuid4().hex[:12]}"


# ------------------------------------------------------------------------- CloudFormation: four types that are missing


def create_provider(logical_id: str, properties: dict[str, Any], stack_name: str) -> tuple[str, dict[str, str]]:
    name = properties.get("Name") or f"{stack_name}-{generated_name(logical_id)}"
    wanted = {"name": name, "autoScalingGroupProvider": lower(properties["AutoScalingGroupProvider"])}
    answer(ecs._create_capacity_provider({**wanted, "tags": lower(properties.get("Tags", []))}))
    return name, {}


def delete_provider(name: str, _: dict[str, Any]) -> None:
    ecs._delete_capacity_provider({"capacityProvider": name})


def associate(_: str, properties: dict[str, Any], __: str) -> tuple[str, dict[str, str]]:
    names = ("Cluster", "CapacityProviders", "DefaultCapacityProviderStrategy")
    answer(ecs._put_cluster_capacity_providers(lower({name: properties[name] for name in names})))
    return properties["Cluster"], {}


def associate_again(_: str, __: dict[str, Any], properties: dict[str, Any], stack: str) -> tuple[str, dict[str, str]]:
    return associate("", properties, stack)


def dissociate(cluster: str, _: dict[str, Any]) -> None:
    none = {"cluster": cluster, "capacityProviders": [], "defaultCapacityProviderStrategy": []}
    ecs._put_cluster_capacity_providers(none)


def create_environment(logical_id: str, properties: dict[str, Any], _: str) -> tuple[str, dict[str, str]]:
    wanted = {"type": properties["Type"], "computeResources": lower(properties["ComputeResources"])}
    named = {"computeEnvironmentName": generated_name(logical_id), "tags": properties.get("Tags", {})}
    arn = answer(batch._create_compute_environment({**wanted, **named}))["computeEnvironmentArn"]
    return arn, {"ComputeEnvironmentArn": arn}


def delete_environment(arn: str, _: dict[str, Any]) -> None:
    batch._compute_envs.pop(arn.rpartition("/")[2], None)


def create_queue(logical_id: str, properties: dict[str, Any], _: str) -> tuple[str, dict[str, str]]:
    order = lower(properties["ComputeEnvironmentOrder"])
    wanted = {"priority": properties["Priority"], "computeEnvironmentOrder": order}
    named = {"jobQueueName": generated_name(logical_id), "tags": properties.get("Tags", {})}
    arn = answer(batch._create_job_queue({**wanted, **named}))["jobQueueArn"]
    return arn, {"JobQueueArn": arn}


def delete_queue(arn: str, _: dict[str, Any]) -> None:
    batch._job_queues.pop(arn.rpartition("/")[2], None)


provisioners._RESOURCE_HANDLERS.update(
    {
        "AWS::ECS::CapacityProvider": {"create": create_provider, "delete": delete_provider},
        "AWS::ECS::ClusterCapacityProviderAssociations": {
            "create": associate,
            "update": associate_again,
            "delete": dissociate,
        },
        "AWS::Batch::ComputeEnvironment": {"create": create_environment, "delete": delete_environment},
        "AWS::Batch::JobQueue": {"create": create_queue, "delete": delete_queue},
    }
)

# ---------------------------------------------------------------------------------------------------------- CodeBuild

start_build = codebuild._start_build


def start_build_and_push(request: dict[str, Any]) -> Any:
    """A build of CodeBuild's succeeds at once without building; the push that its buildspec ends with is done here."""
    response = start_build(request)
    if response[0] == 200:
        given = codebuild._projects[request["projectName"]]["environment"].get("environmentVariables", [])
        every = [*given, *request.get("environmentVariablesOverride", [])]
        value = {one["name"]: one["value"] for one in every}
        bucket, _, key = request["sourceLocationOverride"].partition("/")
        with zipfile.ZipFile(io.BytesIO(s3._get_object_data(bucket, key) or b"")) as source:
            source.getinfo("Dockerfile")  # all that is looked at
        repository, tag = value["REPOSITORY_URI"].partition("/")[2], value["IMAGE_TAG"]
        manifest = json.dumps({"schemaVersion": 2, "tag": tag})
        answer(ecr._put_image({"repositoryName": repository, "imageTag": tag, "imageManifest": manifest}))
    return response


codebuild._start_build = start_build_and_push

# ------------------------------------------------------------------------- IAM, which is checked with AUTH=true only

resource_arn = iam_actions.extract_resource_arn


def known_resource_arn(
    service: str, method: str, path: str, headers: Any, body: Any, query: Any, region: str, account_id: str
) -> str:
    """What the Service Authorization Reference names as an ECS action's resource; MiniStack's are others, or "*"."""
    if service == "ecs":
        found = ecs_arn(headers, body, f"arn:aws:ecs:{region}:{account_id}:")
        if found is not None:
            return found
    if service == "cloudformation":
        name = query.get("StackName")
        stack = cloudformation._stacks.get(name[0] if isinstance(name, list) else name)
        if stack:
            return str(stack["StackId"])  # the ARN with the id, rather than with the name only
    return str(resource_arn(service, method, path, headers, body, query, region, account_id))


def ecs_arn(headers: Any, body: Any, prefix: str) -> str | None:
    request = ecs_request(body)
    cluster = last(request.get("cluster", "default"))
    match headers.get("x-amz-target", "").rpartition(".")[2]:
        case "RunTask":
            family = last(request.get("taskDefinition", ""))
            return f"{prefix}task-definition/{family if ':' in family else f'{family}:1'}"
        case "StopTask":
            return f"{prefix}task/{cluster}/{last(request['task'])}"
        case "DescribeTasks":
            return f"{prefix}task/{cluster}/{last(request['tasks'][0])}"
        case "RegisterTaskDefinition":
            return f"{prefix}task-definition/{request['family']}:1"
        case "DescribeClusters":
            return f"{prefix}cluster/{last(request['clusters'][0])}"
        case "ListTasks" | "DescribeTaskDefinition" | "ListTaskDefinitions" | "ListTaskDefinitionFamilies":
            return "*"
    return None


def ecs_request(body: Any) -> dict[str, Any]:
    try:
        return dict(json.loads(body or b"{}"))
    except ValueError:
        return {}


def last(arn: str) -> str:
    return arn.rpartition("/")[2]


iam_actions.extract_resource_arn = known_resource_arn

tag_context = iam_actions.request_tag_context


def context_with_cluster(service: str, action: str, body: Any, parameters: Any) -> dict[str, Any]:
    """The condition key `ecs:cluster`, by which the client's policy limits actions on tasks, is missing."""
    context = dict(tag_context(service, action, body, parameters))
    cluster = ecs_request(body).get("cluster") if service == "ecs" else None
    if cluster:
        context["ecs:cluster"] = f"arn:aws:ecs:{get_region()}:{get_account_id()}:cluster/{last(cluster)}"
    return context


iam_actions.request_tag_context = context_with_cluster

s3_context = iam_actions.s3_service_context


def s3_context_with_conditions(action: str, query: Any, path: str = "", headers: Any = None) -> dict[str, Any]:
    """The condition keys `s3:if-match` and `s3:if-none-match`, which the bucket's policy demands, are missing."""
    given = {name.lower(): value for name, value in (headers or {}).items()}
    conditions = {f"s3:{name}": given[name] for name in ("if-match", "if-none-match") if given.get(name)}
    return {**s3_context(action, query, path, headers), **conditions}


iam_actions.s3_service_context = s3_context_with_conditions

pin_origin = iam_evaluator.pin_request_origin
# The bucket's policy refuses plain HTTP, which is all that there is here: requests count as encrypted.
iam_evaluator.pin_request_origin = lambda address, _: pin_origin(address, True)


# ---------------------------------------------------------------------------------------- credentials of an ECS task

task_roles: dict[str, str] = {}  # by the path of the credentials that the container is given
register_metadata, metadata_request = ecs._register_metadata, imds.handle_request


def register_task(task: str, cluster: str, definition: Any, container: Any, kind: str, env: Any, *more: Any) -> Any:
    token = register_metadata(task, cluster, definition, container, kind, env, *more)
    path = urlsplit(env["AWS_CONTAINER_CREDENTIALS_FULL_URI"]).path
    task_roles[path] = f"{last(definition.get('taskRoleArn', ''))}/{last(task)}"
    return token


async def give_credentials(method: str, path: str, headers: Any, body: Any, query: Any) -> Any:
    """Containers get keys that MiniStack's own IAM does not know; they become those of the task's role."""
    response = await metadata_request(method, path, headers, body, query)
    if response[0] == 200 and path in task_roles:
        given, name = json.loads(response[2]), task_roles[path]
        arn = f"arn:aws:sts::{get_account_id()}:assumed-role/{name}"
        secrets = {"SecretAccessKey": given["SecretAccessKey"], "SessionToken": given["Token"]}
        sts.register_session(given["AccessKeyId"], {"Arn": arn, "UserId": name.replace("/", ":"), **secrets})
    return response


ecs._register_metadata, imds.handle_request = register_task, give_credentials


def end_with_parent() -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock this thread would hold at exit
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    from ministack.app import main  # last: it takes functions from the modules above by name

    threading.Thread(target=end_with_parent, daemon=True).start()
    main()
