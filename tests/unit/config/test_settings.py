"""`settings.py`: which source of a setting wins, what is refused, and what the error says."""

from __future__ import annotations

import dataclasses
import os

import pytest

from starburst_executor.config import Settings, resolve
from starburst_executor.errors import ConfigError

STORE = "sqlite:///folder"


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
        ("max_losses", "0", "must be 1..100"),
        (
            "launcher",
            "cloud",
            "must be 'local', 'none', 'aws', 'fargate', 'fargate-spot', 'ec2', 'batch' or 'batch-spot'",
        ),
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


def test_without_a_home_detached_sessions_are_refused_with_the_fix(no_home):
    with pytest.raises(ConfigError, match=r"STARBURST_STORE.*STARBURST_HOME"):
        resolve(True)
    assert resolve(True, store=STORE).store == STORE
