"""The numbers of a session for programs and for people: throughput, utilisation, durations, failures, queue, store requests.

As text, as JSON, and in Prometheus' text format. All are of the session up to now: totals grow, and a server that reads them at intervals
computes rates itself. Rates of the last minute are given too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starburst_executor.client.looks import Looks
from starburst_executor.client.reading import Reading
from starburst_executor.client.report import SessionStatus
from starburst_executor.report.durations import Durations
from starburst_executor.report.gathering import Gathering, Overview
from starburst_executor.report.texts import span_text
from starburst_executor.session.beats import read_beats
from starburst_executor.session.store import SessionStore

__all__ = ["PROMETHEUS_TYPE", "Metrics", "read_metrics"]

# Of `to_dict`. It changes when a field is taken away or changes its meaning.
FORMAT = 1
# The content type under which Prometheus' text format is served.
PROMETHEUS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_QUANTILES = (0.5, 0.9, 0.99)
# Each operation of a store with the counts of its requests; a GET that is not modified is a GET.
_OPERATIONS = {
    "get": ("get", "not_modified"),
    "list": ("list",),
    "create": ("create",),
    "swap": ("swap",),
    "put": ("put",),
    "delete": ("delete",),
}


@dataclass(frozen=True, slots=True)
class Metrics:
    """The numbers of one session at one moment; `str()` gives a summary for people."""

    status: SessionStatus
    overview: Overview

    # --- shares and rates ---------------------------------------------------------------------------------------------

    @property
    def utilisation(self) -> float | None:
        """The share of the slots' time in which they ran tasks; None without workers."""
        return min(1.0, self.overview.busy_s / self.overview.slot_s) if self.overview.slot_s else None

    @property
    def failure_rate(self) -> float | None:
        """The share of the ended tasks that failed; None if none has ended."""
        return self.status.failed / self.status.ended if self.status.ended else None

    @property
    def retry_rate(self) -> float | None:
        """Failed attempts that were tried again, losses and explicit retries per task; None without tasks."""
        again = max(0, self.overview.failures - self.status.failed) + self.overview.losses + self.overview.reruns
        return again / self.overview.n_tasks if self.overview.n_tasks else None

    def operations(self) -> list[tuple[str, int, float | None]]:
        """Return each operation on the store with its number of requests, and their mean duration in seconds."""
        counts = self.status.requests
        rows = []
        for name, kinds in _OPERATIONS.items():
            n = sum(counts.get(kind, 0) for kind in kinds)
            rows.append((name, n, counts.get(f"{name}_us", 0) / 1e6 / n if n else None))
        return rows

    # --- formats ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain values for JSON, with the number of this `format`."""
        status, overview = self.status, self.overview
        return {
            "format": FORMAT,
            "session": status.id,
            "at": status.at,
            "state": status.state,
            "tasks": {name: getattr(status, name) for name in ("total", *_STATES)},
            "per_s": status.per_s,
            "per_s_overall": status.per_s_overall,
            "utilisation": self.utilisation,
            "busy_s": overview.busy_s,
            "idle_s": overview.idle_s,
            "durations": _numbers(overview.durations),
            "queued": _numbers(overview.waited),
            "failure_rate": self.failure_rate,
            "retry_rate": self.retry_rate,
            "attempts": overview.attempts,
            "failed_attempts": overview.failures,
            "losses": overview.losses,
            "reruns": overview.reruns,
            "workers": {"alive": status.workers, "idle": status.idle, "lost": status.lost, "slots": status.slots},
            "requests": {name: {"n": n, "mean_s": mean_s} for name, n, mean_s in self.operations()},
            "bytes_in": status.requests.get("bytes_in", 0),
            "bytes_out": status.requests.get("bytes_out", 0),
            "retried_requests": status.requests.get("retried", 0),
            "lost_races": status.requests.get("lost_races", 0),
            "cost_usd": status.cost.total_usd,
            "usd_per_hour": status.cost.usd_per_hour,
            "is_exact": status.is_exact and not overview.is_sampled,
        }

    def to_prometheus(self) -> str:
        """Return all numbers in Prometheus' text format, each with the label `session`."""
        return "\n".join([*self._prometheus(), ""])

    def _prometheus(self) -> Iterator[str]:
        status, overview = self.status, self.overview
        own = {"session": status.id}

        def family(name: str, kind: str, words: str, *samples: tuple[Mapping[str, str], float | None]) -> Iterator[str]:
            known = [(labels, value) for labels, value in samples if value is not None]
            if known:
                yield f"# HELP starburst_{name} {words}"
                yield f"# TYPE starburst_{name} {kind}"
                for labels, value in known:
                    yield f"starburst_{name}{_labels({**own, **labels})} {_number(value)}"

        def summary(name: str, words: str, durations: Durations) -> Iterator[str]:
            yield f"# HELP starburst_{name} {words}"
            yield f"# TYPE starburst_{name} summary"
            for share in _QUANTILES if durations.n else ():
                labels = _labels({**own, "quantile": f"{share:g}"})
                yield f"starburst_{name}{labels} {_number(durations.quantile(share) or 0.0)}"
            yield f"starburst_{name}_sum{_labels(own)} {_number(durations.total_s)}"
            yield f"starburst_{name}_count{_labels(own)} {durations.n}"

        tasks = [({"state": state}, float(getattr(status, state))) for state in _STATES]
        yield from family("tasks", "gauge", "Tasks by state.", *tasks)
        yield from family(
            "tasks_per_second", "gauge", "Tasks that ended per second in the last minute.", ({}, status.per_s)
        )
        yield from summary("task_duration_seconds", "Durations of the last attempts of tasks.", overview.durations)
        yield from summary("task_queue_seconds", "Times from submit to start, of first runs.", overview.waited)
        yield from family("attempts_total", "counter", "Claims of tasks.", ({}, overview.attempts))
        yield from family("failed_attempts_total", "counter", "Failed attempts of tasks.", ({}, overview.failures))
        yield from family(
            "losses_total", "counter", "Losses of a worker that counted for a task.", ({}, overview.losses)
        )
        yield from family("reruns_total", "counter", "Explicit retries of tasks.", ({}, overview.reruns))
        yield from family("busy_seconds_total", "counter", "Seconds in which slots ran tasks.", ({}, overview.busy_s))
        yield from family("idle_seconds_total", "counter", "Seconds in which slots ran no task.", ({}, overview.idle_s))
        yield from family(
            "utilisation_ratio", "gauge", "The share of slots' time that tasks used.", ({}, self.utilisation)
        )
        states = {"alive": status.workers, "idle": status.idle, "lost": status.lost}
        workers = [({"state": state}, float(n)) for state, n in states.items()]
        yield from family("workers", "gauge", "Workers: alive, of these idle, and lost.", *workers)
        yield from family("slots", "gauge", "Slots of live workers.", ({}, status.slots))
        operations = self.operations()
        counts = [({"operation": name}, float(n)) for name, n, _ in operations]
        yield from family("store_requests_total", "counter", "Store requests, of workers and of this client.", *counts)
        durations = [({"operation": name}, n * mean_s) for name, n, mean_s in operations if mean_s is not None]
        yield from family("store_request_seconds_total", "counter", "Seconds that store requests took.", *durations)
        moved = [({"direction": end}, float(status.requests.get(f"bytes_{end}", 0))) for end in ("in", "out")]
        yield from family("store_bytes_total", "counter", "Bytes from and to the store.", *moved)
        retried = float(status.requests.get("retried", 0))
        yield from family("store_retries_total", "counter", "Store requests that were made again.", ({}, retried))
        yield from family("cost_usd", "gauge", "The estimated cost so far, in dollars.", ({}, status.cost.total_usd))

    def __str__(self) -> str:
        return "\n".join(f"{name:<12} {words}" for name, words in self.rows())

    def rows(self) -> list[tuple[str, str]]:
        """Return the lines that `str()` shows, each with its heading."""
        status, overview = self.status, self.overview
        counts = ", ".join(f"{getattr(status, state):,} {state}" for state in _STATES)
        rows = [
            ("session", f"{status.id}: {status.state}"),
            ("tasks", f"{status.total:,}: {counts}"),
            ("throughput", f"{status.per_s:,.3g} tasks/s in the last minute, {status.per_s_overall:,.3g} overall"),
            ("durations", _words(overview.durations)),
            ("queue", _words(overview.waited)),
            ("failures", f"{_percent(self.failure_rate)} of ended tasks; {_percent(self.retry_rate)} tried again"),
            (
                "slots",
                f"{_percent(self.utilisation)} used: {span_text(overview.busy_s)} of work, {span_text(overview.idle_s)} idle",
            ),
        ]
        moved = [f"{status.requests.get(f'bytes_{end}', 0) / 1e6:,.3g} MB {end}" for end in ("in", "out")]
        rows.append(("store", ", ".join(moved) + f", {status.requests.get('retried', 0):,} requests made again"))
        rows += [
            ("", f"{name:<7} {n:>9,}  {'-' if mean_s is None else f'{span_text(mean_s)} each'}")
            for name, n, mean_s in self.operations()
        ]
        if status.cost.total_usd:
            rows.append(("cost", str(status.cost)))
        if overview.sample_note:
            rows.append(("note", overview.sample_note))
        return rows


