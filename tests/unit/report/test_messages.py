"""Messages: which are due, how often each is sent, marks, and nothing of a recipient in the store or in errors."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from starburst_executor.client.looks import Looks
from starburst_executor.errors import ConfigError
from starburst_executor.protocol.failures import TOO_MANY_FAILURES
from starburst_executor.protocol.money import BUDGET_EXCEEDED
from starburst_executor.protocol.records import SessionState
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans.record import State
from starburst_executor.report import messages as sending
from starburst_executor.report.messages import Messenger
from starburst_executor.session import messages
from starburst_executor.session.store import SessionStore
from tests.support.session_pictures import ran
from tests.support.session_rig import SESSION, Rig

# Of a plugin of Apprise, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr':DeprecationWarning")

URL = "json://user:secret-word@localhost:1/path"


class Inbox:
    """A recipient that a test can break."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.is_down = False
        self.n_tries = 0

    def notify(self, *, title: str, body: str, body_format: str) -> bool:
        self.n_tries += 1
        if self.is_down:
            raise OSError("secret-word")
        self.got.append(body.splitlines()[-1].removeprefix("message "))
        return True


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Inbox:
    inbox = Inbox()
    monkeypatch.setattr(sending, "sender_of", lambda url: inbox)
    return inbox


def due(rig: Rig, counts: dict[State, int], **changes: Any) -> list[str]:
    manifest = replace(rig.session.manifest.current, **changes)
    return [message.event for message in messages.due(manifest, counts, now=rig.clock.now(), usd=1.0)]


def test_each_event_has_its_message() -> None:
    rig = Rig()
    going, done = {State.PENDING: 1, State.COMPLETED: 2}, {State.COMPLETED: 3}
    assert due(rig, {}) == due(rig, going) == []
    assert due(rig, done) == ["completed"]
    assert due(rig, {**going, State.FAILED: 1}) == ["first-failure"]
    assert due(rig, {**done, State.FAILED: 1}) == ["first-failure", "completed"]
    assert due(rig, going, state=SessionState.EXPIRED) == ["expired"]
    assert due(rig, going, state=SessionState.BROKEN) == ["broken"]
    assert due(rig, going, state=SessionState.BROKEN, error=BUDGET_EXCEEDED) == ["budget"]
    assert due(rig, going, state=SessionState.BROKEN, error=TOO_MANY_FAILURES) == ["max-failures"]
    assert due(rig, going, state=SessionState.TERMINATED) == []


def test_a_message_says_what_a_reader_needs() -> None:
    rig = Rig()
    rig.clock.advance(3700)
    manifest = replace(
        rig.session.manifest.current, state=SessionState.BROKEN, error=BUDGET_EXCEEDED, reason="too dear"
    )
    counts = {State.FAILED: 2, State.COMPLETED: 5, State.PENDING: 1}
    first, last = messages.due(manifest, counts, now=rig.clock.now(), usd=1.5)
    for words in (
        "1 pending",
        "5 completed",
        "2 failed",
        "1 h 1 min",
        "$1.50",
        "too dear",
        f"starburst errors {SESSION}",
    ):
        assert words in last.body
    assert first.id == f"{SESSION}/first-failure"
    assert "7 of 8 ended, 2 failed" in last.title
    named = next(messages.due(replace(manifest, name="night-run"), counts, now=rig.clock.now()))
    assert named.title.startswith(f"starburst night-run {SESSION}: ")


def test_a_mark_is_for_one_recipient_and_one_message() -> None:
    rig = Rig()
    manifest = rig.session.manifest.current
    names = [messages.recipient(rig.sealer, url) for url in (URL, URL + "2")]
    assert len(set(names)) == 2
    failed = messages.with_mark(manifest, names[0], "s/completed-3", was_sent=False)
    assert failed is not None
    assert messages.unsent(failed) == ["s/completed-3"]
    assert messages.with_mark(failed, names[0], "s/completed-3", was_sent=False) is None
    sent = messages.with_mark(failed, names[0], "s/completed-3", was_sent=True)
    assert sent is not None
    assert messages.unsent(sent) == []
    assert messages.with_mark(sent, names[0], "s/completed-3", was_sent=False) is None
    message = messages.Message("completed", "s/completed-3", "", "")
    assert [messages.is_sent(sent, name, message) for name in names] == [True, False]


