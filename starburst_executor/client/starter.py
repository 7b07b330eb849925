"""Keeps up the number of workers: starts the missing ones, and breaks the session with the reason if it cannot.

    missing ─► intent in the manifest ─► step ─► handle in the manifest ─► step ─► … ─► settled ─► first beat
                                          └─► none can be started, or none beats in time ─► broken

Before it starts workers, a client swaps an intent into the manifest, so that two clients do not both start them. The
intent names its client. If that client has left or is dead, another one takes the intent over at once: it drops it if
nothing was started, and finishes it otherwise. If the client's state is unknown, its intent is taken over after twenty
looks, a second apart, without a renewal.

`trials.py` decides from the ends of workers when to start more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from starburst_executor.client.handles import handle_of, sealed_handle
from starburst_executor.client.money import hourly_usd
from starburst_executor.client.trials import Begin, Break, End, Seen, Step, Trials, Wait, decide, end_of
from starburst_executor.errors import BudgetExceeded, ConfigError, LaunchError, NoCapacity
from starburst_executor.launch.base import CountsInterruptions, Death, Launcher, Order, Started, StopsOne
from starburst_executor.launch.bootstrap import new_launch_id
from starburst_executor.launch.local.processes import has_ended
from starburst_executor.protocol.money import is_of, refusal_reason, settled, without
from starburst_executor.protocol.records import Launch, Manifest, SessionState, WorkerBeat
from starburst_executor.session.beats import Beats, list_workers, read_client_beat
from starburst_executor.session.repair import Watcher, end_what_is_left
from starburst_executor.session.store import SessionStore

__all__ = ["Starter"]

_log = logging.getLogger(__name__)

# How often to look for the first beat of a started worker, and the most of the time between two looks that counts as
# silence: while the store is away no beat can arrive.
_HEARING_S, _HEARD_NOTHING_MOST_S = 0.5, 1.0
# An unsettled launch that was not renewed over this number of looks, a second apart, was left by a client that died.
_ABANDONED_LOOKS = 20
_INTENT_LOOK_S = 1.0
_RENEW_S = 5.0
# Warnings that are not repeated. Some hold an id of a request, and so are never the same.
_WARNINGS_KEPT = 100


@dataclass(slots=True)
class _Going:
    """The launch that this client is working on.

    Attributes:
        launch: Its record, as last written to the manifest.
        next_at: When its next step is due.
        taken_s: The time since it was begun, without the time that writing to the store took.
    """

    launch: Launch
    next_at: float
    renewed_at: float
    counted_at: float
    taken_s: float = 0.0


@dataclass(slots=True)
class _Intent:
    """Another client's unsettled launch: the number of looks without a renewal, and whether that client is gone."""

    n_looks: int
    is_left: bool


