"""Counters of what happened. Verdicts, knocks, refusals, drops and writes raise them; metrics read them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

WRITE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # seconds, upper bounds


class Tally:
    """Counts by label. Every label comes from a closed set, never from a request, so their number is bounded."""

    def __init__(self) -> None:
        self.verdicts: Counter[tuple[str, str]] = Counter()
        self.knocks: Counter[tuple[str, str]] = Counter()
        self.drops: Counter[str] = Counter()
        self.writes = [0] * (len(WRITE_BUCKETS) + 1)  # by the bucket that their time falls into, the last for the rest
        self.write_seconds = 0.0  # of all
        self.failed_writes = 0

    def verdict(self, label: tuple[str, str]) -> None:
        """One answer of /verify: outcome and cause."""
        self.verdicts[label] += 1

    def knock(self, via: str, outcome: str) -> None:
        """One knock, granted or refused."""
        self.knocks[via, outcome] += 1

    def drop(self, reason: str) -> None:
        """One request or connection that was dropped before it was a question or a knock."""
        self.drops[reason] += 1

    def write(self, seconds: float, stored: bool) -> None:
        """One write of the whitelist: how long it took, and whether it is on disk."""
        self.writes[bisect_left(WRITE_BUCKETS, seconds)] += 1
        self.write_seconds += seconds
        self.failed_writes += not stored
