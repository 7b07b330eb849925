"""What an answer of S3, or the lack of one, means to callers of the store.

    answer                                              becomes
    412 on a condition                                  PreconditionFailed
    404 of the object                                   ObjectNotFound
    409, 429, 5xx, timeout, reset, body cut short       StoreUnavailable: try the same again
    200 with something that is no answer to it          StoreUnavailable
    501                                                 ConfigError: the server lacks what we need
    any other refusal: credentials, bucket, rights, …   AccessDenied: nothing to try again

    no request, since there are no credentials at all,
    theirs are over, or a person has to log in          AccessDenied
    no request, since the configuration is wrong        ConfigError
    no request for any other reason                     StoreUnavailable: a helper or a metadata service had a bad moment

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

# What the SDK raises, and the sockets, helpers and parsers below it. The second line is what it lets through by accident:
# a program that prints credentials of another form, a date that cannot be read, a helper whose credentials have expired.
FOREIGN = (
    *(ClientError, BotoCoreError, ResponseParserError, OSError, HTTPError, HTTPException, SubprocessError),
    *(RuntimeError, ValueError, LookupError, AttributeError, TypeError),
)
# By name, since older versions of botocore lack some. A person has to do something about these ...
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
# ... and these are settings that cannot work, now or later. All others may pass.
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
# 304: nobody had asked whether anything had changed.
_UNCLEAR_STATUS = frozenset({304, 408, 409, 429})
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
    if isinstance(error, ParamValidationError) or (isinstance(error, ValueError) and _is_no_url(error)):
        return ConfigError(f"not something to ask of S3: {place}: {error}")
    if _has_expired(error):
        advice = _ADVICE["ExpiredToken"]
        return AccessDenied(f"cannot sign requests to S3, {advice}: {place}, {how}: {error}")
    if isinstance(error, _LOG_IN_FIRST):
        advice = "provide credentials as for every AWS tool: environment, profile or role"
        return AccessDenied(f"cannot sign requests to S3, {advice}: {place}, {how}: {type(error).__name__}: {error}")
    if isinstance(error, _MISCONFIGURED):
        return ConfigError(f"S3 cannot be asked with these settings: {place}, {how}: {type(error).__name__}: {error}")
    return StoreUnavailable(f"no answer from S3: {place}, {how}: {type(error).__name__}: {error}")


def is_nowhere(error: Exception) -> bool:
    """Whether no server was found under the address that was asked."""
    return isinstance(error, EndpointConnectionError)


def _has_expired(error: Exception) -> bool:
    """Whether a helper has answered, and with credentials that are over: asking it again gives the same.

    Source: `RefreshableCredentials._protected_refresh` of botocore, which has no class for it.
    """
    return isinstance(error, RuntimeError) and str(error).endswith("refreshed credentials are still expired.")


def _is_no_url(error: ValueError) -> bool:
    """Whether this is what the SDK says of an endpoint; other ValueErrors come from credentials that cannot be read."""
    return str(error).startswith("Invalid endpoint")


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
