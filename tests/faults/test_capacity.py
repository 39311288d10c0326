"""As many grants as fit: one more is refused, and the end of all in one second delays nobody."""

from __future__ import annotations

import json
import time
from pathlib import Path

from knocker import clock
from knocker.core.addresses import Network
from knocker.core.grant import Grant, Via
from knocker.core.keys import Key, digest_of
from knocker.store.document import document, pages_of
from tests.e2e.conftest import PHONE
from tests.faults.conftest import Start, entries, roomy
from tests.service import ask

MANY = 10_000
NEW, OLD = "203.0.113.200", "203.0.113.201"


def store(file: Path, clients: list[str], seconds: float) -> None:
    """A whitelist as a Knocker of this boot would have left it, with so many seconds for each of these."""
    now, key = clock.now(), Key("phone", digest_of(PHONE.encode()), ttl=3600, max_ttl=3600)
    grants = [
        Grant(
            f"grant-{number:016}-{client}".replace(".", "-"),
            *Network.parse(client).parts,
            key.name,
            key.mark,
            Via.HTTP,
            None,
            now.wall,
            now.wall,
            now.wall + seconds,
            now.boot + seconds,
        )
        for number, client in enumerate(clients)
    ]
    with file.open("wb") as text:
        text.writelines(document(pages_of(grants), now, clock.boot_id()))


def crowd(count: int) -> list[str]:
    """So many addresses."""
    return [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(1, count + 1)]


def test_a_full_whitelist_refuses_and_evicts_nobody(start: Start, tmp_path: Path) -> None:
    clients = crowd(MANY)
    store(tmp_path / "whitelist.json", clients, 3000)
    knocker = start(roomy(max_entries=MANY), tmp_path)
    answer = knocker.knock(NEW, PHONE)
    assert (answer.status, answer.json()) == (503, {"error": "The whitelist is full."})
    assert [knocker.verify(client) for client in (NEW, clients[0], clients[-1])] == [401, 200, 200]
    assert entries(knocker.whitelist) == set(clients)
    assert knocker.knock(clients[7], PHONE).status == 200, "who is in may stay"
    assert knocker.knock(clients[8], PHONE, "DELETE").status == 204
    assert knocker.knock(NEW, PHONE).status == 200
    assert knocker.knock(OLD, PHONE).status == 503
    assert entries(knocker.whitelist) == {*clients, NEW} - {clients[8]}
    assert "whitelist.max_entries" in knocker.log


def test_ten_thousand_grants_that_end_in_one_second_are_each_told_and_delay_nobody(
    start: Start, tmp_path: Path
) -> None:
    clients = crowd(MANY)
    store(tmp_path / "whitelist.json", clients, 6)
    told = roomy(max_entries=MANY + 1, cleanup_interval_seconds=1)
    knocker = start({**told, "logging": {"format": "json"}}, tmp_path)
    assert knocker.knock(OLD, PHONE).status == 200
    assert {knocker.verify(client) for client in clients[::500]} == {200}
    took = []
    end = time.monotonic() + 30
    while entries(knocker.whitelist) != {OLD}:
        began = time.monotonic()
        assert knocker.verify(OLD) == 200
        took.append(time.monotonic() - began)
        assert began < end, "the grants that are over leave the file"
    assert max(took) < 1, "which all the lines of the log in one turn would take"
    assert {knocker.verify(client) for client in clients[::500]} == {401}
    assert ask(knocker.port, "/ready").status == 200
    lines = [json.loads(line) for line in knocker.log.splitlines()]
    assert sorted(line["entry"] for line in lines if line.get("event") == "expired") == sorted(clients)
