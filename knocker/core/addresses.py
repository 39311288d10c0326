"""IP addresses and networks in one canonical form, and sets of networks that are looked up by prefix length.

Every address of the product passes through here once, at the door. An IPv4 address that is written as an
IPv4-mapped IPv6 one (``::ffff:1.2.3.4``) is the IPv4 address everywhere; no other mapping is undone
(contract 3.1), since 6to4, Teredo and NAT64 let the sender choose what is embedded.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

MAPPED = 0xFFFF  # the upper 96 bits of ::ffff:0:0/96, RFC 4291 2.5.5.2


class Extent(Protocol):
    """Whatever has the extent of a network: itself, or a record about one."""

    @property
    def bits(self) -> int:
        """As of Network."""

    @property
    def base(self) -> int:
        """As of Network."""

    @property
    def prefix(self) -> int:
        """As of Network."""


@dataclass(slots=True, order=True, unsafe_hash=True)  # as good as frozen, which would double the time to make one
class Address:
    """One host: `bits` is 32 or 128, `value` the address as a number. Nobody changes one."""

    bits: int
    value: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read one address without prefix, port or zone; raises ValueError for anything else."""
        if ":" in text:
            return _unmapped(_ipv6(text))
        try:
            return cls(32, int.from_bytes(inet_pton(AF_INET, text), "big"))
        except (OSError, ValueError):  # ValueError: a NUL, or what is not ASCII
            raise ValueError("not an IPv4 address") from None

    def __str__(self) -> str:
        """The text of RFC 5952."""
        value = self.value
        if self.bits == 32:
            return inet_ntop(AF_INET, value.to_bytes(4, "big"))
        if value >> 32 == 0:  # in which C libraries still see an IPv4 address
            return str(ipaddress.IPv6Address(value))
        return inet_ntop(AF_INET6, value.to_bytes(16, "big"))

    @property
    def network(self) -> Network:
        """The network that holds this address alone."""
        return Network(self.bits, self.value, self.bits)

    def widened(self, prefix: int) -> Network:
        """The network of `prefix` bits around this address."""
        return Network(self.bits, _masked(self.bits, self.value, prefix), prefix)


@dataclass(frozen=True, slots=True, order=True)
class Network:
    """All addresses that share `prefix` leading bits with `base`, whose other bits are zero."""

    bits: int
    base: int
    prefix: int

    @classmethod
    def parse(cls, text: str) -> Network:
        """Read ``address`` or ``address/prefix``; host bits are masked off (contract 3.3).

        Raises ValueError for netmasks, zones, leading zeros and anything else.
        """
        head, slash, tail = text.partition("/")
        if not slash:
            return Address.parse(head).network
        if not (tail.isascii() and tail.isdigit()) or str(int(tail)) != tail:
            raise ValueError("a prefix length that is not a plain number")
        prefix = int(tail)
        if ":" in head:
            value, bits = _ipv6(head), 128
            if value >> 32 == MAPPED and 96 <= prefix <= 128:
                value, bits, prefix = value & 0xFFFFFFFF, 32, prefix - 96
        else:
            address = Address.parse(head)
            value, bits = address.value, address.bits
        if prefix > bits:
            raise ValueError("a prefix length beyond the address")
        return cls(bits, _masked(bits, value, prefix), prefix)

    def __str__(self) -> str:
        """``1.2.3.4`` for a single address, ``10.0.0.0/24`` for more."""
        host = str(Address(self.bits, self.base))
        return host if self.single else f"{host}/{self.prefix}"

    @property
    def parts(self) -> tuple[int, int, int]:
        """Bits, base and prefix."""
        return self.bits, self.base, self.prefix

    @property
    def single(self) -> bool:
        """Whether this is one address alone."""
        return self.prefix == self.bits

    def __contains__(self, address: Address) -> bool:
        """Whether `address` lies inside."""
        return self.bits == address.bits and (address.value ^ self.base) >> (self.bits - self.prefix) == 0

    def overlaps(self, other: Network) -> bool:
        """Whether the two share an address."""
        shift = self.bits - min(self.prefix, other.prefix)
        return self.bits == other.bits and (self.base ^ other.base) >> shift == 0


def _ipv6(text: str) -> int:
    """The number of an address as RFC 4291 2.2 writes it, without a zone (which some C libraries would take)."""
    try:
        if "%" in text:
            raise ValueError("an address with a zone")
        return int.from_bytes(inet_pton(AF_INET6, text), "big")
    except (OSError, ValueError):  # ValueError: a NUL, or what is not ASCII
        raise ValueError("not an IPv6 address") from None


def _unmapped(value: int) -> Address:
    return Address(32, value & 0xFFFFFFFF) if value >> 32 == MAPPED else Address(128, value)


def _masked(bits: int, value: int, prefix: int) -> int:
    return value >> (bits - prefix) << (bits - prefix)


