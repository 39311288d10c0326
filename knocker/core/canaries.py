"""Canaries: random values that show which of a client's forgeries a proxy lets through (contract 3.4).

Whoever checks a set-up sends them as its own forged headers, and learns here what /verify made of them. They only
watch: a verdict is what it would be without them, and it is given before they look.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from knocker.core.addresses import Address

MARK = "canary-"  # each text that is a canary's has this and its ID
LIFE = 60.0  # seconds
MOST_LIVE = 16
MOST_QUESTIONS = 64  # that one canary keeps
MOST_OTHERS = 8
MOST_TEXT = 300  # characters of a value that is shown
MOST_NAMES = 40  # of headers that are shown, each of so many characters:
LONGEST_NAME = 40
SPAN = 112  # bits: an address of a canary's is any that has these of it
_DISCARD = 0x0100 << 112  # 100::/64, addresses that are nobody's (RFC 6666)
_EXAMPLES = 0x20010DB8 << 96  # 2001:db8::/32 (RFC 3849), should those be anybody's here
_NO_ZERO_GROUP = 0x8000_8000_8000_0000  # so that the text of each address of a span begins alike
_TARGET = "the request itself"


@dataclass(frozen=True, slots=True)
class Heard:
    """What one question to /verify said, and what was made of it.

    `believed`: the peer's word counts; `client` is None exactly where `why` is not, which tells why there is none;
    `host` and `path` are None where they are not known for sure. `in_target`: the path stands in the request target.
    `verdict`: outcome and cause. `lines`: the header lines that were read, all of them where `whole`.
    """

    peer: str
    believed: bool
    client: Address | None
    why: str | None
    host: str | None
    path: str | None
    in_target: bool
    verdict: tuple[str, str]
    lines: Sequence[tuple[str, str]]
    whole: bool


@dataclass(slots=True)
class Value:
    """One of a canary's values: whether a question used it, and from where."""

    text: str
    headers: list[str] = field(default_factory=list)

    def use(self, header: str) -> None:
        """A question used it."""
        if header not in self.headers:
            self.headers.append(header)

    def shown(self) -> dict[str, object]:
        """As JSON has it."""
        return {"value": self.text, "used": bool(self.headers), "headers": self.headers}


@dataclass(slots=True)
class Canary:
    """Addresses, a path and a host that nobody has. `maker`: the client that asked for it, if it is known."""

    id: str
    address: Address  # the first of its span
    maker: Address | None
    ends_at: float  # boot seconds
    found_address: Value = field(init=False)
    found_path: Value = field(init=False)
    found_host: Value = field(init=False)
    questions: list[dict[str, object]] = field(default_factory=list)
    # Of the maker's other questions how many each host was asked, and for a path, whose name is not kept.
    others: dict[tuple[str | None, int | None], int] = field(default_factory=dict)

    @property
    def first(self) -> bytes:
        """What the text of each address of its span begins with."""
        return self.found_address.text[:-1].encode()

    def __post_init__(self) -> None:
        self.found_address = Value(str(self.address))
        self.found_path = Value(f"/{MARK}{self.id}")
        self.found_host = Value(f"{MARK}{self.id}.invalid")

    def seconds_left(self, now: float) -> int:
        """Whole seconds until it is forgotten."""
        return max(0, int(self.ends_at - now))

    def look(self, heard: Heard) -> None:
        """Keep a question that bears one of the values, and count those of its maker's that bear none."""
        mark, begin = MARK + self.id, self.first.decode()
        arrived = {
            name[:LONGEST_NAME]: value[:MOST_TEXT]
            for name, value in heard.lines
            if mark in value.lower() or begin in value
        }
        has_path = heard.path is not None and mark in heard.path.lower()
        client = heard.client
        is_client = client is not None and client.bits == 128 and client.widened(SPAN) == self.address.widened(SPAN)
        if not (arrived or has_path or is_client):
            if heard.believed and self.maker is not None and client == self.maker:
                self._count(heard)
            return
        if is_client:
            self.found_address.use("X-Forwarded-For")
        if has_path:
            self.found_path.use(_TARGET if heard.in_target else "X-Forwarded-Uri")
        if heard.host is not None and f".{heard.host}".endswith(f".{self.found_host.text}"):
            self.found_host.use("X-Forwarded-Host")
        if len(self.questions) < MOST_QUESTIONS:
            self.questions.append(_shown(heard, arrived))

    def _count(self, heard: Heard) -> None:
        other = heard.host, None if heard.path is None else hash(heard.path)
        count = self.others.pop(other, 0) + 1
        while len(self.others) >= MOST_OTHERS:
            del self.others[next(iter(self.others))]
        self.others[other] = count

    def shown(self, now: float) -> dict[str, object]:
        """What it has found, as JSON has it."""
        return {
            "id": self.id,
            "expires_in_seconds": self.seconds_left(now),
            "address": self.found_address.shown(),
            "path": self.found_path.shown(),
            "host": self.found_host.shown(),
            "questions": self.questions,
            "others": [
                {"host": host, "has_path": path is not None, "count": count}
                for (host, path), count in self.others.items()
            ],
        }


def _shown(heard: Heard, arrived: dict[str, str]) -> dict[str, object]:
    methods = [value for name, value in heard.lines if name == "X-Forwarded-Method"]
    names = sorted({name[:LONGEST_NAME] for name, _ in heard.lines})[:MOST_NAMES]
    return {
        "peer": heard.peer,
        "trusted": heard.believed,
        "client": str(heard.client) if heard.client is not None else None,
        "why": heard.why,
        "host": heard.host,
        "path": heard.path[:MOST_TEXT] if heard.path is not None else None,
        "path_in_target": heard.in_target,
        "method": methods[0][:MOST_TEXT] if methods else None,
        "allowed": heard.verdict[0] == "allow",
        "cause": heard.verdict[1],
        "arrived": dict(list(arrived.items())[:MOST_NAMES]),
        "headers": names if heard.whole else None,
        "closes": any(name == "Connection" and re.search("close", value, re.I) for name, value in heard.lines),
    }


class Canaries:
    """All canaries. `random`: so many random bytes."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self.live: dict[str, Canary] = {}  # the oldest first; nearly always empty, and then nobody looks further

    def make(self, maker: Address | None, is_taken: Callable[[Address], bool], now: float) -> Canary:
        """A new one; the oldest is forgotten where there are too many. `now`: boot seconds."""
        self._forget(now)
        while len(self.live) >= MOST_LIVE:
            del self.live[next(iter(self.live))]
        made = Canary(self._random(8).hex(), self._address(is_taken), maker, now + LIFE)
        self.live[made.id] = made
        return made

    def find(self, canary_id: str, now: float) -> Canary | None:
        """The live one of this ID."""
        self._forget(now)
        return self.live.get(canary_id)

    def concern(self, data: bytes) -> bool:
        """Whether a request's bytes may bear one."""
        return MARK.encode() in data.lower() or any(one.first in data for one in self.live.values())

    def look(self, heard: Heard, now: float) -> None:
        """Let every live one see a question."""
        self._forget(now)
        for canary in self.live.values():
            canary.look(heard)

    def _forget(self, now: float) -> None:
        for canary_id in [one.id for one in self.live.values() if one.ends_at <= now]:
            del self.live[canary_id]

    def _address(self, is_taken: Callable[[Address], bool]) -> Address:
        for base in (_DISCARD, _EXAMPLES):
            random = int.from_bytes(self._random(6)) << 16
            address = Address(128, base | random | _NO_ZERO_GROUP)
            if not is_taken(address):
                return address
        return address  # settings that take both take nearly every address there is