class Starter:
    """Starts a session's workers. Owned by the thread of `ClientKeeper`; not thread-safe.

    Args:
        order: Returns the order for a launch's id and a number of slots.
        needs_workers: Returns whether any task is not done.
        watcher: Knows which workers have beaten.
        introduce: Writes this client's first beat, before an intent names it.

    Attributes:
        awaits_work: Whether no worker was started because there was no work.
    """

    def __init__(
        self,
        session: SessionStore,
        launcher: Launcher,
        client_id: str,
        *,
        order: Callable[[str, int], Order],
        needs_workers: Callable[[], bool],
        watcher: Watcher,
        introduce: Callable[[], None],
    ) -> None:
        self._session = session
        self._launcher = launcher
        self._client_id = client_id
        self._introduce = introduce
        self._order = order
        self._needs_workers = needs_workers
        self._watcher = watcher
        self._clock = session.clock
        self._timings = session.manifest.timings
        self.awaits_work = False
        self._going: _Going | None = None
        self._beats = Beats(session)
        self._trials = Trials(self._clock, self._timings.launch_s)
        self._silent_s: float | None = None  # the time without a beat since workers were started; None before
        self._listened_at = 0.0
        self._heard = False
        self._before: frozenset[str] = frozenset()
        self._next_hearing = self._next_intent_look = self._next_others_look = float("-inf")
        self._sees_others = False
        self._intents: dict[tuple[str, float], _Intent] = {}  # by launch and its renewal
        self._listened_s = 0.0  # the time covered by looks at the beats, without outages of the store
        self._looked_at: float | None = None
        self._expected_since: dict[
            str, float
        ] = {}  # workers that never beat: `_listened_s` when they were first expected
        self._warned: set[str] = set()
        self._error: LaunchError | BudgetExceeded | None = None

    def turn(self) -> None:
        """Do the next step of starting the missing workers, if there is work for them.

        Store: usually nothing; 1 swap for the intent, 1 for each step, 1 every five seconds between two steps. While another
        client is starting workers, each second 1 GET of the manifest, usually a 304, and 1 GET of its beat.
        """
        manifest, needs_workers = self._session.manifest, self._needs_workers()
        self.awaits_work = not needs_workers and not manifest.launches
        if manifest.state == SessionState.OPEN and needs_workers:
            manifest = self._look_at_intents(manifest)
        else:
            # No need to ask the launcher how many are alive.
            return
        n_alive, hopeless = self._n_slots_alive(manifest), self._trials.hopeless()
        seen = Seen(
            manifest.state,
            needs_workers,
            is_at_it=self._going is not None,
            n_wanted=manifest.workers,
            n_alive=n_alive,
            may_start=self._clock.monotonic() >= self._trials.next_start_at,
            hopeless="" if n_alive or (hopeless and self._others_work()) else hopeless,
        )
        match decide(seen):
            case Break(reason):
                self._error = LaunchError(self._trials.words)
                self._break(reason)
            case Begin():
                self._begin()
            case Step():
                if self._going is not None:
                    self._go_on(self._going)
                self._listen(manifest)
            case Wait():
                self._listen(manifest)

    @property
    def is_starting(self) -> bool:
        """Whether this client has a launch to finish."""
        return self._going is not None

    def error(self) -> LaunchError | BudgetExceeded:
        """Return the reason why the session is broken, in the class of the error that kept workers from starting."""
        return type(self._error or LaunchError())(self._session.manifest.reason)

    def drain_surplus(self) -> None:
        """Drain surplus workers, the newest first, after the number of workers was changed."""
        manifest = self._session.manifest
        surplus = self._n_slots_alive(manifest) - manifest.workers
        for launch in reversed(manifest.launches):
            handle = self._handle_of(launch) if launch.launcher == self._launcher.name else ""
            if surplus > 0 and handle and self._slots_of(launch):
                surplus -= self._launcher.shed(handle, surplus)

    def saw_death(self, death: Death, beat: WorkerBeat | None) -> None:
        """Take account of a worker's death. `beat` is its last beat; None if it never beat."""
        reported = "" if beat is None else beat.words
        words = death.words if reported in death.words else "; ".join(filter(None, [reported, death.words]))
        end = end_of(death, beat)
        level = logging.INFO if end in (End.WORKED, End.LEFT) else logging.WARNING
        _log.log(level, "a worker has ended: worker=%s, %s", death.worker_id, words or "no last words")
        self._trials.ended(end, words, was_heard=beat is not None)
        if end is End.TAKEN:
            self._error = NoCapacity(words)
        elif end in (End.FAILED, End.KILLED) and self._silent_s is not None:
            self._error = LaunchError(words)

    def hand_over(self) -> None:
        """Release the unfinished launch, so that other clients can finish it at once. Store: 1 swap if there is one."""
        if (going := self._going) is not None:
            self._going = None
            is_begun = bool(self._handle_of(going.launch))
            self._replace(going.launch, [replace(going.launch, client="")] if is_begun else [])

    def recounted(self, manifest: Manifest) -> Manifest | None:
        """As `counted`, but return None if nothing is new."""
        counted = self.counted(manifest)
        return None if counted == manifest else counted

    def counted(self, manifest: Manifest) -> Manifest:
        """Return the manifest with the number of interruptions of each launch that the platform reports.

        Each client counts all interruptions that the platform still reports, and the highest count stays: two clients that
        see the same interruption do not count it twice.
        """
        launcher = self._launcher
        if not isinstance(launcher, CountsInterruptions):
            return manifest
        launches = [
            replace(launch, n_taken=max(launch.n_taken, launcher.interruptions(handle)))
            if launch.launcher == self._launcher.name and (handle := self._handle_of(launch))
            else launch
            for launch in manifest.launches
        ]
        return replace(manifest, launches=tuple(launches))

    # --- one launch ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Swap in an intent, or take over an abandoned one; then do its first step."""
        launcher, at = self._launcher, self._clock.now()
        self._introduce()
        launch_id = new_launch_id(self._clock)
        intents: list[Launch] = []
        refusals: list[BudgetExceeded] = []
        beats = self._beats_of_paid()

        def intend(current: Manifest) -> Manifest | None:
            # The client whose swap lands first starts them; the other one finds none missing.
            missing = current.workers - self._n_slots_alive(current)
            if current.state != SessionState.OPEN or missing <= 0:
                return None
            left = next(
                (launch for launch in current.launches if self._is_abandoned(launch) and self._handle_of(launch)), None
            )
            rate = hourly_usd(launcher, missing) or 0.0
            fresh = Launch(
                launch_id, launcher.name, missing, "", at, since=at, usd_per_hour=rate, client=self._client_id
            )
            current = self.counted(current)
            left = left and next(launch for launch in current.launches if launch.launch_id == left.launch_id)
            over = [launch for launch in current.launches if launch != left and not self._slots_of(launch)]
            kept = without(current, over, at, beats)
            if left is None:
                refusals[:] = filter(None, [self._too_dear(kept, rate)])
            if refusals:
                return None
            intents[:] = [fresh if left is None else replace(left, at=at, client=self._client_id)]
            return replace(kept, launches=(*(launch for launch in kept.launches if launch != left), *intents))

        # Crash here: an intent without a handle remains. Once its client is known to be gone it no longer counts, and the
        # next client starts a new launch.
        changed = self._session.change(intend)
        if refusals:
            self._could_not_start(refusals[0])
            return
        if not set(changed.launches).intersection(intents):
            return
        now = self._clock.monotonic()
        if self._heard or self._silent_s is None:
            # Only beats of new workers count: those of earlier ones prove nothing about this launch.
            self._before, self._heard, self._silent_s = self._worker_keys(), False, 0.0
            self._listened_at = now = self._clock.monotonic()
        self._going = _Going(intents[0], now, now, now)
        self._go_on(self._going)

    def _too_dear(self, manifest: Manifest, usd_more: float) -> BudgetExceeded | None:
        """Return an error if further workers would exceed `max_hourly_cost`, in addition to the live ones; else None."""
        limit = manifest.max_hourly_cost
        now_usd = sum(
            launch.usd_per_hour * self._slots_of(launch) / max(1, launch.slots) for launch in manifest.launches
        )
        if limit is None or not usd_more or now_usd + usd_more <= limit:
            return None
        return BudgetExceeded(
            f"workers for about ${now_usd + usd_more:.2f} an hour would run, max_hourly_cost is ${limit:.2f}; request fewer "
            "or cheaper ones, or reattach with a larger max_hourly_cost"
        )

    def _beats_of_paid(self) -> list[WorkerBeat]:
        """Return the beats of the workers of launches that cost mlaunchy and have no workers left.

        Store: usually nothing; 1 LIST, 1 GET for each of these workers, once.
        """
        launches = self._session.manifest.launches
        over = [launch for launch in launches if launch.usd_per_hour and not self._slots_of(launch)]
        return self._beats.read(lambda worker_id: any(is_of(launch, worker_id) for launch in over)) if over else []

    def _go_on(self, going: _Going) -> None:
        now = self._clock.monotonic()
        going.taken_s += now - going.counted_at
        going.counted_at = now
        if now < going.next_at:
            if now >= going.renewed_at + _RENEW_S:
                self._write(going, replace(going.launch, at=self._clock.now()))
            return
        launch = going.launch
        try:
            started = self._launcher.start(self._order(launch.launch_id, launch.slots), self._handle_of(launch))
        except (LaunchError, ConfigError, OSError) as error:
            self._going = None
            # A launch that cannot continue is removed if nothing was started, else settled with what was.
            self._replace(launch, [settled(launch, launch.started)] if launch.handle else [])
            self._could_not_start(error)
            return
        now = self._clock.monotonic()
        going.taken_s += now - going.counted_at
        going.counted_at = now
        too_late = going.taken_s > self._timings.launch_s
        done = started.more_s is None or too_late
        handle, at = sealed_handle(self._session.sealer, launch, started.handle), self._clock.now()
        since = launch.since if launch.started else at
        changed = replace(launch, handle=handle, at=at, started=started.n_slots, since=since)
        # Crash here: workers run that no handle names. The client that takes the launch over requests the same workers from
        # the platform again; where the platform cannot recognize them, they are known by their beats and leave when idle.
        self._write(going, settled(changed, started.n_slots) if done else changed)
        going.next_at = self._clock.monotonic() + (started.more_s or 0.0)
        if done:
            self._going = None
            self._settled(launch.slots, started)
        elif started.error is not None:
            self._error = started.error
            self._warn(f"workers cannot be started yet, trying again: {started.error}")

    def _write(self, going: _Going, changed: Launch) -> None:
        """Swap the launch's next state in, unless another client has taken it over."""

        def settle(current: Manifest) -> Manifest | None:
            known = next((launch for launch in current.launches if launch.launch_id == changed.launch_id), None)
            if known is not None and known != going.launch:
                return None
            # Also if the launch became too old and was dropped meanwhile: its workers run, so the manifest must name them.
            others = tuple(launch for launch in current.launches if launch != known)
            return replace(current, launches=(*others, changed))

        if changed in self._session.change(settle).launches:
            # While the store was away no worker could be started: that time does not count.
            going.launch, going.renewed_at = changed, self._clock.monotonic()
            going.counted_at = going.renewed_at
        else:
            self._going = None

    def _replace(self, launch: Launch, by: list[Launch]) -> None:
        """Replace or remove this client's launch, unless another client has taken it over."""

        def step(current: Manifest) -> Manifest | None:
            if launch not in current.launches:
                return None
            return replace(current, launches=(*(other for other in current.launches if other != launch), *by))

        self._session.change(step)

    def _settled(self, n_asked: int, started: Started) -> None:
        if started.n_slots >= n_asked:
            return
        error = started.error or LaunchError("the platform gives no reason")
        if started.n_slots:
            self._warn(f"fewer workers were started than asked for: slots={started.n_slots}, asked={n_asked}: {error}")
            self._trials.lacked_room()
        else:
            self._could_not_start(error)

    def _warn(self, words: str) -> None:
        """Log a warning, once for each message."""
        if words not in self._warned:
            if len(self._warned) >= _WARNINGS_KEPT:
                self._warned.clear()
            self._warned.add(words)
            _log.warning("%s: session=%s", words, self._session.session_id)

    def _could_not_start(self, error: Exception) -> None:
        """Break the session, unless other workers are alive: then try again after a pause."""
        manifest = self._session.manifest
        reason = f"no worker could be started: {error}"
        if self._n_slots_alive(manifest) > 0:
            self._warn(f"{reason}; the others go on")
            self._trials.lacked_room()
        else:
            self._error = error if isinstance(error, LaunchError | BudgetExceeded) else LaunchError(str(error))
            self._break(refusal_reason(error) if isinstance(error, BudgetExceeded) else reason)

    # --- the first beat -----------------------------------------------------------------------------------------------

    def _listen(self, manifest: Manifest) -> None:
        """Look for the first beat. If live workers do not beat within `launch_s`, break the session."""
        if self._heard or self._clock.monotonic() < self._next_hearing:
            return
        keys, now = self._worker_keys(), self._clock.monotonic()
        if self._silent_s is None:
            # Another client started them.
            self._silent_s, self._listened_at = 0.0, now
        self._silent_s += min(now - self._listened_at, _HEARD_NOTHING_MOST_S)
        self._listened_at, self._next_hearing = now, now + _HEARING_S
        if keys - self._before:
            self._hear()
        elif self._silent_s <= self._timings.launch_s or self._going is not None:
            return
        elif any(map(self._is_alive, keys)):
            # Earlier workers do the work.
            self._hear()
        else:
            self._break(self._silence(manifest))

    def _hear(self) -> None:
        self._heard = True
        self._trials.heard()

    def _silence(self, manifest: Manifest) -> str:
        name = self._launcher.name
        reasons = [str(self._error)] if self._error is not None else []
        reasons += [self._launcher.describe(handle) for handle in self._handles(manifest)]
        words = "; ".join(filter(None, reasons))
        return f"no worker of launcher {name!r} was heard of within {self._timings.launch_s:g} s" + (
            f": {words}" if words else ""
        )

    def _others_work(self) -> bool:
        """Whether workers are alive that this client's launcher did not start. Store: 1 LIST; nothing between two looks."""
        now = self._clock.monotonic()
        if now >= self._next_others_look:
            self._next_others_look = now + self._timings.look_s
            signs = list_workers(self._session)
            self._sees_others = any(not sign.has_left and self._is_alive(sign.key) for sign in signs)
        return self._sees_others

    def _is_alive(self, worker_key: str) -> bool:
        return not self._watcher.watch.is_lost(worker_key.rpartition("/")[2])

    def _worker_keys(self) -> frozenset[str]:
        return frozenset(line.key for line in self._session.store.list(self._session.keys.workers))

    def end_silent(self) -> None:
        """Stop and log each worker without a first beat for `launch_s`; called after a look at the beats. It no longer counts
        or costs anything, and is replaced. If no worker has beaten at all, `_listen` decides instead.

        Store: nothing; 1 LIST before a worker is stopped. The platform: as for `deaths`.
        """
        now = self._clock.monotonic()
        since, self._looked_at = self._looked_at, now
        if since is not None:
            # While the store is away no worker can beat.
            self._listened_s += min(now - since, 2 * self._timings.beat_s)
        launcher = self._launcher
        if not self._heard or not isinstance(launcher, StopsOne):
            return
        handles = self._handles(self._session.manifest)
        expected = {worker_id: handle for handle in handles for worker_id in launcher.expected(handle)}
        heard = self._watcher.watch.known()
        silent = {worker_id: handle for worker_id, handle in expected.items() if worker_id not in heard}
        self._expected_since = {name: self._expected_since.get(name, self._listened_s) for name in silent}
        due = [name for name in silent if self._listened_s - self._expected_since[name] >= self._timings.launch_s]
        # A worker may have beaten since that look.
        heard = {key.rpartition("/")[2] for key in self._worker_keys()} if due else set()
        for worker_id in due:
            if worker_id in heard:
                continue
            handle = silent[worker_id]
            words = f"no beat within {self._timings.launch_s:g} s"
            if launcher.give_up(handle, worker_id, words):
                _log.warning("a worker says nothing and is stopped: worker=%s, %s", worker_id, words)
            else:
                self._warn(f"a worker says nothing and cannot be stopped alone: worker={worker_id}, {words}")

    # --- counting slots -----------------------------------------------------------------------------------------------

    def _handles(self, manifest: Manifest) -> list[str]:
        """Return the handles of this client's launcher."""
        launches = [launch for launch in manifest.launches if launch.launcher == self._launcher.name]
        return list(filter(None, map(self._handle_of, launches)))

    def _handle_of(self, launch: Launch) -> str:
        return handle_of(self._session.sealer, launch)

    def _n_slots_alive(self, manifest: Manifest) -> int:
        return sum(map(self._slots_of, manifest.launches))

    def _slots_of(self, launch: Launch) -> int:
        """Return the number of a launch's slots that are alive or on their way."""
        if launch.launcher != self._launcher.name:
            # This client cannot ask another launcher: its workers count while any worker of the session beats.
            is_young = self._clock.now() - launch.at < self._timings.launch_s
            return launch.slots if is_young or self._watcher.watch.living() else 0
        if not launch.settled and not self._is_abandoned(launch):
            return launch.slots
        handle = self._handle_of(launch)
        return self._launcher.slots_alive(handle) if handle else 0

    def _is_abandoned(self, launch: Launch) -> bool:
        """Whether a launch is unsettled and no client is working on it."""
        if launch.settled or launch.launcher != self._launcher.name:
            return False
        if self._going is not None and self._going.launch.launch_id == launch.launch_id:
            return False
        if launch.client in ("", self._client_id):
            return True
        intent = self._intents.get((launch.launch_id, launch.at))
        return intent is not None and (intent.is_left or intent.n_looks > _ABANDONED_LOOKS)

    def _look_at_intents(self, manifest: Manifest) -> Manifest:
        """Check whether the other clients that are starting workers are still alive; return the current manifest.

        # Guarantee: judged by this client's clock alone, and only looks that the store has answered count.
        """
        now = self._clock.monotonic()
        if now < self._next_intent_look or not any(map(self._is_anothers, manifest.launches)):
            return manifest
        manifest = self._session.refresh()
        self._next_intent_look = self._clock.monotonic() + _INTENT_LOOK_S
        others = [launch for launch in manifest.launches if self._is_anothers(launch)]
        looks = {key: intent.n_looks for key, intent in self._intents.items()}
        self._intents = {
            (launch.launch_id, launch.at): _Intent(
                looks.get((launch.launch_id, launch.at), 0) + 1, self._has_gone(launch.client)
            )
            for launch in others
        }
        return manifest

    def _is_anothers(self, launch: Launch) -> bool:
        return (
            not launch.settled
            and launch.launcher == self._launcher.name
            and launch.client not in ("", self._client_id)
            and (self._going is None or self._going.launch.launch_id != launch.launch_id)
        )

    def _has_gone(self, client_id: str) -> bool:
        """Whether a client has written that it left, or its process on this machine has ended. Store: 1 GET."""
        beat = read_client_beat(self._session, client_id)
        return beat is not None and (beat.left or bool(has_ended(beat.process)))

    def _break(self, reason: str) -> None:
        manifest = self._session.end(SessionState.BROKEN, reason)
        # Workers on their way would start, find the session over, and leave: they would cost money and do no work.
        for handle in self._handles(manifest):
            self._launcher.stop(handle, at_once=False)
        end_what_is_left(self._session, manifest)
