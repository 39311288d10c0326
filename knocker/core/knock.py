"""What a knock may ask for: its body, and the addresses that nobody may open (contract 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from knocker.core import strictjson
from knocker.core.addresses import EMBEDDING, LINK_LOCAL, LOOPBACK, NOBODY, WIDEST, Address, Network, Networks
from knocker.core.refusals import Refusal, Refused


@dataclass(frozen=True, slots=True)
class Body:
    """A knock's JSON: the address or network to open instead of the own one, and the seconds asked for."""

    network: Network | None = None
    ttl: int | None = None

    @classmethod
    def parse(cls, data: bytes) -> Body:
        """Read a body, empty or a JSON object with `ip_address` and `ttl`; raises Refused."""
        if not data:
            return cls()
        members = _object(data)
        if set(members) - {"ip_address", "ttl"}:
            raise Refused(Refusal.INVALID_DATA)
        return cls(_network(members.get("ip_address")), _ttl(members.get("ttl")))


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = strictjson.read(data)
    except ValueError:
        raise Refused(Refusal.MALFORMED) from None
    if not isinstance(value, dict):
        raise Refused(Refusal.NOT_AN_OBJECT)
    return value


def _ttl(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value <= 0:
        raise Refused(Refusal.INVALID_TTL)
    return value


def _network(value: object) -> Network | None:
    if value is None:
        return None
    try:
        if not isinstance(value, str):
            raise ValueError("not a text")
        return Network.parse(value)
    except ValueError:
        raise Refused(Refusal.INVALID_ADDRESS) from None


@dataclass(frozen=True, slots=True)
class Forbidden:
    """The addresses that are never granted, each set with the words that explain it to the admin.

    `trusted`, `shared`: the settings; `own`, `gateways`: this host's addresses and default gateways.
    """

    trusted: Networks = Networks()
    shared: Networks = Networks()
    own: Networks = Networks()
    gateways: Networks = Networks()
    allow_loopback: bool = False

    def why(self, network: Network) -> str:
        """Why `network` may not be granted, or an empty text (the address row of contract 3.3)."""
        return self.never(network) or self.now(network)

    def never(self, network: Network) -> str:
        """Why no settings would let `network` be granted, or an empty text."""
        if not _NEVER.overlapping(network):
            return ""
        if self.allow_loopback and LOOPBACK.overlapping(network):
            return "" if network.single else "it holds loopback addresses"
        for members, words in (
            (NOBODY, "it holds unspecified, multicast or broadcast addresses"),
            (LOOPBACK, "it is on the loopback; server.allow_loopback_clients allows that for trying things out"),
            (LINK_LOCAL, "it is link-local: it says nothing about who is behind it"),
        ):
            if members.overlapping(network):
                return words
        return ""

    def now(self, network: Network) -> str:
        """Why the settings and surroundings of today keep `network` from being granted, or an empty text."""
        if self.allow_loopback and LOOPBACK.overlapping(network):
            return ""
        for members, words in (
            (self.trusted, "it belongs to server.trusted_proxies: everybody behind the proxy would be let in"),
            (self.shared, "it belongs to server.shared_addresses: many people appear behind it"),
            (self.own, "it is this host's own address"),
            (self.gateways, _GATEWAY),
        ):
            if members.overlapping(network):
                return words
        return ""

    def check_client(self, client: Address) -> None:
        """Whether a knock may come from `client` at all (the client row of contract 3.3); raises Refused."""
        why = self.why(client.network)
        if why:
            raise Refused(Refusal.NO_CLIENT, f"the client {client} cannot be granted: {why}")

    def around(self, client: Address, ipv6_prefix: int) -> Network:
        """What a knock for the own address opens: widened to the key's IPv6 prefix where the rules allow it."""
        if client.bits == 128 and ipv6_prefix < 128:
            wide = client.widened(ipv6_prefix)
            if not self.why(wide) and not too_broad(wide):
                return wide
        return client.network

    def check(self, network: Network) -> None:
        """Whether an admin may open `network`; raises Refused."""
        why = self.why(network)
        if why:
            raise Refused(Refusal.INVALID_ADDRESS, f"{network} cannot be granted: {why}")
        if too_broad(network):
            raise Refused(Refusal.TOO_BROAD, f"{network} is wider than /16 or /48, or embeds IPv4 addresses")


_NEVER = NOBODY | LOOPBACK | LINK_LOCAL
_GATEWAY = (
    "it is this host's default gateway, so the proxy does not see its clients' own addresses"
    " (with Docker often the userland-proxy or a masquerading network)"
)


def too_broad(network: Network) -> bool:
    """Whether a network is wider than /16 or /48, or stands for IPv4 addresses of its sender's choice."""
    return network.prefix < WIDEST[network.bits] or EMBEDDING.overlapping(network)
