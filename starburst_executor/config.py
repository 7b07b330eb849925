"""Settings as frozen values, the folders of this machine, and the keys: the only reader of `os.environ`.

A setting is resolved as argument > `STARBURST_*` variable > config file > default. Each is checked wherever it came
from, and an error names the value, what is allowed and its source. Nothing here talks to a store, and nothing is read
before somebody asks: importing this module touches neither the disk nor the environment.

    config folder   config.toml, key                   STARBURST_HOME replaces both folders,
    data folder     sessions/, registry/, logs/        STARBURST_CONFIG the path of config.toml

Keys: one user key per person and machine; a session's key is made from it, so that reattaching needs no list of keys
and one session's key can be handed to a colleague without the others'. No key is ever shown by `repr`, stored, logged
or pickled; `hex()` is the one way out.
"""

from __future__ import annotations

import hmac
import math
import operator
import os
import re
import secrets
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import platformdirs

from starburst_executor.errors import ConfigError, KeyNotFound, RecordInvalid

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "LAUNCHERS",
    "SessionKey",
    "Settings",
    "Timings",
    "UserKey",
    "default_store",
    "ephemeral_session_key",
    "find_session_key",
    "log_folder",
    "machine_boot",
    "new_session_key",
    "registry_folder",
    "resolve",
    "session_key",
    "take_secret_environment",
    "user_key",
    "worker_environment",
]

_APP = "starburst_executor"
_MIB = 2**20
_KEY_BYTES = 32
LAUNCHERS = ("local", "none")


# ---------------------------------------------------------------------------------------------------------- timings


@dataclass(frozen=True, slots=True)
class Timings:
    """Every interval of a session, in seconds, as one value, so that a test can shorten them together.

    They are stored in the session's manifest: whoever takes part keeps the same ones.

    Raises:
        ConfigError: a value is out of range.
    """

    # A worker is lost after looks_until_lost * look_s = 60 s: long enough for a store that throttles, short enough
    # that nobody stops waiting. A beat costs one PUT, so 15 s is $0.0012 per worker and hour on S3.
    beat_s: float = 15.0
    look_s: float = 15.0
    looks_until_lost: int = 4
    commit_s: float = 1.0  # at most this much finished work is done again after a SIGKILL
    slice_s: float = 1.0  # of work per claim: two requests per second and worker, however short the tasks
    poll_min_s: float = 0.05  # a client that waits: below the latency of S3 faster polling shows nothing sooner
    poll_max_s: float = 1.0  # … and how late a result may be seen after a long silence
    bell_min_s: float = 0.05  # an idle worker: the same, just after it had work
    bell_max_s: float = 5.0  # … and 720 GETs an hour, $0.0003, when it has had none for long
    ring_gap_s: float = 0.2  # five rings a second wake everybody; more would be throttled, they hit one key
    idle_exit_s: float = 300.0  # an idle worker costs money; starting one takes a minute or two
    client_gone_s: float = 300.0  # a laptop that changes its network is back by then
    grace_s: float = 30.0  # what Amazon ECS gives between SIGTERM and SIGKILL unless told otherwise
    patience_s: float = 300.0  # a client whose store goes away in mid-run: longer than a network change or a failover
    launch_s: float = 60.0  # first beat expected; without it the launch has failed
    retry_first_s: float = 0.5  # pause before a task's first retry; doubles
    retry_most_s: float = 30.0
    rank_s: float = 300.0  # how often a worker learns whether it is one of the oldest, which watch

    def __post_init__(self) -> None:
        for name, value in self.to_record().items():
            if name == "looks_until_lost":
                valid, allowed = type(value) is int and value >= 1, "a whole number, at least 1"
            elif name == "ring_gap_s":
                valid, allowed = _is_number(value) and 0 <= value < math.inf, "a number of seconds, at least 0"
            else:
                valid, allowed = _is_number(value) and 0 < value < math.inf, "a number of seconds greater than 0"
            if not valid:
                raise ConfigError(f"{name}={value!r}: must be {allowed}")
        for least, most in (
            ("poll_min_s", "poll_max_s"),
            ("bell_min_s", "bell_max_s"),
            ("retry_first_s", "retry_most_s"),
        ):
            if getattr(self, least) > getattr(self, most):
                raise ConfigError(f"{least}={getattr(self, least)}: must be at most {most}={getattr(self, most)}")

    @classmethod
    def remote(cls) -> Timings:
        """For stores that answer in tens of milliseconds and are paid by the request."""
        return cls()

    @classmethod
    def embedded(cls) -> Timings:
        """For the store on this machine, where a request costs nothing and 0.1 ms."""
        return cls(
            commit_s=0.2,
            slice_s=0.1,
            poll_min_s=0.001,
            poll_max_s=0.05,
            bell_min_s=0.001,
            bell_max_s=0.05,
            ring_gap_s=0.0,
        )

    def to_record(self) -> dict[str, float]:
        """As stored in the manifest: names to numbers."""
        return {name: getattr(self, name) for name in _timing_names()}

    @classmethod
    def from_record(cls, record: object) -> Timings:
        """Back from `to_record`. Unknown names are passed over and missing ones take their default, so that an
        interval can be added without a new format.

        Raises:
            RecordInvalid: not a mapping, or a value is out of range.
        """
        if not isinstance(record, Mapping):
            raise RecordInvalid(f"the session's timings are not a mapping: type={type(record).__name__}")
        try:
            return cls(**{name: record[name] for name in _timing_names() if name in record})
        except ConfigError as error:
            raise RecordInvalid(f"the session's timings are out of range: {error}") from error


