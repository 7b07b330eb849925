"""The session's functions on a worker: each is read and verified once, and sent to each runner once.

The bytes kept are bounded, because a method of an object that changes is a new function at each submit. Beyond the bound, the
least recently used functions are dropped, and read again if they are needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from starburst_executor.errors import StarburstError
from starburst_executor.protocol import calls
from starburst_executor.protocol.keys import is_loads
from starburst_executor.protocol.pieces import Shared
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.code import Code
from starburst_executor.worker.recent import Recent

__all__ = ["Function", "Functions"]

# Half the bound for arguments: most functions are small, and a larger one stays while it is in use.
_KEPT_BYTES = 128 * 2**20
# About the memory of a small function in addition to its bytes.
_EACH_BYTES = 512


class Function(NamedTuple):
    """A function and the code that it needs; a runner keeps the same code as long as it lives.

    Attributes:
        body: The stored function, for `calls.load_function`.
        code: The function's own code, then the initializer's: folders for the front of `sys.path`, or names of loads. A
            folder exists while this value is referenced (`worker/code.py`).
        shared: The shared values to which it refers.
    """

    body: bytes
    code: tuple[str, ...]
    shared: tuple[Shared, ...] = ()


class Functions:
    """Reads the session's functions and keeps the most recently used. Thread-safe.

    Attributes:
        initializer: The stored function that each runner calls first, or None. Read by the constructor: 1 GET.
    """

    def __init__(self, session: SessionStore, code: Code, *, keep_bytes: int = _KEPT_BYTES) -> None:
        self._session = session
        self._code = code
        digest = session.manifest.current.initializer
        self.initializer = None if digest is None else session.payloads.initializer(digest)
        self._lock = threading.Lock()  # guards: _bodies
        self._bodies: Recent[str, bytes] = Recent(keep_bytes)

    def get(self, digest: str) -> Function:
        """Return a function for a runner, with its code unpacked.

        Raises: PayloadError, RecordInvalid; LaunchError: this worker cannot write the code.
        Store: 1 GET if the function is not kept, 1 more for each code that is not unpacked.
        """
        with self._lock:
            body = self._bodies.get(digest)
        if body is None:
            body = self._session.payloads.function(digest)
            with self._lock:
                self._bodies.add(digest, body, len(body) + _EACH_BYTES)
        # The initializer runs first in every runner, so its code is on the path too: functions of another client may need
        # other code. If both contain a module, the function's takes precedence.
        names = dict.fromkeys(filter(None, (calls.code_of(body), self._initializer_code())))
        code = tuple(name if is_loads(name) else self._code.folder(name) for name in names)
        return Function(body, code, calls.shared_of(body))

    def fetching(self, digest: str) -> Callable[[], None] | None:
        """Return what reads a function that is not kept, for `get`, which raises what goes wrong; None if it is kept."""
        with self._lock:
            is_kept = self._bodies.get(digest) is not None
        return None if is_kept else partial(self._fetch, digest)

    def _fetch(self, digest: str) -> None:
        with suppress(StarburstError):
            self.get(digest)

    def _initializer_code(self) -> str:
        return "" if self.initializer is None else calls.code_of(self.initializer)
