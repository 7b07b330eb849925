"""SIGTERM and SIGHUP end a watching command where it can stop: `cli/terminations.py`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from starburst_executor.cli.terminations import Terminated, check_terminated, terminations_noted


@pytest.fixture(autouse=True)
def not_ignored() -> Iterator[None]:
    """Also where the tests were started by `nohup`, which has SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_wherever_it_arrives_and_raised_where_the_command_looks(number: signal.Signals) -> None:
    lock = threading.Condition()
    with terminations_noted():
        check_terminated()
        with lock:
            os.kill(os.getpid(), number)
            lock.wait(0.01)
        # The next one ends the process, whatever it waits for.
        assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)] == [signal.SIG_DFL] * 2
        with pytest.raises(Terminated) as raised:
            check_terminated()
    assert raised.value.exit_code == 128 + number
    check_terminated()


def test_the_handlers_are_as_before_after_the_block_and_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminations_noted():
            os.kill(os.getpid(), signal.SIGHUP)
            check_terminated()
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
