"""The whitelist: all live grants, found by address.

Opening has two steps, so that memory changes only after the disk did (contract 3.6): `plan` decides what the
knock would leave, and once that is stored `settle` makes it count. Closing counts at once. Whether a grant
still lives is decided whenever it is looked at; a grant that was seen ended is gone for good, whatever the
clock says later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from knocker.core.addresses import Address, Extent, Network, NetworkMap, Networks
from knocker.core.change import Change, Event
from knocker.core.crowds import Crowd, Crowds, place_of, surplus
from knocker.core.grant import Choice, Grant, Via, Wish, first, fitted, lost_right, objection, renewed
from knocker.core.keys import Key, Keyring
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.core.refusals import Refusal, Refused


@dataclass(frozen=True, slots=True)
class Plan:
    """What a knock would leave, and which grants would have to make room for it (max_addresses)."""

    grant: Grant
    displaces: tuple[Grant, ...] = ()


class Crowded(Exception):
    """A knock that would take the place of one that is being stored: it has to wait for that."""


_Owner = tuple[str | None, Network, str | None]


class Whitelist:
    """All live grants. One owner holds at most one grant for a network (and a chosen host); none is shared."""

    def __init__(self, keyring: Keyring, max_entries: int, new_id: Callable[[], str]) -> None:
        self.keyring = keyring
        self.max_entries = max_entries
        self.followers: list[Callable[[Change], None]] = []
        self._new_id = new_id
        self._at: NetworkMap[Grant] = NetworkMap()
        self._planned: dict[_Owner, Plan] = {}
        self._crowds = Crowds()
        # What the settings of the last revision keep from being granted.
        self._forbidden: Forbidden | None = None

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[Grant]:
        return iter(self._at)

    # Opening.

    def plan(self, wish: Wish, now: Moment) -> Plan:
        """What this knock would leave; it does not count until `settle`.

        A knock never shortens its key's own live grant unless it names its ttl (contract 3.3). Raises Refused
        when the whitelist is full (nothing is evicted), or when the key changed while the knock waited, and
        Crowded when it has to wait for another knock's end.
        """
        key = self._rechecked(wish, now)
        owner = (key.name, wish.network, wish.host)
        held = self.held(*owner)
        if held is not None and not held.lives(now):
            self._end(held, Event.EXPIRED)
            held = None
        if held is not None and any(held in plan.displaces for plan in self._planned.values()):
            raise Crowded
        planned = self._planned.get(owner)
        displaced = self._displaced(wish, key, now)
        if held is None and (planned is None or any(grant not in displaced for grant in planned.displaces)):
            # The latter made room for itself by grants that now stay: the knock after it has another reach.
            self._check_room(owner, len(displaced), now)
        known = planned.grant if planned is not None else held
        grant = renewed(known, wish, key, now) if known is not None else first(self._new_id(), wish, key, now)
        grant = fitted(grant, self.keyring, now)
        self._check_allowed(grant, key)
        plan = Plan(grant, displaced)
        self._planned[owner] = plan
        return plan

    def _check_allowed(self, grant: Grant, key: Key) -> None:
        why = objection(grant, key, self._forbidden) if self._forbidden is not None else lost_right(grant, key)
        if why:
            raise Refused(Refusal.NOT_STORED, f"{grant.network} may not be granted any more: {why}")

    def fresh(self, wish: Wish, now: Moment) -> tuple[Key, Grant]:
        """The key that a knock has by now, and what it would leave where there is nothing yet; raises Refused.

        For a store that decides itself what becomes of it; nothing is planned.
        """
        key = self._rechecked(wish, now)
        grant = fitted(first(self._new_id(), wish, key, now), self.keyring, now)
        self._check_allowed(grant, key)
        return key, grant

    def _rechecked(self, wish: Wish, now: Moment) -> Key:
        key = self.keyring.named(wish.key.name)
        lost = key is None or key.digest != wish.key.digest or (wish.via is Via.REMOTE and not key.admin)
        if key is None or lost or (wish.packet and key.udp_secret != wish.key.udp_secret):
            raise Refused(Refusal.BAD_KEY, f"the key {wish.key.name} changed while its knock waited")
        if key.is_over(now.wall):
            raise Refused(Refusal.BAD_KEY, f"the key {key.name} has expired")
        return key

    def _check_room(self, owner: _Owner, leaving: int, now: Moment) -> None:
        if len(self) + len(self._planned) < self.max_entries or self._size(owner) - leaving < self.max_entries:
            return
        for part in self.parts(_SOME):
            if self.expire(now, part) and self._size(owner) - leaving < self.max_entries:
                return
        raise Refused(Refusal.FULL, f"all {self.max_entries} entries of whitelist.max_entries are in use")

    def _size(self, but: _Owner) -> int:
        """How many there will be once all is stored that is planned, but for the plan of one owner."""
        plans = {owner: plan for owner, plan in self._planned.items() if owner != but}
        fresh = sum(self.held(*owner) is None for owner in plans)
        leaving = [grant for plan in plans.values() for grant in plan.displaces]
        return len(self) + fresh - sum(self._held_like(grant) is not None for grant in leaving)

    def _displaced(self, wish: Wish, key: Key, now: Moment) -> tuple[Grant, ...]:
        """Which own-address grants are one too many for this key: the longest unknocked (contract 2)."""
        if key.max_addresses is None or not wish.via.own:
            return ()
        held = self._crowds.of((key.name, wish.network.bits))
        crowd = {place: grant for place, grant in held.items() if grant.lives(now)}
        for (name, network, host), plan in self._planned.items():
            if name == key.name and plan.grant.via.own and network.bits == wish.network.bits:
                crowd.pop((network, host), None)
                crowd[network, host] = plan.grant
                if (network, host) != (wish.network, wish.host):
                    for grant in plan.displaces:
                        crowd.pop(place_of(grant), None)
        crowd.pop((wish.network, wish.host), None)
        displaced = surplus(crowd, key.max_addresses - 1)
        if any(_owner(grant) in self._planned for grant in displaced):
            raise Crowded
        return displaced

    def settle(self, plan: Plan, now: Moment) -> Grant | None:
        """Make a planned grant count; None when it was closed, or planned anew, in the meantime.

        The grant that counts is another than the planned one where the settings changed meanwhile.
        """
        owner = _owner(plan.grant)
        if self._planned.get(owner) is not plan:
            return None
        del self._planned[owner]
        grant = fitted(plan.grant, self.keyring, now)
        self._tell(self._kept(grant, ""))
        self.close(plan.displaces, _MADE_ROOM)
        self._trim((grant.key, grant.bits), now)
        return grant

    def intends(self, plan: Plan) -> bool:
        """Whether a planned grant is still to count: it was neither closed nor planned anew."""
        return self._planned.get(_owner(plan.grant)) is plan

    def abandon(self, plan: Plan) -> None:
        """Forget a planned grant that could not be stored."""
        owner = _owner(plan.grant)
        if self._planned.get(owner) is plan:
            del self._planned[owner]

    def restore(self, grants: Iterable[Grant]) -> None:
        """Take in what was stored; nobody is told."""
        for grant in sorted(grants, key=lambda grant: grant.last_knock_at):
            self._keep(grant)

    # What a store says that is not ours alone.

    def adopt(self, grant: Grant, why: str, quiet: bool = False) -> None:
        """Let a grant count that was stored elsewhere; nobody is told where `quiet`."""
        change = self._kept(grant, why)
        if not quiet:
            self._tell(change)

    def reorder(self) -> None:
        """Let max_addresses go by the times of the grants, which did not come in their order."""
        self._crowds.reorder()

    # Asking.

    def live(self, address: Address, now: Moment) -> list[Grant]:
        """The live grants that open anything to `address`."""
        covering = self._at.covering(address)
        for grant in covering:
            if not grant.lives(now):
                return self._ended(covering, now)
        return covering

    def _ended(self, grants: list[Grant], now: Moment) -> list[Grant]:
        """Those that still live; the others are gone for good."""
        for grant in grants:
            if not grant.lives(now):
                self._end(grant, Event.EXPIRED)
        return [grant for grant in grants if grant.lives(now)]

    def with_id(self, grant_id: str, now: Moment) -> Grant | None:
        """The live grant of this id."""
        grant = next((grant for grant in self if grant.id == grant_id), None)
        if grant is not None and not grant.lives(now):
            self._end(grant, Event.EXPIRED)
            return None
        return grant

    # Closing.

    def chosen(self, choice: Choice) -> list[Grant]:
        """The grants that `choice` holds, those that are being stored among them."""
        grants = [*self._at.covering(choice.address), *(plan.grant for plan in self._planned.values())]
        return [grant for grant in grants if choice.holds(grant.key, grant.via, grant.network, grant.host)]

    def close(self, grants: Iterable[Grant], why: str = "") -> int:
        """End grants at once, also planned ones; returns how many there were."""
        return sum(self._end(grant, Event.CLOSED, why) for grant in grants)

    def expire(self, now: Moment, among: Iterable[Grant] | None = None) -> int:
        """End every grant, or those of `among`, whose time is over; returns how many."""
        over = [grant for grant in (self if among is None else among) if not grant.lives(now)]
        return sum(self._end(grant, Event.EXPIRED) for grant in over if self._held_like(grant) is grant)

    def parts(self, size: int) -> Iterator[list[Grant]]:
        """All grants, about so many at a time; between two of them the whitelist may change."""
        return self._at.parts(size)

    def revise(self, keyring: Keyring, forbidden: Forbidden, now: Moment) -> None:
        """Let new settings count, also for what was granted before (contract 3.6, last paragraph)."""
        self.keyring = keyring
        # This host's own addresses may be others when a knock is stored; the settings are the same until then.
        self._forbidden = replace(forbidden, own=Networks(), gateways=Networks())
        self.expire(now)
        for owner, plan in tuple(self._planned.items()):
            why = self._objection(plan.grant, forbidden)
            if why and self.held(*owner) is None:
                self._end(plan.grant, Event.CLOSED, why)
            elif why:
                self.abandon(plan)
        for grant in tuple(self):
            why = self._objection(grant, forbidden)
            if why:
                self._end(grant, Event.CLOSED, why)
        for grant in tuple(self):
            fit = fitted(grant, keyring, now)
            if fit is not grant:
                self._replace(grant, fit)
                self._tell(Change(Event.ALTERED, fit, "the settings changed"))
        self._crowds.recount(self, keyring)
        self.trim(now)

    def _objection(self, grant: Grant, forbidden: Forbidden) -> str:
        return objection(grant, self.keyring.named(grant.key) if grant.key is not None else None, forbidden)

    def trim(self, now: Moment) -> None:
        """Close what is beyond max_addresses, as when that was lowered."""
        for crowd in self._crowds:
            self._trim(crowd, now)

    def _trim(self, crowd: Crowd, now: Moment) -> None:
        key = self.keyring.named(crowd[0]) if crowd[0] is not None else None
        held = self._crowds.of(crowd)
        if key is None or key.max_addresses is None or len(held) <= key.max_addresses:
            return
        for grant in [grant for grant in held.values() if not grant.lives(now)]:
            self._end(grant, Event.EXPIRED)
        self.close(surplus(held, key.max_addresses), _MADE_ROOM)

    # The tables.

    def held(self, name: str | None, extent: Extent, host: str | None) -> Grant | None:
        """The grant of this owner, whether it lives or not."""
        for grant in self._at.at(extent):
            if grant.key == name and grant.host == host:
                return grant
        return None

    def _held_like(self, grant: Grant) -> Grant | None:
        return self.held(grant.key, grant, grant.host)

    def _keep(self, grant: Grant) -> None:
        held = self._held_like(grant)
        if held is not None:
            self._forget(held)
        self._at.add(grant, grant)
        self._crowds.add(grant, self.keyring)

    def _kept(self, grant: Grant, why: str) -> Change:
        """Keep it; what that is, for followers."""
        held = self._held_like(grant)
        self._keep(grant)
        # On the clock that nobody sets, and beyond what two clocks drift.
        if held is not None and grant.boot_ends_at < held.boot_ends_at - 1:
            why = f"{why}, {_SHORTER}" if why else _SHORTER
        return Change(Event.EXTENDED if held is not None else Event.OPENED, grant, why)

    def _replace(self, held: Grant, grant: Grant) -> None:
        self._at.discard(held, held)
        self._at.add(grant, grant)

    def _forget(self, held: Grant) -> None:
        self._at.discard(held, held)
        self._crowds.discard(held)

    def _end(self, grant: Grant, event: Event, why: str = "") -> bool:
        owner = _owner(grant)
        # A knock that is being stored outlives the end of the grant that it renews.
        planned = self._planned.pop(owner, None) if event is Event.CLOSED else None
        held = self.held(*owner)
        if held is not None:
            self._forget(held)
        if held is not None or planned is not None:
            self._tell(Change(event, held or (planned.grant if planned else grant), why))
        return held is not None or planned is not None

    def _tell(self, change: Change) -> None:
        for follower in self.followers:
            follower(change)


_SOME = 100  # grants that are looked at together for one whose time is over
_SHORTER = "its knock asked for less time than was left"
_MADE_ROOM = "it made room for a newer address: its key has max_addresses"


def _owner(grant: Grant) -> _Owner:
    return grant.key, grant.network, grant.host
