"""whitelist.json: grants as text, and text as grants that are still worth something (contract 3.6)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from knocker.core import strictjson
from knocker.core.addresses import Network
from knocker.core.grant import Grant, Via
from knocker.core.keys import Keyring
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.store.entry import VIAS, Bad, Today, check_id, check_network, known_mark, reason, scope
from knocker.store.pages import Pages

VERSION = 1
MOST_BACK = 60.0  # seconds that a clock may be behind the time of the last write after a reboot
_OVER = "its time is over"
_quoted = json.encoder.encode_basestring_ascii


class Damaged(Exception):
    """The text is no whitelist at all."""


@dataclass
class Contents:
    """What a file held: grants that live, how many entries were bad, and why others ended.

    `pages`: the grants as they stand in a file of this boot.
    """

    grants: list[Grant] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    flat: bool = False
    pages: Pages = field(default_factory=Pages)


def grant_text(grant: Grant) -> bytes:
    """One grant as it stands in the file."""
    key = "null" if grant.key is None else _quoted(grant.key)
    # Only a packet chooses a host, so elsewhere none is the rule and need not be said.
    chosen = "null" if grant.host is None else _quoted(grant.host)
    host = f', "host": {chosen}' if grant.host is not None or grant.via is Via.UDP else ""
    return (
        f'{{"id": "{grant.id}", "entry": "{grant.network}", "key": {key}, "key_mark": {_quoted(grant.mark)}, '
        f'"via": "{grant.via.value}", "created_at": {grant.created_at!r}, "last_knock_at": {grant.last_knock_at!r}, '
        f'"expires_at": {grant.expires_at!r}, "boot_ends_at": {grant.boot_ends_at!r}{host}}}'
    ).encode()


def pages_of(grants: Iterable[Grant]) -> Pages:
    """The texts of these."""
    pages = Pages()
    for grant in grants:
        pages.put(grant.id, grant_text(grant))
    return pages


def document(pages: Pages, now: Moment, boot_id: str) -> Iterator[bytes]:
    """The whole file, in pieces."""
    head = {"version": VERSION, "saved_at": now.wall, "boot_id": boot_id, "boot_time": now.boot}
    yield json.dumps(head)[:-1].encode() + b', "grants": ['
    empty = True
    for chunk in pages.chunks():
        if chunk:
            yield chunk[1:] if empty else chunk  # before the first there is no comma
            empty = False
    yield b"\n\n]}\n" if empty else b"\n]}\n"


def read(
    data: bytes, now: Moment, boot_id: str, keyring: Keyring, forbidden: Forbidden, new_id: Callable[[], str]
) -> Contents:
    """Read a file of this version, or the older flat one; raises Damaged."""
    try:
        # All entries at once would leave the process several times as large as what is kept of them.
        return _Reader(*_laid_out(data), now, boot_id, keyring, forbidden).contents()
    except (ValueError, Damaged):
        pass  # somebody else's layout, or worse
    try:
        value = strictjson.read(data)
    except ValueError:
        raise Damaged("not JSON") from None
    if not isinstance(value, dict):
        raise Damaged("not a JSON object")
    if "version" not in value:
        return _read_flat(value, now, keyring, forbidden, new_id)
    if value["version"] != VERSION:
        raise Damaged("of another version")
    entries = value.get("grants")
    if not isinstance(entries, list):
        raise Damaged("whose grants are no list")
    return _Reader(value, ((entry, b"") for entry in entries), now, boot_id, keyring, forbidden).contents()


Rows = Iterator[tuple[Any, bytes]]  # entries, and the line of each where it has one for itself


def _laid_out(data: bytes) -> tuple[dict[str, Any], Rows]:
    """A file as `document` lays it out: a grant a line, between a first line and a last one.

    Its entries are read one by one, so that the ValueError for another layout may come as late as at the last.
    """
    lines = BytesIO(data)
    first = lines.readline()
    if not first.endswith(b'"grants": [\n') or not data.endswith(b"\n]}\n"):
        raise ValueError("another layout")
    value = strictjson.read(first + b"]}")
    if not isinstance(value, dict) or value.get("version") != VERSION or value.get("grants") != []:
        raise ValueError("another layout")
    return value, _rows(lines, len(data) - len(b"]}\n"))


def _rows(lines: BytesIO, end: int) -> Rows:
    more = lines.tell() + 1 < end  # without grants there is an empty line
    while more:
        line = lines.readline()
        more = line.endswith(b",\n")
        line = line[: -2 if more else -1]
        yield strictjson.read(line), line
    if lines.tell() != end and lines.tell() + 1 != end:
        raise ValueError("another layout")


class _Reader:
    """Reads a file of this version."""

    def __init__(
        self, value: dict[str, Any], rows: Rows, now: Moment, boot_id: str, keyring: Keyring, forbidden: Forbidden
    ) -> None:
        try:
            self.saved = Moment(_number(value["saved_at"]), _number(value["boot_time"]))
            same_id = value["boot_id"] == boot_id != ""
        except (KeyError, ValueError):
            raise Damaged("without saved_at, boot_time or boot_id") from None
        self.now, self.rows = now, rows
        self.today = Today(keyring, forbidden, now)
        self.same_boot = same_id and now.boot >= self.saved.boot

    def contents(self) -> Contents:
        found = Contents()
        if not self.same_boot and self.now.wall < self.saved.wall - MOST_BACK:
            found.ended = [
                f"the clock is {self.saved.wall - self.now.wall:.0f} s behind the last write before the reboot"
                for _ in self.rows
            ]
            return found
        # The addresses of each owner, since a tuple for each would be as much again as what is kept.
        owners: dict[tuple[str | None, int, int, str | None], set[int]] = {}
        ids: set[str] = set()
        for entry, line in self.rows:
            try:
                stored = self._grant(entry)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                found.bad.append(reason(error))
                continue
            owned = owners.setdefault((stored.key, stored.bits, stored.prefix, stored.host), set())
            if stored.id in ids or stored.base in owned:
                found.bad.append("an entry that stands there twice")
                continue
            ids.add(stored.id)
            owned.add(stored.base)
            grant = self.today.fit(stored)
            why = self.today.objection(grant) or ("" if grant.lives(self.now) else _OVER)
            if why:
                found.ended.append(why)
            else:
                found.grants.append(grant)
                found.pages.put(grant.id, self._text(line, grant, grant is stored))
        return found

    def _text(self, line: bytes, grant: Grant, unaltered: bool) -> bytes:
        """The line of the file where it still says what is true, and looks as we write it; else its text made anew."""
        ours = line.startswith(b'{"id": "%b", ' % grant.id.encode()) and line.count(b"{") == 1
        if unaltered and self.same_boot and ours:
            return line
        return grant_text(grant)

    def _grant(self, entry: Any) -> Grant:
        """One entry; raises for what no Knocker wrote."""
        if not isinstance(entry["entry"], str):
            raise Bad("a bad entry")
        network, name, via = Network.parse(entry["entry"]), entry["key"], VIAS[entry["via"]]
        check_id(entry["id"])
        if not (name is None or isinstance(name, str)) or (name is None) != (via is Via.FILE):
            raise Bad("a bad owner")
        check_network(network, via, self.today.forbidden)
        key = self.today.key(name)
        wall, boot = _number(entry["expires_at"]), _number(entry["boot_ends_at"])
        if not self.same_boot:
            # What the wall clock says of the time that the machine was off counts against the boot clock's end too.
            off = max(0.0, self.now.wall - self.saved.wall)
            boot = self.now.boot + min(wall - self.now.wall, boot - self.saved.boot - off)
        created, last = _number(entry["created_at"]), _number(entry["last_knock_at"])
        return Grant(
            entry["id"],
            *network.parts,
            key.name if key is not None else name,  # one text for all grants of a key
            known_mark(entry["key_mark"], key),
            via,
            scope(entry["host"] if via is Via.UDP else entry.get("host"), key),
            created,
            created if last == created else last,
            wall,
            boot,
        )


def _read_flat(
    value: dict[str, Any], now: Moment, keyring: Keyring, forbidden: Forbidden, new_id: Callable[[], str]
) -> Contents:
    """The older file: addresses with the time of their expiry, nobody's in particular."""
    found = Contents(flat=True)
    ends: dict[Network, float] = {}
    for text, expiry in value.items():
        try:
            network, wall = Network.parse(text), _number(expiry)
            check_network(network, Via.FILE, forbidden)
        except (ValueError, OverflowError) as error:
            found.bad.append(reason(error))
            continue
        ends[network] = min(wall, ends.get(network, wall), now.wall + keyring.longest_ttl)
    for network, end in ends.items():
        why = forbidden.now(network)
        if why:
            found.ended.append(why)
            continue
        boot = now.boot + end - now.wall
        grant = Grant(new_id(), *network.parts, None, "", Via.FILE, None, now.wall, now.wall, end, boot)
        if grant.lives(now):
            found.grants.append(grant)
        else:
            found.ended.append(_OVER)
    return found


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= 1e13:  # so that NaN is refused too
        raise Bad("a bad time")
    return float(value)
