"""Messages of workers to the topic of a stack: what is sent when, by whom, and what happens if the topic refuses."""

from __future__ import annotations

from starburst_executor.errors import LaunchError
from starburst_executor.protocol.records import SessionState
from starburst_executor.protocol.spans.record import State
from starburst_executor.session import messages as rules
from starburst_executor.worker.messages import Messages
from tests.support.session_pictures import ran
from tests.support.session_rig import SESSION, Rig


class Topic:
    def __init__(self) -> None:
        self.got: list[str] = []
        self.is_down = False

    def publish(self, title: str, body: str) -> None:
        if self.is_down:
            raise LaunchError("SNS refuses")
        assert SESSION in title
        self.got.append(body.splitlines()[-1].rpartition("/")[2])


def worker(rig: Rig, topic: Topic) -> Messages:
    session = rig.another()
    session.manifest.refresh()
    return Messages(session, topic.publish)


def test_without_a_topic_it_asks_nothing() -> None:
    rig = Rig()
    ran(rig, rig.submit(2), "w", rig.clock.now() + 1, [0.1] * 2)
    with rig.requests() as requests:
        Messages(rig.session, None).turn()
    assert requests.total() == 0


def test_each_message_is_sent_once_over_all_workers() -> None:
    rig, topic = Rig(), Topic()
    key, last = rig.submit(2), rig.submit(1, first=2)
    one, other = worker(rig, topic), worker(rig, topic)
    one.turn()
    assert topic.got == []
    ran(rig, key, "w", rig.clock.now() + 1, [0.1] * 2, states=[State.FAILED, State.COMPLETED])
    one.turn()
    assert topic.got == ["first-failure"]
    ran(rig, last, "w", rig.clock.now() + 1, [0.1])
    other._session.manifest.refresh()
    other.turn()
    one._session.manifest.refresh()
    one.turn()
    worker(rig, topic).turn()
    assert topic.got == ["first-failure", "completed-3"]


def test_the_end_of_a_session_is_a_message() -> None:
    rig, topic = Rig(), Topic()
    rig.submit(3)
    one = worker(rig, topic)
    one._session.manifest.end(SessionState.EXPIRED, "absolute_timeout passed")
    one.turn()
    assert topic.got == ["expired"]


def test_a_topic_that_refuses_is_marked_and_asked_again() -> None:
    rig, topic = Rig(), Topic()
    ran(rig, rig.submit(1), "w", rig.clock.now() + 1, [0.1])
    topic.is_down = True
    one = worker(rig, topic)
    one.turn()
    one.turn()
    assert rules.unsent(rig.session.manifest.refresh()) == [f"{SESSION}/completed-1"]
    topic.is_down = False
    one.turn()
    assert topic.got == ["completed-1"]
    assert rules.unsent(rig.session.manifest.refresh()) == []


def test_while_nothing_is_due_a_turn_is_cheap() -> None:
    rig, topic = Rig(), Topic()
    keys = [rig.submit(2, first=2 * i) for i in range(20)]
    for key in keys[:15]:
        ran(rig, key, "w", rig.clock.now() + 1, [0.1] * 2)
    rig.claim(keys[15], "w.2", 1)
    one = worker(rig, topic)
    one.turn()
    with rig.requests() as requests:
        one.turn()
    assert requests.total() == 1  # the listing of the open epoch
