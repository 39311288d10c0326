"""A request's bytes as the plain values that the core decides on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twisted.internet.address import UNIXAddress
from twisted.web.http import Request

from knocker.core.addresses import Address
from knocker.core.gate import Policy
from knocker.core.hosts import read_host
from knocker.core.refusals import Refusal, Refused
from knocker.core.visitor import Nameless, Peer, Unresolved

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
Lines = Sequence[bytes]  # of one header of a request, in their order


@dataclass(frozen=True, slots=True)
class Visit:
    """Who asks, and for which host.

    `believed`: the peer's forwarded headers count. `client` is None exactly where `unresolved` says why; `host` is
    None where the peer's word does not count or is unclear.
    """

    peer: Peer
    believed: bool
    client: Address | None
    unresolved: Unresolved | None
    host: str | None


def lines(request: Request, name: bytes) -> Lines:
    """All lines of one header, in their order."""
    return request.requestHeaders.getRawHeaders(name) or ()


def visit(request: Request, policy: Policy) -> Visit:
    """Find out who is asking (contract 3.1)."""
    peer = peer_of(request.getClientAddress())
    believed = policy.believes(peer)
    found = policy.client(peer, believed, lines(request, FORWARDED_FOR), not believed and is_forged(request))
    host = host_of(lines(request, FORWARDED_HOST)) if believed else None
    if isinstance(found, Address):
        return Visit(peer, believed, found, None, host)
    return Visit(peer, believed, None, found, host)


def is_forged(request: Request) -> bool:
    """Whether a request whose peer is not believed has a header that only a proxy sends."""
    return any(request.requestHeaders.hasHeader(name) for name in PROXYS)


def host_of(hosts: Lines) -> str | None:
    """The host that the X-Forwarded-Host lines of a believed peer name."""
    return read_host(hosts[0]) if len(hosts) == 1 else None


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


def query(request: Request, *names: str) -> dict[str, bytes]:
    """What a request's query says, of these names, each once at most; raises Refused for anything else."""
    args: dict[bytes, list[bytes]] = request.args or {}
    if set(args) - {name.encode() for name in names} or any(len(values) != 1 for values in args.values()):
        said = request.path.decode("latin-1")
        raise Refused(Refusal.INVALID_DATA, f"the query of {said} knows {', '.join(names)}, once each")
    return {name.decode(): values[0] for name, values in args.items()}


def host_in(given: dict[str, bytes]) -> str | None:
    """The `host` of a query, None where it has none; raises Refused for what is no name."""
    host = read_host(given["host"]) if "host" in given else None
    if "host" in given and host is None:
        raise Refused(Refusal.INVALID_DATA, "host is no host name")
    return host


def is_asking(request: Request) -> bool:
    """Whether a proxy asks here for a verdict; outside /verify that is the wrong address (contract 3)."""
    return any(request.requestHeaders.hasHeader(name) for name in _ASKING)
