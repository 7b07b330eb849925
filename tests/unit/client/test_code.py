"""The user's modules as a zip: what is in it, when it is made, what is asked of the store."""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
import threading
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from starburst_executor.client import code as code_module
from starburst_executor.client.code import Code, zipped
from starburst_executor.errors import PayloadError, StoreUnavailable
from starburst_executor.modules import find_modules
from starburst_executor.testing import Asked, FakeClock, Fault, FaultyStore, MemoryStore


class Stored(Code):
    """Stores what it names at once."""

    def name(self) -> str:
        name = super().name()
        self.store_waiting()
        return name


class Stage:
    """A project on disk that this process works in, and a store that counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.objects = MemoryStore(clock=self.clock)
        self.asked: list[Asked] = []
        self.store = FaultyStore(self.objects, lambda asked: self.asked.append(asked))
        self.write("main.py", "import pkg.deep, single")
        self.write("pkg/__init__.py", "")
        self.write("pkg/deep.py", "value = 1")
        self.write("pkg/data.bin", "data")
        self.write("pkg/.env", "SECRET=1")
        self.write("single.py", "")

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def code(self, exclude: str = "") -> Code:
        return Stored(self.store, self.clock, exclude)

    def requests(self) -> Counter[str]:
        return Counter(asked.kind for asked in self.asked)

    def stored(self, name: str) -> zipfile.ZipFile:
        found = self.objects.get(f"code/{name}")
        assert found is not None
        return zipfile.ZipFile(io.BytesIO(found.body))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(tmp_path)
    # This process's own modules are the tests; here they are those of a small project.
    monkeypatch.setattr(code_module, "find_modules", lambda: find_modules(tmp_path / "main.py"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(code_module, "_digests", {})
    loaded = set(sys.modules)
    yield stage
    for name in set(sys.modules) - loaded:
        del sys.modules[name]


def test_whole_packages_without_what_no_import_needs(stage: Stage) -> None:
    script = stage.write("pkg/run.sh", "")
    script.chmod(0o755)
    archive = stage.stored(stage.code().name())
    assert archive.namelist() == ["pkg/__init__.py", "pkg/data.bin", "pkg/deep.py", "pkg/run.sh", "single.py"]
    modes = [oct(entry.external_attr >> 16) for entry in archive.infolist()]
    assert modes == ["0o100644", "0o100644", "0o100644", "0o100755", "0o100644"]


def test_two_executors_and_ten_thousand_tasks_write_it_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    monkeypatch.setattr(code_module, "zipped", lambda files: made.append(zipped(files)) or made[-1])
    one, two = stage.code(), stage.code()
    names = {one.name() for _ in range(10_000)} | {two.name() for _ in range(10_000)}
    assert len(names) == 1
    # Each asks whether it is there; the second one does not even zip.
    assert stage.requests() == {"get": 2, "create": 1}
    assert len(made) == 1


def test_the_same_files_are_the_same_code_whatever_their_times(stage: Stage) -> None:
    name = stage.code().name()
    for path in stage.folder.rglob("*.py"):
        os.utime(path, (1, 1))
    assert stage.code().name() == name
    assert stage.requests()["create"] == 1


def test_the_name_begins_with_the_month_so_that_old_code_may_be_deleted(stage: Stage) -> None:
    first = stage.code().name()
    stage.clock.advance(32 * 24 * 3600)
    second = stage.code().name()
    assert first.partition("/")[2] == second.partition("/")[2]
    assert first.partition("/")[0] < second.partition("/")[0]
    assert stage.requests()["create"] == 2


def test_an_edit_alone_changes_nothing_a_reload_does(stage: Stage) -> None:
    deep = importlib.import_module("pkg.deep")
    code = stage.code()
    first = code.name()
    stage.write("pkg/deep.py", "value = 1000")
    assert code.name() == first
    importlib.reload(deep)
    second = code.name()
    assert second != first
    assert stage.stored(second).read("pkg/deep.py") == b"value = 1000"
    assert code.name() == second


def test_what_is_imported_later_is_sent_too(stage: Stage) -> None:
    code = stage.code()
    first = code.name()
    stage.write("main.py", "import pkg.deep, single, later")
    stage.write("later.py", "")
    importlib.import_module("later")
    assert "later.py" in stage.stored(code.name()).namelist()
    # A further module of a package that is there in whole is no news.
    name = code.name()
    stage.write("pkg/extra.py", "")
    importlib.import_module("pkg.extra")
    assert code.name() == name != first


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ("*.bin", ["pkg/__init__.py", "pkg/deep.py", "single.py"]),
        ("pkg/d*, single.py", ["pkg/__init__.py"]),
        ("pkg", ["single.py"]),
        ("pkg/ *.nothing", ["single.py"]),
        ("deep.py", ["pkg/__init__.py", "pkg/data.bin", "single.py"]),
    ],
)
def test_what_is_excluded_is_not_sent(stage: Stage, exclude: str, left: list[str]) -> None:
    assert stage.stored(stage.code(exclude).name()).namelist() == left


def test_nothing_own_is_nothing_sent(stage: Stage) -> None:
    assert stage.code("*").name() == ""
    assert not stage.asked


def test_too_much_is_an_error_that_names_the_largest_files(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_module, "_MOST_BYTES", 2**20)
    stage.write("pkg/big.bin", os.urandom(2**20))
    with pytest.raises(
        PayloadError, match=r"over 1 MB zipped.*pkg/big\.bin \(1\.0 MB\).*STARBURST_CODE_EXCLUDE='pkg/big\.bin'"
    ):
        stage.code().name()
    assert not stage.asked
    assert stage.code("pkg/big.bin").name()


def test_links_are_followed_once(stage: Stage, tmp_path: Path) -> None:
    stage.write("aside/table.csv", "1")
    (tmp_path / "pkg/linked").symlink_to(tmp_path / "aside")
    (tmp_path / "pkg/round").symlink_to(tmp_path / "pkg")
    (tmp_path / "pkg/dangling").symlink_to(tmp_path / "nowhere")
    names = stage.stored(stage.code().name()).namelist()
    assert "pkg/linked/table.csv" in names
    assert not [name for name in names if name.startswith(("pkg/round", "pkg/dangling"))]


def test_compiled_modules_are_sent_with_a_warning(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    stage.write(f"pkg/fast{suffix}", b"\x7fELF")
    with caplog.at_level(logging.WARNING):
        name = stage.code().name()
    assert f"pkg/fast{suffix}" in stage.stored(name).namelist()
    assert f"pkg/fast{suffix}" in caplog.text


# --- named at once, stored later --------------------------------------------------------------------------------------


def test_a_submit_makes_no_request_and_the_first_sender_stores_for_all(stage: Stage) -> None:
    code = Code(stage.store, stage.clock, "")
    name = code.name()
    assert not stage.asked
    asked, may_answer = threading.Event(), threading.Event()

    def slow(request: Asked) -> None:
        stage.asked.append(request)
        asked.set()
        assert may_answer.wait(60)

    code._store = FaultyStore(stage.objects, slow)
    done: list[str] = []
    senders = [threading.Thread(target=lambda: (code.store_waiting(), done.append(name))) for _ in range(2)]
    for sender in senders:
        sender.start()
    assert asked.wait(60)
    assert code.name() == name, "a submit does not wait for it"
    assert not done
    may_answer.set()
    for sender in senders:
        sender.join(60)
    assert done == [name, name]
    assert stage.requests() == {"get": 1, "create": 1}
    assert "single.py" in stage.stored(name).namelist()


def test_a_sender_does_not_wait_for_one_that_has_failed(stage: Stage) -> None:
    code = Code(stage.store, stage.clock, "")
    code.name()
    code._store = FaultyStore(stage.objects, lambda _: Fault.RESET)
    with pytest.raises(StoreUnavailable):
        code.store_waiting()
    with pytest.raises(StoreUnavailable, match="the client has failed"):
        code.store_waiting(lambda: StoreUnavailable("the client has failed"))


def test_code_that_was_changed_before_it_was_sent_is_an_error(stage: Stage) -> None:
    stage.code().name()
    stage.objects.delete([line.key for line in stage.objects.list("code/")])
    code = Code(stage.store, stage.clock, "")
    code.name()
    stage.write("single.py", "changed = 1")
    with pytest.raises(PayloadError, match="was changed while it was being sent"):
        code.store_waiting()
