"""One UDP packet opens once, at whichever gate: its nonce is claimed in the engine."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from twisted.internet.defer import maybeDeferred

from knocker.core.keys import generate, udp_secret
from knocker.core.packets.native import Knock, Secrets, encode
from knocker.store.seenfile import SeenFile
from tests.cluster.fleet import Fleet, grants
from tests.conftest import LONG
from tests.e2e.test_udp import free_udp_port
from tests.engine import Redis, gate, needs_redis
from tests.service import Knocker, eventually

pytestmark = needs_redis
KEY, ADMIN = generate(lambda count: b"1" * count), "an-admin-key-0123456789"
WINDOW = 30  # seconds


def packet() -> bytes:
    """A packet of now."""
    return encode(Secrets.of(udp_secret(KEY), ""), Knock(round(time.time() * 1000), os.urandom(16)))


class Doors(Fleet):
    """Gates with silent doors."""

    ports: list[int]

    def send(self, data: bytes, source: str, *places: int) -> None:
        """Send a packet to these gates at once."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
            wire.bind((source, 0))
            for place in places:
                wire.sendto(data, ("127.0.0.1", self.ports[place]))

    def opened(self, client: str) -> int:
        """How many gates opened for a client themselves."""
        lines = [line for gate in self.gates for line in gate.log.splitlines() if f"ed {client} for phone" in line]
        return len([line for line in lines if "at another gate" not in line and "closed" not in line])


def forget(directory: Path) -> None:
    """A memory of packets from long ago: its first fence is over."""
    file = SeenFile(str(directory / "seen.log"), maybeDeferred)
    file.load(WINDOW * 1000, round(time.time() * 1000) - 10 * WINDOW * 1000)
    file.close()


def silent(directory: Path, store: str, port: int) -> Knocker:
    """A gate with a silent door."""
    directory.mkdir()
    forget(directory)
    return gate(
        directory,
        store,
        {
            "server": {"trusted_proxies": ["127.0.0.1"], "allow_loopback_clients": True},
            "api_keys": [
                {"name": "phone", "key": KEY, "ttl": 3600, "udp": True},
                {"name": "admin", "key": ADMIN, "ttl": 60, "allow_remote_whitelist": True},
            ],
            "security": {"knock_rate_limit": {"successful_requests": 0, "failed_requests": 0}},
            "udp": {
                "enabled": True,
                "host": "127.0.0.1",
                "port": port,
                "window_seconds": WINDOW,
                "state_path": str(directory / "seen.log"),
            },
        },
    )


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Doors]:
    """Three of them, and an engine that is not new."""
    with ExitStack() as stack:
        engine = stack.enter_context(Redis(tmp_path / "engine", persistent=True))
        engine.ask("HSET", "{knocker}:state", "epoch", "of-the-test")
        ports = [free_udp_port() for _ in range(3)]
        gates = [silent(tmp_path / name, engine.store, port) for name, port in zip("abc", ports, strict=True)]
        for one in gates:
            stack.callback(one.end, KEY, udp_secret(KEY).hex())
            one.launch()
        fleet = Doors(engine, gates)
        fleet.ports = ports
        fleet.wait_until_ready()
        yield fleet


def test_one_packet_to_all_gates_at_once_is_one_knock(doors: Doors) -> None:
    for number in range(1, 60 if LONG else 10):
        source = f"127.0.0.{number + 1}"
        data = packet()
        doors.send(data, source, 0, 1, 2, 0, 1, 2)
        doors.agree(source, 200)
        time.sleep(0.05)
        assert doors.opened(source) == 1, source


def test_a_packet_that_one_gate_took_opens_nothing_at_another(doors: Doors) -> None:
    data = packet()
    doors.send(data, "127.0.0.2", 0)
    doors.agree("127.0.0.2", 200)
    doors.send(data, "127.0.0.9", 1)
    doors.send(data, "127.0.0.9", 2)
    doors.send(packet(), "127.0.0.3", 1)
    doors.send(packet(), "127.0.0.4", 2)
    doors.agree("127.0.0.3", 200)
    doors.agree("127.0.0.4", 200)
    assert doors.verdicts("127.0.0.9") == [401] * 3
    assert "replay" not in doors.gates[1].log, "copies are usual, and no news"


def test_without_the_engine_a_packet_opens_nothing_and_says_so(doors: Doors) -> None:
    doors.engine.kill()
    first = doors.gates[0]
    eventually(lambda: "knocks are refused with 503" in first.log, "it noticed")
    doors.send(packet(), "127.0.0.5", 0)
    eventually(
        lambda: "refused a UDP knock of 127.0.0.5: The whitelist could not be stored." in first.log, "it says so"
    )
    assert first.verify("127.0.0.5") == 401


def test_packets_of_before_an_engine_forgot_are_refused(doors: Doors) -> None:
    taken = packet()
    doors.send(taken, "127.0.0.2", 0)
    doors.agree("127.0.0.2", 200)
    doors.engine.ask("FLUSHALL")
    doors.agree("127.0.0.2", 401, seconds=10)
    doors.wait_until_ready()
    doors.send(taken, "127.0.0.9", 1)
    eventually(lambda: "made before the file of udp.state_path knew what was seen" in doors.gates[1].log, "refused")
    assert doors.verdicts("127.0.0.9") == [401] * 3
    assert grants(doors.gates[0], ADMIN) == []
