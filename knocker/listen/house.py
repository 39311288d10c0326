"""What every listener works with: the gate, the store, the clocks, and how this house behaves towards visitors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred

from knocker.core.addresses import Networks
from knocker.core.canaries import Canaries
from knocker.core.gate import Gate, Hosted
from knocker.core.grant import Choice, Grant, Wish
from knocker.core.limits import Limit, Limits
from knocker.core.moment import Moment
from knocker.core.tally import Tally
from knocker.core.turns import Turns
from knocker.listen.denial import Denial
from knocker.listen.knockpage import KnockPage
from knocker.listen.reports import Reports

_PLAIN = Denial()


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

    `knock_page`: what GET / shows, if anything; `page_origin`: the origin of knock_page.url, "" where it is not set;
    `knock_hosts`: the names of knock_page.url and `also`; `has_pages`: some refusal may show a page.
    """

    denial: Denial = _PLAIN
    denial_by_host: dict[str, Denial] = field(default_factory=dict)
    cors_origin: str = "*"
    knock_page: KnockPage | None = None
    page_origin: str = ""
    knock_hosts: frozenset[str] = frozenset()
    has_pages: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """See whether any refusal has a page."""
        denials = (self.denial, *self.denial_by_host.values())
        object.__setattr__(self, "has_pages", any(denial.has_page for denial in denials))

    def deny(self, asked: Hosted) -> Denial:
        """The deny answer for a request, by the host that it asked for."""
        host = asked.host if self.denial_by_host else None
        return self.denial_by_host.get(host, self.denial) if host else self.denial

    def cors(self, origins: Sequence[bytes]) -> str:
        """Who may read an answer to a request with these Origin lines (contract 3.7: the knock page always may)."""
        asks = len(origins) == 1 and bool(self.page_origin) and origins[0] == self.page_origin.encode()
        return self.page_origin if asks and self.cors_origin != "*" else self.cors_origin


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
    canaries: Canaries
    manners: Manners = Manners()
    complaints: Callable[[], list[str]] = list
    limits: Limits = field(default_factory=lambda: Limits(Limit()))
