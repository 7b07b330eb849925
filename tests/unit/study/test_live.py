"""What a driver writes of running stages, for figures: seldom, of bounded size, and harmless if it cannot be read."""

from __future__ import annotations

from dataclasses import replace

from starburst_executor.clock import SystemClock
from starburst_executor.store.base import Body
from starburst_executor.study.live import Live, read_live
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import StageRecord, StudyRecord
from starburst_executor.study.stage import Stage
from starburst_executor.study.tables import TrialRow
from starburst_executor.testing import MemoryStore
from tests.support.study_world import Life, World

RUNNING = StageRecord("s", "running", trials=5_000)


class CountingStore(MemoryStore):
    """Counts what is put."""

    n_put = 0

    def put(self, key: str, body: Body) -> str:
        self.n_put += 1
        return super().put(key, body)


def rows_of(n: int, n_points: int = 1) -> dict[int, TrialRow]:
    curve = tuple((step, {"loss": 1.0}) for step in range(n_points))
    return {index: TrialRow("s", index, "completed", curve=curve) for index in reversed(range(n))}


def test_a_running_stage_is_written_each_time_that_a_tenth_more_have_ended() -> None:
    store = CountingStore()
    objects, live = StudyObjects(store, "mine", SystemClock()), Live()
    live.publish(objects, [(RUNNING, {})])
    assert store.n_put == 0
    for n in range(1, 301):
        live.publish(objects, [(RUNNING, rows_of(n))])
        live.publish(objects, [(RUNNING, rows_of(n))])
    assert store.n_put == 50
    found = read_live(objects, StudyRecord("mine", stages=(RUNNING,)))["s"]
    assert 270 <= len(found.rows) <= 300
    assert [row.index for row in found.rows] == list(range(len(found.rows)))


def test_of_many_trials_and_points_an_even_choice_is_written() -> None:
    objects = StudyObjects(MemoryStore(), "mine", SystemClock())
    Live().publish(objects, [(RUNNING, rows_of(4_001, 99))])
    rows = read_live(objects, StudyRecord("mine", stages=(RUNNING,)))["s"].rows
    assert (len(rows), rows[0].index, rows[-1].index) == (2_000, 0, 4_000)
    assert (len(rows[0].curve), rows[0].curve[0][0], rows[0].curve[-1][0]) == (50, 0, 98)


def test_what_has_not_changed_is_not_read_again_and_what_cannot_be_read_is_left_out() -> None:
    store = MemoryStore()
    objects = StudyObjects(store, "mine", SystemClock())
    record = StudyRecord("mine", stages=(RUNNING, replace(RUNNING, name="t"), replace(RUNNING, name="u", state="done")))
    Live().publish(objects, [(one, rows_of(3)) for one in (record.stages[0], record.stages[2])])
    first = read_live(objects, record)
    assert list(first) == ["s"]  # the others have written nothing, or are decided
    again = read_live(objects, record, first)
    assert again["s"] is first["s"]
    store.put(objects.keys.live("s", 1), b"garbage")
    assert read_live(objects, record, first) == {}


def score(trial: object) -> dict[str, float]:
    return {"score": 1.0}


def test_a_driver_writes_what_its_stages_have_so_far() -> None:
    world = World(lambda: Plan([Stage("s", score, 60)]))
    assert world.drive(Life(at=130)) is None
    found = read_live(world.objects(), world.record)
    assert 0 < len(found["s"].rows) <= sum(world.ended.values())
