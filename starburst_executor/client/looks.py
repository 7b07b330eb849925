"""Looks at a session again and again: what has ended, when and how long it took, what runs, and what waits.

    listing of open epochs ──► changed objects ──GET, up to a bound──► a `Seen` of each ──┐
    listing of workers     ──► changed beats   ──GET, up to a bound──► reports            ─┴──► SessionStatus

All of it comes from the store, so no worker and no other client need be alive. Counts of tasks need no key; failures by kind do.

Cost: the first look reads every listing, and up to `_FIRST` objects; a later one lists the open epochs and reads what has changed, up to
`_LATER` objects. So it grows neither with the tasks that have ended nor with the number of workers. Where more objects have changed than
are read, their tasks are estimated from those that were read, and `SessionStatus.is_exact` is false; later looks read the rest.
Memory: about 700 bytes for each status object, and 12 bytes for each ended task of up to `_MOST_SEEN` of them.

Times of other machines' clocks are compared with this one's. No decision of the protocol depends on it.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from starburst_executor.client.crew import Crew
from starburst_executor.client.money import Cost, cost_of
from starburst_executor.client.reading import Block, Reading
from starburst_executor.client.report import SessionStatus
from starburst_executor.client.tally import RECENT_S, Seen, Tally, quantile, time_left
from starburst_executor.launch.local.processes import has_ended
from starburst_executor.protocol.records import Latency, Manifest, SessionState, WorkerBeat, WorkerState
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.session.beats import Sign, list_workers, read_beat
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.messages import unsent
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore

__all__ = ["Looks"]


class _Most(NamedTuple):
    """How many objects one look may read: status objects, ended ones as a sample of durations, and beats."""

    statuses: int
    sample: int
    beats: int


# With the listings and the manifest, a first look makes 1,000 requests at the most, up to 150,000 status objects; a later one 20.
_FIRST = _Most(600, 48, 200)
_LATER = _Most(8, 2, 4)
_MOST_SEEN = 4096
# Open epochs that a later look lists.
_MOST_LISTED = 6
# Up to this number of objects that look all pending are read to be sure: a corrupt one would look so for ever.
_FEW = 12
_COMPLETED = int(State.COMPLETED)


class Looks:
    """Looks at one session. Not thread-safe.

    Args:
        requests: Returns this client's own requests so far, by kind.
        beats_of: Reads the workers' beats, for a client that reads them in any case.
        dead: Returns which of the workers with these beats are certainly dead, in addition to those of which this machine knows.
        cost_of: Returns the cost by manifest and beats.
        take: Called with each status object that is read.
    """

    def __init__(
        self,
        session: SessionStore,
        requests: Callable[[], Mapping[str, int]] = dict,
        *,
        beats_of: Callable[[], list[WorkerBeat]] | None = None,
        dead: Callable[[list[WorkerBeat]], Collection[str]] = lambda _: (),
        cost_of: Callable[[Manifest, list[WorkerBeat]], Cost] | None = None,
        take: Callable[[Block], None] | None = None,
    ) -> None:
        self._session = session
        self._reading = Reading(session)
        self._requests = requests
        self._beats_of = beats_of
        self._dead = dead
        self._cost_of = cost_of
        self._take = take
        self._listing: dict[tuple[int, int], list[ListedStatus]] = {}
        self._open: set[tuple[int, int]] = set()
        self._seen: dict[str, Seen] = {}
        self._beats: dict[str, tuple[str, WorkerBeat | None]] = {}
        self._noted: dict[str, tuple[str, float]] = {}  # by worker, the newest ETag and when it was first listed
        self._began_at: float | None = None
        self._n_looks = 0
        self._listed_at: dict[tuple[int, int], int] = {}  # by epoch, the number of the look
        self._is_listed = True  # whether every epoch that may have changed was listed at the last look

    def look(self) -> SessionStatus:
        """Return the state of the session now.

        Store, at the first call: 1 LIST per 1,000 status objects, 1 GET for each that is partly pending, partly claimed or did not
        end well, and for 48 that did, up to 600 in all; 1 LIST per 1,000 workers, 1 GET a worker, up to 200; 1 GET. At later
        calls: 1 LIST an open epoch, up to 6; 1 GET for each changed object, up to 8; 1 LIST, 1 GET for each changed beat, up to 4; 1 GET.
        """
        most = _LATER if self._n_looks else _FIRST
        manifest = self._session.manifest.refresh()
        listing = self._list(manifest)
        now = self._session.clock.now()
        self._read(listing, most, now)
        crew = self._crew(manifest, most, now)
        self._n_looks += 1
        tally = Tally(listing, self._seen, now)
        tally.is_exact = tally.is_exact and self._is_listed
        # What was read before may not be read again, and what began first began before that.
        known = [at for at in (self._began_at, tally.began_at) if at is not None]
        tally.began_at = self._began_at = min(known, default=None)
        return self._report(manifest, tally, crew, now)

    @property
    def listing(self) -> list[ListedStatus]:
        """Every status object, in submission order, as the looks so far have listed them. Store: nothing."""
        return [listed for epoch in sorted(self._listing) for listed in self._listing[epoch]]

    # --- reading ------------------------------------------------------------------------------------------------------

    def _list(self, manifest: Manifest) -> list[ListedStatus]:
        open_now = set(manifest.open_epochs())
        epochs = self._reading.epochs(manifest)
        unlisted: set[tuple[int, int]] = set()
        if not self._n_looks:
            grouped: dict[tuple[int, int], list[ListedStatus]] = {epoch: [] for epoch in epochs}
            for listed in self._session.statuses.all():
                grouped.setdefault((listed.ref.ordinal, listed.ref.epoch), []).append(listed)
            self._listing = grouped
        else:
            # An epoch is closed once all its tasks have ended, so it is listed a last time after that.
            stale = [epoch for epoch in epochs if epoch in open_now | self._open or epoch not in self._listing]
            # Workers take the oldest tasks first, so most changes are there; the others take turns.
            busy = [epoch for epoch in stale if not self._has_ended(epoch)]
            oldest = busy[: _MOST_LISTED // 2]
            others = [epoch for epoch in stale if epoch not in oldest]
            others.sort(key=lambda epoch: (self._has_ended(epoch), self._listed_at.get(epoch, -1)))
            listed_now = [*oldest, *others[: _MOST_LISTED - len(oldest)]]
            listings = fan_out(self._session.store, self._reading.listing, listed_now)
            self._listing.update(zip(listed_now, listings, strict=True))
            self._listed_at.update(dict.fromkeys(listed_now, self._n_looks))
            unlisted = set(stale) - set(listed_now)
        self._is_listed = all(map(self._has_ended, unlisted))
        # Those that were closed since and are not listed yet stay on the list.
        self._open = open_now | unlisted
        return self.listing

    def _has_ended(self, epoch: tuple[int, int]) -> bool:
        """Whether every task of an epoch had ended when it was listed. New ones, or retried ones, are found when its turn comes."""
        known = self._listing.get(epoch)
        return known is not None and all(listed.size_class.has_ended for listed in known)

    def _read(self, listing: Sequence[ListedStatus], most: _Most, now: float) -> None:
        n_pending = sum(listed.size_class == SizeClass.ALL_PENDING for listed in listing)
        wanted: list[ListedStatus] = []
        sample: list[ListedStatus] = []
        recent: list[ListedStatus] = []
        for listed in listing:
            seen = self._seen.get(listed.key)
            if seen is not None and seen.etag == listed.etag:
                continue
            if listed.size_class == SizeClass.ALL_COMPLETED:
                (recent if listed.modified_at > now - RECENT_S else sample).append(listed)
            elif listed.size_class != SizeClass.ALL_PENDING or n_pending <= _FEW:
                wanted.append(listed)
        # What runs before what has failed, and the newest of both first: the rest is estimated from what was read before.
        wanted.sort(key=lambda listed: (listed.size_class.has_ended, -listed.modified_at))
        wanted = wanted[: most.statuses]
        n_sample = min(most.sample, max(0, most.statuses - len(wanted)))
        for pool, n in ((recent, n_sample // 2), (sample, n_sample - n_sample // 2)):
            wanted += self._some(pool, n)
        for block in self._reading.blocks(wanted):
            self._seen[block.listed.key] = self._digest(block)
            if self._take is not None:
                self._take(block)
        while len(self._seen) > _MOST_SEEN:
            del self._seen[next(iter(self._seen))]

    def _some(self, pool: Sequence[ListedStatus], n: int) -> list[ListedStatus]:
        """Return the first of these, and others by lot."""
        if len(pool) <= n:
            return list(pool)
        chosen = {0} if n else set()
        while len(chosen) < n:
            chosen.add(int(self._session.clock.random() * len(pool)))
        return [pool[i] for i in sorted(chosen)]

    def _digest(self, block: Block) -> Seen:
        # Up to 2,048 tasks an object and 600 objects a look, so by columns.
        _, _, states, runs, _, failures, losses, _, claims, times, seconds = zip(*block.tasks, strict=True)
        seen = Seen(block.listed.etag, Counter({state: n for state in State if (n := states.count(state))}))
        seen.losses = sum(losses)
        seen.retries = sum(failures) + sum(runs) - len(runs)
        if any(failures):
            # The last failure of a task that has failed is not tried again.
            seen.retries -= sum(n > 0 for state, n in zip(states, failures, strict=True) if state is State.FAILED)
        n_ended = sum(seen.counts[state] for state in (State.COMPLETED, State.FAILED, State.CANCELLED))
        if n_ended == len(states) and all(claims):
            seen.ended_at, seen.seconds = array("d", sorted(times)), array("f", seconds)
        elif n_ended:
            ended = [i for i, state in enumerate(states) if state >= _COMPLETED]
            seen.ended_at = array("d", sorted(times[i] for i in ended))
            seen.seconds = array("f", [seconds[i] for i in ended if claims[i]])
        # What has not ended has no duration yet.
        began = [at - task_s for claim, at, task_s in zip(claims, times, seconds, strict=True) if claim and at]
        seen.began_at = min(began, default=None)
        if seen.counts[State.FAILED] and (self._reading.has_key or block.problem):
            for task in block.tasks:
                if task.state is State.FAILED:
                    failure = self._reading.failure(block, task, may_fetch=False)
                    seen.kinds[failure.type_name.rpartition(".")[2] if failure else "not read"] += 1
        if seen.counts[State.CLAIMED]:
            seen.running = list(_running(block))
        return seen

    def _crew(self, manifest: Manifest, most: _Most, now: float) -> Crew:
        session = self._session
        if self._beats_of is not None:
            beats, signs = self._beats_of(), []
        else:
            signs = list_workers(session)
            changed = [sign for sign in signs if self._beats.get(sign.owner, ("", None))[0] != sign.etag]
            # Those that live first; of these, those that were read longest ago.
            order = {owner: i for i, owner in enumerate(self._beats)}
            changed.sort(key=lambda sign: (sign.has_left, order.get(sign.owner, -1)))
            read = changed[: most.beats]
            for sign, pair in zip(read, fan_out(session.store, partial(_beat, session), read), strict=True):
                self._beats.pop(sign.owner, None)
                self._beats[sign.owner] = (sign.etag, None) if pair is None else (pair[1], pair[0])
            beats = [beat for sign in signs if (beat := self._beats.get(sign.owner, ("", None))[1]) is not None]
            self._note(signs, now)
        dead = {*self._dead(beats), *(beat.worker_id for beat in beats if has_ended(beat.process))}
        left = {sign.owner for sign in signs if sign.has_left}
        timings = manifest.timings
        lost_s = timings.look_s * (timings.looks_until_lost + 1)
        states = {}
        for beat in beats:
            if beat.state == WorkerState.LEFT or beat.worker_id in left:
                states[beat.worker_id] = "left"
            elif beat.worker_id in dead or now - max(beat.at, self._heard_at(beat.worker_id)) >= lost_s:
                states[beat.worker_id] = "lost"
            else:
                states[beat.worker_id] = beat.state.value
        n_unseen = sum(
            not sign.has_left and sign.owner not in states and now - self._noted[sign.owner][1] < lost_s
            for sign in signs
        )
        return Crew(beats, states, dead, n_unseen)

    def _note(self, signs: Sequence[Sign], now: float) -> None:
        """Note when each worker's newest beat was first listed: what has not been read yet may be old, but its worker is alive."""
        before = self._noted
        self._noted = {
            sign.owner: noted if (noted := before.get(sign.owner, ("", 0.0)))[0] == sign.etag else (sign.etag, now)
            for sign in signs
        }

    def _heard_at(self, worker_id: str) -> float:
        """Return when a beat was first listed that was not read; 0 if the newest one was read."""
        etag, at = self._noted.get(worker_id, ("", 0.0))
        return at if etag != self._beats.get(worker_id, ("", None))[0] else 0.0

    # --- reporting ----------------------------------------------------------------------------------------------------

    def _report(self, manifest: Manifest, tally: Tally, crew: Crew, now: float) -> SessionStatus:
        counts = tally.counts
        # Any client or worker that looks at it ends it; until then it only seems to be open.
        is_due = manifest.deadline_at is not None and now >= manifest.deadline_at and not manifest.state.is_over
        state = SessionState.EXPIRED if is_due else manifest.state
        n_left = counts[State.PENDING] + counts[State.CLAIMED]
        n_ended = tally.n_tasks - n_left
        running = crew.running(tally, now)
        workers = crew.reports(running, now, are_all=tally.is_exact)
        alive = [worker for worker in workers if worker.is_alive]
        slots = sum(worker.slots for worker in alive)
        slots += round(slots / len(alive) * crew.n_unseen) if alive else crew.n_unseen
        began_at = tally.began_at if tally.began_at is not None else manifest.created_at
        per_s = tally.n_recent / min(RECENT_S, max(1.0, now - began_at))
        until = now if n_left and not state.is_over else tally.last_at or now
        alive_beats = [beat for beat in crew.beats if crew.states[beat.worker_id] not in ("left", "lost")]
        seconds = sorted(tally.seconds)
        p90_s = quantile(seconds, 0.9)
        # Once all workers have gone nothing ends, whatever the rate was. A client may have read no beat yet.
        if state.is_over or (crew.beats and not slots):
            left_s: tuple[float, float | None, float | None] | None = None
        else:
            left_s = time_left(n_left, per_s, tally.n_recent, slots, seconds, [ran_s for _, _, ran_s in running])
        requests = Counter(self._requests())
        for beat in crew.beats:
            requests.update(beat.requests)
        longest = max(running, key=lambda each: each[2], default=None)
        n_running = min(len(running), counts[State.CLAIMED])
        if not tally.is_exact:
            # Claims in objects that were not read: a worker that has any runs one on each slot.
            n_running = max(n_running, min(counts[State.CLAIMED], sum(w.slots for w in alive if w.state == "working")))
        return SessionStatus(
            id=manifest.session_id,
            name=manifest.name,
            state=state.value,
            total=tally.n_tasks,
            pending=counts[State.PENDING],
            claimed=counts[State.CLAIMED],
            running=n_running,
            completed=counts[State.COMPLETED],
            failed=counts[State.FAILED],
            cancelled=counts[State.CANCELLED],
            workers=len(alive) + crew.n_unseen,
            slots=slots,
            per_s=per_s,
            seconds_left=None if left_s is None else left_s[0],
            cost=self._cost(manifest, crew, requests, now),
            vcpus=sum(beat.vcpus for beat in alive_beats),
            memory_gb=sum(beat.memory_gb for beat in alive_beats),
            gpus=sum(beat.gpus for beat in alive_beats),
            at=now,
            created_at=manifest.created_at,
            reason=manifest.reason or ("absolute_timeout passed" if state == SessionState.EXPIRED else ""),
            deadline_at=manifest.deadline_at,
            is_exact=tally.is_exact,
            unsent=tuple(unsent(manifest)),
            per_s_overall=n_ended / max(1.0, until - began_at) if n_ended else 0.0,
            seconds_left_least=None if left_s is None else left_s[1],
            seconds_left_most=None if left_s is None else left_s[2],
            median_s=quantile(seconds, 0.5),
            p90_s=p90_s,
            longest_running=None if longest is None else (longest[1], longest[2]),
            idle=sum(worker.state == "idle" for worker in alive),
            lost=sum(worker.state == "lost" for worker in workers),
            hosts=tuple(Counter(worker.host for worker in alive).most_common()),
            utilisation=min(1.0, n_running / slots) if slots else None,
            failures=tally.kinds if self._reading.has_key else None,
            retries=tally.retries,
            losses=tally.losses,
            requests=dict(requests),
            **_latency(alive_beats),
            members=tuple(workers),
        )

    def _cost(self, manifest: Manifest, crew: Crew, requests: Mapping[str, int], now: float) -> Cost:
        if self._cost_of is not None:
            return self._cost_of(manifest, crew.beats)
        return cost_of(manifest, now, crew.beats, crew.dead, requests, self._session.store.url)


