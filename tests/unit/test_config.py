"""`config.py`: where settings come from, what their errors say, which folders are used, and who gets which key."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies

from starburst_executor import config
from starburst_executor.config import SessionKey, Settings, Timings, resolve
from starburst_executor.errors import ConfigError, KeyNotFound, RecordInvalid

STORE = "sqlite:///folder"
SESSION = "0123456789abcdef"


# Settings: argument > variable > config file > default


def test_argument_beats_variable_beats_file_beats_default(starburst_home, monkeypatch):
    def retries(**arguments):
        return resolve(False, store=STORE, **arguments).retries

    assert retries() == 0
    (starburst_home / "config.toml").write_text("retries = 1\n")
    assert retries() == 1
    monkeypatch.setenv("STARBURST_RETRIES", "2")
    assert retries() == 2
    assert retries(retries=3) == 3
    assert retries(retries=None) == 2


def test_an_empty_variable_is_not_given(monkeypatch):
    monkeypatch.setenv("STARBURST_RETRIES", "")
    assert resolve(False, store=STORE).retries == 0


def test_defaults():
    settings = resolve(False)
    assert 1 <= settings.workers <= (os.cpu_count() or 1)
    assert settings == Settings(workers=settings.workers, store=settings.store)
    assert settings.launcher == "local"
    assert settings.task_timeout is settings.max_tasks_per_child is settings.absolute_timeout is None
    assert settings.keep is False


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("workers", "7", 7),
        ("launcher", "none", "none"),
        ("task_timeout", "1.5", 1.5),
        ("task_timeout", "none", None),
        ("max_tasks_per_child", "None", None),
        ("keep", "yes", True),
        ("keep", "0", False),
        ("queue_bytes", "1048576", 2**20),
    ],
)
def test_a_variable_is_text(monkeypatch, name, text, value):
    monkeypatch.setenv(f"STARBURST_{name.upper()}", text)
    assert getattr(resolve(False, store=STORE), name) == value


def test_none_as_a_variable_undoes_the_file(starburst_home, monkeypatch):
    (starburst_home / "config.toml").write_text("task_timeout = 5\n")
    assert resolve(False, store=STORE).task_timeout == 5.0
    monkeypatch.setenv("STARBURST_TASK_TIMEOUT", "none")
    assert resolve(False, store=STORE).task_timeout is None


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("workers", "0", "must be 1..10000"),
        ("workers", "many", "must be 1..10000"),
        ("retries", "101", "must be 0..100"),
        ("launcher", "cloud", "must be 'local' or 'none'"),
        ("task_timeout", "0", "must be 0.001..31622400, or none"),
        ("task_timeout", "nan", "must be 0.001..31622400, or none"),
        ("max_tasks_per_child", "0", "must be at least 1, or none"),
        ("keep", "perhaps", "must be true or false"),
        ("store", "bucket/prefix", "must be a URL such as"),
    ],
)
def test_an_error_names_value_source_and_range(monkeypatch, name, text, allowed):
    monkeypatch.setenv(f"STARBURST_{name.upper()}", text)
    with pytest.raises(ConfigError) as caught:
        resolve(False)
    message = str(caught.value)
    assert message.startswith(f"{name}=")
    assert text in message
    assert f"(from STARBURST_{name.upper()})" in message
    assert allowed in message


def test_an_error_of_an_argument_and_of_the_file(starburst_home):
    with pytest.raises(ConfigError, match=r"^workers=10001 \(an argument\): must be 1\.\.10000$"):
        resolve(False, workers=10_001)
    path = starburst_home / "config.toml"
    path.write_text('workers = "four"\n')
    with pytest.raises(ConfigError, match=r"^workers='four' \(from .*config\.toml\): must be 1\.\.10000$"):
        resolve(False)
    path.write_text("worker = 4\n")
    with pytest.raises(ConfigError, match=r"unknown setting: 'worker' \(from .*config\.toml\); known are workers, "):
        resolve(False)
    path.write_text("workers = [\n")
    with pytest.raises(ConfigError, match=r"config file cannot be read: .*config\.toml"):
        resolve(False)


@pytest.mark.parametrize("arguments", [{"workers": "4"}, {"max_tasks_per_child": 1.5}, {"keep": 1}, {"store": 3}])
def test_an_argument_of_a_wrong_type_is_a_type_error(arguments):
    with pytest.raises(TypeError, match=next(iter(arguments))):
        resolve(False, **arguments)


def test_an_unknown_argument_is_a_type_error():
    with pytest.raises(TypeError, match="wrokers"):
        resolve(False, store=STORE, wrokers=3)


def test_workers_and_max_workers_are_one():
    assert resolve(False, store=STORE, max_workers=3).workers == 3
    assert resolve(False, store=STORE, max_workers=3, workers=3).workers == 3
    with pytest.raises(ConfigError, match="workers=3 and max_workers=4"):
        resolve(False, store=STORE, max_workers=4, workers=3)


@pytest.mark.parametrize("value", [0, -1])
def test_a_bad_max_workers_is_refused_in_the_standard_library_s_words(value):
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        resolve(False, max_workers=value)


def test_the_config_file_may_be_elsewhere_but_must_then_be_there(tmp_path, monkeypatch):
    path = tmp_path / "other.toml"
    monkeypatch.setenv("STARBURST_CONFIG", str(path))
    with pytest.raises(ConfigError, match="STARBURST_CONFIG="):
        resolve(False, store=STORE)
    path.write_text("keep = true\n")
    assert resolve(False, store=STORE).keep is True


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve(False, store=STORE).workers = 3


# Timings


def test_timings_survive_the_manifest():
    for timings in (Timings.remote(), Timings.embedded()):
        assert Timings.from_record(timings.to_record()) == timings
    assert Timings.remote() == Timings()


def test_timings_of_another_version():
    record = {**Timings.embedded().to_record(), "new_s": 1.0}
    del record["rank_s"]
    assert Timings.from_record(record) == Timings.embedded()


@pytest.mark.parametrize(
    "wrong",
    [
        {"beat_s": 0},
        {"beat_s": -1.0},
        {"beat_s": float("nan")},
        {"beat_s": float("inf")},
        {"beat_s": "15"},
        {"beat_s": True},
        {"looks_until_lost": 0},
        {"looks_until_lost": 1.5},
        {"ring_gap_s": -0.1},
        {"poll_min_s": 2.0, "poll_max_s": 1.0},
    ],
)
def test_wrong_timings(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Timings(**wrong)
    with pytest.raises(RecordInvalid, match=next(iter(wrong))):
        Timings.from_record({**Timings().to_record(), **wrong})


@given(
    strategies.none()
    | strategies.integers()
    | strategies.text()
    | strategies.dictionaries(
        strategies.sampled_from([field.name for field in dataclasses.fields(Timings)]),
        strategies.none() | strategies.text() | strategies.integers() | strategies.floats() | strategies.booleans(),
    )
)
def test_timings_of_any_record_are_right_or_refused(record):
    try:
        timings = Timings.from_record(record)
    except RecordInvalid:
        return
    assert all(value >= 0 for value in timings.to_record().values())


# Folders


def test_the_default_store_is_private_and_in_the_users_data(starburst_home):
    url = config.default_store(detached=True)
    assert url == f"sqlite://{starburst_home}/sessions"
    assert stat.S_IMODE((starburst_home / "sessions").stat().st_mode) == 0o700


def test_every_folder_that_is_made_is_private(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("STARBURST_HOME", str(home))
    config.default_store(detached=True)
    config.registry_folder()
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
    registry = config.registry_folder()
    assert registry is not None
    assert registry.is_relative_to(tmp_path)
    assert config.log_folder().is_relative_to(tmp_path)


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """A home that cannot be: a file is in its place. Works for root too, whom modes do not stop."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("STARBURST_HOME", str(tmp_path / "file" / "home"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path


