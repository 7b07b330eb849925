"""The server before it runs: its address, its port, and what it refuses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from starburst_executor.dashboard.hub import Places
from starburst_executor.dashboard.serve import Dashboard
from starburst_executor.errors import ConfigError


@contextmanager
def made(session_url: str | None = None, **options: Any) -> Iterator[Dashboard]:
    dashboard = Dashboard(Places([]), session_url, **options)
    try:
        yield dashboard
    finally:
        dashboard.close()


def test_an_address_that_was_printed_is_open() -> None:
    """Before the server runs: a browser waits, and is not refused."""
    with made() as dashboard:
        port = int(dashboard.url.split(":")[2].partition("/")[0])
        socket.create_connection(("127.0.0.1", port), timeout=60).close()


def test_the_address_leads_to_the_session_under_the_root_path() -> None:
    with made("s3://bucket/team/some-session?region=x", root_path="/user/me/") as dashboard:
        assert dashboard.url.partition("?")[0].endswith("/user/me/s/some-session")
        assert dashboard.url.endswith(dashboard.access.token)
        assert dashboard.is_local


def test_behind_a_proxy_the_address_is_the_proxys() -> None:
    with made(origin="https://Hub.example.org/", root_path="/starburst") as dashboard:
        assert dashboard.url == f"https://hub.example.org/starburst/?token={dashboard.access.token}"
        assert dashboard.access.knows("hub.example.org")


@pytest.mark.parametrize("root_path", ["/a b", "/a/<script>", "/a//b", "/\u00e4", "/a?b"])
def test_a_root_path_that_is_none_is_an_error(root_path: str) -> None:
    with pytest.raises(ConfigError, match="root-path"), made(root_path=root_path):
        pass


def test_a_port_that_is_taken_is_an_error() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}"), made(port=port):
            pass


@pytest.mark.parametrize(("host", "is_local"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_it_knows_whether_others_can_reach_it(host: str, is_local: bool) -> None:
    with made(host=host) as dashboard:
        assert dashboard.is_local is is_local
