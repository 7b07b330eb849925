"""What a client does about workers, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from starburst_executor.client.decisions import Begin, Break, Hearing, Seen, Step, Wait, decide, judge_silence
from starburst_executor.protocol.records import SessionState
from tests.support.session_rig import Rig

NOW = 100.0
SEEN = Seen(needs_workers=True, is_starting=False, n_alive=0, next_start_at=float("-inf"), hopeless="")


@pytest.mark.parametrize(
    ("changes", "decision"),
    [
        ({}, Begin()),
        ({"n_alive": 3}, Begin()),
        ({"n_alive": 4}, Wait()),
        ({"n_alive": 5}, Wait()),
        ({"next_start_at": NOW}, Begin()),
        ({"next_start_at": NOW + 0.1}, Wait()),
        ({"needs_workers": False}, Wait()),
        ({"needs_workers": False, "is_starting": True}, Wait()),
        ({"is_starting": True}, Step()),
        ({"is_starting": True, "n_alive": 4}, Step()),
        ({"is_starting": True, "hopeless": "x"}, Step()),
        ({"is_starting": True, "next_start_at": NOW + 0.1}, Step()),
        ({"hopeless": "x"}, Break("x")),
        ({"hopeless": "x", "next_start_at": NOW + 0.1}, Break("x")),
        ({"hopeless": "x", "n_alive": 1}, Begin()),
        ({"hopeless": "x", "needs_workers": False}, Wait()),
    ],
)
def test_what_is_done_in_an_open_session(changes: dict[str, object], decision: object) -> None:
    manifest = Rig(workers=4).session.manifest.current
    assert decide(manifest, replace(SEEN, **changes), NOW) == decision  # type: ignore[arg-type]  # each of its field's type


@pytest.mark.parametrize("state", [state for state in SessionState if state != SessionState.OPEN])
@pytest.mark.parametrize("changes", [{}, {"is_starting": True}, {"hopeless": "x"}])
def test_nothing_is_started_once_a_session_is_over(state: SessionState, changes: dict[str, object]) -> None:
    manifest = replace(Rig(workers=4).session.manifest.current, state=state)
    assert decide(manifest, replace(SEEN, **changes), NOW) == Wait()  # type: ignore[arg-type]  # each of its field's type


@pytest.mark.parametrize(
    ("changes", "hearing"),
    [
        ({}, Hearing.WAITING),
        ({"has_new": True}, Hearing.HEARD),
        ({"has_new": True, "silent_s": 61.0}, Hearing.HEARD),
        ({"has_earlier": True}, Hearing.WAITING),
        ({"silent_s": 60.0}, Hearing.WAITING),
        ({"silent_s": 60.1}, Hearing.SILENT),
        ({"silent_s": 60.1, "is_starting": True}, Hearing.WAITING),
        ({"silent_s": 60.1, "has_earlier": True}, Hearing.HEARD),
        ({"silent_s": 60.1, "has_earlier": True, "is_starting": True}, Hearing.WAITING),
    ],
)
def test_what_a_look_for_the_first_beat_means(changes: dict[str, bool | float], hearing: Hearing) -> None:
    look = {"has_new": False, "has_earlier": False, "is_starting": False, "silent_s": 0.5, "launch_s": 60.0, **changes}
    assert judge_silence(**look) is hearing  # type: ignore[arg-type]  # each of its parameter's type