@lru_cache(maxsize=1)
def _timing_names() -> tuple[str, ...]:
    return tuple(one.name for one in fields(Timings))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# --------------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a setting may be: its type and, for numbers, its range; `optional` ones may be None, spelled "none"."""

    kind: type
    lowest: float = 0
    highest: float = math.inf
    optional: bool = False
    choices: tuple[str, ...] = ()

    def allowed(self) -> str:
        if self.kind is bool:
            words = "true or false"
        elif self.kind is str:
            words = " or ".join(repr(choice) for choice in self.choices) or "a text"
        elif self.highest == math.inf:
            words = f"at least {self.lowest:.15g}"
        else:
            words = f"{self.lowest:.15g}..{self.highest:.15g}"
        return f"{words}, or none" if self.optional else words


def _setting(rule: _Rule, **default: Any) -> Any:
    return field(metadata={"rule": rule}, **default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a session is told at its start; made by `resolve`, which checks it.

    Attributes:
        workers: How many tasks run at once, over all agents.
        store: URL of the object store, without credentials.
        launcher: Who starts workers; "none": somebody else does.
        retries: How often a task that raises is tried again.
        task_timeout: Seconds that one try may take, or None.
        max_tasks_per_child: A runner child is replaced after so many tasks, or never.
        absolute_timeout: Seconds after which the session expires, or None.
        max_result_bytes: A larger result fails its task.
        warn_result_bytes: A larger result is worth a warning.
        queue_bytes: Calls that wait to be written; `submit` blocks beyond.
        keep: Whether the end of an attached session leaves its objects in the store.
    """

    workers: int = _setting(_Rule(int, 1, 10_000))
    store: str = _setting(_Rule(str))
    launcher: str = _setting(_Rule(str, choices=LAUNCHERS), default="local")
    retries: int = _setting(_Rule(int, 0, 100), default=0)
    task_timeout: float | None = _setting(_Rule(float, 0.001, 31_622_400, optional=True), default=None)
    max_tasks_per_child: int | None = _setting(_Rule(int, 1, optional=True), default=None)
    absolute_timeout: float | None = _setting(_Rule(float, 1, 31_622_400, optional=True), default=None)
    max_result_bytes: int = _setting(_Rule(int, 1), default=4096 * _MIB)
    warn_result_bytes: int = _setting(_Rule(int, 1), default=256 * _MIB)
    queue_bytes: int = _setting(_Rule(int, _MIB), default=256 * _MIB)
    keep: bool = _setting(_Rule(bool), default=False)


def resolve(detached: bool, **arguments: object) -> Settings:
    """Settle every setting: argument > variable > config file > default.

    Args:
        detached: Whether the session is to outlive this process; its default store must then be a lasting one.
        arguments: The fields of `Settings`, and `max_workers` for `workers`. None means not given.
    Raises:
        ConfigError: a value is out of range, or `workers` and `max_workers` differ.
        TypeError: an argument is of a wrong type, or of no known name.
    """
    given = _one_workers({name: value for name, value in arguments.items() if value is not None})
    file_path, from_file = _read_config_file()
    settled: dict[str, Any] = {}
    for one in fields(Settings):
        rule: _Rule = one.metadata["rule"]
        variable = f"STARBURST_{one.name.upper()}"
        if one.name in given:
            settled[one.name] = _checked(one.name, given.pop(one.name), rule, None)
        elif text := os.environ.get(variable):
            settled[one.name] = _checked(one.name, _from_text(text, rule), rule, variable)
        elif one.name in from_file:
            value = from_file[one.name]
            settled[one.name] = _checked(one.name, None if value == "none" else value, rule, str(file_path))
    if given:
        raise TypeError(f"unknown setting: {next(iter(given))!r}")
    settled.setdefault("workers", _cpu_count())
    if "store" not in settled:
        settled["store"] = default_store(detached=detached)
    return Settings(**settled)


def _one_workers(arguments: dict[str, object]) -> dict[str, object]:
    """`max_workers` and `workers` are one setting; what the standard library says of a bad one is kept."""
    if "max_workers" not in arguments:
        return arguments
    max_workers = arguments.pop("max_workers")
    if "workers" in arguments and arguments["workers"] != max_workers:
        raise ConfigError(
            f"workers={arguments['workers']!r} and max_workers={max_workers!r}: are one setting, give one"
        )
    if _is_number(max_workers) and max_workers <= 0:  # type: ignore[operator]  # _is_number has seen to it
        raise ConfigError(f"max_workers={max_workers!r} (an argument): max_workers must be greater than 0")
    return {**arguments, "workers": max_workers}


def _from_text(text: str, rule: _Rule) -> object:
    """A variable's text as the value it spells; the text itself where it spells none, for the error to show."""
    text = text.strip()
    if rule.optional and text.lower() == "none":
        return None
    if rule.kind is bool:
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(text.lower(), text)
    if rule.kind is not str:
        with suppress(ValueError):
            return rule.kind(text)
    return text


def _checked(name: str, value: Any, rule: _Rule, source: str | None) -> object:
    """The value, in the setting's own type. `source` None means an argument: a wrong type is then a `TypeError`."""

    def refuse() -> NoReturn:
        origin = "an argument" if source is None else f"from {source}"
        raise ConfigError(f"{name}={value!r} ({origin}): must be {rule.allowed()}")

    if value is None:
        return None if rule.optional else refuse()
    try:
        settled = _in_type(value, rule.kind)
    except TypeError:
        if source is not None:
            refuse()
        noun = {int: "an integer", float: "a number of seconds", str: "a string", bool: "a bool"}[rule.kind]
        raise TypeError(f"{name} must be {noun}, not {type(value).__name__}") from None
    if rule.choices and settled not in rule.choices:
        refuse()
    if rule.kind in (int, float) and not rule.lowest <= settled <= rule.highest:
        refuse()
    if name == "store" and not re.match(r"[a-z][a-z0-9+.-]*:.", settled):
        origin = "an argument" if source is None else f"from {source}"
        raise ConfigError(f"store={value!r} ({origin}): must be a URL such as sqlite:///folder or s3://bucket/prefix")
    return settled


def _in_type(value: Any, kind: type) -> Any:
    if isinstance(value, bool) is not (kind is bool):
        raise TypeError
    if kind is int:
        return operator.index(value)
    if kind is float and not isinstance(value, str):
        return float(value)
    if not isinstance(value, kind):
        raise TypeError
    return value


def _read_config_file() -> tuple[Path | None, dict[str, object]]:
    named = os.environ.get("STARBURST_CONFIG")
    path = Path(named).expanduser() if named else _config_folder() / "config.toml"
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if not named:
            return None, {}
        raise ConfigError(
            f"the config file cannot be read: {error.strerror} (from STARBURST_CONFIG={named})"
        ) from error
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError(f"the config file cannot be read: {error} (from {path})") from error
    known = [one.name for one in fields(Settings)]
    for name in record:
        if name not in known:
            raise ConfigError(f"unknown setting: {name!r} (from {path}); known are {', '.join(known)}")
    return path, record


def _cpu_count() -> int:
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---------------------------------------------------------------------------------------------------------- folders


def default_store(*, detached: bool) -> str:
    """URL of the embedded store in the user's data folder, which is made if need be.

    Where that folder cannot be written, or lies on a network file system whose locks SQLite cannot trust, an attached
    session gets a temporary folder of this user's.

    Raises:
        ConfigError: the session is detached, and a temporary folder would not keep it.
    """
    folder = _data_folder() / "sessions"
    problem = _private(folder) or _network_problem(folder)
    if problem is None:
        return _embedded_url(folder)
    if detached:
        raise ConfigError(
            f"a detached session needs a store that lasts: {problem}; pass store= or set STARBURST_STORE to "
            "sqlite:///a/local/folder or s3://bucket/prefix, or set STARBURST_HOME to a local folder"
        )
    return _embedded_url(_temporary_folder("sessions"))


def _embedded_url(folder: Path) -> str:
    return f"sqlite://{quote(str(folder))}"


def registry_folder() -> Path | None:
    """Where this machine notes which session lies in which store; None where nothing can be kept."""
    folder = _data_folder() / "registry"
    return folder if _private(folder) is None else None


def log_folder() -> Path:
    """Where the logs of local workers go; temporary where the data folder cannot be written."""
    folder = _data_folder() / "logs"
    return folder if _private(folder) is None else _temporary_folder("logs")


def machine_boot() -> str:
    """This machine since it was started: process ids mean something only together with it.

    The host's name is part of it because containers of one machine share its boot id but not their process ids.
    """
    boot_id = ""
    with suppress(OSError):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()}/{boot_id}"


