"""The own-address grants of keys that may hold only so many (max_addresses), each key's in the order they knocked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from knocker.core.addresses import Network
from knocker.core.grant import Grant
from knocker.core.keys import Keyring

Place = tuple[Network, str | None]  # a network, and the host that a knock chose
Crowd = tuple[str | None, int]  # a key's name and the bits of an address family


def place_of(grant: Grant) -> Place:
    """Where a grant stands in its crowd."""
    return grant.network, grant.host


def surplus(crowd: dict[Place, Grant], most: int) -> tuple[Grant, ...]:
    """The grants beyond `most`, the longest unknocked first, as they stand in `crowd`."""
    return tuple(crowd.values())[: max(0, len(crowd) - most)]


class Crowds:
    """All crowds; the longest unknocked stand first."""

    def __init__(self) -> None:
        self._crowds: dict[Crowd, dict[Place, Grant]] = {}

    def __iter__(self) -> Iterator[Crowd]:
        """Which there are; they may change meanwhile."""
        return iter(tuple(self._crowds))

    def of(self, crowd: Crowd) -> dict[Place, Grant]:
        """One key's grants of one family; empty where nothing is counted."""
        return self._crowds.get(crowd, {})

    def add(self, grant: Grant, keyring: Keyring) -> None:
        """Count a grant that was just knocked for, if its key has max_addresses."""
        key = keyring.named(grant.key) if grant.key is not None else None
        if key is not None and key.max_addresses is not None and grant.via.own:
            self._crowds.setdefault((grant.key, grant.bits), {})[place_of(grant)] = grant

    def discard(self, grant: Grant) -> None:
        """Count it no longer."""
        if self._crowds:
            self.of((grant.key, grant.bits)).pop(place_of(grant), None)

    def reorder(self) -> None:
        """Let each stand in the order that its grants' own times tell, as where all of them came at once."""
        for crowd, held in self._crowds.items():
            by_time = sorted(held.items(), key=lambda item: item[1].last_knock_at)
            self._crowds[crowd] = dict(by_time)

    def recount(self, grants: Iterable[Grant], keyring: Keyring) -> None:
        """Count anew after a change of the keys; the order in which they knocked stays, whatever the clock did."""
        known = {grant.id: place for crowd in self._crowds.values() for place, grant in enumerate(crowd.values())}
        self._crowds = {}
        own = [grant for grant in grants if grant.via.own]
        for grant in sorted(own, key=lambda grant: (known.get(grant.id, -1), grant.last_knock_at)):
            self.add(grant, keyring)
