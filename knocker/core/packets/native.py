"""KNK-1: a knock as one datagram of 80 bytes that looks random to all who lack the key (contract 4).

::

     0  8  hint   HMAC-SHA256(K_hint, slot)[:8]: finds the key in one look-up, another one every 120 s
     8 16  nonce  random; the counter's start, and what a replay is known by
    24 40  body   AES-256-CTR(K_enc, nonce)
    64 16  tag    HMAC-SHA256(K_mac, all before it)[:16]

Each key of a packet is expanded from the API key (HKDF, RFC 5869), so that the packet's secret is none for HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from knocker.core.addresses import MAPPED, Network

SIZE = 80  # bytes
SLOT = 120  # seconds for which a key has the same hint
LONGEST_TTL = 0xFFFFFFFF  # seconds
_VERSION = 1
_ADDR, _BIND, _REVOKE = 1, 2, 4
_BODY = struct.Struct(">BBBBIQ16s8s")
_NO_ADDRESS, NO_SCOPE = bytes(16), bytes(8)


class NotOurs(Exception):
    """A datagram that is no knock; the text is one of a few, for counting."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What one API key is in the packets of one realm."""

    hint: bytes = field(repr=False)
    enc: bytes = field(repr=False)
    mac: bytes = field(repr=False)

    @classmethod
    def of(cls, udp_secret: bytes, realm: str = "") -> Secrets:
        """Expand a key's `udp_secret`; packets of one `realm` are nothing to a server of another."""
        info = b"\x00" + realm.encode() + b"\x01"
        return cls(*(_hmac(udp_secret, name + info) for name in (b"hint", b"enc", b"mac")))

    @property
    def owner(self) -> str:
        """Whose packets these are, whatever the key is called; nothing can be guessed from it."""
        return hashlib.sha256(b"knocker packet owner" + self.mac).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Knock:
    """What a packet says. `moment`: Unix milliseconds of its making; `ttl`: seconds, 0 for the key's own.

    `network` is what it names to be opened, None for the address that it comes from; `bound`: it counts only from
    inside of that. `scope`: the hash of the one host that it opens, empty for all of the key's.
    """

    moment: int
    nonce: bytes
    network: Network | None = None
    bound: bool = False
    revoke: bool = False
    ttl: int = 0
    scope: bytes = NO_SCOPE

    @property
    def seconds(self) -> int:
        """Unix seconds of its making, as the hint counts them."""
        return self.moment // 1000


def scope_of(host: str) -> bytes:
    """What stands in a packet for a host name (lower case, without port)."""
    return hashlib.sha256(host.encode()).digest()[:8]


def hint(secrets: Secrets, slot: int) -> bytes:
    """The first eight bytes of all packets of a key in one slot, which is Unix seconds divided by 120."""
    return _hmac(secrets.hint, slot.to_bytes(8, "big"))[:8]


def encode(secrets: Secrets, knock: Knock) -> bytes:
    """The packet that says so; raises ValueError for what no packet can say."""
    _check_sense(knock.network, knock.bound, knock.revoke, knock.ttl, knock.scope)
    if not 0 <= knock.ttl <= LONGEST_TTL:
        raise ValueError("a ttl that does not fit into a packet")
    flags = (_ADDR if knock.network else 0) | (_BIND if knock.bound else 0) | (_REVOKE if knock.revoke else 0)
    prefix, address = _written(knock.network)
    body = _BODY.pack(_VERSION, flags, prefix, 0, knock.ttl, knock.moment, address, knock.scope)
    head = hint(secrets, knock.seconds // SLOT) + knock.nonce + _crypt(secrets, knock.nonce, body)
    return head + _hmac(secrets.mac, head)[:16]


def decode(secrets: Secrets, packet: bytes) -> Knock:
    """What a packet of SIZE bytes with this key's hint says; raises NotOurs.

    Nothing of it is looked at before its tag proves the key, in constant time.
    """
    head, tag = packet[:64], packet[64:]
    if not hmac.compare_digest(_hmac(secrets.mac, head)[:16], tag):
        raise NotOurs("bad_tag")
    nonce = packet[8:24]
    version, flags, prefix, zero, ttl, moment, address, scope = _BODY.unpack(_crypt(secrets, nonce, packet[24:64]))
    try:
        if version != _VERSION or zero or flags & ~(_ADDR | _BIND | _REVOKE):
            raise ValueError("another version")
        network = _read(prefix, address, bool(flags & _ADDR))
        bound, revoke = bool(flags & _BIND), bool(flags & _REVOKE)
        _check_sense(network, bound, revoke, ttl, scope)
    except ValueError:
        raise NotOurs("bad_body") from None
    return Knock(moment, nonce, network, bound, revoke, ttl, scope)


def _check_sense(network: Network | None, bound: bool, revoke: bool, ttl: int, scope: bytes) -> None:
    if bound and network is None:
        raise ValueError("bound to an address that is not named")
    if revoke and (ttl or scope != NO_SCOPE):
        raise ValueError("a revocation with a time or a host")


def _written(network: Network | None) -> tuple[int, bytes]:
    if network is None:
        return 0, _NO_ADDRESS
    mapped, shift = (MAPPED << 32, 96) if network.bits == 32 else (0, 0)
    if network.bits == 128 and network.base >> 32 == MAPPED:
        raise ValueError("a mapped address, which is IPv4")
    return network.prefix + shift, (network.base | mapped).to_bytes(16, "big")


def _read(prefix: int, address: bytes, named: bool) -> Network | None:
    if not named:
        if prefix or address != _NO_ADDRESS:
            raise ValueError("an address that is not named as one")
        return None
    value = int.from_bytes(address, "big")
    if prefix > 128 or value & ((1 << (128 - prefix)) - 1):
        raise ValueError("a prefix length beyond the address, or host bits")
    if value >> 32 == MAPPED:
        if prefix < 96:
            raise ValueError("more than all of IPv4")
        return Network(32, value & 0xFFFFFFFF, prefix - 96)
    return Network(128, value, prefix)


def _crypt(secrets: Secrets, nonce: bytes, body: bytes) -> bytes:
    """Counter mode: the same both ways."""
    return Cipher(algorithms.AES256(secrets.enc), modes.CTR(nonce)).encryptor().update(body)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