def _data_folder() -> Path:
    return _home() or Path(platformdirs.user_data_dir(_APP, appauthor=False))


def _config_folder() -> Path:
    return _home() or Path(platformdirs.user_config_dir(_APP, appauthor=False))


def _home() -> Path | None:
    named = os.environ.get("STARBURST_HOME")
    return Path(named).expanduser().absolute() if named else None


def _private(folder: Path) -> str | None:
    """Make a folder that only this user can enter; what stands against it, or None."""
    # platformdirs leaves "~" where there is neither HOME nor an entry in the user database.
    if not folder.is_absolute():
        return f"there is no home directory: folder={folder}"
    try:
        # `parents=True` gives the folders above the usual mode; the one that is this library's must not have it.
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        return f"the data folder cannot be made: {error.strerror}: folder={folder}"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"the data folder is read-only: folder={folder}"


def _temporary_folder(name: str) -> Path:
    """A folder of this user's beneath the temporary one, whoever else may write there."""
    base = Path(tempfile.gettempdir()).resolve() / f"{_APP}-{os.getuid()}"
    with suppress(FileExistsError):
        base.mkdir(mode=0o700)
    found = base.lstat()
    # Guarantee: nobody else's folder is used, nor one that others can enter, although anybody may make this name.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"the temporary folder is not yours alone: remove it or set STARBURST_HOME: folder={base}")
    folder = base / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


