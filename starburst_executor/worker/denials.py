"""Explain a denial by AWS to a task: a note below its traceback names the denied action and the option that allows it.

A worker's role has access to its session only, so a task's first access to the user's own data may be denied. The libraries'
errors name neither the role nor a remedy. This module recognises them by their text, without importing a library:

    ClientError (boto3, also within s3fs)   its code, its operation, and AWS's sentence if there is one
    OSError (pyarrow)                       its message, which names bucket and key
    PermissionDeniedError (obstore)         the same
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from starburst_executor.config import Rights

__all__ = ["denial_note"]

_CHAIN_MOST = 8
_CODES = frozenset(
    {"AccessDenied", "AccessDeniedException", "Forbidden", "403", "UnauthorizedOperation", "NotAuthorized"}
)
# Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
_SENTENCE = re.compile(r"not authorized to perform: (?P<action>[\w-]+:\w+)(?: on resource: \"?(?P<arn>arn:[^\s\"]+))?")
_ARROW = re.compile(r"AWS Error ACCESS_DENIED during (?P<operation>\w+)")
_OBSTORE = re.compile(r"<Code>AccessDenied</Code>|status code: 403|403 Forbidden")
_KEY_IN_BUCKET = re.compile(r"key '(?P<key>[^']*)' in bucket '(?P<bucket>[^']+)'")
_BUCKET = re.compile(r"bucket '(?P<bucket>[^']+)'")
_OF_S3 = re.compile(
    r"(Get|Head|Put|Delete|List|Copy|Upload|Create|Complete|Abort)\w*(Object|Objects|Bucket|MultipartUpload|Part)\w*"
)
_WRITES = re.compile(r"(Put|Delete|Copy|Upload|CreateMultipart|CompleteMultipart|AbortMultipart)")


class _Denial(NamedTuple):
    """A denied action.

    Attributes:
        action: Its IAM name, such as `s3:GetObject`; the operation if another service's error does not name it.
        place: Bucket and key; empty if the error does not name them.
        words: AWS's message, or the library's.
    """

    action: str
    place: str
    words: str


def denial_note(error: BaseException, rights: Rights | None) -> str:
    """Return advice for an error that a denial by AWS caused; empty for any other error.

    Args:
        rights: The source of this worker's rights; None if it is not on AWS and has its user's own rights.
    """
    if rights is None:
        return ""
    for cause in _chain(error):
        if (denial := _denial(cause)) is not None:
            return f"starburst: {_advice(denial, rights)}"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes."""
    current: BaseException | None = error
    for _ in range(_CHAIN_MOST):
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__


def _denial(error: BaseException) -> _Denial | None:
    try:
        words = str(error)
        response = getattr(error, "response", None)
        code = str(response["Error"]["Code"]) if isinstance(response, dict) else ""
        operation = str(getattr(error, "operation_name", "") or "")
    except Exception:  # the properties of a user's class may raise anything
        return None
    if code and code not in _CODES:
        return None
    if sentence := _SENTENCE.search(words):
        return _Denial(sentence["action"], _place_of(sentence["arn"] or ""), words)
    if arrow := _ARROW.search(words):
        operation = arrow["operation"]
    elif not code and not (type(error).__name__ == "PermissionDeniedError" and _OBSTORE.search(words)):
        return None
    if operation and not _OF_S3.fullmatch(operation):
        return _Denial(operation, "", words)
    key = _KEY_IN_BUCKET.search(words)
    bucket = key or _BUCKET.search(words)
    place = "" if bucket is None else f"{bucket['bucket']}/{key['key'] if key else ''}".rstrip("/")
    return _Denial(f"s3:{operation or 'GetObject'}", place, words)


def _place_of(arn: str) -> str:
    return arn.partition(":::")[2] if ":s3:::" in arn else ""


def _advice(denial: _Denial, rights: Rights) -> str:
    what = f"{denial.action} on s3://{denial.place}" if denial.place else denial.action
    if "explicit deny" in denial.words:
        return (
            f"{what}: a policy denies it explicitly, which no right of the workers' role overrides: correct that policy"
        )
    if rights.role:
        return f"{what} is not allowed to {rights.role}, the role= of this session's launcher: grant it to that role"
    setup = "starburst setup" + (f" --stack {rights.stack}" if rights.stack != "starburst" else "")
    tail = ""
    if "no resource-based policy allows" in denial.words:
        tail = "; the bucket is another account's, so its own policy has to allow it too"
    if not denial.action.startswith("s3:"):
        return (
            f"{what} is not allowed to workers: `{setup} --worker-policy ARN`, with a policy that grants it, or a role of "
            f"your own (role=){tail}"
        )
    writes = _WRITES.match(denial.action.partition(":")[2]) is not None
    # The folder instead of the object, because the task will probably need its other objects too.
    place = denial.place if denial.action.startswith("s3:List") else denial.place.rpartition("/")[0] or denial.place
    option = "--write" if writes else "--read"
    return f"{what} is not allowed to workers: `{setup} {option} s3://{place or 'BUCKET/PREFIX'}`{tail}"
