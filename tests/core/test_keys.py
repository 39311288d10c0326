"""API keys: how one is made, recognised and found."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.core.hosts import Scope
from knocker.core.keys import Key, Keyring, digest_of, generate, udp_secret, well_formed

SECRETS = st.binary(min_size=32, max_size=32)


def made_of(secret: bytes) -> str:
    return generate(lambda count: secret[:count])


def key(name: str = "phone", secret: bytes = b"a key of sixteen", ttl: int = 600, max_ttl: int = 3600) -> Key:
    return Key(name, digest_of(secret), ttl, max_ttl)


@given(secret=SECRETS)
def test_a_new_key_has_its_prefix_its_secret_and_its_checksum(secret: bytes) -> None:
    made = made_of(secret)
    assert len(made) == 3 + 43 + 6 == 52
    assert re.fullmatch("kn_[0-9A-Za-z]{49}", made)
    assert well_formed(made)


@pytest.mark.parametrize("byte", [0, 255])
def test_the_smallest_and_the_largest_secret_keep_the_length(byte: int) -> None:
    made = made_of(bytes([byte]) * 32)
    assert len(made) == 52
    assert well_formed(made)


@given(one=SECRETS, other=SECRETS)
def test_two_secrets_make_two_keys(one: bytes, other: bytes) -> None:
    assert (made_of(one) == made_of(other)) == (one == other)


@given(
    secret=SECRETS,
    place=st.integers(0, 51),
    character=st.characters(min_codepoint=32, max_codepoint=126) | st.characters(),
)
def test_one_changed_character_is_noticed(secret: bytes, place: int, character: str) -> None:
    made = made_of(secret)
    changed = made[:place] + character + made[place + 1 :]
    assert well_formed(changed) == (changed == made)


@given(secret=SECRETS, place=st.integers(0, 50))
def test_two_neighbours_exchanged_are_noticed(secret: bytes, place: int) -> None:
    made = made_of(secret)
    changed = made[:place] + made[place + 1] + made[place] + made[place + 2 :]
    assert well_formed(changed) == (changed == made)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("kn_", id="the prefix alone"),
        pytest.param("kn_" + "0" * 49, id="a wrong checksum"),
        pytest.param(made_of(bytes(32)) + "\n", id="a line break after"),
        pytest.param(" " + made_of(bytes(32)), id="a space before"),
        pytest.param(made_of(bytes(32))[:-1], id="one character short"),
        pytest.param("kn_" + "\N{LATIN SMALL LETTER E WITH ACUTE}" * 49, id="not ASCII"),
        pytest.param("kn_" + "\udc80" * 49, id="a byte of the environment that is not UTF-8"),
    ],
)
def test_other_text_is_not_well_formed(text: str) -> None:
    assert not well_formed(text)


def test_generate_asks_for_256_bits() -> None:
    asked: list[int] = []

    def token_bytes(count: int) -> bytes:
        asked.append(count)
        return secrets.token_bytes(count)

    assert well_formed(generate(token_bytes))
    assert asked == [32]


@given(text=st.text("abcABC019_-", min_size=1, max_size=80))
def test_the_udp_secret_is_the_hmac_that_rfc_2104_describes(text: str) -> None:
    block = b"knocker-udp-v1".ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + text.encode()).digest()
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()
    assert udp_secret(text) == outer == hmac.digest(b"knocker-udp-v1", text.encode(), "sha256")


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        pytest.param([b"a key of sixteen"], True, id="exactly once"),
        pytest.param([], False, id="missing"),
        pytest.param([b""], False, id="empty"),
        pytest.param([b"a key of sixteen", b"a key of sixteen"], False, id="repeated, even equal"),
        pytest.param([b"a key of sixteen", b""], False, id="a second, empty line"),
        pytest.param([b"a key of sixteeN"], False, id="another"),
        pytest.param([b"a key of sixteen "], False, id="compared as bytes"),
        pytest.param([b"\xff" * 16], False, id="bytes that are no text"),
        pytest.param([digest_of(b"a key of sixteen")], False, id="the digest opens nothing"),
        pytest.param([digest_of(b"a key of sixteen").hex().encode()], False, id="nor does its hex"),
    ],
)
def test_a_key_is_found_by_exactly_one_line(lines: list[bytes], found: bool) -> None:
    assert (Keyring([key()]).find(lines) is not None) is found


@pytest.mark.parametrize(("length", "found"), [(1, True), (256, True), (257, False), (100_000, False)])
def test_a_line_has_at_most_256_bytes(length: int, found: bool) -> None:
    secret = b"k" * length
    assert (Keyring([key(secret=secret)]).find([secret]) is not None) is found


@given(texts=st.lists(st.binary(min_size=1, max_size=256), unique=True, max_size=6), asked=st.binary(max_size=300))
def test_the_ring_agrees_with_a_linear_scan(texts: list[bytes], asked: bytes) -> None:
    ring = Keyring(key(f"key-{index}", secret) for index, secret in enumerate(texts))
    for index, secret in enumerate(texts):
        found = ring.find([secret])
        assert found is not None
        assert found.name == f"key-{index}"
        assert ring.named(f"key-{index}") is found
    assert (ring.find([asked]) is not None) == (asked in texts)
    assert ring.named("nobody") is None


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        pytest.param(None, 600, id="its own ttl"),
        pytest.param(1, 1, id="a smaller wish"),
        pytest.param(3600, 3600, id="the most"),
        pytest.param(3601, 3600, id="capped, not refused"),
        pytest.param(10**4000, 3600, id="capped, however large"),
    ],
)
def test_a_wish_is_granted_up_to_the_most(asked: int | None, granted: int) -> None:
    assert key().granted_ttl(asked) == granted


def test_the_longest_ttl_is_that_of_the_most_patient_key() -> None:
    assert Keyring([key("a", max_ttl=700), key("b", b"another secret..", max_ttl=900)]).longest_ttl == 900
    assert Keyring().longest_ttl == 0


def test_no_repr_shows_a_digest_or_what_derives_from_it() -> None:
    one = Key("phone", digest_of(b"a key of sixteen"), 600, 3600, hosts=Scope.parse(["a.example"]))
    for text in (repr(one), str(one), f"{one}", repr([one]), repr(Keyring([one])), repr({one: 1})):
        for hidden in (one.digest.hex(), repr(one.digest)[2:-1], one.mark, "sixteen"):
            assert hidden not in text
    assert "phone" in repr(one)


def test_the_mark_notices_another_secret_and_tells_nothing_of_it() -> None:
    one, same, other = key("a"), key("b"), key("a", b"another secret..")
    assert one.mark == same.mark != other.mark
    assert one.mark not in one.digest.hex()
    assert len(one.mark) == 16


@pytest.mark.parametrize(
    ("expires", "over"),
    [
        pytest.param(None, False, id="without end"),
        pytest.param(1000.1, False, id="before"),
        pytest.param(1000.0, True, id="at that moment"),
        pytest.param(999.9, True, id="after it"),
        pytest.param(0.0, True, id="in 1970"),
    ],
)
def test_a_key_is_refused_from_its_end_on(expires: float | None, over: bool) -> None:
    assert replace(key(), expires=expires).is_over(1000.0) is over


@pytest.mark.parametrize(
    ("expires", "lasting"),
    [
        pytest.param(None, 600, id="without end"),
        pytest.param(1601.0, 600, id="later than the grant"),
        pytest.param(1600.0, 600, id="with the grant"),
        pytest.param(1250.0, 250, id="sooner"),
    ],
)
def test_a_grant_lasts_no_longer_than_its_key(expires: float | None, lasting: float) -> None:
    assert replace(key(), expires=expires).lasting(600, 1000.0) == lasting


@given(ttl=st.integers(1, 10**9), expires=st.none() | st.integers(0, 10**10), wall=st.integers(0, 10**10))
def test_what_lasts_ends_neither_after_its_ttl_nor_after_its_key(ttl: int, expires: int | None, wall: int) -> None:
    lasting = replace(key(), expires=expires).lasting(ttl, wall)
    assert lasting <= ttl
    assert expires is None or wall + lasting <= expires
    assert lasting in (ttl, None if expires is None else expires - wall)
