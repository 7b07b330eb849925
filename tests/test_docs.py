"""The documentation is true: its code runs and prints what it says, its tables are the code's, its links lead somewhere.

A page is run from top to bottom, in a folder and with a `STARBURST_HOME` of its own:

    ```python            runs; all such blocks of a page share one namespace
    ```python            and begins with `# name.py`: is saved under that name
    ```console           its `$ ` lines are run by the shell; what follows is what they print
    ```text output       what the block before printed; `...` stands for anything
    <!-- not run: why -->  before a python block: it is compiled only

In commands and outputs every session id stands for the one that was printed last. `s3://my-bucket` is a bucket of the
local S3 server, and so is what listens at http://localhost:9000.
"""

from __future__ import annotations

import contextlib
import dataclasses
import doctest
import inspect
import io
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import starburst_executor
from starburst_executor import Timings, errors
from starburst_executor.config import Settings
from starburst_executor.protocol import keys
from starburst_executor.worker.__main__ import _parser
from tests.sessions import kill_workers
from tests.support.moto_server import ROOT, MotoServer, moto_server

__all__ = ["moto_server"]

OF_THE_PROJECT = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CODE_OF_CONDUCT")]
PAGES = [*OF_THE_PROJECT, *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "design")]
DOCS = ROOT / "docs"
OUTPUT_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SESSION_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")
LOCAL_S3 = "http://localhost:9000"
COMMAND_S = 60


