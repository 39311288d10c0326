"""KNK-1 to the byte: the vectors both ways, and nothing else."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from knocker.core.addresses import Address, Network
from knocker.core.keys import udp_secret
from knocker.core.packets.native import NO_SCOPE, SIZE, Knock, NotOurs, Secrets, decode, encode, hint, scope_of

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "knk1.json").read_text(encoding="utf-8"))["vectors"]
KEY = VECTORS[0]["api_key"]
SECRETS = Secrets.of(udp_secret(KEY))
NONCE = bytes(range(16))
MADE = 1_767_225_600_000
each_vector = pytest.mark.parametrize("vector", VECTORS, ids=[vector["packet_hex"][-8:] for vector in VECTORS])


def said(vector: dict[str, Any]) -> Knock:
    return Knock(
        vector["ts_ms"],
        bytes.fromhex(vector["nonce"]),
        Network.parse(vector["network"]) if "network" in vector else None,
        vector.get("bind", False),
        vector.get("revoke", False),
        vector.get("ttl", 0),
        scope_of(vector["scope"]) if "scope" in vector else NO_SCOPE,
    )


@each_vector
def test_a_vector_is_made_to_the_byte(vector: dict[str, Any]) -> None:
    secrets = Secrets.of(udp_secret(vector["api_key"]), vector["realm"])
    assert encode(secrets, said(vector)).hex() == vector["packet_hex"]


@each_vector
def test_a_vector_is_read_as_what_it_says(vector: dict[str, Any]) -> None:
    packet = bytes.fromhex(vector["packet_hex"])
    assert len(packet) == SIZE
    assert decode(Secrets.of(udp_secret(vector["api_key"]), vector["realm"]), packet) == said(vector)


@each_vector
def test_no_flipped_bit_passes(vector: dict[str, Any]) -> None:
    packet = bytes.fromhex(vector["packet_hex"])
    for bit in range(8 * SIZE):
        flipped = bytearray(packet)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NotOurs, match="bad_tag"):
            decode(SECRETS, bytes(flipped))


@given(st.text(min_size=1, max_size=60), st.text(max_size=20))
def test_the_keys_are_those_of_hkdf(key: str, realm: str) -> None:
    try:
        key.encode()
        realm.encode()
    except UnicodeEncodeError:
        return
    secrets = Secrets.of(udp_secret(key), realm)
    for name in ("hint", "enc", "mac"):
        info = name.encode() + b"\x00" + realm.encode()
        assert getattr(secrets, name) == HKDF(SHA256(), 32, b"knocker-udp-v1", info).derive(key.encode())


def test_a_packet_of_another_realm_or_key_is_none() -> None:
    packet = encode(SECRETS, Knock(MADE, NONCE))
    for other in (Secrets.of(udp_secret(KEY), "home"), Secrets.of(udp_secret(KEY + "x"))):
        with pytest.raises(NotOurs, match="bad_tag"):
            decode(other, packet)
        assert hint(other, MADE // 120_000) != packet[:8]


def test_secrets_are_not_shown() -> None:
    assert repr(SECRETS) == "Secrets()"
    assert SECRETS.mac.hex() not in SECRETS.owner


def _sealed(body: bytes) -> bytes:
    """A packet with a body of our choice, as somebody with the key could make it."""
    crypt = Cipher(algorithms.AES256(SECRETS.enc), modes.CTR(NONCE)).encryptor()
    head = hint(SECRETS, MADE // 120_000) + NONCE + crypt.update(body)
    return head + hmac.digest(SECRETS.mac, head, hashlib.sha256)[:16]


def _body(**other: Any) -> bytes:
    fields: dict[str, Any] = {
        "version": 1,
        "flags": 0,
        "prefix": 0,
        "zero": 0,
        "ttl": 0,
        "address": bytes(16),
        "scope": bytes(8),
    }
    fields |= other
    body: bytes = (
        bytes([fields["version"], fields["flags"], fields["prefix"], fields["zero"]])
        + fields["ttl"].to_bytes(4, "big")
        + MADE.to_bytes(8, "big")
        + fields["address"]
        + fields["scope"]
    )
    return body


V4 = bytes.fromhex("00000000000000000000ffffcb007107")
V6 = bytes.fromhex("20010db8000000000000000000000001")


def test_a_plain_body_is_read() -> None:
    assert decode(SECRETS, _sealed(_body())) == Knock(MADE, NONCE)
    assert decode(SECRETS, _sealed(_body(flags=1, prefix=128, address=V4))).network == Network.parse("203.0.113.7")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"version": 0}, id="version 0"),
        pytest.param({"version": 2}, id="a later version"),
        pytest.param({"flags": 8}, id="an unknown flag"),
        pytest.param({"flags": 128}, id="another one"),
        pytest.param({"zero": 1}, id="byte 3 is not zero"),
        pytest.param({"prefix": 1}, id="a prefix without ADDR"),
        pytest.param({"address": V6}, id="an address without ADDR"),
        pytest.param({"flags": 1, "prefix": 129, "address": V6}, id="a prefix over 128"),
        pytest.param({"flags": 1, "prefix": 255, "address": bytes(16)}, id="a prefix far over 128"),
        pytest.param({"flags": 1, "prefix": 95, "address": V4[:12] + bytes(4)}, id="IPv4 with a prefix under 96"),
        pytest.param({"flags": 1, "prefix": 80, "address": V4[:12] + bytes(4)}, id="IPv4, wider still"),
        pytest.param({"flags": 1, "prefix": 127, "address": V6}, id="host bits"),
        pytest.param({"flags": 1, "prefix": 120, "address": V4}, id="host bits of IPv4"),
        pytest.param({"flags": 2}, id="BIND without ADDR"),
        pytest.param({"flags": 4, "ttl": 1}, id="REVOKE with a ttl"),
        pytest.param({"flags": 4, "scope": scope_of("a")}, id="REVOKE with a scope"),
    ],
)
def test_a_body_that_says_no_sense_is_refused_whoever_made_it(other: dict[str, Any]) -> None:
    with pytest.raises(NotOurs, match="bad_body"):
        decode(SECRETS, _sealed(_body(**other)))


@pytest.mark.parametrize(
    "knock",
    [
        pytest.param(Knock(MADE, NONCE, bound=True), id="bound to nothing"),
        pytest.param(Knock(MADE, NONCE, revoke=True, ttl=1), id="a revocation with a ttl"),
        pytest.param(Knock(MADE, NONCE, revoke=True, scope=scope_of("a")), id="a revocation with a host"),
        pytest.param(Knock(MADE, NONCE, ttl=1 << 32), id="a ttl too long"),
        pytest.param(Knock(MADE, NONCE, ttl=-1), id="a negative ttl"),
        pytest.param(Knock(MADE, NONCE, Network(128, 0xFFFF << 32, 96)), id="IPv4 written as IPv6"),
    ],
)
def test_what_no_packet_can_say_is_not_made(knock: Knock) -> None:
    with pytest.raises(ValueError):
        encode(SECRETS, knock)


_NETWORKS = st.sampled_from([32, 128]).flatmap(
    lambda bits: st.builds(
        lambda value, prefix: Address(bits, value).widened(prefix),
        st.integers(0, 2**bits - 1).filter(lambda value: bits == 32 or value >> 32 != 0xFFFF),
        st.integers(0, bits),
    )
)


@given(
    st.integers(0, 2**63),
    st.binary(min_size=16, max_size=16),
    st.none() | _NETWORKS.filter(lambda network: network.bits == 32 or network.base >> 32 != 0xFFFF),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=8, max_size=8),
)
def test_what_is_said_is_heard(
    moment: int, nonce: bytes, network: Network | None, bound: bool, revoke: bool, ttl: int, scope: bytes
) -> None:
    bound = bound and network is not None
    asked = (0, NO_SCOPE) if revoke else (ttl, scope)
    knock = Knock(moment, nonce, network, bound, revoke, *asked)
    packet = encode(SECRETS, knock)
    assert len(packet) == SIZE
    assert decode(SECRETS, packet) == knock


@given(st.binary(min_size=SIZE, max_size=SIZE))
def test_noise_is_no_knock(packet: bytes) -> None:
    with pytest.raises(NotOurs):
        decode(SECRETS, packet)
