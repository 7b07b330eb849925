"""Source lines that were sent: found by tracebacks, whole, and not kept without bound."""

from __future__ import annotations

import inspect
import linecache
from collections import OrderedDict
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest

from starburst_executor import source

NAME = "<test-source>"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    for name in [name for name in linecache.cache if str(name).startswith(NAME)]:
        del linecache.cache[name]
        source._registered.pop(name, None)


def lines_of(name: str = NAME) -> list[str]:
    return linecache.getlines(name)


def test_a_function_has_its_lines_from_the_first_decorator_to_the_last_bracket() -> None:
    def decorated(x: int) -> list[int]:
        values = [
            x,
            x + 1,
        ]
        return sorted(value for value in values)

    found = source.source_of(decorated.__code__)
    assert found.strip() == inspect.getsource(decorated).strip()


def test_of_generated_code_nothing_is_known() -> None:
    namespace: dict[str, Any] = {}
    exec("def made(): pass", namespace)
    assert source.source_of(namespace["made"].__code__) == ""


def test_lines_of_several_functions_of_a_file_come_together() -> None:
    source.register(NAME, 3, "third\nfourth\n", is_believed=False)
    source.register(NAME, 1, "first\n", is_believed=False)
    source.register(NAME, 4, "newer\n", is_believed=True)
    linecache.checkcache(NAME)
    assert lines_of() == ["first\n", "\n", "third\n", "newer\n"]


def test_code_that_differs_in_its_file_alone_has_its_own_lines() -> None:
    for name, line in ((NAME + "1", "def f(): return 1  # one\n"), (NAME + "2", "def f(): return 1  # other\n")):
        linecache.cache[name] = (1, None, [line], name)
        code = compile(line, name, "exec")
        namespace: dict[str, FunctionType] = {}
        exec(code, namespace)
        assert source.source_of(namespace["f"].__code__) == line


def test_what_is_kept_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_MOST_FILES", 3)
    monkeypatch.setattr(source, "_registered", OrderedDict())
    for i in range(10):
        source.register(f"{NAME}{i}", 1, "line\n", is_believed=True)
    assert [i for i in range(10) if lines_of(f"{NAME}{i}")] == [7, 8, 9]


def test_a_line_number_out_of_all_reason_is_not_believed() -> None:
    source.register(NAME, 10**12, "line\n", is_believed=True)
    assert lines_of() == []
