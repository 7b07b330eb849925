"""A machine on which nothing can be kept."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """A home that cannot be: a file is in its place. Works for root too, whom modes do not stop."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("STARBURST_HOME", str(tmp_path / "file" / "home"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path
