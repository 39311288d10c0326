"""Host names: how X-Forwarded-Host is read, and which names a key's grants open (contract 3.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_LITERAL = re.compile(r"\[[0-9a-f:.]{2,45}\]")


def read_host(value: bytes) -> str | None:
    """A host as headers carry it, lower case, without port and one trailing dot; None where it is no single name."""
    try:
        text = value.decode("ascii").strip(" \t").lower()
    except ValueError:
        return None
    if text.startswith("["):
        text, bracket, port = text.partition("]")
        text += bracket
    else:
        text, colon, port = text.partition(":")
        port = colon + port
    if port and not re.fullmatch(r":[0-9]{1,5}", port):
        return None
    text = text.removesuffix(".")
    return text if len(text) <= 253 and (_NAME.fullmatch(text) or _LITERAL.fullmatch(text)) else None


def parse_name(text: str) -> str:
    """A host name as settings name it; raises ValueError where no header could ever equal it."""
    name = text.lower().removesuffix(".")
    if not _NAME.fullmatch(name) or len(name) > 253:
        raise ValueError("not a host name")
    return name


@dataclass(frozen=True, slots=True)
class Scope:
    """The host names that grants of a key open: literal names, and suffixes of ``*.example.com``.

    `chosen`: it is the one name that a knock chose out of its key's.
    """

    names: frozenset[str]
    suffixes: tuple[str, ...]
    chosen: bool = False

    @classmethod
    def parse(cls, patterns: Iterable[str]) -> Scope:
        """Read names and ``*.`` patterns; raises ValueError for any other star."""
        names, suffixes = set(), []
        for pattern in patterns:
            if pattern.startswith("*."):
                suffixes.append("." + parse_name(pattern[2:]))
            else:
                names.add(parse_name(pattern))
        return cls(frozenset(names), tuple(suffixes))

    @classmethod
    @lru_cache(maxsize=1024)
    def of_one(cls, name: str) -> Scope:
        """What a knock opens that chose one name; the same object for all, since there may be many."""
        return cls(frozenset((name,)), (), True)

    @property
    def one(self) -> str | None:
        """The name that was chosen, None where none was."""
        return next(iter(self.names)) if self.chosen else None

    def __contains__(self, host: str | None) -> bool:
        """Whether `host` is named; ``*.example.com`` is one or more labels below, never the bare domain."""
        return host is not None and (host in self.names or host.endswith(self.suffixes))

    @property
    def patterns(self) -> list[str]:
        """The names and ``*.`` patterns, as settings have them."""
        return sorted(self.names) + ["*" + suffix for suffix in self.suffixes]

    def __str__(self) -> str:
        """The patterns, for logs."""
        return ", ".join(self.patterns)
