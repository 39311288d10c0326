"""API keys: what each may do, how one is found, how a new one is made.

A key is found by the SHA-256 of the presented bytes, so that a look-up costs the same for any text and the
time it takes says nothing about a key. Generated keys have 256 bits: no slower hash would add anything.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from knocker.core.hosts import Scope

LONGEST_KEY = 256  # bytes of X-Api-Key, contract 3.3
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX = "kn_"


def digest_of(secret: bytes) -> bytes:
    """What is kept of a key: the SHA-256 of its bytes."""
    return hashlib.sha256(secret).digest()


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of api_keys. `ttl` and `max_ttl` are seconds; `admin` is allow_remote_whitelist.

    `expires` is the wall-clock second from which the key is refused, `max_addresses` how many own addresses of
    one family its grants may open at a time; None is without end. `udp_secret` is what its packets are made with,
    None for a key that may not knock over UDP.
    """

    name: str
    digest: bytes
    ttl: int
    max_ttl: int
    admin: bool = False
    hosts: Scope | None = None
    ipv6_prefix: int = 128
    max_addresses: int | None = None
    expires: float | None = None
    udp_secret: bytes | None = None
    # What a stored grant remembers of the secret: enough to notice a change, nothing to guess from.
    mark: str = field(init=False, compare=False)
    # The same for one that a packet left; None where the key makes none.
    udp_mark: str | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mark", _mark(b"knocker key mark" + self.digest))
        udp_mark = None if self.udp_secret is None else _mark(b"knocker packet mark" + self.udp_secret)
        object.__setattr__(self, "udp_mark", udp_mark)

    def __repr__(self) -> str:
        """The name alone: a digest in a log would help whoever guesses short keys."""
        return f"<Key {self.name}>"

    def granted_ttl(self, asked: int | None) -> int:
        """The seconds that a knock gets: its own wish up to max_ttl, else the key's ttl."""
        return self.ttl if asked is None else min(asked, self.max_ttl)

    def is_over(self, wall: float) -> bool:
        """Whether the key is refused by now."""
        return self.expires is not None and wall >= self.expires

    def lasting(self, ttl: float, wall: float) -> float:
        """The seconds that a grant may last: `ttl`, but no longer than the key itself."""
        return ttl if self.expires is None else min(ttl, self.expires - wall)


def _mark(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


class Keyring:
    """All keys, found by what a knock presents and by name."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)
        self._by_digest = {key.digest: key for key in self.keys}
        self._by_name = {key.name: key for key in self.keys}

    def find(self, lines: Sequence[bytes]) -> Key | None:
        """The key that the X-Api-Key lines of a request present: exactly one line of 1 to 256 bytes."""
        if len(lines) != 1 or not 1 <= len(lines[0]) <= LONGEST_KEY:
            return None
        return self._by_digest.get(digest_of(lines[0]))

    def named(self, name: str) -> Key | None:
        """The key of this name."""
        return self._by_name.get(name)

    @property
    def longest_ttl(self) -> int:
        """The largest max_ttl, in seconds: what an entry without a key may last at most."""
        return max((key.max_ttl for key in self.keys), default=0)


def generate(token_bytes: Callable[[int], bytes]) -> str:
    """A new key: ``kn_``, 43 base62 characters of 256 random bits, 6 of checksum (contract 5).

    The checksum lets a scanner tell a leaked key from other text, and a person a mistyped one.
    """
    body = _PREFIX + _base62(int.from_bytes(token_bytes(32), "big"), 43)
    return body + _base62(zlib.crc32(body.encode()), 6)


def well_formed(key: str) -> bool:
    """Whether `key` is one that `generate` made, unaltered."""
    if not (len(key) == 52 and key.startswith(_PREFIX) and key.isascii() and key[3:].isalnum()):
        return False
    return key[-6:] == _base62(zlib.crc32(key[:-6].encode()), 6)


def udp_secret(key: str) -> bytes:
    """The secret that a UDP knock is made with (contract 4, PRK): HKDF-Extract of the key, RFC 5869 2.2."""
    return hmac.new(b"knocker-udp-v1", key.encode(), hashlib.sha256).digest()


def _base62(number: int, length: int) -> str:
    text = ""
    for _ in range(length):
        number, digit = divmod(number, 62)
        text = _BASE62[digit] + text
    return text
