"""What a scrape reads, and that it is what happened (contract 3.5)."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.address import IPv4Address

from knocker.listen.lane import LaneChannel
from knocker.listen.metrics import Metrics
from knocker.listen.site import GateSite
from tests.conftest import Errors
from tests.wire import Answer, Disk, Wire, World, answer, hang_up

CLIENT, STRANGER = "198.51.100.7", "198.51.100.9"
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Watched:
    """A world with a metrics port."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder, channel=LaneChannel)
        self.lag = 0.0
        self.site = GateSite(Metrics(self.world.house, lambda: self.lag), self.world.house, 8, self.world.clock)

    def ask(self, path: str = "/metrics", method: str = "GET") -> Answer:
        """One request to it."""
        wire = Wire(peerAddress=IPv4Address("TCP", "127.0.0.1", 40000))
        channel = self.site.buildProtocol(wire.getPeer())
        channel.makeConnection(wire)
        channel.dataReceived(f"{method} {path} HTTP/1.1\r\nHost: k\r\n\r\n".encode())
        self.world.clock.advance(0)
        hang_up(channel)
        return answer(wire.value())

    def series(self) -> Series:
        """All samples of a scrape."""
        text = self.ask().body.decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def verdicts(outcome: str, cause: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "knocker_verdicts_total", (("cause", cause), ("outcome", outcome))


def knocks(via: str, outcome: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "knocker_knocks_total", (("outcome", outcome), ("via", via))


def test_a_scrape_tells_what_happened(watched: Watched) -> None:
    world = watched.world
    world.knock(CLIENT)
    world.knock(CLIENT, key="wrong-key-0123456789")
    for client in (CLIENT, CLIENT, STRANGER, "192.0.2.7"):
        world.verdict(client)
    world.verdict("nonsense")
    world.send(b"nonsense\r\n\r\n")
    found = watched.series()
    assert found[verdicts("allow", "grant")] == 2
    assert found[verdicts("allow", "always_allowed")] == 1
    assert found[verdicts("deny", "no_grant")] == 1
    assert found[verdicts("deny", "no_client")] == 1
    assert found[verdicts("deny", "out_of_scope")] == 0, "what has not happened yet is told too"
    assert found[knocks("http", "granted")] == 1
    assert found[knocks("http", "bad_key")] == 1
    assert found["knocker_requests_dropped_total", (("reason", "http_400"),)] == 1
    assert found["knocker_grants", ()] == 1
    assert found["knocker_ready", ()] == 1
    assert found["knocker_store_write_seconds_count", ()] == 1
    assert found["knocker_store_write_seconds_bucket", (("le", "+Inf"),)] == 1
    assert found["knocker_store_failures_total", ()] == 0


def test_the_lane_and_the_channel_count_alike(tmp_path: Path) -> None:
    def counted(name: str, spoilt: str) -> Series:
        watched = Watched(tmp_path / name)
        watched.world.knock(CLIENT)
        for client in (CLIENT, STRANGER, "nonsense"):
            watched.world.ask("/verify", client, headers=[("Expect", spoilt)] if spoilt else [])
        return {label: value for label, value in watched.series().items() if "verdicts" in label[0]}

    for name in ("lane", "channel"):
        (tmp_path / name).mkdir()
    assert counted("lane", "") == counted("channel", "nothing")


def test_a_write_that_fails_or_takes_long_is_told(watched: Watched, errors: Errors) -> None:
    world = watched.world
    disk = Disk(world)
    channel, _ = world.connect()
    key = "usr-Tn5c8Qe1Wz7Ux3Ib9Om2Pk6Gv4Dh0Sl"
    channel.dataReceived(f"POST /knock HTTP/1.1\r\nX-Forwarded-For: {CLIENT}\r\nX-Api-Key: {key}\r\n\r\n".encode())
    world.clock.advance(0)
    world.boot += 0.3
    disk.fail(28)
    errors.expected()
    found = watched.series()
    assert found["knocker_store_failures_total", ()] == 1
    assert found["knocker_store_write_seconds_sum", ()] == pytest.approx(0.3)
    assert found["knocker_store_write_seconds_bucket", (("le", "0.25"),)] == 0
    assert found["knocker_store_write_seconds_bucket", (("le", "0.5"),)] == 1
    assert found["knocker_ready", ()] == 0
    hang_up(channel)


def test_how_late_the_reactor_is_is_told(watched: Watched) -> None:
    watched.lag = 0.125
    assert watched.series()["knocker_reactor_lag_seconds", ()] == 0.125


def test_nothing_else_is_there(watched: Watched) -> None:
    got = watched.ask()
    assert (got.status, got.headers["content-type"].split(";")[0]) == (200, "text/plain")
    for path in ("/", "/verify", "/knock", "/metrics/", "/metrics/../knock"):
        assert watched.ask(path).status == 404
    assert watched.ask(method="POST").status == 405
    assert watched.ask(method="HEAD").body == b""
