"""Which key a datagram is of, and whether it was made now: all that its bytes and the clock can tell (contract 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from knocker.core.packets.native import SIZE, SLOT, Knock, NotOurs, Secrets, decode, hint

_FAR = 26 * 3600  # seconds that a clock may be wrong for its owner to be told; any zone's mistake is within
_MOST_HINTS = 30_000  # made anew in one go when the clock jumps or the keys change


class Skewed(NotOurs):
    """A packet whose key is proven and whose time is too far from ours: `seconds` ahead, or behind if negative."""

    def __init__(self, key: str, seconds: float) -> None:
        super().__init__("bad_clock")
        self.key = key
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Packet:
    """A knock, the name of the key that made it, and whose it is for good."""

    key: str
    owner: str
    knock: Knock


class Reader:
    """Reads datagrams. `secrets`: of each key, by its name; `window`: seconds that a packet's time may differ."""

    def __init__(self, secrets: Mapping[str, Secrets], window: int) -> None:
        self.window = window
        self._secrets = dict(secrets)
        self._owners = {name: known.owner for name, known in self._secrets.items()}
        # With very many keys only nearer clocks are told of; the window itself is always covered.
        most = (_MOST_HINTS // max(1, len(self._secrets)) - 1) // 2
        self._reach = max(window // SLOT + 1, min(_FAR // SLOT, most))
        self._hints: dict[bytes, tuple[str, int]] = {}
        self._slots: dict[int, list[bytes]] = {}
        self._middle: int | None = None

    def knows(self, packet: Packet) -> bool:
        """Whether the packet's key is still the one that it was made with."""
        return self._owners.get(packet.key) == packet.owner

    def read(self, data: bytes, wall: float) -> Packet:
        """The knock in a datagram that arrived at the Unix second `wall`; raises NotOurs."""
        if len(data) != SIZE:
            raise NotOurs("bad_length")
        self._move(int(wall) // SLOT)
        found = self._hints.get(data[:8])
        if found is None:
            raise NotOurs("unknown")
        name, slot = found
        knock = decode(self._secrets[name], data)
        if knock.seconds // SLOT != slot:
            raise NotOurs("bad_time")
        ahead = knock.moment / 1000 - wall
        if abs(ahead) > self.window:
            raise Skewed(name, ahead)
        return Packet(name, self._owners[name], knock)

    def _move(self, middle: int) -> None:
        """Let the hints be those around this slot."""
        if middle == self._middle:
            return
        self._middle = middle
        wanted = range(middle - self._reach, middle + self._reach + 1)
        for slot in [slot for slot in self._slots if slot not in wanted]:
            for known in self._slots.pop(slot):
                del self._hints[known]
        for slot in wanted:
            if slot >= 0 and slot not in self._slots:
                self._slots[slot] = self._add(slot)

    def _add(self, slot: int) -> list[bytes]:
        added = {hint(secrets, slot): (name, slot) for name, secrets in self._secrets.items()}
        self._hints.update(added)
        return list(added)
