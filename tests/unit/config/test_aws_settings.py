"""`aws.py` and `file.py` of the settings: which stack, where it is written, and what stays beside it."""

from __future__ import annotations

import pytest

from starburst_executor.config import AwsSettings, forget_aws, remember_aws, resolve, resolve_aws
from starburst_executor.errors import ConfigError

STORE = "sqlite:///folder"


def test_argument_beats_variable_beats_file_beats_default(starburst_home, monkeypatch):
    assert resolve_aws() == AwsSettings(stack="starburst", region=None, profile=None)
    (starburst_home / "config.toml").write_text('[aws]\nstack = "one"\nregion = "eu-west-1"\n')
    assert resolve_aws() == AwsSettings(stack="one", region="eu-west-1")
    monkeypatch.setenv("STARBURST_AWS_STACK", "two")
    monkeypatch.setenv("STARBURST_AWS_PROFILE", "research")
    assert resolve_aws() == AwsSettings(stack="two", region="eu-west-1", profile="research")
    assert resolve_aws(stack="three").stack == "three"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('aws = "starburst"\n', "must be a table"),
        ('[aws]\nbucket = "b"\n', "unknown setting: 'aws.bucket'"),
        ("[aws]\nstack = 3\n", "aws.stack=3"),
        ('[aws]\nregion = "Ireland"\n', "aws.region='Ireland'"),
        ('[aws]\nstack = "ecs-team"\n', "aws.stack='ecs-team'"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_its_place(starburst_home, text, said):
    (starburst_home / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        resolve_aws()
    assert "config.toml)" in str(caught.value)


def test_a_session_reads_over_the_table_and_refuses_a_wrong_one(starburst_home):
    (starburst_home / "config.toml").write_text('retries = 2\n[aws]\nstack = "one"\n')
    assert resolve(False, store=STORE).retries == 2
    (starburst_home / "config.toml").write_text("[aws]\nbucket = 1\n")
    with pytest.raises(ConfigError, match=r"aws\.bucket"):
        resolve(False, store=STORE)


def test_writing_leaves_everything_else_as_it_is(starburst_home):
    path = starburst_home / "config.toml"
    path.write_text('# mine\nworkers = 3   # three\n\n[aws]\n# the team\'s\nstack = "old"\nprofile = "p"\n')
    assert remember_aws(AwsSettings(stack="new", region="eu-west-1")) == path
    assert (
        path.read_text()
        == '# mine\nworkers = 3   # three\n\n[aws]\n# the team\'s\nstack = "new"\nregion = "eu-west-1"\n'
    )
    assert [one.name for one in starburst_home.iterdir()] == ["config.toml"]
    forget_aws(AwsSettings(stack="another", region="eu-west-1"))
    assert resolve_aws().stack == "new"
    forget_aws(AwsSettings(stack="new", region="eu-west-1"))
    assert path.read_text().startswith("# mine\nworkers = 3   # three\n")
    assert "[aws]" not in path.read_text()


def test_forgetting_what_was_never_written_makes_no_file(starburst_home):
    forget_aws(AwsSettings(stack="starburst", region="eu-west-1"))
    assert list(starburst_home.iterdir()) == []


def test_a_file_that_cannot_be_read_is_not_replaced(starburst_home):
    path = starburst_home / "config.toml"
    path.write_text("workers = [\n")
    with pytest.raises(ConfigError, match=r"cannot be written: .*config\.toml"):
        remember_aws(AwsSettings())
    assert path.read_text() == "workers = [\n"


def test_the_file_may_be_elsewhere(tmp_path, monkeypatch):
    path = tmp_path / "new" / "other.toml"
    monkeypatch.setenv("STARBURST_CONFIG", str(path))
    assert remember_aws(AwsSettings(region="eu-west-1")) == path
    assert resolve_aws().region == "eu-west-1"


def test_without_a_home_nothing_is_written_and_the_fix_is_said(no_home):
    with pytest.raises(ConfigError, match="cannot be written: "):
        remember_aws(AwsSettings())


def test_the_store_that_goes_with_a_launcher(monkeypatch):
    asked = []

    def store_of(launcher: str) -> str | None:
        asked.append(launcher)
        return None if launcher == "local" else "s3://bucket"

    assert resolve(False, store_of=store_of).store.startswith("sqlite://")
    assert resolve(True, store_of=store_of, launcher="fargate?cpu=4").store == "s3://bucket"
    assert resolve(True, store_of=store_of, launcher="fargate", store=STORE).store == STORE
    assert asked == ["local", "fargate?cpu=4"]
