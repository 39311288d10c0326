"""What the admin is told about requests: each cause at most once a minute, however many there are."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger
from twisted.python.failure import Failure

EVERY = 60.0  # seconds between two lines of one cause


class Reports:
    """Log lines by cause. Causes come from a closed set, never from a request, so their number is bounded."""

    log = Logger()

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._last: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def report(self, cause: str, message: str, **fields: object) -> None:
        """Log `message` with its fields at warning level, unless its cause was reported within the last minute."""
        if self._due(cause):
            unsaid = self._unsaid.pop(cause, 0)
            more = f" ({unsaid} more since the last such line)" if unsaid else ""
            shown = {name: printable(value) for name, value in fields.items()}
            self.log.warn(message + "{more}", more=more, cause=cause, **shown)

    def failure(self, cause: str, message: str, failure: Failure) -> None:
        """Log a mistake of ours, with its traceback, under the same rule."""
        if self._due(cause):
            self._unsaid.pop(cause, None)
            self.log.failure(message, failure)

    def _due(self, cause: str) -> bool:
        now = self._seconds()
        if now - self._last.get(cause, -EVERY) < EVERY:
            self._unsaid[cause] = self._unsaid.get(cause, 0) + 1
            return False
        self._last[cause] = now
        return True


def printable(value: object) -> str:
    """A value as one line of ASCII: whatever a request holds, it cannot break or forge a line of the log."""
    return "".join(
        character if character.isascii() and character.isprintable() else ascii(character)[1:-1]
        for character in str(value)[:300]
    )
