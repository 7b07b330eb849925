"""Packs this library as a wheel, from the files of the running process.

So an image contains exactly the client's code: a released version, or a checkout with local changes, without a package
index or build tool. Equal files give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from starburst_executor import version
from starburst_executor.errors import ConfigError
from starburst_executor.version import __version__

__all__ = ["Wheel", "library_wheel"]

_DISTRIBUTION = "starburst-executor"
_DATE = (1980, 1, 1, 0, 0, 0)
_KINDS = frozenset({".py", ".typed", ".yaml"})
_MODE, _UNIX = 0o100644 << 16, 3
_WHEEL = "Wheel-Version: 1.0\nGenerator: starburst-executor\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Wheel(NamedTuple):
    """A wheel's file name and bytes."""

    name: str
    body: bytes


def library_wheel() -> Wheel:
    """Return the wheel of this library. Raises: ConfigError: it is not installed, so its dependencies are unknown.

    Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
    """
    try:
        requires = metadata.requires(_DISTRIBUTION) or ()
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"{_DISTRIBUTION} is on the path but not installed: `pip install` it") from error
    about = f"Metadata-Version: 2.1\nName: {_DISTRIBUTION}\nVersion: {__version__}\n"
    about += "".join(f"Requires-Dist: {line}\n" for line in requires if "extra ==" not in line)
    info = f"starburst_executor-{__version__}.dist-info"
    root = Path(version.__file__).parent
    # By suffix: other files may not belong to the library, and only installed copies contain a Dockerfile.
    sources = (path for path in root.rglob("*") if path.suffix in _KINDS and path.is_file())
    files = {f"{root.name}/{path.relative_to(root).as_posix()}": path.read_bytes() for path in sources}
    files = dict(sorted(files.items())) | {f"{info}/METADATA": about.encode(), f"{info}/WHEEL": _WHEEL.encode()}
    record = "".join(f"{name},sha256={_hash(body)},{len(body)}\n" for name, body in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    stream = io.BytesIO()
    # Not compressed: zlib versions give different bytes, and the bytes determine the image's tag.
    with zipfile.ZipFile(stream, "w") as archive:
        for name, body in files.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr, entry.create_system = _MODE, _UNIX
            archive.writestr(entry, body)
    return Wheel(f"starburst_executor-{__version__}-py3-none-any.whl", stream.getvalue())


def _hash(body: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
