"""What a program has at its top works in every process; what comes back is what it was; what cannot travel is named."""

from __future__ import annotations

import dataclasses
import enum
import functools
import pickle
import queue
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from starburst_executor.protocol import calls, outcomes, pickling, rebuilding

SCRIPT = """
import collections, contextvars, dataclasses, enum, functools, queue, threading, weakref

@functools.lru_cache(maxsize=7, typed=True)
def table(n): return n * factor

@functools.cache
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)

@functools.singledispatch
def show(x): return f"any {x}"
@show.register(int)
def _(x): return f"int {x}"
@show.register(list)
def _(x): return [show(each) for each in x]

class Model:
    def __init__(self, n): self.n = n
    @functools.cached_property
    def twice(self): return 2 * self.n
    @functools.lru_cache
    def plus(self, m): return self.n + m
    @functools.singledispatchmethod
    def kind(self, x): return "any"
    @kind.register
    def _(self, x: int): return "int"
    class Part:
        class Color(enum.Enum):
            RED = 1
            BLUE = 2

@dataclasses.dataclass
class Point:
    x: int
    y: int = 0

class Slotted:
    __slots__ = ("n", "__weakref__")
    def __init__(self, n): self.n = n
@dataclasses.dataclass(slots=True, frozen=True)
class Compact:
    x: int
class MyError(Exception): pass
class Flag(enum.Flag):
    A = 1
    B = 2

factor = 2
LOCK, RLOCK, EVENT, LOCAL = threading.Lock(), threading.RLock(), threading.Event(), threading.local()
CONDITION, SEMAPHORE, BOUNDED = threading.Condition(), threading.Semaphore(3), threading.BoundedSemaphore(2)
BARRIER, SIMPLE, QUEUE = threading.Barrier(1), queue.SimpleQueue(), queue.Queue()
VAR, CACHE = contextvars.ContextVar("VAR", default=5), weakref.WeakValueDictionary()

class Account:
    def __init__(self): self.lock, self.n = threading.RLock(), 0
    def add(self, n):
        with self.lock: self.n += n
        return self.n
ACCOUNT = Account()

def use_tables(n): return table(n), fib(n)
def use_locks():
    with LOCK, RLOCK, CONDITION, SEMAPHORE: BARRIER.wait()
    EVENT.set(); LOCAL.x = 1; SIMPLE.put(1); QUEUE.put(2)
    return EVENT.is_set(), LOCAL.x, SIMPLE.get(), QUEUE.get(), BOUNDED.acquire(), VAR.get(), len(CACHE), ACCOUNT.add(1)
def use_more():
    with CONDITION: CONDITION.notify_all()
    return LOCK, RLOCK
def use_model(n): m = Model(n); return m.twice, m.plus(1), m.kind(1), m.kind("x"), show([1, "a"])
def make_point(x): return Point(x)
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return run_script(monkeypatch)


def run_script(monkeypatch: pytest.MonkeyPatch, code: str = SCRIPT) -> ModuleType:
    """A program's module, as it is in a process that runs it."""
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(code, vars(main))
    return main


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, lets this be as another process: with an empty `__main__`, and no object that was pickled."""

    def leave() -> None:
        monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
        monkeypatch.setattr(rebuilding, "_objects", weakref.WeakValueDictionary())
        monkeypatch.setattr(rebuilding, "_tokens", weakref.WeakKeyDictionary())
        monkeypatch.setattr(rebuilding, "_made", weakref.WeakSet())
        import cloudpickle.cloudpickle as inner

        monkeypatch.setattr(inner, "_DYNAMIC_CLASS_TRACKER_BY_ID", weakref.WeakValueDictionary())
        monkeypatch.setattr(inner, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", weakref.WeakKeyDictionary())

    return leave


def there(function: Callable[..., Any], elsewhere: Callable[[], None]) -> Any:
    body = calls.dump_function(function)
    elsewhere()
    return calls.load_function(body)


# --- made anew --------------------------------------------------------------------------------------------------------


def test_caches_are_empty_and_count_for_themselves(script: ModuleType, elsewhere: Callable[[], None]) -> None:
    script.use_tables(5)
    function = there(script.use_tables, elsewhere)
    copy = function.__globals__["table"]
    assert copy is not script.table
    assert (copy.cache_info().currsize, copy.cache_parameters()) == (0, {"maxsize": 7, "typed": True})
    assert [function(9) for _ in range(2)] == [(18, 34)] * 2
    assert copy.cache_info().hits == 1


def test_all_pickles_of_a_cached_function_share_one_cache(script: ModuleType, elsewhere: Callable[[], None]) -> None:
    first = calls.dump_function(script.use_tables)
    script.factor = 10
    second = calls.dump_function(script.use_tables)
    elsewhere()
    one = calls.load_function(first)
    assert one(1) == (2, 1)
    other = calls.load_function(second)
    assert other.__globals__["table"] is one.__globals__["table"]
    assert one(1) == (2, 1), "it is in the cache"
    assert other(2) == (20, 1), "what came with the newer one counts"


def test_dispatching_functions_dispatch(script: ModuleType, elsewhere: Callable[[], None]) -> None:
    show = there(script.show, elsewhere)
    assert (show(1), show("a"), show([1, [2.0]])) == ("int 1", "any a", ["int 1", ["any 2.0"]])
    assert show.__name__ == "show"


def test_helpers_within_classes_work(script: ModuleType, elsewhere: Callable[[], None]) -> None:
    assert there(script.use_model, elsewhere)(4) == (8, 5, "int", "any", ["int 1", "any a"])


def test_locks_and_the_like_are_as_they_were_made(script: ModuleType, elsewhere: Callable[[], None]) -> None:
    for held in (script.LOCK, script.RLOCK, script.CONDITION, script.BOUNDED):
        held.acquire()
    script.EVENT.set()
    script.LOCAL.x = 7
    script.SIMPLE.put(7)
    function = there(script.use_locks, elsewhere)
    copies = function.__globals__
    assert not copies["EVENT"].is_set()
    assert not copies["LOCK"].locked()
    assert not hasattr(copies["LOCAL"], "x")
    assert function() == (True, 1, 1, 2, True, 5, 0, 1)
    assert copies["LOCK"] is not script.LOCK


def test_two_functions_of_a_process_share_a_lock(script: ModuleType, elsewhere: Callable[[], None]) -> None:
    bodies = [calls.dump_function(function) for function in (script.use_locks, script.use_more)]
    elsewhere()
    first, second = map(calls.load_function, bodies)
    assert first.__globals__["LOCK"] is second()[0]
    assert first.__globals__["CONDITION"]._lock is second.__globals__["CONDITION"]._lock


@pytest.mark.parametrize(
    "value", [threading.Lock(), [threading.Event()], {"a": threading.local()}, queue.SimpleQueue()]
)
def test_as_an_argument_or_result_a_lock_is_refused_as_by_a_pool(value: Any) -> None:
    for dump in (lambda: calls.dump_call((value,), {}), lambda: outcomes.dump_value(value)):
        with pytest.raises(TypeError, match="cannot pickle"):
            dump()


class Refusing:
    def __init__(self) -> None:
        self.inner = [threading.Lock()]

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("these stay here")


def test_an_object_that_refuses_to_be_pickled_is_at_fault_itself() -> None:
    with pytest.raises(TypeError, match=r"these stay here: item 1 \([^()]*Refusing\) of argument 0$"):
        calls.dump_call_in_parts(([1, Refusing()],), {}, lambda piece: piece)


def test_a_function_in_an_argument_has_its_locks_and_the_argument_beside_it_has_none(
    script: ModuleType, elsewhere: Callable[[], None]
) -> None:
    body = calls.dump_call((script.use_locks, script.Model, script.Account), {})
    with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object: item 1 .* of argument 0"):
        calls.dump_call_in_parts(([script.use_locks, threading.Lock()],), {}, lambda piece: piece)
    elsewhere()
    (function, model, _), _ = calls.load_call(body)
    assert function()[0] is True
    assert model(3).twice == 6


def test_what_a_module_has_is_found_by_name() -> None:
    assert pickle.loads(pickling.dumps(functools.singledispatch)) is functools.singledispatch
    import fnmatch

    assert pickle.loads(pickling.dumps(fnmatch._compile_pattern)) is fnmatch._compile_pattern  # type: ignore[attr-defined]


# --- the program's own classes ----------------------------------------------------------------------------------------


def came_back(make: Callable[[ModuleType], Any], elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a task returned, in a process that runs the same script tomorrow; and that script."""
    function = calls.dump_function(functools.partial(make, run_script(monkeypatch)).func)
    call = calls.dump_call((run_script(monkeypatch).Model.Part.Color.RED,), {})
    made = make(run_script(monkeypatch))
    body = outcomes.dump_value(made)
    del made, function, call
    elsewhere()
    again = run_script(monkeypatch)
    return outcomes.load_outcome(body)[0], again


