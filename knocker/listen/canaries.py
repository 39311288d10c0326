"""POST /canaries and GET /canaries/{id}: what a proxy lets through of a client's forgeries (contract 3.4)."""

from __future__ import annotations

from twisted.python.failure import Failure
from twisted.web.http import Request

from knocker.core.addresses import Address
from knocker.core.canaries import Heard
from knocker.core.gate import Verdict
from knocker.core.refusals import Refusal, Refused
from knocker.core.visitor import Peer, Unresolved
from knocker.listen import answers
from knocker.listen.call import Call
from knocker.listen.house import House
from knocker.listen.question import Question


async def make(house: House, call: Call) -> bytes:
    """Answer POST /canaries."""
    _check_right(call)
    now = house.now()  # a canary's time is the boot clock's, and the wall clock's is told for whoever compares it

    def is_taken(address: Address) -> bool:
        policy = house.gate.policy
        return address in policy.trusted or address in policy.always_allowed or house.gate.holds_grant(address, now)

    made = house.canaries.make(call.seen.client, is_taken, now.boot)
    answer = {
        "id": made.id,
        "address": made.found_address.text,
        "path": made.found_path.text,
        "host": made.found_host.text,
        "expires_in_seconds": made.seconds_left(now.boot),
        "time": now.wall,
    }
    return answers.answer(call.request, 200, answer)


async def show(house: House, call: Call, canary_id: str) -> bytes:
    """Answer GET /canaries/{id}."""
    _check_right(call)
    now = house.now().boot
    canary = house.canaries.find(canary_id, now)
    if canary is None:
        raise Refused(Refusal.NO_CANARY, "there is none of this id, or its time is over")
    return answers.answer(call.request, 200, canary.shown(now))


def _check_right(call: Call) -> None:
    if not call.caller.admin:
        raise Refused(Refusal.NO_PERMISSION, f"the key {call.caller.name} asks for a canary")


def watch(
    house: House, peer: Peer, question: Question, found: Address | Unresolved, verdict: Verdict, whole: Request | None
) -> None:
    """Let the canaries look; whatever goes wrong there changes no verdict."""
    try:
        heard = Heard(
            peer=str(peer),
            believed=question.believed,
            client=found if isinstance(found, Address) else None,
            why=found.value if isinstance(found, Unresolved) else None,
            host=question.host,
            path=question.path,
            in_target=question.tail.partition(b"?")[0] != b"",
            verdict=verdict.label,
            lines=_all_lines(whole) if whole is not None else _read_lines(question),
            whole=whole is not None,
        )
        house.canaries.look(heard, house.now().boot)
    except Exception:  # noqa: BLE001 - as said
        house.reports.failure("canary_error", "a canary could not look at a question", Failure())


def _read_lines(question: Question) -> list[tuple[str, str]]:
    named = (
        ("X-Forwarded-For", question.chain),
        ("X-Forwarded-Host", question.hosts),
        ("X-Forwarded-Uri", question.uris),
        ("X-Original-Uri", question.originals),
    )
    return [(name, line.decode("latin-1")) for name, lines in named for line in lines]


def _all_lines(request: Request) -> list[tuple[str, str]]:
    headers = request.requestHeaders.getAllRawHeaders()
    return [(name.decode("latin-1"), line.decode("latin-1")) for name, lines in headers for line in lines]
