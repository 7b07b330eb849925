"""The report of a task's denied request: the option that allows it, found in the messages of libraries."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from starburst_executor.config import Rights
from starburst_executor.protocol.outcomes import dump_error, load_outcome
from starburst_executor.worker.denials import denial_note

OURS = Rights("starburst", "")
USER = "User: arn:aws:sts::123456789012:assumed-role/starburst-WorkerRole-X/0a1b is not authorized to perform: "


def client_error(operation: str, message: str, code: str = "AccessDenied", status: int = 403) -> ClientError:
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)  # type: ignore[arg-type]


def sentence(action: str, arn: str, why: str = "no identity-based policy allows") -> str:
    return f'{USER}{action} on resource: "{arn}" because {why} the {action} action'


class PermissionDeniedError(Exception):
    """As obstore names its own."""


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (client_error("GetObject", sentence("s3:GetObject", "arn:aws:s3:::ours/2026/a.parquet")), "--read s3://ours/2026`"),
        (client_error("GetObject", sentence("s3:GetObject", "arn:aws:s3:::ours/a.parquet")), "--read s3://ours`"),
        (client_error("ListObjectsV2", sentence("s3:ListBucket", "arn:aws:s3:::ours")), "--read s3://ours`"),
        (client_error("PutObject", sentence("s3:PutObject", "arn:aws:s3:::ours/out/b")), "--write s3://ours/out`"),
        (client_error("CreateMultipartUpload", "Access Denied"), "--write s3://BUCKET/PREFIX`"),
        (client_error("HeadObject", "Forbidden", code="403"), "--read s3://BUCKET/PREFIX`"),
        (client_error("GetObject", f"{USER}kms:Decrypt on the resource associated with this ciphertext"), "--worker-policy"),
        (client_error("Query", sentence("dynamodb:Query", "arn:aws:dynamodb:x:1:table/t"), "AccessDeniedException"), "--worker-policy"),
        (
            OSError(
                "When reading information for key '2026/a.parquet' in bucket 'ours': AWS Error ACCESS_DENIED during HeadObject "
                "operation: No response body."
            ),
            "--read s3://ours/2026`",
        ),
        (OSError("When completing multiple part upload for key 'o/b' in bucket 'ours': AWS Error ACCESS_DENIED during "
                 "CompleteMultipartUpload operation: Access Denied"), "--write s3://ours/o`"),
        (PermissionDeniedError("Server returned non-2xx status code: 403 Forbidden: <Code>AccessDenied</Code>"), "--read s3://"),
    ],
)  # fmt: skip
def test_the_note_names_the_option(error: Exception, wanted: str) -> None:
    note = denial_note(error, OURS)
    assert note.startswith("starburst: ")
    assert wanted in note
    assert "\n" not in note


def test_what_a_library_made_of_it_is_followed_to_its_cause() -> None:
    error = PermissionError("Access Denied")
    error.__cause__ = client_error("GetObject", sentence("s3:GetObject", "arn:aws:s3:::ours/x/y"))
    assert "--read s3://ours/x`" in denial_note(error, OURS)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "/etc/shadow"),
        ValueError("403"),
        client_error("GetObject", "The specified key does not exist.", code="NoSuchKey", status=404),
        client_error("GetObject", sentence("s3:GetObject", "arn:aws:s3:::ours/x"), code="NoSuchKey", status=404),
        OSError("AWS Error NO_SUCH_BUCKET during HeadObject operation"),
    ],
)
def test_other_errors_have_none(error: Exception) -> None:
    assert denial_note(error, OURS) == ""


def test_where_workers_have_their_users_rights_there_is_none() -> None:
    assert denial_note(client_error("GetObject", "Access Denied"), None) == ""


def test_other_stacks_roles_and_denials_are_told_as_such() -> None:
    error = client_error("GetObject", sentence("s3:GetObject", "arn:aws:s3:::ours/x/y"))
    assert "`starburst setup --stack team --read s3://ours/x`" in denial_note(error, Rights("team", ""))
    role = "arn:aws:iam::123456789012:role/mine"
    own = denial_note(error, Rights("team", role))
    assert role in own
    assert "--read" not in own
    expressly = sentence("s3:GetObject", "arn:aws:s3:::ours/x", "of an explicit deny in a resource-based policy for")
    assert "a policy denies it explicitly" in denial_note(client_error("GetObject", expressly), OURS)
    abroad = sentence("s3:GetObject", "arn:aws:s3:::ours/x", "no resource-based policy allows")
    assert "another account's" in denial_note(client_error("GetObject", abroad), OURS)


def test_an_error_of_the_users_own_that_breaks_when_looked_at_has_none() -> None:
    class Hostile(Exception):
        @property
        def response(self) -> object:
            raise RuntimeError

        def __str__(self) -> str:
            raise RuntimeError

    assert denial_note(Hostile(), OURS) == ""


def test_the_note_is_the_last_line_of_the_remote_traceback() -> None:
    error = client_error("GetObject", "Access Denied")
    _, rebuilt = load_outcome(dump_error(error, note="starburst: do this"))
    assert isinstance(rebuilt, ClientError)
    assert str(rebuilt.__cause__).rstrip('"').splitlines()[-1] == "starburst: do this"
