"""This host's own addresses and its default gateways: nobody is let in as one of them (contract 3.3).

A proxy that cannot see its clients' addresses, as behind Docker's userland-proxy, often shows the gateway's
or the host's instead; a grant for that would let everybody in.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

import ifaddr

from knocker.core.addresses import Address, Network, Networks

FRESH_FOR = 60.0  # seconds; addresses come and go with leases


class Surroundings:
    """The addresses around this host, read again when they are older than a minute."""

    def __init__(self, seconds: Callable[[], float], read: Callable[[], tuple[Networks, Networks]]) -> None:
        self._seconds = seconds
        self._read = read
        self._known: tuple[Networks, Networks] | None = None
        self._read_at = 0.0

    def __call__(self) -> tuple[Networks, Networks]:
        """This host's own addresses, and its default gateways."""
        now = self._seconds()
        if self._known is None or now - self._read_at >= FRESH_FOR:
            self._known, self._read_at = self._read(), now
        return self._known


def read_surroundings() -> tuple[Networks, Networks]:
    """Ask the system; what it does not tell is left out."""
    return Networks(_own()), Networks((*_gateways4(), *_gateways6()))


def _own() -> Iterator[Network]:
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            yield Address.parse(text.partition("%")[0]).network


def _gateways4() -> Iterator[Network]:
    for fields in _table("/proc/net/route"):
        if len(fields) > 2 and fields[1] == "00000000" and fields[2] != "00000000":
            # The kernel prints the word as the machine stores it.
            yield Address.parse(socket.inet_ntoa(struct.pack("=I", int(fields[2], 16)))).network


def _gateways6() -> Iterator[Network]:
    for fields in _table("/proc/net/ipv6_route"):
        if len(fields) > 4 and fields[:2] == ["0" * 32, "00"] and fields[4] != "0" * 32:
            yield Address.parse(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[4]))).network


def _table(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="ascii") as file:
            return [line.split() for line in file]
    except (OSError, ValueError):
        return []
