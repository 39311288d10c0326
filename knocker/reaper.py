"""The reaper: ends grants whose time is over, so that memory and file stay small.

It decides nothing: whether a grant lives is asked at every look. So whatever goes wrong here opens no door,
and the next round is tried all the same.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from knocker.core.moment import Moment
from knocker.core.whitelist import Whitelist


class Reaper:
    """A LoopingCall that survives its own exceptions."""

    log = Logger()

    def __init__(
        self, whitelist: Whitelist, now: Callable[[], Moment], clock: IReactorTime, afterwards: Callable[[], None]
    ) -> None:
        self.whitelist = whitelist
        self.failing = False
        self._now = now
        self._afterwards = afterwards
        self._loop = LoopingCall(self._round)
        self._loop.clock = clock

    def start(self, interval: float) -> None:
        """Make a round every `interval` seconds."""
        done: Deferred[LoopingCall] = self._loop.start(interval, now=False)
        done.addErrback(lambda failure: self.log.failure("the reaper stopped", failure))

    def stop(self) -> None:
        """Make no more rounds."""
        if self._loop.running:
            self._loop.stop()

    def complaints(self) -> list[str]:
        """What keeps the reaper from its work, for /ready."""
        return ["the reaper's last round failed; the log has the traceback"] if self.failing else []

    def _round(self) -> None:
        try:
            self.whitelist.expire(self._now())
            self._afterwards()
        except Exception:  # noqa: BLE001 - a LoopingCall that raises once never runs again
            if not self.failing:
                self.log.failure("a round of the reaper failed; it goes on")
            self.failing = True
        else:
            self.failing = False
