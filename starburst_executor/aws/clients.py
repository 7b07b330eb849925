"""The boto3 clients of one stack, made in one place: region, profile, retries, and the name under which we call.

Not for S3 objects: a session's store has an engine of its own (`store/s3/store.py`), whose retries are off.
"""

from __future__ import annotations

import threading
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError

from starburst_executor.config import AwsSettings
from starburst_executor.errors import ConfigError, LaunchError, StarburstError
from starburst_executor.version import __version__

__all__ = ["FOREIGN", "Clients", "Passing", "error_code", "is_denied", "is_throttled", "is_unclear", "meaning"]

# What the SDK raises; the last for an answer that is none of AWS's, such as a gateway's page in HTML.
FOREIGN = (ClientError, BotoCoreError, ResponseParserError)

_CONNECT_S, _READ_S = 5.0, 30.0
_POOL = 16
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized", "403"})
_THROTTLED = frozenset({"Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded"})
_UNCLEAR = frozenset(
    {"InternalFailure", "RequestTimeout", "ServerException", "ServiceUnavailable", "ServiceUnavailableException"}
)
_WORDS_MOST = 500  # of an answer that is a page
_BROKEN = 500  # and above: HTTP's codes for what is not the caller's fault
_WHO = {
    "ExpiredToken": "the credentials have expired: log in again",
    "ExpiredTokenException": "the credentials have expired: log in again",
    "InvalidClientTokenId": "no such access key: check which credentials are found (`aws sts get-caller-identity`)",
    "UnrecognizedClientException": "no such access key, or a region that is not enabled for this account",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key: correct it",
    "RequestExpired": "this machine's clock is wrong: set it",
}


class Passing(LaunchError):
    """AWS was too busy, or not to be reached: nothing is known to be wrong. Try the same again in a while."""


class Clients:
    """boto3's clients of one region and profile, each made when first asked for. Thread-safe.

    Args:
        settings: Region and profile; what is None is found as boto3 finds it.
        tries: How often a call is tried in all. 1 for those who decide themselves what an unclear answer means.
    """

    def __init__(self, settings: AwsSettings, *, tries: int = 8) -> None:
        self.settings = settings
        self._tries = tries
        self._lock = threading.Lock()  # guards _session and _made: making a client is not thread-safe, using one is
        self._session: Any = None
        self._made: dict[tuple[str, str], Any] = {}

    @property
    def region(self) -> str:
        """The region that is in use. Raises: ConfigError if none is named anywhere."""
        with self._lock:
            return self._region()

    @property
    def partition(self) -> str:
        """What ARNs there begin with after "arn": `aws`, `aws-cn`, `aws-us-gov`. Raises: ConfigError."""
        with self._lock:
            return str(self._found().get_partition_for_region(self._region()))

    def account_id(self) -> str:
        """Whose account the credentials are of. Raises: ConfigError, LaunchError. STS: 1."""
        try:
            return str(self.get("sts").get_caller_identity()["Account"])
        except FOREIGN as error:
            raise meaning(error, "asking whose account this is") from error

    def get(self, service: str, *, region: str | None = None) -> Any:
        """The client of a service: `get("ecs")`. `region` for the few whose endpoint is elsewhere. Raises: ConfigError."""
        with self._lock:
            where = region or self._region()
            if (service, where) not in self._made:
                config = Config(
                    # Throttled calls slow down the next ones as well: ECS's buckets are shared by the whole account.
                    retries={"mode": "adaptive", "total_max_attempts": self._tries},
                    connect_timeout=_CONNECT_S,
                    read_timeout=_READ_S,
                    max_pool_connections=_POOL,
                    user_agent_extra=f"starburst/{__version__}",
                )
                self._made[service, where] = self._found().client(service, region_name=where, config=config)
            return self._made[service, where]

    def _region(self) -> str:
        region = self.settings.region or self._found().region_name
        if not region:
            raise ConfigError(
                "no AWS region: pass region=, set STARBURST_AWS_REGION or AWS_REGION, or run `starburst setup --region …`"
            )
        return str(region)

    def _found(self) -> Any:
        if self._session is None:
            try:
                self._session = boto3.Session(profile_name=self.settings.profile)
            except ProfileNotFound as error:
                raise ConfigError(
                    f"no such profile in the AWS config files: profile={self.settings.profile!r}; name another, or add "
                    "it with `aws configure`"
                ) from error
        return self._session


def meaning(error: Exception, doing: str) -> StarburstError:
    """The error to raise instead of a foreign one: `ConfigError` where credentials are at fault, else `LaunchError`, which
    is `Passing` where the same may go well in a while.

    Args:
        doing: What was tried, for the message: "reading the stack".
    """
    code = error_code(error)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, TokenRetrievalError, UnauthorizedSSOTokenError)):
        return ConfigError(
            f"no usable AWS credentials: provide them as for every AWS tool (environment, profile, `aws sso login`, "
            f"role), or name a profile: {doing}: {error}"
        )
    if code in _WHO:
        return ConfigError(f"{_WHO[code]}: {doing}: {_words(error)}")
    if is_denied(error):
        return LaunchError(f"AWS refused, these credentials lack a right: {doing}: {_words(error)}")
    kind = Passing if is_throttled(error) or is_unclear(error) else LaunchError
    if isinstance(error, ClientError):
        return kind(f"AWS answered an error: {doing}: {code}: {_words(error)}")
    return kind(f"no answer from AWS: {doing}: {type(error).__name__}: {str(error)[:_WORDS_MOST]}")


def is_throttled(error: Exception) -> bool:
    """Whether AWS refused because it was asked too often: nothing was done, and it may be asked again."""
    text = str(error).lower()
    return error_code(error) in _THROTTLED or "rate exceeded" in text or "requestlimitexceeded" in text


def is_unclear(error: Exception) -> bool:
    """Whether nobody knows if the call was carried out."""
    if isinstance(error, ClientError):
        status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(error) in _UNCLEAR or status >= _BROKEN
    return isinstance(error, (HTTPClientError, NoConnection, ResponseParserError))


def is_denied(error: Exception) -> bool:
    """Whether AWS knew who asked, and refused."""
    return error_code(error) in _DENIED or error_code(error).startswith("AccessDenied")


def error_code(error: Exception) -> str:
    """AWS's own word for what went wrong; empty if it was not AWS who spoke."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _words(error: Exception) -> str:
    if not isinstance(error, ClientError):
        return str(error)
    return str(error.response.get("Error", {}).get("Message", "")) or str(error)
