"""How a client keeps up the number of workers: it starts what is missing, and says why if it cannot.

    missing ─► intent in the manifest ─► step ─► handle in the manifest ─► step ─► … ─► settled ─► first beat
                                          └─► nothing can be started, or nobody is heard of in time ─► broken

Before workers are started an intent is swapped into the manifest, so that two clients do not both start them. It names
its client. One whose client has left, or is no more, is taken over at once: dropped if nothing was started, else gone on
with. Where that cannot be told, it is once it has not been renewed over twenty looks, a second apart.

What the ends of workers say of starting more is decided in `trials.py`.
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
from starburst_executor.protocol.money import refusal_reason, settled, without
from starburst_executor.protocol.records import Launch, Manifest, SessionState, WorkerBeat, WorkerState
from starburst_executor.session.repair import Watcher, end_what_is_left, read_beat, read_beats, read_client_beat
from starburst_executor.session.store import SessionStore

__all__ = ["Starter"]

_log = logging.getLogger(__name__)

# How often to look whether a worker that was started has been heard of. Of the time since the look before no more than
# the other counts: while the store was away nobody could be heard.
_HEARING_S, _HEARD_NOTHING_MOST_S = 0.5, 1.0
# A launch that is not settled and was not renewed over so many looks, a second apart, was left by a client that died.
_ABANDONED_LOOKS = 20
_INTENT_LOOK_S = 1.0
_RENEW_S = 5.0


@dataclass(slots=True)
class _Going:
    """A launch that this client is at: as it stands in the manifest, when its next step is due, and what it has taken.

    Attributes:
        taken_s: Time since it was begun, but for what the store took.
    """

    launch: Launch
    next_at: float
    renewed_at: float
    counted_at: float
    taken_s: float = 0.0


@dataclass(slots=True)
class _Intent:
    """Another client's unsettled launch: over how many looks it has stood as it does, and whether that client is gone."""

    n_looks: int
    is_left: bool


