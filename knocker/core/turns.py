"""A bounded share of each turn of the event loop for work that may wait, so that what may not wait does not.

A verdict is asked for every request of every service; a knock comes now and then and costs a hundred times as much.
When many come at once, each turn does some of their work and leaves the rest to the next ones, in the order in which
it came, and every verdict that is asked meanwhile is answered between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

SHARE = 0.001  # seconds of a turn; the piece of work that begins last may go beyond


class Turns:
    """The share that one event loop has. `call_later` runs a function in a later turn, `seconds` tells steady time."""

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object], seconds: Callable[[], float]) -> None:
        self._call_later = call_later
        self._seconds = seconds
        self._began: float | None = None  # when this turn's work did, if there was any
        self._waiting: deque[Callable[[], None]] = deque()

    def has_room(self) -> bool:
        """Whether work may begin at once; otherwise it waits."""
        if self._began is None:
            self._begin()
            return True
        return not self._waiting and self._is_early()

    def wait(self, work: Callable[[], None], *, first: bool = False) -> None:
        """Run `work` in a turn to come, behind all that wait already, or before them."""
        if first:
            self._waiting.appendleft(work)
        else:
            self._waiting.append(work)
        if self._began is None:
            self._begin()

    def _begin(self) -> None:
        self._began = self._seconds()
        self._call_later(0, self._turn)

    def _is_early(self) -> bool:
        return self._began is not None and self._seconds() - self._began < SHARE

    def _turn(self) -> None:
        if not self._waiting:
            self._began = None
            return
        self._begin()
        while self._waiting and self._is_early():
            self._waiting.popleft()()
