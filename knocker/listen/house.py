"""What every listener works with: the gate, the store, the clocks, and how this house behaves towards visitors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred

from knocker.core.addresses import Networks
from knocker.core.gate import Gate, Hosted
from knocker.core.grant import Choice, Grant, Wish
from knocker.core.limits import Limit, Limits
from knocker.core.moment import Moment
from knocker.core.tally import Tally
from knocker.core.turns import Turns
from knocker.listen.reports import Reports


class Store(Protocol):
    """Where grants outlive the process. Failures are Refused, and then nothing was granted."""

    def put(self, wish: Wish) -> Deferred[Grant]:
        """Store what a knock leaves, then let it count."""
        ...

    def remove(self, choice: Choice, why: str = "") -> Deferred[None]:
        """Close an owner's grants at once, and store that; knocks of theirs that still wait are refused."""
        ...

    def complaints(self) -> list[str]:
        """What keeps the store from being ready."""
        ...


@dataclass(frozen=True, slots=True)
class Manners:
    """How requests are answered beyond yes and no; replaced as a whole at a reload.

    `knock_hosts`: the names of knock_page.url and `also`; empty where none are set.
    """

    deny_status: int = 401
    deny_by_host: dict[str, int] = field(default_factory=dict)
    cors_origin: str = "*"
    knock_hosts: frozenset[str] = frozenset()

    def deny(self, asked: Hosted) -> int:
        """The status of the deny answer for a request, by the host that it asked for."""
        host = asked.host if self.deny_by_host else None
        return self.deny_by_host.get(host, self.deny_status) if host else self.deny_status


@dataclass
class House:
    """One running Knocker as its listeners see it. `surroundings`: this host's own addresses, its gateways."""

    gate: Gate
    store: Store
    tally: Tally
    now: Callable[[], Moment]
    surroundings: Callable[[], tuple[Networks, Networks]]
    reports: Reports
    turns: Turns
    manners: Manners = Manners()
    complaints: Callable[[], list[str]] = list
    limits: Limits = field(default_factory=lambda: Limits(Limit()))
