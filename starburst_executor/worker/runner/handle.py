"""The agent's handle of a runner: a process that takes jobs and returns outcomes, and that may die.

    runner = nursery.spawn(…)          once per slot; again after a runner died (`spawn.py`)
    runner.send(jobs, functions)       the tasks of a slice
    runner.poll(timeout_s)             Completed, Finished, …; Died at the end
    runner.retract()                   takes back the jobs that have not started

Guarantee: each job sent comes back exactly once: in `Completed` or as `Finished`, in the list of one `retract`, or as the `culprit` of
`Died`. The culprit is the one job that had started and has no outcome; no other job is ever blamed. After `Died`, `retract`
returns the jobs that had not started.

Most outcomes come through the ledger, big ones as frames; frames also wake the listening thread. While jobs are open it looks
into the ledger now and then, so no outcome waits behind a long task.

One thread listens to a `Runner` and calls `wait`, `poll` and `close`; any thread may send it jobs, take them back or kill
it meanwhile.
"""

from __future__ import annotations

import math
import select
import socket
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain

from starburst_executor.clock import SystemClock
from starburst_executor.worker.runner import wire
from starburst_executor.worker.runner.capture import CapturedStream
from starburst_executor.worker.runner.jobs import BrokenStart, Completed, Died, Event, Finished, Job, Jobs, Started
from starburst_executor.worker.runner.ledger import Ledger
from starburst_executor.worker.runner.lending import Lending, Places
from starburst_executor.worker.runner.lifeline import Lifeline, Signs
from starburst_executor.worker.runner.notes import Note, NoteReader
from starburst_executor.worker.runner.outgoing import Outgoing
from starburst_executor.worker.runner.recall import recall
from starburst_executor.worker.runner.sent_jobs import SentJobs
from starburst_executor.worker.runner.tokens import Tokens
from starburst_executor.worker.runner.waker import Waker

__all__ = ["BrokenStart", "Completed", "Died", "Event", "Finished", "Job", "Jobs", "Runner", "Started"]

_WATCH_S = 0.05  # longest interval at which the output of a running task and the ledger are checked
_SOON_S = 0.005  # the first one after outcomes came: more may have ended since the runner woke the agent
_IDLE_WATCH_S = 1.0  # the same between tasks, for threads that tasks have left running
_CLOCK = SystemClock()