class NetworkMap(Generic[T]):
    """Values by network, several for one if need be; what covers an address is found with one look-up a prefix length.

    A lone value stands in the table itself and only several are a tuple, since nearly all are alone and a
    tuple for each would be a sixth of the memory. So no value may be a tuple.
    """

    def __init__(self) -> None:
        self._tables: dict[int, dict[int, dict[int, T | tuple[T, ...]]]] = {32: {}, 128: {}}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """All values; the map may not change meanwhile."""
        for tables in self._tables.values():
            for table in tables.values():
                for found in table.values():
                    if isinstance(found, tuple):
                        yield from found
                    else:
                        yield found

    def parts(self, size: int) -> Iterator[list[T]]:
        """All values, about so many at a time; the map may change meanwhile, and what came then may be missed."""
        for table in [table for tables in self._tables.values() for table in tables.values()]:
            values = list(table.values())
            for start in range(0, len(values), size):
                part: list[T] = []
                for found in values[start : start + size]:
                    part.extend(found if isinstance(found, tuple) else (found,))
                yield part

    def at(self, extent: Extent) -> tuple[T, ...]:
        """The values of exactly this network."""
        shift, index = _place(extent)
        found = self._tables[extent.bits].get(shift, {}).get(index)
        if found is None:
            return ()
        return found if isinstance(found, tuple) else (found,)

    def add(self, extent: Extent, value: T) -> None:
        """One more value for exactly this network."""
        shift, index = _place(extent)
        table = self._tables[extent.bits].setdefault(shift, {})
        if index in table:
            table[index] = (*self.at(extent), value)
        else:
            table[index] = value
        self._count += 1

    def discard(self, extent: Extent, value: T) -> None:
        """Forget this very value of this network; one that is not there is no error."""
        found = self.at(extent)
        rest = tuple(other for other in found if other is not value)
        self._count -= len(found) - len(rest)
        if not found:
            return
        shift, index = _place(extent)
        tables = self._tables[extent.bits]
        if rest:
            tables[shift][index] = rest[0] if len(rest) == 1 else rest
        else:
            del tables[shift][index]
            if not tables[shift]:
                del tables[shift]

    def indices(self, bits: int) -> list[tuple[int, frozenset[int]]]:
        """The networks of one family as they are now: for each number of free bits the values of the others."""
        return [(shift, frozenset(table)) for shift, table in self._tables[bits].items()]

    def covering(self, address: Address) -> list[T]:
        """The values of all networks that hold `address`."""
        covering: list[T] = []
        value = address.value
        for shift, table in self._tables[address.bits].items():
            found = table.get(value >> shift)
            if found is None:
                continue
            if isinstance(found, tuple):
                covering.extend(found)
            else:
                covering.append(found)
        return covering

    def touches(self, extent: Extent) -> bool:
        """Whether anything stands here for a network that shares an address with this one."""
        free, base = extent.bits - extent.prefix, extent.base
        for shift, table in self._tables[extent.bits].items():
            if base >> shift in table:
                return True
            if shift < free and any(index >> (free - shift) == base >> free for index in table):
                return True
        return False


def _place(extent: Extent) -> tuple[int, int]:
    """The number of free bits, and the others as a number: an address's own one, since a shift by 0 would copy it."""
    shift = extent.bits - extent.prefix
    return shift, extent.base >> shift if shift else extent.base


class Networks:
    """A fixed set of networks."""

    def __init__(self, members: Iterable[Network] = ()) -> None:
        self.members = tuple(members)
        self._map: NetworkMap[Network] = NetworkMap()
        for network in self.members:
            self._map.add(network, network)
        self._indices = {bits: self._map.indices(bits) for bits in (32, 128)}

    def __contains__(self, address: Address) -> bool:
        """Whether any member holds `address`."""
        value = address.value
        for shift, known in self._indices[address.bits]:  # noqa: SIM110 - a generator takes thrice the time
            if value >> shift in known:
                return True
        return False

    def overlapping(self, extent: Extent) -> bool:
        """Whether any member shares an address with this network."""
        return self._map.touches(extent)

    def __or__(self, other: Networks) -> Networks:
        """Both sets in one."""
        return Networks(self.members + other.members)


def networks(*texts: str) -> Networks:
    """A set from its texts, for the constants of the product."""
    return Networks(Network.parse(text) for text in texts)


LOOPBACK = networks("127.0.0.0/8", "::1")
LINK_LOCAL = networks("169.254.0.0/16", "fe80::/10")
# Nobody can be asking from these: RFC 1122 3.2.1.3, RFC 4291 2.5.2 and 2.7, RFC 919.
NOBODY = networks("0.0.0.0", "::", "224.0.0.0/4", "ff00::/8", "255.255.255.255")  # noqa: S104
ALL_MAPPED = Network(128, MAPPED << 32, 96)
# IPv6 that stands for chosen IPv4 addresses: mapped, NAT64 (RFC 6052, 8215), 6to4, Teredo, compatible.
EMBEDDING = Networks(
    (
        ALL_MAPPED,
        *networks("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96").members,
    )
)
WIDEST = {32: 16, 128: 48}  # the shortest prefix that a grant may have, contract 3.3
