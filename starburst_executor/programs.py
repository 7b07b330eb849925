"""Runs a program as a task: its exit status, its output and its files are the outcome. Workers import this module by its name.

A program has a process group of its own in its runner's session. What it has started ends with it; what it has started and the program end with
the runner, whatever kills that. A process that calls `setsid` leaves both on purpose.
"""

from __future__ import annotations

import ctypes
import io
import os
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from starburst_executor.clock import SystemClock
from starburst_executor.families import groups_of, kill_family
from starburst_executor.texts import shortened

__all__ = ["PROGRAM_FAILED", "ProgramFailed", "check_outputs", "run_program", "run_to_end"]

# Of each stream that is part of the outcome; all of it is in the task's log.
_MOST_CHARACTERS = 100_000
_SHOWN_CHARACTERS = 300
_NOT_FOUND = 127  # as the exit status of a shell: POSIX, 2.8.2
_NOT_STARTED = 126
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_PIPE_BYTES = 64 * 1024
_MOST_IN_PIPE = 1024 * 1024  # Linux: /proc/sys/fs/pipe-max-size, unless an administrator has raised it
_MOST_POLL_S = 1e6  # systems count milliseconds in 32 bits
_LOOK_S = 0.05  # from one look at the process to the next, where nothing tells that it has ended


