"""A grant as the engine keeps it: its owner's text, which names its key there, and the record under that.

Times are milliseconds of the engine's clock; none of a gate's own clocks is stored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from knocker.core.addresses import Network
from knocker.core.grant import Grant, Via
from knocker.core.keys import Key, Keyring
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.store.entry import VIAS, Bad, Today, check_id, check_network, known_mark, scope

MOST_AHEAD = 60_000  # milliseconds that a knock may seem to lie ahead of the engine's clock
# Made once, since a start reads as many as there are.
_decode = json.JSONDecoder().decode
_encode = json.JSONEncoder(separators=(",", ":")).encode
_LATEST = 10**14  # milliseconds since 1970


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose grant it is, for what: at most one record is kept for each. `host`: the one that its knock chose."""

    key: str | None
    network: Network
    host: str | None

    @classmethod
    def of(cls, grant: Grant) -> Owner:
        """The owner of a grant."""
        return cls(grant.key, grant.network, grant.host)

    @classmethod
    def parse(cls, text: bytes) -> Owner:
        """Read an owner's text; raises ValueError for what no Knocker wrote."""
        value = _decode(text.decode("utf-8"))
        if not isinstance(value, list) or len(value) != 3:
            raise Bad("a bad owner")
        key, entry, host = value
        if not (key is None or isinstance(key, str)) or not isinstance(entry, str):
            raise Bad("a bad owner")
        owner = cls(key, Network.parse(entry), host)
        scope(host, None)
        if owner.text.encode() != text:  # another spelling would be another key there
            raise Bad("a bad owner")
        return owner

    @property
    def text(self) -> str:
        """The one spelling of it."""
        return _encode([self.key, str(self.network), self.host])

    @property
    def crowd(self) -> str:
        """Which grants max_addresses counts together: one key's of one family."""
        return _encode([self.key, self.network.bits])


@dataclass(frozen=True, slots=True)
class Record:
    """What the engine knows of a grant. `number`: that of the change that made it so, which orders all of them."""

    id: str
    created: int
    last: int
    ends: int
    via: Via
    mark: str
    number: int

    @classmethod
    def parse(cls, text: bytes) -> Record:
        """Read a record; raises ValueError for what no Knocker wrote."""
        fields = text.decode("ascii").split(" ")
        if len(fields) != 7:
            raise Bad("a bad record")
        name, created, last, ends, via, mark, number = fields
        check_id(name)
        if via not in VIAS:
            raise Bad("a bad record")
        return cls(name, _count(created), _count(last), _count(ends), VIAS[via], mark.removeprefix("-"), _count(number))

    @property
    def text(self) -> str:
        """As scripts/open.lua writes it."""
        mark = self.mark or "-"
        return f"{self.id} {self.created} {self.last} {self.ends} {self.via.value} {mark} {self.number}"


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > _LATEST:
        raise Bad("a bad record")
    return int(text)


class NotHere(Exception):
    """A grant that this gate's settings do not allow."""


class Reading:
    """Turns records into grants on this gate's clocks, as its settings have them at one moment.

    `engine`: milliseconds that the engine's clock says by `now`, rather too late than too early, so that no grant
    becomes longer on its way.
    """

    def __init__(self, keyring: Keyring, forbidden: Forbidden, engine: float, now: Moment) -> None:
        self.now = now
        self._today = Today(keyring, forbidden, now)
        self._engine = engine

    def is_by(self, keyring: Keyring) -> bool:
        """Whether these are its keys."""
        return self._today.keyring is keyring

    def grant(self, owner: Owner, record: Record) -> Grant | None:
        """The grant, None where its time is over; raises NotHere, or ValueError for what no knock could leave.

        One whose knock lies ahead of the engine's clock was made when that was wrong, and is bad (contract 3.6).
        """
        if (owner.key is None) != (record.via is Via.FILE):
            raise Bad("a bad owner")
        if record.last > self._engine + MOST_AHEAD:
            raise Bad("a knock that lies ahead of the engine's clock")
        check_network(owner.network, record.via, self._today.forbidden)
        grant = self._on_our_clocks(owner, record, self._today.key(owner.key))
        if self._today.objection(grant):
            raise NotHere
        grant = self._today.fit(grant)
        return grant if grant.lives(self.now) else None

    def _on_our_clocks(self, owner: Owner, record: Record, key: Key | None) -> Grant:
        longest = key.max_ttl if key is not None else self._today.keyring.longest_ttl
        # By the knock and not by now, or reading it again would give it all that time anew.
        left = (min(record.ends, record.last + 1000 * longest) - self._engine) / 1000
        created, last = record.created / 1000, record.last / 1000
        return Grant(
            record.id,
            *owner.network.parts,
            key.name if key is not None else owner.key,
            known_mark(record.mark, key),
            record.via,
            scope(owner.host, key),
            created,
            created if last == created else last,
            self.now.wall + left,
            self.now.boot + left,
        )
