"""Several gates, one whitelist: what is done at one counts at all of them."""

from __future__ import annotations

import json
import time
from itertools import count

from tests.cluster.fleet import ADMIN, FEW, PHONE, SETTINGS, Fleet, grants, ready, revoke
from tests.engine import needs_redis
from tests.service import eventually

pytestmark = needs_redis
_numbers = count(1)


def somebody() -> str:
    """A client that no other test here speaks of."""
    number = next(_numbers)
    return f"198.51.{number // 250}.{number % 250 + 1}"


def test_a_knock_at_one_gate_opens_all(shared_fleet: Fleet) -> None:
    client = somebody()
    assert shared_fleet.verdicts(client) == [401] * 3
    assert shared_fleet.gates[0].knock(client, PHONE).status == 200
    assert shared_fleet.gates[0].verify(client) == 200, "its own gate at once"
    shared_fleet.agree(client, 200, seconds=2)


def test_leaving_at_one_gate_closes_all(shared_fleet: Fleet) -> None:
    client = somebody()
    shared_fleet.gates[0].knock(client, PHONE)
    # At once at another gate, which may not have heard of the knock yet.
    assert shared_fleet.gates[2].knock(client, PHONE, "DELETE").status == 204
    assert shared_fleet.gates[2].verify(client) == 401
    shared_fleet.agree(client, 401, seconds=2)


def test_a_revoke_at_one_gate_closes_all(shared_fleet: Fleet) -> None:
    client = somebody()
    first, _, third = shared_fleet.gates
    assert first.knock("203.0.113.200", ADMIN, ip_address=client).status == 200
    shared_fleet.agree(client, 200)
    (shown,) = [grant for grant in grants(third) if grant["entry"] == client]
    assert revoke(third, shown["id"]) == 204
    assert third.verify(client) == 401
    shared_fleet.agree(client, 401, seconds=2)


def test_all_gates_show_the_same_grants(shared_fleet: Fleet) -> None:
    client = somebody()
    shared_fleet.gates[1].knock(client, PHONE)
    shared_fleet.agree(client, 200)
    shown = [next(grant for grant in grants(gate) if grant["entry"] == client) for gate in shared_fleet.gates]
    for name in ("id", "key", "via", "hosts", "created_at", "last_knock_at"):
        assert len({str(grant[name]) for grant in shown}) == 1, name
    ends = [grant["expires_at"] for grant in shown]
    assert max(ends) - min(ends) <= 1


def test_a_renewal_at_another_gate_keeps_the_grant_and_never_shortens_it(shared_fleet: Fleet) -> None:
    client = somebody()
    first, second, third = shared_fleet.gates
    long = json.loads(first.knock(client, PHONE, ttl=3000).body)["expires_at"]
    plain = json.loads(second.knock(client, PHONE).body)
    assert abs(plain["expires_at"] - long) <= 1
    short = json.loads(third.knock(client, PHONE, ttl=5).body)
    assert short["expires_in_seconds"] == 5
    shown = [grant for grant in grants(third) if grant["entry"] == client]
    assert len(shown) == 1


def test_a_grant_ends_everywhere_at_the_same_second(shared_fleet: Fleet) -> None:
    client = somebody()
    shared_fleet.gates[0].knock(client, PHONE, ttl=2)
    shared_fleet.agree(client, 200, seconds=1)
    ended: dict[int, float] = {}

    def all_ended() -> bool:
        for number, verdict in enumerate(shared_fleet.verdicts(client)):
            if verdict == 401:
                ended.setdefault(number, time.monotonic())
        return len(ended) == 3

    eventually(all_ended, "it ended everywhere", seconds=4)
    assert max(ended.values()) - min(ended.values()) < 0.5


def test_max_addresses_counts_over_all_gates(shared_fleet: Fleet) -> None:
    clients = [somebody() for _ in range(4)]
    for place, client in enumerate(clients):
        assert shared_fleet.gates[place % 3].knock(client, FEW).status == 200
    shared_fleet.agree(clients[0], 401)
    shared_fleet.agree(clients[1], 401)
    shared_fleet.agree(clients[2], 200)
    shared_fleet.agree(clients[3], 200)
    # The longest unknocked makes room, not the oldest.
    assert shared_fleet.gates[1].knock(clients[2], FEW).status == 200
    assert shared_fleet.gates[0].knock(clients[0], FEW).status == 200
    shared_fleet.agree(clients[3], 401)
    shared_fleet.agree(clients[2], 200)


