"""Creates the boto3 clients of one stack, with region, profile, retries and user agent.

Not for S3 objects: a session's store has its own clients (`store/s3/store.py`), whose retries are off.
"""

from __future__ import annotations

import threading
from typing import Any

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
from starburst_executor.store.s3.sdk import new_session
from starburst_executor.version import __version__

__all__ = ["FOREIGN", "Clients", "Passing", "error_code", "is_denied", "is_throttled", "is_unclear", "meaning"]

# The exceptions of the SDK; the last is for an answer that does not come from AWS, such as a gateway's HTML page.
FOREIGN = (ClientError, BotoCoreError, ResponseParserError)

_CONNECT_S, _READ_S = 5.0, 30.0
_POOL = 16
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized", "403"})
_THROTTLED = frozenset({"Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded"})
_UNCLEAR = frozenset(
    {"InternalFailure", "RequestTimeout", "ServerException", "ServiceUnavailable", "ServiceUnavailableException"}
)
_WORDS_MOST = 500  # characters of an error message, which may contain a whole HTML page
_BROKEN = 500  # and above: HTTP's codes for errors of the server
_WHO = {
    "ExpiredToken": "the credentials have expired: log in again",
    "ExpiredTokenException": "the credentials have expired: log in again",
    "InvalidClientTokenId": "the access key does not exist: check which credentials are found (`aws sts get-caller-identity`)",
    "UnrecognizedClientException": "the access key does not exist, or the region is not enabled for this account",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key: correct it",
    "RequestExpired": "this machine's clock is wrong: correct it",
}


class Passing(LaunchError):
    """AWS was busy or unreachable: the request itself may be correct. Retry later."""


class Clients:
    """boto3 clients for one region and profile, each created on first use. Thread-safe.

    Args:
        settings: Region and profile; boto3's rules apply where they are None.
        tries: The total number of tries of a call; 1 for callers that resolve unclear answers themselves.
    """

    def __init__(self, settings: AwsSettings, *, tries: int = 8) -> None:
        self.settings = settings
        self._tries = tries
        self._lock = threading.Lock()  # guards: _session, _made; creating a client is not thread-safe, using one is
        self._session: Any = None
        self._made: dict[tuple[str, str], Any] = {}

    @property
    def region(self) -> str:
        """The region in use. Raises: ConfigError if none is configured."""
        with self._lock:
            return self._region()

    @property
    def partition(self) -> str:
        """The region's partition, the second field of ARNs: `aws`, `aws-cn`, `aws-us-gov`. Raises: ConfigError."""
        with self._lock:
            return str(self._opened().get_partition_for_region(self._region()))

    def account_id(self) -> str:
        """Return the account id of the credentials. Raises: ConfigError, LaunchError. STS: 1."""
        try:
            return str(self.get("sts").get_caller_identity()["Account"])
        except FOREIGN as error:
            raise meaning(error, "reading the account id") from error

    def get(self, service: str, *, region: str | None = None) -> Any:
        """Return the client of a service: `get("ecs")`. `region` is for services with endpoints in few regions. Raises: ConfigError."""
        with self._lock:
            place = region or self._region()
            if (service, place) not in self._made:
                config = Config(
                    # Throttling slows down all later calls too: ECS's rate limits are shared by the whole account.
                    retries={"mode": "adaptive", "total_max_attempts": self._tries},
                    connect_timeout=_CONNECT_S,
                    read_timeout=_READ_S,
                    max_pool_connections=_POOL,
                    user_agent_extra=f"starburst/{__version__}",
                )
                self._made[service, place] = self._opened().client(service, region_name=place, config=config)
            return self._made[service, place]

    def _region(self) -> str:
        region = self.settings.region or self._opened().region_name
        if not region:
            raise ConfigError(
                "no AWS region: pass region=, set STARBURST_AWS_REGION or AWS_REGION, or run `starburst setup --region …`"
            )
        return str(region)

    def _opened(self) -> Any:
        if self._session is None:
            try:
                self._session = new_session(self.settings.profile)
            except ProfileNotFound as error:
                raise ConfigError(
                    f"no such profile in the AWS config files: profile={self.settings.profile!r}; use another, or add "
                    "it with `aws configure`"
                ) from error
        return self._session


def meaning(error: Exception, doing: str) -> StarburstError:
    """Return the error of this package to raise instead of a foreign one: `ConfigError` if the credentials are wrong, else
    `LaunchError`, which is `Passing` if a retry may succeed.

    Args:
        doing: The action, for the message: "reading the stack".
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
        return kind(f"AWS answered with an error: {doing}: {code}: {_words(error)}")
    return kind(f"no answer from AWS: {doing}: {type(error).__name__}: {str(error)[:_WORDS_MOST]}")


def is_throttled(error: Exception) -> bool:
    """Whether AWS throttled the request: it was not carried out, and may be retried."""
    text = str(error).lower()
    return error_code(error) in _THROTTLED or "rate exceeded" in text or "requestlimitexceeded" in text


def is_unclear(error: Exception) -> bool:
    """Whether the call may or may not have been carried out."""
    if isinstance(error, ClientError):
        status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(error) in _UNCLEAR or status >= _BROKEN
    return isinstance(error, (HTTPClientError, NoConnection, ResponseParserError))


def is_denied(error: Exception) -> bool:
    """Whether AWS refused the request for lack of a right."""
    return error_code(error) in _DENIED or error_code(error).startswith("AccessDenied")


def error_code(error: Exception) -> str:
    """Return the error code of AWS's answer; empty if the error is not an answer of AWS."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _words(error: Exception) -> str:
    if not isinstance(error, ClientError):
        return str(error)
    return str(error.response.get("Error", {}).get("Message", "")) or str(error)
