"""The real Caddy asks the real Knocker, for clients with real addresses: after the first recipe and after ours."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.net import (
    CDN,
    HOME,
    HOME_6,
    SERVER,
    SERVER_6,
    Bench,
)
from tests.proxies.conftest import KEYS, RECIPES, Builder, Gateway, reached, settings
from tests.service import Server, eventually

Fresh = Callable[[], str]


def _headers(lines: list[str]) -> list[str]:
    return [argument for line in lines for argument in ("-H", line)]


# --- A knock opens, for its own address and for its time -------------------------------------------------------------


def test_a_stranger_is_turned_away_with_an_empty_answer(gateway: Gateway, fresh: Fresh) -> None:
    answer = gateway.get("/", fresh())
    assert answer.status == 401
    assert answer.body == b""
    assert answer.lines("Cache-Control") == ["no-store"]
    assert "twisted" not in str(answer.headers).lower()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_knock_opens_for_its_own_address_and_for_no_other(gateway: Gateway, fresh: Fresh, method: str) -> None:
    client, other = fresh(), fresh()
    assert not gateway.lets_in(client)
    answer = gateway.knock(client, "-X", method)
    now = time.time()
    assert answer.status == 200
    assert answer.lines("Content-Type") == ["application/json"]
    told = answer.json()
    assert told == {"whitelisted_entry": client, "expires_at": told["expires_at"], "expires_in_seconds": 3600}
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
    assert gateway.lets_in(client)
    eventually(lambda: not gateway.lets_in(client), "the grant of 2 s is over", seconds=4)
    assert 1 <= time.monotonic() - start <= 3.5


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


@pytest.mark.parametrize(
    "path",
    [
        "/metricsx",
        "/METRICS",
        "/admin?/metrics",
        "/?x=/metrics",
        "/admin/metrics",
        "/metrics/../admin",
        "/metrics/..",
        "/metrics/./x",
        "/metrics/.",
        "/metrics//x",
        "//metrics",
        "/metrics/%2e%2e/admin",
        "/metrics/..%2fadmin",
        "/metrics%2f..%2fadmin",
        "/metrics/..;/admin",
        "/metrics;/../admin",
        "/metrics/..%5cadmin",
        "/metrics/..\\admin",
        "/metrics%00",
        "/%6detrics",
        "/api/v1/status/../../../admin",
        "//admin/metrics/?x=://y",
        "/metrics/%ff",
        "/metrics/\xe4",
    ],
)
def test_whatever_could_be_read_as_another_path_is_not(gateway: Gateway, bench: Bench, path: str) -> None:
    answer = gateway.get("/", bench.stranger_6(), "--request-target", path)
    assert answer.status in (400, 401)
    assert not reached(answer)


@pytest.mark.parametrize("client", [HOME, HOME_6])
def test_an_always_allowed_network_needs_no_knock(gateway: Gateway, client: str) -> None:
    assert gateway.lets_in(client)


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
def test_not_even_an_admin_key_opens_for_what_stands_for_many(gateway: Gateway, bench: Bench, named: str) -> None:
    answer = gateway.knock(bench.stranger(), "-d", json.dumps({"ip_address": named}), key="admin")
    assert answer.status == 400


# --- A client that lies ----------------------------------------------------------------------------------------------

FORGED = {
    "a forwarded address that is always allowed": [f"X-Forwarded-For: {HOME}"],
    "two of them": [f"X-Forwarded-For: {HOME}", f"X-Forwarded-For: {HOME_6}"],
    "the proxy's own address": ["X-Forwarded-For: 127.0.0.1"],
    "every other header that names an address": [
        f"X-Real-IP: {HOME}",
        f"Forwarded: for={HOME}",
        f"CF-Connecting-IP: {HOME}",
        f"True-Client-IP: {HOME}",
        f"X-Client-IP: {HOME}",
        f"X_Forwarded_For: {HOME}",
    ],
    "an excluded path": ["X-Forwarded-Uri: /metrics"],
    "an excluded path by other names": [
        "X-Original-URI: /metrics",
        "X-Original-URL: /metrics",
        "X-Rewrite-URL: /metrics",
    ],
    "another method": ["X-Forwarded-Method: OPTIONS", "X-HTTP-Method-Override: OPTIONS"],
    "another host": ["X-Forwarded-Host: elsewhere.example.com"],
    "headers struck out by Connection": [
        "Connection: close, X-Forwarded-For, X-Forwarded-Uri, X-Forwarded-Method, X-Forwarded-Host"
    ],
    "a websocket": [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: eA==",
    ],
    "a key for the app": [f"X-Api-Key: {KEYS['admin']}"],
    "a long cookie": ["Cookie: " + "a" * 12000],
    "a cookie too long for anybody": ["Cookie: " + "a" * 17000],
}


@pytest.mark.parametrize("lines", FORGED.values(), ids=FORGED.keys())
def test_forged_headers_let_no_stranger_in(gateway: Gateway, bench: Bench, lines: list[str]) -> None:
    answer = gateway.get("/admin", bench.stranger(), *_headers(lines))
    assert not reached(answer)
    assert answer.status == 401 or (answer.status in (400, 431, 502) and len(lines[0]) > 16000), answer


@pytest.mark.parametrize("lines", FORGED.values(), ids=FORGED.keys())
def test_forged_headers_do_not_shut_out_who_has_knocked(gateway: Gateway, bench: Bench, lines: list[str]) -> None:
    client = bench.stranger()
    gateway.knock(client)
    answer = gateway.get("/admin", client, *_headers(lines))
    if len(lines[0]) <= 16000:
        assert answer.status == 200
        assert answer.json()["forwarded_for"] == [client]


@pytest.mark.parametrize("lines", list(FORGED.values())[:4], ids=list(FORGED)[:4])
def test_forged_headers_do_not_change_whom_a_knock_is_for(gateway: Gateway, bench: Bench, lines: list[str]) -> None:
    client = bench.stranger()
    assert gateway.knock(client, *_headers(lines)).json()["whitelisted_entry"] == client
    assert gateway.lets_in(client)


def test_a_knock_that_looks_like_a_proxy_asking_opens_nothing(gateway: Gateway, bench: Bench) -> None:
    client = bench.stranger()
    answer = gateway.knock(client, "-H", "X-Forwarded-Uri: /", "-H", "X-Forwarded-Method: GET")
    assert answer.status in (200, 401)  # ours strips them, the first recipe passes them on
    assert gateway.lets_in(client) == (answer.status == 200)


# --- What the app sees -----------------------------------------------------------------------------------------------


def test_the_app_sees_the_clients_address_and_nothing_else(gateway: Gateway, fresh: Fresh) -> None:
    client = fresh()
    gateway.knock(client)
    assert gateway.get("/", client).json()["forwarded_for"] == [client]
    forged = gateway.get("/", client, "-H", "X-Forwarded-For: 203.0.113.99, 10.0.0.1")
    assert forged.json()["forwarded_for"] == [client]


def test_the_app_sees_what_the_client_sent(gateway: Gateway, bench: Bench) -> None:
    client = bench.stranger()
    gateway.knock(client)
    answer = gateway.get("/a%2Fb/..;/c?d=%20", client, "-H", "Cookie: session=1", "-H", "Authorization: Basic eDp5")
    told = answer.json()
    assert told["path"] == "/a%2Fb/..;/c?d=%20"
    assert told["cookie"] == ["session=1"]
    assert told["authorization"] == ["Basic eDp5"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
def test_every_method_is_guarded_and_reaches_the_app(gateway: Gateway, bench: Bench, method: str) -> None:
    client = bench.stranger_6()
    assert gateway.get("/", client, "-X", method).status == 401
    gateway.knock(client)
    assert gateway.get("/", client, "-X", method).json()["method"] == method


@pytest.mark.parametrize("line", ["Expect:", "Expect: 100-continue", "Transfer-Encoding: chunked"])
def test_a_body_reaches_the_app_whole(gateway: Gateway, bench: Bench, tmp_path: Path, line: str) -> None:
    client = bench.stranger_6()
    body = "0123456789abcdef" * 20_000
    file = tmp_path / "body"
    file.write_text(body)
    upload = ["-H", "Content-Type: text/plain", "-H", line, "--data-binary", f"@{file}"]
    assert gateway.get("/", client, *upload).status == 401
    gateway.knock(client)
    told = gateway.get("/upload", client, *upload).json()
    assert told["method"] == "POST"
    assert told["body"] == body


# --- Whatever goes wrong, nobody gets in -----------------------------------------------------------------------------


def _shut(gateway: Gateway, clients: list[str]) -> None:
    for client in clients:
        for path in ("/", "/metrics"):
            answer = gateway.get(path, client)
            assert not reached(answer)
            assert answer.status >= 500


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_without_knocker_nobody_gets_in(build: Builder, bench: Bench, recipe: str) -> None:
    gateway = build.gateway(recipe)
    client = bench.stranger()
    gateway.knock(client)
    assert gateway.lets_in(client)
    assert gateway.knocker.terminate() == 0
    _shut(gateway, [client, bench.stranger(), HOME])
    gateway.knocker.start()
    assert gateway.lets_in(client)
    gateway.knocker.kill()
    _shut(gateway, [client, bench.stranger(), HOME])


def test_a_knocker_that_hangs_lets_nobody_in(build: Builder, bench: Bench) -> None:
    gateway = build.gateway("ours")
    client = bench.stranger()
    gateway.knock(client)
    gateway.knocker.signal(signal.SIGSTOP)
    try:
        answer = gateway.get("/", client, "--max-time", "8")
        assert not reached(answer)
        assert answer.status >= 500
    finally:
        gateway.knocker.signal(signal.SIGCONT)
    assert gateway.lets_in(client)


WRONG = ["/ready", "/knock", "/grants", "/explain", "/", "/openapi.json", "/verifyx", "/Verify", "//verify", "/knock?"]
TOLD_BY = {
    "the proxy's headers": "",
    "the host, since knock_page.url is set": "header_up -X-Forwarded-Method\nheader_up -X-Forwarded-Uri",
}


@pytest.fixture(scope="module", params=list(TOLD_BY.values()), ids=list(TOLD_BY))
def astray(
    request: pytest.FixtureRequest, bench: Bench, app: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway whose proxy asks Knocker at the address that a request names in X-Ask."""
    builder = Builder(bench, tmp_path_factory.mktemp("astray"))
    knock_page = {"knock_page": {"url": "https://knock.example.com/"}} if request.param else {}
    try:
        knocker = builder.knocker({**settings("app.example.com"), **knock_page})
        yield builder.beside(knocker, f"uri {{http.request.header.X-Ask}}\n{request.param}")
    finally:
        builder.close()


