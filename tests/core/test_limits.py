"""The limits of how often a key may be presented: rules one by one, then against a list that is always scanned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.core.addresses import Address
from knocker.core.limits import HOLDERS_SHARE, MOST, Counters, Limit, Limits
from knocker.core.refusals import Refusal, Refused

HOME = Address.parse("203.0.113.9")
AWAY = Address.parse("198.51.100.1")
LIMIT = Limit(window=60, successful=3, failed=2)


def admitted(limits: Limits, client: Address = HOME, seconds: float = 0.0, holder: bool = False) -> bool:
    try:
        limits.admit(client, holder, seconds)
    except Refused:
        return False
    return True


def fail(limits: Limits, client: Address = HOME, seconds: float = 0.0, holder: bool = False) -> bool:
    """One request that comes to nothing; whether it was let through at all."""
    try:
        counters = limits.admit(client, holder, seconds)
    except Refused:
        return False
    counters.fail()
    return True


@pytest.mark.parametrize(
    ("limit", "successful", "failed"),
    [
        pytest.param(Limit(60, 3, 2), 3, 2, id="each its own"),
        pytest.param(Limit(60, 1, 1), 1, 1, id="one of each"),
        pytest.param(Limit(60, 0, 2), None, 2, id="0 is no limit of successes"),
        pytest.param(Limit(60, 3, 0), 3, None, id="0 is no limit of failures"),
        pytest.param(Limit(60, 0, 0), None, None, id="no limit at all"),
        pytest.param(Limit(), 20, 30, id="the defaults"),
    ],
)
def test_each_outcome_has_its_limit(limit: Limit, successful: int | None, failed: int | None) -> None:
    for act, most in ((admitted, successful), (fail, failed)):
        limits = Limits(limit)
        outcomes = [act(limits) for _ in range(1000)]
        assert outcomes == [most is None or number < most for number in range(1000)]


@pytest.mark.parametrize(("successes", "failures", "passes"), [(2, 1, True), (3, 0, False), (0, 2, False)])
def test_either_full_counter_stops_every_request(successes: int, failures: int, passes: bool) -> None:
    limits = Limits(LIMIT)
    for _ in range(successes):
        assert admitted(limits)
    for _ in range(failures):
        assert fail(limits)
    assert admitted(limits) is passes


def test_a_refused_request_counts_as_nothing() -> None:
    limits = Limits(LIMIT)
    for _ in range(3):
        counters = limits.admit(HOME, False, 0)
    for _ in range(5):
        assert not admitted(limits)
    assert (counters.succeeded, counters.failed) == (3, 0)


def test_a_failure_moves_its_count() -> None:
    limits = Limits(LIMIT)
    counters = limits.admit(HOME, False, 0)
    assert (counters.succeeded, counters.failed) == (1, 0)
    counters.fail()
    assert (counters.succeeded, counters.failed) == (0, 1)
    assert [admitted(limits) for _ in range(4)] == [True, True, True, False]


def test_requests_that_are_being_answered_count_already() -> None:
    limits = Limits(LIMIT)
    under_way = [limits.admit(HOME, False, 0) for _ in range(3)]
    assert not admitted(limits)
    under_way[0].fail()
    assert admitted(limits)


def test_the_refusal_says_when_to_come_back_and_which_setting_it_was() -> None:
    limits = Limits(LIMIT)
    for _ in range(3):
        limits.admit(HOME, False, 0)
    with pytest.raises(Refused) as caught:
        limits.admit(HOME, False, 20.5)
    assert caught.value.refusal is Refusal.LIMITED
    assert caught.value.retry_after == 40
    assert "knock_rate_limit" in caught.value.why
    assert "203.0.113.9" in caught.value.why


@pytest.mark.parametrize(
    ("seconds", "after"),
    [
        pytest.param(0, 60, id="the whole window"),
        pytest.param(0.001, 60, id="rounded up"),
        pytest.param(59, 1, id="the last second"),
        pytest.param(59.999, 1, id="never less than a second"),
    ],
)
def test_who_comes_back_when_told_to_is_let_through(seconds: float, after: int) -> None:
    limits = Limits(LIMIT)
    for _ in range(3):
        limits.admit(HOME, False, 0)
    with pytest.raises(Refused) as caught:
        limits.admit(HOME, False, seconds)
    assert caught.value.retry_after == after
    assert admitted(limits, seconds=seconds + after)


@pytest.mark.parametrize("act", [admitted, fail])
def test_the_end_of_the_window_frees(act: object) -> None:
    limits = Limits(LIMIT)
    assert callable(act)
    while act(limits, seconds=10):
        pass
    assert not admitted(limits, seconds=69.9)
    assert admitted(limits, seconds=70)


def test_a_window_is_not_prolonged_by_what_happens_in_it() -> None:
    limits = Limits(LIMIT)
    outcomes = [admitted(limits, seconds=second) for second in (0, 30, 59, 59.5, 60, 61, 62, 63)]
    assert outcomes == [True, True, True, False, True, True, True, False]


def test_who_holds_a_grant_may_fail_ten_times_as_often_and_succeed_no_more_than_others() -> None:
    limits = Limits(LIMIT)
    assert HOLDERS_SHARE == 10
    assert [fail(limits, holder=True) for _ in range(21)] == [True] * 20 + [False]
    assert [admitted(limits, AWAY, holder=True) for _ in range(4)] == [True] * 3 + [False]


def test_a_holder_loses_the_larger_limit_with_the_grant() -> None:
    limits = Limits(LIMIT)
    assert all(fail(limits, holder=True) for _ in range(5))
    assert not fail(limits, holder=False)
    assert fail(limits, holder=True)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        pytest.param("203.0.113.9", "203.0.113.9", True, id="the same address"),
        pytest.param("203.0.113.9", "203.0.113.8", False, id="its IPv4 neighbour"),
        pytest.param("2001:db8::1", "2001:db8::ffff:1", True, id="one household's IPv6 addresses"),
        pytest.param("2001:db8::1", "2001:db8:0:1::1", False, id="the next household"),
        pytest.param("203.0.113.9", "::ffff:203.0.113.9", True, id="written as IPv6"),
        pytest.param("203.0.113.9", "::203.0.113.9", False, id="an IPv6 address with the same number"),
    ],
)
def test_an_ipv6_household_is_one_client(one: str, other: str, shared: bool) -> None:
    limits = Limits(LIMIT)
    while admitted(limits, Address.parse(one)):
        pass
    assert admitted(limits, Address.parse(other)) is not shared


def test_a_hundred_thousand_addresses_take_the_room_of_a_bounded_table() -> None:
    limits = Limits(Limit(window=60, successful=1, failed=1))
    for number in range(100_000):
        assert fail(limits, Address(32, number), seconds=number / 10_000)
        assert len(limits) == min(number + 1, MOST)
    assert not admitted(limits, Address(32, 99_999), seconds=10)
    assert not admitted(limits, Address(32, 100_000 - MOST), seconds=10)
    assert admitted(limits, Address(32, 100_000 - MOST - 1), seconds=10)


def test_a_full_table_forgets_the_entry_that_is_nearest_its_windows_end() -> None:
    limits = Limits(LIMIT, most=3)
    clients = [Address(32, number) for number in range(4)]
    for second, client in enumerate(clients[:3]):
        while admitted(limits, client, second):
            pass
    assert not admitted(limits, clients[0], 5), "what was asked last is no younger"
    assert admitted(limits, clients[3], 6)
    assert [admitted(limits, client, 7) for client in clients[1:3]] == [False, False]
    assert admitted(limits, clients[0], 8)
    assert len(limits) == 3


def test_entries_whose_window_ended_take_no_room() -> None:
    limits = Limits(LIMIT)
    for number in range(100):
        limits.admit(Address(32, number), False, number)
    assert len(limits) == 60
    limits.admit(HOME, False, 1000)
    assert len(limits) == 1


def test_the_end_of_a_request_whose_entry_was_forgotten_meanwhile_counts_for_nobody() -> None:
    limits = Limits(Limit(60, 1, 1), most=1)
    under_way = limits.admit(HOME, False, 0)
    assert admitted(limits, AWAY, 1)
    assert isinstance(under_way, Counters)
    under_way.fail()
    assert len(limits) == 1
    assert not admitted(limits, AWAY, 2)
    assert admitted(limits, HOME, 3)


def test_a_failure_after_its_window_leaves_the_next_window_alone() -> None:
    limits = Limits(Limit(60, 1, 1))
    under_way = limits.admit(HOME, False, 0)
    again = limits.admit(HOME, False, 60)
    under_way.fail()
    assert (again.succeeded, again.failed) == (1, 0)


# Against a model: one list of windows, scanned from end to end.


@dataclass
class Window:
    subject: str
    ends_at: float
    outcomes: list[bool]


@dataclass(frozen=True)
class Step:
    client: str
    wait: float
    holder: bool
    succeeds: bool
    late: bool


STEPS = st.builds(
    Step,
    st.sampled_from(["203.0.113.9", "203.0.113.8", "198.51.100.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]),
    st.sampled_from([0.0, 0.0, 0.25, 1.0, 4.0, 9.75, 30.0]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
SUBJECTS = {"2001:db8::2": "2001:db8::1"}
LIMITS = st.builds(Limit, st.sampled_from([1, 10, 30]), st.integers(0, 3), st.integers(0, 2))


class Model:
    """What should be let through: windows in a list."""

    def __init__(self, limit: Limit, most: int) -> None:
        self.limit, self.most, self.windows = limit, most, list[Window]()

    def admit(self, step: Step, now: float) -> Window | int:
        """The window that counts this request, or the seconds to wait."""
        self.windows = [window for window in self.windows if window.ends_at > now]
        subject = SUBJECTS.get(step.client, step.client)
        mine = [window for window in self.windows if window.subject == subject]
        if not mine:
            if len(self.windows) == self.most:
                self.windows.remove(min(self.windows, key=lambda window: window.ends_at))
            self.windows.append(Window(subject, now + self.limit.window, []))
            return self.windows[-1]
        successes, failures = mine[0].outcomes.count(True), mine[0].outcomes.count(False)
        may_fail = self.limit.failed * 10 if step.holder else self.limit.failed
        if (self.limit.successful and successes >= self.limit.successful) or (may_fail and failures >= may_fail):
            return math.ceil(mine[0].ends_at - now)
        return mine[0]


def attempt(limits: Limits, step: Step, now: float) -> Counters | int:
    """The counters, or the seconds to wait."""
    try:
        return limits.admit(Address.parse(step.client), step.holder, now)
    except Refused as refused:
        return refused.retry_after


@given(limit=LIMITS, most=st.integers(1, 4), steps=st.lists(STEPS, max_size=80))
def test_limits_agree_with_a_list_of_windows(limit: Limit, most: int, steps: list[Step]) -> None:
    limits, model, now = Limits(limit, most), Model(limit, most), 100.0
    late: list[tuple[Counters, Window, int]] = []
    for step in steps:
        now += step.wait
        expected = model.admit(step, now)
        counters = attempt(limits, step, now)
        if isinstance(counters, int):
            assert counters == expected
            assert 1 <= counters <= limit.window
            continue
        assert isinstance(expected, Window)
        expected.outcomes.append(True)
        if not step.succeeds:
            late.append((counters, expected, len(expected.outcomes) - 1))
        while late and not (step.late and len(late) < 3):
            ended, window, place = late.pop()
            ended.fail()
            window.outcomes[place] = False
        assert len(limits) == len(model.windows) <= most
