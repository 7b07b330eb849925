"""A proxy as nginx's `proxy_pass` is: it asks its upstream with the upstream's own Host, and may take a path off."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress

__all__ = ["RewritingProxy"]


class RewritingProxy:
    """A proxy that serves from the beginning to the end of a `with` block; its port is known before its upstream's.

    Attributes:
        upstream: The port of this machine that it asks.
    """

    def __init__(self, *, path: str = "") -> None:
        self.upstream = 0
        self._path = path
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="rewriting-proxy")

    def __enter__(self) -> RewritingProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # ends its `accept`
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=_pass_on, args=(client, self.upstream, self._path), daemon=True).start()


def _pass_on(client: socket.socket, upstream: int, path: str) -> None:
    """Pass one request on and its answer back. Browsers open another connection for the next one."""
    with client, suppress(OSError):
        head = b""
        while b"\r\n\r\n" not in head:
            if not (part := client.recv(65_536)):
                return
            head += part
        head, _, body = head.partition(b"\r\n\r\n")
        head = re.sub(rb"(?im)^(host|connection):.*\r\n", b"", head + b"\r\n")
        first, _, rest = head.partition(b"\r\n")
        first = first.replace(b" " + path.encode() + b"/", b" /", 1)
        with socket.create_connection(("127.0.0.1", upstream)) as there:
            there.sendall(
                first + f"\r\nHost: 127.0.0.1:{upstream}\r\nConnection: close\r\n".encode() + rest + b"\r\n" + body
            )
            threading.Thread(target=_copy, args=(client, there), daemon=True).start()
            _copy(there, client)
            for end in (client, there):
                end.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65_536):
            target.sendall(part)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
