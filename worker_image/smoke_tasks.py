"""What the session of `smoke.py` runs in a container: a module of the user's own, which is not in the image."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tqdm

import starburst_executor


def look_around() -> dict[str, object]:
    """Who and where this runs."""
    return {
        "python": list(sys.version_info[:2]),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "library": starburst_executor.__file__,
        "is_compiled": Path(starburst_executor.__cached__).is_file(),
        "packages": tqdm.__name__,
        "code": __file__,
        "temporary": tempfile.gettempdir(),
        "writable": writable(),
        "key_in_environment": "STARBURST_KEY" in os.environ,
    }


def writable() -> list[str]:
    """The topmost folders that this user could write to, outside of the kernel's own."""
    found = []
    for folder, names, _ in os.walk("/"):
        if os.access(folder, os.W_OK):
            found.append(folder)
            names[:] = []
        names[:] = [name for name in names if (folder, name) not in {("/", "proc"), ("/", "sys"), ("/", "dev")}]
    return sorted(found)


def keep_a_file(text: str) -> str:
    """Temporary files and processes work."""
    with tempfile.NamedTemporaryFile("w+") as file:
        file.write(text)
        file.flush()
        return subprocess.run(["cat", file.name], check=True, capture_output=True, text=True).stdout


def square(x: int) -> int:
    return x * x
