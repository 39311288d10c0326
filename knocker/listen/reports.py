"""What the admin is told about requests: of each cause only so many lines a minute, however many there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.logger import Logger
from twisted.python.failure import Failure

EVERY = 60.0  # seconds


class Reports:
    """Log lines by cause. Causes come from a closed set, never from a request, so their number is bounded."""

    log = Logger()

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._windows: dict[str, _Window] = {}

    def report(self, cause: str, message: str, lines_a_minute: int = 1, **fields: object) -> None:
        """Log `message` with its fields at warning level, unless its cause had `lines_a_minute` already."""
        unsaid = self._unsaid(cause, lines_a_minute)
        if unsaid is None:
            return
        more = f" ({unsaid} more since the last such line)" if unsaid else ""
        shown = {name: value if value is None else printable(value) for name, value in fields.items()}
        self.log.warn(message + more, cause=cause, **shown)

    def failure(self, cause: str, message: str, failure: Failure) -> None:
        """Log a mistake of ours, with its traceback, once a minute."""
        if self._unsaid(cause, 1) is not None:
            self.log.failure(message, failure)

    def _unsaid(self, cause: str, most: int) -> int | None:
        """How many lines of this cause were left out before this one, None when this one is left out too."""
        now = self._seconds()
        window = self._windows.setdefault(cause, _Window(now))
        if now - window.began >= EVERY:
            window.began, window.said = now, 0
        if window.said >= most:
            window.unsaid += 1
            return None
        window.said += 1
        unsaid, window.unsaid = window.unsaid, 0
        return unsaid


@dataclass(slots=True)
class _Window:
    """The lines of one cause since a minute began."""

    began: float
    said: int = 0
    unsaid: int = 0


def printable(value: object) -> str:
    """A value as one line of ASCII: whatever a request holds, it cannot break or forge a line of the log."""
    return "".join(
        character if character.isascii() and character.isprintable() else ascii(character)[1:-1]
        for character in str(value)[:300]
    )
