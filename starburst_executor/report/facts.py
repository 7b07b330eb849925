"""Everything that a report shows of one session, as plain values: read once, rendered as a page, a figure or JSON."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from starburst_executor.client.failing import FailureKind, failure_kinds
from starburst_executor.client.looks import Looks
from starburst_executor.client.reading import Reading
from starburst_executor.client.report import SessionStatus
from starburst_executor.errors import SessionNotFound
from starburst_executor.protocol.records import Manifest
from starburst_executor.report.durations import Durations
from starburst_executor.report.function_names import names_of
from starburst_executor.report.gathering import Gathering, Overview
from starburst_executor.session.beats import read_beats
from starburst_executor.session.store import SessionStore
from starburst_executor.version import __version__

__all__ = ["Facts", "durations_of", "read_facts"]

# Of `to_dict`. It changes when a field is taken away or changes its meaning.
FORMAT = 1
_MOST_KINDS = 20
_QUANTILES = (("median_s", 0.5), ("p90_s", 0.9), ("p99_s", 0.99))


@dataclass(frozen=True, slots=True)
class Facts:
    """One session, as it was at `status.at`.

    Attributes:
        status: Its counts, workers, cost and requests.
        overview: Its tasks over time.
        settings: Its settings by name, as text.
        versions: Versions of Python and of this library, in the session and here.
        failures: Failures of the same kind together, the most frequent first; None without the session's key.
        functions: Names of functions by digest.
        store: The URL of its store.
    """

    status: SessionStatus
    overview: Overview
    settings: Mapping[str, str]
    versions: Mapping[str, str]
    failures: list[FailureKind] | None
    functions: Mapping[str, str]
    store: str

    @property
    def shown_failures(self) -> list[FailureKind]:
        """The most frequent kinds of failures, at most 20."""
        return (self.failures or [])[:_MOST_KINDS]

    @property
    def wall_s(self) -> float:
        """The seconds from the begin of the first task to the last end, or to now if tasks are left."""
        began_at, last_at = self.overview.began_at, self.overview.last_at
        if began_at is None or last_at is None:
            return 0.0
        return max(0.0, (last_at if self.status.is_over else self.status.at) - began_at)

    @property
    def per_s(self) -> float:
        """Tasks that ended per second of `wall_s`."""
        return self.status.ended / self.wall_s if self.wall_s else 0.0

    @property
    def utilisation(self) -> float | None:
        """The share of the slots' time in which they ran tasks; None without workers."""
        return min(1.0, self.overview.busy_s / self.overview.slot_s) if self.overview.slot_s else None

    def by_function(self) -> list[tuple[str, Durations]]:
        """Return the durations by the function's name, the one with the most time first."""
        own = self.overview.by_function
        named = [(self.functions.get(digest, "other functions"), durations) for digest, durations in own.items()]
        return sorted(named, key=lambda pair: -pair[1].total_s)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON, with the number of this `format`."""
        overview = self.overview
        series = {
            name: [round(value, 3) for value in getattr(overview, name)]
            for name in ("submitted", "started", "completed", "failed", "cancelled", "running", "slots", "waiting")
        }
        return {
            "format": FORMAT,
            "session": self.status.id,
            "at": self.status.at,
            "store": self.store,
            "status": self.status.to_dict(),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "tasks": overview.n_tasks,
            "tasks_read": overview.n_read,
            "wall_s": self.wall_s,
            "per_s": self.per_s,
            "utilisation": self.utilisation,
            "busy_s": overview.busy_s,
            "idle_s": overview.idle_s,
            "attempts": overview.attempts,
            "failed_attempts": overview.failures,
            "losses": overview.losses,
            "reruns": overview.reruns,
            "durations": durations_of(overview.durations),
            "queued": durations_of(overview.waited),
            "by_function": [{"function": name, **durations_of(d)} for name, d in self.by_function()],
            "by_label": [{"label": label, **durations_of(d)} for label, d in overview.by_label.shown.items()],
            "other_labels": durations_of(overview.by_label.others),
            "series": {"times": [round(at, 3) for at in overview.times], **series},
            "failures": None if self.failures is None else [asdict(kind) for kind in self.failures],
        }


def durations_of(durations: Durations) -> dict[str, Any]:
    """Return the numbers of these durations; None for each if there are none."""
    numbers: dict[str, Any] = {"n": durations.n, "total_s": durations.total_s, "mean_s": durations.mean_s}
    numbers["least_s"] = durations.least_s if durations.n else None
    numbers.update((name, durations.quantile(share)) for name, share in _QUANTILES)
    numbers["most_s"] = durations.most_s if durations.n else None
    return numbers


def read_facts(session: SessionStore, requests: Callable[[], Mapping[str, int]] = dict) -> Facts:
    """Read everything about a session.

    Args:
        requests: Returns this process's own store requests so far, by kind.

    Store: 1 GET, 1 LIST per 1,000 status objects, 1 GET each; 1 LIST per 1,000 workers, 1 GET each; with the session's key also 1 GET for
    each function, up to 12, 1 LIST an epoch, and 1 GET for each status object with failures.
    Raises: SessionNotFound.
    """
    manifest = session.manifest.refresh()
    reading = Reading(session)
    gathering = Gathering(reading, manifest.created_at)
    looks = Looks(session, requests, beats_of=lambda: [beat for beat, _ in read_beats(session)], take=gathering.add)
    # The second look's report is of what was read in between.
    looks.look()
    gathering.read_all(looks.listing)
    status = looks.look()
    gathering.read_all(looks.listing)
    overview = gathering.overview(looks.listing, status)
    failures = failure_kinds(reading, with_inputs=False) if reading.has_key else None
    if status.state == "deleted":
        raise SessionNotFound(f"the session was deleted: session={manifest.session_id}")
    return Facts(
        status=status,
        overview=overview,
        settings=_settings(manifest),
        versions={
            "starburst_executor in the session": manifest.library,
            "Python in the session": manifest.python,
            "starburst_executor of this report": __version__,
            "Python of this report": platform.python_version(),
        },
        failures=failures,
        functions=names_of(session, [digest for digest in overview.by_function if digest]),
        store=session.store.url,
    )


def _settings(manifest: Manifest) -> dict[str, str]:
    launchers = sorted({launch.launcher for launch in manifest.launches}) or [manifest.launcher]
    values: dict[str, object] = {
        "kind": manifest.kind,
        "workers": manifest.slots,
        "launcher": ", ".join(launchers),
        "retries": manifest.retries,
        "max_losses": manifest.max_losses,
        "task_timeout": manifest.task_timeout,
        "max_tasks_per_child": manifest.max_tasks_per_child,
        "initializer": "yes" if manifest.initializer else None,
        "budget_usd": manifest.budget_usd,
        "max_hourly_cost": manifest.max_hourly_cost,
        "keep": manifest.keep or None,
        "submitting clients": len(manifest.submitters),
    }
    timings = manifest.timings.to_record()
    values.update(
        {f"timings.{name}": timings[name] for name in ("beat_s", "commit_s", "poll_max_s") if name in timings}
    )
    return {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in values.items()
        if value is not None
    }
