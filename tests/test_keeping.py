"""Staying let in: when the next knock comes, on a clock that only the test moves (contract 5, `--keep`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.faults import NO_ANSWER, REFUSED, Failed
from knocker.keeping import LONGEST, POLL, SHARE, Keeper

AWAY = Failed(NO_ANSWER, "no answer from knock.example.com port 443: Connection refused")
FULL = Failed(REFUSED, "the gate refused: The whitelist is full.", passing=True)
WRONG = Failed(REFUSED, "the gate refused: Invalid or missing API key.")


class Over(Exception):
    """The time that a test looks at is over."""


class Life:
    """Somebody who stays let in, until `end`; `results` are those of the knocks, the last one for ever."""

    def __init__(
        self,
        results: Sequence[float | Failed],
        end: float,
        own: Callable[[float], object] = lambda _: "192.0.2.7",
        chance: float = 0.5,
        wakes: Callable[[float, float], float] = lambda now, seconds: now + seconds,
    ) -> None:
        self.time = 1000.0
        self.knocks: list[float] = []  # seconds since the begin
        self.sleeps: list[float] = []
        self.told: list[tuple[str, float]] = []
        self.end = 1000.0 + end
        self._results = list(results)
        self._wakes = wakes
        self._keeper = Keeper(
            self._knock,
            lambda: own(self.time - 1000),
            lambda failed, wait: self.told.append((failed.error, wait)),
            lambda: self.time,
            self._sleep,
            lambda: chance,
        )

    def run(self) -> list[float]:
        """When it knocked."""
        with pytest.raises(Over):
            self._keeper.run()
        return self.knocks

    def ends(self) -> Failed:
        """What ended it."""
        with pytest.raises(Failed) as caught:
            self._keeper.run()
        return caught.value

    def _knock(self) -> float:
        self.knocks.append(self.time - 1000)
        assert len(self.knocks) < 10_000, "it knocks without end"
        result = self._results.pop(0) if len(self._results) > 1 else self._results[0]
        if isinstance(result, Failed):
            raise result
        return result

    def _sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.sleeps.append(seconds)
        self.time = self._wakes(self.time, seconds)
        if self.time > self.end:
            raise Over


# --- Renewing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "first"),
    [
        pytest.param(3600, 3240, id="an hour"),
        pytest.param(86_400, 77_760, id="a day"),
        pytest.param(10, 9, id="ten seconds"),
        pytest.param(1, 1, id="no time at all, which is no reason to knock without end"),
        pytest.param(0, 1, id="less than none"),
        pytest.param(-5, 1, id="over before it was told"),
    ],
)
def test_it_renews_when_nine_tenths_of_the_time_are_over(left: float, first: float) -> None:
    assert Life([left], 2.5 * first).run() == pytest.approx([0, first, 2 * first])


def test_each_renewal_counts_from_what_it_was_told_last() -> None:
    assert Life([100, 1000, 10, 100], 1050).run() == pytest.approx([0, 90, 990, 999])


def test_a_machine_that_slept_renews_as_soon_as_it_wakes() -> None:
    """The clock runs on meanwhile: the grant may be long over."""
    asleep = Life([3600], 100_000, wakes=lambda now, seconds: now + (50_000 if now == 1000 + POLL else seconds))
    assert asleep.run()[:2] == [0, 50_000 + POLL]


def test_it_looks_at_its_address_every_few_seconds_and_no_oftener() -> None:
    life = Life([100], 200)
    life.run()
    assert max(life.sleeps) <= POLL
    assert sum(seconds < POLL for seconds in life.sleeps) <= len(life.knocks)


# --- Another address -------------------------------------------------------------------------------------------------


def test_another_own_address_is_knocked_from_at_once() -> None:
    life = Life([3600], 4000, own=lambda passed: "192.0.2.7" if passed < 612 else "203.0.113.9")
    knocks = life.run()
    assert knocks[0] == 0
    assert 612 <= knocks[1] <= 612 + POLL
    assert knocks[2] == pytest.approx(knocks[1] + SHARE * 3600)


def test_an_address_that_changed_during_the_knock_is_noticed() -> None:
    """Nobody knows which of the two the gate saw."""
    life = Life([3600], 1000, own=lambda _: "203.0.113.9" if life.knocks else "192.0.2.7")
    assert life.run() == [0, POLL]


def test_a_network_that_comes_back_is_knocked_from_at_once() -> None:
    """It may be another one, even with the same address."""
    away: list[float | Failed] = [3600, AWAY, AWAY, AWAY, AWAY, 3600]
    life = Life(away, 1000, own=lambda passed: None if 100 <= passed < 120 else "192.0.2.7", chance=1.0)
    assert life.run() == [0, 100, 102, 106, 114, 124], "and not only when the sixteen seconds are over"


def test_while_nobody_answers_another_address_is_tried_at_once() -> None:
    changed = Life([AWAY], 2000, own=lambda passed: passed >= 1000, chance=1.0)
    knocks = changed.run()
    assert any(1000 <= moment <= 1000 + POLL for moment in knocks)


# --- Failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure", [pytest.param(AWAY, id="no answer"), pytest.param(FULL, id="a refusal that passes")]
)
def test_what_passes_is_waited_for_longer_and_longer(failure: Failed) -> None:
    life = Life([failure], 5000, chance=1.0)
    knocks = life.run()
    waits = [later - earlier for earlier, later in pairwise(knocks)]
    assert waits[:8] == pytest.approx([2, 4, 8, 16, 32, 64, 128, 256])
    assert set(waits[8:]) == {LONGEST}


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_many_who_lost_one_gate_do_not_all_come_back_at_once(chance: float, share: float) -> None:
    knocks = Life([AWAY], 3000, chance=chance).run()
    waits = [later - earlier for earlier, later in pairwise(knocks)]
    assert waits[:3] == pytest.approx([2 * share, 4 * share, 8 * share])
    assert waits[-1] == pytest.approx(LONGEST * share)


def test_each_failure_is_told_with_the_wait() -> None:
    life = Life([AWAY, FULL, 3600], 100, chance=1.0)
    assert life.run() == [0, 2, 6]
    assert life.told == [(AWAY.error, 2), (FULL.error, 4)]


def test_a_success_lets_the_next_failure_begin_anew() -> None:
    life = Life([AWAY, AWAY, 10, AWAY, 10], 20, chance=1.0)
    assert life.run()[:5] == pytest.approx([0, 2, 6, 15, 17])


def test_a_gate_that_is_away_for_weeks_is_still_waited_for() -> None:
    life = Life([AWAY], 3_000 * LONGEST)
    assert len(life.run()) > 3_000


@pytest.mark.parametrize("before", [[], [3600], [AWAY], [FULL, 3600]])
def test_a_refusal_that_no_waiting_mends_ends_it(before: list[float | Failed]) -> None:
    life = Life([*before, WRONG], 10_000)
    assert life.ends() is WRONG
    assert len(life.knocks) == len(before) + 1
    assert WRONG.error not in [error for error, _ in life.told]


@given(
    st.lists(st.one_of(st.floats(-10, 1e6), st.sampled_from([AWAY, FULL])), min_size=1, max_size=30),
    st.floats(0, 1),
    st.integers(1, 20),
)
def test_whatever_comes_it_never_knocks_without_a_pause(
    results: list[float | Failed], chance: float, seconds: int
) -> None:
    knocks = Life(results, 400, own=lambda passed: passed // seconds, chance=chance).run()
    assert all(later - earlier >= 0.99 for earlier, later in pairwise(knocks))
