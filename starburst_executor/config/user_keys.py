"""One user key per person and machine, and the session keys made from it, so that reattaching needs no list of keys.

A user can give one session's key to a colleague without revealing the others. Guarantees that no key is shown by `repr`,
logged, pickled, or stored outside the user's own key file; `hex()` is the only way to read it. `STARBURST_KEY` holds a
session's key in the environment: workers remove it, and it is not passed on to local ones. `protocol/seal.py` defines
what is sealed.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from starburst_executor.config.folders import config_folder, make_private
from starburst_executor.errors import ConfigError, KeyNotFound

__all__ = [
    "SessionKey",
    "UserKey",
    "adopt_environment",
    "ephemeral_session_key",
    "find_session_key",
    "forget_session_key",
    "import_session_key",
    "new_session_key",
    "session_key",
    "take_from_environment",
    "take_secret_environment",
    "user_key",
    "worker_environment",
]

_KEY_BYTES = 32


class _Secret:
    """32 bytes that are never shown by accident. `bytes(key)` for computing with them, `hex()` to hand them over."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != _KEY_BYTES:
            raise ConfigError(f"a key has {_KEY_BYTES} bytes: length={len(raw)}")
        self._raw = bytes(raw)

    def __bytes__(self) -> bytes:
        return self._raw

    def hex(self) -> str:
        """Return the key as 64 hexadecimal digits, with which anyone can read and write the sealed data."""
        return self._raw.hex()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and hmac.compare_digest(self._raw, bytes(other))

    def __hash__(self) -> int:
        return hash(self._raw)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not pickled: pass hex() where it has to go")


class UserKey(_Secret):
    """The key of one user, from which all of this user's session keys are derived."""

    __slots__ = ()


class SessionKey(_Secret):
    """The key of one session: it seals and opens everything that is unpickled."""

    __slots__ = ()


def user_key(*, create: bool) -> UserKey | None:
    """The user's key from the key file, or None if there is no such file.

    Args:
        create: Create the file if there is none. Several processes can do so at once: all get the same key.
    Raises:
        ConfigError: the file is readable by others, is not a key, or cannot be created.
    """
    path = _key_path()
    found = _read_key(path)
    if found is not None or not create:
        return found
    problem = make_private(path.parent)
    if problem is not None:
        raise ConfigError(f"no key file can be kept: {problem}; set STARBURST_HOME to a folder that you can write")
    try:
        _write_key(path)
    except OSError as error:
        raise ConfigError(f"the key file cannot be made: {error.strerror}: file={path}; set STARBURST_HOME") from error
    return _read_key(path)


def session_key(user: UserKey, session_id: str) -> SessionKey:
    """The key of one of the user's sessions: HMAC-SHA-256 of its id under the user's key."""
    return SessionKey(hmac.digest(bytes(user), b"starburst session " + session_id.encode(), "sha256"))


def ephemeral_session_key() -> SessionKey:
    """Return a key that exists only in this process, for an attached session where no file can be kept."""
    return SessionKey(secrets.token_bytes(_KEY_BYTES))


def new_session_key(session_id: str, *, detached: bool, given: str | bytes | SessionKey | None = None) -> SessionKey:
    """Return the key for a new session: the one that `find_session_key` will find, or an ephemeral one where no file can be kept.

    Raises:
        ConfigError: the session is detached and no key can be kept, or a key is malformed or readable by others.
    """
    explicit = _explicit_key(given)
    if explicit is not None:
        return explicit
    if not detached and _read_key(_key_path()) is None and make_private(_key_path().parent) is not None:
        return ephemeral_session_key()
    user = user_key(create=True)
    if user is None:  # removed by another process since it was created
        return ephemeral_session_key() if not detached else _key_missing(session_id)
    return session_key(user, session_id)


def find_session_key(session_id: str, given: str | bytes | SessionKey | None = None) -> SessionKey:
    """Return the key of an existing session: the given one, else `STARBURST_KEY`, else taken in, else derived from the user's key.

    Args:
        given: The session's key, as 64 hexadecimal digits or 32 bytes.
    Raises:
        KeyNotFound: there is none of the four.
        ConfigError: a key is malformed, or the key file is readable by others.
    """
    explicit = _explicit_key(given)
    if explicit is not None:
        return explicit
    taken_in = _read_key(_taken_in(session_id))
    if taken_in is not None:
        return SessionKey(bytes(taken_in))
    user = user_key(create=False)
    return session_key(user, session_id) if user is not None else _key_missing(session_id)


