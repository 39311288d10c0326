"""The gate: may this request pass, and may this knock open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from knocker.core.addresses import Address, Networks
from knocker.core.explain import Told
from knocker.core.grant import Via, Wish
from knocker.core.keys import Key, Keyring
from knocker.core.knock import Body, Forbidden
from knocker.core.moment import Moment
from knocker.core.paths import Exclusions
from knocker.core.refusals import Refusal, Refused
from knocker.core.visitor import Peer, Unresolved, believes, direct, resolve
from knocker.core.whitelist import Whitelist


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings say about who may enter; replaced as a whole at a reload."""

    keyring: Keyring
    trusted: Networks = Networks()
    shared: Networks = Networks()
    always_allowed: Networks = Networks()
    exclusions: Exclusions = Exclusions()
    allow_loopback: bool = False
    trusts_unix: bool = False

    def believes(self, peer: Peer) -> bool:
        """Whether `peer` is a proxy of ours."""
        return believes(peer, self.trusted, self.trusts_unix)

    def client(self, peer: Peer, believed: bool, chain: Sequence[bytes], forged: bool) -> Address | Unresolved:
        """Who a request is of, or why that cannot be told (contract 3.1).

        `chain`: its X-Forwarded-For lines, which count where `believed`; `forged`: it has a header that only a
        proxy sends, which counts where not.
        """
        return resolve(chain, self.trusted, self.allow_loopback) if believed else direct(peer, forged)


class Verdict(Enum):
    """The answer to one /verify, by what decided it."""

    ALWAYS_ALLOWED = "allow", "always_allowed"
    GRANT = "allow", "grant"
    EXCLUDED_PATH = "allow", "excluded_path"
    NO_GRANT = "deny", "no_grant"
    OUT_OF_SCOPE = "deny", "out_of_scope"
    NO_CLIENT = "deny", "no_client"
    ERROR = "deny", "error"

    def __init__(self, outcome: str, cause: str) -> None:
        # Plain attributes: an Enum's own `value` is looked up by a function of Python's.
        self.label = outcome, cause
        self.allowed = outcome == "allow"


# Nearly every request ends with one of these, and an Enum's attribute is dear.
_GRANT, _NO_GRANT, _OUT_OF_SCOPE = Verdict.GRANT, Verdict.NO_GRANT, Verdict.OUT_OF_SCOPE


class Hosted(Protocol):
    """Whatever was asked of a host, which is looked at only where it matters. None is what is not known for sure."""

    @property
    def host(self) -> str | None:
        """The host, as hosts.read_host reads it."""


class Asked(Hosted, Protocol):
    """What a client asked its proxy for."""

    @property
    def path(self) -> str | None:
        """The path, as paths.asked_path reads it."""


class Gate:
    """Decides by the policy and the whitelist, and changes neither."""

    def __init__(self, policy: Policy, whitelist: Whitelist) -> None:
        self.policy = policy
        self.whitelist = whitelist

    def verdict(self, client: Address | None, asked: Asked, now: Moment, told: Told | None = None) -> Verdict:
        """Whether `client` may have what it asked for (contract 3.2); None is one that is not known for sure.

        `told` is told each step, for whoever wants to know why.
        """
        policy = self.policy
        if client is None:
            denial = Verdict.NO_CLIENT
            if told is not None:
                told.no_client()
        elif policy.always_allowed.members and client in policy.always_allowed:
            if told is not None:
                told.always(client, policy.always_allowed, allowed=True)
            return Verdict.ALWAYS_ALLOWED
        else:
            denial = _NO_GRANT
            if told is not None:
                told.always(client, policy.always_allowed, allowed=False)
            for grant in self.whitelist.live(client, now):
                opens = grant.hosts is None or asked.host in grant.hosts
                if told is not None:
                    told.grant(grant, asked.host, opens, now)
                if opens:
                    return _GRANT
                denial = _OUT_OF_SCOPE
            if told is not None and denial is _NO_GRANT:
                told.no_grant(client)
        return self._by_path(asked, told) or denial

    def _by_path(self, asked: Asked, told: Told | None) -> Verdict | None:
        """Whether the path is open to everybody."""
        exclusions = self.policy.exclusions
        if not exclusions:
            if told is not None:
                told.no_path()
            return None
        path = asked.path
        entry = exclusions.cover(path, asked.host) if path is not None else None
        if told is not None:
            told.path(path, entry)
        return Verdict.EXCLUDED_PATH if entry is not None else None

    def holds_grant(self, client: Address, now: Moment) -> bool:
        """Whether any live grant opens anything to `client`."""
        return bool(self.whitelist.live(client, now))

    def key(self, lines: Sequence[bytes], now: Moment) -> Key:
        """The key that the X-Api-Key lines present; raises Refused."""
        key = self.policy.keyring.find(lines)
        if key is None:
            raise Refused(Refusal.BAD_KEY, "X-Api-Key is missing, repeated or unknown")
        if key.is_over(now.wall):
            raise Refused(Refusal.BAD_KEY, f"the key {key.name} has expired: see its `expires` in api_keys")
        return key

    def knock(self, client: Address, key: Key, body: Body, forbidden: Forbidden) -> Wish:
        """What this knock may leave (contract 3.3, from the body's addresses on); raises Refused."""
        via = Via.HTTP
        if body.network is not None:
            forbidden.check(body.network)
            if not key.admin:
                raise Refused(Refusal.NO_PERMISSION, f"the key {key.name} names an ip_address without the permission")
            network, via = body.network, Via.REMOTE
        else:
            network = forbidden.around(client, key.ipv6_prefix)
        return Wish(network, key, via, key.granted_ttl(body.ttl), body.ttl is not None)

    def forbidden(self, own: Networks, gateways: Networks) -> Forbidden:
        """What is never granted on this host."""
        policy = self.policy
        return Forbidden(policy.trusted, policy.shared, own, gateways, policy.allow_loopback)
