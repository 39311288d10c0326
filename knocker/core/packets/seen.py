"""The packets that were seen: none counts twice, not after a restart and not when a clock goes back (contract 4).

A packet may be forgotten once it is too old to be taken, and too old is what lies more than the window behind
the highest time that this server ever saw. So what was forgotten stays refused, wherever the clock goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from knocker.core.packets.native import NotOurs

_FEW = 100  # packets; fewer are not worth looking through
MOST = 200_000  # packets that are remembered; beyond that knocks are refused, not forgotten


@dataclass(frozen=True, slots=True)
class Sighting:
    """One packet: `made` and `seen` are Unix milliseconds of its sender's and of our clock."""

    seen: int
    made: int
    owner: str
    nonce: bytes


class Seen:
    """What was seen. Times are Unix milliseconds, `window` too.

    `mark`: the highest time of our clock, ever. `fence`: packets made before it are refused, since such ones may
    have been forgotten.
    """

    def __init__(self, window: int, mark: int = 0, fence: int = 0, sightings: Iterable[Sighting] = ()) -> None:
        self.window = window
        self.mark = mark
        self.fence = fence
        self._sightings: dict[tuple[str, bytes], Sighting] = {}
        self._pruned = self.mark
        for sighting in sightings:
            self.mark = max(self.mark, sighting.seen)
            self._sightings[sighting.owner, sighting.nonce] = sighting

    def __len__(self) -> int:
        return len(self._sightings)

    def __iter__(self) -> Iterator[Sighting]:
        """All that is remembered."""
        return iter(self._sightings.values())

    def is_behind(self, now: int) -> bool:
        """Whether our clock went so far back that no packet of today can be taken."""
        return now < self.mark - self.window

    def admit(self, owner: str, nonce: bytes, made: int, now: int) -> Sighting:
        """Remember a packet that was not seen before, and let it pass; raises NotOurs."""
        if self.is_behind(now):
            raise NotOurs("behind")
        self.mark = max(self.mark, now)
        if made < self.mark - self.window:
            raise NotOurs("behind")
        if made < self.fence:
            raise NotOurs("fenced")
        if (owner, nonce) in self._sightings:
            raise NotOurs("replay")
        # Looked through now and then, so that it costs little even where there are very many.
        if len(self._sightings) >= _FEW and self.mark - self._pruned >= self.window // 2:
            self.prune()
        if len(self._sightings) >= MOST:
            raise NotOurs("full")
        sighting = Sighting(now, made, owner, nonce)
        self._sightings[owner, nonce] = sighting
        return sighting

    def forget(self, sighting: Sighting) -> None:
        """It could not be stored, so nothing came of it: its next copy may try again."""
        self._sightings.pop((sighting.owner, sighting.nonce), None)

    def prune(self) -> None:
        """Forget what is too old to be taken, and refuse it from now on."""
        self._pruned = self.mark
        self.fence = max(self.fence, self.mark - self.window)  # also should the window grow
        self._sightings = {place: known for place, known in self._sightings.items() if known.made >= self.fence}
