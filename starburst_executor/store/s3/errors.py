"""What an answer of S3, or the lack of one, means to callers of the store.

    answer                                              becomes
    412 on a condition                                  PreconditionFailed
    404 of the object                                   ObjectNotFound
    409, 429, 5xx, timeout, reset, body cut short       StoreUnavailable: try the same again
    501                                                 ConfigError: the server lacks what we need
    anything else: credentials, region, bucket, …       AccessDenied: nothing to try again

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    ParamValidationError,
)
from botocore.exceptions import (
    ConnectionError as NoConnection,
)

from starburst_executor.errors import (
    AccessDenied,
    ConfigError,
    ObjectNotFound,
    PreconditionFailed,
    StarburstError,
    StoreUnavailable,
)

__all__ = ["FOREIGN", "error_code", "meaning", "meaning_of_code"]

# What the SDK and the sockets below it raise.
FOREIGN = (ClientError, BotoCoreError, OSError)

_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_CHANGED = frozenset({"PreconditionFailed", "412"})
_LACKING = frozenset({"NotImplemented", "501"})
_UNCLEAR = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "NoSuchUpload",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "XAmzContentSHA256Mismatch",
    }
)
_UNCLEAR_STATUS = frozenset({408, 409, 429})
_ADVICE = {
    "AuthorizationHeaderMalformed": "the bucket is in another region: name it, s3://…?region=…",
    "ExpiredToken": "the credentials have expired: log in again",
    "InvalidAccessKeyId": "no such access key here: check which credentials are found, and the endpoint",
    "NoSuchBucket": "create the bucket or correct its name",
    "PermanentRedirect": "the bucket is in another region or at another endpoint: name it, s3://…?region=…",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key: correct it",
}
_ADVICE_ELSE = (
    "allow s3:ListBucket on the bucket and s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on its "
    "objects, or use other credentials"
)


def meaning(error: Exception, place: str, how: str) -> StarburstError:
    """The error to raise instead of a foreign one.

    Args:
        place: Bucket and key, for the message.
        how: Endpoint, profile and source of the credentials, for the message; never a secret.
    """
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return meaning_of_code(error_code(error), status, place, how)
    if isinstance(error, (ParamValidationError, ValueError)):
        return ConfigError(f"not something to ask of S3: {place}: {error}")
    if isinstance(error, (HTTPClientError, NoConnection, IncompleteReadError, OSError)):
        return StoreUnavailable(f"no answer from S3: {place}, {how}: {type(error).__name__}: {error}")
    advice = "provide credentials as for every AWS tool: environment, profile or role"
    return AccessDenied(f"cannot sign requests to S3, {advice}: {place}, {how}: {type(error).__name__}: {error}")


def meaning_of_code(code: str, status: int, place: str, how: str) -> StarburstError:
    """The same for an error that S3 answered by its code and HTTP status."""
    if code in _CHANGED:
        return PreconditionFailed(f"somebody else wrote first: {place}")
    if code in _MISSING:
        return ObjectNotFound(f"no such object: {place}")
    if code in _LACKING:
        return ConfigError(f"this server lacks what is needed, use another: {place}, {how}, code={code}")
    if code in _UNCLEAR or status in _UNCLEAR_STATUS or status >= 500:  # noqa: PLR2004 - HTTP's own line
        return StoreUnavailable(f"S3 did not take the request now: {place}, {how}, code={code}, status={status}")
    advice = _ADVICE.get(code, _ADVICE_ELSE)
    return AccessDenied(f"S3 refused, {advice}: {place}, {how}, code={code}, status={status}")


def error_code(error: Exception) -> str:
    """S3's own word for what went wrong; empty if it was not S3 who spoke."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
