"""No packet counts twice, against a memory that forgets nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.core.packets import seen as module
from knocker.core.packets.native import NotOurs
from knocker.core.packets.seen import Seen, Sighting

WINDOW = 120_000
NOW = 1_767_225_600_000


def nonce(number: int) -> bytes:
    return number.to_bytes(16, "big")


def refused(seen: Seen, made: int, now: int, number: int = 1, owner: str = "a") -> str:
    """Why a packet is refused, or an empty text."""
    try:
        seen.admit(owner, nonce(number), made, now)
    except NotOurs as why:
        return str(why)
    return ""


def again(seen: Seen, window: int = WINDOW) -> Seen:
    """What a restart finds."""
    seen.prune()
    kept = list(seen)
    return Seen(window, seen.mark, seen.fence, kept)


def test_a_packet_counts_once() -> None:
    seen = Seen(WINDOW)
    assert refused(seen, NOW, NOW) == ""
    assert refused(seen, NOW, NOW) == "replay"
    assert refused(seen, NOW, NOW + WINDOW) == "replay"
    assert refused(seen, NOW, NOW, owner="b") == ""
    assert refused(seen, NOW, NOW, number=2) == ""
    assert refused(again(seen), NOW, NOW) == "replay"


def test_what_could_not_be_stored_may_come_again() -> None:
    seen = Seen(WINDOW)
    seen.forget(seen.admit("a", nonce(1), NOW, NOW))
    assert refused(seen, NOW, NOW) == ""


def test_what_is_too_old_is_forgotten_and_stays_refused() -> None:
    seen = Seen(WINDOW)
    assert refused(seen, NOW, NOW) == ""
    assert refused(seen, NOW + WINDOW + 1, NOW + WINDOW + 1, number=2) == ""
    seen.prune()
    assert [known.nonce for known in seen] == [nonce(2)]
    assert refused(seen, NOW, NOW) == "behind"
    assert refused(again(seen), NOW, NOW) == "behind"


def test_a_clock_far_behind_its_mark_takes_nothing_of_today() -> None:
    seen = Seen(WINDOW, mark=NOW + 10 * WINDOW)
    assert seen.is_behind(NOW)
    assert refused(seen, NOW, NOW) == "behind"
    assert not seen.is_behind(NOW + 9 * WINDOW)
    assert refused(seen, NOW + 9 * WINDOW, NOW + 9 * WINDOW) == ""


def test_after_a_loss_only_later_packets_count() -> None:
    seen = Seen(WINDOW, fence=NOW + WINDOW)
    assert refused(seen, NOW + WINDOW - 1, NOW) == "fenced"
    assert refused(seen, NOW + WINDOW, NOW) == ""
    assert refused(again(seen), NOW + WINDOW - 1, NOW, number=2) == "fenced"


def test_a_window_that_grows_brings_nothing_back() -> None:
    seen = Seen(WINDOW)
    assert refused(seen, NOW, NOW) == ""
    assert refused(seen, NOW + WINDOW + 1, NOW + WINDOW + 1, number=2) == ""
    assert refused(again(seen, 3 * WINDOW), NOW, NOW + WINDOW + 1) == "fenced"


def test_a_full_memory_refuses_and_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    seen = Seen(WINDOW)
    assert [refused(seen, NOW, NOW, number) for number in range(4)] == ["", "", "", "full"]
    assert refused(seen, NOW, NOW, number=0) == "replay"


def test_the_mark_is_the_highest_time_of_all_that_was_seen() -> None:
    assert Seen(WINDOW, 5, 0, [Sighting(7, 1, "a", nonce(1)), Sighting(6, 1, "a", nonce(2))]).mark == 7


_STEPS = st.one_of(
    st.tuples(st.just("clock"), st.integers(-4 * WINDOW, 4 * WINDOW)),
    st.tuples(st.just("packet"), st.tuples(st.integers(0, 5), st.integers(-2 * WINDOW, 2 * WINDOW))),
    st.tuples(st.just("old packet"), st.integers(0, 30)),
    st.tuples(st.sampled_from(["prune", "restart"]), st.none()),
    st.tuples(st.just("window"), st.sampled_from([WINDOW // 4, WINDOW, 2 * WINDOW])),
)


@given(st.lists(_STEPS, max_size=60))
def test_whatever_clocks_and_restarts_do_no_packet_counts_twice(steps: list[tuple[str, Any]]) -> None:
    seen, now, window = Seen(WINDOW), NOW, WINDOW
    sent: list[tuple[int, int]] = []
    counted: set[tuple[int, int]] = set()
    highest = 0  # of all times at which a packet came
    for what, much in steps:
        if what == "clock":
            now = max(NOW - 20 * WINDOW, now + much)
        elif what == "prune":
            seen.prune()
        elif what in ("restart", "window"):
            window = much or window
            seen = again(seen, window)
        else:
            if what == "packet":
                sent.append((much[0], now + much[1]))
            elif not sent:
                continue
            number, made = sent[-1] if what == "packet" else sent[much % len(sent)]
            if abs(made - now) > window:
                continue  # the reader lets none through
            highest = max(highest, now)
            if not refused(seen, made, now, number * 10**15 + made):
                assert (number, made) not in counted
                assert made >= highest - window
                counted.add((number, made))


def test_while_the_clock_is_behind_nothing_counts_not_even_what_is_dated_later() -> None:
    seen = Seen(WINDOW, mark=NOW)
    behind = NOW - WINDOW - 30_000
    assert refused(seen, behind + WINDOW, behind) == "behind"
    assert refused(seen, NOW - WINDOW, NOW - WINDOW) == ""