VALUES: dict[str, Callable[[ModuleType], Any]] = {
    "instance": lambda main: main.Model(3),
    "dataclass": lambda main: main.Point(1, 2),
    "enum": lambda main: main.Model.Part.Color.BLUE,
    "flag": lambda main: main.Flag.A | main.Flag.B,
    "class": lambda main: main.Account,
    "slots": lambda main: main.Compact(1),
    "error": lambda main: main.MyError("x"),
}


@pytest.mark.parametrize("name", VALUES)
def test_after_reattaching_a_class_is_the_scripts_own(
    name: str, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    value, main = came_back(VALUES[name], elsewhere, monkeypatch)
    expected = VALUES[name](main)
    assert type(value) is type(expected)
    if name in ("dataclass", "enum", "flag", "class", "slots"):
        assert value == expected
    if name in ("enum", "class"):
        assert value is expected


def test_an_error_is_caught_by_its_class(elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    body = outcomes.dump_error(run_script(monkeypatch).MyError("bad"))
    elsewhere()
    main = run_script(monkeypatch)
    with pytest.raises(main.MyError, match="bad"):
        raise outcomes.load_outcome(body)[1]  # type: ignore[misc]


def test_where_the_script_is_not_there_a_class_is_rebuilt(script: ModuleType, elsewhere: Callable[[], None]) -> None:
    body = outcomes.dump_value([script.Point(1), script.Point(1), script.Model.Part.Color.RED])
    elsewhere()
    one, other, red = outcomes.load_outcome(body)[0]
    assert one == other
    assert dataclasses.is_dataclass(one)
    assert type(one) is not script.Point
    assert isinstance(red, enum.Enum)
    assert type(outcomes.load_outcome(body)[0][0]) is type(one)


def test_classes_with_slots_have_slots_elsewhere(script: ModuleType, elsewhere: Callable[[], None]) -> None:
    body = calls.dump_call((script.Slotted(1), script.Compact(2), script.Compact), {})
    elsewhere()
    (slotted, compact, kind), _ = calls.load_call(body)
    assert (slotted.n, compact) == (1, kind(2))
    assert not hasattr(slotted, "__dict__")
    assert weakref.ref(slotted)() is slotted
    assert outcomes.load_outcome(outcomes.dump_value(slotted))[0].n == 1


def test_something_else_of_that_name_is_not_taken_for_it(
    elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = outcomes.dump_value(run_script(monkeypatch).Model.Part.Color.RED)
    elsewhere()
    run_script(monkeypatch, "class Model:\n    class Part:\n        class Color: pass\n")
    assert isinstance(outcomes.load_outcome(body)[0], enum.Enum)


def test_what_comes_back_changes_no_class_that_is_there(script: ModuleType) -> None:
    script.Account.limit = 1
    body = outcomes.dump_value(script.Account)
    script.Account.limit = 2
    assert outcomes.load_outcome(body)[0] is script.Account
    assert script.Account.limit == 2


def test_a_class_that_the_client_changed_is_changed_in_runners(
    script: ModuleType, elsewhere: Callable[[], None]
) -> None:
    script.Account.limit = 1
    first = calls.dump_call((script.Account,), {})
    script.Account.limit = 2
    second = calls.dump_call((script.Account,), {})
    elsewhere()
    (kind,), _ = calls.load_call(first)
    assert kind.limit == 1
    assert calls.load_call(second)[0][0] is kind
    assert kind.limit == 2


def test_a_redefined_class_is_another_one(script: ModuleType, elsewhere: Callable[[], None]) -> None:
    first = calls.dump_call((script.Point(1),), {})
    exec("class Point: pass", vars(script))
    second = calls.dump_call((script.Point(),), {})
    elsewhere()
    (one,), _ = calls.load_call(first)
    (other,), _ = calls.load_call(second)
    assert type(one) is not type(other)


# --- what cannot travel -----------------------------------------------------------------------------------------------

OPEN = """
import functools, sqlite3, threading
db = sqlite3.connect(":memory:")
log = open(__file__)
class Config:
    def __init__(self): self.conn = db
config = Config()
class Pool:
    kept = {"main": db}
table = {1: [db]}
def helper(x): return db.execute(x)
def direct(): return log.read()
def indirect(x): return [helper(each) for each in x]
def nested():
    def inner(): return config
    return inner
def of_table(): return table
def of_class(): return Pool.kept
@functools.lru_cache
def cached(): return db
def of_cached(): return cached()
def default(x, *, connection=db): return x
def closing(connection):
    def run(): return connection
    return run
closed = closing(db)
class Service:
    def __init__(self): self.file = log
    def run(self): return 1
method = Service().run
"""


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    main = run_script(monkeypatch, f"__file__ = {__file__!r}\n{OPEN}")
    yield main
    main.log.close()
    main.db.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("helper", "global `db` (sqlite3.Connection), used by `helper`: create it in an `initializer`"),
        ("indirect", "global `db` (sqlite3.Connection), used by `helper`: create it in an `initializer`"),
        ("direct", "global `log` (_io.TextIOWrapper), used by `direct`: create it in an `initializer`"),
        ("nested", "attribute `conn` (sqlite3.Connection) of global `config`, used by `nested`: create it in"),
        ("of_table", "item 0 (sqlite3.Connection) of item 1 of global `table`, used by `of_table`: create it in"),
        (
            "of_class",
            "item 'main' (sqlite3.Connection) of attribute `kept` of class `Pool` of global `Pool`, used by `of_class`",
        ),
        ("of_cached", "global `db` (sqlite3.Connection), used by `cached`: create it in an `initializer`"),
        ("default", "the default of `connection` (sqlite3.Connection), used by `default`: create it in"),
        ("closed", "`connection` (sqlite3.Connection), used by `run`: create it in"),
        ("method", "attribute `file` (_io.TextIOWrapper) of `self` of the function"),
    ],
)
def test_the_error_names_the_way_to_what_cannot_travel(broken: ModuleType, name: str, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        calls.dump_function(getattr(broken, name))
    assert words in str(caught.value)
    assert str(caught.value).startswith("cannot pickle '")


def test_of_arguments_and_results_too(broken: ModuleType) -> None:
    def keep(piece: Any) -> bytes:
        return bytes(piece)

    with pytest.raises(TypeError, match=r"item 'x' \(sqlite3.Connection\) of argument `options`"):
        calls.dump_call_in_parts((1,), {"options": {"x": broken.db}}, keep)
    with pytest.raises(TypeError, match=r"item 1 \(_io.TextIOWrapper\) of the result"):
        outcomes.dump_value((1, broken.log))
    with pytest.raises(TypeError, match=r"^cannot pickle 'sqlite3.Connection' object$"):
        calls.dump_call_in_parts((broken.db,), {}, keep)


def test_what_user_code_raises_is_left_to_it() -> None:
    class Odd:
        def __reduce__(self) -> Any:
            raise ValueError("mine") from KeyError("cause")

    with pytest.raises(ValueError, match=r"^mine$") as caught:
        outcomes.dump_value([Odd()])
    assert isinstance(caught.value.__cause__, KeyError)


def test_standard_streams_are_found_by_name_and_other_files_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w+") as file:
        for value in (file, [file]):
            with pytest.raises(TypeError, match=r"cannot pickle '_io\.TextIOWrapper' object"):
                pickling.dumps(value)
    real = sys.__stdout__
    assert pickle.loads(pickling.dumps(real)) is sys.stdout


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f8", "i4,f8", "M8[s]", "U3", "?"])
def test_arrays_can_be_written_to_where_they_arrive(order: str, dtype: str) -> None:
    import numpy as np

    array = np.zeros((300, 70), dtype, order)
    array.flags.writeable = False
    for value in (array, array[:0], array[::2, 1:], array[0], {"a": [array]}):
        copy = pickle.loads(pickling.dumps(value))
        arrays = (copy["a"][0], array) if isinstance(value, dict) else (copy, value)
        assert arrays[0].flags.writeable
        assert arrays[0].dtype == arrays[1].dtype
        if arrays[1].flags.c_contiguous or arrays[1].flags.f_contiguous:
            assert arrays[0].flags.f_contiguous == arrays[1].flags.f_contiguous
        assert (arrays[0] == arrays[1]).all()
    assert not array.flags.writeable
    parts = calls.dump_call_in_parts((array,), {}, lambda piece: bytes(piece))
    assert isinstance(parts, list) == (array.nbytes >= 64 * 1024)
