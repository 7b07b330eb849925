"""The runner process: it runs tasks one after the other and records the outcome of each.

It reads a token, finds the call of that job (skipping jobs that were taken back), runs it and records the outcome in the memory
that it shares with the agent before it reads the next token, so that its death later loses no outcome. User code may do anything in this process: every exception that it raises is an
outcome, including `SystemExit` and `KeyboardInterrupt`, and descriptors that it closes, processes that it forks and threads
that it leaves running do not affect other runners.

A task sees the changes that earlier tasks made, as in any process pool: imported modules, globals, signal handlers, threads.
Only two things are restored: the working directory, because tasks use relative paths, and standard streams that were
closed. The random generators of `random` and NumPy start with a new seed in each runner (the standard library reseeds
`random` at a fork).
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import resource
import signal
import socket
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from multiprocessing.process import current_process
from types import ModuleType
from typing import Any, NamedTuple, NoReturn, TypeAlias, cast

import msgpack

from starburst_executor import config, context, tracing
from starburst_executor.clock import SystemClock
from starburst_executor.protocol import options, outcomes
from starburst_executor.protocol.options import DEFAULT
from starburst_executor.worker.denials import denial_note
from starburst_executor.worker.runner import wire
from starburst_executor.worker.runner.attention import LOOK_S, QUICK_S, Attention
from starburst_executor.worker.runner.ledger import RECORD_BYTES, LedgerWriter
from starburst_executor.worker.runner.notes import Notepad
from starburst_executor.worker.runner.received import Received
from starburst_executor.worker.runner.recorder import Recorder
from starburst_executor.worker.runner.streams import Streams
from starburst_executor.worker.runner.tokens import TokenReader

__all__ = ["EXIT_DEAF", "EXIT_INTERNAL", "Descriptors", "run"]

# Exit codes that user code does not use by chance; `handle.py` has the messages.
EXIT_DEAF = 213  # the socket or the pipe to the agent was closed or replaced in this process
EXIT_INTERNAL = 214  # an error in this library; its traceback is in the captured stderr

# While tasks end one after the other, the agent is woken at most this often, or after this many bytes of outcomes. It looks by
# itself now and then (`handle.py`), so an outcome does not wait for a long task that follows.
_WAKE_S = 5e-3
_WAKE_BYTES = 64 * 1024
# Tokens that are read together while tasks are quick.
_AT_ONCE = 32

_HIGH_FD = 200  # above the range that code which closes "all" descriptors covers, and below every usual limit


class Descriptors(NamedTuple):
    """A runner's own descriptors, at high numbers and closed on exec. `stdout` and `stderr` are also 1 and 2."""

    data: int
    tokens: int
    stdout: int
    stderr: int
    notes: int

    @classmethod
    def claim(cls, data: int, tokens: int, stdout: int, stderr: int, notes: int) -> Descriptors:
        """Move these descriptors to high numbers, and make 1 and 2 the output files."""
        high = cls(*(_move_up(fd) for fd in (data, tokens, stdout, stderr, notes)))
        os.dup2(high.stdout, 1)
        os.dup2(high.stderr, 2)
        return high


def _move_up(fd: int) -> int:
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = _HIGH_FD if soft_limit == resource.RLIM_INFINITY else max(3, min(_HIGH_FD, soft_limit - 16))
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def run(descriptors: Descriptors, ledger: LedgerWriter) -> NoReturn:
    """Run as a runner until the agent ends it. Never returns.

    Args:
        ledger: The memory that the agent reads outcomes from.
    """
    try:
        _Runner(descriptors, ledger).run()
    except (BrokenPipeError, ConnectionResetError):  # the agent is gone, or has closed its end
        os._exit(0)
    except OSError:
        _die_deaf_or_ill(descriptors)
    except BaseException:
        faulthandler.disable()
        sys.excepthook(*sys.exc_info())
        os._exit(EXIT_INTERNAL)


def _die_deaf_or_ill(descriptors: Descriptors) -> NoReturn:
    sys.excepthook(*sys.exc_info())
    are_there = _is(stat.S_ISSOCK, descriptors.data) and _is(stat.S_ISFIFO, descriptors.tokens)
    os._exit(EXIT_INTERNAL if are_there else EXIT_DEAF)


