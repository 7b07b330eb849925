"""The colours of states, in light and dark."""

from __future__ import annotations

__all__ = ["CSS", "LIGHT", "STATES"]

# In the order of stacking: failures at the bottom, where a few of them show.
STATES = ("failed", "cancelled", "completed", "running", "waiting")

# Okabe and Ito, https://jfly.uni-koeln.de/color/
LIGHT = {
    "failed": "#d55e00",
    "cancelled": "#cc79a7",
    "completed": "#0072b2",
    "running": "#009e73",
    "waiting": "#c4c9d1",
}
_DARK = {
    "failed": "#f0843c",
    "cancelled": "#e29cc4",
    "completed": "#4aa3df",
    "running": "#2fc79b",
    "waiting": "#4d5563",
}


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--sb-{state}:{colour};" for state, colour in colours.items())


# A page that knows its theme sets data-theme="light" or "dark" on its root; others follow the reader's system. Paper is light.
CSS = (
    f":root{{{_variables(LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{_variables(_DARK)}}}}}"
    f":root[data-theme=dark]{{{_variables(_DARK)}}}"
    f"@media print{{:root:root:root{{{_variables(LIGHT)}}}}}"
    ".sb-chart{display:block;width:100%;height:auto;color:inherit}"
    ".sb-chart text{fill:currentColor;font-family:inherit;font-size:11px;font-variant-numeric:tabular-nums}"
    ".sb-chart .sb-quiet{opacity:.75}"
    ".sb-chart .sb-grid{stroke:currentColor;stroke-opacity:.15;fill:none}"
    ".sb-chart .sb-axis{stroke:currentColor;stroke-opacity:.5;fill:none}"
    ".sb-chart .sb-mark{stroke:currentColor;fill:none;stroke-dasharray:3 3}"
    + "".join(f".sb-{state}{{fill:var(--sb-{state})}}.sb-line-{state}{{stroke:var(--sb-{state})}}" for state in STATES)
)
