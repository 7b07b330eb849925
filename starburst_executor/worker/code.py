"""The user's own modules as a worker has them: zips from the store, each unpacked once into a folder of its own.

    function ──names──► code/<month>/<digest> ──SHA-256 checked──► <root>/<digest>-<n>/ ──► first on `sys.path` of a runner

A session whose client reloads its modules all day has many. Those wanted last stay, and each as long as somebody holds its
`Folder`, as a slot does for its runner, which may import from there at any time. The others are removed before the next
one is unpacked.

# Guarantee: only what is under the digest that a sealed function names is ever unpacked, and nothing is written outside
the folder that it belongs in. A folder is complete before it has its name.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
import zipfile
from collections import deque
from io import BytesIO
from pathlib import Path, PurePosixPath

from starburst_executor.errors import LaunchError, RecordInvalid
from starburst_executor.protocol.keys import code_digest
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.code_root import CodeRoot

__all__ = ["Code", "unpack"]

_EXECUTABLE = 0o100
# Folders that stay beside those in use. Each has up to 50 MB, zipped; clients of one session rarely have more versions at work.
_KEPT = 4


class Folder(str):
    """The path of unpacked code, which is there as long as this very object is."""

    __slots__ = ("__weakref__",)


class Code:
    """Folders with the code that functions name. Thread-safe; `close` removes them.

    Args:
        root_name: Of the folder that holds them all, from `code_root.new_name`.
    """

    def __init__(self, session: SessionStore, root_name: str) -> None:
        self._session = session
        self._root_name = root_name
        self._lock = threading.Lock()  # guards: _folders, _recent, _fetching
        self._writing = (
            threading.Lock()
        )  # guards: _root, _is_closed, _n_unpacked; held while anything is unpacked or removed
        self._folders: weakref.WeakValueDictionary[str, Folder] = weakref.WeakValueDictionary()
        self._recent: deque[Folder] = deque(maxlen=_KEPT)  # the one wanted last is the last
        self._unused: deque[str] = deque()  # folders that nobody refers to any more; filled by the garbage collector
        self._fetching: dict[str, threading.Event] = {}  # set when it is there, or has failed
        self._root: CodeRoot | None = None
        self._is_closed = False
        self._n_unpacked = 0

    def folder(self, name: str) -> Folder:
        """The folder of the code of this name, complete; whoever asks while it is fetched waits for that.

        Raises: PayloadError, RecordInvalid; LaunchError: it cannot be written here. Store: 1 GET if it is not there.
        """
        while True:
            with self._lock:
                known = self._folders.get(name)
                if known is not None:
                    self._want(known)
                    return known
                others = self._fetching.get(name)
                mine = self._fetching.setdefault(name, threading.Event())
            if others is None:
                break
            others.wait()
        try:
            folder = Folder(self._fetch(name))
            weakref.finalize(folder, self._unused.append, str(folder)).atexit = False
            with self._lock:
                self._folders[name] = folder
                self._want(folder)
            return folder
        finally:
            with self._lock:
                del self._fetching[name]
            mine.set()

    def _want(self, folder: Folder) -> None:
        if folder in self._recent:
            self._recent.remove(folder)
        self._recent.append(folder)

    def close(self) -> None:
        """Remove what was unpacked, and unpack no more: slots may still ask. A second call is harmless."""
        with self._lock:
            self._folders.clear()
            self._recent.clear()
        with self._writing:
            self._is_closed = True
            if self._root is not None:
                self._root.close()
                self._root = None

    def _fetch(self, name: str) -> str:
        body = self._session.code(name)
        try:
            with self._writing:
                if self._is_closed:
                    raise LaunchError("this worker ends, and unpacks no more modules of the user's")
                if self._root is None:
                    self._root = CodeRoot(self._root_name)
                while self._unused:
                    shutil.rmtree(self._unused.popleft(), ignore_errors=True)
                # No path is used twice: what is found unused late must not be what has been unpacked again.
                self._n_unpacked += 1
                folder = self._root.path / f"{code_digest(name)}-{self._n_unpacked}"
                unpack(body, folder)
        except OSError as error:
            raise LaunchError(
                f"the user's modules cannot be unpacked on this worker: {error.strerror}: folder={tempfile.gettempdir()}; "
                "make room there, or set TMPDIR"
            ) from error
        return str(folder)


def unpack(body: bytes, folder: Path) -> None:
    """Unpack a zip of plain files beneath `folder`, which must not be there yet.

    Raises: RecordInvalid: it is no zip, or names something outside of `folder`; OSError.
    """
    try:
        with zipfile.ZipFile(BytesIO(body)) as archive:
            places = {entry: _inside(entry.filename) for entry in archive.infolist()}
            unfinished = folder.with_name(f"{folder.name}.unfinished")
            unfinished.mkdir()
            for entry, place in places.items():
                file = unfinished / place
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(archive.read(entry))
                if (entry.external_attr >> 16) & _EXECUTABLE:
                    file.chmod(0o755)
            unfinished.rename(folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise RecordInvalid(f"code that is no zip: {error}") from error


def _inside(name: str) -> PurePosixPath:
    place = PurePosixPath(name)
    if not name or name.endswith("/") or place.is_absolute() or ".." in place.parts or "\\" in name or "\0" in name:
        raise RecordInvalid(f"code with a file that lies outside of its folder: {name!r}")
    return place
