"""A request that presents a key: who sends it, how often they may, what they may do, and what the log says of it.

The order of the checks is contract 3's: client, limit, key; whatever is refused later counts as a failure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from twisted.internet.defer import CancelledError
from twisted.web.http import Request

from knocker.core.addresses import Address
from knocker.core.keys import Key
from knocker.core.knock import Forbidden
from knocker.core.limits import Counters
from knocker.core.refusals import Refusal, Refused
from knocker.core.visitor import Unresolved
from knocker.listen import answers
from knocker.listen.house import House
from knocker.listen.request import NOBODY, Visit, lines, visit

LINES_A_MINUTE = 20  # of refusals of one kind in the log


@dataclass
class Call:
    """What is known of one such request so far; the log of a refusal tells it."""

    request: Request
    seen: Visit
    client: Address | None = None
    key: Key | None = None
    entry: str = ""

    @property
    def caller(self) -> Key:
        """The key, once it was found."""
        assert self.key is not None  # noqa: S101 - nothing runs before that
        return self.key


class Needs(Enum):
    """What must be known of who calls."""

    GRANTABLE = 2  # an address that may be let in, since it is about that
    CLIENT = 1  # an address, or that there is no proxy between
    KEY = 0  # no address: an admin asks why it is not known


Act = Callable[[Call], Awaitable[bytes]]


async def answered(house: House, request: Request, act: Act, needs: Needs = Needs.CLIENT) -> bytes:
    """Run `act` for a caller who may; a refusal is answered and logged."""
    call = Call(request, visit(request, house.gate.policy))
    counters: Counters | None = None
    try:
        subject = _client(house, call, needs)
        if request.requestHeaders.hasHeader(b"x-api-key"):
            now = house.now()
            holder = house.gate.holds_grant(subject, now)
            counters = house.limits.admit(subject, holder, now.boot)
        call.key = house.gate.key(lines(request, b"x-api-key"), house.now())
        return await act(call)
    except Refused as refused:
        if counters is not None:
            counters.fail()
        _report(house, call, refused)
        return answers.refuse(request, refused.refusal, refused.retry_after)
    except CancelledError:
        # The client is gone; what it asked for is done all the same, and counts as that.
        raise
    except Exception:
        if counters is not None:
            counters.fail()
        raise


def forbidden_here(house: House) -> Forbidden:
    """What is never granted, by the settings and surroundings of this moment."""
    return house.gate.forbidden(*house.surroundings())


def _client(house: House, call: Call, needs: Needs) -> Address:
    """Whose limit counts; for a knock that is who may be granted. Raises Refused."""
    unresolved = call.seen.unresolved
    call.client = call.seen.client
    if call.client is None:
        if needs is Needs.KEY or (needs is Needs.CLIENT and unresolved is Unresolved.MISSING):
            # The latter is somebody on the proxy's own machine who asks without it: an admin with the command. All
            # others share one limit, lest a stranger's forgeries shut out that machine.
            peer = call.seen.peer if unresolved is Unresolved.MISSING else None
            return peer if isinstance(peer, Address) else NOBODY
        forged = unresolved in (Unresolved.FORGED, Unresolved.FORGED_UNIX)
        refusal = Refusal.FORGED if forged else Refusal.NO_CLIENT
        raise Refused(refusal, f"peer {call.seen.peer}: {unresolved.value if unresolved else ''}")
    if needs is Needs.GRANTABLE:
        forbidden_here(house).check_client(call.client)
    return call.client


def _report(house: House, call: Call, refused: Refused) -> None:
    house.tally.knock("http", refused.refusal.name.lower())
    house.reports.report(
        f"knock_{refused.refusal.name}",
        "refused {method} {path} of {client}: {error} {why}",
        lines_a_minute=LINES_A_MINUTE,
        event="refused",
        method=call.request.method.decode("latin-1"),
        path=call.request.path.decode("latin-1"),
        client=call.client or f"peer {call.seen.peer}",
        error=refused.refusal.value,
        why=refused.why,
        key=call.key.name if call.key is not None else None,
        entry=call.entry or (str(call.client) if call.client is not None else None),
        via="remote" if call.entry else "http",
        host=call.seen.host,
    )
