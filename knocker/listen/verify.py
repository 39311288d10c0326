"""GET /verify, and anything below it: the question that a proxy asks for every request (contract 3.2).

A leaf beside Klein: any method, any tail, and whatever goes wrong here is a denial.
"""

from __future__ import annotations

from functools import partial

from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource

from knocker.core.addresses import Address
from knocker.core.gate import Cause, Verdict
from knocker.core.paths import asked_path
from knocker.core.visitor import Peer
from knocker.listen import answers
from knocker.listen.house import House
from knocker.listen.request import FORWARDED_URI, ORIGINAL_URI, LinesOf, Visit, lines, peer_of, visit_of

PREFIX = b"/verify"


def is_verify(path: bytes) -> bool:
    """Whether a request path, without its query, asks for a verdict."""
    return path == PREFIX or path.startswith(PREFIX + b"/")


def judge(house: House, peer: Peer, lines_of: LinesOf, tail: bytes) -> tuple[int, Address | None]:
    """The status of an answer, and, where that is 200, the client that the request is of, if it is known.

    `tail`: what follows /verify in the request's target.
    """
    host: str | None = None
    try:
        seen = visit_of(peer, lines_of, house.gate.policy)
        host = seen.host
        verdict = _verdict(house, seen, lines_of, tail)
        client = seen.visitor.client
    except Exception:  # noqa: BLE001 - any mistake of ours must deny
        house.reports.failure("verify_error", "a verdict failed and was answered with a denial", Failure())
        verdict, client = Verdict(Cause.ERROR), None
    house.tally.verdict("allow" if verdict.allowed else "deny", verdict.cause.value)
    return (200, client) if verdict.allowed else (house.manners.deny(host), None)


def _verdict(house: House, seen: Visit, lines_of: LinesOf, tail: bytes) -> Verdict:
    path = None
    if seen.visitor.believed and house.gate.policy.exclusions:
        path = asked_path(tail, lines_of(FORWARDED_URI), lines_of(ORIGINAL_URI))
    verdict = house.gate.verdict(seen.visitor.client, seen.host, path, house.now())
    if not verdict.allowed and seen.visitor.unresolved is not None:
        unresolved = seen.visitor.unresolved
        house.reports.report_of(
            seen.peer, f"verify_{unresolved.name}", "denied a request of peer {peer}: {why}", why=unresolved.value
        )
    return verdict


class Verify(Resource):
    """Answers 200 or the deny status, always with an empty body."""

    isLeaf = True

    def __init__(self, house: House) -> None:
        super().__init__()
        self.house = house

    def render(self, request: Request) -> bytes:
        """One verdict."""
        peer, tail = peer_of(request.getClientAddress()), bytes(request.uri)[len(PREFIX) :]
        status, client = judge(self.house, peer, partial(lines, request), tail)
        if client is not None:
            # Caddy's copy_headers X-Forwarded-For then leaves the app the right address.
            request.setHeader(b"x-forwarded-for", str(client).encode())
        return answers.empty(request, status)
