"""A Knocker that is harmed in some way, clients that knock meanwhile, and what they were told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from tests.e2e.conftest import PHONE, settings
from tests.service import Knocker, Settings, free_port

Start = Callable[..., Knocker]


class Witness:
    """Knows which knocks were sent, and which were answered 200, over all lives of a Knocker."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.acknowledged: set[str] = set()

    def knock(self, knocker: Knocker, client: str, wire: HTTPConnection | None = None) -> int | None:
        """One knock; its status, None where no answer came."""
        connection = wire or HTTPConnection(knocker.host, knocker.port, timeout=10)
        self.asked.add(client)
        try:
            connection.request("POST", "/knock", headers={"X-Forwarded-For": client, "X-Api-Key": PHONE})
            answer = connection.getresponse()
            answer.read()
        except (OSError, HTTPException):
            connection.close()
            return None
        finally:
            if wire is None:
                connection.close()
        if answer.status == 200:
            self.acknowledged.add(client)
        return answer.status

    def check(self, knocker: Knocker) -> None:
        """Whoever was told that the door is open finds it so, and nobody else does."""
        found = entries(knocker.whitelist)
        assert self.acknowledged <= found <= self.asked
        for client in sorted(self.acknowledged)[-20:]:
            assert knocker.verify(client) == 200, client
        assert knocker.verify("198.18.0.1") == 401


class Crowd:
    """Clients that knock, each on its own connection, one after the other, from ever new addresses."""

    def __init__(self, witness: Witness, knocker: Knocker, number: int, clients: int = 8) -> None:
        self._witness, self._knocker = witness, knocker
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number, who)) for who in range(clients)]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, who: int) -> None:
        wire = HTTPConnection(self._knocker.host, self._knocker.port, timeout=10)
        for turn in range(250):
            client = f"10.{number}.{who}.{turn + 1}"
            if self._ended.is_set() or self._witness.knock(self._knocker, client, wire) is None:
                break
        wire.close()


def entries(whitelist: Path) -> set[str]:
    """The addresses and networks in a whitelist file."""
    if not whitelist.exists():
        return set()
    return {grant["entry"] for grant in json.loads(whitelist.read_bytes())["grants"]}


def roomy(**whitelist: object) -> Settings:
    """Settings for many knocks."""
    return {**settings(), "whitelist": {"max_entries": 100_000, **whitelist}}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts Knockers that end with the test, without a mistake of ours or a secret in their logs."""
    with ExitStack() as stack:

        def start_one(told: Settings | None = None, directory: Path = tmp_path) -> Knocker:
            knocker = Knocker(directory, told or roomy(), free_port())
            stack.callback(knocker.end, PHONE)
            knocker.start()
            return knocker

        yield start_one
