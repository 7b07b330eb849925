"""Messages about a session: of what, with which words, and which ones have been sent. Pure rules; they are sent by `report/` and `worker/`.

    counts, manifest ──due──► messages ──► not marked as sent to this recipient ──send──► swap the mark into the manifest

Guarantee: a message is marked only after it was sent, so it is sent at least once as long as a process with that recipient looks. Its id
is the same for every sender and every time, so a repetition can be recognised.

A mark consists of the recipient and the message's id. A recipient is named by eight bytes of a keyed hash of its URL: the store never
holds the URL, nor anything from which it could be guessed without the session's key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from starburst_executor.protocol.failures import TOO_MANY_FAILURES
from starburst_executor.protocol.money import BUDGET_EXCEEDED
from starburst_executor.protocol.records import Manifest, SessionState
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans.record import State

__all__ = ["Message", "due", "is_sent", "recipient", "unsent", "with_mark"]

_FAILED_TO_SEND = "!"
# More marks than any session needs: a message for each of seven events, and each further completion, to a few recipients.
_MOST_MARKS = 200


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        event: `first-failure`, `max-failures`, `budget`, `expired`, `broken` or `completed`.
        id: Unique for the session and the event; the same in each repetition.
        title: One line.
        body: Counts, duration, cost, and the command that shows more.
    """

    event: str
    id: str
    title: str
    body: str


def due(manifest: Manifest, counts: Mapping[State, int], *, now: float, usd: float = 0.0) -> Iterator[Message]:
    """Yield every message that the state of a session calls for, whether it was sent or not.

    Args:
        counts: Its tasks by state.
        now: UTC epoch seconds.
        usd: What it has cost, in dollars; 0 if that is not known.
    """
    total = sum(counts.values())
    n_ended = total - counts.get(State.PENDING, 0) - counts.get(State.CLAIMED, 0)
    n_failed = counts.get(State.FAILED, 0)
    events: list[tuple[str, str, str]] = []  # the event, what makes its id unique in the session, the words
    if n_failed:
        events.append(("first-failure", "", "the first task has failed"))
    if manifest.state == SessionState.BROKEN:
        kinds = {BUDGET_EXCEEDED: "budget", TOO_MANY_FAILURES: "max-failures"}
        events.append((kinds.get(manifest.error, "broken"), "", "it has ended before its tasks"))
    elif manifest.state == SessionState.EXPIRED:
        events.append(("expired", "", "it has expired"))
    elif total and n_ended == total:
        # Further tasks may be submitted: their completion is another message.
        events.append(("completed", f"-{total}", "all tasks have ended"))
    for event, suffix, words in events:
        message_id = f"{manifest.session_id}/{event}{suffix}"
        yield Message(
            event,
            message_id,
            f"starburst {f'{manifest.name} ' if manifest.name else ''}{manifest.session_id}: {words}: {n_ended:,} of {total:,} ended, {n_failed:,} failed",
            _body(message_id, event, manifest, counts, now, usd),
        )


def _body(message_id: str, event: str, manifest: Manifest, counts: Mapping[State, int], now: float, usd: float) -> str:
    session_id, n_failed = manifest.session_id, counts.get(State.FAILED, 0)
    lines = [", ".join(f"{counts.get(state, 0):,} {state.name.lower()}" for state in State)]
    lines.append(f"{_duration(max(0.0, now - manifest.created_at))} since the session was created")
    if usd:
        lines.append(f"cost: about ${usd:.2f}")
    if manifest.state.is_over and manifest.reason:
        lines.append(f"reason: {manifest.reason[:500]}")
    if n_failed:
        lines.append(f"look: starburst errors {session_id}")
    if event == "completed":
        lines.append(f"results: starburst results {session_id}")
    else:
        lines.append(f"status: starburst status {session_id}")
    return "\n".join([*lines, f"message {message_id}"])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


# --- marks ------------------------------------------------------------------------------------------------------------


def recipient(sealer: Sealer, url: str) -> str:
    """Return the name of a recipient in marks. Needs the session's key."""
    return sealer.seal("recipient", "", url.encode()).hex()[:16]


def is_sent(manifest: Manifest, name: str, message: Message) -> bool:
    """Whether this message is marked as sent to the recipient with this name."""
    return _mark(name, message.id) in manifest.messages


def with_mark(manifest: Manifest, name: str, message_id: str, *, was_sent: bool) -> Manifest | None:
    """Return the manifest with the mark of a message that was sent, or could not be; None if it has that mark, or a better one."""
    mark = _mark(name, message_id)
    failed = _FAILED_TO_SEND + mark
    if mark in manifest.messages or (not was_sent and failed in manifest.messages):
        return None
    kept = [one for one in manifest.messages if one != failed]
    return replace(manifest, messages=(*kept, mark if was_sent else failed)[-_MOST_MARKS:])


def unsent(manifest: Manifest) -> list[str]:
    """Return the ids of the messages that could not be sent yet to some recipient."""
    failed = [mark for mark in manifest.messages if mark.startswith(_FAILED_TO_SEND)]
    return sorted({mark.partition(" ")[2] for mark in failed})


def _mark(name: str, message_id: str) -> str:
    return f"{name} {message_id}"
