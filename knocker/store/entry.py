"""What every stored grant must be, whichever way it was stored: one that a knock could leave under some settings."""

from __future__ import annotations

import re

from knocker.core.addresses import Network
from knocker.core.grant import Bounds, Grant, Via, lost_right
from knocker.core.hosts import Scope, parse_name
from knocker.core.keys import Key, Keyring
from knocker.core.knock import Forbidden, too_broad
from knocker.core.moment import Moment

VIAS = {via.value: via for via in Via}
_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")


class Bad(ValueError):
    """What is wrong with an entry, in words that may be logged: none of them are the entry's own."""


def reason(error: Exception) -> str:
    """What is wrong with an entry that could not be read."""
    return str(error) if isinstance(error, Bad) else "an unreadable entry"


def check_id(text: str) -> None:
    """Whether it is an ID of ours; raises Bad."""
    if not _ID.fullmatch(text):
        raise Bad("a bad id")


def check_network(network: Network, via: Via, forbidden: Forbidden) -> None:
    """Whether a knock could open `network` under some settings; raises Bad."""
    why = forbidden.never(network)
    if why:
        raise Bad(why)
    own = network.single and via.own
    if not own and too_broad(network):
        raise Bad("a network that is too broad")


def known_mark(value: object, key: Key | None) -> str:
    """The mark of a secret: one text for all grants of a key."""
    if key is not None and value == key.mark:
        return key.mark
    return key.udp_mark if key is not None and key.udp_mark is not None and value == key.udp_mark else str(value)


def scope(host: object, key: Key | None) -> Scope | None:
    """The hosts that a grant opens: the one that its knock chose, else its key's; raises Bad."""
    if host is None:
        return key.hosts if key is not None else None
    if not isinstance(host, str) or parse_name(host) != host:
        raise Bad("a bad host")
    return Scope.of_one(host)


class Today:
    """What the settings and clocks of one moment leave of grants that were stored, however many there are."""

    def __init__(self, keyring: Keyring, forbidden: Forbidden, now: Moment) -> None:
        self.keyring = keyring
        self.forbidden = forbidden
        self.now = now
        self._doubtful = forbidden.trusted | forbidden.shared | forbidden.own | forbidden.gateways
        self._bounds: dict[str | None, Bounds] = {}

    def key(self, name: str | None) -> Key | None:
        """The key of that name."""
        return self.keyring.named(name) if name is not None else None

    def objection(self, grant: Grant) -> str:
        """Why the settings do not leave a grant, or an empty text where they do."""
        why = lost_right(grant, self.key(grant.key))
        if not why and self._doubtful.overlapping(grant):
            why = self.forbidden.now(grant.network)
        return why

    def fit(self, grant: Grant) -> Grant:
        """The grant as its key's settings would have it: itself where it is."""
        bounds = self._bounds.get(grant.key)
        if bounds is None:
            bounds = self._bounds[grant.key] = Bounds.of(self.key(grant.key), self.keyring, self.now)
        return bounds.fit(grant)
