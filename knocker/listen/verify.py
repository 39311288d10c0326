"""GET /verify, and anything below it: the question that a proxy asks for every request (contract 3.2).

A leaf beside Klein: any method, any tail, and whatever goes wrong here is a denial.
"""

from __future__ import annotations

from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource

from knocker.core.gate import Cause, Verdict
from knocker.core.paths import asked_path
from knocker.listen import answers
from knocker.listen.house import House
from knocker.listen.request import FORWARDED_URI, ORIGINAL_URI, Visit, lines, visit

PREFIX = b"/verify"


def is_verify(path: bytes) -> bool:
    """Whether a request path, without its query, asks for a verdict."""
    return path == PREFIX or path.startswith(PREFIX + b"/")


class Verify(Resource):
    """Answers 200 or the deny status, always with an empty body."""

    isLeaf = True

    def __init__(self, house: House) -> None:
        super().__init__()
        self.house = house

    def render(self, request: Request) -> bytes:
        """One verdict."""
        host: str | None = None
        try:
            seen = visit(request, self.house.gate.policy)
            host = seen.host
            verdict = self._verdict(request, seen)
        except Exception:  # noqa: BLE001 - any mistake of ours must deny
            self.house.reports.failure("verify_error", "a verdict failed and was answered with a denial", Failure())
            verdict = Verdict(Cause.ERROR)
        self.house.tally.verdict("allow" if verdict.allowed else "deny", verdict.cause.value)
        if verdict.allowed:
            if seen.visitor.client is not None:
                # Caddy's copy_headers X-Forwarded-For then leaves the app the right address.
                request.setHeader(b"x-forwarded-for", str(seen.visitor.client).encode())
            return answers.empty(request, 200)
        return answers.empty(request, self.house.manners.deny(host))

    def _verdict(self, request: Request, seen: Visit) -> Verdict:
        path = None
        if seen.visitor.believed:
            tail = bytes(request.uri)[len(PREFIX) :]
            path = asked_path(tail, lines(request, FORWARDED_URI), lines(request, ORIGINAL_URI))
        verdict = self.house.gate.verdict(seen.visitor.client, seen.host, path, self.house.now())
        if not verdict.allowed and seen.visitor.unresolved is not None:
            unresolved = seen.visitor.unresolved
            self.house.reports.report(
                f"verify_{unresolved.name}",
                "denied a request of peer {peer}: {why}",
                peer=seen.peer,
                why=unresolved.value,
            )
        return verdict
