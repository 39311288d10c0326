"""Three gates under thousands of random operations and faults: afterwards all are as one slow model says."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPException

from tests.cluster.fleet import ADMIN, FEW, PHONE, Fleet, ready
from tests.conftest import FIXED, LONG
from tests.engine import needs_redis
from tests.service import Knocker, eventually

pytestmark = needs_redis
OPERATIONS = 10_000 if LONG else 400
FAULT_EVERY = 200 if LONG else 60
CLIENTS = [f"203.0.113.{number}" for number in range(1, 13)]
KEYS = {"admin": ADMIN, "phone": PHONE, "few": FEW}
LATE = 1.0  # seconds that a grant may outlive its time at most


@dataclass
class Model:
    """What is granted: of each key and client, between which two moments it ends; in the order they last knocked."""

    grants: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def knock(self, key: str, client: str, ttl: int, named: bool, asked: float, answered: float) -> None:
        """A knock that was answered 200, asked and answered at these moments."""
        ends = asked + ttl, answered + ttl
        held = self.grants.pop((key, client), None)
        if held is not None and not named and held[0] > asked:
            ends = max(held[0], ends[0]), max(held[1], ends[1])
        self.grants[key, client] = ends
        if key == "few":
            crowd = [owner for owner, end in self.grants.items() if owner[0] == "few" and end[1] > asked]
            for owner in crowd[:-2]:
                del self.grants[owner]

    def leave(self, key: str, client: str) -> None:
        """A close, however it was answered."""
        self.grants.pop((key, client), None)

    def verdicts(self, client: str, asked: float, answered: float) -> set[int]:
        """What a gate may have said of a client between these moments."""
        ends = [end for (_, whose), end in self.grants.items() if whose == client]
        if any(end[0] > answered for end in ends):
            return {200}
        return {200, 401} if any(end[1] + LATE > asked for end in ends) else {401}


class Line:
    """One kept connection to a gate."""

    def __init__(self, gate: Knocker) -> None:
        self.gate = gate
        self._connection: HTTPConnection | None = None

    def ask(self, method: str, path: str, lines: dict[str, str], body: dict[str, int] | None = None) -> int:
        """The status of an answer."""
        for attempt in range(2):
            if self._connection is None:
                self._connection = HTTPConnection("127.0.0.1", self.gate.port, timeout=10)
            data = json.dumps(body).encode() if body else None
            try:
                self._connection.request(method, path, data, lines)
                answer = self._connection.getresponse()
                answer.read()
            except (OSError, HTTPException):
                self.close()
                if attempt:
                    raise
            else:
                return answer.status
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Keep it no longer."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Trial:
    """The fleet, the model, and one who does things to both."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self.fleet, self.chance, self.model = fleet, chance, Model()
        self.lines = [Line(gate) for gate in fleet.gates]
        self.done: list[str] = []

    def operate(self) -> None:
        """One operation at one gate."""
        place, client = self.chance.randrange(3), self.chance.choice(CLIENTS)
        key = self.chance.choice(list(KEYS))
        kind = self.chance.random()
        if kind < 0.45:
            self._knock(place, key, client)
        elif kind < 0.6:
            self._leave(place, key, client)
        else:
            self.verify(place, client)

    def _knock(self, place: int, key: str, client: str) -> None:
        named = self.chance.random() < 0.5
        ttl = self.chance.choice([1, 2, 5, 60, 300]) if named else 600
        ttl = min(ttl, 600)
        asked = time.monotonic()
        lines = {"X-Forwarded-For": client, "X-Api-Key": KEYS[key], "Content-Type": "application/json"}
        status = self.lines[place].ask("POST", "/knock", lines, {"ttl": ttl} if named else None)
        self.done.append(f"{'abc'[place]} {key} {client} {ttl if named else ''} {status}")
        assert status == 200, self.told()
        self.model.knock(key, client, ttl, named, asked, time.monotonic())
        assert self.lines[place].ask("GET", "/verify", {"X-Forwarded-For": client}) == 200, self.told()

    def _leave(self, place: int, key: str, client: str) -> None:
        lines = {"X-Forwarded-For": client, "X-Api-Key": KEYS[key]}
        status = self.lines[place].ask("DELETE", "/knock", lines)
        self.done.append(f"{'abc'[place]} leaves {key} {client} {status}")
        assert status == 204, self.told()
        self.model.leave(key, client)
        self.verify(place, client)

    def verify(self, place: int, client: str) -> None:
        """See whether one gate is as the model; another than the one that acted may need a moment."""
        end = time.monotonic() + 0.5
        while True:
            asked = time.monotonic()
            status = self.lines[place].ask("GET", "/verify", {"X-Forwarded-For": client})
            allowed = self.model.verdicts(client, asked, time.monotonic())
            if status in allowed or time.monotonic() > end:
                break
        assert status in allowed, f"{'abc'[place]} says {status} of {client}\n{self.told()}"

    def told(self) -> str:
        """What was done last."""
        return "\n".join(self.done[-40:])

    def all_agree(self) -> None:
        """See whether every gate is as the model, for every client."""
        self.fleet.wait_until_ready()
        for place in range(3):
            for client in CLIENTS:
                self.verify(place, client)

    def fault(self) -> None:
        """Something goes wrong, and is over."""
        kind = self.chance.choice(FAULTS)
        self.done.append(f"-- {kind.__name__}")
        kind(self)
        self.all_agree()

    def killed_gate(self) -> None:
        """A gate dies."""
        place = self.chance.randrange(3)
        self.fleet.gates[place].kill()
        self.lines[place].close()
        self.fleet.gates[place].start()

    def restarted_gate(self) -> None:
        """A gate is restarted."""
        place = self.chance.randrange(3)
        assert self.fleet.gates[place].terminate() == 0
        self.lines[place].close()
        self.fleet.gates[place].start()

    def killed_engine(self) -> None:
        """The engine dies; what is asked meanwhile is refused, and a close counts once it is back."""
        self.fleet.engine.kill()
        place, client = self.chance.randrange(3), self.chance.choice(CLIENTS)
        lines = {"X-Forwarded-For": client, "X-Api-Key": PHONE}
        assert self.lines[place].ask("POST", "/knock", lines) == 503, self.told()
        assert self.lines[place].ask("DELETE", "/knock", lines) == 503, self.told()
        self.model.leave("phone", client)
        self.verify(place, client)
        self.fleet.engine.start()
        self.fleet.wait_until_ready()
        if not any(whose == client for _, whose in self.model.grants):
            self.fleet.agree(client, 401)

    def standing_engine(self) -> None:
        """The engine stands still; nothing that is asked meanwhile comes of it afterwards."""
        self.fleet.engine.signal(signal.SIGSTOP)
        try:
            place, client = self.chance.randrange(3), self.chance.choice(CLIENTS)
            lines = {"X-Forwarded-For": client, "X-Api-Key": PHONE}
            assert self.lines[place].ask("POST", "/knock", lines) == 503, self.told()
        finally:
            self.fleet.engine.signal(signal.SIGCONT)
        eventually(lambda: ready(self.fleet.gates[place]) == [], "it is in step again", 15)

    def standing_gate(self) -> None:
        """A gate stands still, while the others go on."""
        place = self.chance.randrange(3)
        self.fleet.gates[place].signal(signal.SIGSTOP)
        try:
            for _ in range(20):
                client, other = self.chance.choice(CLIENTS), (place + 1) % 3
                self._knock(other, "phone", client) if self.chance.random() < 0.6 else self._leave(
                    other, "phone", client
                )
            if self.chance.random() < 0.5:
                self.fleet.engine.ask("XTRIM", "{knocker}:changes", "MAXLEN", 1)
        finally:
            self.fleet.gates[place].signal(signal.SIGCONT)
        time.sleep(0.3)

    def cut_connections(self) -> None:
        """All connections of the gates are cut."""
        self.fleet.engine.ask("CLIENT", "KILL", "TYPE", "normal")
        time.sleep(0.1)

    def forgotten_scripts(self) -> None:
        """The engine forgets its scripts."""
        self.fleet.engine.ask("SCRIPT", "FLUSH")
        lines = {"X-Forwarded-For": "203.0.113.99", "X-Api-Key": PHONE}
        for line in self.lines:
            eventually(partial(_left, line, lines), "each gate told it anew", 15)


def _left(line: Line, lines: dict[str, str]) -> bool:
    return line.ask("DELETE", "/knock", lines) == 204


FAULTS = [
    *(Trial.killed_gate, Trial.restarted_gate, Trial.killed_engine, Trial.standing_engine),
    *(Trial.standing_gate, Trial.cut_connections, Trial.forgotten_scripts),
]


def test_whatever_happens_all_gates_are_as_one(fleet: Fleet) -> None:
    seed = 10 if FIXED else int.from_bytes(os.urandom(4), "big")
    trial = Trial(fleet, random.Random(seed))
    try:
        for number in range(1, OPERATIONS + 1):
            trial.operate()
            if number % FAULT_EVERY == 0:
                trial.fault()
        trial.all_agree()
        time.sleep(LATE + 5)
        trial.all_agree()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    finally:
        for line in trial.lines:
            line.close()
