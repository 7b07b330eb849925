"""Sessions of the AWS SDK that share its data files: each is read and parsed once for a process, not once for each client.

botocore describes the services in JSON files of a megabyte and more. A session of its own parses them again, for a
quarter of a second of CPU a client.
"""

from __future__ import annotations

import threading
from typing import Any

import boto3
import botocore.session
from botocore.loaders import Loader

__all__ = ["new_core", "new_session", "preload", "session_of"]

_lock = threading.Lock()  # guards: _loaders
_loaders: dict[str | None, Loader] = {}  # by the folder of data files that the user's configuration adds


def new_session(profile: str | None) -> Any:
    """Return a `boto3.Session` of its own, with credentials and region by boto3's rules.

    Raises: ProfileNotFound.
    """
    return session_of(new_core(profile))


def new_core(profile: str | None) -> botocore.session.Session:
    """Return a botocore session of its own, for settings that boto3 does not show. Raises: ProfileNotFound."""
    core = botocore.session.Session(profile=profile)
    folder = core.get_config_variable("data_path")
    with _lock:
        if folder not in _loaders:
            _loaders[folder] = core.get_component("data_loader")
        core.register_component("data_loader", _loaders[folder])
    return core


def session_of(core: botocore.session.Session) -> Any:
    """Return the `boto3.Session` of a botocore session."""
    session = boto3.Session(botocore_session=core)
    # Each boto3 session appends its own folder of data files.
    paths = core.get_component("data_loader").search_paths
    with _lock:
        paths[:] = dict.fromkeys(paths)
    return session


def preload() -> None:
    """Load the data files that every client of S3 needs, once for all forks of this process. Looks for no credentials."""
    import encodings.idna  # noqa: F401 - needed for the first host name

    import boto3.s3.inject  # noqa: F401 - needed for the first client

    loader = botocore.session.Session().get_component("data_loader")
    for kind in ("service-2", "endpoint-rule-set-1"):
        loader.load_service_model("s3", kind)
    for name in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        loader.load_data(name)
    with _lock:
        _loaders.setdefault(None, loader)
