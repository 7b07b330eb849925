"""Records of tasks, and what is gathered of them: times within a commit, sums, estimates, retries."""

from __future__ import annotations

import pytest

from starburst_executor.client.looks import Looks
from starburst_executor.client.reading import Reading
from starburst_executor.client.timeline import Timeline
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import State
from starburst_executor.report.gathering import Gathering
from starburst_executor.report.metrics import Metrics
from tests.support.session_pictures import gathered, ran
from tests.support.session_rig import Rig


def test_tasks_of_one_commit_ran_one_after_the_other() -> None:
    rig = Rig()
    at = rig.clock.now()
    ran(rig, rig.submit(3), "w", at + 10, [1.0, 2.0, 3.0], submitted_at=at)
    records = list(Timeline(Reading(rig.session)))
    assert [record.started_at - at for record in records] == pytest.approx([4.0, 5.0, 7.0])
    assert [record.ended_at - at for record in records] == pytest.approx([5.0, 7.0, 10.0])
    assert {record.submitted_at for record in records} == {at}
    assert [(record.task, record.index, record.worker, record.has_log) for record in records[:1]] == [
        ("0-0", 0, "w", False)
    ]


def test_of_a_claim_one_task_runs_and_the_others_wait() -> None:
    rig = Rig()
    at = rig.clock.now()
    key = rig.submit(3)
    rig.write(key, lambda current: transitions.claim(current, "w.1", at_most=3, now=at + 5, max_losses=3)[0])
    records = list(Timeline(Reading(rig.session)))
    assert [record.started_at for record in records] == [at + 5, None, None]
    assert {record.state for record in records} == {"claimed"}
    rig.clock.advance(10)
    overview, _ = gathered(rig)
    assert overview.started[-1] == 1
    assert sum(overview.running) * (overview.times[1] - overview.times[0]) == pytest.approx(5.0, abs=0.2)


def test_cancelled_and_lost_tasks_have_no_duration() -> None:
    rig = Rig()
    at = rig.clock.now()
    key = rig.submit(2)
    rig.write(key, lambda current: transitions.cancel(current, [0], at + 1)[0])
    rig.write(
        key,
        lambda current: transitions.take_back(
            transitions.claim(current, "w.1", at_most=1, now=at + 2, max_losses=1)[0],
            ["w.1"], lost=True, max_losses=1, now=at + 3, outcome=lambda *_: b"",
        ),
    )  # fmt: skip
    records = list(Timeline(Reading(rig.session)))
    assert [(record.state, record.seconds, record.started_at) for record in records] == [
        ("cancelled", None, None),
        ("failed", None, None),
    ]
    overview, _ = gathered(rig)
    assert (overview.failed[-1], overview.cancelled[-1], overview.durations.n, overview.losses) == (1, 1, 0, 1)
    assert overview.waiting[-1] == 0


def test_a_data_frame_has_a_row_a_task_and_times_in_utc() -> None:
    rig = Rig()
    at = rig.clock.now()
    ran(rig, rig.submit(3), "w", at + 10, [1.0, 2.0, 3.0], submitted_at=at)
    rig.submit(2, first=3)
    frame = Timeline(Reading(rig.session)).to_pandas()
    assert len(frame) == 5
    assert frame["seconds"].sum() == pytest.approx(6.0)
    assert str(frame["ended_at"].dt.tz) == "UTC"
    assert frame["ended_at"].isna().sum() == 2
    assert list(frame["state"].unique()) == ["completed", "pending"]


def test_the_sums_are_those_of_the_records() -> None:
    rig = Rig()
    at = rig.clock.now()
    for i in range(8):
        states = [State.FAILED if (i + k) % 5 == 0 else State.COMPLETED for k in range(16)]
        ran(
            rig,
            rig.submit(16, first=16 * i),
            f"w{i % 3}",
            at + 10.0 + i,
            [0.05 * (k + 1) for k in range(16)],
            states=states,
            submitted_at=at,
        )
    rig.submit(16, first=128)
    rig.clock.advance(20)
    overview, _ = gathered(rig)
    records = list(Timeline(Reading(rig.session)))
    for state in ("completed", "failed"):
        assert getattr(overview, state)[-1] == sum(record.state == state for record in records)
    assert overview.submitted[-1] == len(records) == overview.n_tasks == 144
    assert overview.busy_s == pytest.approx(sum(record.seconds or 0.0 for record in records))
    assert sum(overview.running) * (overview.times[1] - overview.times[0]) == pytest.approx(overview.busy_s, rel=0.01)
    assert overview.waiting[-1] == 16
    assert not overview.is_sampled
    assert [sum(lane.counts.values()) for lane in overview.lanes] == [48, 48, 32]
    assert sum(len(lane.bars or ()) for lane in overview.lanes) == 128
    waits = [record.started_at - at for record in records if record.started_at is not None]
    assert overview.waited.mean_s == pytest.approx(sum(waits) / len(waits))


