"""What is Python's standard library made of? Every source file is one task of one plain `map`.

    python examples/stdlib_census.py

There are no batches made by hand and no `chunksize`, although some files have five lines and some fifteen thousand. Files
that cannot be parsed (some are broken on purpose, to test the parser) are listed at the end.
"""

from __future__ import annotations

import ast
import platform
import sysconfig
import time
import warnings
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from starburst_executor import StarburstExecutor

WORKERS = 2
STDLIB = Path(sysconfig.get_path("stdlib"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BRANCHES = (
    *(ast.If, ast.IfExp, ast.BoolOp, ast.match_case, ast.ExceptHandler),
    *(ast.For, ast.AsyncFor, ast.While, ast.comprehension),
)
REQUESTS = ("get", "not_modified", "list", "create", "swap", "put", "delete")
BAR = {"unit": " files", "mininterval": 0.5}


class Census(NamedTuple):
    """The counts of one file, or the sum of many."""

    files: int = 0
    lines: int = 0
    functions: int = 0
    branches: int = 0
    most_complex: tuple[tuple[int, str], ...] = ()  # (branches, "file:line name"), the ten greatest
    broken: tuple[str, ...] = ()

    def __add__(self, other: Census) -> Census:
        return Census(
            self.files + other.files,
            self.lines + other.lines,
            self.functions + other.functions,
            self.branches + other.branches,
            tuple(sorted(self.most_complex + other.most_complex, reverse=True)[:10]),
            tuple(sorted(self.broken + other.broken)),
        )


def sources() -> list[Path]:
    """Return every source file of the running Python's standard library."""
    installed = {"site-packages", "dist-packages"}
    return sorted(path for path in STDLIB.rglob("*.py") if installed.isdisjoint(path.parts))


def analyse(path: Path) -> Census:
    """Parse one file and count. This function runs on the workers."""
    name = path.relative_to(STDLIB).as_posix()
    text = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's tests contain invalid syntax on purpose
            tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        return Census(files=1, broken=(f"{name}: {error.args[0]}",))
    functions = [
        (branches_in(node), f"{name}:{node.lineno} {node.name}")
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS)
    ]
    return Census(1, text.count(b"\n"), len(functions), branches_in(tree), tuple(sorted(functions, reverse=True)[:10]))


def branches_in(tree: ast.AST) -> int:
    return sum(isinstance(node, BRANCHES) for node in ast.walk(tree))


class Measured(NamedTuple):
    """The measurements of the run: seconds with workers and serially, requests of all processes, and the store."""

    tasks: int
    seconds: float
    serial_seconds: float
    requests: int
    url: str

    def __str__(self) -> str:
        return (
            f"tasks                {self.tasks:,}, one per file\n"
            f"seconds              {self.seconds:.1f} with {WORKERS} workers, including their start and end\n"
            f"against serial       {self.serial_seconds / self.seconds:.2f} times as fast ({self.serial_seconds:.1f} s)\n"
            f"requests per task    {self.requests / self.tasks:.3f} to the store, by client and workers\n"
            f"store                {self.url}"
        )


def main() -> Measured:
    paths = sources()
    print(f"The standard library of Python {platform.python_version()}: {len(paths):,} files in {STDLIB}")

    started = time.perf_counter()
    with StarburstExecutor(workers=WORKERS) as ex:
        found = list(tqdm(ex.map(analyse, paths), "workers", len(paths), **BAR))
    seconds = time.perf_counter() - started
    counts = (
        ex.requests()
    )  # after the end, since workers report their requests in beats, the last of which has all of them

    started = time.perf_counter()
    serial = [analyse(path) for path in tqdm(paths, "serial ", **BAR)]
    serial_seconds = time.perf_counter() - started

    assert found == serial, "the workers' answers differ from the serial ones"
    report(sum(found, Census()))
    return Measured(len(paths), seconds, serial_seconds, sum(counts[kind] for kind in REQUESTS), ex.url)


def report(total: Census) -> None:
    print(f"\n{total.lines:,} lines, {total.functions:,} functions, {total.branches:,} branches; the serial run agrees")
    print("the ten most complex functions, by branches:")
    for branches, where in total.most_complex:
        print(f"  {branches:>5}  {where}")
    print(f"{len(total.broken)} files cannot be parsed:")
    for where in total.broken:
        print(f"  {where[:110]}")


if __name__ == "__main__":
    print(f"\n{main()}")
