"""GET /verify, and anything below it: the question that a proxy asks for every request (contract 3.2).

A leaf beside Klein: any method, any tail, and whatever goes wrong here is a denial.
"""

from __future__ import annotations

from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource

from knocker.core.addresses import Address
from knocker.core.gate import Verdict
from knocker.core.visitor import Peer, Unresolved
from knocker.listen import answers
from knocker.listen.canaries import watch
from knocker.listen.denial import is_navigation
from knocker.listen.house import House
from knocker.listen.question import Question, question_of
from knocker.listen.request import peer_of


def judge(house: House, peer: Peer, question: Question, whole: Request | None = None) -> tuple[int, Address | None]:
    """The status of an answer, and, where that is 200, the client that the request is of, if it is known.

    `whole`: the request that asks, where it was read as a whole; only canaries look at it.
    """
    gate = house.gate
    client: Address | None = None
    try:
        found = gate.policy.client(peer, question.believed, question.chain, question.forged)
        client = found if isinstance(found, Address) else None
        verdict = gate.verdict(client, question, house.now())
        if house.canaries.live:
            watch(house, peer, question, found, verdict, whole)
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
        status, client = judge(self.house, peer, question, request)
        if client is not None:
            # Caddy's copy_headers X-Forwarded-For then leaves the app the right address.
            request.setHeader(b"x-forwarded-for", str(client).encode())
        if status != 200 and self.house.manners.has_pages and question.believed and is_navigation(request):
            denial = self.house.manners.deny(question)
            if denial.has_page:
                return answers.page(request, status, denial.page(request), denial.policy)
        return answers.empty(request, status)
