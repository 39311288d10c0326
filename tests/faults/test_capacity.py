"""As many grants as fit: one more is refused, and the end of all in one second delays nobody."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.e2e.conftest import PHONE
from tests.faults.conftest import Start, entries, roomy
from tests.faults.stored import crowd, store
from tests.service import ask

MANY = 10_000
NEW, OLD = "203.0.113.200", "203.0.113.201"


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
