"""Whether a knock opened: asking the page behind the gate until it is no longer denied (contract 5)."""

from __future__ import annotations

import time

from knocker.account import Where, read_url
from knocker.client import Candidate, probe, resolve
from knocker.faults import NO_ANSWER, REFUSED, USAGE, Failed

WITHIN = 10.0  # seconds
_EVERY = 0.3  # seconds
_DENIED = (401, 403)


def confirm(url: str, families: list[str]) -> None:
    """Ask until the page is open over each family that knocked, an empty name for any; raises Failed."""
    where, target = read_page(url)
    found = [candidate for candidate in resolve(where) if candidate.name in families or "" in families]
    if not found:
        raise Failed(NO_ANSWER, f"{where.host} has no {' or '.join(families)} address")
    end = time.monotonic() + WITHIN
    for family in dict.fromkeys(candidate.name for candidate in found):
        same = [candidate for candidate in found if candidate.name == family]
        while (last := _shut(where, target, same, end)) is not None:
            if time.monotonic() > end:
                raise Failed(last.status, f"over {family} {last.error}, {WITHIN:.0f} s after the knock")
            time.sleep(_EVERY)


def _shut(where: Where, target: str, candidates: list[Candidate], end: float) -> Failed | None:
    """What keeps the page shut, None where it is open."""
    try:
        status = probe(where, target, candidates, max(1.0, end - time.monotonic()))
    except Failed as failed:
        return failed
    if status in _DENIED or status >= 500:
        return Failed(REFUSED if status in _DENIED else NO_ANSWER, f"{where} answers {status}")
    return None


def read_page(text: str) -> tuple[Where, str]:
    """A page's address: where it is, and what is asked there."""
    from urllib.parse import quote, urlsplit

    try:
        parts = urlsplit(text)
        where = read_url(f"{parts.scheme}://{parts.netloc}")
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        query = quote(parts.query, safe="/?%:@!$&()*+,;=~-._")
    except UnicodeError:
        raise Failed(USAGE, "--confirm: not a text that can be sent") from None
    except ValueError as error:
        raise Failed(USAGE, f"--confirm: {error}") from None
    return where, target + (f"?{query}" if query else "")
