"""Maps the answers of S3, and missing answers, to the errors of this package.

    answer                                              becomes
    412 on a condition                                  PreconditionFailed
    404 of the object                                   ObjectNotFound
    409, 429, 5xx, timeout, reset, body cut short       StoreUnavailable: retry the same request
    200 with a body that does not come from S3          StoreUnavailable
    501                                                 ConfigError: the server lacks a required feature
    any other refusal: credentials, bucket, rights, …   AccessDenied: a retry would not help

    no request: credentials are missing or expired,
    or the user has to log in                           AccessDenied
    no request: the configuration is wrong              ConfigError
    no request for any other reason                     StoreUnavailable: a helper or the metadata service may recover

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

from http.client import HTTPException
from subprocess import SubprocessError

from botocore import exceptions as botocore_errors
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, ParamValidationError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from starburst_executor.errors import (
    AccessDenied,
    ConfigError,
    ObjectNotFound,
    PreconditionFailed,
    StarburstError,
    StoreUnavailable,
)

__all__ = ["FOREIGN", "error_code", "is_nowhere", "meaning", "meaning_of_code"]

# The exceptions of the SDK, and of the sockets, helpers and parsers below it. Those of the second line escape the SDK
# by accident: a helper prints malformed credentials or an unreadable date, or its credentials have expired.
FOREIGN = (
    *(ClientError, BotoCoreError, ResponseParserError, OSError, HTTPError, HTTPException, SubprocessError),
    *(RuntimeError, ValueError, LookupError, AttributeError, TypeError),
)
# By name, since older versions of botocore lack some. The user has to act on these ...
_LOG_IN = (
    "LoginError",
    "MissingDependencyException",
    "NoAuthTokenError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "RefreshWithMFAUnsupportedError",
    "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
    "UnknownCredentialError",
    "UnknownTokenProviderError",
)
# ... and these are settings that can never work. All other errors may be temporary.
_SET = (
    "BaseEndpointResolverError",
    "ConfigNotFound",
    "ConfigParseError",
    "DataNotFoundError",
    "EndpointProviderError",
    "InvalidConfigError",
    "InvalidDNSNameError",
    "InvalidDefaultsMode",
    "InvalidEndpointConfigurationError",
    "InvalidHostLabelError",
    "InvalidIMDSEndpointError",
    "InvalidIMDSEndpointModeError",
    "InvalidProxiesConfigError",
    "InvalidRetryConfigurationError",
    "InvalidS3AddressingStyleError",
    "InvalidS3UsEast1RegionalEndpointConfigError",
    "InvalidSTSRegionalEndpointsConfigError",
    "UnknownRegionError",
    "UnknownSignatureVersionError",
    "UnsupportedS3AccesspointConfigurationError",
    "UnsupportedS3ArnError",
    "UnsupportedS3ConfigurationError",
    "UnsupportedSignatureVersionError",
    "ValidationError",
)


def _named(names: tuple[str, ...]) -> tuple[type[Exception], ...]:
    return tuple(getattr(botocore_errors, name) for name in names if hasattr(botocore_errors, name))


_LOG_IN_FIRST, _MISCONFIGURED = _named(_LOG_IN), _named(_SET)

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
# The service is up, and asks for fewer requests.
# Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html
_BUSY = frozenset({"ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException"})
_BUSY_STATUS = frozenset({429, 503})
# 304 appears only if no If-None-Match was sent: a gateway answered.
_UNCLEAR_STATUS = frozenset({304, 408, 409, 429})
_ADVICE = {
    "AuthorizationHeaderMalformed": "the bucket is in another region: set it, s3://…?region=…",
    "ExpiredToken": "the credentials have expired: log in again",
    "InvalidAccessKeyId": "the access key does not exist there: check which credentials are found, and the endpoint",
    "NoSuchBucket": "create the bucket or correct its name",
    "PermanentRedirect": "the bucket is in another region or at another endpoint: set it, s3://…?region=…",
    "RequestTimeTooSkewed": "this machine's clock is wrong: correct it",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key: correct it",
}
_ADVICE_ELSE = (
    "allow s3:ListBucket on the bucket and s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on its "
    "objects, or use other credentials"
)


def meaning(error: Exception, place: str, how: str) -> StarburstError:
    """Return the error of this package to raise instead of a foreign one.

    Args:
        place: Bucket and key, for the message.
        how: Endpoint, profile and source of the credentials, for the message; never a secret.
    """
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return meaning_of_code(error_code(error), status, place, how)
    if isinstance(error, ParamValidationError) or (isinstance(error, ValueError) and _is_no_url(error)):
        return ConfigError(f"not a valid request to S3: {place}: {error}")
    if _has_expired(error):
        advice = _ADVICE["ExpiredToken"]
        return AccessDenied(f"cannot sign requests to S3, {advice}: {place}, {how}: {error}")
    if isinstance(error, _LOG_IN_FIRST):
        advice = "provide credentials as for every AWS tool: environment, profile or role"
        return AccessDenied(f"cannot sign requests to S3, {advice}: {place}, {how}: {type(error).__name__}: {error}")
    if isinstance(error, _MISCONFIGURED):
        return ConfigError(
            f"requests to S3 cannot be made with these settings: {place}, {how}: {type(error).__name__}: {error}"
        )
    return StoreUnavailable(f"no answer from S3: {place}, {how}: {type(error).__name__}: {error}")


def is_nowhere(error: Exception) -> bool:
    """Whether no server was reached at the address."""
    return isinstance(error, EndpointConnectionError)


def _has_expired(error: Exception) -> bool:
    """Whether a credential helper answered with expired credentials: a retry would return the same.

    Source: `RefreshableCredentials._protected_refresh` of botocore, which has no exception class for it.
    """
    return isinstance(error, RuntimeError) and str(error).endswith("refreshed credentials are still expired.")


def _is_no_url(error: ValueError) -> bool:
    """Whether the SDK rejected the endpoint; its other ValueErrors come from unreadable credentials."""
    return str(error).startswith("Invalid endpoint")


def meaning_of_code(code: str, status: int, place: str, how: str) -> StarburstError:
    """Return the error of this package for S3's error code and HTTP status."""
    if code in _CHANGED:
        return PreconditionFailed(f"another writer was first: {place}")
    if code in _MISSING:
        return ObjectNotFound(f"no such object: {place}")
    if code in _LACKING:
        return ConfigError(f"this server lacks a required feature, use another: {place}, {how}, code={code}")
    if code in _UNCLEAR or status in _UNCLEAR_STATUS or status >= 500:  # noqa: PLR2004 - HTTP's limit between refusals and server errors
        return StoreUnavailable(
            f"S3 could not process the request now: {place}, {how}, code={code}, status={status}",
            is_busy=code in _BUSY or status in _BUSY_STATUS,
        )
    advice = _ADVICE.get(code, _ADVICE_ELSE)
    return AccessDenied(f"S3 refused, {advice}: {place}, {how}, code={code}, status={status}")


def error_code(error: Exception) -> str:
    """Return the error code of S3's answer; empty if the error is not an answer of S3."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
