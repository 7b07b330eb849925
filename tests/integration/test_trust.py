"""What is sealed is checked before it is unpickled, keys are seen nowhere, and what is spoilt costs its task alone.

A stranger here is somebody who can write the store and has no key. Their every try is to run code: the payload is a
pickle that leaves a file behind, and no such file may ever be there.
"""

from __future__ import annotations

import base64
import logging
import os
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from starburst_executor import (
    ConfigError,
    DetachedExecutor,
    KeyNotFound,
    PayloadError,
    RecordInvalid,
    SessionNotFound,
    StarburstExecutor,
    VersionMismatch,
)
from starburst_executor.client.handles import sealed_handle
from starburst_executor.config import find_session_key, log_folder, user_key
from starburst_executor.protocol.records import Manifest
from starburst_executor.protocol.seal import SEAL_BYTES, Sealer
from starburst_executor.protocol.spans import blocks, encoding
from starburst_executor.protocol.spans.record import Entry, Located, Place, Status
from starburst_executor.session.store import SessionStore
from tests.sessions import descendants, detached, is_alive, local_pids, run_python, timings_for, wait_until, worker_pids
from tests.support.inside import engine_of, session_of
from tests.support.spans import with_call, with_outcome, with_spans

SQLITE = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
RUN_WORKER = "import sys; from starburst_executor.worker.__main__ import main; sys.exit(main(sys.argv[1:]))"
BIG = 200_000  # bytes: too many to inline


class Evil:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[bytes]:
    """A pickle that must never be loaded."""
    place = tmp_path / "unpickled"
    yield pickle.dumps(Evil(place))
    assert not place.exists()


def echo(value: Any) -> Any:
    return value


def twice(value: Any) -> Any:
    return value * 2


def hold(path: str, value: int) -> int:
    Path(f"{path}.{value}").touch()
    while not os.path.exists(path):
        time.sleep(0.01)
    return value


def waiting(store_url: str, *calls: tuple[Callable[..., Any], Any]) -> DetachedExecutor:
    """A session whose tasks are stored and that has no worker yet."""
    executor = detached(store_url, workers=1, launcher="none")
    for function, argument in calls:
        executor.submit(function, argument)
    executor.flush()
    return executor


def run(executor: DetachedExecutor) -> list[Any]:
    """Let workers have the session, as another process would: what each task came to."""
    executor.detach()
    again = DetachedExecutor.reattach(executor.url, launcher="local")
    outcomes = [future.exception(60) or future.result() for future in again.futures]
    again.cleanup(force=True)
    return outcomes


def key_of(executor: StarburstExecutor, index: int) -> tuple[str, int]:
    """The status object of a task, and its place there."""
    for group in session_of(executor).statuses.all():
        if group.ref.first <= index < group.ref.first + group.ref.n_tasks:
            return group.key, index - group.ref.first
    raise LookupError(index)


def entry_of(executor: StarburstExecutor, index: int) -> Entry:
    key, place = key_of(executor, index)
    found = session_of(executor).statuses.read(key)
    assert found is not None
    return found.status.entries[place]


def rewrite(executor: StarburstExecutor, index: int, change: Callable[[Status, int], Status]) -> None:
    """Change what is stored of a task, given its position, without any client's or worker's knowledge."""
    key, position = key_of(executor, index)
    assert session_of(executor).statuses.update(key, lambda seen: change(seen, position)) is not None


def function_of(executor: StarburstExecutor, index: int) -> str:
    """The digest of a task's function."""
    key, position = key_of(executor, index)
    current = session_of(executor).statuses.read(key).status
    return current.functions[current.span(position).function]


def call_of(executor: StarburstExecutor, index: int) -> Place:
    block = entry_of(executor, index).call
    assert block is not None
    return block.place


def outcome_of(executor: StarburstExecutor, index: int) -> Place:
    block = entry_of(executor, index).outcome
    assert block is not None
    return block.place


