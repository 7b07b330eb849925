"""Explains why tasks wait: no workers, no capacity, other tasks, a limit, resources, a pause before a retry, a claim, the budget, the session's end.

Reads the store and changes nothing. Needs no key.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from starburst_executor.client.reading import Block, Reading, Task, parse_task
from starburst_executor.client.report import SessionStatus, WorkerReport, amount, duration
from starburst_executor.protocol.attempts import Attempt
from starburst_executor.protocol.keys import task_id
from starburst_executor.protocol.options import Backoff
from starburst_executor.protocol.records import Launch, Manifest
from starburst_executor.protocol.resources import amounts_of, are_met
from starburst_executor.protocol.spans.after import Upstream, upstream_of
from starburst_executor.protocol.spans.record import BLOCKED, State
from starburst_executor.session.beats import Beats
from starburst_executor.session.store import SessionStore
from starburst_executor.store.url import join_url
from starburst_executor.texts import shortened

__all__ = ["explain_session", "explain_task"]

_MESSAGE_CHARACTERS = 300

# Fewer tasks than this share of what the session may cost are not worth a word.
_NEAR_BUDGET = 0.9
_SHOWN_ATTEMPTS = 5
# The number of tasks that are named of those for which another waits.
_MOST_NAMED = 5


def explain_session(session: SessionStore, status: SessionStatus) -> list[str]:
    """Return sentences that tell why tasks of a session wait, the most important first; at least one."""
    sentences = list(_of_session(session, session.manifest.current, status))
    if status.pending and _has_free_slots(status):
        sentences.append(
            f"a task may also wait for other tasks, a limit, resources or its next try: `starburst explain {status.id} TASK` says for what"
        )
    return sentences


def _has_free_slots(status: SessionStatus) -> bool:
    return status.workers > 0 and status.running < status.slots


def _of_session(session: SessionStore, manifest: Manifest, status: SessionStatus) -> Iterator[str]:
    if status.state not in ("open", "closing"):
        yield f"the session is {status.state}{f': {status.reason}' if status.reason else ''}; nothing of it runs any more"
        return
    if not status.total:
        yield "no task was submitted yet"
        return
    if status.ended == status.total:
        yield "nothing waits: all tasks have ended"
        return
    url = join_url(session.store.url, session.session_id)
    if not status.workers:
        yield from _no_workers(manifest, status, url)
    elif not status.pending:
        yield f"nothing waits: workers hold the last {amount(status.claimed, 'task')}, and {status.running:,} of them {_are(status.running)} running"
    elif status.running >= status.slots:
        yield (
            f"every slot is busy ({amount(status.slots, 'slot')} of {amount(status.workers, 'worker')}), so {_waiting(status.pending)} for one; "
            f"`starburst scale {status.id} N` allows more than {manifest.slots:,} at once"
        )
    else:
        n_free = status.slots - status.running
        yield (
            f"{n_free:,} of {amount(status.slots, 'slot')} {_are(n_free)} free, and idle workers look for tasks within seconds: "
            f"{_waiting(status.pending)} to be claimed"
        )
    yield from _others(manifest, status)


def _no_workers(manifest: Manifest, status: SessionStatus, url: str) -> Iterator[str]:
    waiting = [launch for launch in manifest.launches if not launch.settled or launch.started]
    if manifest.launcher == "none":
        yield f"no worker is there, and this session starts none itself: `starburst worker {shlex.quote(url)}` on any machine with its key joins"
    elif waiting and not status.members:
        launch = max(waiting, key=lambda launch: launch.at)
        yield _starting(launch, status)
    else:
        last = max((worker.beat_at for worker in status.members), default=None)
        since = "" if last is None else f"; the last one was heard of {duration(max(0.0, status.at - last))} ago"
        yield (
            f"no worker is alive{since}, and workers are started only while a client is attached: `starburst attach {status.id}` "
            "starts them"
        )
    words = [worker.words for worker in status.members if worker.words]
    if words:
        yield f"{amount(len(words), 'worker')} could not go on; the last one said: {words[-1]}"


def _starting(launch: Launch, status: SessionStatus) -> str:
    ago = duration(max(0.0, status.at - launch.at))
    if launch.started < launch.slots:
        return (
            f"workers for {amount(launch.slots, 'task')} were requested from {launch.launcher} {ago} ago, and {launch.started:,} of them started: "
            f"the platform has no capacity for more yet, or the client that starts them has gone: `starburst attach {status.id}` goes on with it"
        )
    was, has = ("was", "has") if launch.slots == 1 else ("were", "have")
    return f"{amount(launch.slots, 'slot')} {was} started on {launch.launcher} {ago} ago and {has} not reported yet"


def _others(manifest: Manifest, status: SessionStatus) -> Iterator[str]:
    if status.trouble:
        yield status.trouble
    if status.lost:
        timings = manifest.timings
        yield (
            f"{amount(status.lost, 'worker')} {_are(status.lost)} lost: the tasks run again once another worker, or an attached client, has seen no beat "
            f"for {timings.look_s * timings.looks_until_lost:.0f} s"
        )
    budget_usd = manifest.budget_usd
    if budget_usd is not None and status.cost.workers_usd > _NEAR_BUDGET * budget_usd:
        yield f"its workers have cost about ${status.cost.workers_usd:.2f} of a budget of ${budget_usd:.2f}, at which it ends"
    if manifest.max_hourly_cost is not None and status.slots < manifest.slots:
        yield f"max_hourly_cost of ${manifest.max_hourly_cost:.2f} may keep further workers from being started"
    if manifest.deadline_at is not None:
        left_s = manifest.deadline_at - status.at
        yield f"it expires in {duration(max(0.0, left_s))}: `starburst extend {status.id} 12h` gives it more time"
    yield f"its workers need Python {manifest.python}"


def explain_task(reading: Reading, status: SessionStatus, name: str, *, with_run: bool = True) -> list[str]:
    """Return sentences that tell what became of one task, and why it waits.

    Args:
        with_run: Whether to say where it runs, what it has reported, and why earlier attempts failed; if not, a caller shows that itself.

    Raises: ConfigError if there is no such task. Store: as `Reading.find`; 1 GET more for a failure that is too big to be inline.
    """
    parse_task(name)
    block, task = reading.find(name)
    failed = block.attempts(task)
    manifest = reading.session.manifest.current
    workers = {worker.id: worker for worker in status.members}
    worker = workers.get(task.worker)
    is_running = worker is not None and worker.is_alive and any(run.id == task.id for run in worker.tasks)
    attempt = block.attempt(task)
    pause_s = _pause_left_s(task, failed, manifest, status.at)
    sentences = list(_of_task(task, attempt, manifest, worker, status, pause_s)) if with_run or not is_running else []
    for earlier in failed[-_SHOWN_ATTEMPTS:] if with_run else ():
        ago = duration(max(0.0, status.at - earlier.at))
        sentences.append(f"its attempt {earlier.attempt} failed {ago} ago on worker {earlier.worker}: {earlier.error}")
    if with_run and task.state == State.FAILED:
        sentences.append(_why_failed(reading, block, task))
    if task.run > 1:
        sentences.append(f"it was retried by hand: this is run {task.run}")
    if task.losses:
        sentences.append(
            f"{amount(task.losses, 'worker')} {'was' if task.losses == 1 else 'were'} lost that may have run it; at {manifest.max_losses} it fails with WorkerLost"
        )
    if task.refusals:
        sentences.append(f"{amount(task.refusals, 'worker')} could not load its function")
    if task.state == State.PENDING:
        conditions = list(_conditions(reading.session, block, task, status))
        sentences += conditions
        if not conditions or not _has_free_slots(status):
            sentences += _of_session(reading.session, manifest, status)
    return sentences


def _why_failed(reading: Reading, block: Block, task: Task) -> str:
    if not reading.has_key and not block.problem:
        return "why it failed needs the session's key"
    failure = reading.failure(block, task)
    if failure is None:
        return "why it failed is not stored"
    message = shortened(" ".join(failure.message.split()), _MESSAGE_CHARACTERS)
    return f"it failed with {failure.type_name.removeprefix('builtins.')}: {message}"


def _conditions(session: SessionStore, block: Block, task: Task, status: SessionStatus) -> Iterator[str]:
    """Yield what must happen before a worker may claim a task. Store: 1 GET if it has a limit; 1 LIST, 1 GET for each worker if it needs resources."""
    ref, stored = block.listed.ref, block.stored
    position = task.sequence - ref.first
    if stored is not None and stored.span(position).state == BLOCKED:
        upstream = upstream_of(stored).get(position, ())
        names = [_name_of(session, one) for one in upstream]
        yield f"it waits until {amount(len(names), 'other task')} {'has' if len(names) == 1 else 'have'} completed: {', '.join(names[:_MOST_NAMED])}{', …' if len(names) > _MOST_NAMED else ''}"
        return
    if task.at > status.at:
        yield f"its pause before the next try ends in {duration(task.at - status.at)}"
    if ref.limit and (limit := session.limits.read(ref.limit)) is not None:
        held = min(len(limit.holders), limit.most)
        yield f"at most {amount(limit.most, 'task')} with the limit {ref.limit!r} {'runs' if limit.most == 1 else 'run'} at once, and {held:,} of these places {_are(held)} taken"
    if ref.resources:
        yield from _about_resources(session, ref.resources, status)
    if ref.priority < 0:
        yield f"its priority is {ref.priority}: most tasks with a higher one start first"


def _about_resources(session: SessionStore, resources: str, status: SessionStatus) -> Iterator[str]:
    living = {worker.id for worker in status.members if worker.is_alive}
    beats = Beats(session).read(lambda worker_id: worker_id in living)
    n_with = sum(are_met(resources, beat.resources) for beat in beats)
    needs = ", ".join(f"{name}={wanted:,}" for name, wanted in amounts_of(resources))
    if n_with:
        yield f"it needs {needs}, which {n_with:,} of {amount(len(beats), 'worker')} {'has' if n_with == 1 else 'have'}: it waits until one of them has it free"
    elif beats:
        most = ", ".join(
            f"{name}={max(beat.resources.get(name, 0) for beat in beats):,}" for name, _ in amounts_of(resources)
        )
        yield (
            f"it needs {needs}, which no worker has; the most that one has: {most}. While a client is attached, it fails after "
            "`launch_timeout`; start a worker that has it, or submit it with less"
        )


def _name_of(session: SessionStore, upstream: Upstream) -> str:
    ref = session.keys.parse_status(session.keys.statuses + upstream.place)
    return upstream.place if ref is None else task_id(ref.ordinal, ref.first + upstream.position)


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _waiting(n_pending: int) -> str:
    return f"{amount(n_pending, 'task')} {'waits' if n_pending == 1 else 'wait'}"


def _tries_left(manifest: Manifest, task: Task) -> str:
    n_left = max(0, manifest.retries - task.failures + 1)
    return f"{amount(n_left, 'try')} {_are(n_left)} left"


def _pause_left_s(task: Task, failed: Sequence[Attempt], manifest: Manifest, now: float) -> float:
    """Return the most seconds until the next try of a task that keeps its claim meanwhile; 0 if that has begun, or there is none."""
    if task.state != State.CLAIMED or not failed or not task.failures or task.at > failed[-1].at:
        return 0.0  # claimed after the pause, for this try
    return max(0.0, failed[-1].at + _longest_pause_s(manifest, task.failures) - now)


def _longest_pause_s(manifest: Manifest, n_failures: int) -> float:
    timings = manifest.timings
    return Backoff(timings.retry_first_s, most=timings.retry_most_s).pause_s(n_failures)


def _of_task(
    task: Task, attempt: int, manifest: Manifest, worker: WorkerReport | None, status: SessionStatus, pause_s: float
) -> Iterator[str]:
    ago = duration(max(0.0, status.at - task.at)) if task.at else "some time"
    where = task.worker + (f" on {worker.host}" if worker is not None else "")
    if task.has_ended:
        by = f" by worker {where}" if task.worker else ""
        yield f"task {task.id} {task.state.name.lower()} {ago} ago{by}, after {duration(task.seconds)} in attempt {attempt}"
    elif task.state == State.PENDING:
        yield f"task {task.id} waits for a worker" + (
            f" again, after {amount(task.attempt, 'claim')}" if task.attempt else ""
        )
        if task.losses and task.losses >= manifest.max_losses - 1:
            yield "its last try needs a worker that runs nothing else"
    elif worker is not None and not worker.is_alive:
        yield f"task {task.id} is held since {ago} by worker {where}, which is {worker.state}; it runs again once its claim was taken back"
    elif pause_s:
        yield (
            f"task {task.id} failed in {amount(task.failures, 'try')} and waits on worker {where} for the next one, which begins within "
            f"{duration(pause_s)}; {_tries_left(manifest, task)}"
        )
    elif worker is not None and (found := next((each for each in worker.tasks if each.id == task.id), None)):
        yield f"task {task.id} runs on worker {where} for {duration(found.seconds)}, in attempt {attempt}"
        if found.note:
            yield f"it last reported: {found.note}"
    elif task.failures:
        paused = duration(_longest_pause_s(manifest, task.failures))
        yield (
            f"task {task.id} failed in {amount(task.failures, 'try')} and is tried again by worker {where}, which paused for "
            f"{paused} before that; {_tries_left(manifest, task)}"
        )
    else:
        yield f"task {task.id} was claimed {ago} ago by worker {where}, and waits for that worker's tasks before it"
