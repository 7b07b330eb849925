"""Maps errors of SQLite and of the file system to the errors of this package."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from starburst_executor.errors import AccessDenied, RecordInvalid, StarburstError, StoreUnavailable

__all__ = ["Gone", "raise_translated", "translated"]

# Permanent errors: the path is blocked by another file, is not accessible, or is not a valid name.
_NEVER = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP),
        *(errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTSUP),
    }
)


class Gone(Exception):
    """The store file does not exist, or is buried: it has no objects and never will."""


def translated(error: BaseException, path: str) -> StarburstError | Gone | None:
    """Return the error of this package for an error of SQLite or the file system; None for other exceptions."""
    if isinstance(error, OSError):
        return _translated_os(error, path)
    if not isinstance(error, sqlite3.Error):
        return None
    text = str(error)
    if "no such table" in text:
        return Gone(path)
    if "disk is full" in text:
        return StoreUnavailable(f"disk full, free some space: file={path}")
    if "readonly" in text or "unable to open" in text:
        folder = Path(path).parent
        return AccessDenied(
            f"cannot use the embedded store, make its folder writable, copy it to one that is, or pass store=: {folder}: {text}"
        )
    # The last three: another program's tables with the same names.
    if any(
        words in text for words in ("not a database", "malformed", "no such column", "has no column", "columns but")
    ):
        return RecordInvalid(f"not a store, or damaged: move it away: file={path}: {text}")
    return StoreUnavailable(f"the embedded store did not answer: file={path}: {text}")


def _translated_os(error: OSError, path: str) -> StarburstError | Gone:
    folder = Path(path).parent
    if isinstance(error, FileNotFoundError):
        return Gone(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailable(f"disk full, free some space: file={path}")
    if error.errno in _NEVER:
        return AccessDenied(
            f"cannot use the embedded store, make its folder writable, copy it to one that is, or pass store=: {folder}: {error}"
        )
    return StoreUnavailable(f"the embedded store did not answer: file={path}: {error}")


def raise_translated(error: BaseException, path: str) -> None:
    """Raise the translation of an error of SQLite or the file system; return for other exceptions."""
    meaning = translated(error, path)
    if meaning is not None:
        raise meaning from error
