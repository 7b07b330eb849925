"""The file systems that are refused for an embedded store, because SQLite's locks do not work on them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["network_problem"]

# SQLite's locks and shared memory do not hold between machines: https://www.sqlite.org/useovernet.html
_NETWORK_FILESYSTEMS = (
    r"nfs\d*|cifs|smb.*|afpfs|webdav|lustre|gpfs|beegfs(_nodev)?|ceph|glusterfs|pvfs2|orangefs|panfs|afs|ncpfs|9p"
    r"|fuse\.(sshfs|s3fs|glusterfs.*|ceph.*|mount-s3|gcsfuse|goofys|rclone|cvmfs2|juicefs|lizardfs|moosefs)"
)


def network_problem(folder: Path) -> str | None:
    """Return the reason why a store must not be in this folder, or None if its file system is local or unknown."""
    kind = _filesystem_of(folder.resolve(), _mounts())
    if re.fullmatch(_NETWORK_FILESYSTEMS, kind):
        return f"the data folder is on a network file system: folder={folder}, file system={kind}"
    return None


def _mounts() -> dict[str, str]:
    """Return mount points and the kinds of their file systems; empty if the system does not provide them."""
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
    """Return the file system kind of the longest mount point above `path`; empty if unknown."""
    return next((mounts[str(above)] for above in (path, *path.parents) if str(above) in mounts), "")