def test_a_task_that_runs_keeps_its_slot_busy() -> None:
    rig = Rig()
    at = rig.clock.now()
    ran(rig, rig.submit(2), "w", at + 10, [2.0, 3.0], submitted_at=at)
    rig.beat("w")
    key = rig.submit(1, first=2)
    rig.write(key, lambda now: transitions.claim(now, "w.2", at_most=1, now=at + 10, max_losses=3, alone=True)[0])
    rig.clock.advance(110)
    overview, status = gathered(rig)
    assert overview.busy_s == pytest.approx(5 + 100)
    assert sum(overview.running) * (overview.times[1] - overview.times[0]) == pytest.approx(105, rel=0.01)
    metrics = Metrics(status, overview)
    assert metrics.utilisation == pytest.approx(105 / overview.slot_s)


def test_durations_by_label_are_those_of_the_records_and_the_rest_is_joined() -> None:
    rig = Rig()
    at = rig.clock.now()
    seconds = [0.1 * (i + 1) for i in range(32)]
    labels = ["", *(f"label {i % 15}" for i in range(31))]
    ran(rig, rig.submit(32), "w", at + 200, seconds, submitted_at=at, labels=labels)
    ran(rig, rig.submit(2, first=32), "w", at + 210, [7.0, 8.0], submitted_at=at)
    rig.clock.advance(300)
    overview, _ = gathered(rig)
    records = list(Timeline(Reading(rig.session)))
    assert [record.label for record in records] == [*labels, "", ""]
    shown = overview.by_label.shown
    assert list(shown) == ["", *(f"label {i}" for i in range(12))]
    for label, durations in shown.items():
        own = [record.seconds or 0.0 for record in records if record.label == label]
        assert (durations.n, durations.total_s) == (len(own), pytest.approx(sum(own)))
    others = overview.by_label.others
    assert others.n == sum(record.label in ("label 12", "label 13", "label 14") for record in records) == 6
    assert overview.durations.n == 34 == sum(durations.n for _, durations in overview.by_label.rows())
    assert overview.by_label.rows()[-1] == ("(other labels)", others)


def test_what_was_not_read_is_estimated_and_the_overview_says_so() -> None:
    rig = Rig()
    for i in range(40):
        key = rig.submit(8, first=8 * i)
        rig.clock.advance(1)
        ran(rig, key, f"w{i % 2}", rig.clock.now(), [0.1] * 8, submitted_at=rig.clock.now() - 1)
    looks = Looks(rig.session)
    seen = looks.look()
    gathering = Gathering(Reading(rig.session), rig.session.manifest.current.created_at)
    with rig.requests() as requests:
        left = gathering.read_some(looks.listing, 10)
    assert (left, requests["get"], requests.total()) == (30, 10, 10)
    overview = gathering.overview(looks.listing, seen)
    assert overview.is_sampled
    assert overview.sample_note == "Estimated from the records of 80 of 320 tasks."
    assert (overview.completed[-1], overview.started[-1], overview.submitted[-1]) == (320, 320, 320)
    assert overview.busy_s == pytest.approx(32.0)
    gathering.read_some(looks.listing, 100)
    assert not gathering.overview(looks.listing, seen).is_sampled


def test_a_live_page_needs_no_requests_beyond_those_of_its_looks_and_follows_retries() -> None:
    rig = Rig()
    gathering = Gathering(Reading(rig.session), rig.session.manifest.current.created_at)
    looks = Looks(rig.session, take=gathering.add)
    keys = [rig.submit(4, first=4 * i) for i in range(3)]
    rig.claim(keys[0], "w.1")
    seen = looks.look()
    assert gathering.overview(looks.listing, seen).n_tasks == 12
    rig.clock.advance(1)
    ran(rig, keys[0], "w", rig.clock.now(), [0.1] * 4, states=[State.COMPLETED, State.FAILED] * 2)
    seen = looks.look()
    assert gathering.overview(looks.listing, seen).failed[-1] == 2
    rig.write_spans(keys[0], state=int(State.PENDING), run=2, claim="")
    seen = looks.look()
    overview = gathering.overview(looks.listing, seen)
    assert (overview.failed[-1], overview.completed[-1], overview.submitted[-1]) == (0, 0, 12)


def test_on_a_store_of_this_machine_objects_are_read_one_by_one() -> None:
    rig = Rig()
    for i in range(5):
        rig.submit(2, first=2 * i)
    reading = Reading(rig.another())
    with rig.requests() as asked:
        next(reading.all())
    assert asked["get"] <= 2  # the manifest and one object: no more are held than are used
