"""Code as a worker unpacks it: only what a function names, only into its own folder, once."""

from __future__ import annotations

import hashlib
import io
import os
import random
import threading
import zipfile
from pathlib import Path

import pytest

from starburst_executor.errors import LaunchError, PayloadError, RecordInvalid
from starburst_executor.worker import code_root
from starburst_executor.worker.code import Code, unpack
from tests.support.session_rig import Rig


def zipped(**files: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return stream.getvalue()


def store(rig: Rig, body: bytes) -> str:
    name = f"2026-04/{hashlib.sha256(body).hexdigest()}"
    rig.objects.create(f"code/{name}", body)
    return name


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Code:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Code(Rig().session, code_root.new_name())


def rig_of(code: Code) -> Rig:
    rig = Rig()
    code._session = rig.session
    return rig


def test_a_folder_is_fetched_once_for_all_who_ask_and_removed_at_the_end(code: Code, tmp_path: Path) -> None:
    rig = rig_of(code)
    name = store(rig, zipped(**{"pkg/a.py": "1", "b.py": "2"}))
    found: list[str] = []
    with rig.requests() as requests:
        threads = [threading.Thread(target=lambda: found.append(code.folder(name))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert requests == {"get": 1}
    [folder] = set(found)
    assert (Path(folder) / "pkg/a.py").read_text() == "1"
    assert Path(folder).parent.stat().st_mode & 0o777 == 0o700
    code.close()
    code.close()
    assert not list(tmp_path.iterdir())


def test_nothing_is_unpacked_after_the_end(code: Code, tmp_path: Path) -> None:
    rig = rig_of(code)
    first, second = (store(rig, zipped(**{f"{name}.py": "1"})) for name in "ab")
    code.folder(first)
    code.close()
    for name in (first, second):
        with pytest.raises(LaunchError, match="this worker is ending"):
            code.folder(name)
    assert not list(tmp_path.iterdir())


def test_content_that_is_not_what_was_named_is_not_unpacked(code: Code, tmp_path: Path) -> None:
    rig = rig_of(code)
    name = store(rig, zipped(**{"a.py": "1"}))
    rig.objects.put(f"code/{name}", zipped(**{"a.py": "evil"}))
    with pytest.raises(RecordInvalid, match="does not match its digest and was not run"):
        code.folder(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "2026-04/x", "../../sessions/a/bell", f"2026-04/{'0' * 64}/.."])
def test_a_name_that_is_none_is_refused(code: Code, name: str) -> None:
    with pytest.raises(RecordInvalid, match="not a name of code"):
        code.folder(name)


def test_code_that_is_gone_says_so_and_may_come_back(code: Code) -> None:
    rig = rig_of(code)
    body = zipped(**{"a.py": "1"})
    name = store(rig, body)
    rig.objects.delete([f"code/{name}"])
    with pytest.raises(PayloadError, match="the modules that a function needs"):
        code.folder(name)
    store(rig, body)
    assert (Path(code.folder(name)) / "a.py").is_file()


def test_a_folder_that_cannot_be_written_ends_the_worker(code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = rig_of(code)
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    with pytest.raises(LaunchError, match="cannot be unpacked on this worker"):
        code.folder(store(rig, zipped(**{"a.py": "1"})))


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", "a/../../evil.py", "a\\..\\evil.py", "folder/", ".."])
def test_nothing_is_written_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordInvalid, match="outside its folder"):
        unpack(zipped(**{"fine.py": "", name: "evil"}), tmp_path / "inner" / "folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "body", [b"", b"PK", zipped(a="1")[:-10], random.Random(1).randbytes(100)], ids=["nothing", "begun", "cut", "noise"]
)
def test_what_is_no_zip_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(RecordInvalid, match="not a zip"):
        unpack(body, tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_what_can_be_executed_still_can(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        entry = zipfile.ZipInfo("run.sh")
        entry.external_attr = 0o100755 << 16
        archive.writestr(entry, "")
    unpack(stream.getvalue(), tmp_path / "folder")
    assert os.access(tmp_path / "folder/run.sh", os.X_OK)


def test_versions_without_end_are_removed_but_those_in_use(code: Code, tmp_path: Path) -> None:
    rig = rig_of(code)
    names = [store(rig, zipped(**{"a.py": str(i)})) for i in range(20)]
    in_use = code.folder(names[0])
    for name in names[1:]:
        code.folder(name)
        [root] = tmp_path.iterdir()
        assert len(list(root.iterdir())) <= 4 + 1 + 1
    assert (Path(in_use) / "a.py").read_text() == "0"
    with rig.requests() as requests:
        assert code.folder(names[0]) is in_use
        for name in names[-3:]:
            code.folder(name)
    assert requests == {}
    again = code.folder(names[1])
    assert (Path(again) / "a.py").read_text() == "1"
