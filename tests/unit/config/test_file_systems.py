"""`file_systems.py`: from a folder to the kind of its file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from starburst_executor.config import file_systems

LINUX_MOUNTS = """\
/dev/root / ext4 rw,relatime 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
//nas/shared\\040files /mnt/shared\\040files cifs rw 0 0
tmpfs /home/scratch tmpfs rw 0 0
"""
MAC_MOUNTS = """\
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
server:/export on /Volumes/team files (nfs, nodev, nosuid)
//me@nas/share on /Volumes/share (smbfs, nodev, nosuid, mounted by me)
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/x", "ext4"),
        ("/home/me/.local", "nfs4"),
        ("/homework", "ext4"),
        ("/home/scratch/me", "tmpfs"),
        ("/mnt/shared files/x", "cifs"),
    ],
)
def test_linux_mounts(path, kind):
    assert file_systems._filesystem_of(Path(path), file_systems._parse_linux_mounts(LINUX_MOUNTS)) == kind


@pytest.mark.parametrize(
    ("path", "kind"), [("/Users/me", "apfs"), ("/Volumes/team files/x", "nfs"), ("/Volumes/share", "smbfs")]
)
def test_mac_mounts(path, kind):
    assert file_systems._filesystem_of(Path(path), file_systems._parse_mac_mounts(MAC_MOUNTS)) == kind


def test_this_system_names_its_mounts():
    assert "/" in file_systems._mounts()
