"""Equal calls have equal digests in every process, and different calls have different ones."""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from starburst_executor.protocol.content import digest_of, function_name, short_text


@dataclasses.dataclass
class Sample:
    name: str
    tags: frozenset[str]


class Scaled(Sample):
    def __init__(self, scale: int) -> None:
        super().__init__("a", frozenset())
        self.scale = scale


@dataclasses.dataclass
class Named(dict[str, int]):
    name: str


@dataclasses.dataclass
class Unfinished:
    name: str
    result: int = dataclasses.field(init=False)


def named(**items: int) -> Named:
    value = Named("a")
    value.update(items)
    return value


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value

    def method(self) -> object:
        return self.value


def maker(scale: object) -> Callable[[int], object]:
    return lambda x: (x, scale)


DIFFERENT: list[object] = [
    *(None, True, False, 0, 1, -1, 2**100, 0.0, -0.0, 1.0, 1j, "", "1", b"", b"1", "a", "ab"),
    *(
        (),
        [],
        {},
        set(),
        frozenset(),
        {1},
        frozenset({1}),
        (1,),
        [1],
        (1, 2),
        (12,),
        ("a", "b"),
        ("ab", ""),
        ((1,), 2),
        (1, (2,)),
    ),
    *({"a": 1}, {"a": 2}, {"b": 1}, {1: "a"}, {"a", "b"}, {"a": {"b": 1}}, {"a": None}),
    *(Sample("a", frozenset()), Sample("a", frozenset("b")), Plain(1), Plain(2), Plain(1).method, Plain(2).method),
    *(
        maker(1),
        maker(2),
        maker("1"),
        functools.partial(maker, 1),
        functools.partial(maker, 2),
        maker,
        len,
        Sample,
        Plain,
    ),
    *(functools.partial(maker, scale=1), float("nan"), "\ud800"),
    # What a dataclass has beside its fields.
    *(Scaled(1), Scaled(2), named(x=1), named(x=2), Unfinished("a"), Unfinished("b")),
]


def test_different_values_have_different_digests() -> None:
    digests = [digest_of(value) for value in DIFFERENT]
    same = [(a, b) for (a, x), (b, y) in itertools.combinations(zip(DIFFERENT, digests, strict=True), 2) if x == y]
    assert same == []
    assert len(set(map(len, digests))) == 1


def test_values_that_belong_to_different_arguments_do_not_mix() -> None:
    assert digest_of(1, 2) != digest_of((1, 2))
    assert digest_of("ab", "c") != digest_of("a", "bc")


def test_the_order_of_a_dict_and_the_identity_of_its_parts_do_not_count() -> None:
    text = "".join(["a", "b", "c"])
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of((text, text)) == digest_of(("".join(["a", "bc"]), text))
    assert digest_of([text, text], maker(text)) == digest_of([text, "".join(["ab", "c"])], maker("".join(["ab", "c"])))


def test_a_value_that_contains_itself_has_a_digest() -> None:
    def ring(value: object) -> Plain:
        first = Plain(value)
        first.next = Plain(first)  # type: ignore[attr-defined]
        return first

    endless: list[Any] = [1]
    endless.append(endless)
    assert digest_of(endless) == digest_of(endless)
    assert digest_of(ring(1)) == digest_of(ring(1)) != digest_of(ring(2))


def test_digests_do_not_depend_on_the_process() -> None:
    code = """
import sys; sys.path[:0] = sys.argv[1:]
from tests.unit.protocol.test_content import Sample, maker
from starburst_executor.protocol.content import digest_of
words = ["alpha", "beta", "gamma", "delta"]
print(digest_of(set(words), {"b": frozenset(words), "a": words}, Sample("x", frozenset(words)), maker(set(words))).hex())
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", code, os.getcwd()],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] != ""


# A script's own classes, of every kind; the pickle of such a class has a random id in each process.
SCRIPT = """
import collections, enum, functools, sys, typing
from starburst_executor.client.call_keys import call_key
from starburst_executor.protocol.content import digest_of

class Color(enum.Enum):
    RED, BLUE = 1, 2
class Flags(enum.IntFlag):
    A, B = 1, 2
class Row(typing.NamedTuple):
    a: int
    color: Color
Point = collections.namedtuple("Point", "x y")
class Table(dict): pass
class Column(list): pass
class Text(str): pass
class Refused(Exception): pass
class Stated:
    def __init__(self, x): self.x = x
    def __getstate__(self): return {"x": self.x}
    def __setstate__(self, state): self.__dict__.update(state)
class Reduced:
    def __init__(self, x): self.x = x
    def __reduce__(self): return Reduced, (self.x,)
class Tree:
    def __init__(self, kind):
        self.children = [kind(self)]
def f(x, among=frozenset({Color.RED, Color.BLUE})): return Color.RED, among
def make(): return lambda x: Row(x, Color.RED)

values = [
    Color.RED, Color.BLUE, Flags.A | Flags.B, Row(1, Color.RED), Row(2, Color.RED), Point(1, 2), Table(a=Color.RED), Column([Row(1, Color.RED)]), Text("a"),
    Refused("a"), Stated({"q", "r", "s"}), Reduced(3), Reduced(4), Tree(Stated), {Color.RED, Color.BLUE}, make(), functools.partial(f, Color.RED),
    collections.deque([Color.RED]), collections.Counter([Color.RED]), Color, collections.OrderedDict(a=Row(1, Color.BLUE)),
]
print([digest_of(value).hex() for value in values])
print([call_key(b"k" * 32, f, (value,), {}) for value in values])
"""


def test_objects_of_a_scripts_own_classes_have_the_same_digests_when_it_runs_again() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    for line in said[0].splitlines():
        digests = ast.literal_eval(line)
        assert len(digests) == len(set(digests)) == 21


def test_a_function_is_known_by_its_name_and_not_by_its_code() -> None:
    first, second = ModuleType("__main__"), ModuleType("__main__")
    exec("def f(x): return x", vars(first))
    exec("# mended\ndef f(x, y=2):\n    return x + 1", vars(second))
    assert function_name(first.f) == "__main__.f"
    assert digest_of(first.f) != digest_of(second.f)  # a default is a value
    second.f.__defaults__ = None
    assert digest_of(first.f) == digest_of(second.f)
    # As `starburst run script.py:f` loads it.
    second.f.__module__ = "__mp_main__"
    assert digest_of(first.f) == digest_of(second.f)


def test_texts_are_short_whatever_the_value() -> None:
    class Loud:
        def __repr__(self) -> str:
            raise AssertionError("a big object's text may take minutes")

    values = [*DIFFERENT, "x" * 10_000, b"x" * 10_000, list(range(10_000)), dict.fromkeys(range(50), "x" * 100), Loud()]
    assert all(0 < len(short_text(value)) <= 60 for value in values)
    assert short_text(("a", 1)) == "('a', 1)"
