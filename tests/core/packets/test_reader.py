"""Which key a datagram is of, and when it counts."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.core.keys import udp_secret
from knocker.core.packets.native import SIZE, SLOT, Knock, NotOurs, Secrets, encode, hint
from knocker.core.packets.reader import Reader, Skewed

NAMES = ["phone", "laptop", "admin"]
SECRETS = {name: Secrets.of(udp_secret(f"kn_{name}")) for name in NAMES}
NONCE = bytes(range(16))
NOW = 1_767_225_600  # where a slot begins


def packet(made: float, key: str = "phone") -> bytes:
    return encode(SECRETS[key], Knock(round(made * 1000), NONCE))


def reader(window: int = 120) -> Reader:
    return Reader(SECRETS, window)


@pytest.mark.parametrize("name", NAMES)
def test_the_key_is_found(name: str) -> None:
    found = reader().read(packet(NOW, name), NOW)
    assert (found.key, found.owner) == (name, SECRETS[name].owner)
    assert found.knock == Knock(NOW * 1000, NONCE)


@pytest.mark.parametrize("length", [0, 1, 79, 81, 160, 1500])
def test_any_other_length_is_none_of_ours(length: int) -> None:
    with pytest.raises(NotOurs, match="bad_length"):
        reader().read((packet(NOW) * 20)[:length], NOW)


def test_a_key_that_is_not_there_is_unknown() -> None:
    with pytest.raises(NotOurs, match="unknown"):
        Reader({"phone": SECRETS["phone"]}, 120).read(packet(NOW, "laptop"), NOW)
    with pytest.raises(NotOurs, match="unknown"):
        Reader({}, 120).read(packet(NOW), NOW)


@pytest.mark.parametrize("window", [30, 120, 300])
@pytest.mark.parametrize("begin", [NOW, NOW + 1, NOW + 59.5, NOW + 119.999])
def test_the_window_is_as_wide_as_it_is_said(window: int, begin: float) -> None:
    known = reader(window)
    for skew in (-window, -window + 0.5, 0, window - 0.5, window):
        assert known.read(packet(begin + skew), begin).knock.moment == round((begin + skew) * 1000)
    for skew in (-window - 0.5, window + 0.5, -86_400, 86_400, -26 * 3600 + SLOT, 26 * 3600 - SLOT):
        with pytest.raises(Skewed) as refused:
            known.read(packet(begin + skew), begin)
        assert refused.value.key == "phone"
        assert abs(refused.value.seconds - skew) < 0.002


@pytest.mark.parametrize("days", [-400, -2, 2, 400])
def test_a_clock_that_is_days_off_is_nobodys(days: int) -> None:
    with pytest.raises(NotOurs, match="unknown"):
        reader().read(packet(NOW + days * 86_400), NOW)


def test_a_time_that_its_hint_does_not_cover_is_refused() -> None:
    honest, secrets = packet(NOW), SECRETS["phone"]
    for slot in (NOW // SLOT - 1, NOW // SLOT + 1):
        head = hint(secrets, slot) + honest[8:64]
        with pytest.raises(NotOurs, match="bad_tag"):
            reader().read(head + honest[64:], NOW)
        with pytest.raises(NotOurs, match="bad_time"):  # as only the key's holder could make it
            reader().read(head + hmac.digest(secrets.mac, head, "sha256")[:16], NOW)


@given(st.lists(st.integers(-100_000_000, 100_000_000), min_size=1, max_size=12))
def test_the_hints_follow_the_clock_wherever_it_goes(steps: list[int]) -> None:
    known, wall = reader(), float(NOW)
    for step in steps:
        wall = max(1_000_000.0, wall + step)
        for name in NAMES:
            assert known.read(packet(wall + 100, name), wall).key == name
        with pytest.raises(NotOurs):
            known.read(packet(wall + 200), wall)
        assert len(known._hints) <= len(NAMES) * (2 * known._reach + 1)


def test_many_keys_cost_bounded_memory_and_are_all_found() -> None:
    many = {f"key-{number}": Secrets.of(udp_secret(f"kn_{number}")) for number in range(2000)}
    known = Reader(many, 300)
    for number in (0, 1000, 1999):
        made = encode(many[f"key-{number}"], Knock((NOW + 299) * 1000, NONCE))
        assert known.read(made, NOW).key == f"key-{number}"
    assert len(known._hints) <= 30_000


@given(st.binary(min_size=SIZE, max_size=SIZE))
def test_noise_is_unknown(noise: bytes) -> None:
    with pytest.raises(NotOurs, match="unknown"):
        reader().read(noise, NOW)
