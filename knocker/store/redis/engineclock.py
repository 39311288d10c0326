"""What the engine's clock says, by this gate's boot clock: both are read by all gates, and only one is set by none."""

from __future__ import annotations

from knocker.core.moment import Moment

SLOW = 0.5  # seconds; an answer that took longer tells the time too roughly where it is known already
MOST_APART = 2.0  # seconds that a gate's clock may differ from the engine's before the admin is told


class EngineClock:
    """The engine's time, rather too late than too early: so no grant becomes longer on its way to a gate."""

    def __init__(self) -> None:
        self._ahead: float | None = None  # milliseconds that the engine's clock is ahead of our boot time, at most
        self._least = 0.0

    @property
    def known(self) -> bool:
        """Whether the engine ever told its time."""
        return self._ahead is not None

    def heard(self, said: float, asked: float, heard: float) -> None:
        """Learn what it said (milliseconds) between two seconds of our boot time."""
        earliest, latest = said - 1000 * heard, said - 1000 * asked
        if self._ahead is None or heard - asked <= SLOW:
            # It may have said so as soon as it was asked, and have gone on since.
            self._ahead = latest
        else:
            self._ahead = min(max(self._ahead, earliest), latest)
        self._least = earliest

    def now(self, boot: float) -> float:
        """Its milliseconds by a second of our boot time; 0 where it never told."""
        return 0.0 if self._ahead is None else 1000 * boot + self._ahead

    def at_least(self, boot: float) -> float:
        """Its milliseconds by then, rather too early than too late."""
        return 1000 * boot + self._least

    def ours_ahead(self, now: Moment) -> float:
        """The seconds that our wall clock is ahead of the engine's, negative where it is behind."""
        return now.wall - self.now(now.boot) / 1000
