"""Small programs for an executor, run as a script: `sixty_programs.py pool` or `sixty_programs.py starburst`.

Prints a JSON object: for each program what it gave, or the class of what it raised. `test_sixty_programs.py` compares.
"""

from __future__ import annotations

import collections
import concurrent.futures as cf
import contextvars
import dataclasses
import decimal
import enum
import fractions
import functools
import itertools
import json
import logging
import math
import multiprocessing
import operator
import os
import pathlib
import queue
import random
import re
import string
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

PROGRAMS: dict[str, Callable[[Executor], Any]] = {}


def program(function: Callable[[Executor], Any]) -> Callable[[Executor], Any]:
    PROGRAMS[function.__name__] = function
    return function


# --- what a script has at its top -------------------------------------------------------------------------------------

FACTOR = 3
TABLE = {"a": 1}
LOCK, RLOCK, EVENT, LOCAL = threading.Lock(), threading.RLock(), threading.Event(), threading.local()
CONDITION, SEMAPHORE, BARRIER = threading.Condition(), threading.Semaphore(2), threading.Barrier(1)
QUEUE, SIMPLE = queue.Queue(), queue.SimpleQueue()
VARIABLE = contextvars.ContextVar("VARIABLE", default="default")
LOGGER = logging.getLogger("sixty")
PATTERN = re.compile(r"\d+")


@functools.lru_cache(maxsize=10)
def cached(n: int) -> int:
    return n * FACTOR


@functools.cache
def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


@functools.singledispatch
def shown(value: object) -> str:
    return "any"


@shown.register
def _(value: int) -> str:
    return "int"


@shown.register
def _(value: list) -> list:  # type: ignore[type-arg]
    return [shown(each) for each in value]


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return "logged", function(*args)

    return wrapper


@logged
def decorated(n: int) -> int:
    return n + 1


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: int
    right: int


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = 0

    def moved(self, by: int) -> Point:
        return dataclasses.replace(self, x=self.x + by)


class Model:
    limit = 10

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, x: int) -> int:
        return self.n * x

    @functools.cached_property
    def twice(self) -> int:
        return 2 * self.n

    @classmethod
    def named(cls, n: int) -> str:
        return f"{cls.__name__} {n}"

    @staticmethod
    def half(n: int) -> float:
        return n / 2

    def add(self, x: int) -> int:
        return self.n + x

    class Part:
        def __init__(self, n: int) -> None:
            self.n = n


class Slotted:
    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n


@dataclasses.dataclass(slots=True, frozen=True)
class Compact:
    x: int
    y: int = 0


class Reduced:
    def __init__(self, n: int) -> None:
        self.n = n

    def __reduce__(self) -> Any:
        return Reduced, (self.n + 1,)


class MyError(Exception):
    pass


class Coded(Exception):
    def __init__(self, code: int, words: str) -> None:
        super().__init__(code, words)
        self.code = code


class Counter:
    def __init__(self) -> None:
        self.lock, self.n = threading.Lock(), 0

    def add(self, n: int) -> int:
        with self.lock:
            self.n += n
            return self.n


COUNTER = Counter()


def identity(value: Any) -> Any:
    return value


def square(n: int) -> int:
    return n * n


def fail(error: BaseException) -> None:
    raise error


def with_locks(n: int) -> int:
    with LOCK, RLOCK, CONDITION, SEMAPHORE:
        BARRIER.wait()
        EVENT.set()
        LOCAL.n = n
        QUEUE.put(n)
        SIMPLE.put(n)
        return QUEUE.get() + SIMPLE.get() + LOCAL.n


def chained() -> None:
    try:
        {}["a"]
    except KeyError as error:
        raise MyError("outer") from error


def changed(values: list[int]) -> list[int]:
    values.append(1)
    return values


