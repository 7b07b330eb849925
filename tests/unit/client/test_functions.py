"""A function's pickle is made once for as long as it would come out the same, and not for longer."""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable
from concurrent.futures import Future
from types import ModuleType
from typing import Any

import cloudpickle
import pytest

from starburst_executor.client.functions import FunctionPickles, without_partials
from starburst_executor.protocol import calls


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A user's script: what it defines is pickled by value."""
    main = ModuleType("__main__")
    vars(main).update(math=math, factor=3, names=["a"])
    exec(
        "def helper(x): return x + factor\n"
        "def scale(x, by=2): return math.floor(helper(x)) * by\n"
        "def first(x): return names[0]\n"
        "def typed(x: int) -> float: return float(x)\n"
        "def make(n):\n    def inner(x): return x + n\n    return inner\n",
        vars(main),
    )
    monkeypatch.setitem(sys.modules, "__main__", main)
    return main


@pytest.mark.parametrize(
    ("value", "advice"), [(Future(), r"as an argument: submit\(function, future\)"), (abs(-3), r"not what it returns")]
)
def test_what_cannot_be_called_is_an_error_that_says_what_to_pass(value: Any, advice: str) -> None:
    error = FunctionPickles().prepare_for_one(value).error
    assert isinstance(error, TypeError)
    assert re.search(rf"object is not callable; .*{advice}", str(error))


