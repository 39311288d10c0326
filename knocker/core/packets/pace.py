"""How often a key may knock by packet: so many in a window, whoever holds the key."""

from __future__ import annotations

from knocker.core.limits import Counters, Limit


class Pace:
    """Counts accepted packets by key. Times are seconds of a clock that nobody sets; keys are few."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._counters: dict[str, Counters] = {}

    def allows(self, key: str, seconds: float) -> bool:
        """Count one more packet of this key, unless it had its share (knock_rate_limit.successful_requests)."""
        counters = self._counters.get(key)
        if counters is None or counters.ends_at <= seconds:
            counters = self._counters[key] = Counters(seconds + self.limit.window)
        if 0 < self.limit.successful <= counters.succeeded:
            return False
        counters.succeeded += 1
        return True
