"""`SessionReport`: the facts of a session, and the files that are made of them. `executor.report()` returns one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starburst_executor.errors import ConfigError
from starburst_executor.report.facts import Facts, read_facts
from starburst_executor.report.figure import figure_of
from starburst_executor.report.files import write_file
from starburst_executor.report.page import page_of
from starburst_executor.report.texts import span_text
from starburst_executor.session.store import SessionStore

__all__ = ["KINDS", "SessionReport"]

KINDS = ("html", "png", "pdf", "json")


class SessionReport:
    """A session as it was at one moment. `save` writes it as a file, a notebook shows it, `str()` gives a summary.

    Nothing is read from the store once it is made; two reports of one session differ if it went on in between.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    @classmethod
    def of(cls, session: SessionStore, requests: Callable[[], Mapping[str, int]] = dict) -> SessionReport:
        """Read a session; arguments, errors and requests as of `read_facts`."""
        return cls(read_facts(session, requests))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return self.facts.to_dict()

    def to_html(self) -> str:
        """Return one page that loads nothing from elsewhere. Raises: ConfigError without Jinja2."""
        return page_of(self.facts)

    def save(self, path: str | Path) -> Path:
        """Write a file: `.html`, `.png`, `.pdf` or `.json` by its suffix. An existing one is replaced once the new one is whole.

        Raises: ConfigError: another suffix, a folder that is not there, or a library that is not installed.
        """
        path = Path(path)
        body = self._bytes(path.suffix.lower().removeprefix("."))
        return write_file(path, body)

    def _bytes(self, kind: str) -> bytes:
        if kind == "html":
            return self.to_html().encode()
        if kind == "json":
            return json.dumps(self.to_dict(), default=str).encode()
        if kind in KINDS:
            return figure_of(self.facts, kind)
        raise ConfigError(f"no such kind of report: {kind!r}; end the file's name in .{', .'.join(KINDS)}")

    def __str__(self) -> str:
        facts, overview = self.facts, self.facts.overview
        share = "-" if facts.utilisation is None else f"{facts.utilisation:.0%}"
        median, p90 = overview.durations.quantile(0.5), overview.durations.quantile(0.9)
        return (
            f"{facts.status}\n"
            f"  time     {span_text(facts.wall_s)}, {span_text(overview.busy_s)} of work, {share} of slots used\n"
            f"  task     median {span_text(median)}, 90% within {span_text(p90)}"
        )

    def __repr__(self) -> str:
        return f"<SessionReport of session {self.facts.status.id}>"

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, for notebooks: its style does not reach the notebook."""
        from html import escape

        return f'<iframe title="report" width="100%" height="800" style="border:0" srcdoc="{escape(self.to_html())}"></iframe>'
