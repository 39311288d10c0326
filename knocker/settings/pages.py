"""What people are shown: the knock page, and how a refusal looks (contract 2, 3.2 and 3.7)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from knocker.settings import fields
from knocker.settings.model import Deny, KnockPage
from knocker.settings.place import File, Place, Read, section

MOST_HTML = 256 * 1024  # bytes of a page of the admin's own, which each refused navigation is sent

_DENY: dict[str, Read] = {"status": fields.choice(401, 403), "page": fields.text}
KNOCK_PAGE: dict[str, Read] = {
    "enabled": fields.boolean,
    "url": fields.maybe(lambda value, place: _origin(value, place)),
    "also": fields.items(lambda value, place: _origin(value, place)),
    "return_to": lambda value, place: _patterns(value, place),
}


def deny(value: Any, place: Place) -> dict[str, Any]:
    """The members of security.deny, or of one host of security.deny_by_host."""
    return section(value, place, _DENY)


def denials(security: dict[str, Any], page: KnockPage, file: File, place: Place) -> tuple[Deny, dict[str, Deny]]:
    """How most hosts refuse, and how some do; what a host leaves out is as for most."""

    def denial(found: dict[str, Any], at: Place) -> Deny:
        name = found["page"]
        if name == "knock" and not (page.url and page.enabled):
            at.fault("it links to knock_page.url, which must be set, and knock_page.enabled be true")
        html = file(name, at) if name not in ("none", "knock") else None
        if html is not None and len(html) > MOST_HTML:
            at.fault(f"{name} is larger than {MOST_HTML // 1024} KiB")
        return Deny(found["status"], name == "knock", html)

    common = {"status": 401, "page": "none", **security.get("deny", {})}
    for_most = denial(common, place.at("deny").at("page"))
    by_host = {
        host: denial({**common, **own}, place.at("deny_by_host").at(host).at("page"))
        if "page" in own
        else replace(for_most, status=own.get("status", for_most.status))
        for host, own in security.get("deny_by_host", {}).items()
    }
    return for_most, by_host


def knock_page(value: Any, place: Place) -> KnockPage:
    """The section knock_page."""
    found = section(value, place, KNOCK_PAGE)
    page = KnockPage(
        found.get("enabled", True), found.get("url") or "", tuple(found.get("also", ())), found.get("return_to", ())
    )
    if page.return_to and not page.url:
        place.at("return_to").fault("nobody is led to the page, so nobody back, without knock_page.url")
    return page


def _patterns(value: Any, place: Place) -> tuple[str, ...]:
    """Names and ``*.`` patterns, perhaps none."""
    scope = fields.scope(value, place) if value != [] else None
    return tuple(scope.patterns) if scope is not None else ()


def _origin(value: Any, place: Place) -> str:
    """An https address without path, as browsers name an origin."""
    found = re.fullmatch(r"https://([A-Za-z0-9._-]+)(:[0-9]{1,5})?/?", value) if isinstance(value, str) else None
    if found is None:
        place.expected("an address such as https://knock.example.com", value)
        return ""
    port = int((found[2] or ":443")[1:])
    if not 1 <= port <= 65535:
        place.expected("an address whose port is from 1 to 65535", value)
    return f"https://{fields.host_name(found[1], place)}{'' if port == 443 else f':{port}'}"
