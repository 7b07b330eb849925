"""Serves the dashboard on this machine until it is interrupted."""

from __future__ import annotations

import ipaddress
import re
import socket

import uvicorn

from starburst_executor.clock import SystemClock
from starburst_executor.dashboard.app import make_app
from starburst_executor.dashboard.hub import Places
from starburst_executor.dashboard.safety import Access, public_origin
from starburst_executor.errors import ConfigError
from starburst_executor.store.url import split_url

__all__ = ["Dashboard"]

_LOOPBACK = "127.0.0.1"
_GRACE_S = 2
_BACKLOG = 128
_PATH = re.compile(r"(/[\w.~-]+)*", re.ASCII)


class Dashboard:
    """A server that is bound to its port, and not running yet.

    Args:
        session_url: The session that its first page shows; None for the list of all.
        host: The address to listen at.
        port: The port; 0 for any that is free.
        root_path: The path under which a proxy serves it.
        hosts: Further names under which it may be asked for.
        origin: The address at which browsers see it behind a proxy: scheme, host and port.
        allows_actions: Whether sessions may be changed.
        notify: Recipients of messages about the session, as Apprise names them.

    Raises: ConfigError.
    """

    def __init__(
        self,
        places: Places,
        session_url: str | None = None,
        *,
        host: str = _LOOPBACK,
        port: int = 0,
        root_path: str = "",
        hosts: tuple[str, ...] = (),
        origin: str = "",
        allows_actions: bool = False,
        notify: tuple[str, ...] = (),
    ) -> None:
        if notify and session_url is None:
            raise ConfigError("messages are about one session: name it, as in `starburst dashboard last --notify URL`")
        root_path = f"/{root_path.strip('/')}" if root_path.strip("/") else ""
        if not _PATH.fullmatch(root_path):
            raise ConfigError(
                f"--root-path {root_path!r}: only letters, digits and -._~ between slashes, such as /user/me/proxy"
            )
        origin = public_origin(origin) if origin else ""
        self._host = host
        self._socket = _bound(host, port)
        self._port: int = self._socket.getsockname()[1]
        self.access = Access(
            port=self._port,
            hosts=frozenset({*hosts, host}),
            origin=origin,
            root_path=root_path,
            allows_actions=allows_actions,
        )
        self._page = "/"
        if session_url is not None:
            session_id = split_url(session_url)[1]
            places.known[session_id] = session_url
            self._page = f"/s/{session_id}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                make_app(places, self.access, SystemClock(), notify=notify),
                log_config=None,
                log_level="warning",
                # The first address has the token in it.
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_GRACE_S,
                lifespan="on",
            )
        )

    @property
    def url(self) -> str:
        """The address to open, with the token."""
        name = f"[{self._host}]" if ":" in self._host else self._host
        if _is_any(self._host):
            name = socket.gethostname()
        origin = self.access.origin or f"http://{name}:{self._port}"
        return f"{origin}{self.access.root_path}{self._page}?token={self.access.token}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self._host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self._host).is_loopback
        except ValueError:
            return False

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM, or until `stop`."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """End `run` from another thread."""
        self._server.should_exit = True

    def close(self) -> None:
        """Give the port back without serving."""
        self._socket.close()


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::", "")  # noqa: S104 - only compared


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        # From now on a browser that opens the printed address is not refused: it waits until the server runs.
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        raise ConfigError(
            f"the dashboard cannot listen at {host}:{port}: {error.strerror or error}; choose another --port or --host"
        ) from error
    return found
