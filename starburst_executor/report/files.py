"""Write a report's files."""

from __future__ import annotations

from pathlib import Path

from starburst_executor.errors import ConfigError

__all__ = ["write_file"]


def write_file(path: Path, body: bytes) -> Path:
    """Write a file and return its path; its folder is made if there is none. An existing file is replaced once the new one is whole.

    Raises: ConfigError.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(body)
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"the report cannot be written: {error.strerror}: {path}") from error
    return path
