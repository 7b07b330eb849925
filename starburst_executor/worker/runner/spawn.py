"""The agent's handle of its nursery, which forks runners.

    nursery = Nursery.start(…)         once, before the agent has threads
    runner = nursery.spawn(…)          once per slot; again after a runner died

All threads may share a `Nursery`. The process itself is in `nursery.py`.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from starburst_executor.clock import SystemClock
from starburst_executor.errors import LaunchError
from starburst_executor.protocol.keys import is_loads
from starburst_executor.worker import code_root
from starburst_executor.worker.runner import nursery
from starburst_executor.worker.runner import process as child
from starburst_executor.worker.runner.capture import CapturedStream
from starburst_executor.worker.runner.handle import Runner
from starburst_executor.worker.runner.ledger import Ledger
from starburst_executor.worker.runner.lending import NoPlaces, Places
from starburst_executor.worker.runner.lifeline import Lifeline
from starburst_executor.worker.runner.notes import NoteReader
from starburst_executor.worker.runner.screen import Screen
from starburst_executor.worker.runner.tokens import Tokens

__all__ = ["Nursery"]

_SOCKET_BYTES = 1024 * 1024  # requested; the system may grant less
# Where the output files begin: at lengths that no other file has by chance, and not both the same. So a runner sees by a length alone
# that its standard output is what it was (`streams.py`).
_OUTPUT_STARTS = (1_000_003, 5_000_011)
_SPAWN_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 10.0
_CLOCK = SystemClock()


class Nursery:
    """Starts runners. Thread-safe.

    Attributes:
        root_name: The name of the folder for code, which is removed when the agent has ended in any way.
        stdout, stderr: The screens that show this process's own text and, with `tee`, the text of its tasks.
    """

    def __init__(
        self,
        control: socket.socket,
        pid: int,
        root_name: str,
        *,
        session_id: str,
        sys_path: Sequence[str],
        capture_bytes: int,
        tee: bool,
    ) -> None:
        self.pid = pid
        self.root_name = root_name
        self._settings: dict[str, object] = {"session_id": session_id}
        self._sys_path = list(sys_path)
        self._capture_bytes = capture_bytes
        self._tee = tee
        self.stdout, self.stderr = Screen(1), Screen(2)
        self._lock = threading.Lock()  # guards: _control; one request at a time
        self._control = control

    @classmethod
    def start(
        cls, *, session_id: str, sys_path: Sequence[str] = (), capture_bytes: int = 1_000_000, tee: bool = False
    ) -> Nursery:
        """Fork the nursery. Call it before this process has threads, and before it imports modules that do not survive a fork.

        Args:
            sys_path: The client's path; every runner puts it before this process's own.
            capture_bytes: The most bytes to keep of one task's output, for stdout and stderr each.
            tee: Also write tasks' output to this process's own stdout and stderr as it arrives.
        """
        sys.stdout.flush()  # otherwise the child would write this text again
        sys.stderr.flush()
        control, theirs = socket.socketpair()
        root_name = code_root.new_name()
        pid = os.fork()
        if pid == 0:
            try:
                nursery.serve(theirs, root_name)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(child.EXIT_INTERNAL)
        theirs.close()
        return cls(
            control, pid, root_name, session_id=session_id, sys_path=sys_path, capture_bytes=capture_bytes, tee=tee
        )

    def configure(
        self, *, sys_path: Sequence[str], tee: bool, authkey: bytes = b"", session: tuple[str, bytes] | None = None
    ) -> None:
        """Set the values for runners started from now on, as in `start`, that are known only after the fork.

        Args:
            authkey: The `multiprocessing` key of the client.
            session: URL and key of the session, for tasks that submit tasks to it.
        """
        self._sys_path = list(sys_path)
        self._settings["authkey"] = authkey
        self._settings["session"] = session
        self._tee = tee

    def spawn(
        self,
        code: Sequence[str] = (),
        *,
        gpus: Sequence[str] = (),
        initializer: bytes | None = None,
        task_logs: int | None = None,
        is_leaving: Callable[[], bool] = lambda: False,
        places: Places | None = None,
    ) -> Runner:
        """Fork a runner. This takes a few milliseconds and does not wait for the initializer.

        The runner has the environment that this process had when it forked the nursery.

        Args:
            code: Folders for the front of its `sys.path`; names of loads are ignored.
            gpus: The ids of the GPUs that it may use; none to leave that as it is.
            initializer: A stored function without arguments (`calls.load_function`).
            task_logs: The lowest level of the records of `logging` to keep; None for none.
            is_leaving: Return whether this worker has been asked to leave. If it has, a runner that catches SIGTERM
                continues; if not, the signal was meant for the runner alone, and the runner is killed.
            places: Where its jobs lend their place while they wait for tasks of their own; None if they cannot.
        Raises:
            LaunchError: the system refused another process, or the nursery is gone and this worker must leave.
        """
        data, their_data = socket.socketpair()
        tokens, ledger = Tokens(), Ledger()
        lifeline, their_lifeline = socket.socketpair()
        stdout, stderr = (
            CapturedStream(keep_bytes=self._capture_bytes, screen=screen if self._tee else None, start=start)
            for screen, start in zip((self.stdout, self.stderr), _OUTPUT_STARTS, strict=True)
        )
        notes = NoteReader()
        for end in (data, their_data):
            for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, buffer, _SOCKET_BYTES)
        try:
            fds = (
                their_lifeline.fileno(),
                their_data.fileno(),
                tokens.reader,
                stdout.fd,
                stderr.fd,
                notes.fd,
                ledger.fd,
            )
            pid = self._ask(fds, lifeline)
            ledger.close_file()
        except BaseException:
            for opened in (data, tokens, ledger, lifeline, stdout, stderr, notes):
                opened.close()
            raise
        finally:
            their_data.close()
            their_lifeline.close()
        ends = (data, tokens, ledger, Lifeline(pid, lifeline), (stdout, stderr), notes)
        runner = Runner(pid, *ends, is_leaving, places or NoPlaces())
        path = [*(folder for folder in code if not is_loads(folder)), *self._sys_path]
        runner.set_up(
            {**self._settings, "sys_path": path, "gpus": list(gpus), "initializer": initializer, "task_logs": task_logs}
        )
        return runner

    def close(self) -> None:
        """Kill every runner and all processes that it started, and wait for their ends. A second call is harmless."""
        with self._lock:
            if self._control.fileno() < 0:
                return
            self._control.close()
        _wait_for_exit(self.pid)

    def _ask(self, fds: Sequence[int], lifeline: socket.socket) -> int:
        try:
            with self._lock:
                socket.send_fds(self._control, [nursery.SPAWN], fds)
            report = self._report(lifeline)
        except OSError as error:
            raise LaunchError(
                f"the process that starts runners is gone; replace this worker: pid={self.pid}"
            ) from error
        if not report:
            raise LaunchError(f"the process that starts runners does not answer; replace this worker: pid={self.pid}")
        (pid,) = nursery.REPORT.unpack(report)
        if pid < 0:
            raise LaunchError(f"the system refused another process: {os.strerror(-pid)}; lower the number of slots")
        return int(pid)

    def _report(self, lifeline: socket.socket) -> bytes:
        """Return the nursery's reply, or empty bytes if there is none.

        The agent keeps its copies of the sent descriptors open until the reply, because macOS may lose a descriptor whose
        last copy is in transit. So the end of the nursery is visible on the control socket, but not yet on the lifeline.
        """
        poller = select.poll()
        poller.register(lifeline, select.POLLIN)
        poller.register(self._control, select.POLLIN)  # unlocked: raises after `close`, when this worker has ended
        ready = dict(poller.poll(_SPAWN_TIMEOUT_S * 1000))
        return lifeline.recv(nursery.REPORT.size) if lifeline.fileno() in ready else b""


def _wait_for_exit(pid: int) -> None:
    """Wait for a child of this process; kill it if it does not end."""
    ended = threading.Event()
    deadline = _CLOCK.monotonic() + _CLOSE_TIMEOUT_S
    with suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if _CLOCK.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            _CLOCK.wait(ended, 0.005)