_STATES = ("pending", "claimed", "completed", "failed", "cancelled")


def read_metrics(session: SessionStore, requests: Callable[[], Mapping[str, int]] = dict) -> Metrics:
    """Read the numbers of a session.

    Args:
        requests: Returns this process's own store requests so far, by kind.

    Store: 1 GET, 1 LIST per 1,000 status objects, 1 GET each; 1 LIST per 1,000 workers, 1 GET each.
    """
    gathering = Gathering(Reading(session), session.manifest.refresh().created_at)
    beats = [beat for beat, _ in read_beats(session)]
    looks = Looks(session, requests, beats_of=lambda: beats, take=gathering.add)
    looks.look()
    gathering.read_all(looks.listing)
    # Once more: the counts are then of what was read.
    status = looks.look()
    gathering.read_all(looks.listing)
    return Metrics(status, gathering.overview(looks.listing, status))


def _numbers(durations: Durations) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {"n": durations.n, "mean_s": durations.mean_s}
    numbers.update({f"p{share * 100:g}_s": durations.quantile(share) for share in _QUANTILES})
    numbers["most_s"] = durations.most_s if durations.n else None
    return numbers


def _words(durations: Durations) -> str:
    if not durations.n:
        return "-"
    shares = ", ".join(f"{share:.0%} within {span_text(durations.quantile(share))}" for share in _QUANTILES)
    return f"mean {span_text(durations.mean_s)}; {shares}; at most {span_text(durations.most_s)}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _labels(labels: Mapping[str, str]) -> str:
    escaped = {
        name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


def _number(value: float) -> str:
    return f"{value:.10g}"
