"""A gate whose network is cut, and joined again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.fleet import PHONE, SETTINGS
from tests.engine import Redis, gate, needs_redis
from tests.net import SERVER, Bench, bench_or_skip
from tests.service import Knocker, eventually

pytestmark = needs_redis
HERE, THERE, NEVER = "203.0.113.1", "203.0.113.2", "203.0.113.3"


class Apart:
    """Two gates: one beside the engine, one across a wire."""

    def __init__(self, bench: Bench, engine: Redis, near: Knocker, far: Knocker) -> None:
        self.bench, self.engine, self.near, self.far = bench, engine, near, far

    def verify(self, gate: Knocker, client: str) -> int:
        """What a gate says of a client."""
        return self._ask(gate, "/verify", f"X-Forwarded-For: {client}")

    def knock(self, gate: Knocker, client: str, method: str = "POST") -> int:
        """The status of a knock."""
        return self._ask(gate, "/knock", f"X-Forwarded-For: {client}", f"X-Api-Key: {PHONE}", method=method)

    def ready(self, gate: Knocker) -> bool:
        """Whether a gate is in step."""
        return self._ask(gate, "/ready") == 200

    def wire(self, state: str) -> None:
        """Cut the wire between them, or join it."""
        subprocess.run([*self.bench.server, "ip", "link", "set", "eth0", state], check=True)

    def _ask(self, gate: Knocker, path: str, *lines: str, method: str = "GET") -> int:
        where = self.bench.server if gate is self.near else self.bench.client
        headers = [word for line in lines for word in ("-H", line)]
        command = ["curl", "-q", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "8", "-X", method]
        url = f"http://127.0.0.1:{gate.port}{path}"
        return int(subprocess.run([*where, *command, *headers, url], capture_output=True, text=True).stdout)


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Apart]:
    """Both gates, in step."""
    with ExitStack() as stack:
        bench = stack.enter_context(bench_or_skip())
        engine = Redis(tmp_path / "engine", persistent=True, prefix=bench.server)
        engine.command += ["--bind", "127.0.0.1", SERVER, "--protected-mode", "no"]
        stack.enter_context(engine)
        near = gate(tmp_path / "near", engine.store, SETTINGS, prefix=bench.server)
        far = gate(tmp_path / "far", engine.store.replace("127.0.0.1", SERVER), SETTINGS, prefix=bench.client)
        for one in (near, far):
            stack.callback(one.end)
            one.start()
        both = Apart(bench, engine, near, far)
        eventually(lambda: both.ready(near) and both.ready(far), "both are in step")
        yield both


def test_a_gate_that_was_cut_off_catches_up(apart: Apart) -> None:
    near, far = apart.near, apart.far
    assert apart.knock(near, HERE) == 200
    eventually(lambda: apart.verify(far, HERE) == 200, "it is known across the wire")
    apart.wire("down")
    began = time.monotonic()
    assert apart.knock(far, NEVER) == 503
    assert time.monotonic() - began < 6
    assert apart.verify(far, HERE) == 200, "what was granted goes on"
    eventually(lambda: not apart.ready(far), "the gate says that it is cut off")
    assert apart.ready(near)
    assert apart.knock(near, HERE, "DELETE") == 204
    assert apart.knock(near, THERE) == 200
    assert apart.verify(far, HERE) == 200, "it cannot know"
    apart.wire("up")
    eventually(lambda: apart.ready(far), "it is in step again", 30)
    assert [apart.verify(far, client) for client in (HERE, THERE, NEVER)] == [401, 200, 401]
    assert [apart.verify(near, client) for client in (HERE, THERE, NEVER)] == [401, 200, 401]


def test_a_close_at_a_gate_that_is_cut_off_is_told_once_it_is_joined(apart: Apart) -> None:
    near, far = apart.near, apart.far
    for client in (HERE, THERE):
        assert apart.knock(near, client) == 200
    eventually(lambda: apart.verify(far, THERE) == 200, "both are known")
    apart.wire("down")
    assert [apart.knock(far, client, "DELETE") for client in (HERE, THERE)] == [503, 503]
    assert [apart.verify(far, client) for client in (HERE, THERE)] == [401, 401]
    time.sleep(0.2)
    assert apart.knock(near, THERE) == 200, "knocked for after it was closed over there"
    apart.wire("up")
    eventually(lambda: apart.ready(far), "it is in step again", 30)
    for gate_ in (near, far):
        eventually(lambda one=gate_: apart.verify(one, HERE) == 401, "what was closed is closed")  # type: ignore[misc]
        assert apart.verify(gate_, THERE) == 200
