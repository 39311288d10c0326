"""This host's own addresses and gateways."""

from __future__ import annotations

from knocker.core.addresses import Address, Networks, networks
from knocker.surroundings import FRESH_FOR, Surroundings, read_surroundings


def test_the_loopback_addresses_are_this_hosts_own() -> None:
    own, _ = read_surroundings()
    assert Address.parse("127.0.0.1") in own


def test_what_was_read_is_used_for_a_minute() -> None:
    time = [0.0]
    reads: list[float] = []

    def read() -> tuple[Networks, Networks]:
        reads.append(time[0])
        return networks(f"10.0.0.{len(reads)}"), Networks()

    surroundings = Surroundings(lambda: time[0], read)
    for second in (0.0, 1.0, FRESH_FOR - 1, FRESH_FOR, FRESH_FOR + 1):
        time[0] = second
        own, _ = surroundings()
    assert reads == [0.0, FRESH_FOR]
    assert Address.parse("10.0.0.2") in own
