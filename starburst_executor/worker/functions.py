"""The session's functions as a worker has them: read and checked once, handed to each runner once."""

from __future__ import annotations

from typing import NamedTuple

from starburst_executor.protocol import calls
from starburst_executor.protocol.keys import is_loads
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.code import Code

__all__ = ["Function", "Functions"]


class Function(NamedTuple):
    """A function and the modules that it needs; a runner has the same ones for life.

    Attributes:
        body: As `calls.load_function` reads it.
        code: The function's own, then the initializer's: folders for the front of `sys.path`, or names of loads.
    """

    body: bytes
    code: tuple[str, ...]


class Functions:
    """The session's functions, read once each. Thread-safe.

    Attributes:
        initializer: What each runner calls first, or None. Read when this is made: 1 GET.
    """

    def __init__(self, session: SessionStore, code: Code) -> None:
        self._session = session
        self._code = code
        digest = session.manifest.initializer
        self.initializer = None if digest is None else session.initializer(digest)
        self._known: dict[str, Function] = {}

    def get(self, digest: str) -> Function:
        """A function that a runner can be given, with its code unpacked.

        Raises: PayloadError, RecordInvalid; LaunchError: the code cannot be written here.
        Store: 1 GET the first time, 1 more for each code that is new to this worker.
        """
        if digest not in self._known:
            body = self._session.function(digest)
            # The initializer runs first in every runner, so its modules are there too: another client's functions may
            # come with other code. Where both have a module, the function's counts.
            names = dict.fromkeys(filter(None, (calls.code_of(body), self._initializer_code())))
            self._known[digest] = Function(
                body, tuple(name if is_loads(name) else self._code.folder(name) for name in names)
            )
        return self._known[digest]

    def _initializer_code(self) -> str:
        return "" if self.initializer is None else calls.code_of(self.initializer)
