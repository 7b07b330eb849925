"""The user's own modules on a worker: zips from the store, each unpacked once into its own folder.

    function ──names──► code/<month>/<digest> ──SHA-256 checked──► <root>/<digest>-<n>/ ──► first on `sys.path` of a runner

A session whose client reloads its modules often has many versions. The most recently used folders stay, and every folder
whose `Folder` is referenced: a slot holds it for its runner, which may import from the folder at any time. Other folders are
removed before the next one is unpacked.

Guarantee: a zip is unpacked only if its digest is the one that a sealed function names, and no file is written outside its
folder. A folder is complete before it gets its final name.
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
from starburst_executor.worker.code_root import WorkerFolder

__all__ = ["Code", "unpack"]

_EXECUTABLE = 0o100
# Folders that stay in addition to those in use. Each has up to 50 MB, zipped; a session's clients rarely use more versions at once.
_KEPT = 4


class Folder(str):
    """The path of unpacked code. The folder exists as long as this object is referenced."""

    __slots__ = ("__weakref__",)


class Code:
    """Folders with the code that functions name. Thread-safe; `close` removes them.

    Args:
        root_name: The name of the folder that contains them, from `code_root.new_name`.

    Attributes:
        folder_of_worker: That folder, for other files of the worker as well.
    """

    def __init__(self, session: SessionStore, root_name: str) -> None:
        self._session = session
        self.folder_of_worker = WorkerFolder(root_name)
        self._lock = threading.Lock()  # guards: _folders, _recent, _fetching
        self._writing = threading.Lock()  # guards: _n_unpacked; held while anything is unpacked or removed
        self._folders: weakref.WeakValueDictionary[str, Folder] = weakref.WeakValueDictionary()
        self._recent: deque[Folder] = deque(maxlen=_KEPT)  # the most recently used is last
        self._unused: deque[str] = deque()  # folders without references; filled by the garbage collector
        self._fetching: dict[str, threading.Event] = {}  # set when the folder is complete, or has failed
        self._n_unpacked = 0

    def folder(self, name: str) -> Folder:
        """Return the complete folder of the code with this name; wait if another thread is fetching it.

        Raises: PayloadError, RecordInvalid; LaunchError: this worker cannot write it. Store: 1 GET if it is not unpacked.
        """
        while True:
            with self._lock:
                known = self._folders.get(name)
                if known is not None:
                    self._want(known)
                    return known
                other_fetch = self._fetching.get(name)
                own_fetch = self._fetching.setdefault(name, threading.Event())
            if other_fetch is None:
                break
            other_fetch.wait()
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
            own_fetch.set()

    def _want(self, folder: Folder) -> None:
        if folder in self._recent:
            self._recent.remove(folder)
        self._recent.append(folder)

    def close(self) -> None:
        """Remove all folders, and refuse to unpack more, which slots may still request. A second call is harmless."""
        with self._lock:
            self._folders.clear()
            self._recent.clear()
        with self._writing:
            self.folder_of_worker.close()

    def _fetch(self, name: str) -> str:
        body = self._session.payloads.code(name)
        try:
            with self._writing:
                root = self.folder_of_worker.path()
                while self._unused:
                    shutil.rmtree(self._unused.popleft(), ignore_errors=True)
                # No path is used twice: a folder that is found unused late must not be removed after it was unpacked again.
                self._n_unpacked += 1
                folder = root / f"{code_digest(name)}-{self._n_unpacked}"
                unpack(body, folder)
        except OSError as error:
            raise LaunchError(
                f"the user's modules cannot be unpacked on this worker: {error.strerror}: folder={tempfile.gettempdir()}; "
                "free space in it, or set TMPDIR"
            ) from error
        return str(folder)


def unpack(body: bytes, folder: Path) -> None:
    """Unpack a zip of plain files into `folder`, which must not exist.

    Raises: RecordInvalid: it is not a zip, or names a file outside `folder`; OSError.
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
    # NotImplementedError: a compression that this Python cannot read; RuntimeError: an encrypted entry.
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise RecordInvalid(f"code is not a zip: {error}") from error


def _inside(name: str) -> PurePosixPath:
    place = PurePosixPath(name)
    if not name or name.endswith("/") or place.is_absolute() or ".." in place.parts or "\\" in name or "\0" in name:
        raise RecordInvalid(f"code with a file outside its folder: {name!r}")
    return place