def test_each_is_sent_once_by_whoever_looks(inbox: Inbox) -> None:
    rig = Rig()
    ran(rig, rig.submit(3), "w", rig.clock.now() + 1, [0.1] * 3, states=[State.FAILED] + [State.COMPLETED] * 2)
    for _ in range(2):  # another process has another messenger
        session = rig.another()
        session.manifest.refresh()
        looks, messenger = Looks(session), Messenger(session, [URL])
        for _ in range(2):
            assert messenger.check(looks.look()) == []
    assert inbox.got == [f"{SESSION}/first-failure", f"{SESSION}/completed-3"]
    ran(rig, rig.submit(1, first=3), "w", rig.clock.now() + 2, [0.1])
    Messenger(session, [URL]).check(Looks(session).look())
    assert inbox.got[2:] == [f"{SESSION}/completed-4"]


def test_who_dies_before_the_mark_sends_again_with_the_same_id(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    ran(rig, rig.submit(1), "w", rig.clock.now() + 1, [0.1])
    with monkeypatch.context() as patch:
        patch.setattr(Messenger, "_mark", lambda *_, **__: None)  # killed between sending and marking
        Messenger(rig.session, [URL]).check(Looks(rig.session).look())
    Messenger(rig.session, [URL]).check(Looks(rig.session).look())
    Messenger(rig.session, [URL]).check(Looks(rig.session).look())
    assert inbox.got == [f"{SESSION}/completed-1"] * 2


def test_what_cannot_be_sent_is_a_warning_and_is_tried_again(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    ran(rig, rig.submit(1), "w", rig.clock.now() + 1, [0.1])
    inbox.is_down = True
    messenger, looks = Messenger(rig.session, [URL]), Looks(rig.session)
    with caplog.at_level(logging.DEBUG):
        assert [message.event for message in messenger.check(looks.look())] == ["completed"]
        messenger.check(looks.look())
    assert inbox.n_tries == 1  # not again at once
    seen = looks.look()
    assert seen.unsent == (f"{SESSION}/completed-1",)
    assert "could not be sent" in str(seen)
    assert "secret-word" not in caplog.text
    assert "could not be sent" in caplog.text
    inbox.is_down = False
    rig.clock.advance(600)
    assert messenger.check(looks.look()) == []
    assert inbox.got == [f"{SESSION}/completed-1"]
    assert looks.look().unsent == ()


def test_a_command_waits_for_a_recipient_and_gives_up_in_time(inbox: Inbox) -> None:
    rig = Rig()
    ran(rig, rig.submit(1), "w", rig.clock.now() + 1, [0.1])
    inbox.is_down = True
    began = rig.clock.monotonic()
    assert len(Messenger(rig.session, [URL]).finish(Looks(rig.session).look())) == 1
    assert 3 <= inbox.n_tries <= 10
    assert rig.clock.monotonic() - began <= 60


def test_nothing_of_a_recipient_is_stored(inbox: Inbox) -> None:
    rig = Rig()
    ran(rig, rig.submit(1), "w", rig.clock.now() + 1, [0.1])
    Messenger(rig.session, [URL]).check(Looks(rig.session).look())
    for line in rig.objects.list(""):
        body = bytes(rig.objects.get(line.key).body)
        assert b"secret-word" not in body
        assert b"localhost" not in body


def test_without_the_key_messages_are_sent_once_by_each_process(inbox: Inbox) -> None:
    rig = Rig()
    ran(rig, rig.submit(1), "w", rig.clock.now() + 1, [0.1])
    session = SessionStore(rig.session.store, SESSION, Sealer(b"", SESSION), rig.clock)
    messenger, looks = Messenger(session, [URL]), Looks(session)
    for _ in range(3):
        messenger.check(looks.look())
    assert inbox.got == [f"{SESSION}/completed-1"]
    assert rig.session.manifest.refresh().messages == ()


@pytest.mark.parametrize("url", ["nonsense://x:secret-word@y", "secret-word", ""])
def test_a_url_that_nothing_knows_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="no such recipient") as caught:
        Messenger(Rig().session, [url])
    assert "secret-word" not in str(caught.value)
