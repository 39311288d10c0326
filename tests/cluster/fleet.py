"""What tests ask of several gates at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.engine import Redis
from tests.service import Knocker, ask, eventually

ADMIN, PHONE, FEW = "an-admin-key-0123456789", "a-phone-key-0123456789", "a-key-for-few-0123456789"
SETTINGS: dict[str, Any] = {
    "server": {"trusted_proxies": ["127.0.0.1"]},
    "api_keys": [
        {"name": "admin", "key": ADMIN, "ttl": 600, "max_ttl": 3600, "allow_remote_whitelist": True},
        {"name": "phone", "key": PHONE, "ttl": 600, "max_ttl": 3600},
        {"name": "few", "key": FEW, "ttl": 600, "max_addresses": 2},
    ],
    "security": {"knock_rate_limit": {"successful_requests": 0, "failed_requests": 0}},
}


@dataclass
class Fleet:
    """An engine and the gates that share it."""

    engine: Redis
    gates: list[Knocker]

    def wait_until_ready(self) -> None:
        """Wait until every gate is in step."""
        for gate in self.gates:
            eventually(partial(_is_ready, gate), "the gate is ready", seconds=20)

    def verdicts(self, client: str) -> list[int]:
        """What each gate says of a client, in order."""
        return [gate.verify(client) for gate in self.gates]

    def agree(self, client: str, verdict: int, seconds: float = 5) -> None:
        """Wait until each gate says the same of a client."""
        wanted = [verdict] * len(self.gates)
        eventually(lambda: self.verdicts(client) == wanted, f"all say {verdict} of {client}", seconds)


def _is_ready(gate: Knocker) -> bool:
    return gate.listening and ready(gate) == []


def ready(gate: Knocker) -> list[str]:
    """What keeps a gate from being ready."""
    answer = ask(gate.port, "/ready")
    reasons: list[str] = json.loads(answer.body).get("reasons", [])
    assert answer.status == (503 if reasons else 200)
    return reasons


def grants(gate: Knocker, key: str = ADMIN) -> list[dict[str, Any]]:
    """The grants that a gate shows to a key."""
    lines = {"X-Forwarded-For": "203.0.113.250", "X-Api-Key": key}
    found: list[dict[str, Any]] = json.loads(ask(gate.port, "/grants", headers=lines).body)["grants"]
    return found


def revoke(gate: Knocker, grant_id: str, key: str = ADMIN) -> int:
    """The status of closing one grant at a gate."""
    lines = {"X-Forwarded-For": "203.0.113.250", "X-Api-Key": key}
    return ask(gate.port, f"/grants/{grant_id}", "DELETE", lines).status
