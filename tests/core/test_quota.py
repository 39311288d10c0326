"""Of each cause only so many a minute, however many there are of it, and however many causes there are."""

from __future__ import annotations

from knocker.core.quota import Quota, more


def test_each_cause_has_so_many_a_minute_and_the_rest_is_counted() -> None:
    quota = Quota()
    assert [quota.left_out("flood", 2, now) for now in (0, 1, 2, 59.9)] == [0, 0, None, None]
    assert quota.left_out("other", 2, 3) == 0
    assert [quota.left_out("flood", 2, now) for now in (60, 61, 62)] == [2, 0, None]


def test_a_clock_that_is_set_back_silences_nobody_for_longer_than_a_minute() -> None:
    quota = Quota()
    assert [quota.left_out("flood", 1, now) for now in (10_000, 10_001, 5_000, 5_001)] == [0, None, 1, None]


def test_no_number_of_causes_grows_without_bound() -> None:
    quota = Quota()
    for number in range(10_000):
        assert quota.left_out(f"cause {number}", 1, 0) == 0
    assert len(quota._windows) <= 256
    assert quota.left_out("cause 9999", 1, 0) is None


def test_a_line_says_how_many_it_stands_for() -> None:
    assert more(0) == ""
    assert more(3) == " (3 more since the last such line)"