@pytest.mark.parametrize("uri", WRONG)
def test_a_proxy_that_asks_at_a_wrong_address_lets_nobody_in(astray: Gateway, bench: Bench, uri: str) -> None:
    """Not even those whom a knock at that very address would let in, or has let in."""
    client = bench.stranger_6()
    assert astray.knock(client).status == 200
    assert reached(astray.get("/", client, "-H", "X-Ask: /verify"))
    for source in (client, bench.stranger_6(), HOME):
        for path, key in (("/", "phone"), ("/", "admin"), ("/metrics", "phone")):
            answer = astray.get(path, source, "-H", f"X-Ask: {uri}", "-H", f"X-Api-Key: {KEYS[key]}")
            assert not reached(answer)
            assert answer.status == 401
    assert "/verify" in astray.knocker.log


def test_a_proxy_in_front_of_caddy_is_seen_through(build: Builder, bench: Bench) -> None:
    """A content delivery network whose addresses Caddy and Knocker both trust: the client is the one it names."""
    told = dict(settings("app.example.com"))
    told["server"] = {"trusted_proxies": ["127.0.0.1", CDN]}
    knocker = build.knocker(told)
    gateway = build.beside(
        knocker,
        "uri /verify\ncopy_headers X-Forwarded-For",
        options=f"servers {{\ntrusted_proxies static {CDN}\ntrusted_proxies_strict\n}}",
    )

    def through(client: str) -> list[str]:
        return ["-H", f"X-Forwarded-For: {client}"]

    answer = gateway.knock(CDN, *through("203.0.113.7"))
    assert answer.json()["whitelisted_entry"] == "203.0.113.7"
    inside = gateway.get("/", CDN, *through("203.0.113.7"))
    assert inside.json()["forwarded_for"] == [f"203.0.113.7, {CDN}"]
    # What stands left of the client was written by it.
    assert gateway.get("/", CDN, *through("198.51.100.253, 203.0.113.7")).status == 200
    assert gateway.get("/", CDN, *through("203.0.113.7, 203.0.113.8")).status == 401
    for nobody in ("", "unknown", "203.0.113.7, unknown", "203.0.113.007", "fe80::1%eth0", CDN, "127.0.0.1"):
        assert gateway.get("/", CDN, *through(nobody)).status == 401, nobody
        assert gateway.knock(CDN, *through(nobody)).status == 400, nobody
    # And who comes past it is seen as what it is.
    assert gateway.get("/", bench.stranger(), *through("203.0.113.7")).status == 401


