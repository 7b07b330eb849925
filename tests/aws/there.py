"""What the tests of a real account run on its workers: nothing but the standard library and boto3 is imported."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def square(n: int) -> int:
    return n * n


def environment() -> dict[str, str]:
    """All that a task could read of its worker's environment."""
    agent = Path(f"/proc/{_agent()}/environ").read_text(encoding="utf-8", errors="replace")
    return {**os.environ, "of the agent": agent}


def refused(bucket: str, session_id: str, prefix: str, cluster: str) -> dict[str, str]:
    """What AWS answers to a worker that asks for what it has no right to; "allowed" where it has."""
    import boto3
    from botocore.exceptions import ClientError

    s3, ssm, ecs = boto3.client("s3"), boto3.client("ssm"), boto3.client("ecs")
    folder = f"sessions/{session_id}"
    tries = {
        "write a function": lambda: s3.put_object(Bucket=bucket, Key=f"{folder}/functions/forged", Body=b""),
        "write modules": lambda: s3.put_object(Bucket=bucket, Key="code/2026-01/forged", Body=b""),
        "write blindly": lambda: s3.put_object(Bucket=bucket, Key=f"{folder}/manifest", Body=b""),
        "delete": lambda: s3.delete_object(Bucket=bucket, Key=f"{folder}/manifest"),
        "read sources of builds": lambda: s3.get_object(Bucket=bucket, Key="builds/any"),
        "write a key": lambda: ssm.put_parameter(Name=f"{prefix}forged", Value="00", Type="SecureString"),
        "delete a key": lambda: ssm.delete_parameter(Name=f"{prefix}{session_id}"),
        "read elsewhere": lambda: ssm.get_parameter(Name="/starburst-elsewhere/any"),
        "list ECS tasks": lambda: ecs.list_tasks(cluster=cluster),
        "read the stack": lambda: boto3.client("cloudformation").describe_stacks(),
    }
    answers = {}
    for what, attempt in tries.items():
        try:
            attempt()
            answers[what] = "allowed"
        except ClientError as error:
            answers[what] = str(error.response["Error"]["Code"])
    return answers


def stop_the_worker() -> None:
    """SIGTERM for this task's own worker, as when its machine is taken; once: the second time it is another one's."""
    os.kill(_agent(), signal.SIGTERM)


def _agent() -> int:
    """The worker's first Python process: before it are only those that collect orphans, after it its runners."""
    for pid in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if Path(os.fsdecode(words[0])).name.startswith("python") and b"starburst_executor.worker" in words:
            return pid
    raise LookupError("no worker here")
