"""Whose address a socket tells."""

from __future__ import annotations

import pytest
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress

from knocker.core.addresses import Address
from knocker.core.visitor import Nameless
from knocker.listen.request import NOBODY, peer_of


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (IPv4Address("TCP", "203.0.113.7", 1), Address.parse("203.0.113.7")),
        (IPv6Address("TCP", "2001:db8::7", 1), Address.parse("2001:db8::7")),
        (IPv6Address("TCP", "::ffff:203.0.113.7", 1), Address.parse("203.0.113.7")),
        (IPv6Address("TCP", "fe80::7%eth0", 1), Address.parse("fe80::7")),
        (UNIXAddress(None), Nameless.UNIX),
        (HostnameAddress(b"localhost", 1), NOBODY),
        (None, NOBODY),
    ],
    ids=str,
)
def test_who_is_at_the_other_end(peer: object, expected: object) -> None:
    assert peer_of(peer) == expected
