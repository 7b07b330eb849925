"""What trials save: by content, in parts, once; names; limits; fetched, and cleaned up."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from starburst_executor import Trial
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError, RecordInvalid
from starburst_executor.store.base import ObjectStore
from starburst_executor.study import artefact_store
from starburst_executor.study.artefact_store import ArtefactStore
from starburst_executor.study.artefacts import Artefact, check_name, loaded, opened
from starburst_executor.study.fetching import artefacts_of, chosen_of, clean, fetch
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.record import DONE, RUNNING, StageRecord, StudyRecord, Survivor
from starburst_executor.study.running import run_trial
from starburst_executor.study.spec import TrialSpec
from starburst_executor.study.stage import TrialOptions
from starburst_executor.study.tables import TrialRow
from starburst_executor.testing import MemoryStore

KEYS = StudyKeys("mine")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Parts of 1,000 bytes, so that big artefacts are small."""
    monkeypatch.setattr(artefact_store, "PART_BYTES", 1000)
    return 1000


def saved(store: ObjectStore, body: bytes) -> Artefact:
    return ArtefactStore(store, KEYS).write(io.BytesIO(body), "bytes")


def keys_of(store: ObjectStore) -> list[str]:
    return [listed.key for listed in store.list(KEYS.artefacts)]


def spec(run: Any, **options: Any) -> TrialSpec:
    return TrialSpec(
        stage="one", edition=1, seed=1, cases=(), inputs=(), run=run, command=None, here="", metrics={},
        options=TrialOptions(**options), prune=None, store="", study="mine",
    )  # fmt: skip


