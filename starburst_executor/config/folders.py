"""The user's folders on this machine: config, data, logs, registry, and the default store.

    config folder   config.toml, key                   STARBURST_HOME replaces both folders
    data folder     sessions/, registry/, logs/, prices.json

Guarantees that only this user can enter the folders it makes, and that no default store is on a file system where
SQLite's locks do not work (`file_systems.py`). A folder is created when it is first requested to be written; one that is requested to be read is
not, and need not be writable or there at all. Other modules write its contents.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from starburst_executor.config.file_systems import network_problem
from starburst_executor.errors import ConfigError

__all__ = [
    "config_folder",
    "default_store",
    "default_store_to_read",
    "log_folder",
    "log_folders",
    "machine_boot",
    "make_private",
    "price_file",
    "registry_folder",
]

_APP = "starburst_executor"
_SESSIONS, _LOGS = "sessions", "logs"


def config_folder() -> Path:
    """Return the folder of `config.toml` and the key file; it may be absent."""
    return _home() or _platforms("user_config_dir")


def default_store(*, detached: bool) -> str:
    """Return the URL of the embedded store in the user's data folder, which is created if needed.

    Where that folder cannot be written, or lies on a network file system whose locks SQLite cannot trust, an attached
    session gets a temporary folder of this user's.

    Raises:
        ConfigError: the session is detached, and a temporary folder would not keep it.
    """
    folder = _data_folder() / _SESSIONS
    problem = make_private(folder) or network_problem(folder)
    if problem is None:
        return _embedded_url(folder)
    if detached:
        raise ConfigError(
            f"a detached session needs a store that lasts: {problem}; pass store= or set STARBURST_STORE to "
            "sqlite:///a/local/folder or s3://bucket/prefix, or set STARBURST_HOME to a local folder"
        )
    return _embedded_url(_temporary_folder(_SESSIONS))


def default_store_to_read() -> tuple[str, str]:
    """Return the URL that `default_store` gives detached sessions, and why no session can be kept there; empty if it can.

    Creates nothing, so there may be no such folder: a store without sessions.
    """
    folder = _data_folder() / _SESSIONS
    return _embedded_url(folder.absolute()), _problem(folder) or network_problem(folder) or ""


def _embedded_url(folder: Path) -> str:
    return f"sqlite://{quote(os.fsencode(folder))}"


def registry_folder(*, to_write: bool) -> Path | None:
    """Return the folder that records which session is in which store; None where no file can be kept.

    Args:
        to_write: Whether to create it. If not, it need not be there.
    """
    return _kept(_data_folder() / "registry", to_write=to_write)


def price_file(*, to_write: bool) -> Path | None:
    """Return the file that caches prices from AWS; None where no file can be kept. `to_write`: as for `registry_folder`."""
    folder = _kept(_data_folder(), to_write=to_write)
    return None if folder is None else folder / "prices.json"


def _kept(folder: Path, *, to_write: bool) -> Path | None:
    return folder if not to_write or make_private(folder) is None else None


def log_folder() -> Path:
    """Return the folder for new logs of local workers; a temporary one if the data folder cannot be written."""
    folder = _data_folder() / _LOGS
    return folder if make_private(folder) is None else _temporary_folder(_LOGS)


def log_folders() -> tuple[Path, ...]:
    """Return the folders in which `log_folder` may have put a log: the first may be absent, the temporary one is there and this user's alone."""
    folders = [_data_folder() / _LOGS]
    with suppress(ConfigError, OSError):
        folders.append(_private_temporary_folder() / _LOGS)
    return tuple(folders)


def make_private(folder: Path) -> str | None:
    """Make a folder that only this user can enter; return the reason why that is impossible, or None."""
    # platformdirs leaves "~" where there is neither HOME nor an entry in the user database.
    if not folder.is_absolute():
        return f"there is no home directory: folder={folder}"
    try:
        # `parents=True` gives the folders above it the usual mode; this library's own folder needs a private one.
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        return f"the data folder cannot be made: {error.strerror}: folder={folder}"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"the data folder is read-only: folder={folder}"


def _problem(folder: Path) -> str | None:
    """Return why `make_private` would fail, or None, without making anything."""
    if not folder.is_absolute():
        return f"there is no home directory: folder={folder}"
    above = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not above.is_dir():
        return f"the data folder cannot be made: {os.strerror(errno.ENOTDIR)}: folder={folder}"
    return None if os.access(above, os.W_OK | os.X_OK) else f"the data folder is read-only: folder={folder}"


def machine_boot() -> str:
    """Return an id of this machine since its start: a process id is meaningful only together with it.

    The host's name is part of it because containers of one machine share its boot id but not their process ids.
    """
    boot_id = ""
    with suppress(OSError):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{os.uname().nodename}/{boot_id}"


def _data_folder() -> Path:
    return _home() or _platforms("user_data_dir")


def _platforms(which: str) -> Path:
    """Return platformdirs' folders; a relative path, which `make_private` refuses, if there is no home directory."""
    import platformdirs  # imported here, because importing the package does not need it

    try:
        return Path(getattr(platformdirs, which)(_APP, appauthor=False))
    except RuntimeError:  # older versions leave the "~" in the path
        return Path("~") / _APP


def _home() -> Path | None:
    named = os.environ.get("STARBURST_HOME")
    return Path(named).expanduser().absolute() if named else None


def _temporary_folder(name: str) -> Path:
    """Return a folder of this user in the temporary folder, where other users may write too. Raises: ConfigError."""
    base = _temporary_base()
    try:
        with suppress(FileExistsError):
            base.mkdir(mode=0o700)
        folder = _private_temporary_folder() / name
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"no temporary folder can be made: {error.strerror}: folder={base}; set TMPDIR") from error
    return folder


def _private_temporary_folder() -> Path:
    """Return this user's folder in the temporary folder. Raises: FileNotFoundError, ConfigError."""
    base = _temporary_base()
    found = base.lstat()
    # Guarantee: a folder of another user, or one that others can enter, is refused, although any user can create this name.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"the temporary folder is not yours alone: remove it or set STARBURST_HOME: folder={base}")
    return base


def _temporary_base() -> Path:
    import tempfile

    try:
        return Path(tempfile.gettempdir()).resolve() / f"{_APP}-{os.getuid()}"
    except OSError as error:  # none can be written
        raise ConfigError(f"there is no temporary folder: {error}; set TMPDIR") from error
