"""`folders.py`: which folders are used, that they are private, and what is done where they cannot be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from starburst_executor import config
from starburst_executor.config import file_systems
from starburst_executor.errors import ConfigError


def test_the_default_store_is_private_and_in_the_users_data(starburst_home):
    url = config.default_store(detached=True)
    assert url == f"sqlite://{starburst_home}/sessions"
    assert stat.S_IMODE((starburst_home / "sessions").stat().st_mode) == 0o700


def test_every_folder_that_is_made_is_private(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("STARBURST_HOME", str(home))
    config.default_store(detached=True)
    config.registry_folder(to_write=True)
    config.log_folder()
    config.user_key(create=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home, *home.iterdir()) if path.is_dir()}
    assert modes == dict.fromkeys(("home", "sessions", "registry", "logs"), 0o700)


def test_odd_characters_of_a_folder_are_quoted_in_its_url(tmp_path, monkeypatch):
    monkeypatch.setenv("STARBURST_HOME", str(tmp_path / "50% of #1? ü"))
    assert config.default_store(detached=True) == f"sqlite://{tmp_path}/50%25%20of%20%231%3F%20%C3%BC/sessions"


def test_without_starburst_home_the_system_s_own_folders_are_used(tmp_path, monkeypatch):
    monkeypatch.delenv("STARBURST_HOME")
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.default_store(detached=True).startswith(f"sqlite://{tmp_path}/")
    registry = config.registry_folder(to_write=True)
    assert registry is not None
    assert registry.is_relative_to(tmp_path)
    assert config.log_folder().is_relative_to(tmp_path)


def test_without_a_home_attached_sessions_use_a_temporary_folder(no_home):
    url = config.default_store(detached=False)
    folder = Path(url.removeprefix("sqlite://"))
    assert folder.is_relative_to(no_home / "tmp")
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert config.default_store(detached=False) == url
    assert config.registry_folder(to_write=True) is None
    assert config.log_folder().is_dir()


def test_a_home_that_nobody_knows_is_no_folder_named_tilde(no_home, monkeypatch):
    monkeypatch.delenv("STARBURST_HOME")
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *_, **__: "~/.local/share/x")
    with pytest.raises(ConfigError, match="no home directory"):
        config.default_store(detached=True)


def test_a_temporary_folder_that_others_can_enter_is_refused(no_home):
    (no_home / "tmp" / f"starburst_executor-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="not yours alone"):
        config.default_store(detached=False)


def test_a_temporary_folder_that_is_a_link_is_refused(no_home):
    (no_home / "tmp" / f"starburst_executor-{os.getuid()}").symlink_to(no_home)
    with pytest.raises(ConfigError, match="not yours alone"):
        config.default_store(detached=False)


@pytest.mark.parametrize(
    ("kind", "is_network"),
    [
        *[(kind, True) for kind in ("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "fuse.sshfs", "afs")],
        *[(kind, False) for kind in ("ext4", "apfs", "tmpfs", "overlay", "btrfs", "fuse.ntfs-3g", "")],
    ],
)
def test_a_data_folder_on_a_network_file_system(starburst_home, tmp_path, monkeypatch, kind, is_network):
    monkeypatch.setattr(file_systems, "_mounts", lambda: {"/": kind})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert config.default_store(detached=False).startswith(f"sqlite://{tmp_path if is_network else starburst_home}/")
    if is_network:
        with pytest.raises(ConfigError, match=f"file system={kind}"):
            config.default_store(detached=True)


def test_machine_boot_is_stable():
    assert config.machine_boot() == config.machine_boot() != ""