# --- by content ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 4500])
def test_bytes_come_back_whatever_their_size(size: int, small_parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store, body = MemoryStore(), bytes(i * i % 251 for i in range(size))
    artefact = saved(store, body)
    assert artefact == Artefact(hashlib.sha256(body).hexdigest(), size, "bytes")
    assert ArtefactStore(store, KEYS).read(artefact) == body
    assert max((len(part) for part in ArtefactStore(store, KEYS).stream(artefact)), default=0) <= small_parts
    before = store.list(KEYS.artefacts)
    creates: list[str] = []
    create = store.create
    monkeypatch.setattr(store, "create", lambda key, part: (creates.append(key), create(key, part))[1])
    assert saved(store, body) == artefact
    assert len(creates) == (size <= small_parts)  # a big one is not sent again
    assert store.list(KEYS.artefacts) == before  # not one was written again
    parts = {hashlib.sha256(body[i : i + small_parts]).hexdigest() for i in range(0, size, small_parts)}
    assert len(before) == (1 if size <= small_parts else 1 + len(parts))


@pytest.mark.usefixtures("small_parts")
def test_what_is_changed_or_missing_is_found_before_it_is_used() -> None:
    for body in (b"small", b"big" * 1000):
        store = MemoryStore(f"changed-{len(body)}")
        artefacts, artefact = ArtefactStore(store, KEYS), saved(store, body)
        for key in keys_of(store):
            kept = store.get(key).body
            store.put(key, kept[:-1] + bytes([kept[-1] ^ 1]))
            with pytest.raises(RecordInvalid, match=r"has been changed|is missing"):
                artefacts.read(artefact)
            assert artefacts.digest_of(artefact) != artefact.digest
            store.delete([key])
            with pytest.raises(RecordInvalid, match="is missing"):
                artefacts.read(artefact)
            assert artefacts.digest_of(artefact) is None
            store.put(key, kept)
            assert artefacts.digest_of(artefact) == artefact.digest


def test_a_file_that_changes_while_it_is_saved_is_refused(small_parts: int) -> None:
    class Changing(io.BytesIO):
        n_read = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.n_read += 1
            body = super().read(size)
            return body[::-1] if self.n_read > 5 else body  # the second time

    store = MemoryStore()
    with pytest.raises(ValueError, match="changed while it was saved"):
        ArtefactStore(store, KEYS).write(Changing(bytes(range(250)) * 4 * 3), "bytes")
    # What it left has the content of its name, and no list names it.
    assert all(hashlib.sha256(store.get(key).body).hexdigest() == key.rpartition("/")[2] for key in keys_of(store))
    assert all(key.startswith(KEYS.artefact_part("")) for key in keys_of(store))
    assert small_parts


# --- values, names, limits ----------------------------------------------------------------------------------------------------


def test_each_kind_of_value_comes_back(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    (tmp_path / "notes.txt").write_text("hello")
    trial = Trial.here("one", 0)
    assert trial.save(tmp_path / "notes.txt").kind == "bytes"
    assert trial.save(bytearray(b"raw"), name="raw").size == 3
    array = numpy.arange(6.0).reshape(2, 3)
    assert trial.save(array, name="array.npy").kind == "array"
    assert trial.save(numpy.array([{}], dtype=object), name="objects").kind == "pickle"
    assert trial.save({"a": (1, 2)}, name="dict").kind == "pickle"
    assert trial.save(figure, name="plot").kind == trial.save(figure, name="plot.svg").kind == "bytes"
    assert (trial.load("notes.txt"), trial.load("raw"), trial.load("dict")) == (b"hello", b"raw", {"a": (1, 2)})
    assert (trial.load("array.npy") == array).all()
    assert trial.load("plot").startswith(b"\x89PNG")
    assert b"<svg" in trial.load("plot.svg")
    with pytest.raises(TypeError, match="needs a name"):
        trial.save(b"raw")


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "a/../b", "..", "a//b", "a/", "a\\b", "a\nb", "x" * 201, "a/" + "é" * 128, "\x1b[31m", 3],
)
def test_a_name_that_is_no_safe_path_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="printable text of 1 to 200"):
        Trial.here("one", 0).save(b"", name=name)
    assert check_name("plots/roc curve ü.svg")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    trial = Trial.here("one", 0)
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match=r"an artefact is a regular file, and .* is none"):
            trial.save(path)
    with pytest.raises(FileNotFoundError):
        trial.save(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        trial.save(tmp_path)


def test_limits_name_their_option() -> None:
    def run(trial: Trial) -> dict[str, float]:
        trial.save(b"12345", name="first")
        trial.save(b"123", name="second")
        trial.save(b"1234567", name="first")  # takes the place of the first
        return {"x": 1}

    outcome = run_trial(spec(run, artefact_bytes=10), 0, store=MemoryStore())
    assert {name: size for name, (_, size, _) in outcome["artefacts"].items()} == {"first": 7, "second": 3}
    store = MemoryStore()
    with pytest.raises(ValueError, match=r"trial one/0 has 3 bytes, with its others 8; .* options=\{'artefact_bytes'"):
        run_trial(spec(run, artefact_bytes=7), 0, store=store)
    assert len(keys_of(store)) == 1  # the one that was too big was not written
    trial = Trial.here("one", 0)
    trial.save(b"", name="a/b")
    with pytest.raises(ValueError, match="a file and a folder"):
        trial.save(b"", name="a")
    for number in range(999):
        trial.save(b"", name=f"n{number}")
    with pytest.raises(ValueError, match="at most 1,000 artefacts"):
        trial.save(b"", name="one more")


def test_a_trial_that_fails_after_saving_names_nothing() -> None:
    def run(trial: Trial) -> dict[str, float]:
        trial.save(b"saved", name="model")
        raise ValueError("and failed")

    store = MemoryStore()
    with pytest.raises(ValueError, match="and failed"):
        run_trial(spec(run, retries=1), 0, store=store)
    assert len(keys_of(store)) == 1


# --- of a whole study ---------------------------------------------------------------------------------------------------------


def study_with(store: ObjectStore) -> tuple[StudyObjects, StudyRecord]:
    """A study of one decided stage: trials 0 and 1 survive, 2 does not; one more artefact has no name."""
    objects = StudyObjects(store, "mine", SystemClock())
    saved(store, b"of no outcome")
    rows = [
        TrialRow("one", 0, "completed", artefacts={"model": saved(store, b"big" * 1000), "log": saved(store, b"same")}),
        TrialRow("one", 1, "completed", artefacts={"log": saved(store, b"same")}),
        TrialRow(
            "one",
            2,
            "completed",
            artefacts={"model": saved(store, b"big" * 1000 + b"!"), "log": saved(store, b"other")},
        ),
        TrialRow("one", 3, "failed", "raised"),
    ]
    survivors = tuple(Survivor(row.name, artefacts=row.artefacts) for row in rows[:2])
    table = objects.write_table("one", rows)
    stage = StageRecord("one", DONE, 4, completed=3, failed=1, survivors=survivors, table=table)
    return objects, objects.create(StudyRecord("mine", stages=(stage,)))


@pytest.mark.usefixtures("small_parts")
def test_artefacts_are_listed_and_fetched(tmp_path: Path) -> None:
    objects, record = study_with(MemoryStore())
    found = artefacts_of(objects, record)
    assert [(one.trial, one.name, one.size, one.is_survivor) for one in found] == [
        ("one/0", "log", 4, True), ("one/0", "model", 3000, True), ("one/1", "log", 4, True),
        ("one/2", "log", 5, False), ("one/2", "model", 3001, False),
    ]  # fmt: skip
    paths = [path for _, path in fetch(objects, found, tmp_path)]
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [f"{one.trial}/{one.name}" for one in found]
    for one, path in zip(found, paths, strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == one.digest
    paths[0].write_bytes(b"1234")  # other content of the same size
    before = paths[1].stat().st_mtime_ns
    list(fetch(objects, found, tmp_path))
    assert (paths[0].read_bytes(), paths[1].stat().st_mtime_ns) == (b"same", before)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(path.name for path in paths)
    chosen = chosen_of(found, trials=["one/0", "one/2"], name="m*", survivors=True)
    assert [(one.trial, one.name) for one in chosen] == [("one/0", "model")]
    assert chosen_of(found, trials=["one"]) == found
    assert chosen_of(found, trials=["on"]) == []


def test_a_name_that_leaves_the_folder_is_not_fetched(tmp_path: Path) -> None:
    objects, record = study_with(MemoryStore())
    forged = [replace(one, name="../../forged") for one in artefacts_of(objects, record)]
    with pytest.raises(RecordInvalid, match="has a name that no trial can give"):
        list(fetch(objects, forged, tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []


def test_an_artefact_that_was_changed_leaves_no_file(tmp_path: Path) -> None:
    store = MemoryStore()
    objects, record = study_with(store)
    [one] = chosen_of(artefacts_of(objects, record), trials=["one/1"])
    store.put(KEYS.artefact(one.digest), b"diff")
    with pytest.raises(RecordInvalid, match="has been changed"):
        list(fetch(objects, [one], tmp_path))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("keep", "bodies"),
    [
        ("all", [b"same", b"other", b"big" * 1000, b"big" * 1000 + b"!"]),
        ("survivors", [b"same", b"big" * 1000]),
        ("none", []),
    ],
)
def test_a_cleanup_keeps_what_its_policy_says(keep: str, bodies: list[bytes]) -> None:
    store = MemoryStore()
    objects, record = study_with(store)
    n_before = len(keys_of(store))
    done = clean(objects, record, keep)
    assert (done.kept, done.removed) == (len(bodies), n_before - len(keys_of(store)))
    expected = MemoryStore("expected")
    for body in bodies:
        saved(expected, body)
    assert keys_of(store) == keys_of(expected)
    for body in bodies:
        assert objects.artefacts.read(Artefact(hashlib.sha256(body).hexdigest(), len(body))) == body


@pytest.mark.usefixtures("small_parts")
def test_a_cleanup_keeps_what_a_baseline_names() -> None:
    store = MemoryStore()
    objects, record = study_with(store)
    named = [one.artefact for one in artefacts_of(objects, record) if one.trial == "one/2"]
    objects.artefacts.keep_for("release", named)
    clean(objects, record, "none")
    assert [objects.artefacts.digest_of(artefact) for artefact in named] == [artefact.digest for artefact in named]
    objects.artefacts.keep_for("release", [])
    clean(objects, record, "none")
    assert keys_of(store) == []


def test_no_cleanup_while_a_stage_runs() -> None:
    store = MemoryStore()
    objects, record = study_with(store)
    before = keys_of(store)
    with pytest.raises(ConfigError, match="stage two has trials without an outcome"):
        clean(objects, replace(record, stages=(*record.stages, StageRecord("two", RUNNING))), "none")
    with pytest.raises(ConfigError, match="must be one of all, survivors, none"):
        clean(objects, record, "everything")
    assert keys_of(store) == before


def test_an_array_is_never_unpickled() -> None:
    numpy = pytest.importorskip("numpy")
    written = io.BytesIO()
    numpy.save(written, numpy.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        loaded(written.getvalue(), "array")
    with opened(numpy.arange(3), "x") as (file, kind):
        assert (kind, file.read(6)) == ("array", b"\x93NUMPY")
