"""Who is asking: the peer, every X-Forwarded-For line and the trusted proxies become one address, or a reason why not.

Nothing here falls back to a second best (contract 3.1): what cannot be told for sure is nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from knocker.core.addresses import LOOPBACK, NOBODY, Address, Networks

MOST_HOPS = 32
# Below these, and above zero, nothing of NOBODY can be; nearly every client is there.
_FIRST = {bits: min(one.base for one in NOBODY.members if one.bits == bits and one.base) for bits in (32, 128)}


class Nameless(Enum):
    """A peer without an address: whoever is at the other end of a unix socket."""

    UNIX = "unix socket"

    def __str__(self) -> str:
        """The words, for logs."""
        return self.value


Peer = Address | Nameless


class Unresolved(Enum):
    """Why there is no client; the value is the admin's explanation and names the setting that mends it."""

    FORGED = (
        "it sent forwarded headers but is not in server.trusted_proxies: a proxy that is missing there, or a forger"
    )
    MISSING = "the trusted proxy sent no X-Forwarded-For: let the proxy set it to the address of its client"
    ONLY_PROXIES = (
        "X-Forwarded-For names only addresses of server.trusted_proxies: the proxy does not see its clients' own"
        " addresses (with Docker often the userland-proxy or a masquerading network)"
    )
    UNREADABLE = "X-Forwarded-For has an item that is not a plain address: let the proxy replace what its client sent"
    FORGED_UNIX = 'it sent forwarded headers over the unix socket, and "unix" is not in server.trusted_proxies'
    NAMELESS = 'it came over the unix socket, and "unix" is not in server.trusted_proxies'
    NOBODY = "X-Forwarded-For names an unspecified, multicast or broadcast address"
    TOO_MANY = f"X-Forwarded-For passes through more than {MOST_HOPS} trusted proxies"


def believes(peer: Peer, trusted: Networks, trusts_unix: bool) -> bool:
    """Whether a peer's forwarded headers count; `trusts_unix`: trusted_proxies has "unix"."""
    return peer in trusted if isinstance(peer, Address) else trusts_unix


def direct(peer: Peer, forwarded: bool) -> Address | Unresolved:
    """The client of a request whose peer is not believed (contract 3.1): the peer itself.

    `forwarded`: whether any header is present that only a proxy sends.
    """
    if not isinstance(peer, Address):
        return Unresolved.FORGED_UNIX if forwarded else Unresolved.NAMELESS
    if forwarded:
        return Unresolved.FORGED
    return Unresolved.NOBODY if peer in NOBODY else peer


def resolve(chain: Sequence[bytes], trusted: Networks, allow_loopback: bool = False) -> Address | Unresolved:
    """The client of a request whose peer is believed (contract 3.1).

    `chain`: the X-Forwarded-For lines in their order; `allow_loopback`: the setting allow_loopback_clients.
    """
    rest = b",".join(chain)
    for _ in range(MOST_HOPS):
        rest, comma, item = rest.rpartition(b",")
        address = _item(item.strip(b" \t"))
        if address is None:
            return Unresolved.UNREADABLE if b"".join(chain).strip(b" \t") else Unresolved.MISSING
        if not 0 < address.value < _FIRST[address.bits] and address in NOBODY:
            return Unresolved.NOBODY
        if address not in trusted:
            return address
        if not comma:
            return address if allow_loopback and address in LOOPBACK else Unresolved.ONLY_PROXIES
    return Unresolved.TOO_MANY


def _item(item: bytes) -> Address | None:
    """One hop: ``1.2.3.4``, ``1.2.3.4:567``, ``2001:db8::1``, ``[2001:db8::1]``, ``[2001:db8::1]:443``."""
    try:
        text = item.decode("ascii")
        if ":" not in text:
            return Address.parse(text)
        if len(text) > 64:
            return None
        if text.startswith("["):
            host, bracket, port = text[1:].partition("]")
            if not bracket or ":" not in host or not (port == "" or (port[0] == ":" and _is_port(port[1:]))):
                return None
            return Address.parse(host)
        if text.count(":") == 1:
            host, _, port = text.partition(":")
            return Address.parse(host) if _is_port(port) else None
        return Address.parse(text)
    except ValueError:
        return None


def _is_port(text: str) -> bool:
    return text.isdigit() and len(text) <= 5 and int(text) <= 65535
