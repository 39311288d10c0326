"""What the admin is told about requests: of each cause only so many lines a minute, however many there are."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger
from twisted.python.failure import Failure

from knocker.core.quota import Quota, more

PEERS_A_MINUTE = 10


class Reports:
    """Log lines by cause. Causes come from a closed set, never from a request, so their number is bounded."""

    log = Logger()

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._quota = Quota()
        self._by_peer = Quota()

    def report_of(self, peer: object, cause: str, message: str, **fields: object) -> None:
        """The same once a minute for each peer, and of a few peers: so that one cannot hide another."""
        unsaid = self._by_peer.left_out(f"{cause} {peer}", 1, self._seconds())
        if unsaid is not None:
            self._say(cause, message, PEERS_A_MINUTE, unsaid, {"peer": peer, **fields})

    def report(self, cause: str, message: str, lines_a_minute: int = 1, **fields: object) -> None:
        """Log `message` with its fields at warning level, unless its cause had `lines_a_minute` already."""
        self._say(cause, message, lines_a_minute, 0, fields)

    def _say(self, cause: str, message: str, most: int, before: int, fields: dict[str, object]) -> None:
        unsaid = self._quota.left_out(cause, most, self._seconds())
        if unsaid is None:
            return
        shown = {name: value if value is None else one_line(value) for name, value in fields.items()}
        self.log.warn(message + more(before + unsaid), cause=cause, **shown)

    def failure(self, cause: str, message: str, failure: Failure) -> None:
        """Log a mistake of ours, with its traceback, once a minute."""
        if self._quota.left_out(cause, 1, self._seconds()) is not None:
            self.log.failure(message, failure)


def one_line(value: object) -> str:
    """A value as one line of ASCII: whatever a request holds, it cannot break or forge a line of the log."""
    return "".join(
        character if character.isascii() and character.isprintable() else ascii(character)[1:-1]
        for character in str(value)[:300]
    )
