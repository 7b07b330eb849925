"""What a task on AWS was denied, and the option that allows it: a note beneath its traceback.

A worker's role reaches its session and nothing else, so a task's first look at the user's own data may be refused. What the
libraries raise then names neither the role nor what to do. Told by words alone: no library is imported for it.

    ClientError (boto3, s3fs beneath)   its code, its operation, and AWS's sentence where there is one
    OSError (pyarrow)                   its sentence, which names bucket and key
    PermissionDeniedError (obstore)     the same
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
    """What was refused.

    Attributes:
        action: As IAM names it, `s3:GetObject`; of other services without one, the operation.
        place: Bucket and key; empty if the error does not say.
        words: AWS's sentence, or the library's.
    """

    action: str
    place: str
    words: str


def denial_note(error: BaseException, rights: Rights | None) -> str:
    """What to do about an error if AWS refused something to its task; empty if that is not it.

    Args:
        rights: Where this worker has its rights from; None if it is not on AWS, and has its user's own.
    """
    if rights is None:
        return ""
    for each in _chain(error):
        if (denial := _denial(each)) is not None:
            return f"starburst: {_advice(denial, rights)}"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    each: BaseException | None = error
    for _ in range(_CHAIN_MOST):
        if each is None:
            return
        yield each
        each = each.__cause__ or each.__context__


def _denial(error: BaseException) -> _Denial | None:
    try:
        words = str(error)
        response = getattr(error, "response", None)
        code = str(response["Error"]["Code"]) if isinstance(response, dict) else ""
        operation = str(getattr(error, "operation_name", "") or "")
    except Exception:  # the user's own class may do anything here
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
    found = _KEY_IN_BUCKET.search(words)
    bucket = found or _BUCKET.search(words)
    place = "" if bucket is None else f"{bucket['bucket']}/{found['key'] if found else ''}".rstrip("/")
    return _Denial(f"s3:{operation or 'GetObject'}", place, words)


def _place_of(arn: str) -> str:
    return arn.partition(":::")[2] if ":s3:::" in arn else ""


def _advice(denial: _Denial, rights: Rights) -> str:
    what = f"{denial.action} on s3://{denial.place}" if denial.place else denial.action
    if "explicit deny" in denial.words:
        return f"{what}: a policy denies it expressly, which no right of the workers' role changes: correct that policy"
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
    # The folder rather than the object: its neighbours are next.
    place = denial.place if denial.action.startswith("s3:List") else denial.place.rpartition("/")[0] or denial.place
    option = "--write" if writes else "--read"
    return f"{what} is not allowed to workers: `{setup} {option} s3://{place or 'BUCKET/PREFIX'}`{tail}"
