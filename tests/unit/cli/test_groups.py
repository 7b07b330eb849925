"""Help of groups: whole sentences, each command once, and the nearest command for a wrong one."""

from __future__ import annotations

import click
import pytest

from starburst_executor.cli.groups import CommandGroup
from starburst_executor.cli.main import starburst
from tests.support.aws_rig import run


@pytest.mark.parametrize("words", [("study",), ("key",), ("config",), ("cache",), ("image",)])
def test_the_help_of_a_group_has_a_whole_sentence_for_each_command(words: tuple[str, ...]) -> None:
    done = run(*words, "--help")
    assert done.exit_code == 0
    lines = done.stdout.split("Options:")[1].splitlines()
    assert not [line for line in lines if line.endswith("...")]
    group = names_of(words)
    assert [line.split()[0] for line in lines if line[:2] == "  " and line[2:3].isalpha()] == group


def names_of(words: tuple[str, ...]) -> list[str]:
    group: click.Command | None = starburst
    for word in words:
        assert isinstance(group, click.Group)
        group = group.get_command(click.Context(group), word)
    assert isinstance(group, CommandGroup)
    return group.list_commands(click.Context(group))


def test_a_wrong_command_of_a_group_is_answered_with_the_nearest() -> None:
    done = run("study", "valid")
    assert done.exit_code == 2
    assert "no such command: 'valid', did you mean validate?" in done.output
