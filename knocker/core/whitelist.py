"""The whitelist: all live grants, found by address.

Opening has two steps, so that memory changes only after the disk did (contract 3.6): `plan` decides what the
knock would leave, and once that is stored `settle` makes it count. Closing counts at once. Whether a grant
still lives is decided whenever it is looked at; a grant that was seen ended is gone for good, whatever the
clock says later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from knocker.core.addresses import Address, Network, NetworkMap
from knocker.core.hosts import Scope
from knocker.core.keys import Key, Keyring
from knocker.core.moment import Moment
from knocker.core.refusals import Refusal, Refused


class Via(Enum):
    """How a grant came to be: a knock for the own address, an admin's for any, a datagram, an older file."""

    HTTP = "http"
    REMOTE = "remote"
    UDP = "udp"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a knock asks for once every rule let it pass. `ttl_named`: it named its `ttl` (seconds) itself."""

    network: Network
    key: Key
    via: Via
    ttl: int
    ttl_named: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """The record that a knock leaves. Times are wall-clock seconds, `boot_ends_at` seconds of boot time.

    `key` is the owner's name, None for an entry of an older file; `mark` remembers the owner's secret.
    """

    id: str
    network: Network
    key: str | None
    mark: str
    via: Via
    hosts: Scope | None
    created_at: float
    last_knock_at: float
    expires_at: float
    boot_ends_at: float

    def lives(self, now: Moment) -> bool:
        """Whether neither clock has reached its end."""
        return now.wall < self.expires_at and now.boot < self.boot_ends_at

    def seconds_left(self, now: Moment) -> int:
        """Whole seconds until the nearer of its two ends, rounded to the nearest."""
        return max(0, round(min(self.expires_at - now.wall, self.boot_ends_at - now.boot)))


@dataclass(frozen=True, slots=True)
class Own:
    """What DELETE /knock closes: all that this key's knocks from `address` left, or would leave.

    An admin's grant is its own where it is for exactly this address.
    """

    key: Key
    address: Address

    def holds(self, key: str | None, via: Via, network: Network) -> bool:
        """Whether a grant or a wish like this is the caller's own."""
        if key != self.key.name or self.address not in network:
            return False
        wide = self.address.widened(self.key.ipv6_prefix if self.address.bits == 128 else 32)
        return via in (Via.HTTP, Via.UDP) or network in (self.address.network, wide)


class Event(Enum):
    """What can happen to a grant."""

    OPENED = "opened"
    EXTENDED = "extended"
    CLOSED = "closed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened to one grant, as followers are told it. `why` is for the log."""

    event: Event
    grant: Grant
    why: str = ""


_Owner = tuple[str | None, Network]


def _owner(grant: Grant) -> _Owner:
    return grant.key, grant.network


