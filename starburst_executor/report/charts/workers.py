"""Tasks over workers in time: a bar a task, or the share of each bin in which a worker was busy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from starburst_executor.client.report import WorkerReport
from starburst_executor.report.charts.drawing import BOTTOM, LEFT, RIGHT, Drawing, number, time_axis
from starburst_executor.report.charts.ticks import seconds_text
from starburst_executor.report.gathering import Overview
from starburst_executor.report.lanes import Bar, Lane, rows_of

__all__ = ["sample_of", "workers"]

_ROW, _GAP, _LEGEND = 9.0, 5.0, 26.0
# Tooltips on more bars than this would make the page slow.
_MOST_TIPS = 600
_OPACITIES = (0.25, 0.5, 0.75, 1.0)
_Place: TypeAlias = Callable[[float], float]
_MOST_ROWS = 160  # slots of all shown workers; more are drawn as shares


def sample_of(lanes: Sequence[Lane], most: int) -> list[Lane]:
    """Return all lanes, or `most` of them, evenly over the order in which they were started."""
    n = min(most, len(lanes))
    return [lanes[i * len(lanes) // n] for i in range(n)]


def workers(
    overview: Overview,
    members: Sequence[WorkerReport] = (),
    *,
    width: float = 720,
    most: int = 40,
) -> str:
    """Return the chart; an empty text if no worker has run a task.

    Args:
        members: The workers' reports, for their hosts and for when they started and ended.
        most: At most this number of workers are shown, evenly over all; the chart says so.
    """
    lanes = sample_of(overview.lanes, most)
    if not lanes:
        return ""
    reports = {report.id: report for report in members}
    rows = [rows_of(lane.bars, _slots(reports, lane)) for lane in lanes if lane.bars is not None]
    are_bars = len(rows) == len(lanes) and sum(map(len, rows)) <= _MOST_ROWS
    heights = [max(1, len(own)) * _ROW if are_bars else _ROW for own in (rows if are_bars else [[] for _ in lanes])]
    height = _LEGEND + sum(h + _GAP for h in heights) + BOTTOM
    note = (
        ""
        if len(lanes) == len(overview.lanes)
        else f"{len(lanes)} of {len(overview.lanes):,} workers that ran tasks, evenly chosen. "
    )
    what = "A bar is a task." if are_bars else "Darker: busy for more of the time."
    drawing = Drawing(width, height, "Tasks over workers in time", f"{note}{what} {overview.sample_note}".strip())
    t0, span_s = overview.times[0], max(1e-3, overview.times[-1] - overview.times[0])
    left, right = LEFT, width - RIGHT

    def x(at: float) -> float:
        return left + (right - left) * min(1.0, max(0.0, (at - t0) / span_s))

    drawing.legend(left, 14, _legend(lanes, are_bars=are_bars))
    if note:
        drawing.text(right, 14, note.strip(), anchor="end", quiet=True)
    y = _LEGEND
    n_bars = sum(len(lane.bars or ()) for lane in lanes)
    for i, (lane, lane_height) in enumerate(zip(lanes, heights, strict=True)):
        report = reports.get(lane.worker)
        drawing.text(left - 6, y + lane_height / 2 + 4, f"{i + 1}", anchor="end", quiet=True)
        if report is not None:
            _life(drawing, report, x, y, lane_height, overview.times[-1])
        if are_bars:
            for k, row in enumerate(rows[i]):
                for bar in row:
                    _bar(drawing, bar, x, y + k * _ROW, has_tip=n_bars <= _MOST_TIPS)
        else:
            _shares(drawing, lane, overview.times, x, y, _slots(reports, lane) or max(1.0, *lane.busy))
        y += lane_height + _GAP
    time_axis(drawing, left, right, height - BOTTOM, span_s)
    return str(drawing)


def _slots(reports: Mapping[str, WorkerReport], lane: Lane) -> int:
    """Return the number of a worker's slots; 0 if it is not known."""
    return reports[lane.worker].slots if lane.worker in reports else 0


def _legend(lanes: Sequence[Lane], *, are_bars: bool) -> list[tuple[str, str]]:
    if not are_bars:
        return [("completed", "busy"), ("waiting", "idle")]
    states = {bar.state for lane in lanes for bar in lane.bars or ()}
    return [(state, state) for state in ("completed", "failed", "running") if state in states]


def _life(drawing: Drawing, report: WorkerReport, x: _Place, y: float, height: float, now: float) -> None:
    start, end = x(report.started_at), x(now if report.is_alive else max(report.beat_at, report.started_at))
    words = f"{report.id} on {report.host}: {report.state}, {report.slots} slots, {report.n_ended:,} tasks ended"
    drawing.rect("waiting", start, y + height - 1.5, max(1.0, end - start), 1.5, words)


def _bar(drawing: Drawing, bar: Bar, x: _Place, y: float, *, has_tip: bool) -> None:
    tip = f"task {bar.task}: {bar.state}, {seconds_text(bar.end - bar.start)}" if has_tip else ""
    drawing.rect(bar.state, x(bar.start), y + 0.5, max(0.7, x(bar.end) - x(bar.start) - 0.4), _ROW - 2.5, tip)


def _shares(drawing: Drawing, lane: Lane, times: Sequence[float], x: _Place, y: float, slots: float) -> None:
    """Draw the bins of one worker: one path for each of four shades."""
    shades: dict[int, list[str]] = {}
    start, shade = 0, -1
    for i in range(len(lane.busy) + 1):
        share = min(1.0, lane.busy[i] / slots) if i < len(lane.busy) else 0.0
        found = min(3, int(share * 4)) if share > 0.02 and i < len(lane.busy) else -1  # noqa: PLR2004 - too pale to be seen
        if found != shade:
            if shade >= 0:
                width = x(times[i]) - x(times[start])
                shades.setdefault(shade, []).append(
                    f"M{number(x(times[start]))} {number(y)}h{number(width)}v{number(_ROW - 2)}h-{number(width)}z"
                )
            start, shade = i, found
    for level, parts in sorted(shades.items()):
        drawing.area("completed", "".join(parts), opacity=_OPACITIES[level])
