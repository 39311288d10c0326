"""Caddy on the host's own network, as docs/docker.md has it for machines whose Docker hides the clients' addresses."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.image.containers import Containers
from tests.image.stack import Stack
from tests.net import Bench
from tests.service import PROJECT

pytestmark = pytest.mark.timeout(900)

COMPOSE = (PROJECT / "docker-compose.yml").read_text()


def part(start: str, end: str) -> str:
    """What stands in the compose file from `start` until `end`."""
    return start + COMPOSE.partition(start)[2].partition(end)[0]


CADDYS_PORTS = part('    ports:\n      - "80:80"', "    volumes:")
CADDYS_NETWORK = part("    networks:\n      gate:\n        ipv4_address: 172.30.53.2", "\n  # Something")
CHANGES = {
    "docker-compose.yml": {
        CADDYS_PORTS: "",
        CADDYS_NETWORK: "    network_mode: host\n",
        'ports: ["62201:62201/udp"]': 'ports: ["62201:62201/udp", "127.0.0.1:8000:8000"]',
        "    networks: [gate]\n": '    networks: [gate]\n    ports: ["127.0.0.1:8096:80"]\n',
    },
    "Caddyfile": {"knocker:8000": "127.0.0.1:8000", "app:80\n": "127.0.0.1:8096\n"},
    "knocker.yaml": {'["172.30.53.2", "fd6b:6e6f:636b::2"]': '["172.30.53.1"]'},
}


@pytest.fixture(scope="module")
def stack(containers: Containers, bench: Bench, image: str, caddy: str) -> Iterator[Stack]:
    with Stack(containers, bench, CHANGES) as running:
        yield running


@pytest.mark.parametrize("family", [4, 6])
def test_whoever_knocks_is_let_in_by_the_own_address(stack: Stack, bench: Bench, family: int) -> None:
    client, other = (bench.stranger() if family == 4 else bench.stranger_6() for _ in range(2))
    assert stack.app(client) == 401
    assert stack.knock(client).json()["whitelisted_entry"].partition("/")[0] in (client, client.removesuffix("10"))
    assert stack.app(client) == 200
    assert stack.app(other) == 401


def test_nobody_but_the_host_reaches_knocker_itself(stack: Stack, bench: Bench) -> None:
    command = [*bench.client, "curl", "-s", "--max-time", "3", "http://198.51.100.1:8000/health"]
    assert subprocess.run(command, capture_output=True, check=False).returncode in (7, 28)