def default(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> list[Any]:
    return [a, b, rest, c, more]


def use_kinds(n: int) -> list[Any]:
    model = Model(n)
    return [Model.named(n), Model.half(n), model.twice, isinstance(Point(1), Point), Color(n) is Color.RED]


def text_of(name: str) -> str:
    return pathlib.Path(name).read_text()


def generate(n: int) -> Iterator[int]:
    yield from range(n)


def prepare(value: str) -> None:
    TABLE["prepared"] = len(value)


def prepared() -> int:
    return TABLE["prepared"]


def warned() -> int:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("w", UserWarning, stacklevel=1)
    return len(caught)


def flags() -> list[Any]:
    return [str(sys.flags), sys.warnoptions]


# --- programs ---------------------------------------------------------------------------------------------------------


@program
def a_builtin(ex: Executor) -> Any:
    return ex.submit(pow, 2, 10).result()


@program
def a_function_of_the_script(ex: Executor) -> Any:
    return ex.submit(square, 4).result()


@program
def keywords_and_defaults(ex: Executor) -> Any:
    return [ex.submit(default, 1).result(), ex.submit(default, 1, 5, 6, c=7, d=8).result()]


@program
def map_in_order(ex: Executor) -> Any:
    return list(ex.map(square, range(20)))


@program
def map_of_several_iterables(ex: Executor) -> Any:
    return list(ex.map(pow, [2, 3, 4], itertools.count(1)))


@program
def map_with_chunks(ex: Executor) -> Any:
    return list(ex.map(square, range(20), chunksize=7))


@program
def map_of_nothing(ex: Executor) -> Any:
    return list(ex.map(square, []))


@program
def map_stops_at_an_error(ex: Executor) -> Any:
    results = []
    try:
        for result in ex.map(math.sqrt, [4.0, 9.0, -1.0, 16.0]):
            results.append(result)
    except ValueError:
        results.append("ValueError")
    return results


@program
def map_refuses_a_chunksize_of_zero(ex: Executor) -> Any:
    return list(ex.map(square, [1], chunksize=0))


@program
def as_completed_gives_all(ex: Executor) -> Any:
    return sorted(future.result() for future in cf.as_completed([ex.submit(square, n) for n in range(5)]))


@program
def wait_for_the_first_exception(ex: Executor) -> Any:
    done, _ = cf.wait([ex.submit(fail, MyError("x"))], return_when=cf.FIRST_EXCEPTION)
    return [type(future.exception()).__name__ for future in done]


@program
def callbacks_are_called(ex: Executor) -> Any:
    called: queue.SimpleQueue[int] = queue.SimpleQueue()
    ex.submit(square, 3).add_done_callback(lambda future: called.put(future.result()))
    return called.get(timeout=60)


@program
def a_future_is_a_future(ex: Executor) -> Any:
    future = ex.submit(square, 3)
    future.result()
    return [isinstance(future, Future), future.done(), future.running(), future.cancelled(), future.cancel()]


@program
def a_timeout(ex: Executor) -> Any:
    future = ex.submit(time.sleep, 0.5)
    try:
        future.result(timeout=0.01)
    except cf.TimeoutError:
        return ["timeout", future.result()]


@program
def an_error_of_the_script(ex: Executor) -> Any:
    try:
        ex.submit(fail, MyError("bad")).result()
    except MyError as error:
        return [str(error), type(error.__cause__.__class__).__name__]


@program
def an_error_with_two_arguments(ex: Executor) -> Any:
    error = ex.submit(fail, Coded(7, "words")).exception()
    return [type(error).__name__, error.args, error.code]  # type: ignore[union-attr]


@program
def an_error_shows_its_line(ex: Executor) -> Any:
    error = ex.submit(fail, MyError("bad")).exception()
    shown = str(error.__cause__)  # type: ignore[union-attr]
    return ["raise error" in shown, "sixty_programs.py" in shown, "in fail" in shown]


@program
def a_chain_of_errors(ex: Executor) -> Any:
    error = ex.submit(chained).exception()
    return [type(error).__name__, "KeyError" in str(error.__cause__)]  # type: ignore[union-attr]


@program
def system_exit_is_an_error(ex: Executor) -> Any:
    return repr(ex.submit(fail, SystemExit(3)).exception())


@program
def keyboard_interrupt_is_an_error(ex: Executor) -> Any:
    return repr(ex.submit(fail, KeyboardInterrupt()).exception())


@program
def numbers(ex: Executor) -> Any:
    values = [1, -1.5, 2j, 10**100, decimal.Decimal("1.10"), fractions.Fraction(1, 3), float("inf")]
    return [repr(ex.submit(identity, value).result()) for value in values]


@program
def containers(ex: Executor) -> Any:
    values = [(1, [2]), {"a": {1, 2}}, frozenset("ab"), collections.OrderedDict(a=1), collections.Counter("aab")]
    return [ex.submit(identity, value).result() == value for value in [*values, bytearray(b"x"), range(3), slice(1)]]


@program
def a_defaultdict(ex: Executor) -> Any:
    value = ex.submit(identity, collections.defaultdict(list, a=[1])).result()
    return [value, value["b"]]


@program
def text_and_bytes(ex: Executor) -> Any:
    values = ["ä€\U0001f600", "\ud800", "", b"\x00\xff", string.printable]
    return [ex.submit(identity, value).result() == value for value in values]


@program
def a_large_argument_and_result(ex: Executor) -> Any:
    return len(ex.submit(identity, b"x" * 3_000_000).result())


@program
def recursion_in_a_value(ex: Executor) -> Any:
    value: list[Any] = [1]
    value.append(value)
    copy = ex.submit(identity, value).result()
    return copy[1] is copy


@program
def shared_parts_stay_shared(ex: Executor) -> Any:
    part = [1]
    copy = ex.submit(identity, [part, part]).result()
    return copy[0] is copy[1]


@program
def an_argument_is_a_copy(ex: Executor) -> Any:
    values = [0]
    return [ex.submit(changed, values).result(), values]


@program
def an_enum_member_is_itself(ex: Executor) -> Any:
    return ex.submit(identity, Color.RED).result() is Color.RED


@program
def flags_are_equal(ex: Executor) -> Any:
    both = Rights.READ | Rights.WRITE
    return ex.submit(identity, both).result() == both


@program
def a_dataclass_is_equal(ex: Executor) -> Any:
    return ex.submit(identity, Point(1, 2)).result() == Point(1, 2)


@program
def a_named_tuple_is_one(ex: Executor) -> Any:
    value = ex.submit(identity, Pair(1, 2)).result()
    return [type(value) is Pair, value.left]


@program
def an_instance_is_of_its_class(ex: Executor) -> Any:
    return [type(ex.submit(identity, value).result()) is type(value) for value in (Model(1), Model.Part(1), Slotted(1))]


@program
def a_reduce_of_its_own(ex: Executor) -> Any:
    return ex.submit(identity, Reduced(1)).result().n


@program
def a_class_is_itself(ex: Executor) -> Any:
    return [ex.submit(identity, kind).result() is kind for kind in (Model, Model.Part, int, Point)]


@program
def a_class_as_function(ex: Executor) -> Any:
    return ex.submit(Point, 1, y=2).result() == Point(1, 2)


@program
def methods(ex: Executor) -> Any:
    calls = [ex.submit(Model(3).add, 4), ex.submit(Model.named, 5), ex.submit(Model.half, 5), ex.submit(Model(3), 5)]
    return [future.result() for future in calls]


@program
def a_method_of_a_dataclass(ex: Executor) -> Any:
    return ex.submit(Point(1).moved, 2).result() == Point(3)


@program
def methods_of_builtins(ex: Executor) -> Any:
    return [
        ex.submit("a,b".split, ",").result(),
        ex.submit([3, 1].index, 1).result(),
        ex.submit(str.upper, "a").result(),
    ]


@program
def partials(ex: Executor) -> Any:
    return [ex.submit(functools.partial(default, 1, c=n)).result() for n in range(6)]


@program
def operators(ex: Executor) -> Any:
    return [ex.submit(operator.itemgetter(1), "abc").result(), ex.submit(operator.methodcaller("upper"), "a").result()]


@program
def a_decorated_function(ex: Executor) -> Any:
    return ex.submit(decorated, 1).result()


@program
def functions_with_caches(ex: Executor) -> Any:
    return [ex.submit(cached, 3).result(), ex.submit(fibonacci, 30).result()]


@program
def a_function_that_dispatches(ex: Executor) -> Any:
    return ex.submit(shown, [1, "a", [2]]).result()


@program
def locks_at_the_top(ex: Executor) -> Any:
    return [ex.submit(with_locks, n).result() for n in range(3)]


@program
def an_object_with_a_lock_at_the_top(ex: Executor) -> Any:
    return ex.submit(use_counter, 5).result() >= 5


def use_counter(n: int) -> int:
    return COUNTER.add(n)


@program
def a_context_variable_at_the_top(ex: Executor) -> Any:
    return ex.submit(use_variable).result()


def use_variable() -> str:
    return VARIABLE.get()


@program
def a_logger_and_a_pattern_at_the_top(ex: Executor) -> Any:
    return ex.submit(use_tools, "a12").result()


def use_tools(text: str) -> list[Any]:
    return [LOGGER.name, PATTERN.findall(text)]


@program
def kinds_of_the_script(ex: Executor) -> Any:
    return ex.submit(use_kinds, 1).result()


@program
def a_lock_as_argument(ex: Executor) -> Any:
    return ex.submit(identity, threading.Lock()).result()


@program
def a_generator_as_result(ex: Executor) -> Any:
    return ex.submit(generate, 3).result()


@program
def an_open_file_as_argument(ex: Executor) -> Any:
    with pathlib.Path(__file__).open() as file:
        return ex.submit(identity, file).result()


@program
def the_folder_and_the_environment(ex: Executor) -> Any:
    return [ex.submit(os.getcwd).result() == os.getcwd(), ex.submit(os.getenv, "SIXTY").result()]


@program
def a_file_beside_the_script(ex: Executor) -> Any:
    return ex.submit(text_of, __file__).result() == pathlib.Path(__file__).read_text()


@program
def modules_are_there(ex: Executor) -> Any:
    return ex.submit(statistics_of, [1, 2, 3]).result()


def statistics_of(values: list[int]) -> float:
    import statistics

    return statistics.mean(values)


@program
def numbers_are_drawn(ex: Executor) -> Any:
    return all(0 <= ex.submit(random.uniform, 0, 1).result() <= 1 for _ in range(4))


@program
def classes_with_slots(ex: Executor) -> Any:
    values = [Slotted(2), Compact(1, 2), Compact(1, 2)]
    copies = [ex.submit(identity, value).result() for value in values]
    return [copies[0].n, copies[1] == copies[2] == values[1], ex.submit(has_dict, Slotted(1)).result()]


def has_dict(value: object) -> bool:
    return hasattr(value, "__dict__")


@program
def warnings_in_a_task(ex: Executor) -> Any:
    return ex.submit(warned).result()


@program
def flags_of_the_interpreter(ex: Executor) -> Any:
    return ex.submit(flags).result() == flags()


@program
def what_the_initializer_did(ex: Executor) -> Any:
    return ex.submit(prepared).result()


@program
def threads_that_submit(ex: Executor) -> Any:
    with cf.ThreadPoolExecutor(4) as threads:
        return sorted(future.result().result() for future in [threads.submit(ex.submit, square, n) for n in range(8)])


@program
def a_lambda(ex: Executor) -> Any:
    return ex.submit(lambda: 1).result()


@program
def a_closure(ex: Executor) -> Any:
    def inner(n: int) -> int:
        return n + len(PROGRAMS) * 0

    return ex.submit(inner, 1).result()


@program
def an_error_that_does_not_come_back(ex: Executor) -> Any:
    class Local(Exception):
        pass

    return ex.submit(fail, Local("x")).result()


@program
def submits_after_the_end(ex: Executor) -> Any:
    ex.shutdown()
    return ex.submit(square, 1)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=repr))


def main(kind: str) -> None:
    if kind == "pool":
        spawn = multiprocessing.get_context("spawn")
        executor: Executor = cf.ProcessPoolExecutor(2, spawn, initializer=prepare, initargs=("four",))
    else:
        from starburst_executor import StarburstExecutor

        executor = StarburstExecutor(2, initializer=prepare, initargs=("four",))
    gave: dict[str, Any] = {}
    for name, run in PROGRAMS.items():
        try:
            gave[name] = _plain(run(executor))
        except Exception as error:
            gave[name] = f"raises {type(error).__name__}"
    executor.shutdown()
    print(json.dumps(gave))


if __name__ == "__main__":
    main(sys.argv[1])