# --- Our own Caddyfile -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/verify",
        "/verify/",
        "/ready",
        "/metrics",
        "/openapi.json",
        "/canaries",
        "/knock/../verify",
        "/knock%2f..%2fverify",
    ],
)
def test_our_caddyfile_publishes_no_more_than_clients_need(ours: Gateway, bench: Bench, path: str) -> None:
    for client in (bench.stranger_6(), HOME):
        assert ours.ask_knocker(path, client).status == 404


def test_our_caddyfile_works_over_https_and_http_2(build: Builder, bench: Bench) -> None:
    """As its users have it, with a certificate; only that this one is Caddy's own."""
    gateway = build.gateway("ours", "https")
    for client in (bench.stranger(), bench.stranger_6()):
        for version in ("--http1.1", "--http2"):
            assert gateway.get("/", client, version).status == 401
            answer = gateway.knock(client, version)
            assert answer.json()["whitelisted_entry"] == client
            inside = gateway.get("/x?y", client, version)
            assert inside.json()["forwarded_for"] == [client]
            assert inside.json()["path"] == "/x?y"
            assert gateway.knock(client, version, "-X", "DELETE").status == 204


def test_our_caddyfile_keeps_from_knocker_what_is_not_its_business(ours: Gateway, bench: Bench) -> None:
    """A long cookie would else be too much for Knocker's limits, and shut out who has knocked."""
    client = bench.stranger()
    ours.knock(client)
    cookie = "Cookie: " + "a" * 15000
    assert ours.get("/", client, "-H", cookie, "-H", "X-Original-URI: /other").json()["cookie"] == ["a" * 15000]
    assert ours.get("/metrics", bench.stranger_6(), "-H", "X-Original-URI: /other").status == 200
