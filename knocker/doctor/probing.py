"""How doctor comes by its evidence: GET requests to the app's public address, and canaries of the gate's.

It never knocks and leaves no grant. The canaries are random values that it forges; the gate tells what became of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from knocker.account import Account, Where
from knocker.client import Candidate, exchange, own_address, resolve
from knocker.doctor.asking import Canary, Gate, Lines
from knocker.doctor.evidence import INJECTED, Evidence, Probe, Reply
from knocker.faults import Failed

_WITHIN = 8.0  # seconds for an answer of the app's; a proxy gives its gate less
_CONNECTING = 3.0
# What proxies are told to take a client's address from, and clients may write too.
_VENDORS = (
    *("CF-Connecting-IP", "CF-Connecting-IPv6", "True-Client-IP", "X-Client-IP", "X-Cluster-Client-IP"),
    *("Fastly-Client-IP", "X-Envoy-External-Address"),
)
ODD = {
    "dots": "/x/../{tag}",
    "coded dots": "/x/%2e%2e/{tag}",
    "coded slash": "/x%2f{tag}",
    "coded sign": "/{tag}%3Bx",
    "line break": f"/{{tag}}%0d%0a{INJECTED}:%20{{mark}}",
    "two slashes": "//{tag}",
}


def examine(caller: Account, where: Where, proxy: str) -> Evidence:
    """Everything that can be seen; raises Failed where the gate does not answer."""
    gate = Gate(caller, _answering(resolve(caller.where)), proxy)
    gate.renew()
    asker, forged = gate.asked([]), gate.canary.address(0)
    forged_asker = gate.asked([("X-Forwarded-For", forged)])
    app = resolve(where)
    answering = _answering(app) or app
    site = _Site(where, gate)
    families = {name: site.over(app, answering, name) for name in dict.fromkeys(found.name for found in app)}
    working = [found for found in answering if families[found.name] and site.answered(f"over {found.name}")]
    site.candidates = working or answering
    front = site.reply(_Request(where.path + "/"))
    for name in NAMES:
        site.send(name)
    gate.collect()
    return Evidence(
        host=where.host,
        skew=gate.skew,
        families={name: site.told(f"over {name}") if there else None for name, there in families.items()},
        asker=asker,
        forged_asker=forged_asker,
        forged=forged,
        own=asker["peer"] in {str(own_address(found)) for found in gate.candidates},
        front=front,
        probes={name: site.told(name) for name in NAMES},
        others=gate.others,
        used=[name for name in NAMES if site.used_address(name)],
        proxy=proxy,
    )


def _answering(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that take a connection in a short time, so that the others are waited for only once."""
    import socket

    found = []
    for candidate in candidates:
        with socket.socket(candidate.family, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.settimeout(_CONNECTING)
            probe.connect(candidate.address)
            found.append(candidate)
    return found


@dataclass(frozen=True, slots=True)
class _Request:
    """What is sent: the target and the lines as they are, and perhaps a Host line that is not due."""

    target: str
    lines: Lines = field(default_factory=list)
    body: bytes = b""
    host: str | None = None


@dataclass(frozen=True, slots=True)
class _Sent:
    number: int
    canary: Canary
    path: str
    reply: Reply


class _Site:
    """The app as strangers see it. Each request has a number, by which the question that it causes is known."""

    def __init__(self, where: Where, gate: Gate) -> None:
        self.where = where
        self.gate = gate
        self.candidates: list[Candidate] = []
        self._sent: dict[str, _Sent] = {}

    def send(self, name: str) -> None:
        """One of the requests below."""
        self.gate.make_ready(2 * _WITHIN)
        number, canary = len(self._sent) + 1, self.gate.canary
        requests = _requests(self.where, canary, number)
        request = requests.get(name, requests["control"])
        self._sent[name] = _Sent(number, canary, request.target, self.reply(request))

    def over(self, all_of_it: list[Candidate], answering: list[Candidate], family: str) -> bool:
        """Send an honest request over one family; false where this machine has none of it."""
        mine = [found for found in answering if found.name == family]
        unanswered = [found for found in all_of_it if found.name == family]
        if not mine and all(own_address(found) is None for found in unanswered):
            return False
        self.candidates = mine or unanswered
        self.send(f"over {family}")
        return True

    def answered(self, name: str) -> bool:
        """Whether anything came back."""
        return self._sent[name].reply.status != 0

    def told(self, name: str) -> Probe:
        """A request that was sent, with the questions that are known by now."""
        sent = self._sent[name]
        mine = [one for one in self.gate.questions if _number(one, sent.canary) == sent.number]
        return Probe(sent.path, sent.reply, mine)

    def used_address(self, name: str) -> bool:
        """Whether the address that a request forged was taken for its client's."""
        sent = self._sent[name]
        return any(one["client"] == sent.canary.address(sent.number) for one in self.gate.questions)

    def reply(self, request: _Request) -> Reply:
        """What comes back."""
        lines, body, host = request.lines, request.body, request.host
        try:
            answer = exchange(self.where, "GET", request.target, self.candidates, lines, body, -1, _WITHIN, host)
        except Failed as failed:
            return Reply(0, failed.error, failed.hint)
        server = " ".join(answer.headers.get_all("Server", []) + answer.headers.get_all("Via", []))
        return Reply(answer.status, server=server, location=answer.headers.get("Location", ""))


def _requests(where: Where, canary: Canary, number: int) -> dict[str, _Request]:
    """Each request, made for one number: it stands in every text, so that each tells which request it is of."""
    tag, mark, address = f"n{number}-{canary.id}", canary.mark, canary.address(number)
    target, forged = f"{where.path}{canary.path}/{tag}", f"{canary.path}/forged-{tag}"
    host, scheme = f"{tag}.{canary.host}", "https" if where.secure else "http"
    odd = {name: _Request(where.path + canary.path + end.format(tag=tag, mark=mark)) for name, end in ODD.items()}
    return {
        "control": _Request(target),
        "one": _Request(target, [("X-Forwarded-For", address)]),
        "several": _Request(target, [("X-Forwarded-For", address)] * 2),
        "real": _Request(target, [("X-Real-IP", address), ("Forwarded", f'for="[{address}]"')]),
        "vendors": _Request(target, [(name, address) for name in _VENDORS]),
        "host": _Request(target, [("X-Forwarded-Host", host)]),
        "own host": _Request(target, host=host),
        "whole": _Request(f"{scheme}://{where.authority}{target}", host=host),
        "uri": _Request(target, [("X-Forwarded-Uri", forged)]),
        "original": _Request(target, [("X-Original-URI", forged)]),
        "method": _Request(target, [("X-Forwarded-Method", mark.upper())]),
        "needless": _Request(target, [("Cookie", f"canary={mark}"), ("Authorization", f"Bearer {mark}")]),
        "body": _Request(target, body=b"x"),
        **odd,
    }


NAMES = tuple(_requests(Where(True, "", 443), Canary("", "", "", "", 0.0), 0))


def _number(question: Any, canary: Canary) -> int | None:
    """Which request caused a question."""
    for text in (question["path"], question["host"], *question["arrived"].values()):
        if text and (found := re.search(f"n([0-9]+)-{canary.id}", text)):
            return int(found[1])
    return None
