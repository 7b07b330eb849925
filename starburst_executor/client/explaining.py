"""Explains why tasks wait: no workers, no capacity, a pause before a retry, a claim, the budget, the end of the session.

Reads the store and changes nothing. Needs no key.
"""

from __future__ import annotations

from collections.abc import Iterator

from starburst_executor.client.reading import Reading, Task, parse_task
from starburst_executor.client.report import SessionStatus, WorkerReport, duration
from starburst_executor.protocol.records import Launch, Manifest
from starburst_executor.protocol.spans.record import State
from starburst_executor.session.store import SessionStore
from starburst_executor.store.url import join_url

__all__ = ["explain_session", "explain_task"]

# Fewer tasks than this share of what the session may cost are not worth a word.
_NEAR_BUDGET = 0.9


def explain_session(session: SessionStore, status: SessionStatus) -> list[str]:
    """Return sentences that tell why tasks of a session wait, the most important first; at least one."""
    manifest = session.manifest.current
    return list(_of_session(session, manifest, status))


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
        yield f"nothing waits: workers hold the last {status.claimed:,} tasks, {status.running:,} of which run"
    elif status.running >= status.slots:
        yield (
            f"all {status.slots:,} slots of {status.workers:,} workers are busy, so {status.pending:,} tasks wait for one; "
            f"`starburst scale {status.id} N` allows more than {manifest.slots:,} at once"
        )
    else:
        yield (
            f"{status.slots - status.running:,} of {status.slots:,} slots are free, and idle workers look for tasks within seconds: "
            f"{status.pending:,} tasks wait to be claimed"
        )
    yield from _others(manifest, status)


def _no_workers(manifest: Manifest, status: SessionStatus, url: str) -> Iterator[str]:
    waiting = [launch for launch in manifest.launches if not launch.settled or launch.started]
    if manifest.launcher == "none":
        yield f"no worker is there, and this session starts none itself: `starburst worker {url}` on any machine with its key joins"
    elif waiting and not status.members:
        launch = max(waiting, key=lambda launch: launch.at)
        yield _starting(launch, status.at)
    else:
        last = max((worker.beat_at for worker in status.members), default=None)
        since = "" if last is None else f"; the last one was heard of {duration(max(0.0, status.at - last))} ago"
        yield (
            f"no worker is alive{since}, and workers are started only while a client is attached: `starburst attach {status.id}` "
            "starts them"
        )
    words = [worker.words for worker in status.members if worker.words]
    if words:
        yield f"{len(words)} workers could not go on; one said: {words[-1]}"


def _starting(launch: Launch, now: float) -> str:
    ago = duration(max(0.0, now - launch.at))
    if launch.started < launch.slots:
        return (
            f"workers for {launch.slots:,} tasks were requested from {launch.launcher} {ago} ago, and {launch.started:,} were started: "
            "the platform has no capacity for more yet, or the client that starts them has gone"
        )
    return f"{launch.slots:,} slots were started on {launch.launcher} {ago} ago and have not reported yet"


def _others(manifest: Manifest, status: SessionStatus) -> Iterator[str]:
    if status.lost:
        timings = manifest.timings
        yield (
            f"{status.lost:,} workers are lost: their tasks run again once another worker, or an attached client, has seen no beat of "
            f"theirs for {timings.look_s * timings.looks_until_lost:.0f} s"
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


def explain_task(reading: Reading, status: SessionStatus, name: str) -> list[str]:
    """Return sentences that tell what became of one task, and why it waits.

    Raises: ConfigError if there is no such task. Store: as `Reading.find`.
    """
    parse_task(name)
    _, task = reading.find(name)
    manifest = reading.session.manifest.current
    workers = {worker.id: worker for worker in status.members}
    sentences = list(_of_task(task, manifest, workers.get(task.worker), status))
    if task.run > 1:
        sentences.append(f"it was retried by hand: this is run {task.run}")
    if task.losses:
        sentences.append(
            f"{task.losses} workers were lost while they may have run it; at {manifest.max_losses} it fails with WorkerLost"
        )
    if task.refusals:
        sentences.append(f"{task.refusals} workers could not load its function")
    if task.state == State.PENDING:
        sentences += explain_session(reading.session, status)
    return sentences


def _of_task(task: Task, manifest: Manifest, worker: WorkerReport | None, status: SessionStatus) -> Iterator[str]:
    ago = duration(max(0.0, status.at - task.at)) if task.at else "some time"
    where = task.worker + (f" on {worker.host}" if worker is not None else "")
    if task.has_ended:
        by = f" by worker {where}" if task.worker else ""
        yield f"task {task.id} {task.state.name.lower()} {ago} ago{by}, after {duration(task.seconds)} in attempt {task.attempt}"
    elif task.state == State.PENDING:
        yield f"task {task.id} waits for a worker" + (f" again, after {task.attempt} claims" if task.attempt else "")
        if task.losses and task.losses >= manifest.max_losses - 1:
            yield "its last try needs a worker that runs nothing else"
    elif worker is not None and not worker.is_alive:
        yield f"task {task.id} is held since {ago} by worker {where}, which is {worker.state}; it runs again once its claim was taken back"
    elif worker is not None and (found := next((each for each in worker.tasks if each.id == task.id), None)):
        yield f"task {task.id} runs on worker {where} for {duration(found.seconds)}, in attempt {task.attempt}"
        if found.note:
            yield f"it last reported: {found.note}"
    elif task.failures:
        timings = manifest.timings
        pause_s = min(timings.retry_first_s * 2 ** (task.failures - 1), timings.retry_most_s)
        yield (
            f"task {task.id} failed {task.failures} times and is tried again by worker {where}, which paused for {duration(pause_s)} "
            f"before that; {max(0, manifest.retries - task.failures + 1)} tries are left"
        )
    else:
        yield f"task {task.id} was claimed {ago} ago by worker {where}, and waits for that worker's tasks before it"
