"""What a packet may open or close, once it is known whose it is and that it is new (contract 4, 3.3)."""

from __future__ import annotations

from knocker.core.addresses import Address
from knocker.core.grant import Choice, Exactly, Own, Via, Wish
from knocker.core.keys import Key
from knocker.core.knock import Forbidden
from knocker.core.packets.native import NO_SCOPE, Knock, scope_of
from knocker.core.refusals import Refusal, Refused


def meaning(knock: Knock, source: Address, key: Key, forbidden: Forbidden) -> Wish | Choice:
    """The grant that a packet from `source` wishes, or those that it closes; raises Refused.

    A packet that names exactly the address that it comes from is a knock for that, and opens what any other knock
    from there opens.
    """
    forbidden.check_client(source)
    named = knock.network
    if named is not None and knock.bound and source not in named:
        raise Refused(Refusal.NO_CLIENT, f"the packet counts only from inside {named}, and it came from {source}")
    if named is None or named == source.network:
        if knock.revoke:
            return Own(key, source)
        return _wish(knock, key, Wish(forbidden.around(source, key.ipv6_prefix), key, Via.UDP, 0))
    forbidden.check(named)
    own = source in named and named.prefix >= (key.ipv6_prefix if named.bits == 128 else 32)
    if not own and not key.admin:
        raise Refused(Refusal.NO_PERMISSION, f"the key {key.name} names {named} without the permission")
    if knock.revoke:
        return Exactly(key, named)
    return _wish(knock, key, Wish(named, key, Via.UDP if own else Via.REMOTE, 0))


def _wish(knock: Knock, key: Key, wish: Wish) -> Wish:
    asked = knock.ttl or None
    return Wish(wish.network, key, wish.via, key.granted_ttl(asked), asked is not None, _host(knock, key), True)


def _host(knock: Knock, key: Key) -> str | None:
    """The one host that a packet names, out of the key's literal ones."""
    if knock.scope == NO_SCOPE:
        return None
    for name in key.hosts.names if key.hosts is not None else ():
        if scope_of(name) == knock.scope:
            return name
    raise Refused(Refusal.NO_PERMISSION, f"the packet names a host that is no literal entry of the hosts of {key.name}")