class ProgramFailed(subprocess.CalledProcessError):
    """A program's exit status is not 0. The message has the last line that the program wrote to standard error."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.returncode, self.cmd, self.stdout, self.stderr)

    def __str__(self) -> str:
        how = f"signal {-self.returncode}" if self.returncode < 0 else f"exit status {self.returncode}"
        lines = (self.stderr or "").strip().splitlines()
        said = f": {shortened(lines[-1].strip(), _SHOWN_CHARACTERS)}" if lines else ""
        return f"{shortened(shlex.join(self.cmd), _SHOWN_CHARACTERS)}: {how}{said}"


PROGRAM_FAILED = f"{ProgramFailed.__module__}.{ProgramFailed.__qualname__}"


def run_program(words: Sequence[str], outputs: Sequence[str] = ()) -> dict[str, Any]:
    """Run a program to its end.

    Args:
        words: The program and its arguments; no shell reads them.
        outputs: Patterns of files that it writes. It then runs in an empty folder of its own, and these files become part of the
            outcome.
    Returns:
        `exit_status`, the ends of `stdout` and `stderr`, and `outputs`: the contents of files by their names.
    Raises:
        ProgramFailed: its exit status is not 0; 127 or 126, as in a shell, if there is no such program or it cannot be started.
        ValueError: a pattern leads out of the folder.
    """
    check_outputs(outputs)
    if not outputs:
        return _run(words, None, ())
    with tempfile.TemporaryDirectory(prefix="starburst-") as folder:
        return _run(words, Path(folder), outputs)


def check_outputs(outputs: Sequence[str]) -> None:
    """Raise ValueError for a pattern that leads out of the folder in which the program runs."""
    for pattern in outputs:
        if not pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ValueError(f"not a pattern of files in the program's own folder: {pattern!r}")


def _run(words: Sequence[str], folder: Path | None, outputs: Sequence[str]) -> dict[str, Any]:
    try:
        code, *printed = run_to_end(words, folder=folder)
    except OSError as error:
        code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_STARTED
        raise ProgramFailed(code, list(words), "", f"it cannot be started: {error.strerror}") from error
    texts = [io.TextIOWrapper(io.BytesIO(stream), errors="replace").read() for stream in printed]
    sys.stdout.write(texts[0])
    sys.stderr.write(texts[1])
    stdout, stderr = (text[-_MOST_CHARACTERS:] for text in texts)
    if code:
        raise ProgramFailed(code, list(words), stdout, stderr)
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in outputs
        for path in sorted((folder or Path()).glob(pattern))
        if folder is not None and path.is_file()
    }
    return {"exit_status": 0, "stdout": stdout, "stderr": stderr, "outputs": files}


# --- processes --------------------------------------------------------------------------------------------------------


def run_to_end(
    words: Sequence[str], *, folder: Path | str | None = None, timeout: float | None = None, joins: bool = False
) -> tuple[int, bytes, bytes]:
    """Run a program until it ends; return its exit status, or minus the number of its signal, and its standard output and error.

    What it has left in the background is killed then, and does not delay the end.

    Args:
        words: The program and its arguments; no shell reads them.
        folder: Where it runs; None for here.
        timeout: Seconds until it is killed.
        joins: Whether the error output goes to the standard output, in its place there.
    Raises:
        OSError: it cannot be started; subprocess.TimeoutExpired.
    """
    # A runner leads a session. Elsewhere, as in a terminal, the session has processes of others: the program then gets one of its own.
    leads = os.getsid(0) == os.getpid()
    spared = groups_of(os.getpid()) | {os.getpgid(0)} if leads else set()
    process = subprocess.Popen(
        list(words),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if joins else subprocess.PIPE,
        start_new_session=not leads,
        preexec_fn=_first_steps(own_group=leads),  # noqa: PLW1509 - calls two functions of the C library
    )
    pipes = {stream.fileno(): bytearray() for stream in (process.stdout, process.stderr) if stream is not None}
    try:
        try:
            _read_until_end(process, pipes, timeout)
        finally:
            _end(process, spared, leads=leads)
        for fd, printed in pipes.items():
            _read_rest(fd, printed)
    finally:
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    out, err = (bytes(printed) for printed in [*pipes.values(), bytearray()][:2])
    return process.returncode, out, err


def _read_until_end(process: subprocess.Popen[bytes], pipes: dict[int, bytearray], timeout: float | None) -> None:
    """Read what a process prints until it has ended: its pipes may live on, in processes that it has started.

    Where the system has that, it is not reaped yet, so that its group's number stays its own.
    """
    clock = SystemClock()
    deadline = None if timeout is None else clock.monotonic() + timeout
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for fd in pipes:
            selector.register(fd, selectors.EVENT_READ)
        ended = _end_of(process.pid)
        if ended is not None:
            stack.callback(os.close, ended)
            selector.register(ended, selectors.EVENT_READ)
        while True:
            left = None if deadline is None else deadline - clock.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(process.args, timeout or 0.0)
            ready = [key.fd for key, _ in selector.select(_poll_s(left, exact=ended is not None))]
            if ended in ready or (ended is None and process.poll() is not None):
                return
            for fd in ready:
                part = os.read(fd, _PIPE_BYTES)
                pipes[fd] += part
                if not part:
                    selector.unregister(fd)


def _end_of(pid: int) -> int | None:
    """Return a descriptor that becomes readable when a child has ended; None where the system has none."""
    if sys.platform == "linux" and hasattr(os, "pidfd_open"):
        with suppress(OSError):  # before Linux 5.3, or refused by a container
            return os.pidfd_open(pid)
    return None


def _poll_s(left: float | None, *, exact: bool) -> float | None:
    most = _MOST_POLL_S if exact else _LOOK_S
    return most if left is None else min(left, most)


def _read_rest(fd: int, printed: bytearray) -> None:
    """Read what is there; a process that called `setsid` may hold the pipe, and write for ever: it is not waited for."""
    os.set_blocking(fd, False)
    with suppress(BlockingIOError):
        for _ in range(_MOST_IN_PIPE // _PIPE_BYTES):
            printed += os.read(fd, _PIPE_BYTES)


def _first_steps(*, own_group: bool) -> Callable[[], None]:
    """Return what the child does before it becomes the program."""
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def first_steps() -> None:
        if own_group:
            os.setpgid(0, 0)
        if prctl is not None:
            prctl(
                _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0
            )  # it ends with this process even if the nursery is gone
            if os.getppid() != parent:
                os._exit(1)

    return first_steps


def _end(process: subprocess.Popen[bytes], spared: Collection[int], *, leads: bool) -> None:
    """Kill what is left of a program: its group, and the groups that its children have made. Reap it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # it may have gone to another group
    if leads:
        kill_family(os.getpid(), spare=spared, ended=[process.pid])
    else:
        kill_family(process.pid, ended=[process.pid])
    process.wait()
