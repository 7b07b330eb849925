"""Which session lies in which store: a convenience, so that whatever is wrong with it is no error."""

from __future__ import annotations

from pathlib import Path

import pytest

from starburst_executor.client import registry

SESSION = "20260101-000000-aaaaaaaa"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STARBURST_HOME", str(tmp_path))
    return tmp_path / "registry"


def test_what_was_noted_is_known_until_it_is_forgotten(folder: Path) -> None:
    assert registry.known_url(SESSION) is None
    registry.remember(SESSION, f"sqlite:///a/folder/{SESSION}")
    assert registry.known_url(SESSION) == f"sqlite:///a/folder/{SESSION}"
    registry.forget(SESSION)
    registry.forget(SESSION)
    assert registry.known_url(SESSION) is None
    assert not list(folder.iterdir())


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"\0" * 100, b"no url", b"\n"])
def test_a_damaged_note_is_none(folder: Path, body: bytes) -> None:
    registry.remember(SESSION, "sqlite:///a")
    (folder / SESSION).write_bytes(body)
    assert registry.known_url(SESSION) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../key", "A"])
def test_an_id_that_is_a_path_leads_nowhere(folder: Path, name: str) -> None:
    registry.remember(SESSION, "sqlite:///a")
    assert registry.known_url(name) is None
    registry.forget(name)
    assert (folder / SESSION).exists()


def test_what_cannot_be_noted_is_no_error(folder: Path) -> None:
    registry.remember(SESSION, "sqlite:///a")
    (folder / SESSION).unlink()
    (folder / SESSION).mkdir()
    registry.remember(SESSION, "sqlite:///a")
    assert registry.known_url(SESSION) is None
    registry.forget(SESSION)
