"""Stores the stages of a study with their functions, and the settings of its sessions, so that any process can go on with it; loads them again.

    stages ──pickle, sealed──► definitions/<digest> ──► the same stages, in another process, from whatever folder it runs in

Guarantee: what is loaded was sealed with the study's key. A program that can write the store, but has no key, decides neither which code runs nor
which launcher starts workers with the user's credentials.

The user's own modules are found where they were, if those folders exist; otherwise in the code that is stored with them.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack

from starburst_executor import config
from starburst_executor.client.code import Code
from starburst_executor.clock import Clock
from starburst_executor.errors import (
    KeyNotFound,
    ObjectNotFound,
    PayloadError,
    PreconditionFailed,
    RecordInvalid,
    VersionMismatch,
)
from starburst_executor.modules import find_modules
from starburst_executor.protocol import calls
from starburst_executor.protocol.keys import code_digest, code_key
from starburst_executor.protocol.seal import Sealer
from starburst_executor.store.base import ObjectStore
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.stage import Stage
from starburst_executor.version import __version__
from starburst_executor.worker.code import unpack

__all__ = ["dump_stages", "load_stages", "sealer_of"]

_KIND = "study"


def sealer_of(name: str, key: bytes) -> Sealer:
    """Return the sealer of a study's definitions, under its key."""
    return Sealer(key, f"study/{name}")


def _given(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    return stages


def dump_stages(
    stages: Iterable[Stage],
    settings: Mapping[str, Any],
    store: ObjectStore,
    keys: StudyKeys,
    sealer: Sealer,
    clock: Clock,
) -> str:
    """Store stages and settings; return the digest that names them. Harmless twice.

    Raises: PayloadError: a function cannot be pickled, or the user's modules are too big.
    Store: 1 create; for own modules 1 GET and perhaps 1 create more.
    """
    try:
        body = calls.dump_function(functools.partial(_given, tuple(stages)))
    except Exception as error:  # user code runs here
        raise PayloadError(
            f"the stages of study {keys.name} cannot be stored: {type(error).__name__}: {error}"
        ) from error
    own = find_modules().own.values()
    folders = [str(Path(place.file).parent) for place in own if place.file is not None]
    folders += [str(Path(folder).parent) for place in own for folder in place.folders]
    whole = msgpack.packb(
        {
            "python": _python(),
            "library": __version__,
            "settings": dict(settings),
            "code": Code(store, clock, config.resolve(detached=True, store=store.url).code_exclude).name(),
            "paths": sorted(set(folders)),
            "body": body,
        },
        unicode_errors="surrogateescape",
    )
    digest = hashlib.sha256(whole).hexdigest()
    with suppress(PreconditionFailed):
        store.create(keys.definition(digest), sealer.sealed(_KIND, digest, whole))
    return digest


def load_stages(
    digest: str, store: ObjectStore, keys: StudyKeys, sealer: Sealer
) -> tuple[tuple[Stage, ...], dict[str, Any]]:
    """Load the stages of that digest, and the settings that were stored with them.

    Raises: RecordInvalid: they are missing or have been changed; KeyNotFound: the key is another one; VersionMismatch: of Python, or of this library;
        PayloadError: a function cannot be loaded here.
    Store: 1 GET; 1 more if the user's modules are not where they were.
    """
    try:
        stored = store.get(keys.definition(digest)).body
    except ObjectNotFound as error:
        raise RecordInvalid(f"the stages of study {keys.name} are missing: digest={digest}") from error
    try:
        whole = msgpack.unpackb(bytes(sealer.open_sealed(_KIND, digest, stored)), unicode_errors="surrogateescape")
    except RecordInvalid as error:
        raise KeyNotFound(
            f"the stages of study {keys.name} were sealed with another key, or have been changed: copy the key file of the user who "
            f"wrote them, or pass key=: {error}"
        ) from error
    if whole["python"] != _python():
        raise VersionMismatch(
            f"the stages of study {keys.name} were stored by another Python: stored={whole['python']}, here={_python()}"
        )
    if whole.get("library") != __version__:
        # A pickled stage has the fields that its class had then.
        raise VersionMismatch(
            f"the stages of study {keys.name} were stored by another version of starburst_executor: stored={whole.get('library')}, "
            f"here={__version__}; run the program or the file that defines them"
        )
    for path in whole["paths"]:
        if path not in sys.path and Path(path).is_dir():
            sys.path.append(path)
    try:
        stages = _loaded(whole["body"])
    except ModuleNotFoundError:
        if not whole["code"]:
            raise
        sys.path.insert(0, _unpacked(store, whole["code"]))
        stages = _loaded(whole["body"])
    return stages, dict(whole["settings"])


def _loaded(body: bytes) -> tuple[Stage, ...]:
    try:
        stages: Any = calls.load_function(body)()
    except ModuleNotFoundError:
        raise
    except Exception as error:  # user code runs here
        raise PayloadError(
            f"the functions of a study cannot be loaded here: {type(error).__name__}: {error}"
        ) from error
    return tuple(stages)


def _unpacked(store: ObjectStore, name: str) -> str:
    """Unpack the user's modules into a folder of this process, which is removed at its end."""
    try:
        body = store.get(code_key(name)).body
    except ObjectNotFound as error:
        raise PayloadError(
            f"the modules of a study's functions are missing here and in the store: code={name}"
        ) from error
    if hashlib.sha256(body).hexdigest() != code_digest(name):
        raise RecordInvalid(f"the modules of a study have been changed: code={name}")
    root = Path(tempfile.mkdtemp(prefix="starburst-study-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    unpack(body, root / "code")
    return str(root / "code")


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
