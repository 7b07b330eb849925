"""A program that can write the store, but has no key, changes what a study stores: each place is refused before anything is unpickled."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from starburst_executor.errors import KeyNotFound, RecordInvalid
from starburst_executor.study.artefacts import Artefact
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.study import Study
from starburst_executor.study.tables import TrialRow, encode_table
from starburst_executor.study.trial import Trial
from tests.sessions import timings_for

KEYS = StudyKeys("forged")
Fields = dict[str, Any]


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


def first(trial: Any) -> dict[str, float]:
    trial.save({"index": trial.index}, name="own")
    return {"score": trial.index}


def second(trial: Any) -> dict[str, float]:
    return {"score": trial.load("own")["index"]}


def _stages() -> list[Any]:
    from starburst_executor import Stage

    return [
        Stage("first", first, 3, search={"random": {"x": [1, 2]}}, select=("score", 1)),
        Stage("second", second, 1),
    ]


class Bench:
    """A complete study of this user, and what a program without its key writes."""

    def __init__(self, folder: Path) -> None:
        self.url, self.touched = f"sqlite://{folder}/store", folder / "touched"
        self.study = self.open()
        assert self.study.run(progress=False).state == "complete"
        self.store = self.study._opened.store
        self.evil = pickle.dumps(Evil(self.touched))
        digest = hashlib.sha256(self.evil).hexdigest()
        self.artefact = Artefact(digest, len(self.evil), "pickle")
        self.store.put(KEYS.artefact(digest), self.evil)

    def open(self, name: str = "forged") -> Study:
        return Study(name, _stages(), store=self.url, workers=1, timings=timings_for(self.url))

    def again(self, change: Callable[[Fields], None]) -> Study:
        """Write the record with the second stage to run again, changed; return the study as another process opens it."""
        whole = msgpack.unpackb(self.store.get(KEYS.record).body)
        fields = msgpack.unpackb(whole["body"])
        fields["state"] = "open"
        later = fields["stages"][1]
        later.update(state="pending", survivors=[], table=None, completed=0, edition=2, seal="")
        change(fields)
        body = msgpack.packb(fields)
        self.store.put(KEYS.record, msgpack.packb({**whole, "body": body, "digest": hashlib.sha256(body).hexdigest()}))
        return self.open()


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    bench = Bench(tmp_path)
    yield bench
    assert not bench.touched.exists()
    bench.study.close()


def _swap_artefact(bench: Bench) -> Callable[[Fields], None]:
    def change(fields: Fields) -> None:
        fields["stages"][0]["survivors"][0]["artefacts"]["own"] = bench.artefact

    return change


def _carry(bench: Bench) -> Callable[[Fields], None]:
    rows = [
        TrialRow("first", i, "completed", metrics={"score": i}, artefacts={"own": bench.artefact}) for i in range(3)
    ]
    digest, body = encode_table("first", rows)
    bench.store.put(KEYS.trials(digest), body)

    def change(fields: Fields) -> None:
        fields["stages"][0].update(state="running", survivors=[], table=None, carried=digest, completed=0, round=2)

    return change


def _unseal(bench: Bench) -> Callable[[Fields], None]:
    change = _swap_artefact(bench)

    def unsealed(fields: Fields) -> None:
        change(fields)
        fields["stages"][0]["seal"] = ""

    return unsealed


def test_survivors_and_carried_outcomes_that_no_driver_sealed_are_refused(bench: Bench) -> None:
    whole = bench.store.get(KEYS.record).body
    for forge in (_carry, _unseal, _swap_artefact):
        bench.store.put(KEYS.record, whole)
        study = bench.again(forge(bench))
        with pytest.raises(
            RecordInvalid, match="wrong seal, and nothing that it names was loaded: study=forged, stage=first"
        ):
            study.run(progress=False)
        with pytest.raises(RecordInvalid, match="wrong seal"):
            study.start()
        study.close()
    study = bench.open()
    with pytest.raises(RecordInvalid, match="wrong seal"):
        study.replay("second/0")
    with pytest.raises(RecordInvalid, match="wrong seal"):
        study.fork("second", name="fork")
    # Running that stage again needs nothing of what was changed.
    assert study.run(progress=False, restart="first").state == "complete"
    study.close()


def test_an_unchanged_record_goes_on_also_in_a_fork_and_a_copy(bench: Bench, tmp_path: Path) -> None:
    study = bench.again(lambda fields: None)
    assert study.run(progress=False).state == "complete"
    fork = study.fork("second", name="fork")
    assert fork.run(progress=False).state == "complete"
    fork.close()
    study.export(tmp_path / "study.json")
    Study.import_(tmp_path / "study.json", store=bench.url, name="copy")
    copy = bench.open("copy")
    logs = [
        [one.key.removeprefix(keys.folder) for one in bench.store.list(keys.searches("first", 1))]
        for keys in (KEYS, StudyKeys("copy"))
    ]
    assert logs[0] == logs[1] != []
    # It was sealed anew: `replay` opens it with the copy's key.
    assert copy.replay("first/2") == {"score": 2.0}
    copy._opened.seals().check(copy._objects.read(), ["first", "second"])
    copy.close()
    study.close()


def test_bytes_in_the_place_of_others_are_refused(bench: Bench) -> None:
    table = bench.study._objects.read().stage("first").table or ""

    def every(folder: str) -> None:
        listed = [one.key for one in bench.store.list(KEYS.folder + folder)]
        assert listed, folder
        for key in listed:
            bench.store.put(key, bench.evil)

    every("searches/")
    study = bench.again(lambda fields: fields["stages"][0].update(state="running", survivors=[], table=None, seal=""))
    with pytest.raises(KeyNotFound, match="an entry of a search was sealed with another key, or has been changed"):
        study.run(progress=False)
    study.close()
    every("trials/")
    with pytest.raises(RecordInvalid, match="a table of trials has been changed"):
        bench.study._objects.read_table(table)
    every("definitions/")
    with pytest.raises(KeyNotFound, match="the stages of study forged were sealed with another key"):
        Study.resume("forged", store=bench.url).run(progress=False)
    own = Artefact(hashlib.sha256(b"own").hexdigest(), len(bench.evil), "pickle")
    bench.store.put(KEYS.artefact(own.digest), bench.evil)
    with pytest.raises(RecordInvalid, match="an artefact has been changed"):
        bench.study._objects.artefacts.read(own)


def test_a_checkpoint_is_read_as_plain_values(bench: Bench) -> None:
    trial = Trial.here("first", 0)
    trial.checkpoint(1)
    with trial._store() as store:
        store.put(trial._checkpoint_key(), bench.evil)
    with pytest.raises(RecordInvalid, match="the checkpoint of trial first/0 cannot be read"):
        trial.restore()
