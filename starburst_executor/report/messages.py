"""Sends messages about a session from the user's side, through Apprise: mail, chat, ntfy, desktop, webhooks and many more.

URLs of recipients hold passwords and tokens. They stay in this process: not in the store, a log or an error.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starburst_executor.client.report import SessionStatus
from starburst_executor.errors import ConfigError, StarburstError
from starburst_executor.protocol.spans.record import State
from starburst_executor.session import messages
from starburst_executor.session.messages import Message
from starburst_executor.session.store import SessionStore

__all__ = ["Messenger", "sender_of"]

_log = logging.getLogger(__name__)

# Pauses between two tries of one message.
_FIRST_PAUSE_S, _MOST_PAUSE_S = 1.0, 300.0
# How long `finish` goes on trying: a command is waiting.
_FINISH_S = 60.0


@dataclass(slots=True)
class _Recipient:
    """Where messages go.

    Attributes:
        name: Its name in marks; empty without the session's key.
        sent: The ids of the messages that this process has sent.
        n_failed: The number of tries that failed in a row.
    """

    sender: Any
    kind: str
    name: str
    sent: set[str]
    n_failed: int = 0
    next_at: float = float("-inf")


class Messenger:
    """Sends the messages of one session. Not thread-safe; it may wait for some seconds for each recipient that does not answer.

    Without the session's key no mark can be written: then each process that looks sends each message once.

    Args:
        urls: Of Apprise, such as `mailto://user:password@example.org`, `ntfy://topic`, `json://host/path`.

    Raises: ConfigError: Apprise is not installed, or does not know a URL.
    """

    def __init__(self, session: SessionStore, urls: Sequence[str]) -> None:
        self._session = session
        self._clock = session.clock
        self._recipients = [self._recipient(url) for url in dict.fromkeys(urls)]

    def _recipient(self, url: str) -> _Recipient:
        sender, kind = sender_of(url), url.partition(":")[0]
        sealer = self._session.sealer
        return _Recipient(sender, kind, messages.recipient(sealer, url) if sealer.has_key else "", set())

    def check(self, status: SessionStatus) -> list[Message]:
        """Send what a look calls for and was not sent; return the messages that are still to be sent to some recipient.

        A message that cannot be sent is a warning in the log and in `starburst status`, and is tried again by a later call. Never
        raises an error of a recipient or of the store. Store: 1 swap for each message that was sent, or could not be for the first time.
        """
        left = []
        for recipient, message in self._due(status):
            if self._clock.monotonic() < recipient.next_at:
                left.append(message)
            elif self._send(recipient, message):
                recipient.n_failed = 0
                recipient.sent.add(message.id)
                self._mark(recipient, message, was_sent=True)
            else:
                pause_s = min(_MOST_PAUSE_S, _FIRST_PAUSE_S * 2**recipient.n_failed)
                recipient.next_at = self._clock.monotonic() + pause_s
                recipient.n_failed += 1
                left.append(message)
                _log.warning(
                    "a message could not be sent, and is tried again: message=%s, to=%s", message.id, recipient.kind
                )
                self._mark(recipient, message, was_sent=False)
        return left

    def finish(self, status: SessionStatus, timeout_s: float = _FINISH_S) -> list[Message]:
        """As `check`, trying for up to a minute; return the messages that could not be sent."""
        never, deadline = threading.Event(), self._clock.monotonic() + timeout_s
        while left := self.check(status):
            now = self._clock.monotonic()
            next_at = min(recipient.next_at for recipient in self._recipients if recipient.n_failed)
            if next_at >= deadline:
                break
            self._clock.wait(never, max(0.0, next_at - now))
        return left

    def _due(self, status: SessionStatus) -> Iterator[tuple[_Recipient, Message]]:
        manifest = self._session.manifest.current
        counts = {state: getattr(status, state.name.lower()) for state in State}
        for message in messages.due(manifest, counts, now=status.at, usd=status.cost.total_usd):
            # Estimates come from what was read; the last count of a session is exact.
            if message.event == "completed" and not status.is_over:
                continue
            for recipient in self._recipients:
                is_marked = bool(recipient.name) and messages.is_sent(manifest, recipient.name, message)
                if not is_marked and message.id not in recipient.sent:
                    yield recipient, message

    @staticmethod
    def _send(recipient: _Recipient, message: Message) -> bool:
        try:
            return bool(recipient.sender.notify(title=message.title, body=message.body, body_format="text"))
        except Exception as error:  # a plugin of Apprise
            _log.info("sending failed: to=%s: %s", recipient.kind, type(error).__name__)
            return False

    def _mark(self, recipient: _Recipient, message: Message, *, was_sent: bool) -> None:
        # Crash here: it was sent and is not marked; the next one who looks sends it again, with the same id.
        if not recipient.name:
            return
        try:
            self._session.manifest.change(
                lambda manifest: messages.with_mark(manifest, recipient.name, message.id, was_sent=was_sent)
            )
        except StarburstError as error:
            _log.warning("the mark of a message could not be written: message=%s: %s", message.id, error)


def sender_of(url: str) -> Any:
    """Return Apprise's sender for a URL. Raises: ConfigError, without the URL."""
    try:
        apprise: Any = importlib.import_module("apprise")
    except ImportError as error:
        raise ConfigError("messages need Apprise: pip install 'starburst-executor[notify]'") from error
    sender = apprise.Apprise()
    # Its own log names hosts, and at its debug level passwords.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    if not sender.add(url):
        kind = url.partition(":")[0] if "://" in url else "no scheme"
        raise ConfigError(
            f"no such recipient of messages: {kind}; write a URL as https://github.com/caronc/apprise/wiki lists them, such as "
            "mailto://user:password@example.org"
        )
    return sender
