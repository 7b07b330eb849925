"""Code that travels by value keeps the name of its file and its lines, with every version of cloudpickle."""

from __future__ import annotations

import linecache
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle
import pytest

from starburst_executor import source
from starburst_executor.protocol import pickling
from starburst_executor.protocol.rebuilding import Unpickler
from tests.support.runner_rig import Rig, finished

FILE = "/nowhere/on/this/machine/script.py"
SCRIPT = """\
import functools
def fail(x):
    inner = lambda: x[0] + (
        x.y
    )
    return inner()
class Model:
    def predict(self, x): return fail(x)
    @staticmethod
    def of(x): return [fail(each) for each in x]
def generate(x):
    yield fail(x)
def counted(n):
    def count(): return n[1]
    return count
last = lambda x: x[-1]
"""


@pytest.fixture(params=["named", "nameless"])
def cloudpickle_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 3.1.2 it takes the file's name along; from 3.1.3 on it puts another in its place."""

    def reduce(code: CodeType) -> tuple[Any, ...]:
        name = code.co_filename if request.param == "named" else "<dynamic-code>"
        make, fields = original(code)
        return make, tuple(name if field in (code.co_filename, "<dynamic-code>") else field for field in fields)

    original = cloudpickle.Pickler.dispatch_table[CodeType]
    monkeypatch.setitem(cloudpickle.Pickler.dispatch_table.maps[0], CodeType, reduce)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A script whose source only its own process has."""
    yield script_of(FILE, monkeypatch)
    linecache.cache.pop(FILE, None)


def script_of(filename: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    main = ModuleType("__main__")
    exec(compile(SCRIPT, filename, "exec"), vars(main))
    linecache.cache[filename] = (len(SCRIPT), None, SCRIPT.splitlines(keepends=True), filename)
    monkeypatch.setitem(sys.modules, "__main__", main)
    return main


def codes(code: CodeType) -> list[CodeType]:
    return [code, *source.nested(code)]


MAKERS: dict[str, Callable[[ModuleType], Any]] = {
    "function": lambda main: main.fail,
    "lambda": lambda main: main.last,
    "closure": lambda main: main.counted(3),
    "generator": lambda main: main.generate,
    "class": lambda main: main.Model.predict,
    "method": lambda main: main.Model().predict.__func__,
    "static method": lambda main: main.Model.of,
    "partial": lambda main: main.functools.partial(main.fail, 1).func,
}


@pytest.mark.usefixtures("cloudpickle_kind")
@pytest.mark.parametrize("name", MAKERS)
def test_all_code_keeps_the_name_of_its_file(script: ModuleType, name: str) -> None:
    function = MAKERS[name](script)
    copy = pickle.loads(pickling.dumps(function))
    assert isinstance(copy, FunctionType)
    assert copy is not function
    assert [code.co_filename for code in codes(copy.__code__)] == [FILE] * len(codes(function.__code__))


def test_a_class_keeps_it_in_all_its_methods(script: ModuleType) -> None:
    copy = pickle.loads(pickling.dumps({"": script.Model, "also": script.generate}))[""]
    assert {vars(copy)["predict"].__code__.co_filename, vars(copy)["of"].__func__.__code__.co_filename} == {FILE}


def test_equal_functions_have_equal_pickles(script: ModuleType) -> None:
    assert pickling.dumps(script.fail) == pickling.dumps(script.fail)
    assert pickling.dumps(script.counted(1)) == pickling.dumps(script.counted(1))


@pytest.mark.usefixtures("cloudpickle_kind")
@pytest.mark.parametrize(
    "filename", [FILE, "<ipython-input-3-0123456789ab>", "/tmp/ipykernel_7/1.py", "<python-input-0>"]
)
@pytest.mark.parametrize(
    ("name", "argument"),
    [("fail", 1), ("Model().predict", 1), ("Model.of", [1]), ("last", 1), ("counted(2)", None)],
)
def test_a_traceback_is_the_one_that_the_client_would_show(
    monkeypatch: pytest.MonkeyPatch, filename: str, name: str, argument: Any
) -> None:
    with Rig() as rig:  # forked before the source is known
        function = eval(name, vars(script_of(filename, monkeypatch)))
        arguments = () if argument is None else (argument,)
        try:
            function(*arguments)
        except TypeError as error:
            tb = error.__traceback__
            here = "".join(traceback.format_exception(type(error), error, tb and tb.tb_next))
        runner = rig.spawn()
        rig.send(runner, function, arguments)
        [event] = finished(runner, 1)
    linecache.cache.pop(filename, None)
    assert not event.ok
    assert here.count(filename) >= 1
    assert here in bytes(event.outcome).decode(errors="replace")


def test_the_lines_of_a_function_in_an_argument_are_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig() as rig:
        main = script_of(FILE, monkeypatch)
        runner = rig.spawn()
        rig.send(runner, map_over, (main.last, [5]))
        [event] = finished(runner, 1)
    linecache.cache.pop(FILE, None)
    assert b"last = lambda x: x[-1]" in bytes(event.outcome)


def map_over(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    return list(map(function, items))


def test_what_was_sent_is_believed_in_a_runner_and_not_in_a_client(tmp_path: Any) -> None:
    file = tmp_path / "script.py"
    file.write_text("def first(): return 1\ndef second(): return 2\n")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    pickled = pickling.dumps(namespace["second"])
    file.write_text("# changed\n# all of it\n# and longer\n")
    linecache.checkcache()
    pickle.loads(pickled)
    assert linecache.getlines(str(file)) == ["# changed\n", "# all of it\n", "# and longer\n"]
    Unpickler(__import__("io").BytesIO(pickled)).load()
    assert linecache.getlines(str(file)) == ["# changed\n", "def second(): return 2\n", "# and longer\n"]
