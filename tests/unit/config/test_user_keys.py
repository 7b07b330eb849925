"""`user_keys.py`: the key file, who gets which session's key, and that no key is shown."""

from __future__ import annotations

import copy
import os
import pickle
import stat
import subprocess
import sys

import pytest

from starburst_executor import config
from starburst_executor.config import SessionKey, user_keys
from starburst_executor.errors import ConfigError, KeyNotFound

SESSION = "0123456789abcdef"


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
    user_keys._write_key(path)
    first = path.read_text()
    user_keys._write_key(path)
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
    with pytest.raises(
        KeyNotFound, match=rf"`starburst key export {SESSION}` .*STARBURST_KEY.*/key .*session={SESSION}"
    ):
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
