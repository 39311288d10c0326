"""A silent knock on its way: the packet for each address family, and several copies of it (contract 4, 5).

Datagrams get lost, and nobody answers them, so each goes out three times; the gate takes the first that arrives.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from secrets import token_bytes

from knocker.client import Candidate, own_address
from knocker.core.addresses import Address, Network
from knocker.core.keys import udp_secret
from knocker.core.packets.native import NO_SCOPE, Knock, Secrets, encode
from knocker.faults import NO_ANSWER, Failed

AT = (0.0, 0.15, 0.6)  # seconds after the first copy


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a packet shall say, whichever family it goes out over; `network` None is the own address."""

    network: Network | None = None
    ttl: int = 0
    scope: bytes = NO_SCOPE
    revoke: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """A packet that went out: to which address, and for whom."""

    to: str
    entry: str


def make_packet(key: str, realm: str, wanted: Wanted, own: Address | None, now: float) -> bytes:
    """One packet, made at the Unix second `now` for a sender with the address `own`, None where it is not known.

    A sender with an address that is its own in the whole world binds the packet to it, so that whoever catches the
    packet on its way can do nothing with it from elsewhere.
    """
    knock = Knock(round(now * 1000), token_bytes(16), wanted.network, False, wanted.revoke, wanted.ttl, wanted.scope)
    if wanted.network is None and own is not None and ipaddress.ip_address(str(own)).is_global:
        knock = replace(knock, network=own.network, bound=True)
    return encode(Secrets.of(udp_secret(key), realm), knock)


def send(
    candidate: Candidate, key: str, realm: str, wanted: Wanted, sleep: Callable[[float], None] = time.sleep
) -> Sent:
    """Send one packet's copies; raises Failed where not even the first could be sent."""
    own = own_address(candidate)
    packet = make_packet(key, realm, wanted, own, time.time())
    sent, error, passed = 0, None, 0.0
    try:
        out = socket.socket(candidate.family, socket.SOCK_DGRAM)
    except OSError as failed:
        raise Failed(NO_ANSWER, f"nothing can be sent to {candidate.address[0]}: {failed.strerror or failed}") from None
    with out:
        for moment in AT:
            sleep(moment - passed)
            passed = moment
            try:
                out.sendto(packet, candidate.address)
                sent += 1
            except OSError as failed:
                error = failed
    if not sent and error is not None:
        raise Failed(NO_ANSWER, f"nothing could be sent to {candidate.address[0]}: {error.strerror or error}")
    return Sent(str(candidate.address[0]), str(wanted.network or own or "the own address"))
