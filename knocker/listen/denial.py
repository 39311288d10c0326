"""How whoever may not enter is told so: a status, and for a browser's navigation perhaps a page (contract 3.2)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from urllib.parse import quote

from twisted.web.http import Request

from knocker.core.hosts import read_host
from knocker.listen.question import PREFIX
from knocker.listen.request import FORWARDED_HOST, FORWARDED_METHOD, FORWARDED_URI, Lines, lines

_LONGEST_BACK = 2000  # characters of an address to come back to
_FOLDER = files("knocker.listen") / "page"
_STYLE = (_FOLDER / "denied.css").read_text(encoding="utf-8")
_PAGE = Template((_FOLDER / "denied.html").read_text(encoding="utf-8"))
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
).encode()
_WORDS = {
    "en": {
        "title": "This door is closed",
        "why": "Only those who have knocked are let in, and nobody has knocked from your address lately.",
        "knock": "To the knock page",
        "then": "Knock there with your key, then come back.",
    },
    "de": {
        "title": "Diese Tür ist zu",
        "why": "Eingelassen wird nur, wer angeklopft hat, und von deiner Adresse hat das zuletzt niemand getan.",
        "knock": "Zum Anklopfen",
        "then": "Klopfe dort mit deinem Schlüssel an und komm dann zurück.",
    },
}


@dataclass(frozen=True, slots=True)
class Denial:
    """One way to refuse. `html`: a page of the admin's own; `knock_url`: the built-in page links there."""

    status: int = 401
    html: bytes | None = None
    knock_url: str = ""

    @property
    def has_page(self) -> bool:
        """Whether a browser is shown anything."""
        return self.html is not None or bool(self.knock_url)

    @property
    def policy(self) -> bytes:
        """The page's Content-Security-Policy; an admin's own page is the admin's to protect."""
        return b"" if self.html is not None else _POLICY

    def page(self, request: Request) -> bytes:
        """The page for a request of a believed peer."""
        if self.html is not None:
            return self.html
        back = address_asked(request)
        link = self.knock_url + "/" + (f"#back={quote(back, safe='')}" if back else "")
        language = _language(lines(request, b"accept-language"))
        words = {name: escape(text) for name, text in _WORDS[language].items()}
        return _PAGE.substitute(words, language=language, link=escape(link), style=_STYLE).encode()


def may_navigate(data: bytes) -> bool:
    """Whether a request's bytes can be what `is_navigation` looks for."""
    return b"text/html" in data or b"navigate" in data


def is_navigation(request: Request) -> bool:
    """Whether a browser's user wants to see what was asked for, not a script, an image or an app."""
    methods = lines(request, FORWARDED_METHOD) or (request.method,)
    if list(methods) != [b"GET"] or lines(request, b"upgrade"):
        return False
    modes = lines(request, b"sec-fetch-mode")
    if modes:
        return list(modes) == [b"navigate"]
    accepted = lines(request, b"accept")
    return bool(accepted) and accepted[0].partition(b",")[0].partition(b";")[0].strip(b" \t") == b"text/html"


def address_asked(request: Request) -> str:
    """The address that a proxy's client asked for, "" where that is not known for sure."""
    tail = bytes(request.uri)[len(PREFIX) :]
    uris = (tail,) if tail.startswith(b"/") else lines(request, FORWARDED_URI)
    named = [lines(request, b"x-forwarded-proto"), lines(request, FORWARDED_HOST), uris]
    if any(len(values) != 1 for values in named):
        return ""
    scheme, host, uri = (values[0].decode("latin-1") for values in named)
    plain = scheme in ("http", "https") and uri.startswith("/") and uri.isascii() and uri.isprintable()
    if not plain or read_host(host.encode("latin-1")) is None:
        return ""
    found = f"{scheme}://{host}{uri}"
    return found if len(found) <= _LONGEST_BACK else f"{scheme}://{host}/"


def _language(wanted: Lines) -> str:
    names = b",".join(wanted).decode("latin-1").lower().split(",")
    languages = (name.partition(";")[0].strip().partition("-")[0] for name in names[:20])
    return next((language for language in languages if language in _WORDS), "en")
