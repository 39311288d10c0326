"""The Klein app: /knock, /grants, what admins ask, /health, /ready, the knock page; else 404 (contract 3.3 to 3.7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any

from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.iweb import IRequest
from werkzeug.exceptions import HTTPException

from knocker.core.grant import Own
from knocker.core.knock import Body
from knocker.core.refusals import Refusal, Refused
from knocker.listen import answers, canaries, grants, openapi
from knocker.listen.call import Call, Needs, answered, forbidden_here
from knocker.listen.explain import explain
from knocker.listen.house import House
from knocker.listen.knockpage import FILES, KnockPage
from knocker.listen.request import lines

_CONTENT_TYPES = (b"application/json", b"application/x-www-form-urlencoded", b"")

Answer = Awaitable[bytes] | bytes
_Route = Callable[..., Answer]


def _takes(*methods: bytes) -> Callable[[_Route], _Route]:
    """Let a route see these methods alone; another is refused, and OPTIONS, where it is one of them, answered."""

    def guarded(route: _Route) -> _Route:
        @wraps(route)
        def guard(web: Web, request: Request, **parts: Any) -> Answer:
            if request.method not in methods:
                request.setHeader(b"allow", b", ".join(methods))
                return answers.refuse(request, Refusal.METHOD)
            return _preflight(request) if request.method == b"OPTIONS" else route(web, request, **parts)

        return guard

    return guarded


def _preflight(request: Request) -> bytes:
    request.setHeader(b"access-control-allow-methods", b"GET, POST, DELETE")
    request.setHeader(b"access-control-allow-headers", b"X-Api-Key, Content-Type")
    request.setHeader(b"access-control-max-age", b"600")
    return answers.empty(request, 204)


class Web:
    """The routes of one house."""

    app = Klein()
    # An unusual spelling of a path is another path: no redirects, no merging of slashes.
    app.url_map.merge_slashes = False

    def __init__(self, house: House) -> None:
        self.house = house

    def warm_up(self) -> None:
        """Import now what werkzeug imports at its first request, when descriptors may have run out."""
        self.app.url_map.bind("localhost").match("/health")

    @app.route("/knock")
    @_takes(b"GET", b"POST", b"DELETE", b"OPTIONS")
    async def knock(self, request: Request) -> bytes:
        """Open, extend or close the caller's grant."""
        return await answered(
            self.house, request, self._leave if request.method == b"DELETE" else self._knock, Needs.GRANTABLE
        )

    async def _knock(self, call: Call) -> bytes:
        body = Body.parse(_body(call.request))
        client = call.client
        assert client is not None  # noqa: S101 - a knock without one was refused
        call.entry = str(body.network) if body.network is not None else ""
        wish = self.house.gate.knock(client, call.caller, body, forbidden_here(self.house))
        grant = await self.house.store.put(wish)
        self.house.tally.knock(wish.via.value, "granted")
        now = self.house.now()
        found = {
            "whitelisted_entry": str(grant.network),
            "expires_at": grant.shown_end(now),
            "expires_in_seconds": grant.seconds_left(now),
        }
        return answers.answer(call.request, 200, found)

    async def _leave(self, call: Call) -> bytes:
        assert call.client is not None  # noqa: S101 - as above
        await self.house.store.remove(Own(call.caller, call.client), "its owner left")
        return answers.empty(call.request, 204)

    @app.route("/grants")
    @_takes(b"GET", b"HEAD", b"OPTIONS")
    async def grants(self, request: Request) -> bytes:
        """List what the caller may see."""
        return await answered(self.house, request, partial(grants.show, self.house))

    @app.route("/grants/<grant_id>")
    @_takes(b"DELETE", b"OPTIONS")
    async def grant(self, request: Request, grant_id: str) -> bytes:
        """Close one grant."""
        return await answered(self.house, request, partial(grants.revoke, self.house, grant_id=grant_id))

    @app.route("/explain")
    @_takes(b"GET", b"HEAD")
    async def explain(self, request: Request) -> bytes:
        """Say what /verify would answer, and why."""
        return await answered(self.house, request, partial(explain, self.house), Needs.KEY)

    @app.route("/canaries")
    @_takes(b"POST")
    async def canaries(self, request: Request) -> bytes:
        """Make a canary."""
        return await answered(self.house, request, partial(canaries.make, self.house), Needs.KEY)

    @app.route("/canaries/<canary_id>")
    @_takes(b"GET", b"HEAD")
    async def canary(self, request: Request, canary_id: str) -> bytes:
        """Say what became of one."""
        return await answered(self.house, request, partial(canaries.show, self.house, canary_id=canary_id), Needs.KEY)

    @app.route("/")
    def page(self, request: Request) -> Answer:
        """The knock page."""
        shown = self.house.manners.knock_page
        return answers.nothing(request) if shown is None else self._page(request, shown=shown)

    @_takes(b"GET", b"HEAD")
    def _page(self, request: Request, shown: KnockPage) -> bytes:
        # A link or a script of another site must not open a door by /#knock.
        led = any(site not in (b"none", b"same-origin") for site in lines(request, b"sec-fetch-site"))
        return answers.page(request, 200, shown.html_led if led else shown.html, shown.policy)

    @app.route("/page/<name>")
    def page_file(self, request: Request, name: str) -> Answer:
        """What the knock page loads."""
        is_there = self.house.manners.knock_page is not None and name in FILES
        return self._page_file(request, name=name) if is_there else answers.nothing(request)

    @_takes(b"GET", b"HEAD")
    def _page_file(self, request: Request, name: str) -> bytes:
        content_type, content = FILES[name]
        answers.harden(request)
        return answers.sized(request, 200, content, content_type)

    @app.route("/health")
    @_takes(b"GET", b"HEAD")
    def health(self, request: Request) -> bytes:
        """Whether the process answers at all."""
        return answers.answer(request, 200, {"status": "ok"})

    @app.route("/ready")
    @_takes(b"GET", b"HEAD")
    def ready(self, request: Request) -> bytes:
        """Whether everything works, and if not, why."""
        reasons = self.house.store.complaints() + self.house.complaints()
        if reasons:
            return answers.answer(request, 503, {"status": "not ready", "reasons": reasons})
        return answers.answer(request, 200, {"status": "ready"})

    @app.route("/openapi.json")
    @_takes(b"GET", b"HEAD")
    def openapi(self, request: Request) -> bytes:
        """The API, for tools."""
        return answers.sized(request, 200, openapi.TEXT, b"application/json")

    @app.handle_errors(HTTPException)
    def unknown(self, request: IRequest, failure: Failure) -> bytes:
        """No such route."""
        assert isinstance(request, Request)  # noqa: S101
        return answers.nothing(request)

    @app.handle_errors(Exception)
    def broken(self, request: IRequest, failure: Failure) -> bytes:
        """A mistake of ours: the log gets the traceback, the client nothing."""
        assert isinstance(request, Request)  # noqa: S101
        if not failure.check(CancelledError):
            self.house.reports.failure("web_error", "a request failed", failure)
        return answers.answer(request, 500, {"error": "Internal error."})


def _body(request: Request) -> bytes:
    """The body's bytes, once its declared type is one that a knock may have; raises Refused."""
    body: bytes = request.content.read() if request.content is not None else b""
    types = lines(request, b"content-type")
    declared = types[0].partition(b";")[0].strip(b" \t").lower() if types else b""
    if body and (len(types) > 1 or declared not in _CONTENT_TYPES):
        raise Refused(Refusal.CONTENT_TYPE, "")
    return body
