"""A request's bytes as the plain values that the core decides on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from twisted.internet.address import UNIXAddress
from twisted.web.http import Request

from knocker.core.addresses import Address
from knocker.core.gate import Policy
from knocker.core.hosts import read_host
from knocker.core.visitor import Nameless, Peer, Visitor, resolve

FORWARDED_FOR = b"x-forwarded-for"
FORWARDED_HOST = b"x-forwarded-host"
FORWARDED_URI = b"x-forwarded-uri"
FORWARDED_METHOD = b"x-forwarded-method"
ORIGINAL_URI = b"x-original-uri"
# Headers that only a proxy sends: from any other peer they are forged, or the proxy was forgotten (contract 3.1).
PROXYS = (FORWARDED_FOR, FORWARDED_HOST, FORWARDED_URI, FORWARDED_METHOD, b"forwarded", b"x-real-ip", ORIGINAL_URI)
# Headers of a proxy that asks whether a request may pass, not of one that hands a request on (contract 3).
_ASKING = (FORWARDED_METHOD, FORWARDED_URI, ORIGINAL_URI)
NOBODY = Address(32, 0)
LinesOf = Callable[[bytes], Sequence[bytes]]  # the lines of one header of a request, in their order


@dataclass(frozen=True, slots=True)
class Visit:
    """Who asks, and for which host; `host` is None where the peer's word does not count or is unclear."""

    peer: Peer
    visitor: Visitor
    host: str | None


def lines(request: Request, name: bytes) -> list[bytes]:
    """All lines of one header, in their order."""
    return list(request.requestHeaders.getRawHeaders(name) or ())


def visit(request: Request, policy: Policy) -> Visit:
    """Find out who is asking (contract 3.1)."""
    return visit_of(peer_of(request.getClientAddress()), partial(lines, request), policy)


def visit_of(peer: Peer, lines_of: LinesOf, policy: Policy) -> Visit:
    """The same for a request of which only the peer and its headers are known."""
    # What only a proxy sends matters from everybody else.
    forwarded = not policy.believes(peer) and any(map(lines_of, PROXYS))
    chain = lines_of(FORWARDED_FOR)
    visitor = resolve(peer, chain, forwarded, policy.trusted, policy.allow_loopback, policy.trusts_unix)
    hosts = lines_of(FORWARDED_HOST)
    host = read_host(hosts[0]) if visitor.believed and len(hosts) == 1 else None
    return Visit(peer, visitor, host)


def peer_of(peer: object) -> Peer:
    """Who is at a connection's other end; the unspecified address where that cannot be told."""
    if isinstance(peer, UNIXAddress):
        return Nameless.UNIX
    return address_of(str(getattr(peer, "host", "")))


def address_of(host: str) -> Address:
    """The address that a socket tells; the unspecified one where it is none."""
    try:
        return Address.parse(host.partition("%")[0])  # a link-local address has its interface there
    except ValueError:
        return NOBODY


def is_asking(request: Request) -> bool:
    """Whether a proxy asks here for a verdict; outside /verify that is the wrong address (contract 3)."""
    return any(request.requestHeaders.hasHeader(name) for name in _ASKING)