@pytest.fixture
def n_dumps(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    dump, seen = calls.dump_function, []

    def counted(function: Callable[..., Any], code: str) -> bytes:
        seen.append(function)
        return dump(function, code)

    monkeypatch.setattr(calls, "dump_function", counted)
    return lambda: len(seen)


def test_a_loop_of_submits_pickles_its_function_once(script: ModuleType, n_dumps: Callable[[], int]) -> None:
    pickles = FunctionPickles()
    for function in (script.scale, script.typed, calls.digest, abs, math.floor):
        prepared = [pickles.prepare(function) for _ in range(100)]
        assert len(set(prepared)) == 1
        assert prepared[0].digest == calls.digest(prepared[0].pickled)
    assert n_dumps() == 5
    assert calls.load_function(pickles.prepare(script.scale).pickled)(1.5) == 8


CHANGES: dict[str, Callable[[ModuleType], object]] = {
    "a global": lambda script: vars(script).update(factor=4),
    "a default": lambda script: setattr(script.scale, "__defaults__", (5,)),
    "its code": lambda script: setattr(script.scale, "__code__", script.typed.__code__),
    "an attribute": lambda script: setattr(script.scale, "note", "new"),
    "a function that it calls": lambda script: setattr(script.helper, "__code__", script.typed.__code__),
    "another function of that name": lambda script: vars(script).update(helper=script.typed),
    "an annotation": lambda script: script.scale.__annotations__.update(x=float),
    "a module by value": lambda script: cloudpickle.register_pickle_by_value(math),
    "a module more": lambda script: sys.modules.setdefault("one_more", ModuleType("one_more")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_anything_that_goes_into_it_shows(
    script: ModuleType, n_dumps: Callable[[], int], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickles = FunctionPickles()
    pickles.prepare(script.scale)
    pickles.prepare(script.scale)
    assert n_dumps() == 1
    try:
        CHANGES[change](script)
        again = pickles.prepare(script.scale)
    finally:
        sys.modules.pop("one_more", None)
        if change == "a module by value":
            cloudpickle.unregister_pickle_by_value(math)
    assert n_dumps() == 2
    assert again.error is None


def test_new_modules_of_the_users_own_show(script: ModuleType, n_dumps: Callable[[], int]) -> None:
    pickles = FunctionPickles()
    old, new = (f"2026-11/{digit * 64}" for digit in "01")
    names = [calls.code_of(pickles.prepare(script.scale, code).pickled) for code in (old, old, new)]
    assert names == [old, old, new]
    assert n_dumps() == 2


def test_a_function_of_a_c_module_is_pickled_again_if_its_name_is_anothers(
    n_dumps: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pickles, floor = FunctionPickles(), math.floor
    assert pickles.prepare(floor).error is None
    monkeypatch.setattr(math, "floor", math.ceil)
    assert pickles.prepare(floor).error is not None
    assert n_dumps() == 2
    monkeypatch.setattr(math, "floor", floor)
    cloudpickle.register_pickle_by_value(math)
    try:
        pickles.prepare(floor)
        pickles.prepare(floor)
    finally:
        cloudpickle.unregister_pickle_by_value(math)
    assert n_dumps() == 4


def test_what_may_change_inside_is_pickled_each_time(script: ModuleType, n_dumps: Callable[[], int]) -> None:
    pickles = FunctionPickles()
    first = pickles.prepare(script.first)
    script.names[0] = "b"
    second = pickles.prepare(script.first)
    assert [calls.load_function(each.pickled)(0) for each in (first, second)] == ["a", "b"]
    for function in (script.make(1), [].append, math.pi.hex, Callable, lambda: script):
        n_before = n_dumps()
        pickles.prepare(function)
        pickles.prepare(function)
        assert n_dumps() == n_before + 2


def test_what_cannot_be_pickled_says_so_each_time(script: ModuleType) -> None:
    script.names = (name for name in "ab")
    pickles = FunctionPickles()
    for _ in range(2):
        assert isinstance(pickles.prepare(script.first).error, TypeError)


def test_a_change_while_it_is_pickled_is_not_remembered(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pickles, dump = FunctionPickles(), calls.dump_function

    def changed_meanwhile(function: Callable[..., Any], code: str) -> bytes:
        pickled = dump(function, code)
        script.factor += 1
        return pickled

    monkeypatch.setattr(calls, "dump_function", changed_meanwhile)
    found = [calls.load_function(pickles.prepare(script.helper).pickled)(0) for _ in range(3)]
    assert found == [3, 4, 5]


# --- made anew for each call ------------------------------------------------------------------------------------------


def worker_calls(pickles: FunctionPickles, function: Callable[..., Any], *args: Any) -> tuple[str, Any]:
    """The digest of a function that is submitted once, and what a worker makes of the call."""
    function, args, kwargs = without_partials(function, args, {})
    prepared = pickles.prepare_for_one(function)
    loaded_args, loaded_kwargs = calls.load_call(calls.dump_call(prepared.bound + args, kwargs))
    return prepared.digest, calls.load_function(prepared.pickled)(*loaded_args, **loaded_kwargs)


MADE_ANEW: dict[str, Callable[[ModuleType, int], Callable[[int], Any]]] = {
    "partial": lambda main, n: functools.partial(main.add, n),
    "partial of partial": lambda main, n: functools.partial(functools.partial(main.add, n), z=1),
    "partial of a method": lambda main, n: functools.partial(main.Box(n).add, n),
    "lambda": lambda main, n: main.defaulted(n),
    "keyword default": lambda main, n: main.keyworded(n),
    "closure": lambda main, n: main.make(n),
    "method": lambda main, n: main.Box(n).add,
    "object": lambda main, n: main.Box(n),
}


@pytest.mark.parametrize("name", MADE_ANEW)
def test_functions_made_anew_for_each_call_are_one_function(script: ModuleType, name: str) -> None:
    exec(
        "def add(x, y, z=0): return 100 * x + y + z\n"
        "def defaulted(n): return lambda x, n=n: add(n, x)\n"
        "def keyworded(n): return lambda x, *, n=n: add(n, x)\n"
        "class Box:\n"
        "    def __init__(self, n): self.n = n\n"
        "    def add(self, x, y=0): return add(self.n, x, y)\n"
        "    def __call__(self, x): return add(self.n, x)\n",
        vars(script),
    )
    pickles = FunctionPickles()
    digests = set()
    for n in range(50):
        function = MADE_ANEW[name](script, n)
        digest, result = worker_calls(pickles, function, 7)
        assert result == function(7)
        digests.add(digest)
    assert len(digests) <= 4


def test_one_that_is_used_again_and_again_stays_whole(script: ModuleType) -> None:
    """A runner then loads it once."""
    pickles, closure = FunctionPickles(), script.make(3)
    assert [pickles.prepare_for_one(closure).bound for _ in range(10)] == [()] * 10


def test_one_that_calls_itself_is_not_taken_apart(script: ModuleType) -> None:
    exec("def recursive(n):\n    def r(k): return n if k == 0 else r(k - 1) + 1\n    return r\n", vars(script))
    pickles = FunctionPickles()
    assert [worker_calls(pickles, script.recursive(n), 3)[1] for n in range(10)] == [n + 3 for n in range(10)]


def test_a_loop_of_lambdas_pickles_what_they_share_once(script: ModuleType, n_dumps: Callable[[], int]) -> None:
    exec("def defaulted(n): return lambda x, n=n: math.floor(x) + n\n", vars(script))
    pickles = FunctionPickles()
    for n in range(100):
        pickles.prepare_for_one(script.defaulted(n))
    assert n_dumps() == 4


def test_what_is_remembered_of_kinds_has_a_bound(script: ModuleType) -> None:
    pickles = FunctionPickles()
    for i in range(300):
        exec(f"def made(x, y={i}): return lambda z=y: z + {i}", vars(script))
        pickles.prepare_for_one(script.made(1))
    assert len(pickles._kinds) == 256
