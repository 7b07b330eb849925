"""The errors of earlier tries: a column of a status object, within a bound."""

from __future__ import annotations

import pytest

from starburst_executor.protocol.attempts import ERRORS, Attempt, FailedTry, attempts_of, with_errors
from starburst_executor.protocol.labels import LABELS, packed_labels
from starburst_executor.protocol.options import DEFAULT
from starburst_executor.protocol.spans import encoding, transitions
from starburst_executor.protocol.spans.record import Span, State, Status


def failed(position: int, attempt: int, error: str = "ValueError: no", at: float = 1.5) -> FailedTry:
    return FailedTry(position, 1, attempt, error, "w", at)


def stored(n_tasks: int = 4, **fields: object) -> Status:
    return Status(0, 0, ("f",), (Span(n_tasks),), **fields)  # type: ignore[arg-type]


def test_tries_are_added_once_and_come_back_by_task() -> None:
    first = with_errors(stored(), [failed(2, 1), failed(0, 1, "OSError: gone")])
    again = with_errors(first, [failed(2, 1)])
    assert again is first
    both = with_errors(first, [failed(2, 2)])
    decoded = encoding.decode(encoding.encode(both, "n"))
    assert attempts_of(decoded) == {
        2: [Attempt(1, "ValueError: no", "w", 1.5), Attempt(2, "ValueError: no", "w", 1.5)],
        0: [Attempt(1, "OSError: gone", "w", 1.5)],
    }


def test_labels_stay_beside_them() -> None:
    status = with_errors(stored(2, more=packed_labels(["a", "b"])), [failed(0, 1)])
    assert set(status.more or {}) == {LABELS, ERRORS}
    assert with_errors(stored(), []).more is None


def test_the_column_has_a_bound() -> None:
    status = stored(2048)
    for attempt in range(1, 5):
        tries = [failed(i, attempt, f"ValueError: {i} {attempt} {'x' * 1000}", float(i)) for i in range(2048)]
        status = with_errors(status, tries)
    attempts = attempts_of(status)
    assert sum(map(len, attempts.values())) == 4096
    assert {one.attempt for of_task in attempts.values() for one in of_task} == {3, 4}
    assert max(len(one.error) for of_task in attempts.values() for one in of_task) <= 300
    assert len((status.more or {})[ERRORS]) < 64 * 1024


@pytest.mark.parametrize("column", [b"x", 5, b""])
def test_a_column_that_cannot_be_read_counts_as_empty(column: object) -> None:
    assert attempts_of(stored(more={ERRORS: column})) == {}


# --- backoff ----------------------------------------------------------------------------------------------------------


def claimed(status: Status, now: float) -> list[int]:
    return transitions.claim(status, "w.9", at_most=9, now=now, max_losses=3)[1]


def test_a_released_task_is_not_claimed_before_its_backoff_has_passed() -> None:
    packed = DEFAULT.but(backoff=(10, 2, 100)).encode()
    status = Status(0, 0, ("f",), (Span(3, options=1),), options=(packed,))
    status, taken = transitions.claim(status, "w.1", at_most=2, now=50.0, max_losses=3)
    status = transitions.release(status, "w.1", taken, failures={0: 1}, not_before={0: 60.0})
    assert [(span.n, span.failures, span.at) for span in status.spans] == [(1, 1, 60.0), (1, 0, 0.0), (1, 0, 0.0)]
    assert encoding.decode(encoding.encode(status, "n")) == status
    assert claimed(status, 59.9) == [1, 2]
    assert claimed(status, 60.0) == [0, 1, 2]
    only = transitions.cancel(status, [1, 2], 55.0)[0]
    assert [transitions.has_pending(only, now) for now in (59.9, 60.0, None)] == [False, True, True]
    again = transitions.claim(status, "w.2", at_most=1, now=70.0, max_losses=3)[0]
    assert again.span(0).state == State.CLAIMED


def test_a_time_that_only_a_wrong_clock_can_have_written_is_ignored() -> None:
    packed = DEFAULT.but(backoff=10).encode()
    waiting = Status(0, 0, ("f",), (Span(1, options=1, at=1000.0),), options=(packed,))
    assert claimed(waiting, 1000.0 - 69) == []
    assert claimed(waiting, 1000.0 - 71) == [0]
    without = Status(0, 0, ("f",), (Span(1, at=10_000.0),))
    assert claimed(without, 10_000.0 - 3_659) == []
    assert claimed(without, 10_000.0 - 3_661) == [0]
