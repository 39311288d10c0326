"""GET /explain: what /verify would answer, and which step and setting decide it (contract 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

from knocker.core.addresses import Address
from knocker.core.explain import Told
from knocker.core.refusals import Refusal, Refused
from knocker.listen import answers
from knocker.listen.call import Call, forbidden_here
from knocker.listen.house import House
from knocker.listen.request import FORWARDED_FOR, host_in, lines, query


@dataclass(frozen=True, slots=True)
class Asked:
    """What is explained: somebody's request for a host and a path, None where it is not known."""

    host: str | None
    path: str | None


async def explain(house: House, call: Call) -> bytes:
    """Answer GET /explain for an admin's key: for any address, or without `ip` for this very request."""
    if not call.caller.admin:
        raise Refused(Refusal.NO_PERMISSION, f"the key {call.caller.name} asks for an explanation")
    given = query(call.request, "ip", "host", "path")
    asked = Asked(host_in(given), _path(given))
    told = Told()
    this: dict[str, object] | None = None
    client = _address(given["ip"]) if "ip" in given else call.seen.client
    if "ip" not in given:
        chain = [line.decode("latin-1") for line in lines(call.request, FORWARDED_FOR)]
        found = client if client is not None else call.seen.unresolved
        assert found is not None  # noqa: S101 - one of the two is known
        told.asked(call.seen.peer, call.seen.believed, chain, found)
        this = {
            "peer": str(call.seen.peer),
            "trusted": call.seen.believed,
            "forwarded_for": chain,
            "client": str(call.seen.client) if call.seen.client is not None else None,
            "why": call.seen.unresolved.value if call.seen.unresolved is not None else None,
            "host": call.seen.host,
            "refused": forbidden_here(house).why(call.seen.client.network) if call.seen.client is not None else None,
        }
        if "host" not in given:
            asked = Asked(call.seen.host, asked.path)
    verdict = house.gate.verdict(client, asked, house.now(), told)
    answer = {
        "ip": str(client) if client is not None else None,
        "host": asked.host,
        "path": asked.path,
        "allowed": verdict.allowed,
        "status": 200 if verdict.allowed else house.manners.deny(asked).status,
        "cause": verdict.label[1],
        "steps": [step.shown() for step in told.steps],
        "request": this,
    }
    return answers.answer(call.request, 200, answer)


def _address(text: bytes) -> Address:
    try:
        return Address.parse(text.decode("ascii"))
    except ValueError:
        raise Refused(Refusal.INVALID_ADDRESS, "ip is no address") from None


def _path(given: dict[str, bytes]) -> str | None:
    if "path" not in given:
        return None
    path = given["path"].partition(b"?")[0].decode("latin-1")
    if not path.startswith("/"):
        raise Refused(Refusal.INVALID_DATA, "path begins with /")
    return path
