"""/knock towards its clients: statuses, texts, and what a refused knock leaves, which is nothing (contract 3.3)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Errors
from tests.wire import ADMIN, GATEWAYS, KEY, OWN, SETTINGS, Disk, World, answer, hang_up

CLIENT = "198.51.100.7"
BAD_ADDRESS = "Invalid IP address or CIDR notation in request body."


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def error_of(body: bytes) -> str:
    return str(json.loads(body)["error"])


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_knock_is_answered_with_what_it_opened(world: World, method: str) -> None:
    got = world.knock(CLIENT, method=method)
    assert got.status == 200
    assert json.loads(got.body) == {
        "whitelisted_entry": CLIENT,
        "expires_at": int(world.wall) + 600,
        "expires_in_seconds": 600,
    }
    assert got.headers["content-type"] == "application/json"
    assert got.headers["cache-control"] == "no-store"
    assert int(got.headers["content-length"]) == len(got.body)
    assert "server" not in got.headers


@pytest.mark.parametrize(
    ("key", "body", "entry", "seconds"),
    [
        pytest.param(KEY, b"{}", CLIENT, 600, id="an empty object"),
        pytest.param(KEY, b'{"ttl": 5, "ip_address": null}', CLIENT, 5, id="a shorter time"),
        pytest.param(KEY, b'{"ttl": 999999999999999999999}', CLIENT, 1200, id="capped, not refused"),
        pytest.param(ADMIN, b'{"ip_address": "1.2.3.4"}', "1.2.3.4", 3600, id="another address"),
        pytest.param(ADMIN, b'{"ip_address": "10.0.0.9/24", "ttl": 60}', "10.0.0.0/24", 60, id="host bits are masked"),
        pytest.param(ADMIN, b'{"ip_address": "::ffff:10.0.0.9/120"}', "10.0.0.0/24", 3600, id="a mapped network"),
        pytest.param(ADMIN, b'{"ip_address": "2001:DB8:0::/48"}', "2001:db8::/48", 3600, id="an IPv6 network"),
    ],
)
def test_a_body_names_address_and_time(world: World, key: str, body: bytes, entry: str, seconds: int) -> None:
    got = world.knock(CLIENT, key, body)
    assert got.status == 200, got.body
    assert json.loads(got.body)["whitelisted_entry"] == entry
    assert json.loads(got.body)["expires_in_seconds"] == seconds


@pytest.mark.parametrize(
    ("status", "error", "client", "key", "body"),
    [
        (400, "Could not determine client IP.", "garbage", KEY, b""),
        (400, "Could not determine client IP.", "", KEY, b""),
        (400, "Could not determine client IP.", "127.0.0.1", KEY, b""),
        (400, "Could not determine client IP.", "127.9.9.9", KEY, b""),
        (400, "Could not determine client IP.", "169.254.1.1", KEY, b""),
        (400, "Could not determine client IP.", "fe80::5", KEY, b""),
        (400, "Could not determine client IP.", str(OWN.members[0]), KEY, b""),
        (400, "Could not determine client IP.", str(GATEWAYS.members[0]), KEY, b""),
        (400, "Could not determine client IP.", "198.51.100.77", KEY, b""),
        (400, "Could not determine client IP.", "198.51.100.77", "wrong-key-0123456789abcdef", b"{"),
        (401, "Invalid or missing API key.", CLIENT, "wrong-key-0123456789abcdef", b"{"),
        (400, "Malformed JSON request body.", CLIENT, KEY, b"{"),
        (400, "Malformed JSON request body.", CLIENT, KEY, b'{"ttl": 5, "ttl": 6}'),
        (400, "Malformed JSON request body.", CLIENT, KEY, b"\xff"),
        (400, "Malformed JSON request body.", CLIENT, KEY, b'{"ttl": NaN}'),
        (400, "Malformed JSON request body.", CLIENT, KEY, b"[" * 4000),
        (400, "Request body must be a JSON object.", CLIENT, KEY, b"[]"),
        (400, "Request body must be a JSON object.", CLIENT, KEY, b'"x"'),
        (400, "Invalid request data.", CLIENT, KEY, b'{"ip": "1.2.3.4"}'),
        (400, "Invalid TTL specified. Must be a positive integer.", CLIENT, KEY, b'{"ttl": 0}'),
        (400, "Invalid TTL specified. Must be a positive integer.", CLIENT, KEY, b'{"ttl": true}'),
        (400, "Invalid TTL specified. Must be a positive integer.", CLIENT, KEY, b'{"ttl": 1.0}'),
        (400, "Invalid TTL specified. Must be a positive integer.", CLIENT, KEY, b'{"ttl": "5"}'),
        (400, BAD_ADDRESS, CLIENT, ADMIN, b'{"ip_address": "x"}'),
        (400, BAD_ADDRESS, CLIENT, ADMIN, b'{"ip_address": "127.0.0.5"}'),
        (400, BAD_ADDRESS, CLIENT, ADMIN, b'{"ip_address": "0.0.0.0/0"}'),
        (400, BAD_ADDRESS, CLIENT, ADMIN, b'{"ip_address": "203.0.113.0/24"}'),
        (400, BAD_ADDRESS, CLIENT, ADMIN, b'{"ip_address": "198.51.100.77"}'),
        (400, "CIDR range is too broad.", CLIENT, ADMIN, b'{"ip_address": "10.0.0.0/15"}'),
        (400, "CIDR range is too broad.", CLIENT, ADMIN, b'{"ip_address": "2001:db8::/47"}'),
        (400, "CIDR range is too broad.", CLIENT, ADMIN, b'{"ip_address": "64:ff9b::/120"}'),
        (403, "API key lacks remote whitelist permission.", CLIENT, KEY, b'{"ip_address": "1.2.3.4"}'),
        (403, "API key lacks remote whitelist permission.", CLIENT, KEY, b'{"ip_address": "198.51.100.7"}'),
    ],
)  # fmt: skip
def test_a_refusal_has_the_contracts_status_and_text(
    world: World, status: int, error: str, client: str, key: str, body: bytes
) -> None:
    got = world.knock(client, key, body)
    assert (got.status, error_of(got.body)) == (status, error)
    assert len(world.whitelist) == 0
    assert not (world.folder / "whitelist.json").exists()


def test_a_refusal_tells_the_admin_which_setting_mends_it(world: World, errors: Errors) -> None:
    world.knock("198.51.100.77")
    assert any("server.shared_addresses" in line for line in errors.lines)
    assert not any(KEY in line for line in errors.lines)


@pytest.mark.parametrize(
    "lines",
    [[], [""], [KEY, KEY], [KEY, "x"], [KEY + " x"], [KEY.upper()], ["a" * 257], ["é" * 20], [KEY[:-1]]],
)
def test_the_key_is_presented_exactly_once_and_byte_for_byte(world: World, lines: list[str]) -> None:
    got = world.ask("/knock", CLIENT, "POST", headers=[("X-Api-Key", line) for line in lines])
    assert (got.status, error_of(got.body)) == (401, "Invalid or missing API key.")


def test_forwarded_headers_of_an_untrusted_peer_are_named(world: World) -> None:
    got = world.ask("/knock", CLIENT, key=KEY, peer="198.51.100.3")
    assert (got.status, error_of(got.body)) == (400, "Forwarded headers from a peer that is not a trusted proxy.")
    assert world.ask("/knock", key=KEY, peer="198.51.100.3").status == 200, "a direct client is its own peer"
    assert world.ask("/verify", peer="198.51.100.3").status == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "TRACE", "BREW", "get"])
def test_another_method_grants_nothing_and_learns_which_are_allowed(world: World, method: str) -> None:
    got = world.knock(CLIENT, method=method)
    assert (got.status, got.headers["allow"]) == (405, "GET, POST, DELETE, OPTIONS")
    assert len(world.whitelist) == 0


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/x-www-form-urlencoded", 200),
        ("text/plain", 415),
        ("multipart/form-data; boundary=x", 415),
    ],
)
def test_the_declared_type_of_a_body_is_json_or_curls_default(world: World, content_type: str, status: int) -> None:
    got = world.ask("/knock", CLIENT, "POST", [("Content-Type", content_type)], b'{"ttl": 5}', key=KEY)
    assert got.status == status


def test_a_preflight_is_answered_for_browsers(tmp_path: Path) -> None:
    world = World(tmp_path)
    got = world.ask(
        "/knock", CLIENT, "OPTIONS", [("Origin", "https://a.example"), ("Access-Control-Request-Method", "POST")]
    )
    assert (got.status, got.body) == (204, b"")
    assert got.headers["access-control-allow-origin"] == "*"
    assert got.headers["access-control-allow-methods"] == "GET, POST, DELETE"
    assert got.headers["access-control-allow-headers"] == "X-Api-Key, Content-Type"
    one = World(tmp_path, SETTINGS + "cors: {allowed_origin: https://page.example.com}\n")
    got = one.knock(CLIENT)
    assert got.headers["access-control-allow-origin"] == "https://page.example.com"
    assert got.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in one.ask("/verify", CLIENT).headers


def test_a_knock_never_shortens_its_keys_own_grant_unless_it_names_a_time(world: World) -> None:
    world.knock(CLIENT, body=b'{"ttl": 1200}')
    got = json.loads(world.knock(CLIENT).body)
    assert got["expires_in_seconds"] == 1200
    got = json.loads(world.knock(CLIENT, body=b'{"ttl": 5}').body)
    assert got["expires_in_seconds"] == 5
    world.knock(CLIENT, ADMIN)
    world.pass_time(6)
    assert world.verdict(CLIENT) == 200, "the other key's grant was not touched"


def test_leaving_closes_the_own_grant_of_that_key_alone(world: World) -> None:
    world.knock(CLIENT)
    world.knock(CLIENT, ADMIN)
    assert world.knock(CLIENT, method="DELETE").status == 204
    assert world.verdict(CLIENT) == 200
    assert world.knock(CLIENT, ADMIN, method="DELETE").status == 204
    assert world.verdict(CLIENT) == 401
    assert world.knock(CLIENT, method="DELETE").status == 204, "also when there was none"
    assert world.knock(CLIENT, "wrong-key-0123456789abcdef", method="DELETE").status == 401


def test_leaving_also_closes_what_an_admin_opened_for_the_own_address(world: World) -> None:
    world.knock(CLIENT, ADMIN, b'{"ip_address": "%s"}' % CLIENT.encode())
    world.knock(CLIENT, ADMIN, b'{"ip_address": "9.9.9.9"}')
    assert world.knock(CLIENT, ADMIN, method="DELETE").status == 204
    assert (world.verdict(CLIENT), world.verdict("9.9.9.9")) == (401, 200)


def test_an_ipv6_knock_opens_the_keys_prefix(tmp_path: Path) -> None:
    text = SETTINGS.replace("api_keys:", "whitelist: {ipv6_prefix: 64}\napi_keys:")
    world = World(tmp_path, text)
    assert json.loads(world.knock("2001:db8:7::1").body)["whitelisted_entry"] == "2001:db8:7::/64"
    assert (world.verdict("2001:db8:7::2"), world.verdict("2001:db8:7:1::1")) == (200, 401)
    got = json.loads(world.knock("2002:c000:201::1").body)
    assert got["whitelisted_entry"] == "2002:c000:201::1", "where the wider network is not allowed, the address alone"
    assert world.knock("2001:db8:7::ffff", method="DELETE").status == 204
    assert world.verdict("2001:db8:7::1") == 401


def test_a_full_whitelist_refuses_and_evicts_nobody(tmp_path: Path) -> None:
    world = World(tmp_path, SETTINGS.replace("api_keys:", "whitelist: {max_entries: 2}\napi_keys:"))
    assert [world.knock(f"198.51.100.{host}").status for host in (1, 2)] == [200, 200]
    got = world.knock("198.51.100.3")
    assert (got.status, error_of(got.body)) == (503, "The whitelist is full.")
    assert [world.verdict(f"198.51.100.{host}") for host in (1, 2, 3)] == [200, 200, 401]
    assert world.knock("198.51.100.1").status == 200, "who is in may stay"
    world.pass_time(601)
    assert world.knock("198.51.100.3").status == 200, "room comes back with time"


def test_loopback_may_be_let_in_only_when_the_setting_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, SETTINGS.replace("server: {", "server: {allow_loopback_clients: true, "))
    assert json.loads(world.knock("127.0.0.1").body)["whitelisted_entry"] == "127.0.0.1"
    assert world.verdict("127.0.0.1") == 200
    assert world.verdict("127.0.0.1, ::1") == 200, "a chain of only proxies whose left-most item is loopback"
    assert world.knock("::1").status == 200
    assert world.verdict("198.51.100.9, 127.0.0.1") == 401


@pytest.mark.parametrize(
    "path",
    [
        "/page",
        "/page/",
        "/page/nope",
        "/page/../knock",
        "/nope",
        "//knock",
        "/%6bnock",
        "/knock/",
        "/KNOCK",
        "/knock/..",
        "/%ff",
        "/grants/",
        "*",
    ],
)
def test_an_unknown_path_is_a_json_404(world: World, path: str) -> None:
    got = world.ask(path, CLIENT, key=ADMIN)
    assert (got.status, error_of(got.body)) == (404, "Not found.")
    assert len(world.whitelist) == 0


def test_health_is_cheap_and_ready_gives_reasons(world: World) -> None:
    got = world.ask("/health")
    assert (got.status, json.loads(got.body)) == (200, {"status": "ok"})
    assert world.ask("/ready").status == 200
    world.house.complaints = lambda: ["the reaper's last round failed"]
    got = world.ask("/ready")
    assert (got.status, json.loads(got.body)["reasons"]) == (503, ["the reaper's last round failed"])
    assert world.ask("/health", method="HEAD").body == b""
    assert world.ask("/health", method="POST").status == 405


def test_what_a_request_holds_cannot_forge_a_line_of_the_log(world: World, errors: Errors) -> None:
    world.ask("/knock\x1b[31m", CLIENT, headers=[("X-Forwarded-Uri", "/x")])
    world.ask("/nope{key}{0}", CLIENT, headers=[("X-Forwarded-Uri", "/x")])
    world.pass_time(61)
    world.ask("/nope{key}\xe9{0}", CLIENT, headers=[("X-Forwarded-Uri", "/x")])
    assert all(line.isascii() and line.isprintable() for line in errors.lines)
    assert any("/nope{key}" in line for line in errors.lines)


def test_a_client_that_leaves_while_its_knock_is_stored_is_let_in_all_the_same(world: World, errors: Errors) -> None:
    disk = Disk(world)
    channel, _ = world.connect()
    channel.dataReceived(
        f"POST /knock HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: {CLIENT}\r\nX-Api-Key: {KEY}\r\n\r\n".encode()
    )
    world.clock.advance(0)
    hang_up(channel)
    disk.succeed()
    assert world.verdict(CLIENT) == 200
    assert errors.events == []


@pytest.mark.parametrize(("path", "broken"), [("/knock", "surroundings"), ("/ready", "complaints")])
def test_a_mistake_of_ours_is_answered_and_logged_once(
    world: World, path: str, broken: str, monkeypatch: pytest.MonkeyPatch, errors: Errors
) -> None:
    def boom() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(world.house, broken, boom)
    for _ in range(3):
        got = world.ask(path, CLIENT, key=KEY)
        assert (got.status, error_of(got.body)) == (500, "Internal error.")
    (event,) = errors.expected()
    assert "Too many open files" in str(event["log_failure"])


@pytest.mark.parametrize("host", ["\xff", "a..b", ".", "a" * 64 + ".example.com", "[::1", "", "x y"])
@pytest.mark.parametrize("path", ["/health", "/nope", "/%41"])
def test_an_odd_host_changes_no_answer_and_leaves_no_line_in_the_log(
    world: World, host: str, path: str, errors: Errors
) -> None:
    for method in ("GET", "HEAD"):
        raw = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")
        got = answer(world.send(raw))
        assert got.status == (200 if path == "/health" else 404)
        assert got.headers["content-type"] == "application/json"
        assert bool(got.body) is (method == "GET")
    assert errors.lines == []


def test_the_end_that_an_answer_names_is_the_nearer_one(world: World) -> None:
    world.knock(CLIENT)
    world.pass_time(0, step=-3000)
    got = json.loads(world.knock(CLIENT).body)
    assert got["expires_at"] - int(world.wall) == got["expires_in_seconds"] == 600
