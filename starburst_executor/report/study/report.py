"""`StudyReport`: the facts of a study, and the files that are made of them. `study.report()` returns one."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from starburst_executor.clock import Clock
from starburst_executor.errors import ConfigError
from starburst_executor.report.files import write_file
from starburst_executor.report.study.facts import StudyFacts, cost_of_session, read_study_facts
from starburst_executor.report.study.figure import KINDS, Figure
from starburst_executor.report.study.figures import figures_of
from starburst_executor.report.study.page import study_page_of
from starburst_executor.study.objects import StudyObjects

__all__ = ["StudyReport"]

_SUFFIXES = ("html", "json", *KINDS)


class StudyReport:
    """A study as it was at one moment. `save` writes it as files, a notebook shows it, `str()` gives a summary.

    Nothing is read from the store once it is made.
    """

    def __init__(self, facts: StudyFacts) -> None:
        self.facts = facts

    @classmethod
    def of(cls, objects: StudyObjects, clock: Clock) -> StudyReport:
        """Read a study and the cost of its session. Raises and store: as `Study.report` says."""
        cost = cost_of_session(objects.read().session)
        return cls(read_study_facts(objects, clock.now(), cost))

    @functools.cached_property
    def figures(self) -> list[Figure]:
        """Its figures, in the order of the page: each has `name`, `title`, `caption`, `to_csv()` and `to_bytes("png", "svg" or "pdf")`."""
        return figures_of(self.facts)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON, with each trial of the decided stages."""
        return self.facts.to_dict()

    def to_html(self) -> str:
        """Return one page that loads nothing from elsewhere. Raises: ConfigError without Jinja2 or matplotlib."""
        return study_page_of(self.facts, self.figures)

    def save(self, path: str | Path, *, figure: str | None = None) -> list[Path]:
        """Write files; return their paths. An existing file is replaced once the new one is whole.

        `.html` is one page, `.json` has the numbers. `.png`, `.svg` and `.pdf` write each figure as a file of its own with its data beside it:
        `run.pdf` leads to `run-funnel.pdf`, `run-funnel.csv` and so on; with `figure="funnel"` to `run.pdf` and `run.csv`.

        Raises: ConfigError: another suffix, no such figure, a folder that is not there, or a library that is not installed.
        """
        path = Path(path)
        kind = path.suffix.lower().removeprefix(".")
        if kind not in _SUFFIXES:
            raise ConfigError(f"no such kind of report: {kind!r}; end the file's name in .{', .'.join(_SUFFIXES)}")
        if kind == "html":
            return [write_file(path, self.to_html().encode())]
        if kind == "json":
            return [write_file(path, json.dumps(self.to_dict(), default=str, allow_nan=False).encode())]
        chosen = [one for one in self.figures if figure in (None, one.name)]
        if not chosen:
            raise ConfigError(
                f"no figure {figure!r} of this study: there are {', '.join(one.name for one in self.figures)}"
            )
        written: list[Path] = []
        for one in chosen:
            place = path if figure is not None else path.with_name(f"{path.stem}-{one.name}{path.suffix}")
            written += [
                write_file(place, one.to_bytes(kind)),
                write_file(place.with_suffix(".csv"), one.to_csv().encode()),
            ]
        return written

    def __str__(self) -> str:
        return str(self.facts.status)

    def __repr__(self) -> str:
        return f"<StudyReport of study {self.facts.record.name}>"

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, for notebooks: its style does not reach the notebook."""
        from html import escape

        return f'<iframe title="report" width="100%" height="800" style="border:0" srcdoc="{escape(self.to_html())}"></iframe>'
