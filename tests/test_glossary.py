"""One word for each thing, and plain English: names, docstrings, comments and pages are checked against `docs/glossary.md`.

A word of the glossary's column "don't say" is used nowhere: in no page, docstring, comment, message or identifier (`task_file` and
`TaskFile` count as "task file"). Where such a word has another, ordinary meaning, `ALLOWED` says where and why.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator, Set
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import starburst_executor
from starburst_executor import Timings

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "starburst_executor"
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CODE_OF_CONDUCT.md",
        "benchmarks/README.md",
    )
]
PAGES += sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "glossary.md")
SOURCES = [*sorted(PACKAGE.rglob("*.py")), PACKAGE / "aws/stack/template.yaml"]
SOURCES += [
    path for folder in ("examples", "benchmarks", "worker_image") for path in sorted((ROOT / folder).rglob("*.py"))
]
NAMED_LAYERS = ("protocol", "store", "session", "client", "worker")


class Allowed(NamedTuple):
    """A place where a word that the glossary rejects has another meaning.

    Attributes:
        files: A pattern of paths.
        context: A pattern of the text around the word, in lower case, with blanks for underscores; "" for any text.
    """

    word: str
    files: str
    context: str
    reason: str


ALLOWED = [
    Allowed("heartbeat", "README.md", r"a heartbeat \(a \*beat\*\)", "introduces the word beat"),
    Allowed("chunk", "starburst_executor/store/sqlite/*", "", "rows of one big object; the name of a stored table"),
    Allowed("chunk", "docs/design/0006*", "content-defined chunk", "the name of a known technique"),
    Allowed("blob", "starburst_executor/store/sqlite/*", "body blob", "a type of SQLite"),
    Allowed("blob", "*", "github.com/.*/blob/", "part of an address"),
    Allowed("group", "*", r"process groups?|own groups?", "processes of POSIX"),
    Allowed("group", "starburst_executor/worker/runner/*", "", "process groups"),
    Allowed("group", "starburst_executor/families.py", "", "process groups"),
    Allowed("group", "starburst_executor/programs.py", "", "process groups"),
    Allowed("group", "starburst_executor/worker/listener.py", "by group", "process groups"),
    Allowed("group", "docs/design/0003*", "", "process groups"),
    Allowed("group", "*", r"(log|security|scaling)[ -]?groups?", "resources of AWS"),
    Allowed("group", "starburst_executor/aws/stack/*", "", "Auto Scaling groups, and groups of IAM"),
    Allowed("group", "starburst_executor/aws/image/codebuild.py", "group name", "a field of CodeBuild"),
    Allowed("group", "starburst_executor/launch/aws/*", "", "the Auto Scaling group and the log group of a stack"),
    Allowed("group", "starburst_executor/aws/checks.py", "", "log groups"),
    Allowed("group", "starburst_executor/client/logs.py", "", "the log group of a stack"),
    Allowed("group", "docs/design/0007*", "", "the log group of a stack"),
    Allowed("group", "starburst_executor/cli/*", "", "a group of commands, as click calls it"),
    Allowed("group", "*", r"exclusive group|match\.groups", "methods of the standard library"),
    Allowed("group", "*", "group commit", "the term of databases for one write of several commits"),
    Allowed("group", "docs/howto/worker-image.md", "development groups", "groups of dependencies in a lock file"),
    Allowed("backend", "benchmarks/*", 'localhost backend|"backend"', "the term of Lithops"),
    Allowed("backend", "starburst_executor/integrations/joblib.py", "", "the term of joblib"),
    Allowed("backend", "docs/howto/integrations.md", "", "the term of joblib"),
    Allowed("backend", "CHANGELOG.md", "", "the term of joblib"),
    Allowed("backend", "starburst_executor/study/samplers.py", "journal backend", "a class of Optuna"),
    Allowed("checksum", "starburst_executor/store/s3/boto.py", "checksum (calculation|validation)", "options of boto3"),
    Allowed("engine", "starburst_executor/client/*", "", "the engine of a client"),
    Allowed("engine", "starburst_executor/testing/*", "", "the engine of a simulated client"),
    Allowed("engine", "benchmarks/*", "", "the engine of a client"),
    Allowed("engine", "starburst_executor/aws/image/*", "", "container engines"),
    Allowed("engine", "starburst_executor/cli/*image.py", "", "`--engine` names a container engine"),
    Allowed("engine", "*", "container[ -]engines?|--engine", "container engines"),
]

# Words in public names that have their ordinary meaning, or that of Python's library or of AWS. All others are in the glossary.
ORDINARY = frozenset(
    """
    message observed timeline latency latencies
    memory out share shortage unavailable
    gathered has holder submits too many changed
    absolute access address alert announcer arrived more retirement assembled awaited begin big bodies boto break broken busy
    bytes callback canceller capacity captured child completing config connection consumed context cost crashed crew current deaths declined
    denied departure descriptors died durations ec2 elsewhere end error etags exceeded exit expired facts failure
    fargate fields file files finished first folder following found future gap given gone grace heard hourly idle inbox
    initargs invalid keep kept kind leaving line listed load local located logged logger map mapper mark max min mismatch most mp
    neighbours no not now obstore opened ordered outbox outgoing output own parallel part parts patience patient per phase pickler pickles place placed plain
    poll prepared putting queue quota rank reader received recent record ref released remote report requests result returned returning
    ring root row running s3 screen seen selection sending sent sign silent source spending sqlite starburst start state staying step
    stepped stop stream summary tally tending threads threshold timeout traceback try unavailable unchanged
    unpickler unproven upstream usage version wait waker wanted warner watch workforce write
    """.split()  # noqa: SIM905 - shorter than a list of strings
)

# Turns of phrase that native readers stumble over, and what to write: "the number of", "users who", "no client", the active voice,
# "counts as lost", "checks against", "has this name", "signs of life"; in a table each row repeats its subject.
PHRASES = {
    "so many": r"\bso (many|much)\b",
    "whoever": r"\b(whoever|whomever|nobody|somebody|everybody)\b",
    "told": r"\btold\b",
    "bears": r"\bbears?\b",
    "apart": r"\bapart\b",
    "the way of": r"\bthe way of\b",
    "what is raised": r"\bwhat (is|was) (raised|asked|called|needed)\b",
    "takes for lost": r"\b(takes?|taken|took|taking) (\w+ ){0,3}for (lost|gone|dead)\b",
    "held against": r"\b(holds?|held) (\w+ ){0,6}against `",
    "called so": r"\bcalled so\b(?! (far|that))",
    "life signs": r"\blife signs?\b",
    "the same, and": r"\| the same, ",
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def table(heading: str) -> list[list[str]]:
    """Return the rows of the glossary's table whose first column has this heading."""
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    (rows,) = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows.splitlines()]


