"""What the embedded store does beyond the contract: files, forks, deaths, and errors that say what to do."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from starburst_executor.clock import SystemClock
from starburst_executor.errors import (
    AccessDenied,
    ConfigError,
    ObjectNotFound,
    PreconditionFailed,
    RecordInvalid,
    StoreUnavailable,
)
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.patient import PatientStore
from starburst_executor.store.sqlite import errors as sqlite_errors
from starburst_executor.store.sqlite import files as sqlite_files
from starburst_executor.store.sqlite import folder as sqlite_folder
from starburst_executor.store.sqlite import objects as sqlite_objects
from starburst_executor.store.sqlite.store import SqliteStore
from tests.support.moto_server import ROOT
from tests.support.small_disk import read_only

KEY = "sessions/s-1/manifest"
CHUNK = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sub" / "sessions"


@pytest.fixture
def store(folder: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(folder)
    yield made
    made.close()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"_lock"}


def body_of(store: ObjectStore, key: str) -> bytes:
    stored = store.get(key)
    assert stored is not None
    return stored.body


# ----------------------------------------------------------------------------------------------------------- files


def test_each_session_has_its_file(store: SqliteStore, folder: Path) -> None:
    store.put(KEY, b"x")
    store.put("sessions/s-2/manifest", b"y")
    store.put("probes/1", b"z")
    assert {name for name in files(folder) if name.endswith(".db")} == {"s-1.db", "s-2.db", "_store.db"}
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("session_id", ["", ".", "..", "A", "a" * 65, "a b", "_store", "ä", "a.db", "a\n"])
def test_a_session_id_is_no_path(store: SqliteStore, session_id: str) -> None:
    with pytest.raises(ConfigError, match="session"):
        store.put(f"sessions/{session_id}/manifest", b"x")


def test_reading_makes_no_file(store: SqliteStore, folder: Path) -> None:
    with pytest.raises(ObjectNotFound):
        store.get(KEY)
    with pytest.raises(ObjectNotFound):
        store.swap(KEY, b"x", "etag")
    assert store.list("sessions/s-1/") == []
    assert store.list_folders("sessions/") == []
    store.delete([KEY])
    assert not folder.exists()
    store.put("probes/1", b"x")
    with pytest.raises(ObjectNotFound):
        store.get(KEY)
    assert not any(name.startswith("s-1") for name in files(folder))


def test_the_last_object_takes_its_file_along(store: SqliteStore, folder: Path) -> None:
    store.put(KEY, b"x")
    store.put(KEY + "2", b"x" * 3 * CHUNK)
    store.delete([KEY])
    assert "s-1.db" in files(folder)
    store.delete([KEY + "2"])
    assert files(folder) == set()


def test_who_has_a_removed_file_open_sees_nothing_and_makes_nothing(store: SqliteStore, folder: Path) -> None:
    etag = store.put(KEY, b"x")
    with closing(SqliteStore(folder)) as other:
        assert body_of(other, KEY) == b"x"
        store.delete([KEY])
        with pytest.raises(ObjectNotFound):
            other.get(KEY)
        with pytest.raises(ObjectNotFound):
            other.swap(KEY, b"y", etag)
        assert other.list("sessions/s-1/") == []
        other.delete([KEY])
        assert files(folder) == set()
        other.create(KEY, b"anew")
        assert body_of(store, KEY) == b"anew"
        store.close()
    with closing(SqliteStore(folder)) as third:
        assert body_of(third, KEY) == b"anew"


def test_a_burial_without_a_funeral_is_finished_by_the_next(store: SqliteStore, folder: Path) -> None:
    store.put(KEY, b"x")
    with closing(sqlite3.connect(folder / "s-1.db")) as raw, raw:
        sqlite_folder.bury(raw)
    with pytest.raises(ObjectNotFound):
        store.get(KEY)
    assert store.list("sessions/") == []
    store.create(KEY, b"anew")
    assert body_of(store, KEY) == b"anew"
    with closing(sqlite3.connect(folder / "s-1.db")) as raw, raw:
        sqlite_folder.bury(raw)
    store.delete([KEY])
    assert files(folder) == set()


def test_a_file_that_was_only_begun_is_finished(store: SqliteStore, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "s-1.db").touch()
    with pytest.raises(ObjectNotFound):
        store.get(KEY)
    assert store.list("sessions/") == []
    store.create(KEY, b"x")
    assert body_of(store, KEY) == b"x"


def test_nothing_acknowledged_goes_down_with_a_removed_file(folder: Path) -> None:
    # One writer makes and removes the session's last object all the time, the other must not notice.
    done = threading.Event()
    # Patient, since a try that meets the removal each time counts as unclear.
    patient = PatientStore(SqliteStore(folder), SystemClock(), patience_s=60.0)
    with closing(SqliteStore(folder)) as one, closing(patient) as other:

        def come_and_go() -> None:
            while not done.is_set():
                one.put(KEY, b"x")
                one.delete([KEY])

        thread = threading.Thread(target=come_and_go)
        thread.start()
        try:
            for number in range(60):
                key = f"sessions/s-1/x/{number}"
                etag = other.create(key, b"1")
                other.swap(key, b"2", etag)
                assert body_of(other, key) == b"2"
                other.delete([key])
        finally:
            done.set()
            thread.join()
    assert files(folder) == set()


# ---------------------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1])
def test_bodies_around_the_size_of_chunks(store: SqliteStore, size: int) -> None:
    body = os.urandom(size)
    store.create(KEY, body)
    assert body_of(store, KEY) == body
    for start in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, size - 1, size, size + 1):
        for length in (0, 1, 2, CHUNK, None):
            stored = store.get(KEY, start=start, length=length)
            assert stored is not None
            assert stored.body == body[start : None if length is None else start + length]


def test_replaced_chunks_are_removed(store: SqliteStore, folder: Path) -> None:
    etag = store.create(KEY, b"x" * 3 * CHUNK)
    etag = store.swap(KEY, b"y" * 2 * CHUNK, etag)
    etag = store.swap(KEY, b"small", etag)
    store.put(KEY, b"z" * 4 * CHUNK)
    store.put(KEY + "2", b"z" * 4 * CHUNK)
    store.delete([KEY + "2"])
    with closing(sqlite3.connect(folder / "s-1.db")) as raw:
        assert raw.execute("SELECT count(*), count(DISTINCT etag) FROM chunks").fetchone() == (4, 1)
        store.put(KEY, b"small")
        assert raw.execute("SELECT count(*) FROM chunks").fetchone() == (0,)


def test_no_reader_sees_a_torn_body(store: SqliteStore) -> None:
    bodies = [b"a" * 3 * CHUNK, b"b" * 2 * CHUNK, b"c" * 10]
    etag = store.create(KEY, bodies[0])
    done = threading.Event()
    seen: list[bytes] = []

    def look() -> None:
        while not done.is_set():
            seen.append(body_of(store, KEY))
            del seen[:-50]
            assert seen[-1] in bodies

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(60):
        etag = store.swap(KEY, bodies[number % 3], etag)
    done.set()
    for reader in readers:
        reader.join()
    assert seen[-1] in bodies
    assert all(body in bodies for body in seen)


def test_a_listing_reads_the_index_alone(store: SqliteStore, folder: Path) -> None:
    store.put(KEY, b"x")
    with closing(sqlite3.connect(folder / "s-1.db")) as raw:
        plan = raw.execute("EXPLAIN QUERY PLAN " + sqlite_objects._LIST, ("a", "b")).fetchall()
    assert "COVERING INDEX listing" in str(plan)


# ----------------------------------------------------------------------------------------------- forks and deaths


def test_a_child_does_not_believe_in_its_parents_locks(store: SqliteStore, folder: Path) -> None:
    # With a connection open across the fork, the child's last write would vanish as the parent closes the file.
    store.put(KEY, b"x")
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store.put(KEY + "2", b"x")
            os.write(to_parent, b"!")
            os.read(from_parent, 1)
            store.put(KEY + "3", b"x")
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.read(from_child, 1)
    store.close()
    os.write(to_child, b"!")
    os.waitpid(child, 0)
    for end in (from_child, to_parent, from_parent, to_child):
        os.close(end)
    with closing(SqliteStore(folder)) as other:
        assert [line.key[-1] for line in other.list("sessions/s-1/")] == ["t", "2", "3"]


def test_forking_while_other_threads_write(store: SqliteStore) -> None:
    etags = [store.put(f"sessions/s-1/x/{number}", b"x") for number in range(3)]
    done = threading.Event()
    n_swaps = [0, 0, 0]

    def swap(number: int) -> None:
        while not done.is_set():
            etags[number] = store.swap(f"sessions/s-1/x/{number}", b"%d" % n_swaps[number], etags[number])
            n_swaps[number] += 1

    threads = [threading.Thread(target=swap, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(20):
            child = os.fork()
            if child == 0:
                try:
                    store.put(f"sessions/s-1/child/{number}", b"x")
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(store.list("sessions/s-1/child/")) == 20
    assert all(store.get_if_changed(f"sessions/s-1/x/{number}", etags[number]) is None for number in range(3))


_WRITER = """
import sys
from pathlib import Path
from starburst_executor.store.sqlite.store import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
etag = store.create("sessions/s-1/count", b"0")
for number in range(1, 10**9):
    etag = store.swap("sessions/s-1/count", b"%d" % number, etag)
    print(number, flush=True)
