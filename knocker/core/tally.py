"""Counters of what happened. Verdicts, knocks, refusals and drops raise them; metrics will read them."""

from __future__ import annotations

from collections import Counter


class Tally:
    """Counts by label. Every label comes from a closed set, never from a request, so their number is bounded."""

    def __init__(self) -> None:
        self.verdicts: Counter[tuple[str, str]] = Counter()
        self.knocks: Counter[tuple[str, str]] = Counter()
        self.drops: Counter[str] = Counter()

    def verdict(self, label: tuple[str, str]) -> None:
        """One answer of /verify: outcome and cause."""
        self.verdicts[label] += 1

    def knock(self, via: str, outcome: str) -> None:
        """One knock, granted or refused."""
        self.knocks[via, outcome] += 1

    def drop(self, reason: str) -> None:
        """One request or connection that was dropped before it was a question or a knock."""
        self.drops[reason] += 1
