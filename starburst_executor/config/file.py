"""The config file: its path, its contents, and the one table that a command writes into it.

`STARBURST_CONFIG` replaces its path, which is `config.toml` in the config folder by default. `settings.py` and `aws.py`
validate the settings. Guarantee: writing a table leaves every other line unchanged, including comments, and a reader
finds either the old file or the new one, never a partial file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from starburst_executor.config.folders import config_folder, make_private
from starburst_executor.errors import ConfigError

__all__ = ["config_file", "read_config_file", "write_table", "write_value"]


def config_file() -> Path:
    """Return the path of the config file; the file may be absent."""
    named = os.environ.get("STARBURST_CONFIG")
    return Path(named).expanduser() if named else config_folder() / "config.toml"


def read_config_file() -> tuple[Path | None, dict[str, object]]:
    """Return the config file's path and its contents; None and an empty mapping if there is no such file.

    Raises:
        ConfigError: it cannot be read, or `STARBURST_CONFIG` names a file that is not there.
    """
    named = os.environ.get("STARBURST_CONFIG")
    path = config_file()
    try:
        return path, _parsed(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if not named:
            return None, {}
        raise ConfigError(
            f"the config file cannot be read: {error.strerror} (from STARBURST_CONFIG={named})"
        ) from error
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError(f"the config file cannot be read: {error} (from {path})") from error


def write_table(name: str, values: dict[str, str] | None) -> Path:
    """Replace one table of the config file, or remove it; return the file's path.

    The file and its folder are created if needed. Needs the extra `cli`.

    Raises:
        ConfigError: the file cannot be read or written.
    """
    import tomlkit  # for commands only

    def step(document: Any) -> bool:
        if values is None:
            return document.pop(name, None) is not None
        table = document.setdefault(name, tomlkit.table())
        for key in [key for key in table if key not in values]:
            del table[key]
        table.update(values)
        return True

    return _changed(step)


def write_value(name: str, value: object | None) -> Path:
    """Set one value outside all tables of the config file, or remove it; otherwise like `write_table`."""

    def step(document: Any) -> bool:
        if value is None:
            return document.pop(name, None) is not None
        document[name] = value
        return True

    return _changed(step)


def _changed(step: Callable[[Any], bool]) -> Path:
    import tomlkit  # for commands only

    path = config_file()
    document: Any = tomlkit.document()
    try:
        with suppress(FileNotFoundError):
            document = tomlkit.parse(path.read_text(encoding="utf-8"))
        if not step(document):
            return path
        problem = make_private(path.parent)
        if problem is not None:
            raise ConfigError(f"the config file cannot be written: {problem}; set STARBURST_HOME")
        draft = path.with_name(f".{path.name}-{os.getpid()}")
        draft.write_text(tomlkit.dumps(document), encoding="utf-8")
        draft.replace(path)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"the config file cannot be written: {error} (file={path})") from error
    return path


def _parsed(text: str) -> dict[str, object]:
    # Most users have no config file, so the parser is loaded only when there is a file to parse.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    record: dict[str, object] = tomllib.loads(text)
    return record