def _note(error: BaseException) -> str:
    return denial_note(error, config.worker_rights())


def _is(kind: Callable[[int], bool], fd: int) -> bool:
    try:
        return kind(os.fstat(fd).st_mode)
    except OSError:
        return False


# Neighbouring jobs of a frame: the number of the first one, the index of its task, the attempt, and their calls.
_Run: TypeAlias = tuple[int, int, int, list[bytes]]


class _Runner:
    def __init__(self, descriptors: Descriptors, ledger: LedgerWriter) -> None:
        self._stdout_fd, self._stderr_fd = descriptors.stdout, descriptors.stderr
        self._data = socket.socket(fileno=descriptors.data)
        self._tokens = TokenReader(descriptors.tokens)
        self._ledger = ledger
        self._inbox = wire.Inbox(self._data)
        self._kept: deque[wire.Frame] = deque()  # that came while a job waited for an answer
        self._runs: Iterator[_Run] = iter(())  # the rest of the last frame of jobs
        self._digest, self._ordinal, self._options = "", 0, DEFAULT  # of all of them
        self._notepad = Notepad(descriptors.notes)
        self._notes_fd = descriptors.notes
        self._recorder: Recorder | None = None
        context.notes_go_to(self._notepad.write)
        self._now = SystemClock().monotonic
        self._unwoken: int | None = None  # the last job that is recorded since the agent was woken
        self._unwoken_bytes = 0  # of the records since then
        self._woken_at = 0.0
        self._pid = os.getpid()
        self._is_self = True  # False in a child that a task forked
        self._received = Received()
        self._in_user_code = False
        self._session_id = ""
        self._folder: int | None = None
        self._restore_folder = os.fchdir  # before `Attention.install` replaces it
        self._attention = Attention()
        self._streams = Streams(self._stdout_fd, self._stderr_fd, self._attention.disturb)
        self._masks = threading.local()  # signal masks of threads that fork

    def run(self) -> NoReturn:
        self._become_a_plain_process()
        self._set_up(self._next_frame())
        self._work()
        self._flush()
        os._exit(0)

    def _become_a_plain_process(self) -> None:
        signal.signal(signal.SIGINT, self._on_interrupt)
        # A handler instead of SIG_IGN, which programs started by a task would inherit: SIGTERM could not end them.
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        # A child that a task forks must not send outcomes, nor keep this runner's descriptors open after the runner died.
        # SIGTERM must end the child; it is blocked around the fork, so that one that arrives early is delivered afterwards.
        os.register_at_fork(
            before=self._hold_term, after_in_parent=self._let_term_through, after_in_child=self._become_child_of_task
        )
        self._streams.install()
        self._attention.install()
        faulthandler.enable(2)
        main = ModuleType("__main__")
        vars(main)["__builtins__"] = __builtins__
        sys.modules["__main__"] = main
        sys.argv = [""]
        if (numpy_random := sys.modules.get("numpy.random")) is not None:
            numpy_random.seed()

    def _set_up(self, frame: wire.Frame) -> None:
        settings = msgpack.unpackb(frame.payload, unicode_errors="surrogateescape")
        self._session_id = settings["session_id"]
        path = settings["sys_path"]
        sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
        if settings.get("gpus"):
            config.pin_gpus(settings["gpus"])
        if settings.get("session"):
            url, key = settings["session"]
            context.session_is(context.Access(url, key, self._lend, self._resume, self._code))
        if settings.get("authkey"):
            current_process().authkey = settings["authkey"]
        if settings.get("task_logs") is not None:
            self._recorder = Recorder(self._notes_fd, settings["task_logs"])
            self._recorder.install()
        if settings["initializer"] is not None:
            self._initialize(settings["initializer"])
        with suppress(OSError):
            self._folder = _move_up(os.open(".", os.O_RDONLY | os.O_DIRECTORY))
        wire.send_frame(self._data, [wire.READY, *self._streams.measure()])

    def _initialize(self, body: bytes) -> None:
        try:
            self._in_user_code = True
            self._received.initialize(body)
            self._in_user_code = False
        except BaseException as error:  # user code
            self._in_user_code = False
            wire.send_frame(
                self._data, [wire.BROKEN, *self._streams.measure()], outcomes.dump_error(error, note=_note(error))
            )
            os._exit(1)

    def _next_frame(self) -> wire.Frame:
        return self._kept.popleft() if self._kept else self._receive()

    def _receive(self) -> wire.Frame:
        while (frame := self._inbox.next()) is None:
            if not self._inbox.fill():
                os._exit(0)
        return frame

    def _lend(self) -> bool:
        """Lend this job's place to another task of the worker; return False if too many are lent. The main thread calls it."""
        wire.send_frame(self._data, [wire.LEND, self._notepad.number])
        while (frame := self._receive()).head[0] != wire.PLACE:
            self._kept.append(frame)
        return bool(frame.head[1])

    def _resume(self) -> None:
        """Take this job's place back."""
        wire.send_frame(self._data, [wire.RESUME, self._notepad.number])

    def _code(self) -> str:
        """Return the name of the code that the running job's function needs."""
        return self._received.code_of(self._digest)

    def _work(self) -> None:
        """Run jobs until there are no more.

        Each task pays for what stands here, so it is one loop with local names, which calls only what a task needs that returns and
        leaves nothing behind.
        """
        streams, ledger, notepad, recorder = self._streams, self._ledger, self._notepad, self._recorder
        read_tokens, load_call, dump_value = self._tokens.read, self._received.load_call, outcomes.dump_value
        record, now, attention = ledger.record, self._now, self._attention
        held, kept, is_quick, is_looked_at = list[int](), 0, False, True
        looked_at = ended_at = now()
        first, index, attempt, calls = 0, 0, 0, list[bytes]()
        ordinal, seed = 0, self._options.seed
        function: Callable[..., Any] | None = None
        args: Any
        kwargs: Any
        target: Any
        while True:
            if not held:
                try:
                    held = read_tokens(_AT_ONCE if is_quick and attention.is_calm else 1)
                except BlockingIOError:
                    self._wake()
                    if not is_looked_at and not self._has_left_nothing():
                        streams.mend()
                    is_looked_at = True
                    self._tokens.wait()
                    continue
                if not held:
                    return
            number = held.pop()
            place = number - first
            if not 0 <= place < len(calls):
                first, index, attempt, calls = self._find(number)
                place = number - first
                ordinal, seed, function = self._ordinal, self._options.seed, None
            started_at = now()
            if self._is_self and not ledger.start(number, started_at) and number > kept:
                kept = self._tokens.ruling()
                held = [other for other in held if other <= kept]
                if number > kept:
                    continue
            notepad.number = number
            if recorder is not None:
                recorder.begin(number)
            context.enter(self._session_id, ordinal, index + place, attempt, seed)
            ok, loaded = True, False
            try:
                self._in_user_code = True  # loading also runs user code: imports, __setstate__
                if function is None:
                    attention.function(self._digest)
                    function = self._received.function(self._digest)
                args, kwargs = load_call(calls[place])
                target = function
                if kwargs and tracing.CARRIER in kwargs:
                    target = tracing.traced(function, kwargs, SystemClock().now)
                loaded = True
                outcome = dump_value(target(*args, **kwargs))
                self._in_user_code = False
            except BaseException as error:  # user code
                self._in_user_code = False
                ok, loaded, outcome = False, loaded or context.has_refused(), self._failure(error)
            args = kwargs = target = None  # what they delete is deleted in their task
            context.leave()
            if recorder is not None:
                recorder.end()
            ended_at = now()
            is_quick = ended_at - started_at < QUICK_S
            ends = None
            is_looked_at = not (is_quick and attention.is_calm and ended_at - looked_at < LOOK_S)
            if is_looked_at:
                looked_at = ended_at
                ends = None if self._has_left_nothing() else streams.measure()
                attention.looked(has_found=ends is not None)
            # From here on the outcome is out of the reach of the tasks that follow: in the ledger, or with the agent.
            n_bytes = 0
            if len(outcome) <= RECORD_BYTES:
                n_bytes = record(number, outcome, ended_at - started_at, ok, loaded, ends)
            if n_bytes:
                self._unwoken = number
                self._unwoken_bytes += n_bytes
                if not ok or ended_at - self._woken_at >= _WAKE_S or self._unwoken_bytes >= _WAKE_BYTES:
                    self._woken_at = ended_at
                    self._wake()
            else:
                head = [wire.OUTCOME, number, ok, loaded, ended_at - started_at, *streams.ends]
                wire.send_frame(self._data, head, outcome)
                self._unwoken, self._unwoken_bytes, self._woken_at = None, 0, ended_at
            outcome = b""
            if ends is not None:
                streams.mend()

    def _has_left_nothing(self) -> bool:
        """Return whether what has run since the last look has surely left no text and no closed stream; undo a change of the folder.

        A child that a task forked and that has returned from the task ends here.
        """
        if os.getpid() != self._pid:
            self._leave(None)
        is_untouched = self._streams.are_untouched()
        if self._folder is not None:
            try:
                self._restore_folder(self._folder)
            except OSError:  # perhaps all descriptors are closed, and then `measure` raises
                return False
        return is_untouched

    def _find(self, number: int) -> _Run:
        """Return the neighbours of this job. Jobs before it were taken back; functions and pieces before it are kept."""
        while True:
            for run in self._runs:
                if run[0] <= number < run[0] + len(run[3]):
                    return run
            while (frame := self._next_frame()).head[0] != wire.JOBS:
                self._received.take(frame)
            _, self._digest, self._ordinal, runs, lengths, *packed = frame.head
            self._options = options.decoded(packed[0]) if packed else DEFAULT
            self._runs = _runs(runs, _calls(frame.payload, lengths))

    def _wake(self) -> None:
        """Have the agent take what is recorded, unless it was woken for it."""
        if self._unwoken is not None:
            wire.send_frame(self._data, [wire.WAKE, self._unwoken])
            self._unwoken, self._unwoken_bytes = None, 0

    def _failure(self, error: BaseException) -> bytes:
        """Return the outcome of a task that has raised an exception."""
        if os.getpid() != self._pid:
            self._leave(error)
        # A module that makes an executor at its import fails in the same manner on every worker, so another worker is no help.
        names = options.class_names(type(error)) if self._options.retry_on else ()
        return outcomes.dump_error(error, note=_note(error), names=names)

    def _leave(self, error: BaseException | None) -> NoReturn:
        """End a child that a task forked and that returned from the task, with the status that a plain program would have."""
        self._flush()
        code = error.code if isinstance(error, SystemExit) else error and 1
        os._exit(code if isinstance(code, int) else int(code is not None))

    def _flush(self) -> None:
        self._streams.flush()

    def _on_interrupt(self, _number: int, _frame: object) -> None:
        """Raise KeyboardInterrupt in user code; between tasks an interrupt is ignored."""
        if self._in_user_code:
            raise KeyboardInterrupt

    def _on_term(self, _number: int, _frame: object) -> None:
        """Report SIGTERM to the agent, which decides: it may be meant for the worker's whole process group or this process alone."""
        if os.getpid() == self._pid:
            self._ledger.caught_term()

    def _hold_term(self) -> None:
        self._masks.before_fork = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))

    def _let_term_through(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before_fork)

    def _become_child_of_task(self) -> None:
        self._is_self = False
        self._attention.disturb()
        self._data.close()
        with suppress(OSError):  # closed by the task
            self._tokens.close()
        with suppress(ValueError):  # forked by a thread of a subinterpreter
            if signal.getsignal(signal.SIGTERM) == self._on_term:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._let_term_through()


def _runs(runs: Iterable[tuple[int, int, int, int]], calls: list[bytes]) -> Iterator[_Run]:
    start = 0
    for number, index, attempt, n in runs:
        yield number, index, attempt, calls[start : start + n]
        start += n


def _calls(payload: bytes | bytearray, lengths: Sequence[int]) -> list[bytes]:
    body = cast("bytes", payload)  # a bytearray if it is big, which has one call; unpickling accepts both
    if len(lengths) == 1:
        return [body]
    ends = list(accumulate(lengths, initial=0))
    return [body[start:end] for start, end in pairwise(ends)]
