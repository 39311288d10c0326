"""GET /verify, and anything below it: the question that a proxy asks for every request (contract 3.2).

A leaf beside Klein: any method, any tail, and whatever goes wrong here is a denial.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource

from knocker.core.addresses import Address
from knocker.core.gate import Verdict
from knocker.core.paths import asked_path
from knocker.core.visitor import Peer, Unresolved
from knocker.listen import answers
from knocker.listen.denial import is_navigation
from knocker.listen.house import House
from knocker.listen.request import (
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_URI,
    ORIGINAL_URI,
    Lines,
    host_of,
    is_forged,
    lines,
    peer_of,
)

PREFIX = b"/verify"


def is_verify(path: bytes) -> bool:
    """Whether a request path, without its query, asks for a verdict."""
    return path == PREFIX or path.startswith(PREFIX + b"/")


@dataclass(slots=True)  # nobody changes one; to freeze it would double the time to make it, for each request
class Question:
    """What a request to /verify says: lines of headers, read only as far as they matter.

    `believed`: the peer's word counts; `forged`: it does not, and there is a header that only a proxy sends. `tail`:
    what follows /verify in the target. The others are the lines of X-Forwarded-For, -Host, -Uri and X-Original-URI.
    """

    believed: bool
    forged: bool
    tail: bytes
    chain: Lines
    hosts: Lines
    uris: Lines
    originals: Lines

    @property
    def host(self) -> str | None:
        """The host that the client asked for."""
        return host_of(self.hosts) if self.believed else None

    @property
    def path(self) -> str | None:
        """The path that it asked for."""
        return asked_path(self.tail, self.uris, self.originals) if self.believed else None


def question_of(request: Request, believed: bool) -> Question:
    """The question of a whole request."""
    names = FORWARDED_FOR, FORWARDED_HOST, FORWARDED_URI, ORIGINAL_URI
    chain, hosts, uris, originals = (lines(request, name) for name in names)
    forged = not believed and is_forged(request)
    return Question(believed, forged, bytes(request.uri)[len(PREFIX) :], chain, hosts, uris, originals)


def judge(house: House, peer: Peer, question: Question) -> tuple[int, Address | None]:
    """The status of an answer, and, where that is 200, the client that the request is of, if it is known."""
    gate = house.gate
    client: Address | None = None
    try:
        found = gate.policy.client(peer, question.believed, question.chain, question.forged)
        client = found if isinstance(found, Address) else None
        verdict = gate.verdict(client, question, house.now())
        if verdict.allowed:
            house.tally.verdict(verdict.label)
            return 200, client
        status = house.manners.deny(question).status
        if isinstance(found, Unresolved):
            _report(house, peer, found)
    except Exception:  # noqa: BLE001 - any mistake of ours must deny
        house.reports.failure("verify_error", "a verdict failed and was answered with a denial", Failure())
        verdict, status = Verdict.ERROR, house.manners.denial.status
    house.tally.verdict(verdict.label)
    return status, None


def _report(house: House, peer: Peer, unresolved: Unresolved) -> None:
    house.reports.report_of(
        peer, f"verify_{unresolved.name}", "denied a request of peer {peer}: {why}", why=unresolved.value
    )


class Verify(Resource):
    """Answers 200, or the deny status; the body is empty but for a browser that is shown a page."""

    isLeaf = True

    def __init__(self, house: House) -> None:
        super().__init__()
        self.house = house

    def render(self, request: Request) -> bytes:
        """One verdict."""
        peer = peer_of(request.getClientAddress())
        question = question_of(request, self.house.gate.policy.believes(peer))
        status, client = judge(self.house, peer, question)
        if client is not None:
            # Caddy's copy_headers X-Forwarded-For then leaves the app the right address.
            request.setHeader(b"x-forwarded-for", str(client).encode())
        if status != 200 and self.house.manners.has_pages and question.believed and is_navigation(request):
            denial = self.house.manners.deny(question)
            if denial.has_page:
                return answers.page(request, status, denial.page(request), denial.policy)
        return answers.empty(request, status)
