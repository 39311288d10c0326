"""The gate: may this request pass, and may this knock open."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from knocker.core.addresses import Address, Networks
from knocker.core.grant import Via, Wish
from knocker.core.keys import Key, Keyring
from knocker.core.knock import Body, Forbidden
from knocker.core.moment import Moment
from knocker.core.paths import Exclusions
from knocker.core.refusals import Refusal, Refused
from knocker.core.visitor import Peer, believes
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


class Cause(Enum):
    """What decided a verdict."""

    ALWAYS_ALLOWED = "always_allowed"
    GRANT = "grant"
    EXCLUDED_PATH = "excluded_path"
    NO_GRANT = "no_grant"
    OUT_OF_SCOPE = "out_of_scope"
    NO_CLIENT = "no_client"
    ERROR = "error"


_ALLOWING = frozenset({Cause.ALWAYS_ALLOWED, Cause.GRANT, Cause.EXCLUDED_PATH})


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one /verify."""

    cause: Cause

    @property
    def allowed(self) -> bool:
        """Whether the request may pass."""
        return self.cause in _ALLOWING


_VERDICTS = {cause: Verdict(cause) for cause in Cause}


class Gate:
    """Decides by the policy and the whitelist, and changes neither."""

    def __init__(self, policy: Policy, whitelist: Whitelist) -> None:
        self.policy = policy
        self.whitelist = whitelist

    def verdict(self, client: Address | None, host: str | None, path: str | None, now: Moment) -> Verdict:
        """Whether `client` may ask `host` for `path` (contract 3.2); None is what is not known for sure."""
        denial = Cause.NO_CLIENT
        if client is not None:
            if client in self.policy.always_allowed:
                return _VERDICTS[Cause.ALWAYS_ALLOWED]
            opening, other = self.whitelist.find(client, host, now)
            if opening is not None:
                return _VERDICTS[Cause.GRANT]
            denial = Cause.OUT_OF_SCOPE if other is not None else Cause.NO_GRANT
        if path is not None and self.policy.exclusions.cover(path, host) is not None:
            return _VERDICTS[Cause.EXCLUDED_PATH]
        return _VERDICTS[denial]

    def holds_grant(self, client: Address, now: Moment) -> bool:
        """Whether any live grant opens anything to `client`."""
        return self.whitelist.find(client, None, now) != (None, None)

    def key(self, lines: list[bytes], now: Moment) -> Key:
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
