"""Grants: what a knock wishes, the record that it leaves, and whether that record still fits the settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from knocker.core.addresses import Address, Network
from knocker.core.hosts import Scope
from knocker.core.keys import Key, Keyring
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment


class Via(Enum):
    """How a grant came to be: a knock for the own address, an admin's for any, a datagram, an older file."""

    HTTP = "http"
    REMOTE = "remote"
    UDP = "udp"
    FILE = "file"

    @property
    def own(self) -> bool:
        """Whether it came of a knock for the sender's own address."""
        return self in (Via.HTTP, Via.UDP)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a knock asks for once every rule let it pass. `ttl_named`: it named its `ttl` (seconds) itself.

    `host`: the one host of the key's that it is for, None for all of them. `packet`: it came as one, so that it
    needs a key that may make them.
    """

    network: Network
    key: Key
    via: Via
    ttl: int
    ttl_named: bool = False
    host: str | None = None
    packet: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """The record that a knock leaves. Times are wall-clock seconds, `boot_ends_at` seconds of boot time.

    `key` is the owner's name, None for an entry of an older file; `mark` remembers the owner's secret. `bits`,
    `base` and `prefix` are those of its network: an object more for each grant would be an eighth of the memory.
    """

    id: str
    bits: int
    base: int
    prefix: int
    key: str | None
    mark: str
    via: Via
    hosts: Scope | None
    created_at: float
    last_knock_at: float
    expires_at: float
    boot_ends_at: float

    @property
    def network(self) -> Network:
        """What it opens."""
        return Network(self.bits, self.base, self.prefix)

    @property
    def host(self) -> str | None:
        """The one host that its knock chose, None where it opens all of its key's."""
        return self.hosts.one if self.hosts is not None else None

    def lives(self, now: Moment) -> bool:
        """Whether neither clock has reached its end."""
        return now.wall < self.expires_at and now.boot < self.boot_ends_at

    def seconds_left(self, now: Moment) -> int:
        """Whole seconds until the nearer of its two ends, rounded to the nearest."""
        return max(0, round(min(self.expires_at - now.wall, self.boot_ends_at - now.boot)))

    def shown_end(self, now: Moment) -> int:
        """The wall-clock second of that end, as answers tell it."""
        return int(min(self.expires_at, now.wall + self.seconds_left(now)))


def first(grant_id: str, wish: Wish, key: Key, now: Moment) -> Grant:
    """What a knock leaves where its key has no grant for that yet."""
    lasting = key.lasting(wish.ttl, now.wall)
    return Grant(
        grant_id,
        *wish.network.parts,
        key=key.name,
        mark=_mark(wish, key),
        via=wish.via,
        hosts=_hosts(wish, key),
        created_at=now.wall,
        last_knock_at=now.wall,
        expires_at=now.wall + lasting,
        boot_ends_at=now.boot + lasting,
    )


def renewed(held: Grant, wish: Wish, key: Key, now: Moment) -> Grant:
    """What it leaves of the key's own grant; only a knock that names its ttl shortens that (contract 3.3)."""
    lasting = key.lasting(wish.ttl, now.wall)
    wall, boot = now.wall + lasting, now.boot + lasting
    if not wish.ttl_named:
        wall, boot = max(wall, held.expires_at), max(boot, held.boot_ends_at)
    return replace(
        held,
        mark=_mark(wish, key),
        # A grant that used the right to open any address stays one that needs it.
        via=Via.REMOTE if Via.REMOTE in (held.via, wish.via) else wish.via,
        hosts=_hosts(wish, key),
        last_knock_at=now.wall,
        expires_at=wall,
        boot_ends_at=boot,
    )


def _mark(wish: Wish, key: Key) -> str:
    if wish.packet:
        return key.udp_mark or ""
    return key.mark


def _hosts(wish: Wish, key: Key) -> Scope | None:
    return key.hosts if wish.host is None else Scope.of_one(wish.host)