def import_session_key(session_id: str, text: str, *, replace: bool = False) -> Path:
    """Keep another user's session key on this machine, for `find_session_key`; return its file, which only this user can read.

    Args:
        text: 64 hexadecimal digits.
        replace: Replace another key of the same session.
    Raises:
        ConfigError: it is no key, another one is there, or no file can be kept.
    """
    raw, path = _from_hex(text, "what was typed"), _taken_in(session_id)
    known = _read_key(path)
    if known is not None and bytes(known) != raw and not replace:
        raise ConfigError(f"there is another key of this session: file={path}; --replace replaces it")
    for folder in (path.parent.parent, path.parent):
        problem = make_private(folder)
        if problem is not None:
            raise ConfigError(f"no key can be kept: {problem}; set STARBURST_HOME to a folder that you can write")
    try:
        path.unlink(missing_ok=True)
        _write_key(path, raw.hex())
    except OSError as error:
        raise ConfigError(f"the key cannot be kept: {error.strerror}: file={path}; set STARBURST_HOME") from error
    return path


def forget_session_key(session_id: str) -> None:
    """Remove the key of a deleted session, if one was imported."""
    with suppress(OSError):
        _taken_in(session_id).unlink()


def take_secret_environment() -> str | None:
    """Remove `STARBURST_KEY` from this process's environment and return it, so that user code and its children never see it.

    Call it before there are threads.
    """
    return take_from_environment("STARBURST_KEY")


def take_from_environment(name: str) -> str | None:
    """A variable, taken out of this process's environment and of what the system shows of it. Call it before there are
    threads.
    """
    if name not in os.environ:
        return None
    import ctypes  # only workers come here

    # The system shows the environment with which a process started (/proc/self/environ, `ps e`), even after unsetting.
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    if (address := getenv(os.fsencode(name))) is not None:
        ctypes.memset(address, 0, len(ctypes.string_at(address)))
    return os.environ.pop(name)


def worker_environment() -> dict[str, str]:
    """Return this process's environment for a local worker, without the key, which goes through a pipe."""
    return {name: value for name, value in os.environ.items() if name != "STARBURST_KEY"}


def adopt_environment(environment: Mapping[str, str]) -> None:
    """Make this the process's environment. Call it before there are threads."""
    if environment != dict(os.environ):
        os.environ.clear()
        os.environ.update(environment)


def _key_missing(session_id: str) -> NoReturn:
    raise KeyNotFound(
        f"no key for this session: `starburst key export {session_id}` on the machine that started it prints it, and `starburst key import` "
        f"stores it here; or pass it as key= or in STARBURST_KEY, or copy that user's key file to {_key_path()} (mode 600): "
        f"session={session_id}"
    )


def _explicit_key(given: str | bytes | SessionKey | None) -> SessionKey | None:
    if isinstance(given, SessionKey):
        return given
    if isinstance(given, bytes):
        return SessionKey(given)
    if given is not None:
        return SessionKey(_from_hex(given, "the argument key"))
    from_environment = os.environ.get("STARBURST_KEY")
    return SessionKey(_from_hex(from_environment, "STARBURST_KEY")) if from_environment else None


def _from_hex(text: str, source: str) -> bytes:
    # The text itself stays out of the message: it may be most of a key.
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text.strip()):
        raise ConfigError(f"not a key (from {source}): must be 64 hexadecimal digits, length={len(text.strip())}")
    return bytes.fromhex(text.strip())


def _key_path() -> Path:
    return config_folder() / "key"


def _taken_in(session_id: str) -> Path:
    return config_folder() / "keys" / session_id


def _read_key(path: Path) -> UserKey | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(1024)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        # A home that this user cannot enter, such as that of another user: nothing of this user's is in it.
        if isinstance(error, PermissionError) and not os.access(path.parent, os.X_OK):
            return None
        raise ConfigError(f"the key file cannot be read: {error.strerror}: file={path}") from error
    if mode & 0o077:
        raise ConfigError(f"the key file is open to other users: type `chmod 600 '{path}'`: mode={mode & 0o777:o}")
    return UserKey(_from_hex(text, str(path)))


def _write_key(path: Path, text: str | None = None) -> None:
    """Create a key file, with a new key if none is given: completely or not at all; if another process created it first, keep that one."""
    draft = path.with_name(f".key-{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write((text or secrets.token_hex(_KEY_BYTES)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, does not replace what is there.
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
