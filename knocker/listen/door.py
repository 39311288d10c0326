"""The root of the web port: /verify the short way, a guard against proxies at the wrong address, the rest to Klein."""

from __future__ import annotations

from twisted.web.http import Request
from twisted.web.resource import IResource, Resource

from knocker.core.hosts import read_host
from knocker.core.paths import is_plain
from knocker.listen import answers
from knocker.listen.house import House
from knocker.listen.question import is_verify
from knocker.listen.request import FORWARDED_HOST, Visit, is_asking, lines, visit


class Door(Resource):
    """Only /verify may say yes to a proxy (contract 3)."""

    isLeaf = True

    def __init__(self, house: House, verify: IResource, web: IResource) -> None:
        super().__init__()
        self.house = house
        self.verify = verify
        self.web = web

    def render(self, request: Request) -> object:
        """Hand the request to where it belongs."""
        if is_verify(request.path):
            return self.verify.render(request)
        seen = visit(request, self.house.gate.policy)
        if is_asking(request) or self._is_astray(request, seen):
            return self._turn_away(request, seen)
        origin = self.house.manners.cors(lines(request, b"origin"))
        request.setHeader(b"access-control-allow-origin", origin.encode())
        request.setHeader(b"access-control-expose-headers", b"Retry-After")
        if origin != "*":
            request.setHeader(b"vary", b"Origin")
        if not is_plain(request.path.decode("latin-1")):
            return answers.nothing(request)
        return self.web.render(request)

    def _is_astray(self, request: Request, seen: Visit) -> bool:
        """Whether a proxy hands on a request for a host that is not the knock page's."""
        hosts = self.house.manners.knock_hosts
        if not hosts or not seen.believed or (request.path == b"/health" and request.method == b"GET"):
            return False
        named = lines(request, FORWARDED_HOST) or lines(request, b"host")
        return len(named) != 1 or read_host(named[0]) not in hosts

    def _turn_away(self, request: Request, seen: Visit) -> bytes:
        self.house.tally.drop("wrong_address")
        self.house.reports.report_of(
            seen.peer,
            "wrong_address",
            "peer {peer} asked {path} for a verdict or for another host than the knock page's: denied; let the"
            " proxy's authentication request go to /verify, and only requests for knock_page.url and `also` here",
            path=request.path.decode("latin-1"),
        )
        return answers.empty(request, self.house.manners.deny(seen).status)
