"""What an artefact is: bytes that a trial saved, their digest and how to load them; and which names it may have. Pure.

    value ──opened──► a file of bytes, and their kind ──► artefact_store.py        bytes ──loaded──► value

Guarantee: the digest is that of the bytes as `study fetch` writes them, so `sha256sum` of a file shows it.
"""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from starburst_executor.errors import ConfigError
from starburst_executor.protocol import pickling

__all__ = [
    "ARRAY",
    "BYTES",
    "KEEP_ALL",
    "KEEP_NONE",
    "KEEP_SURVIVORS",
    "KINDS",
    "PICKLE",
    "POLICIES",
    "Artefact",
    "check_name",
    "keep_of",
    "loaded",
    "name_of",
    "of_plain",
    "opened",
]

BYTES, ARRAY, PICKLE = "bytes", "array", "pickle"
KINDS = (BYTES, ARRAY, PICKLE)
KEEP_ALL, KEEP_SURVIVORS, KEEP_NONE = "all", "survivors", "none"
POLICIES = (KEEP_ALL, KEEP_SURVIVORS, KEEP_NONE)  # whose artefacts a cleanup keeps
_MOST_CHARACTERS = 200
_MOST_BYTES = 255  # of a file's name, where it is fetched
_IN_MEMORY = 16 * 2**20  # of an array or a figure; the rest of it goes to a temporary file
_FIGURES = ("png", "pdf", "svg", "eps", "jpg", "jpeg", "webp")


class Artefact(NamedTuple):
    """What a trial saved under one name.

    Attributes:
        digest: The SHA-256 of its bytes.
        size: Their number.
        kind: `bytes` (also of files and figures), `array` (a NumPy file) or `pickle`.
    """

    digest: str
    size: int
    kind: str = BYTES


def check_name(name: object) -> str:
    """Return a name that is safe as a path below any folder. Raises: ValueError."""
    if isinstance(name, str) and name.isprintable() and 0 < len(name) <= _MOST_CHARACTERS and "\\" not in name:
        parts = name.split("/")
        if all(part not in ("", ".", "..") and len(part.encode()) <= _MOST_BYTES for part in parts):
            return name
    raise ValueError(
        f"name={name!r}: an artefact's name is printable text of 1 to {_MOST_CHARACTERS} characters, such as 'model.pt' or 'plots/roc.svg', "
        f"without '..' and '\\', its parts of at most {_MOST_BYTES} bytes"
    )


def keep_of(keep: str | None, where: str = "") -> str | None:
    """Return the policy of a cleanup that a user gave, if any. Raises: ConfigError."""
    if keep is None or keep in POLICIES:
        return keep
    raise ConfigError(f"{where}keep={keep!r}: must be one of {', '.join(POLICIES)}")


def name_of(value: object, name: str | None) -> str:
    """Return the name under which a value is saved: the given one, or that of its file. Raises: ValueError, TypeError."""
    if name is not None:
        return check_name(name)
    if isinstance(value, os.PathLike):
        return check_name(Path(os.fsdecode(value)).name)
    raise TypeError(f"an artefact that is no file needs a name: save(…, name=…), not of a {type(value).__name__}")


@contextmanager
def opened(value: Any, name: str) -> Iterator[tuple[IO[bytes], str]]:
    """Yield a value's bytes as a file that can be read twice, and their kind. Raises: any exception of opening or pickling it."""
    if isinstance(value, os.PathLike):
        path = Path(os.fsdecode(value))
        # Of a pipe there may never be an end, and it cannot be read twice.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"an artefact is a regular file, and {path} is none: name={name!r}")
        with path.open("rb") as file:
            yield file, BYTES
    elif isinstance(value, (bytes, bytearray, memoryview)):
        yield io.BytesIO(value), BYTES
    else:
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as written:
            kind = _write(value, name, written)
            written.seek(0)
            yield written, kind


def _write(value: Any, name: str, file: Any) -> str:
    if _is_array(value) and not value.dtype.hasobject:
        from numpy.lib import format as npy

        npy.write_array(file, value, allow_pickle=False)
        return ARRAY
    if callable(getattr(value, "savefig", None)):
        suffix = PurePosixPath(name).suffix.lstrip(".").lower()
        value.savefig(file, format=suffix if suffix in _FIGURES else "png")
        return BYTES
    pickling.dump(value, file)
    return PICKLE


def _is_array(value: Any) -> bool:
    kind = type(value)
    return kind.__module__ == "numpy" and kind.__name__ == "ndarray"


def loaded(body: bytes, kind: str) -> Any:
    """Return the value of an artefact's bytes. Runs code if it is a pickle: the caller trusts their digest."""
    if kind == ARRAY:
        from numpy.lib import format as npy

        return npy.read_array(io.BytesIO(body), allow_pickle=False)
    return pickle.loads(body) if kind == PICKLE else body  # noqa: S301 - its digest comes from a sealed outcome


def of_plain(values: Mapping[str, Any]) -> dict[str, Artefact]:
    """Return the artefacts of a stored outcome, by name. Raises: TypeError, ValueError: they are none."""
    found = {}
    for name, (digest, size, kind) in values.items():
        if not (type(digest) is str and type(size) is int and kind in KINDS):
            raise ValueError(f"an artefact that is none: {name!r}")
        found[name] = Artefact(digest, size, kind)
    return found
