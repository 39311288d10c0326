"""How doctor comes by its evidence: GET requests to the app's public address, and canaries of the gate's.

It never knocks and leaves no grant. The canaries are random values that it forges; the gate tells what became of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from knocker.account import Account, Where
from knocker.client import Answer, Candidate, ask, exchange, resolve
from knocker.core import strictjson
from knocker.core.addresses import Address
from knocker.doctor.evidence import Evidence, Probe, Reply
from knocker.doctor.forgeries import ODD_PATHS
from knocker.doctor.remedies import remedy
from knocker.faults import REFUSED, Failed
from knocker.remote import refusal, stranger

_WITHIN = 15.0  # seconds for an answer of the app's; a proxy gives its gate less
_Lines = list[tuple[str, str]]
_Request = tuple[str, str, _Lines, bytes]  # name, target, forged lines, body; {n} stands for its number


def examine(caller: Account, where: Where, proxy: str) -> Evidence:
    """Everything that can be seen; raises Failed where the gate does not answer."""
    gate = resolve(caller.where)
    began = time.time()
    first, answer = _canary(caller, gate, proxy)
    skew = _skew(answer, began, time.time())
    one, several = (_canary(caller, gate, proxy)[0] for _ in range(2))
    asker = _asked(caller, gate, [])
    forged = [
        (one.address, _asked(caller, gate, _forwarded_for(one, 1))),
        (several.address, _asked(caller, gate, _forwarded_for(several, 2))),
    ]
    app = resolve(where)
    families = {family: _reached(where, app, family) for family in dict.fromkeys(found.name for found in app)}
    working = [found for found in app if families[found.name] == ""] or app
    front = _reply(where, where.path + "/", working, [])
    sent = _sent(where, working, _requests(where.path, first, one, several))
    told = [_found(caller, gate, canary) for canary in (first, one, several)]
    forgers = ("real", "one", "several")  # whose address is the first canary's, the second's, the third's
    questions = [question for canary in told for question in canary["questions"]]
    return Evidence(
        host=where.host,
        skew=skew,
        families=families,
        asker=asker,
        direct=asker["peer"] in _own_addresses(gate),
        forged_askers=forged,
        front=front,
        probes=_told_apart(sent, questions, first.mark),
        others=told[0]["others"],
        used_addresses=[name for name, canary in zip(forgers, told, strict=True) if canary["address"]["used"]],
        proxy=proxy,
    )


# --- What is sent ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Canary:
    id: str
    address: str
    path: str
    host: str

    @property
    def mark(self) -> str:
        """What each of its texts has in it."""
        return self.path[1:]


def _forwarded_for(canary: _Canary, lines: int) -> _Lines:
    return [("X-Forwarded-For", canary.address)] * lines


def _requests(base: str, first: _Canary, one: _Canary, several: _Canary) -> list[_Request]:
    """Name, target, forged lines and body of each request; {n} is its number, by which it is known again."""
    honest = f"{base}{first.path}/n-{{n}}"
    forged = f"{first.path}/forged-{{n}}"
    below = f"{base}{first.path}"
    odd = {
        "dots": f"{below}/x/../n-{{n}}",
        "coded dots": f"{below}/x/%2e%2e/n-{{n}}",
        "coded slash": f"{below}/x%2fn-{{n}}",
        "coded sign": f"{below}/n-{{n}}%3Bx",
        "line break": f"{below}/n-{{n}}%0d%0aX-Knocker-_Canary:%20{first.mark}",
        "two slashes": f"{below}//n-{{n}}",
    }
    return [
        ("control", honest, [], b""),
        ("one", honest, _forwarded_for(one, 1), b""),
        ("several", honest, _forwarded_for(several, 2), b""),
        ("real", honest, [("X-Real-IP", first.address), ("Forwarded", f'for="[{first.address}]"')], b""),
        ("host", honest, [("X-Forwarded-Host", f"forged-{{n}}.{first.host}")], b""),
        ("uri", honest, [("X-Forwarded-Uri", forged)], b""),
        ("original", honest, [("X-Original-URI", forged)], b""),
        ("method", honest, [("X-Forwarded-Method", first.mark.upper())], b""),
        ("needless", honest, [("Cookie", f"canary={first.mark}"), ("Authorization", f"Bearer {first.mark}")], b""),
        ("body", honest, [], b"x"),
        *((name, odd[name], [], b"") for name in ODD_PATHS),
    ]


def _sent(where: Where, candidates: Sequence[Candidate], requests: Sequence[_Request]) -> dict[str, Probe]:
    """Each of them sent, with what was answered."""
    probes = {}
    for number, (name, path, lines, body) in enumerate(requests):
        target = path.replace("{n}", str(number))
        numbered = [(header, value.replace("{n}", str(number))) for header, value in lines]
        probes[name] = Probe(target, _reply(where, target, candidates, numbered, body))
    return probes


def _told_apart(sent: dict[str, Probe], questions: Sequence[Any], mark: str) -> dict[str, Probe]:
    """Each request with the questions to the gate that it caused."""
    numbers = [_number(question, mark) for question in questions]
    return {
        name: Probe(
            probe.path,
            probe.reply,
            [question for found, question in zip(numbers, questions, strict=True) if found == number],
        )
        for number, (name, probe) in enumerate(sent.items())
    }


def _number(question: Any, mark: str) -> int | None:
    """Which request caused a question."""
    for text in (question["path"], *question["arrived"].values()):
        if text and mark in text and (found := re.search("(?:n|forged)-([0-9]+)", text)):
            return int(found[1])
    return None


# --- How it is asked -------------------------------------------------------------------------------------------------


def _canary(caller: Account, gate: Sequence[Candidate], proxy: str) -> tuple[_Canary, Answer]:
    answer = ask(caller, "POST", "/canaries", gate)
    if answer.status == 403:
        raise Failed(REFUSED, "doctor needs an admin's key", "one with allow_remote_whitelist: true in knocker.yaml")
    if answer.status == 404:
        hint = f"does the knock host publish /canaries? {remedy('publish', proxy)}. Or ask the gate itself: --gate"
        raise Failed(REFUSED, f"{caller.where} has no canaries", hint)
    told = _json(caller, answer)
    try:
        return _Canary(*(str(told[name]) for name in ("id", "address", "path", "host"))), answer
    except KeyError:
        raise stranger(caller, answer) from None


def _asked(caller: Account, gate: Sequence[Candidate], forged: _Lines) -> Any:
    """How the gate sees a request of ours to itself."""
    told = _json(caller, ask(caller, "GET", "/explain", gate, forged=forged))
    return told["request"]


def _found(caller: Account, gate: Sequence[Candidate], canary: _Canary) -> Any:
    return _json(caller, ask(caller, "GET", f"/canaries/{canary.id}", gate))


def _json(caller: Account, answer: Answer) -> Any:
    if answer.status != 200:
        raise refusal(caller, answer)
    try:
        return strictjson.read(answer.body)
    except ValueError:
        raise stranger(caller, answer) from None


def _reply(where: Where, target: str, candidates: Sequence[Candidate], lines: _Lines, body: bytes = b"") -> Reply:
    try:
        answer = exchange(where, "GET", target, candidates, lines, body, most=-1, within=_WITHIN)
    except Failed as failed:
        return Reply(0, failed.error)
    server = " ".join(answer.headers.get_all("Server", []) + answer.headers.get_all("Via", []))
    return Reply(answer.status, server=server, location=answer.headers.get("Location", ""))


def _reached(where: Where, candidates: Sequence[Candidate], family: str) -> str | None:
    """Why there is no answer over a family, "" where there is one; None where this machine cannot tell."""
    mine = [found for found in candidates if found.name == family]
    try:
        exchange(where, "GET", where.path + "/", mine, [], most=-1)
    except Failed as failed:
        return None if _has_no(mine[0]) else failed.error
    return ""


def _has_no(candidate: Candidate) -> bool:
    """Whether this machine has no way to any address of that family."""
    import socket

    with socket.socket(candidate.family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(candidate.address)
        except OSError:
            return True
    return False


def _own_addresses(candidates: Sequence[Candidate]) -> set[str]:
    """The addresses from which this machine reaches those."""
    import socket

    found = set()
    for candidate in candidates:
        with socket.socket(candidate.family, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.connect(candidate.address)
            found.add(str(Address.parse(probe.getsockname()[0])))
    return found


def _skew(answer: Answer, began: float, ended: float) -> float | None:
    """Seconds that the gate's clock is ahead, beyond what a Date of whole seconds and the way may hide."""
    try:
        told = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except (TypeError, ValueError):
        return None
    if told > ended:
        return told - ended
    return min(0.0, told + 1 - began)
