"""The text of a study's YAML file: its plain values, the line of each field, and what is wrong with them in words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import ErrorDetails
from yaml.reader import ReaderError

from starburst_executor.errors import ConfigError
from starburst_executor.study.stage import OPTIONS_OF_OTHERS
from starburst_executor.study.yaml_model import WORDS, fields_at
from starburst_executor.texts import shortened

__all__ = ["Source", "source_of"]


def source_of(path: Path) -> Source:
    """Read a file. Raises: ConfigError, with the line where it is no YAML."""
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the study cannot be read: {path}: {error.strerror}") from error
    try:
        return Source(path, stored.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = stored.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: the file must be text in UTF-8: {error.reason}") from error


class _Loader(yaml.SafeLoader):
    """The safe loader, whose errors all have a line: also that of a value which its type does not have, such as 2026-02-30, a date."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"{shortened(str(node.value), 40)!r} is no {kind}; a text stands in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


class Source:
    """A YAML text: its plain values, and the line of each field."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        try:
            loader = _Loader(text)
            self._root = loader.get_single_node()
            self._check(self._root, set())
            self.values = None if self._root is None else loader.construct_document(self._root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = "" if mark is None else f", line {mark.line + 1}"
            raise ConfigError(f"{path}{line}: {error.problem or error.context}") from error
        except ReaderError as error:
            line = f", line {text.count(chr(10), 0, error.position) + 1}"
            raise ConfigError(f"{path}{line}: the character {text[error.position]!r} is not allowed") from error
        except RecursionError as error:
            raise ConfigError(f"{path}: nested too deeply") from error

    def _check(self, node: yaml.Node | None, above: set[int]) -> None:
        """Refuse what YAML allows and a study does not mean: a field twice, and a part that contains itself."""
        if node is None or isinstance(node, yaml.ScalarNode):
            return
        if id(node) in above:
            raise ConfigError(self._place(node) + "a part contains itself")
        inside = above | {id(node)}
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                        raise ConfigError(self._place(key) + f"{key.value}: is there twice")
                    seen.add(key.value)
                self._check(value, inside)
        else:
            for value in node.value:
                self._check(value, inside)

    def messages(self, errors: Sequence[ErrorDetails]) -> list[str]:
        """Return the faults that pydantic found, for people, in the order of their lines.

        Where a field may be one of several things, pydantic reports a fault for each; the innermost says what was meant.
        """
        placed = [(tuple(part for part in error["loc"] if not _is_of_pydantic(part)), error) for error in errors]
        innermost = [
            (place, error)
            for place, error in placed
            if not any(len(other) > len(place) and other[: len(place)] == place for other, _ in placed)
        ]
        said: dict[tuple[Hashable, ...], list[str]] = {}
        for place, error in innermost:
            said.setdefault(place, []).append(_said(place, error))
        lines = {self.at(place, _joined(texts)): self._line(place) for place, texts in said.items()}
        return sorted(lines, key=lambda line: lines[line])

    def _line(self, place: tuple[Hashable, ...]) -> int:
        node = self._node(place)
        return 0 if node is None else int(node.start_mark.line)

    def at(self, place: tuple[Hashable, ...], message: str) -> str:
        """Return a message with file, line and field."""
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        return self._place(self._node(place)) + (f"{field}: " if field else "") + message

    def of_stage(self, number: int, message: str) -> str:
        """Return a message about a stage, such as `stage a: options.timeout=0: …`, at the line of the innermost field with which it begins."""
        words = message.removeprefix("stage ").partition(": ")[2] if message.startswith("stage ") else message
        place: list[Hashable] = ["stages", number]
        end = 0
        for found in re.finditer(r"(?:: |\.)?(?:(\w+)|\[(\d+)\])", words):
            part: Hashable = found[1] or int(found[2])
            is_next = found.start() == end
            if not is_next or not self._has((*place, part)):
                break
            place.append(part)
            end = found.end()
        is_field = len(place) > 2  # noqa: PLR2004 - see above
        return self._place(self._node(tuple(place))) + f"stages[{number}]{'.' if is_field else ': '}{words}"

    def _has(self, place: tuple[Hashable, ...]) -> bool:
        value: Any = self.values
        for part in place:
            is_item = isinstance(value, list) and isinstance(part, int) and part < len(value)
            if not is_item and not (isinstance(value, Mapping) and part in value):
                return False
            value = value[part]
        return True

    def _node(self, place: tuple[Hashable, ...]) -> yaml.Node | None:
        """Return the node of a field, or the innermost around it that is there."""
        node = self._root
        for part in place:
            inner: yaml.Node | None = None
            if isinstance(node, yaml.MappingNode):
                inner = next((key for key, _ in node.value if key.value == part), None)
                value = next((value for key, value in node.value if key.value == part), None)
                if part == place[-1]:
                    return inner or node
                inner = value
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                inner = node.value[part]
            if inner is None:
                return node
            node = inner
        return node

    def _place(self, node: yaml.Node | None) -> str:
        return f"{self.path}: " if node is None else f"{self.path}, line {node.start_mark.line + 1}: "


def _said(place: tuple[Hashable, ...], error: ErrorDetails) -> str:
    """Return what is wrong, and what is allowed."""
    given = repr(error["input"])
    given = given if len(given) < 60 else given[:57] + "..."  # noqa: PLR2004 - the rest of a line
    kind, allowed = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        fields = list(fields_at(place[:-1]))
        if place[-2:-1] == ("options",) and (why := OPTIONS_OF_OTHERS.get(str(place[-1]))):
            return f"trials have none: {why}; allowed: {', '.join(fields)}"
        near = difflib.get_close_matches(str(place[-1]), fields, 1)
        return "unknown field" + (f", did you mean {near[0]}?" if near else f"; allowed: {', '.join(fields)}")
    if kind == "missing":
        return "is missing"
    if kind in ("model_type", "dict_type"):
        fields = list(fields_at(place))
        return (
            f"must be a mapping of {', '.join(fields)}, not {given}"
            if not place or place[-1] != "metrics"
            else f"must be a mapping, not {given}"
        )
    if kind == "string_pattern_mismatch":
        return f"{WORDS[allowed['pattern']]}, not {given}"
    if kind == "value_error":
        return f"{allowed['error']}, not {given}"
    if kind == "too_short":
        return "must not be empty"
    message = (
        error["msg"]
        .replace("Input should be", "must be")
        .replace("a valid integer", "a whole number")
        .replace("a valid ", "a ")
    )
    return f"{message[:1].lower()}{message[1:]}, not {given}"


def _joined(texts: Sequence[str]) -> str:
    """Return what is wrong with a field that may be one of several things, in one sentence."""
    first, *others = dict.fromkeys(texts)
    start, end = "must be ", first[first.rfind(", not ") :]
    if not others or not all(text.startswith(start) and text.endswith(end) for text in (first, *others)):
        return "; or it ".join([first, *others])
    return start + " or ".join(text[len(start) : -len(end)] for text in (first, *others)) + end


def _is_of_pydantic(part: int | str) -> bool:
    """Whether a part of a place names a branch of a union, not a field."""
    return isinstance(part, str) and (
        part in ("bool", "float", "str", "GateFile", "MetricFile", "_Range")
        or part[:4] in ("lite", "cons", "list", "func")
    )
