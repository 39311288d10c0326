"""The knock page and what it loads: files beside this module, one place in them filled in (contract 3.7)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Self

_FOLDER = files("knocker.listen") / "page"
_TYPES = {
    "page.css": b"text/css; charset=utf-8",
    **dict.fromkeys(("asking.js", "back.js", "memory.js", "page.js", "words.js"), b"text/javascript; charset=utf-8"),
    "icon.svg": b"image/svg+xml",
    "icon-192.png": b"image/png",
    "icon-512.png": b"image/png",
    "manifest.webmanifest": b"application/manifest+json",
}
FILES = {name: (content_type, (_FOLDER / name).read_bytes()) for name, content_type in _TYPES.items()}
_INDEX = Template((_FOLDER / "index.html").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class KnockPage:
    """The page's HTML, and for who was led to it by another site, and its Content-Security-Policy."""

    html: bytes
    html_led: bytes
    policy: bytes

    @classmethod
    def of(cls, origin: str = "", also: Iterable[str] = (), return_to: Iterable[str] = ()) -> Self:
        """The page for these settings of knock_page: an origin or "", other origins, patterns of names."""
        told = {"origin": origin, "also": list(also), "return_to": [digest(pattern) for pattern in return_to]}

        def html(may_knock: bool) -> bytes:
            return _INDEX.substitute(SETTINGS=escape(json.dumps({**told, "may_knock": may_knock}))).encode()

        origins = " ".join(["'self'", *also])
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; manifest-src 'self';"
            f" connect-src {origins}; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
            " require-trusted-types-for 'script'; trusted-types 'none'"
        )
        return cls(html(may_knock=True), html(may_knock=False), policy.encode())


def digest(pattern: str) -> str:
    """How the page is told a name that it may lead back to: the admin's names should not stand there to read.

    That is no secret: who guesses a name can tell that it is one.
    """
    return hashlib.sha256(f"knocker return_to {pattern}".encode()).hexdigest()