def in_another(seen: Status, position: int, **changes: int) -> Status:
    """Pretend that a task has ended in another run or attempt."""
    block, span = seen.entry(position).outcome, seen.span(position)
    assert block is not None
    changes = {name: getattr(span, name) + by for name, by in changes.items()}
    moved = tuple(other._replace(**changes) if other is block else other for other in seen.outcomes)  # type: ignore[arg-type]
    return replace(with_spans(seen, [position], **changes), outcomes=moved)


def body_of(session: SessionStore, key: str) -> bytes:
    stored = session.store.get(key)
    assert stored is not None
    return stored.body


def spoil(session: SessionStore, key: str, at: int) -> None:
    """Flip one bit of an object."""
    body = bytearray(body_of(session, key))
    body[at] ^= 1
    session.store.put(key, bytes(body))


def flipped(body: bytes) -> bytes:
    return body[:-3] + bytes([body[-3] ^ 1]) + body[-2:]


# --- keys -------------------------------------------------------------------------------------------------------------


def spellings(key: bytes) -> list[bytes]:
    """Every way in which a key might be written down, in part too."""
    whole = [
        key,
        key.hex().encode(),
        key.hex().upper().encode(),
        repr(key).encode(),
        base64.b64encode(key).rstrip(b"="),
    ]
    return [*whole, key[:12], key[-12:], key.hex()[:24].encode(), key.hex()[-24:].encode()]


def commands(pids: list[int]) -> bytes:
    shown = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, check=True).stdout
    for pid in pids:
        for name in ("cmdline", "environ"):
            with_proc = Path(f"/proc/{pid}/{name}")
            shown += with_proc.read_bytes() if with_proc.exists() else b""
    return shown


def raise_with(text: str) -> None:
    raise ValueError(text)


def test_no_key_is_seen_anywhere(store_url: str, caplog: pytest.LogCaptureFixture, starburst_home: Path) -> None:
    caplog.set_level(logging.DEBUG)
    executor = detached(store_url, workers=2, initializer=print, initargs=("initializer",))
    seen: list[str] = []
    futures = [executor.submit(echo, bytes(BIG)), executor.submit(print, "printed"), executor.submit(raise_with, "no")]
    seen += ["".join(traceback.format_exception(error)) for future in futures if (error := future.exception(60))]
    engine, session = engine_of(executor), session_of(executor)
    pids = worker_pids(executor)
    shown = commands([os.getpid(), *pids, *(below for pid in pids for below in descendants(pid))])
    order = engine._order("a launch", 1)
    for each in (
        executor,
        engine,
        engine.opened,
        engine.opened.store,
        session,
        session.sealer,
        engine.opened.key,
        order,
    ):
        seen += [repr(each), str(each)]
    for wrong in ("00" * 32, "not a key", bytes(31)):
        with pytest.raises((KeyNotFound, ConfigError)) as caught:
            DetachedExecutor.reattach(executor.url, key=wrong)
        seen += ["".join(traceback.format_exception(caught.value))]
    for each in (session.sealer, engine.opened.key):
        with pytest.raises(TypeError):
            pickle.dumps(each)
    seen += [str(vars(session)), str(executor.status()), caplog.text]
    objects = {line.key: body_of(session, line.key) for line in session.store.list("")}
    files = [path.read_bytes() for path in log_folder().rglob("*") if path.is_file()]
    files += [path.read_bytes() for path in starburst_home.rglob("*") if path.is_file() and path.name != "key"]
    if store_url.startswith("sqlite"):
        files += [path.read_bytes() for path in Path(store_url.removeprefix("sqlite://")).iterdir()]
    mine = user_key(create=False)
    assert mine is not None
    everything = b"\n".join([shown, *(text.encode() for text in seen), *objects.values(), *files])
    assert len(objects) >= 6
    assert b"manifest" in b"".join(key.encode() for key in objects)
    for spelling in [*spellings(bytes(find_session_key(executor.id))), *spellings(bytes(mine))]:
        assert spelling not in everything
    executor.cleanup(force=True)