class Block(NamedTuple):
    """One fenced block: the words after its fence, its text, its first line in the page, and whether it is run."""

    words: list[str]
    text: str
    line: int
    is_run: bool = True


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of a page, in order."""
    pattern = r"^(<!-- not run: .+ -->\n)?```(.*)\n((?:.*\n)*?)```$"
    for match in re.finditer(pattern, text, re.MULTILINE):
        line = text.count("\n", 0, match.start(3)) + 1
        yield Block(match[2].split(), match[3], line, match[1] is None)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _yaml_blocks() -> list[Any]:
    return [
        pytest.param(block.text, id=f"{name_of(page)}:{block.line}")
        for page in PAGES
        for block in blocks(page.read_text(encoding="utf-8"))
        if block.words[:1] in (["yaml"], ["yml"])
    ]


@pytest.mark.parametrize("text", _yaml_blocks())
def test_yaml_of_the_pages_can_be_read(text: str) -> None:
    found = yaml.safe_load(text)
    assert isinstance(found, dict)


# ----------------------------------------------------------------------------------------------------- pages are run


class PageRun:
    """A page while it is run: its namespace, what was printed last, the session id that was printed last."""

    def __init__(self, page: Path, endpoint_url: str) -> None:
        self._page = page
        self._endpoint_url = endpoint_url
        self._namespace: dict[str, Any] = {"__name__": "__main__"}
        self._printed = ""
        self._session_id = ""

    def run(self, block: Block) -> None:
        if block.words[:1] == ["python"]:
            self._run_python(block)
        elif block.words[:1] == ["console"]:
            self._run_console(block)
        elif block.words == ["text", "output"]:
            self._compare(block.text, self._printed, block)

    def _run_python(self, block: Block) -> None:
        file = re.match(r"# (\w+\.py)\n", block.text)
        # Empty lines ahead, so that a traceback has the page's own line numbers.
        code = compile("\n" * (block.line - 1) + block.text, name_of(self._page), "exec")
        if file:
            Path(file[1]).write_text(block.text, encoding="utf-8")
        elif block.is_run:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code if LOCAL_S3 not in block.text else self._for_local_s3(block), self._namespace)
            self._heard(printed.getvalue())

    def _for_local_s3(self, block: Block) -> Any:
        text = block.text.replace(LOCAL_S3, self._endpoint_url)
        return compile(text, name_of(self._page), "exec")

    def _run_console(self, block: Block) -> None:
        for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
            command = SESSION_ID.sub(self._session_id, re.sub(r"^python\b", shlex.quote(sys.executable), command))
            done = subprocess.run(
                command, shell=True, text=True, stdout=subprocess.PIPE, timeout=COMMAND_S, check=False
            )
            self._heard(done.stdout)
            self._compare(expected, done.stdout, block)

    def _heard(self, printed: str) -> None:
        self._printed = printed
        for session_id in SESSION_ID.findall(printed):
            self._session_id = session_id

    def _compare(self, expected: str, got: str, block: Block) -> None:
        wanted, found = (SESSION_ID.sub("<id>", text).strip() for text in (expected, got))
        example = doctest.Example("", wanted + "\n")
        checker = doctest.OutputChecker()
        if not checker.check_output(example.want, found + "\n", OUTPUT_FLAGS):
            difference = checker.output_difference(example, found + "\n", OUTPUT_FLAGS | doctest.REPORT_NDIFF)
            pytest.fail(f"{name_of(self._page)}, line {block.line}: {difference}", pytrace=False)


@pytest.fixture
def s3_endpoint(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The local S3 server, with the bucket that the pages use."""
    import boto3

    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="my-bucket")
    return moto_server.endpoint_url


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page(
    page: Path, tmp_path: Path, starburst_home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    text = page.read_text(encoding="utf-8")
    endpoint_url = request.getfixturevalue("s3_endpoint") if '"s3://my-bucket' in text else ""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    run = PageRun(page, endpoint_url)
    try:
        for block in blocks(text):
            run.run(block)
    finally:
        # Some pages end with a session that goes on.
        kill_workers(str(starburst_home))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_fence_is_understood(page: Path) -> None:
    known = {"", "python", "console", "text", "sh", "json", "toml", "yaml"}
    text = page.read_text(encoding="utf-8")
    found = list(blocks(text))
    assert {" ".join(block.words[:1]) for block in found} <= known
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(found)
    assert text.count("<!-- not run") == sum(not block.is_run for block in found)


def test_the_readme_leads_with_commands_that_exist() -> None:
    commands = re.findall(r"^make (\S+)", next(blocks((ROOT / "README.md").read_text(encoding="utf-8"))).text, re.M)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert commands == ["demo", "test"]
    assert all(re.search(rf"^{command}:", makefile, re.MULTILINE) for command in commands)


# ------------------------------------------------------------------------------------------------------- public names


def public_objects() -> list[tuple[str, object]]:
    return [(name, getattr(starburst_executor, name)) for name in starburst_executor.__all__]


def doctests() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [
        test
        for name, found in public_objects()
        if not isinstance(found, str)
        for test in finder.find(found, name, globs={})
        if test.examples
    ]


@pytest.mark.parametrize("test", doctests(), ids=lambda test: test.name)
def test_example_in_a_docstring(test: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed: list[str] = []
    doctest.DocTestRunner(optionflags=OUTPUT_FLAGS).run(test, out=failed.append)
    assert not failed, "".join(failed)


@pytest.mark.parametrize("name", starburst_executor.__all__)
def test_every_public_name_is_in_the_reference_with_an_example(name: str) -> None:
    pages = [path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md")]
    assert any(f"`{name}" in page or f"## {name}" in page.replace("\\", "") for page in pages)
    code = "".join(block.text for page in pages for block in blocks(page) if block.words[:1] == ["python"])
    assert re.search(rf"\b{name}\b", code)


@pytest.mark.parametrize("name", ["StarburstExecutor", "DetachedExecutor"])
def test_every_method_and_argument_is_in_the_reference(name: str) -> None:
    page = (DOCS / "reference/executors.md").read_text(encoding="utf-8")
    kind = getattr(starburst_executor, name)
    own = [member for member in vars(kind) if not member.startswith("_")]
    missing = [member for member in own if not re.search(rf"`{member}\b", page)]
    missing += [argument for argument in list(inspect.signature(kind).parameters) if f"`{argument}`" not in page]
    assert not missing


@pytest.mark.parametrize("name", ["StarburstFuture", "TaskOutcome", "SessionStatus", "SessionSummary", "TaskContext"])
def test_every_attribute_is_in_the_reference(name: str) -> None:
    page = (DOCS / "reference/futures.md").read_text(encoding="utf-8")
    documented = re.findall(r"^    +(\w+(?:, \w+)*):", inspect.getdoc(getattr(starburst_executor, name)) or "", re.M)
    kind: Any = getattr(starburst_executor, name)
    attributes = [one.name for one in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else documented
    assert attributes
    assert [one for one in attributes if f"`{one}`" not in page] == []


# ------------------------------------------------------------------------------------------------------------- tables


def table(page: str, *, heading: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading, without marks of code."""
    text = (DOCS / page).read_text(encoding="utf-8")
    rows = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert rows, f"no table of {heading} in {page}"
    return [
        [cell.strip().replace("`", "") for cell in line.strip("|").split(" | ")]
        for part in rows
        for line in part.splitlines()
    ]


def as_text(value: object) -> str:
    return f"{value}".lower() if value is None or isinstance(value, bool) else f"{value}"


def test_the_table_of_settings_is_that_of_the_code() -> None:
    arguments = inspect.signature(starburst_executor.StarburstExecutor).parameters
    derived = {"workers": "one per processor", "store": "the embedded store"}
    expected = [
        [
            one.name,
            "yes" if one.name in arguments else "no",
            f"STARBURST_{one.name.upper()}",
            derived[one.name] if one.default is dataclasses.MISSING else as_text(one.default),
            one.metadata["rule"].allowed(),
        ]
        for one in dataclasses.fields(Settings)
    ]
    assert [row[:5] for row in table("howto/configuration.md", heading="setting")] == expected


def test_the_table_of_timings_is_that_of_the_code() -> None:
    embedded, remote = Timings.embedded().to_record(), Timings.remote().to_record()
    expected = [[name, f"{embedded[name]:g}", f"{remote[name]:g}"] for name in embedded]
    assert [row[:3] for row in table("reference/timings.md", heading="name")] == expected


def test_the_table_of_errors_has_each_with_what_to_do() -> None:
    public = [name for name in starburst_executor.__all__ if name in errors.__all__ and name != "RemoteTraceback"]
    rows = table("reference/errors.md", heading="error")
    assert sorted(row[0] for row in rows) == sorted(public)
    assert all(re.search(r"retry|fix|give up|start|raised|–", row[2]) for row in rows)


def test_the_table_of_stored_objects_has_every_key() -> None:
    documented = re.findall(r"^    (?:sessions/<session_id>/)? *([a-z]+(?:/\S+)?)$", keys.__doc__ or "", re.MULTILINE)
    assert documented
    assert sorted(row[0] for row in table("reference/stored-objects.md", heading="key")) == sorted(documented)


def test_the_worker_program_takes_the_arguments_documented() -> None:
    taken = {action.option_strings[0] if action.option_strings else action.dest for action in _parser()._actions}
    assert {row[0] for row in table("reference/worker.md", heading="argument")} == taken - {"-h"}


def test_faults_are_shown_by_tests_that_exist() -> None:
    shown = re.findall(r"`(tests/\S+\.py)::(\w+)`", (DOCS / "explanation/faults.md").read_text(encoding="utf-8"))
    assert len(shown) > 20
    missing = [
        f"{file}::{test}"
        for file, test in shown
        if not (ROOT / file).exists() or f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_time_beside_its_name_is_the_default(page: Path) -> None:
    defaults = Timings.remote().to_record()
    for name, seconds in re.findall(r"`(\w+_s)`,\s+([\d.]+)\s+s\b", page.read_text(encoding="utf-8")):
        assert defaults[name] == float(seconds), name


def test_times_in_faults_follow_from_the_timings() -> None:
    page = " ".join((DOCS / "explanation/faults.md").read_text(encoding="utf-8").split())
    embedded, remote = Timings.embedded(), Timings.remote()
    assert f"{embedded.commit_s + embedded.poll_max_s:g} s in the embedded store" in page
    assert f"{remote.commit_s + remote.poll_max_s:g} s on S3" in page
    lost_s = remote.looks_until_lost * remote.look_s
    # A watcher repairs at every fourth look only, and a worker may count as lost right after one of them.
    assert f"{lost_s:g} s to {math.ceil(2 * lost_s / 60)} min" in page


def test_each_behaviour_is_in_the_module_that_the_note_on_structure_names() -> None:
    rows = table("design/0009-structure.md", heading="behaviour")
    assert len(rows) >= 12
    note = (DOCS / "design/0009-structure.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w[\w/]*\.py)`(?: \(`(\w+)`\))?", note[note.index("| behaviour |") :])
    for file, name in named:
        assert re.search(rf"\b{name}\b", (ROOT / "starburst_executor" / file).read_text(encoding="utf-8")), (file, name)


# ------------------------------------------------------------------------------------------------------ links, words


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*\n(?:.*\n)*?```$", "", text, flags=re.MULTILINE))


def anchors(page: Path) -> set[str]:
    """What can be linked to in a page, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_internal_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = [page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS)]
    assert [page for page in pages if page != "index.md" and f"({page})" not in index] == []