def test_without_a_home_attached_sessions_use_a_temporary_folder(no_home):
    url = config.default_store(detached=False)
    folder = Path(url.removeprefix("sqlite://"))
    assert folder.is_relative_to(no_home / "tmp")
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert config.default_store(detached=False) == url
    assert config.registry_folder() is None
    assert config.log_folder().is_dir()


def test_without_a_home_detached_sessions_are_refused_with_the_fix(no_home):
    with pytest.raises(ConfigError, match=r"STARBURST_STORE.*STARBURST_HOME"):
        resolve(True)
    assert resolve(True, store=STORE).store == STORE


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
    assert config._filesystem_of(Path(path), config._parse_linux_mounts(LINUX_MOUNTS)) == kind


@pytest.mark.parametrize(
    ("path", "kind"), [("/Users/me", "apfs"), ("/Volumes/team files/x", "nfs"), ("/Volumes/share", "smbfs")]
)
def test_mac_mounts(path, kind):
    assert config._filesystem_of(Path(path), config._parse_mac_mounts(MAC_MOUNTS)) == kind


@pytest.mark.parametrize(
    ("kind", "is_network"),
    [
        *[(kind, True) for kind in ("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "fuse.sshfs", "afs")],
        *[(kind, False) for kind in ("ext4", "apfs", "tmpfs", "overlay", "btrfs", "fuse.ntfs-3g", "")],
    ],
)
def test_a_data_folder_on_a_network_file_system(starburst_home, tmp_path, monkeypatch, kind, is_network):
    monkeypatch.setattr(config, "_mounts", lambda: {"/": kind})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert config.default_store(detached=False).startswith(f"sqlite://{tmp_path if is_network else starburst_home}/")
    if is_network:
        with pytest.raises(ConfigError, match=f"file system={kind}"):
            config.default_store(detached=True)


def test_this_system_tells_its_mounts():
    assert "/" in config._mounts()


def test_machine_boot_is_stable():
    assert config.machine_boot() == config.machine_boot() != ""


# Keys


def test_the_key_file_is_made_once_and_private(starburst_home):
    assert config.user_key(create=False) is None
    made = config.user_key(create=True)
    assert made is not None
    assert config.user_key(create=False) == config.user_key(create=True) == made
    assert stat.S_IMODE((starburst_home / "key").stat().st_mode) == 0o600
    assert (starburst_home / "key").read_text().strip() == made.hex()
    assert [path.name for path in starburst_home.iterdir()] == ["key"]


def test_processes_that_make_the_key_file_at_once_get_one_key():
    program = "from starburst_executor import config; input(); print(config.user_key(create=True).hex())"
    command = [sys.executable, "-c", program]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    # All wait for their line, so that they start together.
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    assert len({child.communicate(timeout=60)[0] for child in children}) == 1


def test_the_key_that_came_first_stands(starburst_home):
    path = starburst_home / "key"
    config._write_key(path)
    first = path.read_text()
    config._write_key(path)
    assert path.read_text() == first
    assert [one.name for one in starburst_home.iterdir()] == ["key"]


def test_a_key_file_that_others_can_read_is_refused(starburst_home):
    config.user_key(create=True)
    (starburst_home / "key").chmod(0o644)
    with pytest.raises(ConfigError, match=r"type `chmod 600 '.*/key'`: mode=644"):
        config.find_session_key(SESSION)


def test_a_key_file_without_a_key_is_refused(starburst_home):
    (starburst_home / "key").touch(mode=0o600)
    with pytest.raises(ConfigError, match=r"not a key \(from .*/key\)"):
        config.user_key(create=True)


def test_session_keys_differ_by_session_and_user():
    user = config.user_key(create=True)
    assert user is not None
    assert config.session_key(user, "a") == config.session_key(user, "a")
    assert config.session_key(user, "a") != config.session_key(user, "b")
    assert config.session_key(config.UserKey(bytes(32)), "a") != config.session_key(user, "a")
    # The protocol's definition, as numbers: other versions must come to the same key.
    assert config.session_key(config.UserKey(bytes(32)), "a").hex()[:16] == "ec25015598ea53f9"


def test_where_a_session_key_is_found(monkeypatch):
    with pytest.raises(KeyNotFound, match=rf"copy the key file .*/key.*STARBURST_KEY.*session={SESSION}"):
        config.find_session_key(SESSION)
    from_file = config.new_session_key(SESSION, detached=True)
    assert config.find_session_key(SESSION) == from_file
    monkeypatch.setenv("STARBURST_KEY", "11" * 32)
    assert config.find_session_key(SESSION).hex() == "11" * 32
    assert config.new_session_key(SESSION, detached=True).hex() == "11" * 32
    for given_key in ("22" * 32, b"\x22" * 32, SessionKey(b"\x22" * 32)):
        assert config.find_session_key(SESSION, given_key).hex() == "22" * 32


@pytest.mark.parametrize("text", ["abc", "zz" * 32, "11" * 31])
def test_a_malformed_key_is_refused_and_not_shown(monkeypatch, text):
    with pytest.raises(ConfigError, match="from the argument key") as caught:
        config.find_session_key(SESSION, text)
    assert text not in str(caught.value)
    monkeypatch.setenv("STARBURST_KEY", text)
    with pytest.raises(ConfigError, match="from STARBURST_KEY") as caught:
        config.find_session_key(SESSION)
    assert text not in str(caught.value)


def test_without_a_home_only_attached_sessions_get_a_key(no_home):
    first = config.new_session_key(SESSION, detached=False)
    assert first != config.new_session_key(SESSION, detached=False)
    with pytest.raises(ConfigError, match="STARBURST_HOME"):
        config.new_session_key(SESSION, detached=True)


@pytest.mark.parametrize("kind", [config.UserKey, SessionKey])
def test_a_key_is_shown_by_hex_alone(kind):
    raw = bytes(range(32))
    key = kind(raw)
    assert bytes(key) == raw
    assert key.hex() == raw.hex()
    for shown in (repr(key), str(key), f"{key}", repr([key])):
        assert kind.__name__ in shown
        assert raw.hex()[:6] not in shown
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            copied(key)
    assert key != raw
    assert key == kind(raw)
    assert hash(key) == hash(kind(raw))


def test_a_key_has_32_bytes():
    with pytest.raises(ConfigError, match="length=31"):
        SessionKey(bytes(31))


def test_user_code_never_sees_the_key(monkeypatch):
    monkeypatch.setenv("STARBURST_KEY", "11" * 32)
    environment = config.worker_environment()
    assert "STARBURST_KEY" not in environment
    assert environment["PATH"] == os.environ["PATH"]
    assert config.take_secret_environment() == "11" * 32
    assert config.take_secret_environment() is None
    assert "STARBURST_KEY" not in os.environ