def test_the_key_file_is_its_owners_alone(starburst_home: Path, tmp_path: Path) -> None:
    executor = DetachedExecutor(workers=1, store=f"sqlite://{tmp_path}/sessions", launcher="none")
    [path] = [path for path in starburst_home.rglob("key") if path.is_file()]
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        DetachedExecutor.reattach(executor.url)
    path.chmod(0o600)
    executor.cleanup(force=True)


@SQLITE
@pytest.mark.parametrize("started", ["locally", "by hand"])
def test_user_code_sees_no_key(store_url: str, started: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_around() -> str:
        seen = [repr(dict(os.environ)), subprocess.run(["env"], capture_output=True, text=True, check=True).stdout]
        for pid in ("self", os.getppid()):
            path = Path(f"/proc/{pid}/environ")
            seen.append(path.read_text(errors="replace") if path.exists() else "")
        return "\n".join([*seen, repr(sys.argv), repr(sys.orig_argv)])

    key = "5a" * 32
    monkeypatch.setenv("STARBURST_KEY", key)
    executor = detached(store_url, workers=1, launcher="local" if started == "locally" else "none")
    future = executor.submit(look_around)
    if started == "by hand":
        executor.flush()
        worker = run_python(RUN_WORKER, executor.url, "--slots", "1")
    seen = future.result(60)
    assert "PATH" in seen
    assert key not in seen
    if started == "by hand":
        worker.terminate()
        worker.communicate(timeout=60)
    executor.cleanup(force=True)


# --- payloads ---------------------------------------------------------------------------------------------------------


@SQLITE
@pytest.mark.parametrize("how", ["flipped", "replaced", "cut", "moved"])
def test_calls_that_were_changed_cost_the_tasks_of_their_block_alone(store_url: str, how: str, trap: bytes) -> None:
    executor = waiting(store_url, (echo, 1), (twice, 1), (echo, 3))  # neighbours with two functions: three blocks
    sealed, other = call_of(executor, 1), call_of(executor, 2)
    assert isinstance(sealed, bytes)
    changes: dict[str, Place] = {
        "flipped": flipped(sealed),
        "replaced": sealed[:SEAL_BYTES] + trap,
        "cut": sealed[: SEAL_BYTES - 1],
        "moved": other,
    }
    rewrite(executor, 1, lambda seen, position: with_call(seen, position, changes[how]))
    one, two, three = run(executor)
    assert (one, three) == (1, 3)
    assert isinstance(two, RecordInvalid)
    assert "kind=calls, place=0-1+1/" in str(two)


@pytest.mark.parametrize(
    ("store_url", "how"), [("sqlite", "flipped"), ("s3", "cut"), ("sqlite", "missing")], indirect=["store_url"]
)
@pytest.mark.parametrize("size", [BIG, BIG // 5], ids=["a piece", "whole"])
def test_a_big_call_that_was_changed_costs_its_task_alone(store_url: str, how: str, size: int) -> None:
    executor = waiting(store_url, (echo, b"1" * size), (echo, 2))
    session = session_of(executor)
    assert isinstance(call_of(executor, 0), Located) is (size < BIG)
    key, _ = key_of(executor, 0)
    ref = session.keys.parse_status(key)
    assert ref is not None
    calls = session.keys.calls(ref.status_id)
    if how == "flipped":
        spoil(session, calls, size // 2)
    elif how == "cut":
        session.store.put(calls, body_of(session, calls)[: size // 2])
    else:
        session.store.delete([calls])
    one, two = run(executor)
    assert isinstance(one, PayloadError if how == "missing" else RecordInvalid)
    assert "0-0" in str(one)
    assert two == 2


@SQLITE
@pytest.mark.parametrize("how", ["flipped", "replaced"])
def test_a_function_that_was_changed_costs_its_tasks_alone(store_url: str, how: str, trap: bytes) -> None:
    executor = waiting(store_url, (echo, 1), (twice, 2), (echo, 3))
    session = session_of(executor)
    found = session.statuses.read(key_of(executor, 1)[0])
    assert found is not None
    key = session.keys.function(found.status.functions[entry_of(executor, 1).function])
    if how == "flipped":
        spoil(session, key, -1)
    else:
        session.store.put(key, bytes(SEAL_BYTES) + b"\0" + trap)
    one, two, three = run(executor)
    assert (one, three) == (1, 3)
    assert isinstance(two, RecordInvalid)
    assert "kind=function" in str(two)


@SQLITE
def test_an_initializer_that_was_changed_ends_in_an_error_that_says_so(store_url: str, trap: bytes) -> None:
    executor = detached(store_url, workers=1, launcher="none", initializer=echo, initargs=(1,))
    session = session_of(executor)
    assert session.manifest.current.initializer is not None
    session.store.put(session.keys.function(session.manifest.current.initializer), bytes(SEAL_BYTES) + b"\0" + trap)
    executor.submit(echo, 1)
    executor.flush()
    [error] = run(executor)
    assert "wrong seal" in str(error)


def purge(path: str, really: bool = True) -> bool:
    """What its user only ever asks for with `really=False`."""
    if really:
        os.mkdir(path)
    return really


@SQLITE
@pytest.mark.parametrize("how", ["a function as initializer", "no initializer", "another initializer"])
def test_who_has_no_key_does_not_decide_what_runs_first(store_url: str, how: str, tmp_path: Path) -> None:
    """Only what was asked for in just that way: a function of a task is no initializer, and none is left out."""
    path = tmp_path / "purged"
    initializer = None if how == "a function as initializer" else echo
    executor = detached(
        store_url, workers=1, launcher="none", initializer=initializer, initargs=(1,) if initializer else ()
    )
    future = executor.submit(purge, str(path), really=False)
    executor.flush()
    session = session_of(executor)
    (group,) = session.statuses.all()
    found = session.statuses.read(group.key)
    assert found is not None
    digest = None if how == "no initializer" else found.status.functions[0]
    stranger = SessionStore(session.store, session.session_id, Sealer(b"", session.session_id), session.clock)
    stranger.manifest.change(
        lambda manifest: None if manifest.initializer == digest else replace(manifest, initializer=digest)
    )
    worker = run_python(RUN_WORKER, executor.url)
    assert worker.wait(60) != 0
    with pytest.raises(RecordInvalid, match="settings"):
        future.result(60)
    with pytest.raises(RecordInvalid, match="settings"):
        DetachedExecutor.reattach(executor.url, launcher="none")
    assert not path.exists()
    executor.detach()


@SQLITE
@pytest.mark.parametrize("how", ["index", "name", "body"])
def test_a_call_of_another_function_is_refused(store_url: str, how: str) -> None:
    """Both are sealed and of this session; that they belong together is sealed with the call."""
    executor = waiting(store_url, (echo, 1), (twice, 2), (echo, 3))
    session = session_of(executor)
    own, other = function_of(executor, 1), function_of(executor, 0)

    def at_another_index(seen: Status, position: int) -> Status:
        """The task's span and its call block name another function of the object, for which the block is not sealed."""
        functions, block = (*seen.functions, other), seen.entry(position).call
        moved = tuple(call._replace(function=len(seen.functions)) if call is block else call for call in seen.calls)
        return replace(with_spans(seen, [position], function=len(seen.functions)), functions=functions, calls=moved)

    def by_another_name(seen: Status, _: int) -> Status:
        return replace(seen, functions=tuple(other if digest == own else digest for digest in seen.functions))

    if how == "index":
        rewrite(executor, 1, at_another_index)
    elif how == "name":
        rewrite(executor, 1, by_another_name)
    else:
        session.store.put(session.keys.function(own), body_of(session, session.keys.function(other)))
    one, two, three = run(executor)
    assert (one, three) == (1, 3)
    assert isinstance(two, RecordInvalid)


def ended(store_url: str, *calls: tuple[Callable[..., Any], Any]) -> DetachedExecutor:
    """A session whose tasks have ended, as a client finds it that was not there."""
    with detached(store_url, workers=1) as executor:
        for future in [executor.submit(function, argument) for function, argument in calls]:
            future.exception(60)
    return DetachedExecutor.reattach(executor.url, launcher="none")


@SQLITE
@pytest.mark.parametrize("how", ["flipped", "replaced", "another task's", "another attempt's", "another run's"])
def test_outcomes_that_were_changed_cost_the_tasks_of_their_block_alone(store_url: str, how: str, trap: bytes) -> None:
    executor = ended(store_url, (echo, 1), (twice, 1), (echo, 3))
    sealed, other = outcome_of(executor, 1), outcome_of(executor, 2)
    assert isinstance(sealed, bytes)
    hostile = bytes(SEAL_BYTES) + b"".join(blocks.packed([b"V" + trap]))
    changes: dict[str, Callable[[Status, int], Status]] = {
        "flipped": lambda seen, position: with_outcome(seen, position, flipped(sealed)),
        "replaced": lambda seen, position: with_outcome(seen, position, hostile),
        "another task's": lambda seen, position: with_outcome(seen, position, other),
        "another attempt's": lambda seen, position: in_another(seen, position, attempt=1),
        "another run's": lambda seen, position: in_another(seen, position, run=1),
    }
    rewrite(executor, 1, changes[how])
    outcomes = executor.collect(wait=True, timeout=60)
    assert [outcome.value for outcome in outcomes] == [1, None, 3]
    assert isinstance(outcomes[1].error, RecordInvalid)
    assert "kind=outcomes, place=0-1+1/" in str(outcomes[1].error)
    executor.cleanup(force=True)


@SQLITE
def test_an_outcome_of_another_session_is_refused(store_url: str) -> None:
    mine, other = ended(store_url, (echo, 1)), ended(store_url, (echo, 2))
    foreign = entry_of(other, 0)
    assert foreign.outcome is not None
    block = foreign.outcome

    def replaced(seen: Status, position: int) -> Status:
        seen = with_spans(seen, [position], claim=foreign.claim, attempt=foreign.attempt)
        return replace(seen, outcomes=(block,))

    rewrite(mine, 0, replaced)
    [outcome] = mine.collect(wait=True, timeout=60)
    assert isinstance(outcome.error, RecordInvalid)
    mine.cleanup(force=True)
    other.cleanup(force=True)


@pytest.mark.parametrize(
    ("store_url", "how"),
    [("sqlite", "flipped"), ("s3", "cut"), ("sqlite", "missing"), ("sqlite", "elsewhere"), ("s3", "elsewhere")],
    indirect=["store_url"],
)
def test_a_big_outcome_that_was_changed_costs_its_task_alone(store_url: str, how: str) -> None:
    executor = ended(store_url, (echo, b"1" * BIG), (echo, 2))
    session, place = session_of(executor), outcome_of(executor, 0)
    assert isinstance(place, Located)
    [key] = [line.key for line in session.store.list(session.keys.folder) if "/outcomes/" in line.key]
    if how == "flipped":
        spoil(session, key, place.start + place.length // 2)
    elif how == "cut":
        session.store.put(key, b"")
    elif how == "missing":
        session.store.delete([key])
    else:
        far = place._replace(start=2**40, length=2**50)
        rewrite(executor, 0, lambda seen, position: with_outcome(seen, position, far))
    first, second = executor.collect(wait=True, timeout=60)
    assert isinstance(first.error, PayloadError if how == "missing" else RecordInvalid)
    assert second.value == 2
    executor.cleanup(force=True)


# --- metadata ---------------------------------------------------------------------------------------------------------


@SQLITE
@pytest.mark.parametrize("how", ["garbage", "pickle", "newer format", "another object's", "empty"])
def test_a_spoilt_status_object_costs_its_tasks_alone(store_url: str, how: str, trap: bytes) -> None:
    executor = detached(store_url, workers=1, launcher="none")
    for value in range(3):
        executor.submit(echo, value)
        executor.flush()
    session, (key, _) = session_of(executor), key_of(executor, 1)
    body = body_of(session, key)
    bodies = {
        "garbage": b"\xc1" * 64,
        "pickle": trap + b"." * (-len(trap) % 8),
        "newer format": body.replace(b"\xa6format\x03", b"\xa6format\x05"),
        "another object's": body_of(session, key_of(executor, 2)[0]),
        "empty": b"",
    }
    session.store.put(key, bodies[how])
    first, spoilt, last = run(executor)
    assert (first, last) == (0, 2)
    assert isinstance(spoilt, VersionMismatch if how == "newer format" else RecordInvalid)
    assert key in str(spoilt)


@SQLITE
@pytest.mark.parametrize("looks", ["pending", "claimed"])
def test_a_spoilt_status_object_keeps_no_worker_and_no_status_waiting(store_url: str, looks: str) -> None:
    """An idle worker costs money, and a program that waits for `status()` to say that all has ended waits for ever."""
    timings = replace(timings_for(store_url), idle_exit_s=0.5)
    executor = DetachedExecutor(workers=1, store=store_url, launcher="none", timings=timings)
    futures = []
    for i in range(4):
        futures.append(executor.submit(pow, i, 1))
        executor.flush()
    session = session_of(executor)
    session.store.put(key_of(executor, 1)[0], b"\xc1" * (80 if looks == "pending" else 82))
    worker = run_python(RUN_WORKER, executor.url)
    assert [future.result(60) for future in (futures[0], *futures[2:])] == [0, 2, 3]
    assert isinstance(futures[1].exception(60), RecordInvalid)
    assert worker.wait(60) == 0
    worker.communicate()
    stands = executor.status()
    assert (stands.total, stands.completed, stands.failed, stands.pending, stands.claimed) == (4, 3, 1, 0, 0)
    assert executor.retry_failed() == []
    assert executor.cancel() == 0
    executor.detach()
    again = DetachedExecutor.reattach(executor.url, launcher="none")
    assert again.status().failed == 1
    assert sum(future.exception(60) is None for future in again.as_completed(60)) == 3
    again.cleanup(force=True)


def test_a_status_object_that_is_spoilt_under_a_claim_costs_its_tasks_alone(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    executor = detached(store_url, workers=2)
    futures = []
    for value in range(2):
        futures.append(executor.submit(hold, str(go), value))
        executor.flush()
    wait_until(lambda: all(Path(f"{go}.{value}").exists() for value in range(2)))
    [pid] = worker_pids(executor)
    session, (key, _) = session_of(executor), key_of(executor, 0)
    session.store.put(key, b"\xc1" * 64)
    assert isinstance(futures[0].exception(60), RecordInvalid)
    go.touch()
    assert futures[1].result(60) == 1
    assert executor.submit(echo, 5).result(60) == 5
    assert is_alive(pid)
    executor.cleanup(force=True)


def test_pickles_in_place_of_life_signs_do_nothing(store_url: str, trap: bytes) -> None:
    executor = detached(store_url, workers=1)
    assert executor.submit(echo, 1).result(60) == 1
    session = session_of(executor)
    wait_until(lambda: session.store.list(session.keys.clients))
    strangers = [session.keys.worker("0000"), session.keys.worker("not/../one"), session.keys.client("zzzz")]
    lines = [*session.store.list(session.keys.workers), *session.store.list(session.keys.clients)]
    targets = [session.keys.bell, *strangers, *(line.key for line in lines)]
    for body in (trap, msgpack.packb({"format": 2}), b""):
        for key in targets:
            session.store.put(key, body)
        assert executor.submit(twice, 2).result(60) == 4
        beats = [line.key for line in lines]
        wait_until(lambda beats=beats, body=body: all(body_of(session, key) != body for key in beats))
    executor.status()
    executor.cleanup(force=True)
    assert session.store.list(session.keys.folder) == []


@pytest.mark.parametrize("kind", ["attached", "detached"])
def test_a_pickle_in_place_of_the_manifest_ends_in_an_error(store_url: str, kind: str, trap: bytes) -> None:
    make = StarburstExecutor if kind == "attached" else DetachedExecutor
    executor = make(workers=1, store=store_url, timings=timings_for(store_url))
    future = executor.submit(time.sleep, 600)
    wait_until(future.running)
    session, pids = session_of(executor), worker_pids(executor)
    session.store.put(session.keys.manifest, trap)
    error = future.exception(60)
    assert isinstance(error, RecordInvalid)
    assert executor.id in str(error)
    executor.shutdown()
    wait_until(lambda: not any(map(is_alive, pids)))
    with pytest.raises(RecordInvalid):
        DetachedExecutor.reattach(executor.url)


@SQLITE
@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_forged_handle_neither_shows_nor_removes_nor_kills_anything(
    store_url: str, tmp_path: Path, is_sealed: bool
) -> None:
    """Whoever can write the store can write handles, but not seal them. Not even sealed ones reach beyond workers."""
    precious = tmp_path / "precious"
    precious.write_text("a secret")
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    from starburst_executor.config import machine_boot
    from starburst_executor.launch.local.processes import started_at

    executor = waiting(store_url, (echo, 1))
    session = session_of(executor)
    dead = [(f"w{i}", machine_boot(), 2**22 - 7, "0", str(precious), 1) for i in range(5)]
    alive = [("w9", machine_boot(), bystander.pid, started_at(bystander.pid), str(precious), 0)]
    handles = [msgpack.packb([*dead, *alive]).hex(), "not hexadecimal", msgpack.packb([("few",)]).hex(), "c1"]

    def forge(manifest: Manifest) -> Manifest:
        from starburst_executor.protocol.records import Launch

        launches = [Launch(f"l{i}", "local", 1, handle, time.time(), True) for i, handle in enumerate(handles)]
        if is_sealed:
            launches = [replace(one, handle=sealed_handle(session.sealer, one, one.handle)) for one in launches]
        return replace(manifest, launches=tuple(launches))

    session.manifest.change(forge)
    [error] = run(executor)
    assert "secret" not in str(error)
    assert precious.exists()
    assert bystander.poll() is None
    bystander.communicate()


# --- names from outside -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..", "a/../../b", "A-Session", "a\0b", "x" * 64, "%2e%2e%2fkey", "", "key", "a b", "ab\n"],
)
def test_ids_that_are_no_ids_are_refused(name: str, tmp_path: Path, starburst_home: Path) -> None:
    (starburst_home / "registry").mkdir(exist_ok=True)
    (starburst_home / "registry" / "victim").write_text("sqlite:///elsewhere/victim")
    place = f"sqlite://{tmp_path}/sessions"
    for call in (
        lambda: DetachedExecutor.reattach(name, store=place),
        lambda: DetachedExecutor.reattach(f"{place}/{name}"),
    ):
        with pytest.raises((SessionNotFound, ConfigError, KeyNotFound)):
            call()
    assert not list(tmp_path.iterdir())


@SQLITE
def test_a_bell_that_names_foreign_objects_leads_nowhere(store_url: str) -> None:
    executor = waiting(store_url, (echo, 1))
    session = session_of(executor)
    foreign = [
        "../../etc/passwd",
        "sessions/another-one/status/0000.000000/0000.0000000000-1",
        f"{session.keys.statuses}0000.000000/../../../x",
        f"{session.keys.statuses}0000.000000/0000.0000000009-1",
        f"{session.keys.statuses}0000.000000/0000.0000000000-999",
        session.keys.manifest,
    ]
    session.store.put(
        session.keys.bell, msgpack.packb({"format": 3, "nonce": "n", "keys": foreign, "n_tasks": 2**63 - 1})
    )
    assert run(executor) == [1]


@SQLITE
def test_a_record_that_would_take_gigabytes_is_refused(store_url: str) -> None:
    executor = waiting(store_url, (echo, 1))
    key, _ = key_of(executor, 0)
    for body in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 100_000):
        with pytest.raises(RecordInvalid):
            encoding.decode(body)
        session_of(executor).store.put(key, body)
        with pytest.raises(RecordInvalid, match="0000000000-1"):
            session_of(executor).statuses.read(key)
    assert local_pids(session_of(executor)) == []
    executor.cleanup(force=True)
