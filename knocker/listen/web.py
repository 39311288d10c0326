"""The Klein app: /knock, /health, /ready, and a JSON 404 for the rest (contract 3.3, 3.5)."""

from __future__ import annotations

from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.iweb import IRequest
from werkzeug.exceptions import HTTPException

from knocker.core.addresses import Address
from knocker.core.keys import Key
from knocker.core.knock import Body, Forbidden
from knocker.core.refusals import Refusal, Refused
from knocker.core.visitor import Unresolved
from knocker.core.whitelist import Own
from knocker.listen import answers
from knocker.listen.house import House
from knocker.listen.request import lines, visit

_METHODS = (b"GET", b"POST", b"DELETE", b"OPTIONS")
_CONTENT_TYPES = (b"application/json", b"application/x-www-form-urlencoded", b"")


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
    async def knock(self, request: Request) -> bytes:
        """Open, extend or close the caller's grant."""
        if request.method not in _METHODS:
            return self._wrong_method(request, _METHODS)
        if request.method == b"OPTIONS":
            return self._preflight(request)
        client, forbidden = self._client(request)
        key = self.house.gate.key(lines(request, b"x-api-key"))
        if request.method == b"DELETE":
            return await self._leave(request, key, client)
        wish = self.house.gate.knock(client, key, Body.parse(_body(request)), forbidden)
        grant = await self.house.store.put(wish)
        self.house.tally.knock(wish.via.value, "granted")
        left = grant.seconds_left(self.house.now())
        found = {
            "whitelisted_entry": str(grant.network),
            "expires_at": int(min(grant.expires_at, self.house.now().wall + left)),
            "expires_in_seconds": left,
        }
        return answers.answer(request, 200, found)

    async def _leave(self, request: Request, key: Key, client: Address) -> bytes:
        await self.house.store.remove(Own(key, client), "its owner left")
        return answers.empty(request, 204)

    def _client(self, request: Request) -> tuple[Address, Forbidden]:
        """Who knocks, and what may not be opened here; raises Refused."""
        seen = visit(request, self.house.gate.policy)
        unresolved = seen.visitor.unresolved
        if seen.visitor.client is None:
            refusal = Refusal.FORGED if unresolved is Unresolved.FORGED else Refusal.NO_CLIENT
            raise Refused(refusal, f"peer {seen.peer}: {unresolved.value if unresolved else ''}")
        forbidden = self.house.gate.forbidden(*self.house.surroundings())
        forbidden.check_client(seen.visitor.client)
        return seen.visitor.client, forbidden

    def _preflight(self, request: Request) -> bytes:
        request.setHeader(b"access-control-allow-methods", b"GET, POST, DELETE")
        request.setHeader(b"access-control-allow-headers", b"X-Api-Key, Content-Type")
        request.setHeader(b"access-control-max-age", b"600")
        return answers.empty(request, 204)

    @app.route("/health")
    def health(self, request: Request) -> bytes:
        """Whether the process answers at all."""
        if request.method not in (b"GET", b"HEAD"):
            return self._wrong_method(request, (b"GET", b"HEAD"))
        return answers.answer(request, 200, {"status": "ok"})

    @app.route("/ready")
    def ready(self, request: Request) -> bytes:
        """Whether everything works, and if not, why."""
        if request.method not in (b"GET", b"HEAD"):
            return self._wrong_method(request, (b"GET", b"HEAD"))
        reasons = self.house.store.complaints() + self.house.complaints()
        if reasons:
            return answers.answer(request, 503, {"status": "not ready", "reasons": reasons})
        return answers.answer(request, 200, {"status": "ready"})

    @staticmethod
    def _wrong_method(request: Request, allowed: tuple[bytes, ...]) -> bytes:
        request.setHeader(b"allow", b", ".join(allowed))
        return answers.refuse(request, Refusal.METHOD)

    @app.handle_errors(Refused)
    def refused(self, request: IRequest, failure: Failure) -> bytes:
        """A knock that is not granted: its sender learns the reason's name, the log what to do about it."""
        refused = failure.value
        assert isinstance(refused, Refused) and isinstance(request, Request)  # noqa: S101, PT018
        self.house.tally.knock("http", refused.refusal.name.lower())
        seen = visit(request, self.house.gate.policy)
        self.house.reports.report(
            f"knock_{refused.refusal.name}",
            "refused a knock of {who}: {error} {why}",
            who=seen.visitor.client or f"peer {seen.peer}",
            error=refused.refusal.value,
            why=refused.why,
        )
        return answers.refuse(request, refused.refusal)

    @app.handle_errors(HTTPException)
    def unknown(self, request: IRequest, failure: Failure) -> bytes:
        """No such route."""
        assert isinstance(request, Request)  # noqa: S101
        return answers.answer(request, 404, {"error": "Not found."})

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
