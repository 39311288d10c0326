"""How late the reactor is: a timer that is due each second tells by how much it was not."""

from __future__ import annotations

from collections import deque

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

EVERY = 1.0  # seconds
KEPT = 60  # times


class Lag:
    """The lateness of the last minute, in seconds."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._late: deque[float] = deque([0.0], maxlen=KEPT)
        self._due = 0.0
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock

    def start(self) -> None:
        """Begin to watch."""
        self._due = self._clock.seconds() + EVERY
        self._loop.start(EVERY, now=False)

    def stop(self) -> None:
        """Watch no longer."""
        if self._loop.running:
            self._loop.stop()

    def worst(self) -> float:
        """The most of the last minute."""
        return max(self._late)

    def _tick(self) -> None:
        now = self._clock.seconds()
        self._late.append(max(0.0, now - self._due))
        # What a LoopingCall missed it skips, so the next is due at the next whole interval.
        self._due += EVERY * (1 + max(0, int((now - self._due) / EVERY)))
