"""Cached calls: which calls have one key, which are refused, and what becomes of hits, misses, failures and spoilt entries."""

from __future__ import annotations

import collections
import functools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, InvalidStateError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from starburst_executor import SharedRef, cached
from starburst_executor.client.caching import CachedCalls
from starburst_executor.client.call_keys import call_key
from starburst_executor.client.future import StarburstFuture
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError
from starburst_executor.protocol import outcomes
from starburst_executor.session.cache import cache_sizes, clear
from starburst_executor.store.open import open_store
from starburst_executor.testing import InlineExecutor
from tests.sessions import wait_until

KEY = b"k" * 32
TABLE = np.arange(10.0)
LOCK = threading.Lock()


class Plain:
    def __init__(self, x: object) -> None:
        self.x = x


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a: object) -> None:
        self.a = a


@dataclass
class Record:
    a: object


class Model:
    weights = np.arange(3.0)
    scales = (np.ones(2), "x")
    guard = threading.Lock()

    def __init__(self) -> None:
        self.LOCK = 1

    def value(self, x: float) -> float:
        return float(self.weights.sum()) * x + self.LOCK


def modelled(x: float) -> float:
    return Model().value(x)


def helper(x: float) -> float:
    return x * 2


def uses(x: float, y: float = 3) -> float:
    return helper(x) + float(TABLE.sum()) + y


def locks(x: float) -> float:
    with LOCK:
        return x


def adding(n: int) -> Callable[[int], int]:
    return lambda x: x + n


def key(function: Callable[..., object], *args: object, **kwargs: object) -> str:
    return call_key(KEY, function, args, kwargs)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1,), (1.0,)),
        (((1, (2, 3)),), (((1, 2), 3),)),
        (([1], [1, 2]), ([1, 1], [2])),
        ((Plain(1),), (Plain(2),)),
        ((Slotted(1),), (Slotted(2),)),
        ((Record(1),), (Record(2),)),
        ((np.zeros(3),), (np.ones(3),)),
        ((adding(1),), (adding(2),)),
        (({"a": [Plain(1)]},), ({"a": [Plain(2)]},)),
    ],
)
def test_other_arguments_have_another_key_and_equal_ones_the_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert key(uses, *one) != key(uses, *other)
    assert key(uses, *one) == key(uses, *one)


def test_objects_that_occur_twice_are_not_mistaken_for_others() -> None:
    a, b = Plain(1), Plain(1)
    assert key(uses, a, b, a) == key(uses, a, b, a)
    assert len({key(uses, [a, Plain(2)], a), key(uses, [a, Plain(2)], Plain(2))}) == 2


def test_a_change_of_code_closure_or_used_globals_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(uses, 1)
    with monkeypatch.context() as patched:
        patched.setitem(globals(), "helper", lambda x: x * 3)
        assert key(uses, 1) != before
    with monkeypatch.context() as patched:
        patched.setitem(globals(), "TABLE", np.arange(11.0))
        assert key(uses, 1) != before
    with monkeypatch.context() as patched:
        patched.setattr(uses, "__defaults__", (4,))
        assert key(uses, 1) != before
    with monkeypatch.context() as patched:
        patched.setitem(globals(), "LOCK", None)  # `uses` does not refer to it
        assert key(uses, 1) == before
    assert key(adding(1), 1) != key(adding(2), 1)
    assert call_key(b"another" * 4, uses, (1,), {}) != before


