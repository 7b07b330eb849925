"""A session's URL: the URL of its store, and its id as the last part of the path."""

from __future__ import annotations

from starburst_executor.errors import ConfigError
from starburst_executor.protocol.keys import is_session_id

__all__ = ["join_url", "split_url"]


def join_url(store_url: str, session_id: str) -> str:
    """The session's URL: `s3://bucket/prefix/<id>?region=…`, `sqlite:///folder/<id>`."""
    base, mark, query = store_url.partition("?")
    return f"{base}{'' if base.endswith('/') else '/'}{session_id}{mark}{query}"


def split_url(url: str) -> tuple[str, str]:
    """The store's URL and the session's id. Raises: ConfigError."""
    base, mark, query = url.partition("?")
    store_url, _, session_id = base.rpartition("/")
    if "://" not in base or not is_session_id(session_id):
        raise ConfigError(
            f"not a session's URL: {url!r}; expected a store's URL and the session's id as the last part of its path, as "
            "in s3://bucket/prefix/<id> or sqlite:///folder/<id>"
        )
    return f"{store_url}{mark}{query}", session_id