# SQLite's locks and shared memory do not hold between machines: https://www.sqlite.org/useovernet.html
_NETWORK_FILESYSTEMS = re.compile(
    r"nfs\d*|cifs|smb.*|afpfs|webdav|lustre|gpfs|beegfs(_nodev)?|ceph|glusterfs|pvfs2|orangefs|panfs|afs|ncpfs|9p"
    r"|fuse\.(sshfs|s3fs|glusterfs.*|ceph.*|mount-s3|gcsfuse|goofys|rclone|cvmfs2|juicefs|lizardfs|moosefs)"
)


def _network_problem(folder: Path) -> str | None:
    kind = _filesystem_of(folder.resolve(), _mounts())
    if _NETWORK_FILESYSTEMS.fullmatch(kind):
        return f"the data folder is on a network file system: folder={folder}, file system={kind}"
    return None


def _mounts() -> dict[str, str]:
    """Mount points and the kinds of their file systems; empty where the system does not tell."""
    with suppress(OSError, subprocess.SubprocessError):
        if sys.platform == "darwin":
            done = subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=10, check=True)
            return _parse_mac_mounts(done.stdout)
        return _parse_linux_mounts(Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape"))
    return {}


def _parse_linux_mounts(text: str) -> dict[str, str]:
    """Lines of `device point kind options`; blanks in names are written as octal escapes. Later mounts lie on top."""
    rows = re.findall(r"^\S+ (\S+) (\S+)", text, re.MULTILINE)
    return {re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point): kind for point, kind in rows}