CHANGES = {
    "kind of parameter": ("def f(a): return a", "def f(*a): return a"),
    "end of try": (
        "def f(a):\n try:\n  g(a)\n  h(a)\n except ValueError: return 1\n return 2",
        "def f(a):\n try:\n  g(a)\n except ValueError: return 1\n else:\n  h(a)\n return 2",
    ),
    "attribute of a function": ("def f(a): return a * f.n\nf.n = 2", "def f(a): return a * f.n\nf.n = 3"),
}
# With a number in its place.
CHANGED = {
    "setter": "class C:\n @property\n def x(s): return s.y\n @x.setter\n def x(s, v): s.y = v * %d\ndef f(a):\n c = C()\n c.x = a\n return c.x",
    "cached property": "class C:\n @functools.cached_property\n def x(s): return %d\ndef f(a): return C().x",
    "method by type": "class C:\n @functools.singledispatchmethod\n def x(s, a): return %d\ndef f(a): return C().x(a)",
    "function by type": "@functools.singledispatch\ndef g(a): 1\n@g.register(int)\ndef _(a): return %d\ndef f(a): return g(a)",
    "called by type": "@functools.singledispatch\ndef f(a): 1\n@f.register(int)\ndef _(a): return %d",
    "metaclass": "class M(type):\n def go(c): return %d\nclass C(metaclass=M): pass\ndef f(a): return C.go()",
    "deque": "d = collections.deque([lambda x: x * %d])\ndef f(a): return d[0](a)",
    "object in a deque": "class C:\n def go(s): return %d\nd = collections.deque([C()])\ndef f(a): return d[0].go()",
    "default of a dict": "d = collections.defaultdict(lambda: %d)\ndef f(a): return d[a]",
    "class's deque": "class C:\n d = collections.deque([lambda x: x * %d])\ndef f(a): return C.d[0](a)",
    "object of a library": "v = np.vectorize(lambda x: x * %d)\ndef f(a): return v(a)",
    "slot": "class C:\n __slots__ = ('x',)\nc = C()\nc.x = lambda a: a * %d\ndef f(a): return c.x(a)",
    "decorator that is an object": "class D:\n def __init__(s, g): functools.update_wrapper(s, g)\n def __call__(s, x): return x * %d\n@D\ndef f(a): return a",
}
CHANGES |= {name: (text % 2, text % 3) for name, text in CHANGED.items()}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_what_a_function_does_is_another_key(name: str) -> None:
    def made(text: str) -> str:
        names: dict[str, object] = {
            "__name__": "__main__",
            "functools": functools,
            "collections": collections,
            "np": np,
        }
        exec(text, names)
        return key(cast("Callable[..., object]", names["f"]), 1)

    before, after = CHANGES[name]
    assert made(before) == made(before) != made(after)


def test_what_a_decorator_leaves_on_a_function_may_be_anything() -> None:
    def made(n: int) -> Callable[[int], int]:
        def counted(x: int) -> int:
            return x

        vars(counted).update(lock=threading.Lock(), calls=np.arange(n))
        return counted

    assert key(made(3), 1) == key(made(3), 1) != key(made(4), 1)


