"""What doctor saw, and what it says of it.

A finding is a fault where somebody could get in, or an honest visitor could not; advice where something works and could
be better; unsure where the evidence allows neither; ok otherwise. Nothing is called ok that was not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OK, FAULT, ADVICE, UNSURE = "ok", "fault", "advice", "unsure"

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
    """What the public address answered: `status` is 0 where nothing came, and `fault` says why."""

    status: int
    fault: str = ""
    server: str = ""  # its Server and Via lines
    location: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """One request to the public address, and the questions to /verify that it caused. `path`: as it was sent."""

    path: str
    reply: Reply
    questions: Sequence[Question] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was seen.

    `host`: the app's, as the URL names it; `skew`: seconds that the gate's clock is ahead, None where it told none;
    `families`: for each family of the app's name why it gave no answer, "" where it did, None where this machine has
    none of it; `asker`: the gate's view of a request to itself, which was sent without a proxy between where it is
    `direct`, and `forged_askers` with a forged X-Forwarded-For, each with the forged address; `front`: the plain answer
    of the app's address itself; `probes`: by their names, the honest one is "control"; `others`: the last questions of
    this machine's that could not be told apart; `used_addresses`: the probes whose forged address /verify took for the
    client.
    """

    host: str
    skew: float | None
    families: Mapping[str, str | None]
    asker: Question
    direct: bool
    forged_askers: Sequence[tuple[str, Question]]
    front: Reply
    probes: Mapping[str, Probe]
    others: Sequence[Question] = ()
    used_addresses: Sequence[str] = ()
    proxy: str = ""  # caddy, nginx, traefik, envoy or haproxy; guessed where it is empty


REFUSALS = (401, 403)  # the statuses with which a gate denies
