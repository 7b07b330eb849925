"""Sessions of the SDK share its data files."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.exceptions import ProfileNotFound
from botocore.loaders import JSONFileLoader

from starburst_executor.store.s3 import sdk


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data files that were read since, without their folder."""
    found: list[str] = []
    load = JSONFileLoader.load_file

    def noted(self: JSONFileLoader, file_path: str) -> object:
        data = load(self, file_path)
        if data is not None:
            found.append(Path(file_path).name)
        return data

    monkeypatch.setattr(JSONFileLoader, "load_file", noted)
    return found


def test_each_data_file_is_read_once(monkeypatch: pytest.MonkeyPatch, read: list[str]) -> None:
    monkeypatch.setattr(sdk, "_loaders", {})
    sdk.new_session(None).client("s3", region_name="eu-west-1")
    assert "endpoints" in read
    del read[:]
    sdk.new_session(None).client("s3", region_name="us-east-1")
    assert read == []
    n_folders = len(sdk.new_core(None).get_component("data_loader").search_paths)
    sdk.new_session(None)
    assert len(sdk.new_core(None).get_component("data_loader").search_paths) == n_folders


def test_a_folder_of_the_users_own_has_a_loader_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usual = sdk.new_core(None).get_component("data_loader")
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    own = sdk.new_core(None).get_component("data_loader")
    assert own is not usual
    assert str(tmp_path) in own.search_paths
    assert str(tmp_path) not in usual.search_paths


def test_a_profile_that_does_not_exist() -> None:
    with pytest.raises(ProfileNotFound):
        sdk.new_session("no-such-profile")