@pytest.mark.parametrize(("name", "value"), [("weights", np.arange(3.0) + 1), ("scales", (np.zeros(2), "x"))])
def test_the_content_of_a_classs_attributes_counts(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    before = key(modelled, 1)
    monkeypatch.setattr(Model, "guard", threading.Lock())
    assert key(modelled, 1) == before
    monkeypatch.setattr(Model, name, value)
    assert key(modelled, 1) != before


def test_an_attribute_is_not_mistaken_for_the_global_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(modelled, 1)
    monkeypatch.setitem(globals(), "value", 5)
    monkeypatch.setitem(globals(), "LOCK", threading.RLock())  # has no content: a key of it would be a TypeError
    assert key(modelled, 1) == before


def test_keys_are_equal_in_another_process() -> None:
    code = """
from starburst_executor.client.call_keys import call_key
NAMES = {"b", "a", "c"}
class Kind:
    def __init__(self, x): self.x = x
    def go(self): return len(NAMES) * self.x
def f(kind, names=frozenset("xyz")): return kind.go()
print(call_key(b"k" * 32, f, (Kind({"q", "r", "s"}),), {"names": {1, "2"}}))
"""
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (functools.partial(key, locks, 1), "a value of lock"),
        (functools.partial(key, uses, threading.Lock()), "the call"),
        (functools.partial(key, uses, SharedRef("s", "5f" * 32, 1, 1)), "belongs to one session"),
        (functools.partial(key, uses, StarburstFuture()), "cannot be cached"),
    ],
)
def test_what_has_no_content_to_compare_says_so(call: Callable[[], str], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        call()


class Stage:
    """A cache in a store on this machine, and a way to submit that completes when the test says so."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.submitted: list[StarburstFuture[Any]] = []
        self.calls = self.another()

    def another(self) -> CachedCalls:
        return CachedCalls(self.url, SystemClock(), "a-cache", patience_s=5)

    def submit(self) -> StarburstFuture[Any]:
        future: StarburstFuture[Any] = StarburstFuture()
        self.submitted.append(future)
        return future

    def call(
        self, *args: Any, by: CachedCalls | None = None, function: Callable[..., Any] = helper
    ) -> StarburstFuture[Any]:
        return (by or self.calls).submit(function, args, {}, self.submit)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(f"sqlite://{tmp_path}/sessions")
    yield stage
    stage.calls.close()


def test_a_result_is_kept_and_found_by_another_client(stage: Stage) -> None:
    future = stage.call(2)
    stage.submitted[0].set_result({"a": [1]})
    assert future.result() == {"a": [1]}
    stage.calls.close()
    another = stage.another()
    hit = stage.call(2, by=another)
    assert hit.result(10) == {"a": [1]}
    assert len(stage.submitted) == 1
    assert stage.call(3, by=another) is stage.submitted[1]
    assert stage.call(2, by=another, function=uses) is stage.submitted[2]
    store = open_store(stage.url)
    (size,) = cache_sizes(store)
    assert (size.name, size.n_entries) == ("a-cache", 1)
    assert clear(store, "a-cache", before=size.oldest_at) == 0
    assert clear(store, "a-cache") == 1
    # It was known to be there, and is gone: the task runs.
    again = stage.call(2, by=another)
    wait_until(lambda: len(stage.submitted) == 4)
    stage.submitted[3].set_result(5)
    assert again.result(10) == 5
    another.close()


def test_a_result_is_kept_as_it_came_whatever_the_program_does_with_it(stage: Stage) -> None:
    future = stage.call(2)
    # A thread that waits may have the value before any callback is called: here one does.
    future._done_callbacks.insert(0, lambda done: done.result().append("changed"))  # type: ignore[attr-defined]
    future.complete([1], None, memoryview(outcomes.dump_value([1])))
    assert future.result() == [1, "changed"]
    stage.calls.close()
    another = stage.another()
    assert stage.call(2, by=another).result(10) == [1]
    another.close()


def test_a_hit_has_no_task(stage: Stage) -> None:
    stage.call(2).set_result(5)
    stage.calls.close()
    another = stage.another()
    hit = stage.call(2, by=another)
    assert hit.result(10) == 5
    assert (hit.index, hit.task_id, hit.session_id, hit.label, hit.attempts) == (-1, "", "", "", [])
    with pytest.raises(InvalidStateError):
        hit.log()
    another.close()


def test_failures_and_cancelled_tasks_are_not_kept(stage: Stage) -> None:
    failed, cancelled = stage.call(1), stage.call(2)
    failed.set_exception(ValueError("no"))
    assert cancelled.cancel()
    stage.calls.close()
    another = stage.another()
    assert stage.call(1, by=another) is stage.submitted[2]
    assert stage.call(2, by=another) is stage.submitted[3]
    with pytest.raises(CancelledError):
        cancelled.result()
    another.close()


def test_an_entry_that_was_changed_or_moved_is_no_hit(stage: Stage) -> None:
    for number in (1, 2):
        stage.call(number).set_result(number)
    stage.calls.close()
    store = open_store(stage.url)
    first, second = store.list("cache/a-cache/")
    store.put(first.key, store.get(second.key).body)
    store.put(second.key, store.get(second.key).body[:-1] + b"!")
    another = stage.another()
    futures = [stage.call(number, by=another) for number in (1, 2)]
    wait_until(lambda: len(stage.submitted) == 4)
    for future in stage.submitted[2:]:
        future.set_result("anew")
    assert [future.result(10) for future in futures] == ["anew", "anew"]
    another.close()


def test_the_decorator_leaves_the_function_as_it_is() -> None:
    @cached
    def double(x: int) -> int:
        """Twice."""
        return 2 * x

    named = cached("features")(helper)
    assert (double(4), double.__doc__, double.cache, named.cache, named(1)) == (8, "Twice.", "double", "features", 2)
    with pytest.raises(ConfigError, match="not a name for a cache"):
        cached("a/b")(helper)
    with InlineExecutor() as executor:
        assert executor.submit(named, 4).result() == 8
