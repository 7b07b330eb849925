"""The fake's HTTP: every service at one address, recognised by the request. boto3 finds it by `AWS_ENDPOINT_URL_…`.

What is not known here is moto's: it is asked, and answers.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import pytest

from tests.support.aws_fakes.batch import FakeBatch
from tests.support.aws_fakes.ecs import FakeEcs
from tests.support.aws_fakes.refusal import LostAnswer, Page, Refusal
from tests.support.moto_server import MotoServer
from tests.support.s3_server import S3Server

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/starburst:test"
_ROLE = "arn:aws:iam::123456789012:role"
_SERVICES = ("ECS", "BATCH", "SSM", "SERVICE_QUOTAS", "CLOUDFORMATION", "CLOUDWATCH_LOGS", "PRICING")


class FakeAws:
    """The services, and what a process must know to use them."""

    image = IMAGE

    def __init__(self, moto: MotoServer, folder: Path, s3: S3Server | None = None) -> None:
        """
        Args:
            s3: Where the bucket is; moto's by default.
        """
        self._moto, self._folder, self._s3 = moto, folder, s3
        self.outputs = {
            "AccountId": "123456789012",
            "Bucket": (s3 or moto).bucket,
            "Cluster": FakeEcs.cluster,
            "Subnets": "subnet-a,subnet-b",
            "SecurityGroup": "sg-1",
            "ExecutionRoleArn": f"{_ROLE}/execution",
            "WorkerRoleArn": f"{_ROLE}/worker",
            "RepositoryUri": IMAGE.partition(":")[0],
            "LogGroup": "/starburst/starburst",
            "ParameterPrefix": "/starburst/starburst/",
            "TaskFamilyPrefix": "starburst-starburst-",
            "WorkerPolicyArn": "arn:aws:iam::123456789012:policy/worker",
            "ClientPolicyArn": "arn:aws:iam::123456789012:policy/client",
            "Ec2Provider": "ec2",
            "Ec2SpotProvider": "ec2-spot",
            "Ec2InstanceTypes": "c7g.xlarge",
            "Ec2Arch": "arm64",
            "BatchFargateQueue": "fargate",
            "BatchFargateSpotQueue": "fargate-spot",
        }
        self.parameters: dict[str, str] = {}
        self.hidden_parameters = False  # workers do not find theirs
        # What the next calls of an operation meet, one each, of whichever service: "GetParameter", "describejobs".
        self.troubles: dict[str, deque[Refusal]] = defaultdict(deque)
        self.quotas: dict[str, float] = {}
        roles = {self.outputs["ExecutionRoleArn"], self.outputs["WorkerRoleArn"]}
        self.ecs = FakeEcs(folder, self._platform, {IMAGE}, roles)
        self.batch = FakeBatch(folder, self._platform, {"fargate", "fargate-spot"}, {IMAGE})
        self.secrets = self.ecs.secrets = self.batch.secrets = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="aws", daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """What makes boto3 in any process use this."""
        urls = {f"AWS_ENDPOINT_URL_{name}": self.url for name in _SERVICES}
        if self._s3 is not None:
            urls["AWS_ENDPOINT_URL_S3"] = self._s3.endpoint_url
        return {**self._moto.environment, **urls}

    def _platform(self, ecs_task_id: str) -> dict[str, str]:
        return {**self.environment, "ECS_CONTAINER_METADATA_URI_V4": f"{self.url}/metadata/{ecs_task_id}"}

    def close(self) -> None:
        self.ecs.close()
        self.batch.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def knows(self, target: str | None, path: str) -> bool:
        """Whether an operation is imitated here; else it is moto's."""
        service, _, operation = (target or "").partition(".")
        if target is None:
            return hasattr(self.batch, f"_{path[4:]}") if path.startswith("/v1/") else True
        return hasattr(self.ecs if service.startswith("AmazonEC2ContainerService") else self, f"_{operation}")

    def forward(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """What moto answers."""
        request = urllib.request.Request(f"{self._moto.endpoint_url}{path}", body, headers, method="POST")
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    # --- the small services -------------------------------------------------------------------------------------------

    def ask(self, target: str, request: dict[str, Any]) -> dict[str, Any]:
        service, _, operation = target.partition(".")
        self.meet(operation)
        if service.startswith("AmazonEC2ContainerService"):
            return self.ecs.ask(operation, request)
        answer: dict[str, Any] = getattr(self, f"_{operation}")(request)
        return answer

    def meet(self, operation: str) -> None:
        """Raises: Refusal, what a call of this operation is to meet."""
        if self.troubles[operation]:
            raise self.troubles[operation].popleft()

    def _PutParameter(self, request: dict[str, Any]) -> dict[str, Any]:
        assert request["Type"] == "SecureString"
        if request["Name"] in self.parameters:
            raise Refusal("ParameterAlreadyExists", "The parameter already exists.")
        self.parameters[request["Name"]] = request["Value"]
        return {"Version": 1}

    def _GetParameter(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["Name"]
        if name not in self.parameters or self.hidden_parameters:
            raise Refusal("ParameterNotFound", "")
        return {"Parameter": {"Name": name, "Value": self.parameters[name], "Type": "SecureString"}}

    def _DeleteParameter(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.parameters.pop(request["Name"], None) is None:
            raise Refusal("ParameterNotFound", "")
        return {}

    def _DeleteParameters(self, request: dict[str, Any]) -> dict[str, Any]:
        if not 1 <= len(request["Names"]) <= 10:
            raise Refusal("ValidationException", "Member must have length less than or equal to 10")
        return {"DeletedParameters": [name for name in request["Names"] if self.parameters.pop(name, None)]}

    def _DescribeParameters(self, request: dict[str, Any]) -> dict[str, Any]:
        [wanted] = request["ParameterFilters"]
        assert (wanted["Key"], wanted["Option"]) == ("Name", "BeginsWith")
        return {"Parameters": [{"Name": name} for name in self.parameters if name.startswith(tuple(wanted["Values"]))]}

    def _GetServiceQuota(self, request: dict[str, Any]) -> dict[str, Any]:
        code = request["QuotaCode"]
        if code not in self.quotas:
            raise Refusal("NoSuchResourceException", "")
        return {"Quota": {"QuotaCode": code, "QuotaName": "Fargate vCPUs", "Value": self.quotas[code]}}

    def _GetAWSDefaultServiceQuota(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"Quota": {"QuotaCode": request["QuotaCode"], "QuotaName": "Fargate vCPUs", "Value": 1000.0}}

    def _RequestServiceQuotaIncrease(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"RequestedQuota": {"Status": "PENDING", "DesiredValue": request["DesiredValue"]}}

    def _GetProducts(self, request: dict[str, Any]) -> dict[str, Any]:
        raise Refusal("AccessDeniedException", "not authorized to perform: pricing:GetProducts")

    def _GetLogEvents(self, request: dict[str, Any]) -> dict[str, Any]:
        stream = request["logStreamName"]
        container = self.batch.streams.get(stream) or self.ecs.containers.get(stream.rpartition("/")[2])
        if container is None:
            raise Refusal("ResourceNotFoundException", "The specified log stream does not exist.")
        return {"events": [{"message": line, "timestamp": 0} for line in container.lines()[-request["limit"] :]]}

    def _FilterLogEvents(self, request: dict[str, Any]) -> dict[str, Any]:
        """A line a page, and an empty page before each: what AWS allows itself."""
        streams = {
            f"worker/worker/{task_id}": container for task_id, container in self.ecs.containers.items()
        } | self.batch.streams
        lines = [
            {"message": line, "timestamp": request["startTime"], "logStreamName": name, "eventId": f"{name}/{n}"}
            for name, container in streams.items()
            if name.startswith(request["logStreamNamePrefix"])
            for n, line in enumerate(container.lines())
        ]
        page = int(request.get("nextToken", "0"))
        answer: dict[str, Any] = {"events": lines[page // 2 : page // 2 + 1] if page % 2 else []}
        return answer | ({"nextToken": str(page + 1)} if page + 1 < 2 * len(lines) else {})

    def stack_xml(self) -> str:
        outputs = "".join(
            f"<member><OutputKey>{key}</OutputKey><OutputValue>{escape(value)}</OutputValue></member>"
            for key, value in self.outputs.items()
        )
        return (
            '<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><DescribeStacksResult><Stacks>'
            "<member><StackName>starburst</StackName><CreationTime>2026-01-01T00:00:00Z</CreationTime>"
            f"<StackStatus>CREATE_COMPLETE</StackStatus><Outputs>{outputs}</Outputs></member>"
            "</Stacks></DescribeStacksResult></DescribeStacksResponse>"
        )


def _handler(aws: FakeAws) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            task_id = self.path.split("/")[2]
            self._answer(200, json.dumps({"TaskARN": f"arn:aws:ecs:us-east-1:123456789012:task/c/{task_id}"}))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                target = self.headers.get("X-Amz-Target")
                if not aws.knows(target, self.path):
                    status, answer = aws.forward(self.path, dict(self.headers), body)
                    self._answer(status, answer.decode())
                elif target:
                    self._answer(200, json.dumps(aws.ask(target, json.loads(body or b"{}"))))
                elif self.path.startswith("/v1/"):
                    aws.meet(self.path[4:])
                    self._answer(200, json.dumps(aws.batch.ask(self.path[4:], json.loads(body or b"{}"))))
                else:
                    assert parse_qs(body.decode())["Action"] == ["DescribeStacks"]
                    self._answer(200, aws.stack_xml(), "text/xml")
            except Page as page:
                self._answer(page.status, "<html><body>Service Unavailable</body></html>", "text/html")
            except Refusal as refusal:
                self._answer(refusal.status, json.dumps(refusal.body), code=refusal.code)
            except LostAnswer:
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(2)

        def _answer(self, status: int, body: str, kind: str = "application/x-amz-json-1.1", code: str = "") -> None:
            raw = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(raw)))
            if code:
                self.send_header("x-amzn-ErrorType", code)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            """Nothing to be said."""

    return Handler


@pytest.fixture
def aws(
    moto_server: MotoServer, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeAws]:
    """A fake AWS with one stack, for this process; what it starts ends with the test."""
    fake = FakeAws(moto_server, tmp_path, s3_server)
    for name, value in fake.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STARBURST_AWS_REGION", "us-east-1")
    try:
        yield fake
    finally:
        fake.close()