class Starter:
    """Starts a session's workers. Owned by the thread of `ClientKeeper`; not thread-safe.

    Args:
        order: What to start, for a launch's id and a number of slots.
        needs_workers: Whether there is work that is not done.
        watcher: Whose beats it has seen.
        introduce: Makes this client known to others, before an intent names it.

    Attributes:
        awaits_work: Nobody has been started, for want of work.
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
        self._trials = Trials(self._clock, self._timings.launch_s)
        self._silent_s: float | None = None  # how long no beat was heard of those that were started
        self._listened_at = 0.0
        self._heard = False
        self._before: frozenset[str] = frozenset()
        self._next_hearing = self._next_intent_look = self._next_others_look = float("-inf")
        self._sees_others = False
        self._intents: dict[tuple[str, float], _Intent] = {}  # by launch and its renewal
        self._listened_s = 0.0  # over all looks at the beats, but for what the store was away
        self._looked_at: float | None = None
        self._expected_since: dict[str, float] = {}  # workers never heard of, by `_listened_s`
        self._warned: set[str] = set()
        self._error: LaunchError | BudgetExceeded | None = None

    def turn(self) -> None:
        """Start as many workers as are missing, if there is work for them: the next step of that.

        Store: nothing mostly; 1 swap for the intent, 1 for each step, 1 every five seconds between two steps. While another
        client is starting some, 1 GET of the manifest, mostly a 304, and 1 of its beat each second.
        """
        manifest, needs_workers = self._session.manifest, self._needs_workers()
        self.awaits_work = not needs_workers and not manifest.launches
        if manifest.state == SessionState.OPEN and needs_workers:
            manifest = self._look_at_intents(manifest)
        else:
            # Nothing is to be done, and nothing to be asked of the launcher.
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
        """Whether a launch is under way that this client must go on with."""
        return self._going is not None

    def error(self) -> LaunchError | BudgetExceeded:
        """Why the session is broken, in the class of what kept workers from being started."""
        return type(self._error or LaunchError())(self._session.manifest.reason)

    def drain_surplus(self) -> None:
        """The number of workers has been changed: drain those that are too many, newest first."""
        manifest = self._session.manifest
        surplus = self._n_slots_alive(manifest) - manifest.workers
        for launch in reversed(manifest.launches):
            handle = self._handle_of(launch) if launch.launcher == self._launcher.name else ""
            if surplus > 0 and handle and self._slots_of(launch):
                surplus -= self._launcher.shed(handle, surplus)

    def saw_death(self, death: Death, beat: WorkerBeat | None) -> None:
        """A worker has died, whose last beat was this; None if it had not been heard of."""
        own = "" if beat is None else beat.words
        words = death.words if own in death.words else "; ".join(filter(None, [own, death.words]))
        end = end_of(death, beat)
        level = logging.INFO if end in (End.WORKED, End.LEFT) else logging.WARNING
        _log.log(level, "a worker has ended: worker=%s, %s", death.worker_id, words or "no last words")
        self._trials.ended(end, words, was_heard=beat is not None)
        if end is End.TAKEN:
            self._error = NoCapacity(words)
        elif end in (End.FAILED, End.KILLED) and self._silent_s is not None:
            self._error = LaunchError(words)

    def hand_over(self) -> None:
        """This client leaves: let others go on at once with what it was starting. Store: 1 swap, if there is any."""
        if (going := self._going) is not None:
            self._going = None
            is_begun = bool(self._handle_of(going.launch))
            self._replace(going.launch, [replace(going.launch, client="")] if is_begun else [])

    def recounted(self, manifest: Manifest) -> Manifest | None:
        """As `counted`; None if nothing is new."""
        counted = self.counted(manifest)
        return None if counted == manifest else counted

    def counted(self, manifest: Manifest) -> Manifest:
        """The manifest with as many interruptions of each launch as its engine knows of.

        Each client counts all that the engine still knows, and the highest count stands: two clients that see the same
        interruption do not count it twice.
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
        """Swap in an intent, or take over one that was left behind; then its first step."""
        launcher, at = self._launcher, self._clock.now()
        self._introduce()
        launch_id = new_launch_id(self._clock)
        mine: list[Launch] = []
        refusals: list[BudgetExceeded] = []
        beats = self._beats_of_paid()

        def intend(current: Manifest) -> Manifest | None:
            # Whoever lands first starts; the other sees it here.
            missing = current.workers - self._n_slots_alive(current)
            if current.state != SessionState.OPEN or missing <= 0:
                return None
            left = next((one for one in current.launches if self._is_abandoned(one) and self._handle_of(one)), None)
            rate = hourly_usd(launcher, missing) or 0.0
            fresh = Launch(
                launch_id, launcher.name, missing, "", at, since=at, usd_per_hour=rate, client=self._client_id
            )
            current = self.counted(current)
            left = left and next(one for one in current.launches if one.launch_id == left.launch_id)
            over = [one for one in current.launches if one != left and not self._slots_of(one)]
            kept = without(current, over, at, beats)
            if left is None:
                refusals[:] = filter(None, [self._too_dear(kept, rate)])
            if refusals:
                return None
            mine[:] = [fresh if left is None else replace(left, at=at, client=self._client_id)]
            return replace(kept, launches=(*(one for one in kept.launches if one != left), *mine))

        # Crash here: an intent without a handle; once its client is known to be gone it counts no more and the next one
        # starts anew.
        changed = self._session.change(intend)
        if refusals:
            self._could_not_start(refusals[0])
            return
        if not set(changed.launches).intersection(mine):
            return
        now = self._clock.monotonic()
        if self._heard or self._silent_s is None:
            # Beats of workers that were there before say nothing of those that are started now.
            self._before, self._heard, self._silent_s = self._worker_keys(), False, 0.0
            self._listened_at = now = self._clock.monotonic()
        self._going = _Going(mine[0], now, now, now)
        self._go_on(self._going)

    def _too_dear(self, manifest: Manifest, usd_more: float) -> BudgetExceeded | None:
        """Why no more workers may be started, besides those of these launches that live."""
        limit = manifest.max_hourly_cost
        now_usd = sum(one.usd_per_hour * self._slots_of(one) / max(1, one.slots) for one in manifest.launches)
        if limit is None or not usd_more or now_usd + usd_more <= limit:
            return None
        return BudgetExceeded(
            f"workers for about ${now_usd + usd_more:.2f} an hour would run, max_hourly_cost is ${limit:.2f}; ask for fewer "
            "or cheaper ones, or reattach with a larger max_hourly_cost"
        )

    def _beats_of_paid(self) -> list[WorkerBeat]:
        """The beats, if somebody has paid for workers that are gone. Store: nothing mostly; 1 LIST, 1 GET a worker."""
        launches = self._session.manifest.launches
        if any(one.usd_per_hour and not self._slots_of(one) for one in launches):
            return [beat for beat, _ in read_beats(self._session)]
        return []

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
            # What cannot be gone on with is forgotten if nothing was started, else left as it is.
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
        # Crash here: workers run that no handle names; whoever takes the launch over asks the engine for the same ones
        # again, and an engine that cannot tell finds them by their beats: they leave when idle.
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
            known = next((one for one in current.launches if one.launch_id == changed.launch_id), None)
            if known is not None and known != going.launch:
                return None
            # Also if it grew too old meanwhile and was dropped: these workers run, so they are to be found.
            others = tuple(one for one in current.launches if one != known)
            return replace(current, launches=(*others, changed))

        if changed in self._session.change(settle).launches:
            # While the store was away nothing could be started: that time does not count.
            going.launch, going.renewed_at = changed, self._clock.monotonic()
            going.counted_at = going.renewed_at
        else:
            self._going = None

    def _replace(self, launch: Launch, by: list[Launch]) -> None:
        """Swap a launch of ours for another, or for none, unless another client has taken it over."""

        def step(current: Manifest) -> Manifest | None:
            if launch not in current.launches:
                return None
            return replace(current, launches=(*(one for one in current.launches if one != launch), *by))

        self._session.change(step)

    def _settled(self, n_asked: int, started: Started) -> None:
        if started.n_slots >= n_asked:
            return
        error = started.error or LaunchError("the engine does not say why")
        if started.n_slots:
            self._warn(f"fewer workers were started than asked for: slots={started.n_slots}, asked={n_asked}: {error}")
            self._trials.lacked_room()
        else:
            self._could_not_start(error)

    def _warn(self, words: str) -> None:
        """Once for each cause, however often it is met."""
        if words not in self._warned:
            self._warned.add(words)
            _log.warning("%s: session=%s", words, self._session.session_id)

    def _could_not_start(self, error: Exception) -> None:
        """Break the session, unless others do the work: then try again in a while."""
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
        """Hear the first beat. Workers that live and say nothing for `launch_s` will not say anything."""
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
            # The others do the work.
            self._hear()
        else:
            self._break(self._silence(manifest))

    def _hear(self) -> None:
        self._heard = True
        self._trials.heard()

    def _silence(self, manifest: Manifest) -> str:
        name = self._launcher.name
        said = [str(self._error)] if self._error is not None else []
        said += [self._launcher.describe(handle) for handle in self._handles(manifest)]
        words = "; ".join(filter(None, said))
        return f"no worker of launcher {name!r} was heard of within {self._timings.launch_s:g} s" + (
            f": {words}" if words else ""
        )

    def _others_work(self) -> bool:
        """Whether workers are there that no launcher here has started. Store: 1 LIST, 1 GET for each that may be, or none."""
        now = self._clock.monotonic()
        if now >= self._next_others_look:
            self._next_others_look = now + self._timings.look_s
            beats = (read_beat(self._session, key) for key in self._worker_keys() if self._is_alive(key))
            self._sees_others = any(found is not None and found[0].state != WorkerState.LEFT for found in beats)
        return self._sees_others

    def _is_alive(self, worker_key: str) -> bool:
        return not self._watcher.watch.is_lost(worker_key.rpartition("/")[2])

    def _worker_keys(self) -> frozenset[str]:
        return frozenset(line.key for line in self._session.store.list(self._session.keys.workers))

    def end_silent(self) -> None:
        """After a look at the beats: stop each worker that was not heard of for `launch_s`, and say so. It counts no more,
        costs no more, and is replaced. While none at all is heard of, `_listen` says what becomes of the session.

        Store: nothing; 1 LIST before any is stopped. The engine: as its `deaths`.
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
        self._expected_since = {one: self._expected_since.get(one, self._listened_s) for one in silent}
        due = [one for one in silent if self._listened_s - self._expected_since[one] >= self._timings.launch_s]
        # It may have beaten since that look.
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

    # --- how many there are -------------------------------------------------------------------------------------------

    def _handles(self, manifest: Manifest) -> list[str]:
        """The handles that this launcher has given."""
        mine = [launch for launch in manifest.launches if launch.launcher == self._launcher.name]
        return list(filter(None, map(self._handle_of, mine)))

    def _handle_of(self, launch: Launch) -> str:
        return handle_of(self._session.sealer, launch)

    def _n_slots_alive(self, manifest: Manifest) -> int:
        return sum(map(self._slots_of, manifest.launches))

    def _slots_of(self, launch: Launch) -> int:
        """How many slots of these workers are there, or on their way."""
        if launch.launcher != self._launcher.name:
            # Nobody here can ask that launcher: its workers count as long as any worker is heard of.
            is_young = self._clock.now() - launch.at < self._timings.launch_s
            return launch.slots if is_young or self._watcher.watch.living() else 0
        if not launch.settled and not self._is_abandoned(launch):
            return launch.slots
        handle = self._handle_of(launch)
        return self._launcher.slots_alive(handle) if handle else 0

    def _is_abandoned(self, launch: Launch) -> bool:
        """Whether it is unsettled and nobody is at it."""
        if launch.settled or launch.launcher != self._launcher.name:
            return False
        if self._going is not None and self._going.launch.launch_id == launch.launch_id:
            return False
        if launch.client in ("", self._client_id):
            return True
        intent = self._intents.get((launch.launch_id, launch.at))
        return intent is not None and (intent.is_left or intent.n_looks > _ABANDONED_LOOKS)

    def _look_at_intents(self, manifest: Manifest) -> Manifest:
        """Look whether the clients that are starting workers are there still; the manifest as it then is.

        No clock but this client's own is trusted, and only looks that the store has answered count.
        """
        now = self._clock.monotonic()
        if now < self._next_intent_look or not any(map(self._is_anothers, manifest.launches)):
            return manifest
        manifest = self._session.refresh()
        self._next_intent_look = self._clock.monotonic() + _INTENT_LOOK_S
        others = [one for one in manifest.launches if self._is_anothers(one)]
        looks = {key: intent.n_looks for key, intent in self._intents.items()}
        self._intents = {
            (one.launch_id, one.at): _Intent(looks.get((one.launch_id, one.at), 0) + 1, self._has_gone(one.client))
            for one in others
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
        """Whether a client says that it has left, or its process on this machine is no more. Store: 1 GET."""
        beat = read_client_beat(self._session, client_id)
        return beat is not None and (beat.left or bool(has_ended(beat.process)))

    def _break(self, reason: str) -> None:
        manifest = self._session.end(SessionState.BROKEN, reason)
        # Whatever is on its way would come, find that the session is over, and leave: paid for, and of use to nobody.
        for handle in self._handles(manifest):
            self._launcher.stop(handle, at_once=False)
        end_what_is_left(self._session, manifest)