def terms() -> list[str]:
    return [word for heading in ("word", "part") for row in table(heading) for word in row[0].split(", ")]


def rejected() -> list[str]:
    return sorted({word for row in table("word") for word in row[2].split(", ") if word})


# --------------------------------------------------------------------------------------------------------- rejected words


class Use(NamedTuple):
    word: str
    line: int
    text: str


def spaced(text: str) -> str:
    """Return text in lower case, with the words of identifiers separated by blanks; lines stay lines."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", text).lower()


def uses(text: str, words: list[str]) -> Iterator[Use]:
    """Find each word, also in the plural, where it stands alone or as a part of an identifier."""
    lines = spaced(text).splitlines()
    for word in words:
        pattern = re.compile(rf"(?<![a-z]){word}s?(?![a-z])")
        yield from (Use(word, number, line) for number, line in enumerate(lines, 1) if pattern.search(line))


def prose(path: Path) -> str:
    """Return a file's text without references to tests, whose names are not the page's words."""
    return re.sub(r"`tests/[^`\n]*`", "", path.read_text(encoding="utf-8"))


@cache
def all_uses() -> list[tuple[str, Use]]:
    words = rejected()
    return [(name_of(path), use) for path in (*PAGES, *SOURCES) for use in uses(prose(path), words)]


def is_allowed(allowed: Allowed, file: str, use: Use) -> bool:
    """Whether each use of the word in the line is an allowed one."""
    if allowed.word != use.word or not fnmatchcase(file, allowed.files):
        return False
    rest = re.sub(allowed.context, "", use.text) if allowed.context else ""
    return not any(uses(rest, [use.word]))


def test_words_that_the_glossary_rejects_are_not_used() -> None:
    wrong = [
        f"{file}:{use.line}: {use.word!r}: {use.text.strip()}"
        for file, use in all_uses()
        if not any(is_allowed(allowed, file, use) for allowed in ALLOWED)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("allowed", ALLOWED, ids=lambda allowed: f"{allowed.word}-{allowed.files}")
def test_each_allowance_is_needed(allowed: Allowed) -> None:
    assert any(is_allowed(allowed, file, use) for file, use in all_uses())


@pytest.mark.parametrize(
    "text",
    [
        "Each worker sends a heartbeat.",
        "class HeartbeatThread:",
        "n_heartbeats = 3",
        "# the heartbeats stop",
        "def heartbeat():",
    ],
)
def test_a_rejected_word_is_found_in_prose_and_in_identifiers(text: str) -> None:
    assert [use.word for use in uses(text, rejected())] == ["heartbeat"]


# ------------------------------------------------------------------------------------------------------------- the words


def test_each_word_has_one_row_and_is_not_rejected_elsewhere() -> None:
    words = terms()
    assert sorted(words) == sorted(set(words))
    # What a client's engine is called is rejected for everything else.
    assert set(rejected()) & set(words) == {"engine"}


def test_the_words_of_the_glossary_are_used() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in PAGES if "design" not in path.parts).lower()
    for words, *_ in table("word"):
        assert [word for word in words.split(", ") if not re.search(rf"\b{word}", pages)] == []


def test_the_parts_of_the_glossary_are_where_it_says() -> None:
    for part, _, where in table("part"):
        for file in re.findall(r"`([^`]+)`", where):
            assert re.search(part, spaced((PACKAGE / file).read_text(encoding="utf-8"))), f"{part}: {file}"


def words_of(name: str) -> list[str]:
    """Return the words of a name such as `WorkerLost`, `max_workers` or `idle_exit_s`, without units."""
    return [word for word in spaced(name).split() if word not in ("s", "usd", "n", "of", "on", "is", "until")]


def public_names() -> Iterator[str]:
    yield from (name for name in starburst_executor.__all__ if name != "__version__")
    for executor in (starburst_executor.StarburstExecutor, starburst_executor.DetachedExecutor):
        yield from inspect.signature(executor).parameters
    yield from (field.name for field in dataclasses.fields(Timings))
    for layer in NAMED_LAYERS:
        for path in sorted((PACKAGE / layer).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    yield node.name


def is_form(word: str, words: Set[str]) -> bool:
    """Whether a word is one of these, or a plural, a verb form or an agent of one."""
    return (
        word in words
        or any(word == term + ending for term in words for ending in ("s", "es", "r", "er", "ing", "d", "ed"))
        or any(word == term[:-1] + ending for term in words for ending in ("ing", "ies"))
    )


def test_each_word_of_a_public_name_is_in_the_glossary_or_ordinary() -> None:
    words = {word for term in terms() for word in term.split()}
    names = {word: name for name in public_names() for word in words_of(name)}
    special = {word: name for word, name in names.items() if not is_form(word, words)}
    assert {word: name for word, name in special.items() if not is_form(word, ORDINARY)} == {}
    assert [word for word in sorted(ORDINARY) if not any(is_form(other, {word}) for other in special)] == []


# --------------------------------------------------------------------------------------------------------------- English


def phrases(text: str) -> Iterator[str]:
    """Find each phrase of `PHRASES`, also one that is broken by the end of a line or of a comment's line."""
    for name, pattern in PHRASES.items():
        for match in re.finditer(pattern.replace(" ", r"[\s#]+"), text, re.IGNORECASE):
            yield f"{text.count(chr(10), 0, match.start()) + 1}: {name}: {match[0]!r}"


@pytest.mark.parametrize("path", [*PAGES, ROOT / "docs/glossary.md", *SOURCES], ids=name_of)
def test_no_phrase_that_readers_stumble_over(path: Path) -> None:
    assert list(phrases(path.read_text(encoding="utf-8"))) == []


def test_a_phrase_is_found_across_lines() -> None:
    assert list(phrases("one\n# two so\n# many")) == ["2: so many: 'so\\n# many'"]