class Runner:
    """One runner process; made by `Nursery.spawn`.

    One thread calls `wait`, `poll`, `stop` and `close`; any thread may call the other methods. No method waits for anything
    except the process.

    Args:
        places: Where a job that waits for tasks of its own lends its place.

    Attributes:
        pid: Its process id, which is also the id of its process group and session.
        is_ready: True once the initializer has run.
    """

    def __init__(
        self,
        pid: int,
        data: socket.socket,
        tokens: Tokens,
        ledger: Ledger,
        lifeline: Lifeline,
        streams: tuple[CapturedStream, CapturedStream],
        notes: NoteReader,
        is_leaving: Callable[[], bool],
        places: Places,
    ) -> None:
        self.pid = pid
        self.is_ready = False
        # guards: _data, _tokens, _ledger, _lifeline, _outgoing, _open, _last_ended, _waker, _ended
        # Not held while waiting for the process. The other fields belong to the listening thread.
        self._lock = threading.RLock()
        self._data, self._tokens, self._ledger, self._lifeline, self._streams = data, tokens, ledger, lifeline, streams
        self._notes = notes
        self._keeps_records = False
        self._waker = Waker()
        # Slots leave their runners open at the end of a worker, and Python would warn the user of unclosed sockets.
        # Guarantee: what is closed is closed once, and not while the listening thread uses it, which goes on until the process has
        # exited: the number of a closed descriptor may be another file's.
        opened = (data, tokens, ledger, lifeline, self._waker, *streams, notes)
        self._release = weakref.finalize(self, _close, self._lock, opened)
        data.setblocking(False)
        self._inbox, self._outgoing = wire.Inbox(data), Outgoing(wire.Outbox(data))
        self._open = SentJobs()  # sent
        self._last_ended = 0  # the last job that had an outcome
        self._events: list[Event] = []
        self._n_terms = 0
        self._watch_s = _WATCH_S
        self._signs = Signs(is_leaving)
        self._ended = False
        self._lending = Lending(places)

    def send(self, jobs: Sequence[Job | Jobs], functions: Mapping[str, bytes]) -> None:
        """Send jobs to run after those that it has. Does not wait.

        Args:
            functions: Stored functions by digest; needed for those that this runner has not been sent or was made to forget.
        """
        with self._lock:
            was_idle = not self._open
            self._outgoing.add(jobs, functions)
            for job in jobs:
                self._open.add(job.numbers)
            if not self._ended:
                self._flush()
                self._tokens.give(chain.from_iterable([job.numbers for job in jobs]))
                if was_idle:
                    self._waker.wake()

    def retract(self) -> list[int]:
        """Take back the jobs that have not started and return their numbers; they will never start. May take a millisecond."""
        with self._lock:
            taken = list(self._open) if self._ended else self._taken_back()
            gone = frozenset(taken)
            self._open.remove(gone)
            self._outgoing.drop(gone)
            return taken

    def _taken_back(self) -> list[int]:
        unread = self._tokens.take_back()
        held = self._held(unread)
        # Of a single one that the runner has it is not asked whether it has started: it is about to.
        return (recall(held, self._last_ended, self._ledger, self._tokens) if len(held) > 1 else []) + unread

    def _held(self, unread: Iterable[int]) -> list[int]:
        """Return the open jobs whose tokens the runner has read."""
        waiting = frozenset(unread)
        return [number for number in self._open if number not in waiting]

    def started(self, since: float) -> Started | None:
        """Return the job that has started and has no outcome yet, according to the events polled so far.

        Args:
            since: The time of its start if the runner has not written it, or user code has overwritten it.
        """
        with self._lock:
            oldest = self.oldest()
            if self._ended or oldest is None:
                return None
            number, at = self._ledger.started()
            if number == oldest and at <= _CLOCK.monotonic():
                return Started(oldest, at)
            return Started(oldest, since) if self._tokens.n_unread() < len(self._open) else None

    def oldest(self) -> int | None:
        """Return the first job that has no outcome yet, whether it has started or not."""
        with self._lock:
            return self._open.first()

    def note(self, number: int) -> Note | None:
        """Return what a running job has reported of its progress; None if it has reported nothing."""
        return self._notes.read(number)

    def wake(self) -> None:
        """Make `wait` return in the listening thread."""
        with self._lock:
            if not self._ended:
                self._waker.wake()

    def wait(self, timeout_s: float) -> None:
        """Wait for an event, for `wake` or for the timeout. Meanwhile the output files are kept within their bounds."""
        deadline = _CLOCK.monotonic() + timeout_s
        while not self._events and not self._ended:  # unlocked: only this thread sets `_ended`
            left_s = deadline - _CLOCK.monotonic()
            is_busy = bool(self._open)  # unlocked: only the length of a pause depends on it
            pause_s = max(0.0, min(left_s, self._watch_s if is_busy else _IDLE_WATCH_S))
            if self._is_readable(pause_s) or self._signs.verdict() is not None:
                return
            self._watch_s = min(2 * self._watch_s, _WATCH_S)
            for stream in self._streams:
                stream.watch()
            with self._lock:
                self._look()
            if left_s <= pause_s:
                return

    def poll(self, timeout_s: float = 0.0) -> list[Event]:
        """Return the new events in order, after waiting up to `timeout_s` for the first. `Died` is returned once, as the last."""
        self.wait(timeout_s)
        with self._lock:
            if not self._ended:
                self._flush()
                self._receive()
                self._look()
                if not self._events:
                    self._look_for_end()
            events, self._events = self._events, []
        answer = self._lending.settle(self._open)  # unlocked: whether a number is there that only this thread removes
        if answer is not None:
            with self._lock:
                if not self._ended:
                    self._outgoing.answer(is_given=answer)
                    self._flush()
        return events

    def kill(self) -> None:
        """Kill it and all processes that it started; `poll` then returns `Died`. Harmless if it is dead."""
        with self._lock:
            if not self._ended:
                self._lifeline.kill("killed by the worker")

    def stop(self, grace_s: float = 1.0) -> None:
        """End it between tasks, or kill it after `grace_s`; kill the processes that it started in any case.

        Events that have not been polled are lost. The runner cannot be used afterwards.
        """
        with self._lock:
            if self._ended:
                return
            self._tokens.end()
        deadline = _CLOCK.monotonic() + grace_s
        while (left_s := deadline - _CLOCK.monotonic()) > 0:
            if any(isinstance(event, Died) for event in self.poll(left_s)):
                return
        self.close()

    def close(self) -> None:
        """Release it; if it is alive, it is killed with all processes that it started. A second call is harmless."""
        with self._lock:
            self._end()
        self._lending.settle(())

    def set_up(self, settings: Mapping[str, object]) -> None:
        """Send the settings, before any job."""
        with self._lock:
            self._keeps_records = settings.get("task_logs") is not None
            self._outgoing.set_up(settings)
            self._flush()

    def _flush(self) -> None:
        with suppress(OSError):  # the runner is dying; `_look_for_end` finds the reason
            self._outgoing.flush()
            self._tokens.flush()

    def _is_readable(self, timeout_s: float) -> bool:
        """Wait for data to read, and meanwhile send queued data; return whether there is data to read."""
        with self._lock:
            poller = select.poll()
            poller.register(self._lifeline, select.POLLIN)
            poller.register(self._waker, select.POLLIN)
            data_mask = (0 if self._signs.is_deaf else select.POLLIN) | (select.POLLOUT if self._outgoing else 0)
            if data_mask:
                poller.register(self._data, data_mask)
        ready = dict(poller.poll(math.ceil(timeout_s * 1000)))
        with self._lock:
            if self._waker.fileno() in ready:
                self._waker.clear()
            writable = any(mask & select.POLLOUT for mask in ready.values())
            if writable or self._tokens:
                self._flush()
        return any(mask & ~select.POLLOUT for mask in ready.values())

    def _receive(self) -> None:
        """Process every frame that has arrived."""
        while not self._signs.is_deaf:
            try:
                if not self._inbox.fill():
                    self._signs.data_ended()
            except BlockingIOError:
                return
            except OSError:
                self._signs.data_ended()
            while (frame := self._inbox.next()) is not None:
                self._on_frame(frame)

    def _on_frame(self, frame: wire.Frame) -> None:
        kind, *facts = frame.head
        if kind == wire.WAKE:
            self._take_records()
            if facts[0] in self._open:
                self._signs.was_overwritten()
        elif kind == wire.OUTCOME:
            number, ok, loaded, seconds, *ends = facts
            self._take_records()
            if number != self.oldest():
                self._signs.was_overwritten()
                return
            body = frame.payload
            outcome = body if isinstance(body, bytes) else memoryview(body)
            self._finished(number, ok, loaded, outcome, seconds, (ends[0], ends[1]))
        elif kind in (wire.LEND, wire.RESUME):
            self._lending.hear(kind, facts[0])
        else:
            self._output((facts[0], facts[1]))
            if kind == wire.BROKEN:
                self._events.append(BrokenStart(bytes(frame.payload)))
            else:
                self.is_ready = True

    def _look(self) -> None:
        """Take what the runner has written into the ledger."""
        if self._ended:
            return
        self._take_records()
        if (n_terms := self._ledger.n_terms()) != self._n_terms:
            self._n_terms = n_terms
            self._signs.caught_term()
        if not self._ledger.is_recall_intact():
            self._signs.was_overwritten()

    def _take_records(self) -> None:
        """Take what has ended. Tasks that returned and left nothing else, which are most, become one event together.

        Not before the frame that the runner is ready, which says where the output of its first task begins.
        """
        if not self.is_ready:
            return
        for taken in self._ledger.take(self._open.ranges):
            if not isinstance(taken, Completed):
                self._finished(*taken)
            elif self._keeps_records:
                for end in taken.each():
                    self._finished(end.number, True, True, end.outcome, end.seconds, None)
            else:
                self._open.end(taken.n)
                self._last_ended = taken.number + taken.n - 1
                self._watch_s = _SOON_S
                self._events.append(taken)

    def _finished(
        self,
        number: int,
        ok: bool,
        loaded: bool,
        outcome: bytes | memoryview,
        seconds: float,
        ends: tuple[int, int] | None,
    ) -> None:
        self._open.end(1)
        self._last_ended = number
        self._watch_s = _SOON_S
        stdout, stderr = (b"", b"") if ends is None else self._output(ends)
        self._events.append(Finished(number, ok, loaded, outcome, seconds, stdout, stderr, self._logged(number)))

    def _output(self, ends: tuple[int, int]) -> tuple[bytes, bytes]:
        """Return the output up to these lengths of the files since the last call."""
        return self._streams[0].take(ends[0]), self._streams[1].take(ends[1])

    def _logged(self, number: int) -> bytes:
        return self._notes.take(number) if self._keeps_records else b""

    def _look_for_end(self) -> None:
        reason = self._lifeline.end()
        if reason is not None:
            self._receive()
            self._look()
            self._bury(reason)
        elif (why := self._signs.verdict()) is not None:
            self._lifeline.kill(why)
            self._signs.was_killed()

    def _bury(self, reason: str) -> None:
        held = self._held(self._tokens.take_back())
        # Of several ones that the runner had the first has not always started. A single one is blamed in any case.
        has_culprit = len(held) == 1 or (held and self._ledger.started()[0] >= held[0])
        culprit = held[0] if has_culprit else None
        self._streams[1].mend()
        stdout, stderr = (stream.take() for stream in self._streams)
        records = b"" if culprit is None else self._logged(culprit)
        self._events.append(Died(reason, culprit, stdout, stderr, records=records))
        # What is left has not started, or its outcome was overwritten and it runs again.
        if culprit is not None:
            self._open.remove({culprit})
        self._end()

    def _end(self) -> None:
        """Release it. Called with the lock held, so it does not take back what was lent."""
        self._ended = True
        self._release()


def _close(
    lock: threading.RLock,
    opened: Sequence[socket.socket | Tokens | Ledger | Lifeline | Waker | CapturedStream | NoteReader],
) -> None:
    with lock:
        for resource in opened:
            resource.close()