def _latency(beats: Iterable[WorkerBeat]) -> dict[str, float | None]:
    """Return the mean milliseconds of a read and of a write within the last minute, over these workers."""
    total = Latency(*map(sum, zip(*(beat.latency for beat in beats), strict=True)))
    return {
        "read_ms": total.read_us / total.n_reads / 1000 if total.n_reads else None,
        "write_ms": total.write_us / total.n_writes / 1000 if total.n_writes else None,
    }


def _beat(session: SessionStore, sign: Sign) -> tuple[WorkerBeat, str] | None:
    return read_beat(session, sign.key)


def _running(block: Block) -> Iterator[tuple[str, str, float]]:
    """Yield, for each claim on these tasks, the first one that has not ended: a slot runs a claim's tasks in order. Its try has not begun
    before the last one failed.
    """
    ended_at: dict[str, float] = {}
    found: set[str] = set()
    for task in block.tasks:
        if task.has_ended:
            ended_at[task.claim] = max(task.at, ended_at.get(task.claim, 0.0))
        elif task.state == State.CLAIMED and task.claim not in found:
            found.add(task.claim)
            failed = block.attempts(task) if task.failures else ()
            failed_at = failed[-1].at if failed else 0.0
            yield task.worker, task.id, max(task.at, ended_at.get(task.claim, 0.0), failed_at)
