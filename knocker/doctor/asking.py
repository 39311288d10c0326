"""The gate as doctor asks it, with an admin's key: how it sees requests, and what became of canaries."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from knocker.account import Account
from knocker.client import LARGE, Answer, Candidate, ask, resolve
from knocker.core import strictjson
from knocker.doctor.remedies import remedy
from knocker.faults import REFUSED, Failed
from knocker.remote import refusal, stranger

_END_OF_TIME = 1e13  # so that NaN and infinity are none either
Lines = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Canary:
    """A canary's values, until the steady second at which it ends."""

    id: str
    first_address: str
    path: str
    host: str
    ends_at: float

    @property
    def mark(self) -> str:
        """What each of its texts has in it."""
        return self.path[1:]

    def address(self, number: int) -> str:
        """One of its addresses."""
        return f"{self.first_address[:-1]}{number:x}"


_FORMS = {
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


class Gate:
    """The gate as it is asked with the key. A canary is short-lived, so a long run has several."""

    def __init__(self, caller: Account, candidates: list[Candidate], proxy: str) -> None:
        self.caller = caller
        self.candidates = candidates or resolve(caller.where)
        self.proxy = proxy
        self.skew: float | None = None
        self.questions: list[Any] = []
        self.others: list[Any] = []
        self.canary: Canary

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
            texts = {name: str(told[name]) for name in _FORMS}
            lasting, clock = told["expires_in_seconds"], told["time"]
        except (KeyError, TypeError):
            raise stranger(self.caller, answer) from None
        are_times = all(type(one) in (int, float) and abs(one) < _END_OF_TIME for one in (lasting, clock))
        if not are_times or not all(re.fullmatch(pattern, texts[name]) for name, pattern in _FORMS.items()):
            raise stranger(self.caller, answer)
        ends_at = time.monotonic() + lasting
        self.canary = Canary(texts["id"], texts["address"], texts["path"], texts["host"], ends_at)
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

    def asked(self, forged: Lines) -> Any:
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
