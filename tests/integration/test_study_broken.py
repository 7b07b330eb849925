"""What is stored of a study is broken or changed in every way: each command says which it is, and what to do; nothing is lost by it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest

from starburst_executor.cli import exits
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.opened import open_studies
from starburst_executor.study.study import Study
from tests.sessions import store_of
from tests.support.aws_rig import run
from tests.support.moto_server import ROOT

SCRIPT = """
LIMIT = 3

def half(x):
    return x / 2

def measure(trial):
    trial.save(b"bytes", name="weights.bin")
    return {"score": half(min(trial.index, LIMIT))}
"""
FILE = """\
study: frail
workers: 2
stages:
  - name: first
    run: "script.py:measure"
    trials: 5
    options: {timeout: 60}
    select: {top: score, k: 2}
  - {name: second, run: "script.py:measure", trials: 2}
"""
KEYS = StudyKeys("frail")

# Broken in this process with `make test`; by commands that are processes, on both stores, with `make stress`.
pytestmark = pytest.mark.timeout(900)
HOW = ["sqlite here", *(pytest.param(f"{store} process", marks=pytest.mark.stress) for store in ("sqlite", "s3"))]


class Bench:
    """A study in a store, whose objects a test breaks, and the command."""

    def __init__(self, folder: Path, url: str, *, is_process: bool) -> None:
        self.folder, self.url, self._is_process = folder, url, is_process
        self.store = open_studies(url)
        (folder / "script.py").write_text(SCRIPT)
        (folder / "study.yaml").write_text(FILE)

    def command(self, *words: str) -> tuple[int, str, str]:
        """Run `starburst study …`; return its exit status, and what it printed and said."""
        line = ["study", *words, "--store", self.url]
        if not self._is_process:
            result = run(*line)
            return result.exit_code, result.stdout, result.stderr
        done = subprocess.run(
            [sys.executable, "-m", "starburst_executor.cli", *line],
            cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def record(self) -> bytes:
        return self.store.get(KEYS.record).body


@pytest.fixture(params=HOW)
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    request.param, _, how = request.param.partition(" ")
    monkeypatch.chdir(tmp_path)
    for url in store_of(request, tmp_path, monkeypatch):
        bench = Bench(tmp_path, url, is_process=how == "process")
        with closing(bench.store):
            status, shown, said = bench.command("run", "study.yaml")
            assert status == exits.DONE, said
            assert "study frail: complete" in shown
            yield bench
            bench.command("delete", "frail", "--yes")


def changed(body: bytes, /, **whole: Any) -> bytes:
    return msgpack.packb({**msgpack.unpackb(body), **whole})


def field_changed(body: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    fields = msgpack.unpackb(msgpack.unpackb(body)["body"])
    change(fields)
    inner = msgpack.packb(fields)
    return changed(body, body=inner, digest=hashlib.sha256(inner).hexdigest())


def miscount(fields: dict[str, Any]) -> None:
    fields["stages"][0]["completed"] = 4


def rename(fields: dict[str, Any]) -> None:
    fields["stages"][0]["survivors"][0]["name"] = "first/99"


def negative(fields: dict[str, Any]) -> None:
    fields["stages"][1]["failed"] = -3


BROKEN: list[tuple[str, Callable[[bytes], bytes], int, str]] = [
    ("bytes that are none", lambda _: b"\xc1rubbish", exits.STORE, "cannot be read: .*generation 2 before it can be read"),
    ("nothing in it", lambda _: b"", exits.STORE, "the record of a study cannot be read"),
    ("cut off", lambda body: body[: len(body) // 2], exits.STORE, "the record of a study cannot be read"),
    ("another digest", lambda body: changed(body, digest="0" * 64), exits.STORE, "does not have its digest"),
    ("a field", lambda body: field_changed(body, negative), exits.STORE, r"field stages\[1\]\.failed: must be a number, 0"),
    ("a newer format", lambda body: changed(body, format=99), exits.STORE, "a newer format: format=99"),
    ("an older format", lambda body: changed(body, format=1), exits.STORE, "an older format: format=1"),
]  # fmt: skip


def test_each_way_of_being_broken_is_told_apart_and_the_generation_before_goes_on(bench: Bench) -> None:
    whole = bench.record()
    for what, spoil, status, says in BROKEN:
        bench.store.put(KEYS.record, spoil(whole))
        for words in (("status", "frail"), ("run", "study.yaml")):
            found, shown, said = bench.command(*words)
            assert (found, shown) == (status, ""), what
            assert re.search(says, said), (what, said)
            assert said.count("\n") == 1
            assert "Traceback" not in said
    # Faults that no record can have that was written by us, all at once.
    bench.store.put(KEYS.record, field_changed(field_changed(whole, miscount), rename))
    status, shown, _ = bench.command("validate", "frail")
    assert status == exits.NO
    assert "stage first: counts do not add up: 4 completed + 0 failed + 0 cancelled are 4, not 5" in shown
    assert "stage first: survivor first/99 is unknown: it is no trial of this stage" in shown
    # The way back: the generation before, and from there the same decisions.
    bench.store.put(KEYS.record, whole)
    refused, _, said = bench.command("import", "none.json", "--replace")
    assert (refused, "none.json" in said) == (exits.USAGE, True)
    assert bench.command("export", "frail", "now.json")[0] == exits.DONE
    assert bench.command("export", "frail", "-")[1] == (bench.folder / "now.json").read_text(encoding="utf-8")
    status, _, said = bench.command("import", "now.json", "--replace")
    assert status == exits.USAGE
    assert "the record of this study can be read: study=frail, generation=3" in said
    bench.store.put(KEYS.record, b"rubbish")
    assert bench.command("export", "frail", "before.json", "--previous")[0] == exits.DONE
    assert json.loads((bench.folder / "before.json").read_text())["study"]["generation"] == 2
    assert bench.command("import", "before.json", "--replace")[0] == exits.DONE
    assert bench.command("import", "before.json", "--name", "other", "--replace")[0] == exits.DONE  # there was none
    status, shown, said = bench.command("run", "study.yaml")
    assert (status, "study frail: complete" in shown) == (exits.DONE, True), said
    assert "stage first is skipped" in said
    again = msgpack.unpackb(msgpack.unpackb(bench.record())["body"])
    before = msgpack.unpackb(msgpack.unpackb(whole)["body"])
    assert [one["survivors"] for one in again["stages"]] == [one["survivors"] for one in before["stages"]]
    # No record at all, and no study at all.
    bench.store.delete([KEYS.record])
    status, _, said = bench.command("status", "frail")
    assert (status, "no such study: study=frail" in said) == (exits.NO_SESSION, True)


def test_what_the_record_names_is_missing_or_changed(bench: Bench) -> None:
    fields = msgpack.unpackb(msgpack.unpackb(bench.record())["body"])
    table = KEYS.trials(fields["stages"][0]["table"])
    kept = bench.store.get(table).body
    bench.store.put(table, kept + b"\x00")
    [artefact] = [listed.key for listed in bench.store.list(f"{KEYS.folder}artefacts/")]
    saved = bench.store.get(artefact).body
    bench.store.put(artefact, b"other bytes")
    status, shown, _ = bench.command("validate", "frail")
    assert status == exits.NO
    assert "stage first: its table of trials cannot be read: a table of trials has been changed" in shown
    assert "artefact 'weights.bin' of first/4 has another digest" in shown
    bench.store.delete([table, artefact])
    status, shown, _ = bench.command("validate", "frail")
    assert status == exits.NO
    assert "stage first: its table of trials cannot be read: a table of trials is missing" in shown
    assert "artefact 'weights.bin' of first/4 is missing" in shown
    bench.store.put(table, kept)
    bench.store.put(artefact, saved)
    # A wheel that cannot be read is that of a driver which has not beaten for long.
    bench.store.put(KEYS.driver, b"rubbish")
    assert bench.command("status", "frail")[0] == exits.DONE
    # Without its stages it can be looked at, approved and aborted; what needs them says so.
    bench.store.delete([listed.key for listed in bench.store.list(f"{KEYS.folder}definitions/")])
    assert bench.command("events", "frail")[0] == exits.DONE
    status, _, said = bench.command("resume", "frail")
    assert (status, "the stages of study frail are missing" in said) == (exits.STORE, True), said
    status, shown, _ = bench.command("validate", "frail")
    assert (status, "its stages cannot be loaded here: the stages of study frail are missing" in shown) == (
        exits.NO,
        True,
    )
    assert bench.command("run", "study.yaml")[0] == exits.DONE


def test_changed_yaml_and_code_are_refused_by_name_or_accepted(bench: Bench) -> None:
    def refused(file: str, script: str, says: str) -> None:
        (bench.folder / "study.yaml").write_text(file)
        (bench.folder / "script.py").write_text(script)
        status, shown, said = bench.command("run", "study.yaml")
        assert (status, shown) == (exits.USAGE, "")
        assert says in said
        assert "--accept-changes" in said
        assert "--restart STAGE" in said

    refused(FILE.replace("timeout: 60", "timeout: 5"), SCRIPT, "stage first: options.timeout was 60, is 5: study=frail")
    refused(
        FILE.replace("k: 2", "k: 1"),
        SCRIPT,
        'stage first: select was {"top": {"k": 2, "metric": "score"}}, is {"top": {"k": 1',
    )
    refused(FILE.replace("trials: 2", "trials: 3"), SCRIPT, "stage second: trials was 2, is 3")
    refused(
        FILE,
        SCRIPT.replace("LIMIT = 3", "LIMIT = 4"),
        "stage first: value of LIMIT was 3, is 4; stage second: value of LIMIT",
    )
    refused(FILE, SCRIPT.replace("x / 2", "x / 3"), "stage first: code of half was ")
    (bench.folder / "study.yaml").write_text(FILE.replace("study: frail", "study: frail\nseed: 5"))
    status, _, said = bench.command("run", "study.yaml")
    assert status == exits.USAGE
    assert "another seed, which does not change: stored=0, now=5: study=frail; undo that, or give" in said
    # A comment is no change.
    (bench.folder / "study.yaml").write_text("# A comment.\n" + FILE)
    (bench.folder / "script.py").write_text("# Another one.\n" + SCRIPT)
    assert bench.command("run", "study.yaml")[0] == exits.DONE
    # Accepted: written down once, and the decision stands until it is started over.
    (bench.folder / "study.yaml").write_text(FILE.replace("k: 2", "k: 1"))
    assert bench.command("run", "study.yaml", "--accept-changes")[0] == exits.DONE
    status, shown, _ = bench.command("run", "study.yaml", "--json")
    events = [json.loads(line) for line in shown.splitlines()]
    assert (status, events[-1]["stages"][0]["survivors"]) == (exits.DONE, ["first/3", "first/4"])
    assert events[-1]["changes"] == [
        'stage first: select was {"top": {"k": 2, "metric": "score"}}, is {"top": {"k": 1, "metric": "score"}}'
    ]
    status, shown, _ = bench.command("run", "study.yaml", "--restart", "first", "--json")
    events = [json.loads(line) for line in shown.splitlines()]
    assert (status, events[-1]["stages"][0]["survivors"]) == (exits.DONE, ["first/3"])


def test_a_program_without_the_key_chooses_neither_launcher_nor_session(bench: Bench, tmp_path: Path) -> None:
    def forge(fields: dict[str, Any]) -> None:
        fields["settings"] = {"launcher": "fargate?image=evil", "workers": 9_999, "budget_usd": 1e6}
        fields["session"] = f"sqlite://{tmp_path}/other/20261129-101010-0123456789abcdef"

    bench.store.put(KEYS.record, field_changed(bench.record(), forge))
    study = Study.resume("frail", store=bench.url)
    with closing(study):
        assert study.validate() == []  # loads the stages
        assert study._opened.settings == {"workers": 2}
    status, _, said = bench.command("delete", "frail", "--yes")
    assert status == exits.STORE
    assert "names a session in another store" in said
