"""Whitelist files as a Knocker would have left them."""

from __future__ import annotations

from pathlib import Path

from knocker import clock
from knocker.core.addresses import Network
from knocker.core.grant import Grant, Via
from knocker.core.keys import Key, digest_of
from knocker.store.document import document, pages_of
from tests.e2e.conftest import PHONE


def store(file: Path, clients: list[str], seconds: float) -> None:
    """A whitelist as a Knocker of this boot would have left it, with so many seconds for each of these."""
    now, key = clock.now(), Key("phone", digest_of(PHONE.encode()), ttl=3600, max_ttl=3600)
    grants = [
        Grant(
            f"grant-{number:016}-{client}".replace(".", "-"),
            *Network.parse(client).parts,
            key.name,
            key.mark,
            Via.HTTP,
            None,
            now.wall,
            now.wall,
            now.wall + seconds,
            now.boot + seconds,
        )
        for number, client in enumerate(clients)
    ]
    with file.open("wb") as text:
        text.writelines(document(pages_of(grants), now, clock.boot_id()))


def crowd(count: int) -> list[str]:
    """So many addresses."""
    return [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(1, count + 1)]
