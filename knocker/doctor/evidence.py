"""What doctor saw, and what it says of it.

A finding is a fault where somebody could get in, or an honest visitor could not; advice where something works and could
be better; unsure where the evidence allows neither; ok otherwise. Nothing is called ok that was not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OK, FAULT, ADVICE, UNSURE = "ok", "fault", "advice", "unsure"
REFUSALS = (401, 403)  # the statuses with which a gate denies
INJECTED = "X-Knocker-Canary"  # a header that a line break in a path would begin

Question = Mapping[str, Any]  # one of a canary's questions, as the gate shows it


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `mend`: what helps, empty where nothing is to be done."""

    level: str
    check: str
    text: str
    mend: str = ""

    def shown(self) -> dict[str, str]:
        """As JSON has it."""
        return {"level": self.level, "check": self.check, "text": self.text, "mend": self.mend}


@dataclass(frozen=True, slots=True)
class Reply:
    """What an address answered: `status` is 0 where nothing came; then `fault` says why, and `hint` what helps.

    `server`: its Server and Via lines; `location`: where a redirect leads.
    """

    status: int
    fault: str = ""
    hint: str = ""
    server: str = ""
    location: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """One request to the public address, and the questions to /verify that it caused. `path`: as it was sent."""

    path: str
    reply: Reply
    questions: Sequence[Question] = ()

    @property
    def question(self) -> Question | None:
        """The first of them."""
        return self.questions[0] if self.questions else None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was seen.

    `host`: the app's, as the URL names it; `skew`: seconds that the gate's clock is ahead, None where it told none;
    `families`: an honest request over each family that the app's name has, None where this machine has none of it;
    `asker`: the gate's view of a request to itself, `forged_asker` that of one with the X-Forwarded-For `forged`;
    `own`: these came from an address of this machine's, with nothing between; `front`: the plain answer of the app's
    address itself; `probes`: by their names, the honest one is "control"; `others`: how often this machine was asked
    about without a word that is known; `used`: the probes whose forged address /verify took for the client.
    """

    host: str
    skew: float | None
    families: Mapping[str, Probe | None]
    asker: Question
    forged_asker: Question
    forged: str
    own: bool
    front: Reply
    probes: Mapping[str, Probe]
    others: Sequence[Mapping[str, Any]] = ()
    used: Sequence[str] = ()
    proxy: str = ""  # caddy, nginx, traefik, envoy or haproxy; guessed where it is empty

    @property
    def control(self) -> Probe:
        """The honest request."""
        return self.probes["control"]

    @property
    def was_refused(self) -> bool:
        """The gate refused the honest request, and so did the proxy."""
        asked = self.control.question
        return asked is not None and not asked["allowed"] and self.control.reply.status in REFUSALS