@dataclass(frozen=True, slots=True)
class Own:
    """What DELETE /knock closes: all that this key's knocks from `address` left, or would leave.

    An admin's grant is its own where it is for exactly this address.
    """

    key: Key
    address: Address

    def holds(self, key: str | None, via: Via, network: Network, host: str | None = None) -> bool:
        """Whether a grant or a wish like this is the caller's own, for whichever host."""
        if key != self.key.name or self.address not in network:
            return False
        wide = self.address.widened(self.key.ipv6_prefix if self.address.bits == 128 else 32)
        return via.own or network in (self.address.network, wide)


@dataclass(frozen=True, slots=True)
class Exactly:
    """What a packet closes that names a network: all that this key has for exactly that, for whichever host."""

    key: Key
    network: Network

    @property
    def address(self) -> Address:
        """An address that such a grant opens."""
        return Address(self.network.bits, self.network.base)

    def holds(self, key: str | None, via: Via, network: Network, host: str | None = None) -> bool:
        """Whether a grant or a wish like this is meant."""
        return key == self.key.name and network == self.network


@dataclass(frozen=True, slots=True)
class One:
    """What DELETE /grants/{id} closes: one owner's grant for one network, and its knocks that still wait.

    `host`: the one that it was chosen for.
    """

    key: str | None
    network: Network
    host: str | None = None

    @property
    def address(self) -> Address:
        """An address that the grant opens."""
        return Address(self.network.bits, self.network.base)

    def holds(self, key: str | None, via: Via, network: Network, host: str | None = None) -> bool:
        """Whether a grant or a wish like this is meant."""
        return key == self.key and network == self.network and host == self.host


Choice = Own | Exactly | One


def objection(grant: Grant, key: Key | None, forbidden: Forbidden) -> str:
    """Why a grant may not outlive a change of the settings, or an empty text where it may (contract 3.6)."""
    return lost_right(grant, key) or forbidden.why(grant.network)


def lost_right(grant: Grant, key: Key | None) -> str:
    """Why the keys as they are now would not leave this grant, or an empty text where they would."""
    if grant.key is None:
        return ""
    if key is None:
        return "its key is no longer in api_keys"
    if grant.mark not in (key.mark, key.udp_mark):
        return "its key has another secret now, or may no longer knock over UDP"
    if grant.via is Via.REMOTE and not key.admin:
        return "its key lost allow_remote_whitelist"
    if grant.via.own and grant.prefix < (key.ipv6_prefix if grant.bits == 128 else 32):
        return "its key's ipv6_prefix opens less now"
    if grant.host is not None and key.hosts is not None and grant.host not in key.hosts.names:
        return f"its key's hosts no longer name {grant.host}"
    return ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a key's settings leave of its grants: the hosts that they open, and the latest end on either clock."""

    hosts: Scope | None
    wall: float
    boot: float

    @classmethod
    def of(cls, key: Key | None, keyring: Keyring, now: Moment) -> Bounds:
        """The bounds of the grants of `key`, or of entries without a key, from now on."""
        longest = key.max_ttl if key is not None else keyring.longest_ttl
        wall, boot = now.wall + longest, now.boot + longest
        if key is not None and key.expires is not None:
            wall, boot = min(wall, key.expires), min(boot, now.boot + key.expires - now.wall)
        return cls(key.hosts if key is not None else None, wall, boot)

    def fit(self, grant: Grant) -> Grant:
        """The grant within these bounds: itself where it is. A host that its knock chose stays chosen."""
        hosts = grant.hosts if grant.host is not None else self.hosts
        if grant.expires_at <= self.wall and grant.boot_ends_at <= self.boot and hosts == grant.hosts:
            return grant
        ends = min(grant.expires_at, self.wall), min(grant.boot_ends_at, self.boot)
        return replace(grant, hosts=hosts, expires_at=ends[0], boot_ends_at=ends[1])


def fitted(grant: Grant, keyring: Keyring, now: Moment) -> Grant:
    """The grant as its key's settings would have it: their hosts, and no longer than they allow from now on."""
    key = keyring.named(grant.key) if grant.key is not None else None
    return Bounds.of(key, keyring, now).fit(grant)
