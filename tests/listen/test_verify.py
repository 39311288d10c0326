"""The verifier's contract towards proxies (contract 3.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Errors
from tests.wire import ADMIN, SETTINGS, Disk, World, answer, hang_up

CLIENT, STRANGER = "198.51.100.7", "198.51.100.9"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_stranger_gets_the_deny_answer_with_an_empty_body(world: World) -> None:
    got = world.ask("/verify", STRANGER)
    assert (got.status, got.body, got.headers["content-length"]) == (401, b"", "0")
    assert got.headers["cache-control"] == "no-store"
    assert "server" not in got.headers


def test_a_knock_opens_the_gate_until_its_time_is_over(world: World) -> None:
    assert world.knock(CLIENT).status == 200
    assert world.verdict(CLIENT) == 200
    world.pass_time(599.9)
    assert world.verdict(CLIENT) == 200
    world.pass_time(0.2)
    assert world.verdict(CLIENT) == 401


def test_an_allowed_answer_names_the_client_for_caddys_copy_headers(world: World) -> None:
    world.knock("2001:DB8::7")
    got = world.ask("/verify", "9.9.9.9, 2001:db8:0::7")
    assert (got.status, got.headers["x-forwarded-for"]) == (200, "2001:db8::7")


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW", "get"]
)
@pytest.mark.parametrize("tail", ["", "/", "/x/y", "/%ff", "//a/../b", "?q=/metrics"])
def test_any_method_and_any_tail_is_a_question(world: World, method: str, tail: str) -> None:
    assert world.ask("/verify" + tail, STRANGER, method).status == 401
    world.knock(CLIENT)
    got = world.ask("/verify" + tail, CLIENT, method)
    assert (got.status, got.body) == (200, b"")


@pytest.mark.parametrize(
    ("headers", "target", "status"),
    [
        pytest.param([("X-Forwarded-Uri", "/metrics")], "/verify", 200, id="the excluded path"),
        pytest.param([("X-Forwarded-Uri", "/metrics/x?y=1")], "/verify?y=1", 200, id="below it, with a query"),
        pytest.param([("X-Forwarded-Uri", "/metricsx")], "/verify", 401, id="no whole segment"),
        pytest.param([], "/verify/metrics", 200, id="Envoy's way: the path follows"),
        pytest.param(
            [("X-Forwarded-Uri", "/metrics")], "/verify/admin", 401, id="the client's line beside Envoy's path"
        ),
        pytest.param([("X-Forwarded-Uri", "/admin")], "/verify/metrics", 401, id="two different paths"),
        pytest.param(
            [("X-Forwarded-Uri", "/metrics"), ("X-Forwarded-Uri", "/metrics")], "/verify", 401, id="two lines"
        ),
        pytest.param(
            [("X-Forwarded-Uri", "/metrics"), ("X-Original-URI", "/admin")], "/verify", 401, id="nginx's other"
        ),
        pytest.param(
            [("X-Forwarded-Uri", "/metrics"), ("X-Original-URI", "/metrics")], "/verify", 200, id="both equal"
        ),
        pytest.param([("X-Original-URI", "/metrics")], "/verify", 401, id="X-Original-URI alone is never the path"),
        pytest.param([("X-Forwarded-Uri", "/metrics/x,/admin")], "/verify", 401, id="two joined lines"),
        pytest.param([], "/verify?/metrics", 401, id="the query is the client's text"),
        pytest.param([("X-Forwarded-Uri", "/metrics/%2e%2e/admin")], "/verify", 401, id="an escape"),
    ],
)
def test_only_a_path_beyond_doubt_is_excluded(
    world: World, headers: list[tuple[str, str]], target: str, status: int
) -> None:
    assert world.ask(target, STRANGER, headers=headers).status == status


def test_an_excluded_path_needs_no_client(world: World) -> None:
    got = world.ask("/verify", None, headers=[("X-Forwarded-Uri", "/metrics")])
    assert (got.status, "x-forwarded-for" in got.headers) == (200, False)


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Uri", "X-Forwarded-Method", "Forwarded", "X-Real-IP",
               "X-Original-URI"],
)  # fmt: skip
def test_a_peer_that_is_no_trusted_proxy_gains_nothing_by_a_proxys_header(
    world: World, header: str, errors: Errors
) -> None:
    value = "/metrics" if header.endswith(("Uri", "URI")) else "192.0.2.1"
    assert world.ask("/verify", headers=[(header, value)], peer="192.0.2.1").status == 401
    assert any("server.trusted_proxies" in line and "192.0.2.1" in line for line in errors.lines)
    assert world.ask("/verify", peer="192.0.2.1").status == 200, "without the header the peer is the client"


def test_the_path_after_verify_counts_only_from_a_trusted_proxy(world: World) -> None:
    assert world.ask("/verify/metrics", peer="198.51.100.3").status == 401


def test_an_ipv4_proxy_on_a_dual_stack_port_is_the_ipv4_proxy(world: World) -> None:
    world.knock(CLIENT)
    assert world.ask("/verify", CLIENT, peer="::ffff:127.0.0.1").status == 200


@pytest.mark.parametrize("broken", ["resolve", "verdict", "now", "cover", "asked_path"])
def test_whatever_breaks_behind_verify_is_a_denial(
    world: World, broken: str, monkeypatch: pytest.MonkeyPatch, errors: Errors
) -> None:
    world.knock(CLIENT)

    def boom(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken on purpose")

    places: dict[str, tuple[Any, str]] = {
        "verdict": (world.house.gate, "verdict"),
        "now": (world.house, "now"),
        "cover": (world.house.gate.policy.exclusions, "cover"),
    }
    if broken in places:
        monkeypatch.setattr(*places[broken], boom)
    else:
        place = "core.gate" if broken == "resolve" else "listen.question"
        monkeypatch.setattr(f"knocker.{place}.{broken}", boom)
    asked = STRANGER if broken in ("cover", "asked_path") else CLIENT
    headers = [("X-Forwarded-Uri", "/metrics")]
    for _ in range(3):
        got = world.ask("/verify", asked, headers=headers)
        assert (got.status, got.body) == (401, b"")
    assert len(errors.expected()) == 1, "logged once, not three times"
    assert world.house.tally.verdicts["deny", "error"] == 3


@pytest.mark.parametrize("broken", ["is_verify", "visit"])
def test_a_door_that_breaks_opens_nothing(
    world: World, broken: str, monkeypatch: pytest.MonkeyPatch, errors: Errors
) -> None:
    def boom(*_: Any) -> Any:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(f"knocker.listen.door.{broken}", boom)
    assert world.ask("/verify", STRANGER).status in (401, 500)
    assert world.ask("/knock", STRANGER).status == 500
    assert errors.expected()


def test_the_deny_status_may_differ_by_host(tmp_path: Path) -> None:
    text = SETTINGS.replace(
        "security: {", 'security: {deny: {status: 403}, deny_by_host: {"app.example.com": {status: 401}}, '
    )
    world = World(tmp_path, text)
    assert world.verdict(STRANGER) == 403
    assert world.verdict(STRANGER, [("X-Forwarded-Host", "APP.example.com:443")]) == 401
    assert world.verdict(STRANGER, [("X-Forwarded-Host", "app.example.com"), ("X-Forwarded-Host", "x")]) == 403


def test_a_key_with_hosts_opens_only_those(tmp_path: Path) -> None:
    text = SETTINGS.replace("max_ttl: 1200", 'max_ttl: 1200, hosts: ["tv.example.com", "*.lab.example.com"]')
    world = World(tmp_path, text)
    world.knock(CLIENT)
    for host, status in [
        ("tv.example.com", 200),
        ("TV.example.com.:8443", 200),
        ("a.b.lab.example.com", 200),
        ("lab.example.com", 401),
        ("other.example.com", 401),
        ("tv.example.com, other.example.com", 401),
    ]:
        assert world.verdict(CLIENT, [("X-Forwarded-Host", host)]) == status, host
    assert world.verdict(CLIENT) == 401, "no host matches no scope"
    world.knock(CLIENT, ADMIN)
    assert world.verdict(CLIENT) == 200, "another key's grant stands beside it"


def test_paths_may_be_excluded_for_one_host_alone(tmp_path: Path) -> None:
    text = SETTINGS.replace("security: {", 'security: {excluded_paths_by_host: {"app.example.com": ["/health"]}, ')
    world = World(tmp_path, text)
    asked = [("X-Forwarded-Uri", "/health")]
    assert world.verdict(STRANGER, [*asked, ("X-Forwarded-Host", "app.example.com")]) == 200
    assert world.verdict(STRANGER, [*asked, ("X-Forwarded-Host", "other.example.com")]) == 401
    assert world.verdict(STRANGER, asked) == 401


@pytest.mark.parametrize("header", [("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/"), ("X-Original-URI", "/")])
@pytest.mark.parametrize("target", ["/", "/health", "/ready", "/knock", "/nope", "//verify", "/verifyx", "/VERIFY"])
def test_a_proxy_that_asks_at_the_wrong_address_is_denied(
    world: World, target: str, header: tuple[str, str], errors: Errors
) -> None:
    world.knock(CLIENT)
    got = world.ask(target, CLIENT, headers=[header], key=ADMIN)
    assert (got.status, got.body) == (401, b"")
    assert any("/verify" in line for line in errors.lines)


def test_with_a_knock_page_other_hosts_reach_only_verify(tmp_path: Path) -> None:
    text = SETTINGS + "knock_page: {url: https://knock.example.com, also: [https://v6.knock.example.com]}\n"
    world = World(tmp_path, text)
    other = [("X-Forwarded-Host", "app.example.com")]
    assert world.ask("/knock", CLIENT, headers=other, key=ADMIN).status == 401
    assert world.ask("/nope", CLIENT, headers=other).status == 401
    assert world.ask("/health", CLIENT, headers=other).status == 200
    assert world.ask("/knock", CLIENT, headers=[("X-Forwarded-Host", "v6.knock.example.com")], key=ADMIN).status == 200
    assert world.ask("/verify", CLIENT, headers=other).status == 200


def test_verdicts_are_counted_by_outcome_and_cause(world: World) -> None:
    world.knock(CLIENT)
    for client in (CLIENT, STRANGER, "192.0.2.5", "garbage"):
        world.verdict(client)
    world.verdict(STRANGER, [("X-Forwarded-Uri", "/metrics")])
    assert dict(world.house.tally.verdicts) == {
        ("allow", "grant"): 1,
        ("deny", "no_grant"): 1,
        ("allow", "always_allowed"): 1,
        ("deny", "no_client"): 1,
        ("allow", "excluded_path"): 1,
    }


def test_a_cause_is_logged_once_a_minute_with_the_number_of_the_others(world: World, errors: Errors) -> None:
    for _ in range(5):
        world.verdict("garbage")
    world.pass_time(61)
    world.verdict("garbage")
    said = [line for line in errors.lines if "denied a request" in line]
    assert len(said) == 2
    assert "4 more" in said[1]


def test_pipelined_questions_are_answered_in_order_behind_a_slow_knock(world: World) -> None:
    disk = Disk(world)
    channel, wire = world.connect()
    knock = f"POST /knock HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: {CLIENT}\r\nX-Api-Key: {ADMIN}\r\n\r\n"
    verify = f"GET /verify HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: {CLIENT}\r\n\r\n"
    channel.dataReceived((knock + verify + verify.replace(CLIENT, STRANGER)).encode())
    world.clock.advance(0)
    assert wire.value() == b""
    disk.succeed()
    statuses = [int(part[:3]) for part in wire.value().split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 200, 401]
    assert answer(wire.value()).status == 200
    hang_up(channel)


def test_one_peer_cannot_hide_another_from_the_log(world: World, errors: Errors) -> None:
    for _ in range(50):
        world.ask("/verify", "192.0.2.1", peer="198.51.100.66")
    world.ask("/verify", "192.0.2.1", peer="172.20.0.5")
    for last in range(1, 200):
        world.ask("/verify", "192.0.2.1", peer=f"198.51.101.{last}")
    said = [line for line in errors.lines if "denied a request of peer" in line]
    assert any("peer 172.20.0.5: it sent forwarded headers" in line for line in said)
    assert len(said) <= 10, "nor do many fill it"
