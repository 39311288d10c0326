"""What a start finds where the whitelist should be: grants, or the reason why there are none (contract 3.6)."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from twisted.logger import Logger

from knocker.core.grant import Grant
from knocker.core.keys import Keyring
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.store import atomic
from knocker.store.document import Contents, Damaged, pages_of, read
from knocker.store.lock import Unusable
from knocker.store.pages import Pages
from knocker.store.plainfile import contents

log = Logger()


@dataclass
class Stored:
    """The grants that live, and their texts. `damage`: what was wrong, for the admin.

    `outdated`: the file says something else, or when it was written, so it wants to be written anew.
    """

    grants: list[Grant] = field(default_factory=list)
    pages: Pages = field(default_factory=Pages)
    damage: str = ""
    outdated: bool = False


def stored(
    path: str, now: Moment, boot_id: str, keyring: Keyring, forbidden: Forbidden, new_id: Callable[[], str]
) -> Stored:
    """Read the file at `path`, keeping a damaged or older one; raises Unusable where it is no file to work with."""
    data = contents(path, "whitelist.storage_path")
    if data is None:
        return Stored()
    try:
        with uncollected():
            found = read(data, now, boot_id, keyring, forbidden, new_id)
    except Damaged as error:
        kept = _keep_aside(path, now, os.rename)
        damage = f"the whitelist file was {error}; it is kept as {kept} and the whitelist began empty"
        log.error("{path}: {damage}", path=path, damage=damage)
        return Stored(damage=damage)
    damage = _set_aside(path, data, found, now)
    if found.flat and (found.grants or found.bad or found.ended):
        _keep_older(path, data)
    _report(path, found)
    pages = pages_of(found.grants) if found.flat else found.pages
    return Stored(found.grants, pages, damage, bool(found.grants or found.bad or found.ended))


def _set_aside(path: str, data: bytes, found: Contents, now: Moment) -> str:
    """Keep a file with bad entries, and say so."""
    if not found.bad:
        return ""
    kept = _keep_aside(path, now, lambda _, kept: atomic.replace(kept, [data]))
    why = "; ".join(list(dict.fromkeys(found.bad))[:5])
    damage = f"{len(found.bad)} bad entries were dropped ({why}); the file is kept as {kept}"
    log.error("{path}: {damage}", path=path, damage=damage)
    return damage


def _report(path: str, found: Contents) -> None:
    log.info("{path}: {count} live grants", path=path, count=len(found.grants))
    for why in dict.fromkeys(found.ended):
        log.info("{path}: {count} grants ended: {why}", path=path, count=found.ended.count(why), why=why)


def _keep_older(path: str, data: bytes) -> None:
    """A file of the older format is kept once, for the way back."""
    older = path + ".v0"
    try:
        if not os.path.lexists(older):
            atomic.replace(older, [data])
    except OSError as error:
        raise Unusable(f"{older}: the older whitelist cannot be kept: {error.strerror}") from None


def _keep_aside(path: str, now: Moment, move: Callable[[str, str], None]) -> str:
    kept = f"{path}.corrupt-{int(now.wall * 1000)}"
    try:
        move(path, kept)
        atomic.sync_directory(path)
    except OSError as error:
        raise Unusable(f"{path}: damaged, and it cannot be kept as {kept}: {error.strerror}") from None
    return kept


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the search for garbage in cycles: there is none, and it would look at each grant several times."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
