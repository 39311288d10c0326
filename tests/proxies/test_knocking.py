"""Every proxy asks the real Knocker, for clients with real addresses: a knock opens, for its address and its time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.net import HOME, HOME_6, SERVER, SERVER_6, Bench
from tests.proxies.conftest import Gateway, reached
from tests.proxies.recipes import all_but
from tests.service import eventually

GATEWAYS = all_but("caddy", "envoy", "haproxy")
Fresh = Callable[[], str]


def test_a_stranger_is_turned_away_without_a_word_about_why(gateway: Gateway, fresh: Fresh) -> None:
    answer = gateway.get("/", fresh())
    assert answer.status == 401
    assert "twisted" not in str(answer.headers).lower()
    assert b"knock" not in answer.body.lower()
    if gateway.recipe.shows_knockers_answer:
        assert answer.body == b""
        assert answer.lines("Cache-Control") == ["no-store"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_knock_opens_for_its_own_address_and_for_no_other(gateway: Gateway, fresh: Fresh, method: str) -> None:
    client, other = fresh(), fresh()
    assert not gateway.lets_in(client)
    answer = gateway.knock(client, "-X", method)
    now = time.time()
    assert answer.status == 200
    assert answer.lines("Content-Type") == ["application/json"]
    told = answer.json()
    assert {"whitelisted_entry": client}.items() <= told.items()
    assert told.keys() == {"whitelisted_entry", "expires_at", "expires_in_seconds"}
    assert 3595 <= told["expires_in_seconds"] <= 3600, "of which the writing takes some"
    assert abs(told["expires_at"] - now - 3600) < 5
    assert gateway.lets_in(client)
    assert gateway.lets_in(client, "/deep/path?with=query")
    assert not gateway.lets_in(other)


def test_a_knock_without_the_right_key_opens_nothing(gateway: Gateway, fresh: Fresh) -> None:
    client = fresh()
    for arguments in (["-H", "X-Api-Key: not-a-key-0123456789"], [], ["-H", "X-Api-Key;"]):
        answer = gateway.ask_knocker("/knock", client, *arguments)
        assert answer.status == 401
        assert answer.json() == {"error": "Invalid or missing API key."}
    assert not gateway.lets_in(client)


def test_the_gate_closes_when_the_time_of_a_knock_is_over(gateway: Gateway, bench: Bench) -> None:
    client = bench.stranger()
    start = time.monotonic()
    assert gateway.knock(client, key="brief").json()["expires_in_seconds"] == 2
    assert reached(gateway.send(client))
    eventually(lambda: not reached(gateway.send(client)), "the grant of 2 s is over", seconds=6)
    assert time.monotonic() - start >= 1.9
    assert not gateway.lets_in(client)


def test_delete_closes_the_gate_again(gateway: Gateway, fresh: Fresh) -> None:
    client = fresh()
    gateway.knock(client)
    assert gateway.lets_in(client)
    assert gateway.knock(client, "-X", "DELETE").status == 204
    assert not gateway.lets_in(client)
    assert gateway.knock(client, "-X", "DELETE").status == 204  # nothing to close is no fault


def test_a_key_bound_to_a_host_opens_that_host_only(gateway: Gateway, fresh: Fresh) -> None:
    here, elsewhere = fresh(), fresh()
    assert gateway.knock(here, key="here").status == 200
    assert gateway.knock(elsewhere, key="elsewhere").status == 200
    assert gateway.lets_in(here)
    assert not gateway.lets_in(elsewhere)
    forged = gateway.get("/", elsewhere, "-H", "X-Forwarded-Host: elsewhere.example.com")
    assert forged.status == 401


# --- What is open without a knock ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "/metrics/cpu", "/metrics?to=/../admin", "/api/v1/status?a=%2e"]
)
def test_an_excluded_path_is_open_to_strangers(gateway: Gateway, fresh: Fresh, path: str) -> None:
    answer = gateway.get(path, fresh())
    assert answer.status == 200
    assert answer.json()["path"] == path


@pytest.mark.parametrize("home", [HOME, HOME_6])
def test_an_always_allowed_network_needs_no_knock(gateway: Gateway, home: str) -> None:
    assert gateway.lets_in(home)


# --- Knocks for others -----------------------------------------------------------------------------------------------


def test_an_admin_key_opens_for_another_address(gateway: Gateway, fresh: Fresh) -> None:
    admin, guest, other = fresh(), fresh(), fresh()
    body = json.dumps({"ip_address": guest, "ttl": 60})
    answer = gateway.knock(admin, "-H", "Content-Type: application/json", "-d", body, key="admin")
    assert answer.status == 200
    assert answer.json()["whitelisted_entry"] == guest
    assert answer.json()["expires_in_seconds"] == 60
    assert gateway.lets_in(guest)
    assert not gateway.lets_in(admin)
    assert not gateway.lets_in(other)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_admin_key_opens_for_a_network(gateway: Gateway, bench: Bench, family: str, method: str) -> None:
    network, inside = bench.office() if family == "IPv4" else bench.office_6()
    named = f"{inside}/{network.partition('/')[2]}"  # host bits are no fault
    # As curl sends it: as if it were the body of a form.
    answer = gateway.knock(bench.stranger(), "-X", method, "-d", json.dumps({"ip_address": named}), key="admin")
    assert answer.status == 200
    assert answer.json()["whitelisted_entry"] == network
    assert gateway.lets_in(inside)
    assert not gateway.lets_in(bench.stranger_6())


def test_any_other_key_is_refused_that(gateway: Gateway, fresh: Fresh) -> None:
    client, guest = fresh(), fresh()
    for named in (guest, client):
        answer = gateway.knock(client, "-d", json.dumps({"ip_address": named}))
        assert answer.status == 403
        assert answer.json() == {"error": "API key lacks remote whitelist permission."}
        assert not gateway.lets_in(named)


@pytest.mark.parametrize("line", ["Expect:", "Transfer-Encoding: chunked"])
def test_a_knock_may_have_a_body_of_4096_bytes(gateway: Gateway, bench: Bench, line: str) -> None:
    guest = bench.stranger_6()
    for length, status in ((4096, 200), (4097, 413)):
        body = json.dumps({"ip_address": guest}).ljust(length)
        answer = gateway.knock(bench.stranger_6(), "-H", line, "-d", body, key="admin")
        assert answer.status == status, length
    assert gateway.lets_in(guest)


@pytest.mark.parametrize("named", [SERVER, SERVER_6, "127.0.0.1", "198.51.100.0/24", "0.0.0.0/0", "::/0", "fe80::1"])
def test_not_even_an_admin_key_opens_for_what_stands_for_many(
    gateways: Callable[[str], Gateway], bench: Bench, named: str
) -> None:
    gateway = gateways("caddy-ours")
    answer = gateway.knock(bench.stranger(), "-d", json.dumps({"ip_address": named}), key="admin")
    assert answer.status == 400
