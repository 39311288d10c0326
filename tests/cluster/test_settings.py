"""Settings that change at some gates, at some times: nothing is revived, nothing is lost that is still allowed."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.cluster.fleet import ADMIN, FEW, PHONE, SETTINGS, Fleet, grants, ready
from tests.engine import Talk, needs_redis
from tests.service import Knocker, eventually

pytestmark = needs_redis
HERE = "203.0.113.1"


def keys(**changes: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The keys with some of them changed, or without those that are changed to nothing."""
    return [
        {**key, **(changes.get(key["name"]) or {})}
        for key in SETTINGS["api_keys"]
        if changes.get(key["name"], {}) is not None
    ]


def configure(fleet: Fleet, gate: Knocker, **changes: dict[str, Any] | None) -> None:
    """Give a gate other keys, which it does not read yet."""
    gate.configure({**SETTINGS, "api_keys": keys(**changes), "whitelist": {"store": fleet.engine.store}})


def reload(gate: Knocker) -> None:
    """Let a gate read its settings."""
    told = gate.log.count("were reloaded")
    gate.hup()
    eventually(lambda: gate.log.count("were reloaded") > told, "it was reloaded")


def test_a_lower_max_ttl_counts_from_the_knock_however_often_a_grant_is_read(fleet: Fleet) -> None:
    first, second, _ = fleet.gates
    assert first.knock(HERE, PHONE, ttl=3000).status == 200
    fleet.agree(HERE, 200)
    for gate in fleet.gates:
        configure(fleet, gate, phone={"ttl": 3, "max_ttl": 3})
        reload(gate)
    eventually(lambda: fleet.verdicts(HERE) == [401] * 3, "it ends everywhere", 6)
    second.terminate()
    second.start()
    assert second.verify(HERE) == 401
    reload(first)
    time.sleep(0.3)
    assert fleet.verdicts(HERE) == [401] * 3


def test_lowering_max_addresses_at_all_gates_keeps_the_newest(fleet: Fleet) -> None:
    for gate in fleet.gates:
        configure(fleet, gate, few={"max_addresses": 6})
        reload(gate)
    clients = [f"203.0.113.{last}" for last in (9, 3, 7, 1, 5)]
    for place, client in enumerate(clients):
        assert fleet.gates[place % 3].knock(client, FEW, ttl=600 - 100 * place).status == 200
    fleet.gates[1].terminate()  # which then knows them by another order
    fleet.gates[1].start()
    for place in (1, 0, 2):
        configure(fleet, fleet.gates[place], few={"max_addresses": 2})
        reload(fleet.gates[place])
    for client in clients[:3]:
        fleet.agree(client, 401)
    for client in clients[3:]:
        fleet.agree(client, 200)
    assert len(fleet.engine.ask("KEYS", "{knocker}:grant:*")) == 2


def test_a_key_without_its_admins_right_knocks_as_others_do(fleet: Fleet) -> None:
    first, second, third = fleet.gates
    assert first.knock(HERE, ADMIN, ip_address=HERE).status == 200
    fleet.agree(HERE, 200)
    for gate in fleet.gates:
        gate.terminate()
        configure(fleet, gate, admin={"allow_remote_whitelist": False})
        gate.start()
    assert fleet.verdicts(HERE) == [401] * 3
    assert third.knock(HERE, ADMIN).status == 200
    fleet.agree(HERE, 200)
    assert [grant["via"] for grant in grants(second, ADMIN)] == ["http"]


def test_settings_that_change_while_the_engine_is_away_count_when_it_is_back(fleet: Fleet) -> None:
    first, second, _ = fleet.gates
    configure(fleet, second, phone=None)
    reload(second)
    assert first.knock(HERE, PHONE).status == 200
    eventually(lambda: first.verify(HERE) == 200, "it counts where the key is known")
    assert second.verify(HERE) == 401
    fleet.engine.kill()
    eventually(lambda: ready(second) != [], "it noticed")
    configure(fleet, second)
    reload(second)
    fleet.engine.start()
    fleet.wait_until_ready()
    assert fleet.verdicts(HERE) == [200] * 3


@pytest.mark.parametrize("many", [1500])
def test_a_key_with_many_grants_that_is_removed_leaves_none(many: int, fleet: Fleet) -> None:
    first, second, _ = fleet.gates
    talk = Talk(fleet.engine.port)
    assert first.knock("10.0.0.1", PHONE).status == 200
    record = talk.ask("GET", '{knocker}:grant:["phone","10.0.0.1",null]').split()
    for number in range(many):
        owner = f'["phone","10.1.{number // 250}.{number % 250}",null]'
        name = f"an-id-that-is-long-{number:06}"
        talk.ask("SET", f"{{knocker}}:grant:{owner}", " ".join([name, *record[1:]]), "PXAT", record[3])
        talk.ask("ZADD", "{knocker}:all", record[3], owner)
    talk.close()
    for gate in fleet.gates:
        gate.terminate()
        gate.start()
    assert len(grants(first, ADMIN)) == many + 1
    configure(fleet, first, phone=None)
    reload(first)
    eventually(lambda: fleet.engine.ask("KEYS", "{knocker}:grant:*") == [], "none is left", 15)
    eventually(lambda: grants(second, ADMIN) == [], "nor known elsewhere", 10)
    eventually(lambda: [ready(gate) for gate in fleet.gates] == [[], [], []], "all are in step")
