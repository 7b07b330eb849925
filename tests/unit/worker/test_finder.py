"""Which objects a worker tries, and what it costs to know."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from starburst_executor.errors import RecordInvalid, StoreUnavailable
from starburst_executor.protocol.keys import STATUSES_PER_EPOCH, StatusRef
from starburst_executor.protocol.spans import encoding
from starburst_executor.protocol.spans.record import ENDED, OutcomeBlock, Span, Status
from starburst_executor.worker.finder import Finder
from tests.support.session_rig import DIGEST, Rig


def finder_of(rig: Rig, n_slots: int = 1) -> Finder:
    session = rig.another()
    session.manifest.refresh()
    return Finder(session, rig.clock, n_slots)


def settled(rig: Rig, n_slots: int = 1) -> Finder:
    """A finder that has looked and found nothing."""
    finder = finder_of(rig, n_slots)
    finder.step()
    return finder


def attempt(finder: Finder, *, in_vain: bool) -> None:
    """A try that comes to a claim, or to nothing."""
    with finder.candidates.trying("some/key") as tried:
        tried.has_claim = not in_vain


def drained(finder: Finder) -> list[str]:
    keys = []
    while (key := finder.candidates.take()) is not None:
        keys.append(key)
        finder.candidates._pending.pop(key)
    return keys


# --- looks ------------------------------------------------------------------------------------------------------------


def test_the_first_step_looks() -> None:
    rig = Rig()
    key = rig.submit(2)
    finder = finder_of(rig)
    with rig.requests() as counts:
        finder.step()
    assert counts == {"get": 1, "list": 1}
    assert finder.candidates.take() == key


def test_a_look_that_finds_nothing_asks_whether_epochs_were_opened_meanwhile() -> None:
    rig = Rig()
    finder = settled(rig)
    key = rig.submit(2, first=2, epoch=1)
    rig.session.manifest.change(
        lambda manifest: manifest.with_submitter(0, replace(manifest.submitters[0], epochs=2, open=(0, 1)))
    )
    with rig.requests() as counts:
        assert finder.look()
    assert counts == {"get": 1, "list": 3}
    assert finder.candidates.take() == key


def test_an_idle_worker_only_asks_for_the_bell_and_ever_more_rarely() -> None:
    rig = Rig()
    finder = settled(rig)
    with rig.requests() as counts:
        pauses = [finder.step() for _ in range(20)]
    assert counts == {"get": 20}
    assert max(pauses) <= rig.timings.bell_max_s
    assert pauses[-1] > 10 * pauses[0]


def test_without_a_ring_it_looks_unasked_about_once_in_a_beat_interval_a_worker() -> None:
    rig = Rig(workers=4)
    finder = settled(rig, n_slots=1)
    started, n_looks = rig.clock.monotonic(), 0
    while rig.clock.monotonic() - started < 3600.0:
        with rig.requests() as counts:
            pause_s = finder.step()
        n_looks += counts["list"]
        rig.clock.advance(pause_s)
    # Four workers, each about every four beat intervals.
    assert 40 <= n_looks <= 120


def test_known_candidates_are_not_listed_again_before_they_are_used_up() -> None:
    rig = Rig()
    key = rig.submit(2)
    finder = settled(rig)
    with rig.requests() as counts:
        for _ in range(5):
            finder.step()
    assert counts == {}  # nor is the bell asked for
    rig.claim(key, "w.1")
    finder.candidates.saw(key, rig.read(key))
    with rig.requests() as counts:
        finder.step()
        finder.step()
    assert counts["list"] == 1


def test_a_look_closes_epochs_that_are_over() -> None:
    rig = Rig()
    done = Span(1, ENDED, claim="w.1")
    end = OutcomeBlock(0, 1, 1, 0, "w.1", b"")
    for first in range(STATUSES_PER_EPOCH):
        rig.objects.create(
            rig.keys.status(StatusRef(0, first, 1, 0)),
            encoding.encode(Status(0, first, (DIGEST,), (done,), (), (end,)), "n"),
        )
    assert finder_of(rig).look() is False
    assert rig.session.manifest.refresh().open_epochs() == []


# --- the bell ---------------------------------------------------------------------------------------------------------


def test_a_ring_names_candidates_without_a_listing() -> None:
    rig = Rig()
    finder = settled(rig, n_slots=4)
    key = rig.submit(3)
    rig.session.bell.ring([key, "no key of ours"], 3)
    with rig.requests() as counts:
        finder.step()
    assert counts == {"get": 1}
    assert finder.candidates.has_any()
    assert drained(finder) == [key]


@pytest.mark.parametrize("keys", [(), tuple(f"k{i}" for i in range(40))])
def test_a_ring_that_names_nothing_or_too_much_leads_to_a_listing(keys: tuple[str, ...]) -> None:
    rig = Rig()
    finder = settled(rig)
    key = rig.submit(1)
    rig.session.bell.ring(keys, 1000)
    with rig.requests() as counts:
        finder.step()
    assert counts["list"] == 1
    assert finder.candidates.take() == key


def test_about_as_many_react_as_are_needed_and_more_while_it_stays_unanswered() -> None:
    rig = Rig(workers=100)
    finders = [settled(rig) for _ in range(100)]
    key = rig.submit(5)
    rig.session.bell.ring([key], 5)
    n_reacting = []
    for _ in range(6):
        for finder in finders:
            finder.step()
        n_reacting.append(sum(finder.candidates.has_any() for finder in finders))
    assert 1 <= n_reacting[0] <= 15
    assert n_reacting == sorted(n_reacting)
    assert n_reacting[-1] >= 90


def test_a_ring_that_was_not_looked_after_is_kept_when_the_next_one_comes() -> None:
    rig = Rig(workers=1000)
    finder = settled(rig)
    one, other = rig.submit(1), rig.submit(1, first=1)
    rig.session.bell.ring([one], 1)
    finder.step()
    assert not finder.candidates.has_any()
    rig.clock.advance(1.0)
    rig.session.bell.ring([other], 1)
    while not finder.candidates.has_any():
        finder.step()
    assert set(finder.candidates._pending) == {one, other}


def test_the_chance_to_react_grows_however_often_it_is_rung() -> None:
    rig = Rig(workers=1000)
    finder = settled(rig)
    key = rig.submit(1)
    n_polls = 0
    while not finder.candidates.has_any():
        n_polls += 1
        rig.clock.advance(1.0)
        rig.session.bell.ring([key], 1)
        finder.step()
    # 1 in 1,000 at first, doubled each time: a certainty at the eleventh.
    assert n_polls <= 11


def test_a_ring_that_names_not_all_that_is_new_leads_to_a_look_at_once_or_when_that_is_used_up() -> None:
    rig = Rig()
    finder = settled(rig, n_slots=4)
    missed, named = rig.submit(3), rig.submit(1, first=3)
    rig.session.bell.ring([named], 1)
    found = []
    with rig.requests() as counts:
        while not {missed, named} <= set(found):
            finder.step()
            found += drained(finder)
    assert counts["list"] == 1


def test_what_was_missed_counts_for_the_chance_to_react() -> None:
    rig = Rig(workers=1000)
    finder = settled(rig)
    rig.submit(1000)
    rig.session.bell.ring([rig.submit(1, first=1000)], 1)
    finder.step()
    assert finder.candidates.has_any()
    # Only once: of the next ring nothing has been missed.
    drained(finder)
    finder.look()
    drained(finder)
    rig.session.bell.ring([rig.submit(1, first=1001)], 1)
    finder.step()
    assert not finder.candidates.has_any()


def test_after_a_ring_it_soon_looks_for_itself() -> None:
    rig = Rig()
    finder = settled(rig, n_slots=4)
    key = rig.submit(1)
    rig.session.bell.ring([key], 1)
    finder.step()
    drained(finder)
    other = rig.submit(1, first=1)
    rig.clock.advance(rig.timings.bell_max_s)
    finder.step()
    assert other in drained(finder)


# --- candidates -------------------------------------------------------------------------------------------------------


def test_one_of_the_oldest_twice_w_is_taken_at_random() -> None:
    rig = Rig(workers=2)
    keys = [rig.submit(1, first=first) for first in range(10)]
    finder = settled(rig)
    taken = Counter(finder.candidates.take() for _ in range(200))
    assert set(taken) == set(keys[:4])


def test_what_is_not_worth_sharing_is_left_to_the_slot_that_has_it_for_a_while() -> None:
    rig = Rig(workers=2)
    key = rig.submit(100)
    finder = settled(rig, n_slots=2)
    finder.candidates.begins(key)
    assert finder.candidates.take(worth_sharing=100) == key
    assert finder.candidates.take(worth_sharing=101) is None
    # That slot may have met a task that takes for ever.
    assert not finder.candidates.has_any()
    rig.clock.advance(rig.timings.slice_s + 0.01)
    assert finder.candidates.has_any()
    assert finder.candidates.take(worth_sharing=101) == key
    finder.candidates.ends(key)
    assert finder.candidates.take(worth_sharing=101) == key


def test_some_go_for_the_oldest_the_others_for_any() -> None:
    rig = Rig(workers=10)
    keys = [rig.submit(1, first=first) for first in range(20)]
    finder = settled(rig)
    taken = Counter(finder.candidates.take() for _ in range(1000))
    assert 200 < taken[keys[0]] < 450
    assert all(10 < taken[key] < 100 for key in keys[1:])


def test_objects_that_nobody_works_on_come_first() -> None:
    rig = Rig(workers=3)
    keys = [rig.submit(3, first=3 * i) for i in range(4)]
    for key in keys[:2]:
        rig.claim(key, "w.1", 1)
    finder = settled(rig)
    assert {finder.candidates.take() for _ in range(50)} == set(keys[2:])
    for key in keys[2:]:
        rig.claim(key, "w.2", 1)
        finder.candidates.saw(key, rig.read(key))
    assert {finder.candidates.take() for _ in range(100)} == set(keys)


def test_an_object_is_passed_over_only_for_one_that_would_be_taken() -> None:
    rig = Rig(workers=3)
    keys = [rig.submit(2, first=2 * i) for i in range(7)]
    for key in keys[1:6]:
        rig.claim(key, "w.1", 1)
    finder = settled(rig)
    assert finder.candidates.has_untouched()
    # Another slot of this worker is at it, and the last one is not among the oldest twice W.
    finder.candidates.begins(keys[0])
    assert not finder.candidates.has_untouched()
    # A worker with all slots takes the oldest object, even if another works on it.
    assert not settled(rig, n_slots=3).candidates.has_untouched()


def test_after_two_tries_in_vain_what_is_known_counts_as_out_of_date() -> None:
    rig = Rig(workers=2)
    keys = [rig.submit(1, first=first) for first in range(10)]
    finder = settled(rig)
    for key in keys[:9]:
        rig.claim(key, "w.1")
    attempt(finder, in_vain=True)
    assert finder.candidates.take() is not None
    attempt(finder, in_vain=True)
    assert finder.candidates.take() is None
    with rig.requests() as counts:
        finder.step()
    assert counts["list"] == 1
    assert drained(finder) == [keys[9]]


def test_a_claim_shows_that_what_is_known_still_holds() -> None:
    rig = Rig(workers=2)
    for first in range(10):
        rig.submit(1, first=first)
    finder = settled(rig)
    for _ in range(5):
        attempt(finder, in_vain=True)
        attempt(finder, in_vain=False)
    assert finder.candidates.take() is not None


def test_an_object_counts_as_worked_on_for_as_long_as_a_try_or_its_claim_lasts() -> None:
    rig = Rig(workers=4)
    key = rig.submit(2)
    candidates = settled(rig).candidates
    assert candidates.has_untouched()
    with candidates.trying(key):
        assert not candidates.has_untouched()
    assert candidates.has_untouched()
    with candidates.trying(key) as tried:
        tried.has_claim = True
    assert not candidates.has_untouched()
    candidates.ends(key)
    assert candidates.has_untouched()
    with pytest.raises(StoreUnavailable), candidates.trying(key):
        raise StoreUnavailable("away")
    assert candidates.has_untouched()


def test_an_object_that_cannot_be_read_is_no_candidate_at_later_looks_either() -> None:
    rig = Rig()
    key = rig.submit(2)
    finder = settled(rig)
    with pytest.raises(RecordInvalid), finder.candidates.trying(key):
        raise RecordInvalid("not a status object")
    assert finder.candidates.take() is None
    assert not finder.look()


def test_with_nothing_known_a_look_is_asked_for() -> None:
    finder = settled(Rig())
    assert finder.candidates.take() is None
    assert finder.candidates.wanted.is_set()
    finder.step()
    assert not finder.candidates.wanted.is_set()


def test_after_a_lost_race_others_are_tried_first() -> None:
    rig = Rig(workers=1)
    keys = [rig.submit(1, first=first) for first in range(4)]
    finder = settled(rig)
    finder.candidates.avoid(keys[0])
    assert {finder.candidates.take() for _ in range(50)} == {keys[1]}


def test_a_new_worker_looks_for_what_was_rung_for_before_the_last_ring() -> None:
    rig = Rig()
    one, other = rig.submit(3), rig.submit(3, first=3)
    rig.session.bell.ring([other], 3)
    finder = finder_of(rig, n_slots=4)
    finder.step()
    assert drained(finder) == [one, other]


def test_a_worker_that_has_all_slots_takes_the_oldest_others_choose_at_random() -> None:
    rig = Rig(workers=4)
    keys = [rig.submit(3, first=3 * i) for i in range(8)]
    alone, one_of_many = settled(rig, n_slots=4), settled(rig, n_slots=1)
    assert {alone.candidates.take() for _ in range(20)} == {keys[0]}
    assert len({one_of_many.candidates.take() for _ in range(200)}) > 4


def test_the_loser_of_the_race_for_the_only_object_looks_again_at_once() -> None:
    rig = Rig()
    finder = settled(rig, n_slots=4)
    key = rig.submit(8)
    rig.session.bell.ring([key], 8)
    finder.step()
    finder.candidates.avoid(key)
    assert finder.candidates.take() is None
    finder.step()
    assert finder.candidates.take() == key


def test_the_loser_of_the_race_for_a_lone_task_does_not() -> None:
    rig = Rig()
    finder = settled(rig, n_slots=4)
    key = rig.submit(1)
    rig.session.bell.ring([key], 1)
    finder.step()
    finder.candidates.avoid(key)
    with rig.requests() as counts:
        finder.step()
    assert counts == {"get": 1}


def test_what_was_seen_corrects_what_is_known() -> None:
    rig = Rig(workers=2)
    one, other = rig.submit(10), rig.submit(6, first=10)
    finder = settled(rig)
    assert finder.fair_share() == 8
    assert finder.is_plenty(60.0)
    rig.claim(one, "w.1", 9)
    finder.candidates.saw(one, rig.read(one))
    rig.claim(other, "w.2")
    finder.candidates.saw(other, rig.read(other))
    assert finder.fair_share() == 1
    assert not finder.is_plenty(60.0)
    assert drained(finder) == [one]


def test_what_is_known_is_believed_until_the_others_may_have_used_it_up() -> None:
    rig = Rig(workers=2)
    key = rig.submit(100)
    finder = settled(rig)
    with rig.requests() as counts:
        assert finder.is_plenty(0.001)  # a moment ago it was
        rig.clock.advance(40.0)
        assert finder.is_plenty(1.0)  # 60 are left, if the other one takes one a second
    assert counts == {}
    rig.claim(key, "w.1", 60)
    rig.clock.advance(60.0)
    with rig.requests() as counts:
        assert finder.is_plenty(1.0)  # the listing shows that 16 to 63 of it are pending
    assert counts["list"] == 1
    rig.claim(key, "w.2")
    rig.clock.advance(60.0)
    assert not finder.is_plenty(1.0)
    with rig.requests() as counts:
        assert not finder.is_plenty(1.0)
    assert counts == {}


@pytest.mark.parametrize(("n_left", "about"), [(255, 128), (64, 128), (63, 32), (5, 8), (3, 2), (1, 2)])
def test_a_listing_shows_about_how_many_tasks_of_an_object_are_left(n_left: int, about: int) -> None:
    rig = Rig(workers=2)
    key = rig.submit(256)
    rig.claim(key, "w.1", 256 - n_left)
    finder = finder_of(rig)
    assert finder.look()
    assert finder.candidates.n_pending() == about


# --- solo -------------------------------------------------------------------------------------------------------------


def test_a_task_on_its_last_try_is_kept_apart_until_a_worker_is_alone() -> None:
    rig = Rig()
    key = rig.submit(1)
    finder = settled(rig)
    assert finder.candidates.solo() is None
    rig.write_spans(key, losses=2, together=1, cohort="lost.1")
    finder.candidates.saw(key, rig.read(key))
    assert finder.candidates.take() is None
    assert finder.candidates.has_any()
    rig.clock.advance(20.0)
    assert finder.candidates.solo() == (key, 20.0)
    # Looks do not make it a candidate again, which would be tried in vain.
    finder.look()
    assert finder.candidates.take() is None
    assert finder.candidates.solo() == (key, 20.0)
    rig.claim(key, "w.1")
    finder.look()
    assert finder.candidates.solo() is None
    assert not finder.candidates.has_any()