def _parse_mac_mounts(text: str) -> dict[str, str]:
    """Lines of `device on point (kind, options)`."""
    found = (re.fullmatch(r".*? on (.*) \(([^,)]+).*\)", line) for line in text.splitlines())
    return {match[1]: match[2] for match in found if match}


def _filesystem_of(path: Path, mounts: Mapping[str, str]) -> str:
    """The kind of file system that the longest mount point above `path` has; empty if none is known."""
    return next((mounts[str(above)] for above in (path, *path.parents) if str(above) in mounts), "")


# ------------------------------------------------------------------------------------------------------------- keys


class _Secret:
    """32 bytes that nothing shows by accident. `bytes(key)` for computing with them, `hex()` to hand them over."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != _KEY_BYTES:
            raise ConfigError(f"a key has {_KEY_BYTES} bytes: length={len(raw)}")
        self._raw = bytes(raw)

    def __bytes__(self) -> bytes:
        return self._raw

    def hex(self) -> str:
        """The key as 64 hexadecimal digits. Whoever has them can read and write what the key guards."""
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
    """The key of one person; every session key of theirs is made from it."""

    __slots__ = ()


class SessionKey(_Secret):
    """The key of one session: seals and opens all that will be unpickled."""

    __slots__ = ()


def user_key(*, create: bool) -> UserKey | None:
    """The user's key from the key file, or None if there is no such file.

    Args:
        create: Make the file if there is none. Several processes may do so at once: all get the same key.
    Raises:
        ConfigError: the file is readable by others, is no key, or cannot be made.
    """
    path = _key_path()
    found = _read_key(path)
    if found is not None or not create:
        return found
    problem = _private(path.parent)
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
    """A key that lives as long as this process, for an attached session where no file can be kept."""
    return SessionKey(secrets.token_bytes(_KEY_BYTES))


def new_session_key(session_id: str, *, detached: bool, given: str | bytes | SessionKey | None = None) -> SessionKey:
    """The key for a session that starts: what `find_session_key` will find, and an ephemeral one where nothing can be.

    Raises:
        ConfigError: the session is detached and no key can be kept, or a key is malformed or readable by others.
    """
    explicit = _explicit_key(given)
    if explicit is not None:
        return explicit
    if not detached and _read_key(_key_path()) is None and _private(_key_path().parent) is not None:
        return ephemeral_session_key()
    user = user_key(create=True)
    if user is None:  # removed by somebody since it was made
        return ephemeral_session_key() if not detached else _key_missing(session_id)
    return session_key(user, session_id)


def find_session_key(session_id: str, given: str | bytes | SessionKey | None = None) -> SessionKey:
    """The key of a session that exists: the one given, else `STARBURST_KEY`, else made from the user's key.

    Args:
        given: The session's key, as 64 hexadecimal digits or 32 bytes.
    Raises:
        KeyNotFound: there is none of the three.
        ConfigError: a key is malformed, or the key file is readable by others.
    """
    explicit = _explicit_key(given)
    if explicit is not None:
        return explicit
    user = user_key(create=False)
    return session_key(user, session_id) if user is not None else _key_missing(session_id)


def take_secret_environment() -> str | None:
    """`STARBURST_KEY`, taken out of this process's environment, so that user code and its children never see it."""
    return os.environ.pop("STARBURST_KEY", None)


def worker_environment() -> dict[str, str]:
    """This process's environment for a local worker, without the key, which goes through a pipe."""
    return {name: value for name, value in os.environ.items() if name != "STARBURST_KEY"}


def _key_missing(session_id: str) -> NoReturn:
    raise KeyNotFound(
        f"no key for this session: copy the key file of whoever started it to {_key_path()} (mode 600), or pass the "
        f"session's own key as key= or in STARBURST_KEY: session={session_id}"
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
    return _config_folder() / "key"


def _read_key(path: Path) -> UserKey | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(1024)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"the key file cannot be read: {error.strerror}: file={path}") from error
    if mode & 0o077:
        raise ConfigError(f"the key file is open to other users: type `chmod 600 '{path}'`: mode={mode & 0o777:o}")
    return UserKey(_from_hex(text, str(path)))


def _write_key(path: Path) -> None:
    """Make the key file whole or not at all; if another process made it meanwhile, that one stands."""
    draft = path.with_name(f".key-{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, does not replace what is there.
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
