"""Updates of a tab: only what has changed, at most 4 KB, nothing forgotten."""

from __future__ import annotations

import json

from starburst_executor.dashboard.tabs import MOST_BYTES, Tab


def test_an_update_holds_what_has_changed_and_nothing_else() -> None:
    tab = Tab("session")
    assert json.loads(tab.update({"a": "1", "b": "<b>ü</b>"}) or "") == {"a": "1", "b": "<b>ü</b>"}
    assert tab.update({"a": "1", "b": "<b>ü</b>"}) is None
    assert json.loads(tab.update({"a": "2", "b": "<b>ü</b>"}) or "") == {"a": "2"}


def test_an_update_is_small_and_the_rest_comes_first_in_the_next() -> None:
    tab = Tab("workers")
    fragments = {f"+workers/w-{i}": "ü" * 200 + str(i) for i in range(40)}
    shown: dict[str, str] = {}
    n_updates = 0
    while (data := tab.update(fragments)) is not None:
        assert len(f"event: update\ndata: {data}\n\n".encode()) <= MOST_BYTES
        assert "\n" not in data
        shown.update(json.loads(data))
        n_updates += 1
        # The first rows change all the time, and must not keep the last ones from being sent.
        fragments["+workers/w-0"] = f"changed {n_updates}"
        assert n_updates < 20
        if len(shown) == 40:
            break
    assert {name: html for name, html in shown.items() if name != "+workers/w-0"} == {
        name: html for name, html in fragments.items() if name != "+workers/w-0"
    }


def test_what_never_fits_is_replaced_by_a_link() -> None:
    tab = Tab("session")
    data = tab.update({"failures": "x" * 5000, "a": "1"}) or ""
    assert len(data.encode()) <= MOST_BYTES
    assert "load again" in json.loads(data)["failures"]
    assert json.loads(data)["a"] == "1"
    assert tab.update({"failures": "x" * 5000, "a": "1"}) is None


def test_which_rows_a_table_has_is_sent_before_the_rows() -> None:
    """Also before rows that did not fit last time: a browser puts new rows where the order says."""
    tab = Tab("sessions")
    rows = {f"^t/{i}": "x" * 1500 for i in range(4)}
    assert tab.update({"=t": "3 2 1 0", **rows}) is not None
    late = tab.update({**rows, "=t": "4 3 2 1 0"})
    assert late is not None
    assert [name[0] for name in json.loads(late)][:2] == ["=", "^"]
