"""How doctor comes by its evidence: GET requests to the app's public address, and canaries of the gate's.

It never knocks and leaves no grant. The canaries are random values that it forges; the gate tells what became of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from knocker.account import Account, Where
from knocker.client import LARGE, Answer, Candidate, ask, exchange, resolve
from knocker.core import strictjson
from knocker.core.addresses import Address
from knocker.doctor.evidence import INJECTED, Evidence, Probe, Reply
from knocker.doctor.remedies import remedy
from knocker.faults import REFUSED, Failed
from knocker.remote import refusal, stranger

_WITHIN = 8.0  # seconds for an answer of the app's; a proxy gives its gate less
_CONNECTING = 3.0
_END_OF_TIME = 1e13  # so that NaN and infinity are none either
_Lines = list[tuple[str, str]]
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
    gate = _Gate(caller, _answering(resolve(caller.where)), proxy)
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
        own=asker["peer"] in _own_addresses(gate.candidates),
        front=front,
        probes={name: site.told(name) for name in NAMES},
        others=gate.others,
        used=[name for name in NAMES if site.used_address(name)],
        proxy=proxy,
    )


# --- The gate --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Canary:
    id: str
    first_address: str
    path: str
    host: str
    ends_at: float  # steady seconds

    @property
    def mark(self) -> str:
        """What each of its texts has in it."""
        return self.path[1:]

    def address(self, number: int) -> str:
        """One of its addresses."""
        return f"{self.first_address[:-1]}{number:x}"


_CANARY = {
    "id": "[0-9a-f]{16}",
    "address": "[0-9a-f:]{6,39}:0",
    "path": "/canary-[0-9a-f]{16}",
    "host": r"canary-[0-9a-f]{16}\.invalid",
}


_TEXT: tuple[type, ...] = (str, type(None))
_ASKER: dict[str, tuple[type, ...]] = {
    "peer": (str,),
    "trusted": (bool,),
    "forwarded_for": (list,),
    **dict.fromkeys(("client", "why", "host", "refused"), _TEXT),
}
_QUESTION: dict[str, tuple[type, ...]] = {
    "peer": (str,),
    "cause": (str,),
    "arrived": (dict,),
    "headers": (list, type(None)),
    **dict.fromkeys(("trusted", "path_in_target", "allowed", "closes"), (bool,)),
    **dict.fromkeys(("client", "why", "host", "path", "method"), _TEXT),
}
_OTHER: dict[str, tuple[type, ...]] = {"host": _TEXT, "has_path": (bool,), "count": (int,)}


def _has(value: Any, shape: dict[str, tuple[type, ...]]) -> bool:
    """Whether a gate's answer has what it should."""
    return isinstance(value, dict) and all(isinstance(value.get(name), kinds) for name, kinds in shape.items())


class _Gate:
    """The gate as it is asked with the key. A canary is short-lived, so a long run has several."""

    def __init__(self, caller: Account, candidates: list[Candidate], proxy: str) -> None:
        self.caller = caller
        self.candidates = candidates or resolve(caller.where)
        self.proxy = proxy
        self.skew: float | None = None
        self.questions: list[Any] = []
        self.others: list[Any] = []
        self.canary: _Canary

    def renew(self) -> None:
        """Have a new canary."""
        began = time.time()
        answer = ask(self.caller, "POST", "/canaries", self.candidates)
        ended = time.time()
        if answer.status == 403:
            raise Failed(
                REFUSED, "doctor needs an admin's key", "one with allow_remote_whitelist: true in knocker.yaml"
            )
        if answer.status == 404:
            hint = f"does the knock host publish /canaries? {remedy('publish', self.proxy)}. Or use --gate"
            raise Failed(REFUSED, f"{self.caller.where} has no canaries", hint)
        told = self._json(answer)
        try:
            texts = {name: str(told[name]) for name in _CANARY}
            lasting, clock = told["expires_in_seconds"], told["time"]
        except (KeyError, TypeError):
            raise stranger(self.caller, answer) from None
        are_times = all(type(one) in (int, float) and abs(one) < _END_OF_TIME for one in (lasting, clock))
        if not are_times or not all(re.fullmatch(pattern, texts[name]) for name, pattern in _CANARY.items()):
            raise stranger(self.caller, answer)
        ends_at = time.monotonic() + lasting
        self.canary = _Canary(texts["id"], texts["address"], texts["path"], texts["host"], ends_at)
        self.skew = min(0.0, clock - began) if clock < ended else clock - ended

    def make_ready(self, seconds: float) -> None:
        """See to it that the canary lives for so long at least."""
        if self.canary.ends_at - time.monotonic() < seconds:
            self.collect()
            self.renew()

    def collect(self) -> None:
        """Take in what became of the canary."""
        answer = ask(self.caller, "GET", f"/canaries/{self.canary.id}", self.candidates, LARGE)
        if answer.status == 404:
            raise Failed(REFUSED, "the gate forgot the canary: others, or another doctor, asked for too many")
        told = self._json(answer)
        kinds = {"questions": (self.questions, _QUESTION), "others": (self.others, _OTHER)}
        for name, (known, shape) in kinds.items():
            found = told.get(name) if isinstance(told, dict) else None
            if not isinstance(found, list) or not all(_has(one, shape) for one in found):
                raise stranger(self.caller, answer)
            known += found

    def asked(self, forged: _Lines) -> Any:
        """How the gate sees a request of ours to itself."""
        answer = ask(self.caller, "GET", "/explain", self.candidates, forged=forged)
        told = self._json(answer)
        asker = told.get("request") if isinstance(told, dict) else None
        if not _has(asker, _ASKER):
            raise stranger(self.caller, answer)
        return asker

    def _json(self, answer: Answer) -> Any:
        if answer.status != 200:
            raise refusal(self.caller, answer)
        try:
            return strictjson.read(answer.body)
        except ValueError:
            raise stranger(self.caller, answer) from None


# --- The site --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Request:
    """What is sent: the target and the lines as they are, and perhaps a Host line that is not due."""

    target: str
    lines: _Lines = field(default_factory=list)
    body: bytes = b""
    host: str | None = None


@dataclass(frozen=True, slots=True)
class _Sent:
    number: int
    canary: _Canary
    path: str
    reply: Reply


class _Site:
    """The app as strangers see it. Each request has a number, by which the question that it causes is known."""

    def __init__(self, where: Where, gate: _Gate) -> None:
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
        if not mine and all(_has_no(found) for found in unanswered):
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


def _requests(where: Where, canary: _Canary, number: int) -> dict[str, _Request]:
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


NAMES = tuple(_requests(Where(True, "", 443), _Canary("", "", "", "", 0.0), 0))


def _number(question: Any, canary: _Canary) -> int | None:
    """Which request caused a question."""
    for text in (question["path"], question["host"], *question["arrived"].values()):
        if text and (found := re.search(f"n([0-9]+)-{canary.id}", text)):
            return int(found[1])
    return None


# --- The ways there --------------------------------------------------------------------------------------------------


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