"""


def test_an_acknowledged_write_survives_sigkill(folder: Path, store: SqliteStore) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout
        lines = [writer.stdout.readline() for _ in range(500)]
        writer.kill()
        lines += writer.stdout.readlines()
    acknowledged = [int(line) for line in lines if line.endswith("\n")]
    assert int(body_of(store, "sessions/s-1/count")) - acknowledged[-1] in (0, 1)


def test_no_connection_is_left_behind_by_threads(store: SqliteStore) -> None:
    store.put(KEY, b"x")
    for _ in range(20):
        thread = threading.Thread(target=store.get, args=(KEY,))
        thread.start()
        thread.join()
    assert sum(len(file.idle) for file in store._files._files.values()) == 1


def test_many_sessions_do_not_use_up_descriptors(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_files, "_FILES_OPEN", 3)
    for number in range(10):
        store.put(f"sessions/s-{number}/manifest", b"x")
    assert len(store.list_folders("sessions/")) == 10
    assert len(store.list("sessions/")) == 10
    assert len(store._files._files) == 3


def test_what_was_lent_of_a_replaced_file_is_closed(store: SqliteStore, folder: Path) -> None:
    store.put(KEY, b"x")
    path = str(folder / "s-1.db")
    with store._files.reading(path) as lent:
        store.delete([KEY])
        store.put(KEY, b"anew")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        lent.execute("SELECT 1")


# ---------------------------------------------------------------------------------------------------------- errors


def test_a_file_that_is_no_database(store: SqliteStore, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "s-1.db").write_bytes(b"not a database, " * 100)
    for ask in (lambda: store.get(KEY), lambda: store.put(KEY, b"x"), lambda: store.list("sessions/s-1/")):
        with pytest.raises(RecordInvalid, match=r"s-1\.db"):
            ask()


def test_a_file_of_a_newer_version(store: SqliteStore, folder: Path) -> None:
    store.put(KEY, b"x")
    store.close()
    with closing(sqlite3.connect(folder / "s-1.db")) as raw:
        raw.execute("PRAGMA user_version = 99")
    with closing(SqliteStore(folder)) as other, pytest.raises(RecordInvalid, match="format=99"):
        other.get(KEY)


@pytest.mark.parametrize("table", ["CREATE TABLE objects (name TEXT)", "CREATE TABLE other (name TEXT)"])
@pytest.mark.parametrize("version", [0, 1])
def test_another_programs_database(store: SqliteStore, folder: Path, table: str, version: int) -> None:
    """It is no store, whatever it is called and however its tables are; nothing in it is changed."""
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "s-1.db")) as raw, raw:
        raw.execute(table)
        raw.execute(f"PRAGMA user_version = {version}")
    before = (folder / "s-1.db").read_bytes()
    with pytest.raises((RecordInvalid, ObjectNotFound)):
        store.get(KEY)
    assert store.list("sessions/") == []
    with suppress(RecordInvalid):
        store.delete([KEY])
    with pytest.raises((RecordInvalid, StoreUnavailable)):
        store.put(KEY, b"x")
    store.close()
    assert (folder / "s-1.db").read_bytes() == before


def odd_files(folder: Path) -> None:
    """What may lie in a folder besides sessions, under names that could be those of sessions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "torn.db").write_bytes(b"SQLite format 3\0" + b"what a full disk has left" * 100)
    (folder / "text.db").write_bytes(b"no database" * 100)
    (folder / "empty.db").touch()
    (folder / "backup.db").mkdir()
    (folder / "circle.db").symlink_to(folder / "circle.db")
    (folder / "nowhere.db").symlink_to(folder / "is-not-there")
    os.mkfifo(folder / "pipe.db")
    (folder / "only-a-log.db-wal").write_bytes(b"log" * 100)
    (folder / "only-a-log.db-shm").write_bytes(b"log" * 100)
    (folder / "Not A Session.db").write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as made, tempfile.TemporaryDirectory() as short:  # its path may have 107 bytes
        made.bind(f"{short}/s")
        shutil.move(f"{short}/s", folder / "socket.db")
    with closing(sqlite3.connect(folder / "newer.db")) as raw:
        raw.execute("CREATE TABLE objects (key)")
        raw.execute("PRAGMA user_version = 2")
    with closing(sqlite3.connect(folder / "music.db")) as raw:
        raw.execute("CREATE TABLE songs (name)")


