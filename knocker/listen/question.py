"""A question to /verify, as far as a verdict depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.web.http import Request

from knocker.core.paths import asked_path
from knocker.listen.request import (
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_URI,
    ORIGINAL_URI,
    Lines,
    host_of,
    is_forged,
    lines,
)

PREFIX = b"/verify"


def is_verify(path: bytes) -> bool:
    """Whether a request path, without its query, asks for a verdict."""
    return path == PREFIX or path.startswith(PREFIX + b"/")


@dataclass(slots=True)  # nobody changes one; to freeze it would double the time to make it, for each request
class Question:
    """What a request to /verify says: lines of headers, read only as far as they matter.

    `believed`: the peer's word counts; `forged`: it does not, and there is a header that only a proxy sends. `tail`:
    what follows /verify in the target. The others are the lines of X-Forwarded-For, -Host, -Uri and X-Original-URI.
    """

    believed: bool
    forged: bool
    tail: bytes
    chain: Lines
    hosts: Lines
    uris: Lines
    originals: Lines

    @property
    def host(self) -> str | None:
        """The host that the client asked for."""
        return host_of(self.hosts) if self.believed else None

    @property
    def path(self) -> str | None:
        """The path that it asked for."""
        return asked_path(self.tail, self.uris, self.originals) if self.believed else None


def question_of(request: Request, believed: bool) -> Question:
    """The question of a whole request."""
    names = FORWARDED_FOR, FORWARDED_HOST, FORWARDED_URI, ORIGINAL_URI
    chain, hosts, uris, originals = (lines(request, name) for name in names)
    forged = not believed and is_forged(request)
    return Question(believed, forged, bytes(request.uri)[len(PREFIX) :], chain, hosts, uris, originals)
