"""Users: the actions of clients in their processes, with the real executors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.client.executor import StarburstExecutor
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.once_wanted import Call
from starburst_executor.client.submits_once import once_of
from starburst_executor.errors import StarburstError
from starburst_executor.protocol.options import Limit
from starburst_executor.protocol.records import SessionState, WorkerState, decode_beat
from starburst_executor.protocol.spans.encoding import size_class
from starburst_executor.protocol.spans.transitions import has_pending
from starburst_executor.testing.simulation.checks import check_done
from starburst_executor.testing.simulation.lots import Lots
from starburst_executor.testing.simulation.plot import TIMINGS
from starburst_executor.testing.simulation.processes import ClientProcess
from starburst_executor.testing.simulation.scheduler import current_strand
from starburst_executor.testing.simulation.tasks import SHARED, Behaviour, simulated_task
from starburst_executor.testing.simulation.threads import ProcessClock
from starburst_executor.testing.simulation.workers import SimulatedLauncher, guarded
from starburst_executor.testing.simulation.world import KEY, World
from starburst_executor.worker.leaving import Stop

__all__ = ["Users"]

# The numbers of the calls that are submitted once begin here, so that they are no other call's.
_FIRST_ONCE = 1_000_000

# The longest backoffs are longer than a task keeps its claim.
_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"retries": 2, "backoff": 1},
    {"retries": 2, "backoff": 9},
    {"retries": 3, "retry_on": ValueError},
    {"retries": 2, "retry_on": StarburstError, "backoff": (0.5, 20, 12), "timeout": 6, "label": "last"},
)


class Users:
    """Every client of one session.

    It has more than twenty methods because each is one thing that a user may do.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._n_submitted = 0

    def _client(self, name: str) -> ClientProcess:
        client = ClientProcess(self._world.scheduler, name, **self._world.skewed())
        client.clock = ProcessClock(client, self._world.lots.fork())
        self._world.clients.append(client)

        def ended() -> None:
            self._world.log(name, f"ends: {client.why}")
            if client.executor is not None:
                # Its memory is gone, so it must not end sessions any more.
                client.executor._finalizer.detach()  # noqa: SLF001
                client.executor._engine._pid = -1  # noqa: SLF001

        client.on_end.append(ended)
        return client

    def _first_client(self) -> None:
        plot, lots = self._world.plot, self._world.lots.fork()
        strand = current_strand()
        client: Any = strand.process
        launcher: Any = SimulatedLauncher(self._world, client)
        settings: dict[str, Any] = {
            "workers": plot.n_workers,
            "store": plot.url,
            "launcher": launcher,
            "retries": plot.retries,
            "task_timeout": plot.task_timeout,
            "max_tasks_per_child": plot.max_tasks_per_child,
            "key": KEY,
            "timings": plot.timings,
        }
        if plot.is_detached:
            executor: Any = DetachedExecutor(**settings, absolute_timeout=plot.absolute_timeout)
        else:
            executor = StarburstExecutor(**settings)
        client.executor = executor
        self._world.url = executor.url
        mine = self._submit_all(executor, lots, plot.tasks)
        if plot.is_detached:
            mine += self._submit_once(executor)
            if lots.chance(0.5):
                self._wait_done(mine, plot.storm_s)
            executor.flush()
            self._acknowledge(mine)
            self._do_something(executor, lots)
            executor.detach()
            client.executor = None
            # Not drawn, so that it does not change what else happens.
            if self._world.report.seed % 2:
                # No client is attached by then: using a future attaches this one again.
                self._wait_done(mine, math.inf)
        else:
            if lots.chance(0.3):
                self._cancel_some(mine, lots)
            executor.shutdown(cancel_futures=lots.chance(0.15))
            client.executor = None
            check_done(self._world, mine)

    def _submit_all(self, executor: Any, lots: Lots, tasks: Any) -> list[StarburstFuture[Any]]:
        strand = current_strand()
        mine: list[StarburstFuture[Any]] = []
        for behaviour, seconds in tasks:
            self._n_submitted += 1
            # Not drawn, so that sharing does not change other decisions.
            shared: Any = SHARED[self._n_submitted % 3] if self._n_submitted % 4 == 0 else b""
            if mine and self._world.report.seed % 3 == 1 and self._n_submitted % 2:
                # It waits for the task before, which may wait as well, or for one that several wait for.
                shared = mine[-1] if self._n_submitted % 5 else mine[0]
            # Not drawn, as above.
            given = _OPTIONS[self._n_submitted % len(_OPTIONS)] if self._world.plot.has_options else {}
            view = self._view(executor)
            view = view.options(**given) if given else view
            future = view.submit(simulated_task, self._n_submitted, behaviour.value, seconds, shared)
            mine.append(future)
            self._world.given([future])
            if lots.chance(0.2):
                strand.sleep(lots.between(0.0, 4.0))
        self._world.log(strand.process.name, f"submitted {len(mine)} tasks")
        return mine

    def _view(self, executor: Any) -> Any:
        """Return what submits the next task: some have options. Not drawn, so that it does not change what else happens."""
        if self._world.plot.n_at_once is None or self._n_submitted % 3:
            return executor
        return executor.options(limit=Limit("few", self._world.plot.n_at_once), priority=self._n_submitted % 2)

    def _submit_once(self, executor: Any, *, is_last: bool = False) -> list[StarburstFuture[Any]]:
        """Submit what all clients of the session submit, each some or all of it; most clients are killed soon after they begin."""
        world, plot, strand = self._world, self._world.plot, current_strand()
        if not plot.n_once:
            return []
        # Not drawn from the seed's lots, so that it does not change what else happens.
        lots = Lots(world.report.seed * 1000 + len(world.clients))
        numbers = [_FIRST_ONCE + i for i in range(plot.n_once)]
        if not is_last:
            numbers = [number for number in numbers if lots.chance(0.8)]
            if lots.chance(0.6):
                world.scheduler.at(
                    lots.between(0.0, 12.0) * plot.latency_s, partial(strand.process.kill, "SIGKILL while it submits")
                )
        once, keys = once_of(executor), numbers if world.report.seed % 2 else None
        calls = [Call((n, Behaviour.WELL.value, 0.1, SHARED[n % 3] if n % 4 == 0 else b""), {}) for n in numbers]
        if world.report.seed % 3 == 1:
            # Some wait for a task that every client submits, with the same content.
            head = Call((_FIRST_ONCE - 1, Behaviour.WELL.value, 0.1, b""), {})
            (first,) = once.submit(simulated_task, [head], None if keys is None else [_FIRST_ONCE - 1])
            calls = [call._replace(args=(*call.args[:3], first)) if call.args[0] % 3 else call for call in calls]
            world.given([first])
            self._acknowledge([first])
        futures = once.submit(simulated_task, calls, keys)
        world.given(futures)
        world.log(strand.process.name, f"submitted {len(futures)} tasks once: {[future.task_id for future in futures]}")
        self._acknowledge(futures)
        return futures

    def _acknowledge(self, mine: list[StarburstFuture[Any]]) -> None:
        """Check that tasks whose submits were acknowledged are in the store."""
        for future in mine:
            if future.task_id not in self._world.oracle.tasks and not future.cancelled():
                self._world.fail(f"an acknowledged task is not in the store: task={future.task_id}")

    def start_visitor(self, name: str) -> None:
        """Start a client that attaches again, does a few things and leaves; does nothing once it is calm."""
        if not self._world.is_calm and not self._world.has_failed:
            self._start(name, self._visit)

    def start_extender(self, name: str) -> None:
        """Start a client that extends the session by a little, again and again."""
        if not self._world.is_ending and not self._world.has_failed:
            self._start(name, self._extend)

    def start_leaver(self, name: str) -> None:
        """Start a client that submits when a worker says that it leaves, and then leaves itself."""
        self._start(name, self._leave_to_a_leaving_worker)

    def start_companion(self, name: str) -> None:
        """Start a client that stays until all others have left and every task has ended."""
        self._start(name, self._wait_for_others)

    def start_last(self, name: str) -> ClientProcess:
        """Start the client that waits for every task and ends the session according to the plot."""
        return self._start(name, self._last_visit)

    def start_first(self) -> ClientProcess:
        """Start the client that creates the session."""
        return self._start("client-0", self._first_client)

    def alive(self) -> list[ClientProcess]:
        """Return the clients that are alive."""
        return [client for client in self._world.clients if client.is_alive]

    def _start(self, name: str, do: Callable[[], None]) -> ClientProcess:
        client = self._client(name)
        client.spawn("user", partial(guarded, self._world, client, do))
        return client

    def _extend(self) -> None:
        executor = self._reattach(self._world.lots)
        for _ in range(60):
            executor.extend(self._world.lots.between(0.05, 0.5))
            current_strand().sleep(self._world.lots.between(0.0, 0.5))
        executor.detach()

    def _leave_to_a_leaving_worker(self) -> None:
        world, strand, scheduler = self._world, current_strand(), self._world.scheduler
        client: Any = strand.process
        launcher: Any = SimulatedLauncher(world, client)
        assert world.url is not None  # noqa: S101
        executor: Any = DetachedExecutor.reattach(world.url, key=KEY, launcher=launcher)
        client.executor = executor
        # Function and epoch are stored before that moment.
        self._wait_done(self._submit_all(executor, Lots(0), [(Behaviour.WELL, 0.1)]), math.inf)
        until = scheduler.now + 4 * TIMINGS.idle_exit_s
        while scheduler.now < until and not self._is_last_one_leaving():
            strand.sleep(0.002)
        # Its last look at each open epoch follows some requests after that beat, and its end one more.
        strand.sleep(world.plot.latency_s * Lots(world.report.seed).between(0.0, 8.0))
        began_at = scheduler.now
        mine = self._submit_all(executor, Lots(0), [(Behaviour.WELL, 0.1)])
        executor.flush()
        self._acknowledge(mine)
        executor.detach()
        client.executor = None
        # A worker that has decided to leave has left by then.
        strand.sleep(3 * TIMINGS.beat_s)
        workers = world.workers.values()
        if len(self.alive()) > 1 or any(worker.goes_on() for worker in workers):
            return
        ended = [worker for worker in workers if (worker.ended_at or 0.0) >= began_at]
        if all(worker.why == Stop.IDLE.value for worker in ended) and self._is_one_pending():
            world.fail("a client has left tasks to workers that were on their way out")

    def _is_last_one_leaving(self) -> bool:
        world = self._world
        left = [worker_id for worker_id, worker in world.workers.items() if worker.goes_on()]
        beat = world.vault.objects.get(world.oracle.keys.worker(left[0])) if len(left) == 1 else None
        return beat is not None and decode_beat(beat.body).state == WorkerState.LEAVING

    def _is_one_pending(self) -> bool:
        oracle = self._world.oracle
        is_open = oracle.manifest is not None and oracle.manifest.state == SessionState.OPEN
        return is_open and any(has_pending(seen) for seen in oracle.statuses.values())

    def _visit(self) -> None:
        """A client that comes back, does a few things and leaves."""
        lots, strand = self._world.lots.fork(), current_strand()
        client: Any = strand.process
        executor = self._reattach(lots)
        mine = self._submit_once(executor)
        if lots.chance(0.4):
            mine += self._submit_all(executor, lots, [(Behaviour.WELL, lots.between(0.02, 1.0))] * lots.count(1, 4))
        for _ in range(lots.count(1, 4)):
            self._do_something(executor, lots)
            strand.sleep(lots.between(0.0, 10.0))
        executor.flush()
        self._acknowledge(mine)
        executor.detach()
        client.executor = None

    def _reattach(self, lots: Lots) -> Any:
        client: Any = current_strand().process
        assert self._world.url is not None  # noqa: S101
        launcher: Any = SimulatedLauncher(self._world, client) if self._world.is_calm or lots.chance(0.8) else "none"
        executor: Any = DetachedExecutor.reattach(self._world.url, key=KEY, launcher=launcher)
        client.executor = executor
        self._world.given(executor.futures)
        return executor

    def _do_something(self, executor: Any, lots: Lots) -> None:
        what = lots.choice(("cancel", "cancel all", "retry", "status", "extend", "scale", "collect", "nothing"))
        self._world.log(current_strand().process.name, f"user: {what}")
        if what == "cancel":
            self._cancel_some(executor.futures, lots)
        elif what == "cancel all" and lots.chance(0.3):
            executor.cancel(running=self._world.plot.stops)
        elif what == "retry":
            fresh = executor.retry_failed()
            self._world.given(fresh)
        elif what == "status":
            executor.status()
        elif what == "extend":
            executor.extend(lots.between(1.0, 60.0))
        elif what == "scale":
            executor.scale(lots.count(1, 4))
        elif what == "collect":
            executor.collect()

    def _cancel_some(self, futures: list[StarburstFuture[Any]], lots: Lots) -> None:
        for future in futures:
            if lots.chance(0.3):
                future.cancel(running=self._world.plot.stops)

    def _wait_done(self, futures: list[StarburstFuture[Any]], at_most_s: float) -> None:
        strand = current_strand()
        until = self._world.scheduler.now + at_most_s
        while self._world.scheduler.now < until and not all(future.done() for future in futures):
            strand.sleep(0.5)

    def _wait_for_others(self) -> None:
        executor = self._reattach(self._world.lots)
        while len(self.alive()) > 1 or not all(future.done() for future in executor.futures):
            current_strand().sleep(2.0)
        check_done(self._world, executor.futures)
        executor.detach()

    def _last_visit(self) -> None:
        executor = self._reattach(self._world.lots)
        client: Any = current_strand().process
        oracle = self._world.oracle
        if (
            oracle.manifest is not None
            and oracle.manifest.state == SessionState.OPEN
            and oracle.manifest.deadline_at is None
        ):
            self._submit_once(executor, is_last=True)
        futures: list[StarburstFuture[Any]] = executor.futures
        while not all(future.done() for future in futures):
            current_strand().sleep(1.0)
            # Late writes may still land.
            futures = executor.futures
        check_done(self._world, futures)
        for key, seen in oracle.statuses.items():
            if not size_class(seen).has_ended:
                self._world.fail(f"all futures are done and tasks of {key} are not")
        how = self._world.plot.ends_with
        self._world.log(client.name, f"all is done: {how}")
        if how == "leave":
            executor.detach()
        else:
            executor.cleanup(force=how == "cleanup")
        client.executor = None