def test_what_is_no_session_is_passed_over_and_said_once(
    store: SqliteStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(KEY, b"x")
    odd_files(folder)
    before = files(folder)
    for _ in range(2):
        assert [line.key for line in store.list("sessions/")] == [KEY]
        assert [line.key for line in store.list("")] == [KEY]
        named = store.list_folders("sessions/")
        assert "s-1" in named
        assert not {"backup", "circle", "nowhere", "pipe", "socket", "only-a-log", "Not A Session"} & set(named)
    for name in ("torn", "text", "newer"):
        assert caplog.text.count(f"/{name}.db") == 1
    store.put("sessions/s-2/manifest", b"y")
    store.delete(["sessions/s-2/manifest"])
    assert files(folder) == before


def test_a_file_that_another_program_has_locked_stops_nobody_for_long(
    store: SqliteStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(parents=True)
    monkeypatch.setattr(sqlite_folder, "_BUSY_FIRST_S", 0.01)
    with closing(sqlite3.connect(folder / "s-1.db", isolation_level=None)) as raw:
        raw.execute("CREATE TABLE songs (name)")
        raw.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable, match="locked"):
            store.get(KEY)
        assert store.list_folders("sessions/") == ["s-1"]


@pytest.mark.parametrize(
    "how",
    ["a file", "below a file", "a folder as lock", "a name too long", "a circle", "a link to nowhere", "no files"],
)
def test_what_can_never_be_a_store_is_refused_at_once(tmp_path: Path, how: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "nowhere").symlink_to(tmp_path / "is-not-there")
    (tmp_path / "locked" / "_lock").mkdir(parents=True)
    places = {
        "a file": "file",
        "below a file": "file/sessions",
        "a folder as lock": "locked",
        "a name too long": "x" * 300,
        "a circle": "circle/sessions",
        "a link to nowhere": "nowhere/sessions",
        "no files": "/proc/sessions",
    }
    with closing(SqliteStore(tmp_path / places[how])) as store, pytest.raises(AccessDenied):
        store.create(KEY, b"x")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with closing(SqliteStore(tmp_path / "file" / "sessions")) as store:
        with pytest.raises(AccessDenied, match="file/sessions"):
            store.put(KEY, b"x")
        with pytest.raises(AccessDenied, match="file/sessions"):
            store.get(KEY)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(store: SqliteStore, folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    with pytest.raises(AccessDenied, match=str(folder)):
        store.put(KEY, b"x")


_LEAVER = """
import os, sys
from pathlib import Path
from starburst_executor.store.sqlite.store import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
store.put("sessions/s-1/manifest", b"1")
store.put("sessions/s-1/big", bytes(3 << 20))
store.put("cache/one", b"2")
store.close() if sys.argv[2] == "closed" else os._exit(0)
"""


@pytest.mark.parametrize("how", ["closed", "killed", "written", "without its lock"])
def test_where_nothing_can_be_written_all_is_read(store: SqliteStore, folder: Path, tmp_path: Path, how: str) -> None:
    """A medium for keeping, a mount of a container, the folder of another user: left by all, by the dead, or in use elsewhere."""
    subprocess.run(
        [sys.executable, "-c", _LEAVER, str(folder), "killed" if how == "killed" else "closed"], cwd=ROOT, check=True
    )
    if how == "without its lock":
        (folder / "_lock").unlink()
    if how == "written":
        assert body_of(store, KEY) == b"1"  # which keeps it open
    before = files(folder)
    with read_only(folder, tmp_path / "shown") as shown, closing(SqliteStore(shown)) as reader:
        assert body_of(reader, KEY) == b"1"
        assert body_of(reader, "sessions/s-1/big") == bytes(3 << 20)
        assert reader.get_if_changed(KEY, reader.get(KEY).etag) is None
        assert [line.key for line in reader.list("")] == ["cache/one", "sessions/s-1/big", KEY]
        assert reader.list_folders("sessions/") == ["s-1"]
        assert reader.list_folders("") == ["cache", "sessions"]
        with pytest.raises(ObjectNotFound):
            reader.get("sessions/s-2/manifest")
        for write in (reader.put, reader.create, lambda key, body: reader.swap(key, body, reader.get(KEY).etag)):
            for key in (KEY, "sessions/s-2/manifest"):
                with pytest.raises((AccessDenied, PreconditionFailed, ObjectNotFound)):
                    write(key, b"x")
        with pytest.raises(AccessDenied, match="copy it to one that is"):
            reader.delete([KEY])
        assert files(folder) == before
        store.put(KEY, b"3")
        assert body_of(reader, KEY) == b"3"
        store.close()
        assert body_of(reader, KEY) == b"3"


def test_what_is_written_while_it_is_read_without_locks_is_read_again(
    store: SqliteStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(KEY, b"1")
    store.close()
    real = sqlite_objects.read

    def overtaken(connection: sqlite3.Connection, *arguments: object) -> object:
        stored = real(connection, *arguments)  # type: ignore[arg-type]  # as they came
        monkeypatch.setattr(sqlite_objects, "read", real)
        with closing(SqliteStore(folder)) as writer:
            writer.put(KEY, b"2")
        return stored

    with read_only(folder, tmp_path / "shown") as shown, closing(SqliteStore(shown)) as reader:
        monkeypatch.setattr(sqlite_objects, "read", overtaken)
        with pytest.raises(StoreUnavailable, match="written while it was read"):
            reader.get(KEY)
        monkeypatch.setattr(sqlite_objects, "read", overtaken)
        assert body_of(PatientStore(reader, SystemClock(), patience_s=30), KEY) == b"2"


def test_a_file_that_others_keep_locked(store: SqliteStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(KEY, b"x")
    store.close()
    monkeypatch.setattr(sqlite_folder, "_BUSY_S", 0.01)
    with closing(SqliteStore(folder)) as other, closing(sqlite3.connect(folder / "s-1.db")) as raw:
        raw.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=r"locked"):
            other.put(KEY, b"y")
        assert body_of(other, KEY) == b"x"
        raw.rollback()
        other.put(KEY, b"y")


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "full.db")) as raw:
        raw.execute("CREATE TABLE t (body BLOB)")
        raw.execute("PRAGMA max_page_count = 10")
        with pytest.raises(sqlite3.OperationalError) as full:
            raw.execute("INSERT INTO t VALUES (zeroblob(1000000))")
    meaning = sqlite_errors.translated(full.value, "/data/s-1.db")
    assert isinstance(meaning, StoreUnavailable)
    assert str(meaning) == "disk full, free some space: file=/data/s-1.db"
    by_quota = sqlite_errors.translated(OSError(errno.EDQUOT, "Disk quota exceeded"), "/data/s-1.db")
    assert str(by_quota) == str(meaning)


def test_an_error_leaves_the_store_usable(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(KEY, b"x")
    monkeypatch.setattr(sqlite_objects, "_PUT", "nonsense")
    with pytest.raises(StoreUnavailable, match="nonsense"):
        store.put(KEY, b"y")
    monkeypatch.undo()
    store.put(KEY, b"z")
    assert body_of(store, KEY) == b"z"
