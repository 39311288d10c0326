"""Of each cause only so many a minute: what keeps a log from growing with an attack."""

from __future__ import annotations

from dataclasses import dataclass

EVERY = 60.0  # seconds
_MOST_CAUSES = 256


@dataclass(slots=True)
class _Window:
    """What happened of one cause since a minute began."""

    began: float
    said: int = 0
    unsaid: int = 0


class Quota:
    """Counts by cause; a bounded number of causes is remembered, the one that came first is forgotten first."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}

    def left_out(self, cause: str, most: int, now: float) -> int | None:
        """How many of this cause were left out before this one; None when this one is left out too.

        `most`: so many in a minute are not; `now`: seconds on any clock, also one that may be set back.
        """
        window = self._windows.get(cause)
        if window is None:
            if len(self._windows) >= _MOST_CAUSES:
                del self._windows[next(iter(self._windows))]
            window = self._windows[cause] = _Window(now)
        if abs(now - window.began) >= EVERY:
            window.began, window.said = now, 0
        if window.said >= most:
            window.unsaid += 1
            return None
        window.said += 1
        unsaid, window.unsaid = window.unsaid, 0
        return unsaid


def more(unsaid: int) -> str:
    """What a line says of those that were left out before it."""
    return f" ({unsaid} more since the last such line)" if unsaid else ""
