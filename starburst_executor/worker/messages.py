"""Sends messages about a session from its workers, so that they are sent with no client there.

    watcher, every fourth look ──► the session is over, or the listing of open epochs shows an end or a failure?
                                     └─► count the tasks ─► due, and not marked as sent to the topic ─► publish ─► swap the mark

Up to three workers watch, and the mark is swapped: two of them may send the same message, with the same id. Without a topic this costs nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from starburst_executor.errors import ObjectNotFound, RecordInvalid, StarburstError, VersionMismatch
from starburst_executor.protocol.money import spent
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.session import messages
from starburst_executor.session.beats import read_beats
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore

__all__ = ["Messages"]

_log = logging.getLogger(__name__)

# The name of the topic in marks: a stack has one, and no one else knows it.
_NAME = "topic"
# Objects that are read in search of a first failure, each time.
_FEW = 8


class Messages:
    """Sends the messages of one session to its stack's topic. Not thread-safe.

    Args:
        publish: Sends title and body; None if the stack has no topic.
    """

    def __init__(self, session: SessionStore, publish: Callable[[str, str], None] | None) -> None:
        self._session = session
        self._publish = publish
        self._has_failed = False  # whether a failed task was found
        self._read: dict[str, str] = {}  # objects without a failed task, with their ETags
        self._sent: set[str] = set()

    def turn(self) -> None:
        """Send what is due. An error of the topic is logged, marked for `starburst status`, and tried again at the next turn.

        Store, with a topic: 1 LIST an open epoch, up to 8 GETs; if a message may be due 1 LIST per 1,000 status objects, 1 GET for each
        that did not end well, 1 LIST and 1 GET a worker; 1 swap for each message.
        """
        if self._publish is None:
            return
        session = self._session
        manifest = session.manifest.current
        listing = session.statuses.of_epochs(manifest.open_epochs())
        is_done = all(listed.size_class.has_ended for listed in listing)
        self._has_failed = self._has_failed or self._finds_failure(listing)
        is_first = self._has_failed and not self._is_known("first-failure")
        if not (manifest.state.is_over or is_first or (is_done and not self._is_known_completion())):
            return
        counts = self._count()
        now = session.clock.now()
        usd = spent(manifest, now, [beat for beat, _ in read_beats(session)])
        for message in messages.due(manifest, counts, now=now, usd=usd):
            if message.id not in self._sent and not messages.is_sent(session.manifest.current, _NAME, message):
                self._send(message)

    def _send(self, message: messages.Message) -> None:
        assert self._publish is not None  # checked by the caller  # noqa: S101
        try:
            self._publish(message.title, message.body)
            was_sent = True
            self._sent.add(message.id)
        except StarburstError as error:
            was_sent = False
            _log.warning("a message could not be sent, and is tried again: message=%s: %s", message.id, error)
        # Crash here: another worker, or the next one, sends it again, with the same id.
        self._session.manifest.change(
            lambda manifest: messages.with_mark(manifest, _NAME, message.id, was_sent=was_sent)
        )

    def _is_known(self, event: str) -> bool:
        message = messages.Message(event, f"{self._session.session_id}/{event}", "", "")
        return message.id in self._sent or messages.is_sent(self._session.manifest.current, _NAME, message)

    def _is_known_completion(self) -> bool:
        """Whether the end of all tasks that there are now was sent. Store: 1 LIST per 1,000 status objects."""
        total = sum(listed.ref.n_tasks for listed in self._session.statuses.all())
        return not total or self._is_known(f"completed-{total}")

    def _finds_failure(self, listing: list[ListedStatus]) -> bool:
        unsure = [
            listed
            for listed in listing
            if listed.size_class not in (SizeClass.ALL_PENDING, SizeClass.ALL_COMPLETED)
            and self._read.get(listed.key) != listed.etag
        ]
        for listed, counts in zip(unsure[:_FEW], self._counts_of(unsure[:_FEW]), strict=True):
            if counts[State.FAILED]:
                return True
            self._read[listed.key] = listed.etag
        return False

    def _count(self) -> Counter[State]:
        counts: Counter[State] = Counter()
        unsure = []
        for listed in self._session.statuses.all():
            if listed.size_class.all_in is None:
                unsure.append(listed)
            else:
                counts[listed.size_class.all_in] += listed.ref.n_tasks
        for part in self._counts_of(unsure):
            counts.update(part)
        return counts

    def _counts_of(self, listing: list[ListedStatus]) -> list[Counter[State]]:
        def read(listed: ListedStatus) -> Counter[State]:
            try:
                return self._session.statuses.read(listed.key).status.counts()
            except (RecordInvalid, VersionMismatch):  # its futures fail
                return Counter({State.FAILED: listed.ref.n_tasks})
            except ObjectNotFound:
                return Counter()

        return fan_out(self._session.store, read, listing)
