"""The corpus of attacks.yaml: its cases, read strictly, and which of them a run takes."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("attacks.yaml")
LONG = os.environ.get("KNOCKER_TEST_LONG") == "1"

# The starts with a planted state file of the share; the others of their kind differ only in what is planted.
STATES_OF_THE_SHARE = ("STA-001", "STA-004", "STA-019", "STA-020", "STA-021")
LONGEST_WAIT_OF_THE_SHARE = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the corpus writes it; header values and body are texts or lists of parts."""

    method: str
    path: str
    headers: list[list[Any]]
    body: Any = None

    def wire(self) -> bytes:
        """The bytes to send, completed by Host and, where there is a body, Content-Length."""
        lines = [latin(f"{self.method} {self.path} HTTP/1.1"), b"Host: knock.example.com"]
        lines += [latin(name) + b": " + latin(value) for name, value in self.headers]
        body = b"" if self.body is None else latin(self.body)
        if body and "content-length" not in {name.lower() for name, _ in self.headers}:
            lines.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join([*lines, b"", body])

    def without(self, name: str) -> Request:
        """The same request without the header lines called `name`."""
        kept = [line for line in self.headers if line[0].lower() != name.lower()]
        return Request(self.method, self.path, kept, self.body)


@dataclass(frozen=True, slots=True)
class Pace:
    """How slowly to send: `first` bytes at once, then `bytes` more each `every_ms`."""

    first: int
    bytes: int
    every_ms: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a case that takes time: a pause in seconds, or a request and what it is answered."""

    wait: float = 0.0
    request: Request | None = None
    expect: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """One case. A member that is not named here is an error in the corpus."""

    id: str
    area: str
    severity: str
    config: str | None
    why: str
    expect: dict[str, Any] = field(default_factory=dict)
    peer: str = "trusted"
    request: Request | None = None
    raw: Any = None
    send: Pace | None = None
    steps: tuple[Step, ...] = ()
    config_text: Any = None
    file_mode: str = "0600"
    as_user: str | None = None
    needs: str | None = None
    must_not_exist: str | None = None
    within_s: float | None = None
    state_file: Any = None
    file_kind: str = "file"
    # For the reader alone.
    source: str = ""
    ambiguous: str = ""
    corrected: str = ""
    narrowed: str = ""
    state_change: bool = False

    @property
    def slow(self) -> bool:
        """Whether the case is left to the long run."""
        if self.area == "state-file":
            return self.id not in STATES_OF_THE_SHARE
        waits = sum(step.wait for step in self.steps) + self.expect.get("closed_within_s", 0)
        return bool(waits > LONGEST_WAIT_OF_THE_SHARE)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything that attacks.yaml holds."""

    cases: tuple[Case, ...]
    configs: dict[str, str]
    keys: tuple[str, ...]
    whitelisted: tuple[str, ...]
    never: frozenset[int]
    log_absent: tuple[str, ...]


@functools.cache
def corpus() -> Corpus:
    """The corpus as it is on the disk."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = yaml.load(FILE.read_bytes(), Loader=loader)
    defaults = document["defaults"]
    if set(defaults) != {"state", "never", "alive", "log_absent"}:
        raise ValueError(f"unknown defaults: {sorted(defaults)}")
    return Corpus(
        cases=tuple(read_case(members) for members in document["cases"]),
        configs=document["configs"],
        keys=tuple(document["keys"].values()),
        whitelisted=tuple(defaults["state"]["whitelist"]),
        never=frozenset(defaults["never"]),
        log_absent=tuple(defaults["log_absent"]),
    )


def read_case(members: dict[str, Any]) -> Case:
    """One case; raises TypeError for a member that nobody knows."""
    members = dict(members)
    if "request" in members:
        members["request"] = Request(**members["request"])
    if "send" in members:
        members["send"] = Pace(**members["send"])
    members["steps"] = tuple(_read_step(step) for step in members.get("steps", ()))
    return Case(**members)


def _read_step(members: dict[str, Any]) -> Step:
    members = dict(members)
    if "request" in members:
        members["request"] = Request(**members["request"])
    return Step(**members)


def chosen(areas: Iterable[str]) -> list[Case]:
    """The cases of some areas that this run takes: all in the long run, else those that are quick."""
    wanted = set(areas)
    return [case for case in corpus().cases if case.area in wanted and (LONG or not case.slow)]


def latin(value: Any, now: float | None = None) -> bytes:
    """The bytes of a text or of a list of parts; ``{now+600}`` is a time from now, in Unix seconds."""
    text = "".join(_part(part) for part in value) if isinstance(value, list) else str(value)
    return _moments(text, time.time() if now is None else now).encode("latin-1")


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if set(part) == {"repeat", "times"}:
        return str(part["repeat"]) * int(part["times"])
    if set(part) == {"repeat_n", "times"}:
        return "".join(part["repeat_n"] % _octets(number) for number in range(part["times"]))
    raise ValueError(f"unknown part with {sorted(part)}")


def _octets(number: int) -> tuple[int, int, int]:
    return number >> 16, number >> 8 & 255, number & 255


def _moments(text: str, now: float) -> str:
    return re.sub(r"\{now([+-]\d+)\}", lambda match: str(int(now) + int(match[1])), text)
