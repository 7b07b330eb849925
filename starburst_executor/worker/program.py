"""One worker from its start to its exit status: reads its bootstrap, forks the nursery, opens the store, runs the agent."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING

from starburst_executor import config
from starburst_executor.clock import SystemClock
from starburst_executor.errors import KeyNotFound, StarburstError
from starburst_executor.launch.bootstrap import EXIT_DRAINED, Bootstrap, grace_of, new_worker_id, read_bootstrap
from starburst_executor.launch.local.machine import this_machine
from starburst_executor.protocol.resources import GPU, MEMORY, Amounts
from starburst_executor.protocol.seal import Sealer
from starburst_executor.store.url import split_url
from starburst_executor.worker.leaving import Leaving, Stop
from starburst_executor.worker.nudge import Nudge
from starburst_executor.worker.runner.spawn import Nursery
from starburst_executor.worker.stock import Stock

if TYPE_CHECKING:
    from starburst_executor.worker.agent import Agent

__all__ = ["run"]

_EXIT_FAILED = 3
# While the store cannot be reached a worker continues, and commits when the store is back. The longest outage of S3 in its
# history took about four hours; without this bound, a worker without network access would cost money indefinitely.
_AWAY_S = 6 * 3600.0
# How long a worker that ends waits for what it shows to be read, of each stream: a client that is stopped reads nothing.
_SHOW_S = 1.0


def run(
    url: str,
    n_slots: int | None,
    *,
    log_level: str,
    launched: bool,
    platform: str | None = None,
    resources: Amounts = (),
) -> int:
    """Run one worker; return the exit status: 0 if it left normally, 3 if it could not go on.

    Args:
        n_slots: Tasks at once; None for one per processor.
        launched: Whether standard input is a pipe with a bootstrap record.
        resources: What this worker has, in place of what it finds by itself.
        platform: The platform on AWS, `ecs` or `batch`, that started this container, if one did.
    """
    bootstrap = None
    with ExitStack() as at_the_end:
        try:
            clock = SystemClock()
            store_url, session_id = split_url(url)
            secret = config.take_secret_environment()
            # Assumes: forked before this process has threads, opens a store or reads the key: runners must inherit none of
            # these.
            nursery = Nursery.start(session_id=session_id)
            at_the_end.enter_context(_shown(nursery))
            logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
            at_the_end.callback(nursery.close)
            # The nursery has inherited the user's secrets in its environment, for the runners; this process does not need them.
            config.drop_secrets()
            if launched:
                bootstrap = read_bootstrap(_stdin())
            elif platform is not None:
                bootstrap = _container_bootstrap(platform, clock)
            else:
                bootstrap = Bootstrap(key=secret or "", path=tuple(sys.path), worker_id=new_worker_id(clock))
            bootstrap = replace(bootstrap, resources=bootstrap.resources or resources)
            key = config.find_session_key(session_id, bootstrap.key or None)
            nursery.configure(
                sys_path=bootstrap.path, tee=bootstrap.tee, authkey=bootstrap.authkey, session=(url, bytes(key))
            )
            why, words = _work(n_slots, platform, bootstrap, nursery, store_url, Sealer(bytes(key), session_id), clock)
            nursery.close()
        except StarburstError as error:
            _say(f"{type(error).__name__}: {error}", bootstrap)
            return _EXIT_FAILED
        if words and why.name in ("FAILED", "BROKEN"):
            _say(words, bootstrap)
        if platform == "batch" and why.name == "DRAINED":
            _succeed(url, n_slots)
            return EXIT_DRAINED
        return _EXIT_FAILED if why.name in ("FAILED", "BROKEN") else 0


@contextmanager
def _shown(nursery: Nursery) -> Iterator[None]:
    """Write errors and log through a `Screen`, so that no thread of the worker waits for their reader."""
    errors = TextIOWrapper(nursery.stderr, encoding="utf-8", errors="backslashreplace", write_through=True)
    try:
        with redirect_stderr(errors):
            yield
    finally:
        for screen in (nursery.stdout, nursery.stderr):
            screen.drain(_SHOW_S)


def _container_bootstrap(platform: str, clock: SystemClock) -> Bootstrap:
    from starburst_executor.launch.aws.remote import (
        container_bootstrap,  # imports boto3, which only workers on AWS have
    )

    return container_bootstrap(platform, clock, tuple(sys.path))


def _succeed(url: str, n_slots: int | None) -> None:
    from starburst_executor.launch.aws.successor import submit_successor

    submit_successor(url, n_slots or 1)


def _work(
    n_slots: int | None,
    platform: str | None,
    bootstrap: Bootstrap,
    nursery: Nursery,
    store_url: str,
    sealer: Sealer,
    clock: SystemClock,
) -> tuple[Stop, str]:
    leaving = Leaving(clock)
    signal.signal(signal.SIGTERM, leaving.on_sigterm)
    # ^C reaches all processes of the terminal: a worker that is bound to a client ends with the client, others drain on ^C.
    signal.signal(signal.SIGINT, signal.SIG_IGN if bootstrap.bound else leaving.on_sigterm)
    if bootstrap.bound:
        leaving.watch(_stdin())
    nudge = Nudge()
    signal.signal(signal.SIGUSR1, nudge.on_signal)
    # In its own thread, because the main thread must react to signals while a store does not answer.
    opening = _Opening(
        partial(_open, n_slots, platform, bootstrap, nursery, store_url, sealer, clock, leaving, nudge), leaving
    )
    threading.Thread(target=opening.run, name="opening", daemon=True).start()
    leaving.wait(lambda: opening.is_done or leaving.is_leaving)
    if leaving.is_leaving:
        return leaving.why or Stop.DRAINED, ""
    return opening.agent().run(), leaving.words


class _Opening:
    """Opens the session and makes the agent, in a thread, and holds the result or the error."""

    def __init__(self, open_agent: Callable[[], Agent], leaving: Leaving) -> None:
        self._open_agent = open_agent
        self._leaving = leaving
        self._agent: Agent | None = None
        self._error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self._agent is not None or self._error is not None

    def run(self) -> None:
        try:
            self._agent = self._open_agent()
        except BaseException as error:  # raised again in the main thread
            self._error = error
        self._leaving.changed()

    def agent(self) -> Agent:
        """Raises: StarburstError."""
        if self._agent is None:
            raise self._error or RuntimeError("the session has not been opened")
        return self._agent


def _open(
    n_slots: int | None,
    platform: str | None,
    bootstrap: Bootstrap,
    nursery: Nursery,
    store_url: str,
    sealer: Sealer,
    clock: SystemClock,
    leaving: Leaving,
    nudge: Nudge,
) -> Agent:
    # Imported here, after the nursery was forked, so that the fork is early; in a fork server they are loaded already.
    from starburst_executor.session.store import SessionStore
    from starburst_executor.store.open import open_store
    from starburst_executor.store.patient import PatientStore
    from starburst_executor.worker.agent import Agent

    store = PatientStore(open_store(store_url), clock, patience_s=_AWAY_S)
    session = SessionStore(store, sealer.session_id, sealer, clock)
    session.manifest.refresh()
    if not session.manifest.has_right_key():
        raise KeyNotFound(
            f"the key does not belong to this session: session={sealer.session_id}; pass the session's own key in "
            "STARBURST_KEY, or copy the key file of the user who started it"
        )
    session.manifest.check_python()
    return Agent(
        session,
        store,
        bootstrap.worker_id,
        nursery,
        clock,
        leaving,
        n_slots=n_slots or config.resolve(detached=False, store=store_url).workers,
        bound=bootstrap.bound,
        grace_s=grace_of(platform, session.manifest.current.timings.grace_s),
        size=config.worker_size(),
        launcher_id=bootstrap.launcher_id,
        publish=_publisher(config.worker_topic()),
        nudge=nudge,
        stock=_stock(dict(bootstrap.resources)),
    )


def _stock(given: dict[str, int]) -> Stock:
    """Return what this worker has: what it finds, and what it was given in its place."""
    machine = this_machine()
    total = {"cpu": machine.cpus, MEMORY: machine.memory_bytes, GPU: len(machine.gpus), **given}
    gpus = machine.gpus[: total[GPU]] or tuple(map(str, range(total[GPU])))
    return Stock(total, gpus)


def _publisher(topic_arn: str) -> Callable[[str, str], None] | None:
    """Return what sends a message to a topic of SNS; None without a topic."""
    if not topic_arn:
        return None

    def publish(title: str, body: str) -> None:
        from starburst_executor.aws.clients import Clients  # imports boto3, which only workers with a topic need
        from starburst_executor.aws.topic import publish as publish_to

        publish_to(Clients(config.AwsSettings()), topic_arn, title, body)

    return publish


def _stdin() -> IO[bytes]:
    # Without a buffer: one would be locked by the thread that waits for the client's end when the interpreter goes, and
    # might hold that end already.
    return open(0, "rb", buffering=0, closefd=False)


def _say(words: str, bootstrap: Bootstrap | None) -> None:
    """Write the last message, to the file that the launcher reads or to standard error."""
    text = f"starburst worker: {words}\n"
    if bootstrap is not None and bootstrap.words:
        with suppress(OSError), Path(bootstrap.words).open("a", encoding="utf-8") as file:
            file.write(text)
            return
    sys.stderr.write(text)
    sys.stderr.flush()
