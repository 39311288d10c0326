"""How often one address may present a key: two counters for each, bounded in number (contract 3.3).

The table cannot grow with the number of attackers: a full one forgets the entry that is nearest its window's
end, which by then has the least left to say.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from knocker.core.addresses import Address, Network
from knocker.core.refusals import Refusal, Refused

MOST = 10_000  # entries
HOLDERS_SHARE = 10  # an address that holds a grant may fail so many times as often
_HOUSEHOLD = 64  # IPv6 prefix whose addresses one client can use at will


@dataclass(frozen=True, slots=True)
class Limit:
    """security.knock_rate_limit: how many requests of each outcome in `window` seconds; 0 is no limit."""

    window: int = 60
    successful: int = 20
    failed: int = 30


@dataclass(slots=True)
class Counters:
    """What one address did since its first request of the window, which ends at `ends_at`."""

    ends_at: float
    succeeded: int = 0
    failed: int = 0

    def fail(self) -> None:
        """A request that was let through did not succeed after all."""
        self.succeeded -= 1
        self.failed += 1


class Limits:
    """The counters of all addresses. Times are seconds of a clock that nobody sets."""

    def __init__(self, limit: Limit, most: int = MOST) -> None:
        self.limit = limit
        self._most = most
        # A window has one length for all, so the order in which they began is that in which they end.
        self._table: OrderedDict[Network, Counters] = OrderedDict()

    def __len__(self) -> int:
        return len(self._table)

    def admit(self, client: Address, holder: bool, seconds: float) -> Counters:
        """Let one more request of `client` through, or raise Refused. `holder`: it holds a grant.

        The request counts as successful until its counters' `fail` is called, so that those which are being
        answered are counted too.
        """
        self._forget_past(seconds)
        subject = client.network if client.bits == 32 else client.widened(_HOUSEHOLD)
        counters = self._table.get(subject)
        if counters is None:
            counters = Counters(seconds + self.limit.window)
            self._remember(subject, counters)
        elif self._is_full(counters, holder):
            raise Refused(
                Refusal.LIMITED,
                f"{subject} made {counters.succeeded} successful and {counters.failed} failed requests within"
                f" {self.limit.window} s; security.knock_rate_limit says how many it may",
                retry_after=max(1, math.ceil(counters.ends_at - seconds)),
            )
        counters.succeeded += 1
        return counters

    def _is_full(self, counters: Counters, holder: bool) -> bool:
        successful, failed = self.limit.successful, self.limit.failed * (HOLDERS_SHARE if holder else 1)
        return 0 < successful <= counters.succeeded or 0 < failed <= counters.failed

    def _remember(self, subject: Network, counters: Counters) -> None:
        if len(self._table) >= self._most:
            self._table.popitem(last=False)
        self._table[subject] = counters

    def _forget_past(self, seconds: float) -> None:
        while self._table and next(iter(self._table.values())).ends_at <= seconds:
            self._table.popitem(last=False)