class Whitelist:
    """All live grants. One owner holds at most one grant for a network; owners do not share grants."""

    def __init__(self, keyring: Keyring, max_entries: int, new_id: Callable[[], str]) -> None:
        self.keyring = keyring
        self.max_entries = max_entries
        self.followers: list[Callable[[Change], None]] = []
        self._new_id = new_id
        self._grants: dict[_Owner, Grant] = {}
        self._planned: dict[_Owner, Grant] = {}
        self._at: NetworkMap[tuple[Grant, ...]] = NetworkMap()

    def __len__(self) -> int:
        return len(self._grants)

    def __iter__(self) -> Iterator[Grant]:
        return iter(tuple(self._grants.values()))

    def plan(self, wish: Wish, now: Moment) -> Grant:
        """What this knock would leave; it does not count until `settle`.

        A knock never shortens its key's own live grant unless it names its ttl (contract 3.3). Raises Refused
        when the whitelist is full (nothing is evicted), or when the key changed while the knock waited.
        """
        self._recheck(wish)
        owner = (wish.key.name, wish.network)
        held = self._planned.get(owner) or self._grants.get(owner)
        if held is not None and not held.lives(now):
            self._end(held, Event.EXPIRED)
            held = None
        if held is None and self._size() >= self.max_entries:
            self.expire(now)
            if self._size() >= self.max_entries:
                raise Refused(Refusal.FULL, f"all {self.max_entries} entries of whitelist.max_entries are in use")
        grant = self._renewed(held, wish, now) if held else self._fresh(wish, now)
        self._planned[owner] = grant
        return grant

    def _recheck(self, wish: Wish) -> None:
        key = self.keyring.named(wish.key.name)
        if key is None or key.digest != wish.key.digest or (wish.via is Via.REMOTE and not key.admin):
            raise Refused(Refusal.BAD_KEY, f"the key {wish.key.name} changed while its knock waited")

    def _size(self) -> int:
        return len(self._grants) + sum(owner not in self._grants for owner in self._planned)

    def _fresh(self, wish: Wish, now: Moment) -> Grant:
        return Grant(
            id=self._new_id(),
            network=wish.network,
            key=wish.key.name,
            mark=wish.key.mark,
            via=wish.via,
            hosts=wish.key.hosts,
            created_at=now.wall,
            last_knock_at=now.wall,
            expires_at=now.wall + wish.ttl,
            boot_ends_at=now.boot + wish.ttl,
        )

    @staticmethod
    def _renewed(held: Grant, wish: Wish, now: Moment) -> Grant:
        wall, boot = now.wall + wish.ttl, now.boot + wish.ttl
        if not wish.ttl_named:
            wall, boot = max(wall, held.expires_at), max(boot, held.boot_ends_at)
        return replace(
            held,
            mark=wish.key.mark,
            # A grant that used the right to open any address stays one that needs it.
            via=Via.REMOTE if Via.REMOTE in (held.via, wish.via) else wish.via,
            hosts=wish.key.hosts,
            last_knock_at=now.wall,
            expires_at=wall,
            boot_ends_at=boot,
        )

    def settle(self, grant: Grant) -> bool:
        """Make a planned grant count; False when it was closed, or planned anew, in the meantime."""
        owner = _owner(grant)
        if self._planned.get(owner) is not grant:
            return False
        del self._planned[owner]
        event = Event.EXTENDED if owner in self._grants else Event.OPENED
        key = self.keyring.named(grant.key) if grant.key is not None else None
        self._keep(replace(grant, hosts=key.hosts if key else None))
        self._tell(Change(event, grant))
        return True

    def abandon(self, grant: Grant) -> None:
        """Forget a planned grant that could not be stored."""
        owner = _owner(grant)
        if self._planned.get(owner) is grant:
            del self._planned[owner]

    def restore(self, grants: Iterable[Grant]) -> None:
        """Take in what was stored; nobody is told."""
        for grant in grants:
            self._keep(grant)

    def find(self, address: Address, host: str | None, now: Moment) -> tuple[Grant | None, Grant | None]:
        """The live grant that opens `host` to `address`, if any; else as second one whose scope lacks the host."""
        other = None
        for grants in self._at.covering(address):
            for grant in grants:
                if not grant.lives(now):
                    # Ending it here would change the tables under this very loop.
                    return self._find_after_ending(grants, address, host, now)
                if grant.hosts is None or host in grant.hosts:
                    return grant, None
                other = grant
        return None, other

    def _find_after_ending(
        self, grants: tuple[Grant, ...], address: Address, host: str | None, now: Moment
    ) -> tuple[Grant | None, Grant | None]:
        for grant in grants:
            if not grant.lives(now):
                self._end(grant, Event.EXPIRED)
        return self.find(address, host, now)

    def own(self, own: Own) -> list[Grant]:
        """The caller's own grants, those that are being stored among them."""
        held = [grant for grants in self._at.covering(own.address) for grant in grants]
        return [grant for grant in (*held, *self._planned.values()) if own.holds(grant.key, grant.via, grant.network)]

    def close(self, grants: Iterable[Grant], why: str = "") -> int:
        """End grants at once, also planned ones; returns how many there were."""
        return sum(self._end(grant, Event.CLOSED, why) for grant in grants)

    def expire(self, now: Moment) -> int:
        """End every grant whose time is over; returns how many."""
        ended = [grant for grant in self._grants.values() if not grant.lives(now)]
        return sum(self._end(grant, Event.EXPIRED) for grant in ended)

    def rekey(self, keyring: Keyring) -> None:
        """Let a new set of keys count, also for what they granted before (contract 3.6, last paragraph)."""
        self.keyring = keyring
        for grant in (*self._planned.values(), *self._grants.values()):
            key = keyring.named(grant.key) if grant.key is not None else None
            why = lost_right(grant, key)
            if why:
                self._end(grant, Event.CLOSED, why)
            elif key is not None and key.hosts != grant.hosts and self._grants.get(_owner(grant)) is grant:
                self._keep(replace(grant, hosts=key.hosts))

    def _keep(self, grant: Grant) -> None:
        owner = _owner(grant)
        held = self._grants.get(owner)
        beside = tuple(other for other in self._at.get(grant.network) or () if other is not held)
        self._grants[owner] = grant
        self._at.put(grant.network, (*beside, grant))

    def _end(self, grant: Grant, event: Event, why: str = "") -> bool:
        owner = _owner(grant)
        # A knock that is being stored outlives the end of the grant that it renews.
        planned = self._planned.pop(owner, None) if event is Event.CLOSED else None
        held = self._grants.pop(owner, None)
        if held is not None:
            beside = tuple(other for other in self._at.get(grant.network) or () if other is not held)
            if beside:
                self._at.put(grant.network, beside)
            else:
                self._at.pop(grant.network)
        if held or planned:
            self._tell(Change(event, held or planned or grant, why))
        return bool(held or planned)

    def _tell(self, change: Change) -> None:
        for follower in self.followers:
            follower(change)


def lost_right(grant: Grant, key: Key | None) -> str:
    """Why a grant may not outlive a change of the keys, or an empty text where it may."""
    if grant.key is None:
        return ""
    if key is None:
        return "its key is no longer in api_keys"
    if key.mark != grant.mark:
        return "its key has another secret now"
    if grant.via is Via.REMOTE and not key.admin:
        return "its key lost allow_remote_whitelist"
    return ""
