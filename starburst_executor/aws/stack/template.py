"""The CloudFormation template: as it is written in this package, and as it is sent.

CloudFormation accepts a template of at most 51,200 bytes in a request. A larger one must be in a bucket, and the first
bucket of an account is made by this template. So what is sent has no comments, little indentation, and short collections
on one line. It is as easy to read as fits: with lines that fit an editor; or else with longer ones; or else also without the
descriptions of parameters and outputs.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources

from starburst_executor.version import __version__

__all__ = ["MOST_BYTES", "compact", "forms", "template"]

# The most bytes of a template in a request.
MOST_BYTES = 51_200
# As wide as an administrator can still read in an editor: each break costs a newline and its indentation.
_WIDTH = 240
# No line of the template is as long.
_ANY_WIDTH = 100_000
_KEY = re.compile(r"([\w.:-]+):(?: (.*))?")
_TEXTS = re.compile(r"(?:!\w+ )?[|>]-?")
_TAGGED = re.compile(r"(!\w+) (.*)")
_COMMENT = re.compile(r" +# .*$")
_COLLECTION = re.compile(r"(?:!\w+ )?(?:\[|{)")
_SPECIAL = re.compile(r"[][{},]")


def template() -> str:
    """Return the template's text, with this library's version among its outputs."""
    text = resources.files("starburst_executor.aws.stack").joinpath("template.yaml").read_text(encoding="utf-8")
    return text.replace("@VERSION@", __version__)


def compact(text: str) -> str:
    """Return the same template without comments, in fewer bytes: the first of its `forms` that CloudFormation takes, or the last one.

    It knows the subset of YAML in which the template is written: indentation by two, collections in flow style on one line.
    """
    for form in forms(text):
        if len(form.encode()) <= MOST_BYTES:
            break
    return form


def forms(text: str) -> Iterator[str]:
    """Yield the forms in which the template may be sent, the one that is easiest to read first."""
    lines = [
        (len(line) - len(line.lstrip()), line.strip())
        for line in text.splitlines()
        if line.strip() and not re.match(r"\s*#( |$)", line)
    ]
    sections = [node for node in _parsed(lines, 0) if node.key != "Metadata"]
    for width in (_WIDTH, _ANY_WIDTH):
        yield "\n".join(_sent(sections, "", width)) + "\n"
    for section in sections:
        if section.key in ("Parameters", "Outputs"):
            for node in section.children:
                node.children = [child for child in node.children if child.key != "Description"]
    yield "\n".join(_sent(sections, "", _ANY_WIDTH)) + "\n"


@dataclass(slots=True)
class _Node:
    """An entry of a mapping, or an item of a list.

    Attributes:
        key: The entry's key; empty for an item.
        value: Its value: a scalar, a collection in flow style, a tag of what follows, or nothing.
        children: The entries or items beneath it.
        text: The lines of a text beneath it.
    """

    key: str
    value: str
    children: list[_Node] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    @property
    def lead(self) -> str:
        return f"{self.key}:" if self.key else "-"


def _parsed(lines: list[tuple[int, str]], column: int) -> list[_Node]:
    """Take the entries or items of one column from the front of `lines`."""
    nodes: list[_Node] = []
    while lines and lines[0][0] == column:
        words = _COMMENT.sub("", lines.pop(0)[1])
        if words.startswith("- "):
            item = words[2:]
            if item.startswith("- ") or _KEY.fullmatch(item):
                # What begins behind the dash continues in the column of its first letter.
                lines.insert(0, (column + 2, item))
                nodes.append(_Node("", "", _parsed(lines, column + 2)))
                continue
            node = _Node("", item)
        else:
            entry = _KEY.fullmatch(words)
            if entry is None:
                raise ValueError(f"not in the subset of YAML that is known: {words!r}")
            node = _Node(entry[1], entry[2] or "")
        nodes.append(node)
        if _TEXTS.fullmatch(node.value):
            while lines and lines[0][0] > column:
                node.text.append(lines.pop(0)[1])
        elif lines and lines[0][0] > column:
            node.children = _parsed(lines, lines[0][0])
    return nodes


def _sent(nodes: list[_Node], indent: str, width: int) -> Iterator[str]:
    for node in nodes:
        start = indent + node.lead
        line = _flow_value(node)
        if line is not None and (not node.children or len(start) + 1 + len(line) <= width):
            # A scalar that is alone on its line needs no quotes.
            yield f"{start} {line if node.children or _COLLECTION.match(node.value) else node.value}"
        elif node.text:
            yield f"{start} {node.value}"
            yield from (f"{indent} {words}" for words in node.text)
        elif node.key or node.value:
            yield f"{start} {node.value}".rstrip()
            # A list may be in the column of its key.
            yield from _sent(node.children, indent if node.key and not node.children[0].key else indent + " ", width)
        else:
            first, *rest = _sent(node.children, indent + "  ", width)
            yield f"{start} {first.lstrip()}"
            yield from rest


def _flow(nodes: list[_Node]) -> str | None:
    """Return a collection in flow style; None if it contains a text."""
    values = [_flow_value(node) for node in nodes]
    if None in values:
        return None
    if nodes[0].key:
        return "{" + ",".join(f"{node.key}: {value}" for node, value in zip(nodes, values, strict=True)) + "}"
    return f"[{','.join(map(str, values))}]"


def _flow_value(node: _Node) -> str | None:
    if node.text:
        return None
    if not node.children:
        return _flow_scalar(node.value)
    collection = _flow(node.children)
    return collection if collection is None or not node.value else f"{node.value} {collection}"


def _flow_scalar(value: str) -> str:
    """Quote a plain scalar whose characters have a meaning in flow style."""
    if tagged := _TAGGED.fullmatch(value):
        return f"{tagged[1]} {_flow_scalar(tagged[2])}"
    if value[0] in "[{":
        quoted_or_not = re.split(r"(\"[^\"]*\"|'[^']*')", value)
        return "".join(part if n % 2 else part.replace(", ", ",") for n, part in enumerate(quoted_or_not))
    if value[0] in "\"'" or not _SPECIAL.search(value):
        return value
    doubled = value.replace("'", "''")
    return f"'{doubled}'"
