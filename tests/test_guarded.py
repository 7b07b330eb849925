"""Fields that a lock guards are used under that lock, read from the package's sources.

A comment at a lock's assignment names the fields: `self._lock = threading.Lock()  # guards: _queue, _n_bytes`. Every use of such
a field on `self`, read or write, must then stand

- inside `with self._lock:`, or with a condition that is made on that lock; or
- in `__init__`, before other threads can have the object; or
- in a private method that is only called under the lock; or
- on a line with a comment `# unlocked: <why this is safe>`.

A function that is defined under the lock runs later, so it counts as outside, except a predicate of `wait_for`.
Fields of other objects, and uses of a public field from outside its class, are not checked.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "starburst_executor"
SOURCES = sorted(ROOT.rglob("*.py"))
GUARDS = re.compile(r"#.*\bguards:\s*(?P<names>[^;]*)")
UNLOCKED = re.compile(r"# unlocked: \S")


class Guarded:
    """The locks of one class, by the fields that they guard."""

    def __init__(self, class_: ast.ClassDef, lines: list[str]) -> None:
        self.methods = {node.name: node for node in class_.body if isinstance(node, ast.FunctionDef)}
        self.lines = lines
        self.locks: dict[str, str] = {}  # attribute to the name of its lock: a condition on a lock is that lock
        self.fields: dict[str, str] = {}
        self.unknown: list[str] = []
        for statement in ast.walk(self.methods["__init__"]) if "__init__" in self.methods else ():
            if isinstance(statement, ast.Assign):
                self._learn(statement)
        assigned = {field for method in self.methods.values() for _, field in _fields(method)}
        self.unknown = [
            f"{class_.name}: guards {field}, which is not a field" for field in self.fields if field not in assigned
        ]

    def _learn(self, statement: ast.Assign) -> None:
        target, value = statement.targets[0], statement.value
        name = target.id if isinstance(target, ast.Name) else _field(target)
        if name is None or not isinstance(value, ast.Call) or not re.fullmatch(r"R?Lock|Condition", _called(value)):
            return
        on = value.args[0] if value.args else None
        made_on = on.id if isinstance(on, ast.Name) else _field(on) if on is not None else None
        lock = self.locks[name] = self.locks.get(made_on or "", name)
        first = statement.lineno - 1
        while self.lines[first - 1].lstrip().startswith("#"):
            first -= 1
        for text in self.lines[first : statement.end_lineno]:
            if match := GUARDS.search(text):
                self.fields.update(dict.fromkeys(re.findall(r"\b_?[a-z]\w*\b", _names(match["names"])), lock))

    def faults(self) -> Iterator[tuple[int, str]]:
        """Each use of a guarded field that is outside of its lock, with its line."""
        under = self._methods_under_locks()
        for name, method in self.methods.items():
            if name == "__init__":
                continue
            for node, held in _with_locks(method, self.locks, under[name]):
                field = _field(node)
                lock = self.fields.get(field or "")
                text = self.lines[node.lineno - 1]
                if lock is not None and lock not in held and not UNLOCKED.search(text):
                    yield node.lineno, f"{field} is used in {name} without {lock}"

    def _methods_under_locks(self) -> dict[str, frozenset[str]]:
        """The locks that are held at every call of a method: none for a public one, or one that is handed on as a value."""
        everything = frozenset(self.locks.values())
        under = {
            name: everything if name.startswith("_") and not name.startswith("__") else frozenset()
            for name in self.methods
        }
        while True:
            calls: dict[str, list[frozenset[str]]] = {name: [] for name in self.methods}
            for caller, method in self.methods.items():
                for node, held in _with_locks(method, self.locks, under[caller]):
                    callee = _field(node)
                    if callee in calls:
                        calls[callee].append(held)
            changed = {
                name: frozenset.intersection(held, *calls[name]) if calls[name] else frozenset()
                for name, held in under.items()
            }
            if changed == under:
                return under
            under = changed


def _names(text: str) -> str:
    """The plain names of a list; an item of several words is prose."""
    return ",".join(item for item in text.split(",") if len(item.split()) == 1)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _field(node: ast.AST) -> str | None:
    """The name of a field or method of `self`; None for all else."""
    is_own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if is_own and isinstance(node, ast.Attribute) else None


def _fields(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if (field := _field(node)) is not None:
            yield node, field


def _with_locks(
    tree: ast.AST, locks: dict[str, str], held: frozenset[str]
) -> Iterator[tuple[ast.expr, frozenset[str]]]:
    """Every expression, with the locks that are held where it stands."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.With):
            now_held = held | {locks[name] for item in node.items if (name := _field(item.context_expr)) in locks}
            for item in node.items:
                yield from _with_locks(item, locks, held)
            for statement in node.body:
                yield from _with_locks(ast.Module([statement], []), locks, frozenset(now_held))
            continue
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            is_predicate = isinstance(tree, ast.Call) and _called(tree) == "wait_for"
            yield from _with_locks(node, locks, held if is_predicate else frozenset())
            continue
        if isinstance(node, ast.expr):
            yield node, held
        yield from _with_locks(node, locks, held)


def guarded_faults(source: str, where: str = "") -> list[str]:
    lines, faults = source.splitlines(), []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            guarded = Guarded(node, lines)
            faults += [f"{where}: {fault}" for fault in guarded.unknown]
            faults += [f"{where}:{line}: {fault}" for line, fault in guarded.faults()]
    return faults


def test_guarded_fields_are_used_under_their_locks() -> None:
    faults = [
        fault
        for path in SOURCES
        for fault in guarded_faults(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    ]
    assert not faults, "\n".join(faults)


HEAD = """
import threading
class Queue:
    def __init__(self):
        # guards: _items
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._sendable = threading.Condition(lock)
        self._other = threading.Lock()  # guards: _n, and every item
        self._items, self._n = [], 0
"""


@pytest.mark.parametrize(
    "method",
    [
        "def add(self): self._items.append(1)",
        "def add(self):\n        with self._other: self._items = []",
        "def add(self):\n        with self._changed: return lambda: self._items",
        "def add(self):\n        with self._changed: self._add()\n        self._add()\n    def _add(self): self._items.append(1)",
        "def add(self): return self._add\n    def _add(self): self._items.append(1)",
        "def add(self):\n        with self._changed: self._items.append(self._n)",
    ],
)
def test_a_use_outside_of_the_lock_is_found(method: str) -> None:
    assert guarded_faults(f"{HEAD}    {method}\n")


@pytest.mark.parametrize(
    "method",
    [
        "def add(self):\n        with self._sendable: self._items.append(1)",
        "def add(self):\n        with self._changed: self._changed.wait_for(lambda: self._items)",
        "def add(self):\n        with self._changed: self._add()\n    def _add(self): self._items.append(1)",
        "def n(self): return len(self._items)  # unlocked: one number",
        "def add(self):\n        with self._changed, self._other: self._items.append(self._n)",
    ],
)
def test_a_use_under_the_lock_is_none(method: str) -> None:
    assert not guarded_faults(f"{HEAD}    {method}\n")


def test_a_guarded_name_that_is_no_field_is_found() -> None:
    assert guarded_faults(f"{HEAD}        self._lock = threading.Lock()  # guards: _gone\n")
