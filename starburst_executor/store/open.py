"""Opens the store that a URL names: the only module that knows which stores there are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from starburst_executor.errors import ConfigError
from starburst_executor.store.base import ObjectStore

__all__ = ["open_store", "preload", "register_scheme"]

_FORMS = "sqlite:///absolute/folder or s3://bucket/prefix"


def open_store(url: str) -> ObjectStore:
    """Make the store that `url` names; nothing is read, written or connected to yet.

    Args:
        url: `sqlite:///absolute/folder`, or `s3://bucket/prefix`, which may go on with
            `?endpoint_url=…&region=…&profile=…`. Credentials do not belong in it.
    Raises:
        ConfigError: it is no URL of a store.
    """
    opener = _openers.get(urlsplit(url).scheme)
    if opener is None:
        raise ConfigError(f"a store's URL is {_FORMS}: url={url!r}")
    return opener(url)


def preload(url: str) -> None:
    """Load what `open_store(url)` and its store will need, for a process that goes on to fork.

    Guarantee: starts no thread, opens no file or connection that stays, looks for no credentials.
    """
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        import starburst_executor.store.sqlite.store
    elif scheme == "s3":
        import starburst_executor.store.s3.store  # noqa: F401 - loaded for later
        from starburst_executor.store.s3 import connections

        connections.preload()


def register_scheme(scheme: str, opener: Callable[[str], ObjectStore]) -> None:
    """Let `open_store` open URLs of one more scheme in this process; a second call replaces the first."""
    _openers[scheme] = opener


def _open_sqlite(url: str) -> ObjectStore:
    from starburst_executor.store.sqlite.store import SqliteStore

    parts = urlsplit(url)
    # Four slashes, as SQLAlchemy has them, name the same folder as three; a name that is no text in UTF-8 is kept as it is.
    path = re.sub(r"\A/+", "/", unquote(parts.path, errors="surrogateescape"))
    if parts.netloc or not path.startswith("/"):
        problem = "must be an absolute path behind three slashes"
    elif parts.query or parts.fragment:
        problem = "? is written as %3F, and # as %23"
    elif "\0" in path:
        problem = "a path has no NUL"
    elif path.rstrip("/") in ("", "/.") or path == "/~" or path.startswith("/~/"):
        problem = "must be a folder below the root, and ~ is not expanded"
    else:
        return SqliteStore(Path(path))
    raise ConfigError(f"an embedded store's URL is sqlite:///absolute/folder: {problem}: url={url!r}")


def _open_s3(url: str) -> ObjectStore:
    from starburst_executor.store.s3.store import S3Store

    return S3Store.from_url(url)


_openers: dict[str, Callable[[str], ObjectStore]] = {"sqlite": _open_sqlite, "s3": _open_s3}
