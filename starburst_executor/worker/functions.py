"""The session's functions as a worker has them: read and checked once, handed to each runner once.

What is kept is bounded: a method of an object that changes is another function at each submit. Beyond the bound, what was not
wanted for longest is forgotten, and read again if it is wanted again.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from starburst_executor.protocol import calls
from starburst_executor.protocol.keys import is_loads
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.code import Code
from starburst_executor.worker.recent import Recent

__all__ = ["Function", "Functions"]

# Half of what is kept of arguments: most functions are small, and one that is bigger stays while it is used.
_KEPT_BYTES = 128 * 2**20
# What a small function takes in memory beside its bytes, about.
_EACH_BYTES = 512


class Function(NamedTuple):
    """A function and the modules that it needs; a runner has the same ones for life.

    Attributes:
        body: As `calls.load_function` reads it.
        code: The function's own, then the initializer's: folders for the front of `sys.path`, or names of loads. A folder
            lasts while this is referred to (`worker/code.py`).
    """

    body: bytes
    code: tuple[str, ...]


class Functions:
    """The session's functions, those wanted last. Thread-safe.

    Attributes:
        initializer: What each runner calls first, or None. Read when this is made: 1 GET.
    """

    def __init__(self, session: SessionStore, code: Code, *, keep_bytes: int = _KEPT_BYTES) -> None:
        self._session = session
        self._code = code
        digest = session.manifest.initializer
        self.initializer = None if digest is None else session.initializer(digest)
        self._lock = threading.Lock()  # guards: _bodies
        self._bodies: Recent[str, bytes] = Recent(keep_bytes)

    def get(self, digest: str) -> Function:
        """A function that a runner can be given, with its code unpacked.

        Raises: PayloadError, RecordInvalid; LaunchError: the code cannot be written here.
        Store: 1 GET if it is not kept, 1 more for each code that is not.
        """
        with self._lock:
            body = self._bodies.get(digest)
        if body is None:
            body = self._session.function(digest)
            with self._lock:
                self._bodies.add(digest, body, len(body) + _EACH_BYTES)
        # The initializer runs first in every runner, so its modules are there too: another client's functions may
        # come with other code. Where both have a module, the function's counts.
        names = dict.fromkeys(filter(None, (calls.code_of(body), self._initializer_code())))
        return Function(body, tuple(name if is_loads(name) else self._code.folder(name) for name in names))

    def _initializer_code(self) -> str:
        return "" if self.initializer is None else calls.code_of(self.initializer)