def test_two_keys_have_a_grant_each_for_one_address(shared_fleet: Fleet) -> None:
    client = somebody()
    first, second, _ = shared_fleet.gates
    first.knock(client, PHONE)
    second.knock(client, FEW)
    assert second.knock(client, FEW, "DELETE").status == 204
    shared_fleet.agree(client, 200)
    assert first.knock(client, PHONE, "DELETE").status == 204
    shared_fleet.agree(client, 401)


def test_networks_and_ipv6_travel_too(shared_fleet: Fleet) -> None:
    first = shared_fleet.gates[0]
    assert first.knock("203.0.113.200", ADMIN, ip_address="203.0.113.0/28").status == 200
    assert first.knock("2001:db8:7::1", PHONE).status == 200
    shared_fleet.agree("203.0.113.9", 200)
    shared_fleet.agree("203.0.113.16", 401)
    shared_fleet.agree("2001:db8:7::1", 200)


def test_a_gate_that_starts_later_knows_all(shared_fleet: Fleet) -> None:
    kept, left = somebody(), somebody()
    first, second, third = shared_fleet.gates
    first.knock(kept, PHONE)
    first.knock(left, PHONE)
    third.kill()
    second.knock(left, PHONE, "DELETE")
    third.start()
    assert third.verify(kept) == 200, "it listens only once it is in step"
    assert third.verify(left) == 401
    assert third.terminate() == 0
    third.start()
    assert third.verify(kept) == 200


def test_the_whitelist_is_full_for_all_gates(fleet: Fleet) -> None:
    for gate in fleet.gates:
        gate.configure({**SETTINGS, "whitelist": {"store": fleet.engine.store, "max_entries": 3}})
        gate.hup()
    eventually(lambda: all("settings were reloaded" in gate.log for gate in fleet.gates), "all read them")
    for place in range(3):
        assert fleet.gates[place].knock(f"203.0.113.{place}", PHONE).status == 200
    refused = fleet.gates[1].knock("203.0.113.77", PHONE)
    assert (refused.status, json.loads(refused.body)["error"]) == (503, "The whitelist is full.")
    assert fleet.gates[2].knock("203.0.113.1", PHONE).status == 200, "a renewal needs no room"
    assert fleet.gates[0].knock("203.0.113.1", PHONE, "DELETE").status == 204
    assert fleet.gates[1].knock("203.0.113.77", PHONE).status == 200
    assert "over all gates" in fleet.gates[1].log


def test_a_key_that_leaves_the_settings_of_one_gate_loses_its_grants_everywhere(fleet: Fleet) -> None:
    fleet.gates[0].knock("203.0.113.1", PHONE)
    fleet.gates[0].knock("203.0.113.2", FEW)
    fleet.agree("203.0.113.1", 200)
    fewer = [key for key in SETTINGS["api_keys"] if key["name"] != "phone"]
    second = fleet.gates[1]
    second.configure({**SETTINGS, "api_keys": fewer, "whitelist": {"store": fleet.engine.store}})
    second.hup()
    fleet.agree("203.0.113.1", 401)
    fleet.agree("203.0.113.2", 200)


def test_a_new_key_counts_at_a_gate_once_it_knows_it(fleet: Fleet) -> None:
    first, second, _ = fleet.gates
    more = [*SETTINGS["api_keys"], {"name": "new", "key": "a-new-key-0123456789", "ttl": 600}]
    settings = {**SETTINGS, "api_keys": more, "whitelist": {"store": fleet.engine.store}}
    first.configure(settings)
    first.hup()
    eventually(lambda: first.knock("203.0.113.1", "a-new-key-0123456789").status == 200, "the first knows the key")
    assert fleet.verdicts("203.0.113.1") == [200, 401, 401], "who does not know it honours none of its grants"
    second.configure(settings)
    second.hup()
    eventually(lambda: second.verify("203.0.113.1") == 200, "nor ends any")
    assert fleet.verdicts("203.0.113.1") == [200, 200, 401]


def test_no_gate_is_in_doubt_about_another(shared_fleet: Fleet) -> None:
    assert [ready(gate) for gate in shared_fleet.gates] == [[], [], []]
