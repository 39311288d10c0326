"""Which paths are open to everybody: only spellings that every server reads alike (contract 3.2).

Proxies hand the path on as it came, and the application behind may decode, fold or normalise it. So an
exclusion never normalises: a path that any server could read as another one is simply not excluded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# RFC 3986 pchar and "/", without percent-encodings and ";".
_PLAIN = re.compile(r"/[A-Za-z0-9\-._~!$&'()*+,=:@/]*")


def is_plain(path: str) -> bool:
    """Whether every server reads `path` alike: safe characters, no dot segments, no empty inner segment."""
    if not _PLAIN.fullmatch(path):
        return False
    segments = path.split("/")[1:]
    return not ({".", ".."} & set(segments)) and "" not in segments[:-1]


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One entry of excluded_paths. With `open_end` (written with a final ``*``) any text may follow."""

    prefix: str
    open_end: bool

    @classmethod
    def parse(cls, text: str) -> Exclusion:
        """Read an entry; raises ValueError for one that could never match or would open everything."""
        prefix = text.removesuffix("*")
        if prefix in ("", "/"):
            raise ValueError("it would exclude every path")
        if not prefix.startswith("/"):
            raise ValueError("a path begins with /")
        open_end = prefix != text
        # After an open end anything may follow, so its last segment is not yet a whole one.
        if not is_plain(prefix + "x" if open_end else prefix):
            raise ValueError("it can never match: paths with %, ;, \\, #, // or dot segments are never excluded")
        return cls(prefix, open_end)

    def covers(self, path: str) -> bool:
        """Whether a plain `path` falls under this entry; whole segments, case-sensitive."""
        if self.open_end or self.prefix.endswith("/"):
            return path.startswith(self.prefix)
        return path == self.prefix or path.startswith(self.prefix + "/")

    def __str__(self) -> str:
        """What the entry covers, in words."""
        if self.open_end:
            return f"every path that begins with {self.prefix}"
        return f"{self.prefix} and all below it" if not self.prefix.endswith("/") else f"all below {self.prefix}"


class Exclusions:
    """All excluded paths: for every host, and by host."""

    def __init__(
        self, everywhere: Iterable[Exclusion] = (), by_host: Mapping[str, Sequence[Exclusion]] | None = None
    ) -> None:
        self.everywhere = tuple(everywhere)
        self.by_host = {host: tuple(entries) for host, entries in (by_host or {}).items()}

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.everywhere or self.by_host)

    def cover(self, path: str, host: str | None) -> Exclusion | None:
        """The entry that opens `path` on `host`, if any."""
        if not self or not is_plain(path):
            return None
        entries = self.everywhere + (self.by_host.get(host, ()) if host else ())
        return next((entry for entry in entries if entry.covers(path)), None)


def asked_path(tail: bytes, forwarded: Sequence[bytes], original: Sequence[bytes]) -> str | None:
    """The path that the client asked the proxy for, or None where it is not beyond doubt (contract 3.2).

    `tail`: what follows /verify in the request target, query included; `forwarded` and `original`: the lines
    of X-Forwarded-Uri and X-Original-URI. A proxy replaces one of these and lets its client's others through,
    so all that are present must be equal.
    """
    named = [*forwarded, *original]
    if len(forwarded) > 1 or len(original) > 1 or any(_several(value) for value in named):
        return None
    path = tail.partition(b"?")[0]
    if path:
        source = tail
    elif forwarded:
        source = forwarded[0]
    else:
        return None
    if any(value != source for value in named):
        return None
    try:
        return source.partition(b"?")[0].decode("ascii")
    except ValueError:
        return None


def _several(value: bytes) -> bool:
    """Whether a proxy may have joined two lines into this value: another path after a comma."""
    return b", " in value or b",\t" in value or b",/" in value
