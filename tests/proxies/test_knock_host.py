"""Every recipe publishes of Knocker only what clients need, and shows it only what is its business."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator

import pytest

from knocker.listen.knockpage import FILES
from tests.net import HOME, Bench, NoAnswer
from tests.proxies.conftest import HERE, KEYS, Builder, Client, Gateway, reached
from tests.proxies.recipes import all_but
from tests.service import Server

Fresh = Callable[[], str]
GATEWAYS = [name for name in all_but("caddy-ours", "envoy", "traefik") if name != "caddy-first"]

HIDDEN = [
    "/page",
    "/page/",
    "/page/../verify",
    "/page/..%2fverify",
    "/page/nope",
    "/verify",
    "/verify/",
    "/verify/metrics",
    "/VERIFY",
    "//verify",
    "/ready",
    "/metrics",
    "/explain/",
    "/openapi.json",
    "/canaries/",
    "/healthx",
    "/knock/../verify",
    "/knock%2f..%2fverify",
    "/grants/../verify",
    "/grants/%2e%2e/verify",
    "/grants/..%2fverify",
    "/grants/..;/verify",
    "/grants/..%5cverify",
    "/grants//../../verify",
    "/_knocker",
]


@pytest.mark.parametrize("path", HIDDEN)
def test_no_more_is_published_than_clients_need(gateway: Gateway, nobodies: list[str], path: str) -> None:
    for client in (nobodies[1], HOME):
        for site in (gateway.recipe.knock_host, gateway.recipe.app_host):
            try:
                answer = gateway.send(client, [], path, site=site)
            except NoAnswer:
                continue
            if site == gateway.recipe.knock_host:
                assert answer.status in (400, 404), answer


def test_people_find_the_knock_page_and_all_that_it_loads(gateway: Gateway, nobodies: list[str]) -> None:
    page = gateway.ask_knocker("/", nobodies[1])
    assert (page.status, page.lines("Content-Type")) == (200, ["text/html; charset=utf-8"])
    assert "frame-ancestors 'none'" in page.lines("Content-Security-Policy")[0]
    for name, (content_type, content) in FILES.items():
        file = gateway.ask_knocker(f"/page/{name}", nobodies[1])
        assert (file.status, file.lines("Content-Type"), file.body) == (200, [content_type.decode()], content)


def test_an_admin_is_told_whom_the_proxy_says_that_he_is(gateway: Gateway, bench: Bench) -> None:
    client = bench.stranger_6()
    admin = ("-H", f"X-Api-Key: {KEYS['admin']}")
    found = gateway.ask_knocker("/explain", client, *admin).json()
    assert (found["ip"], found["cause"], found["steps"][0]["step"]) == (client, "no_grant", "client")
    asked = gateway.ask_knocker("/explain?ip=198.51.100.250&host=app.example.com&path=/metrics", client, *admin).json()
    assert (asked["ip"], asked["host"], asked["cause"]) == ("198.51.100.250", "app.example.com", "excluded_path")
    assert gateway.ask_knocker("/explain", client, "-H", f"X-Api-Key: {KEYS['phone']}").status == 403


def test_a_client_sees_and_closes_its_own_grants(gateway: Gateway, bench: Bench) -> None:
    client = bench.stranger_6()
    gateway.knock(client)
    key = ("-H", f"X-Api-Key: {KEYS['phone']}")
    grants = gateway.ask_knocker("/grants?host=app.example.com", client, *key).json()["grants"]
    (grant,) = [grant for grant in grants if grant["entry"] == client]
    assert gateway.ask_knocker(f"/grants/{grant['id']}", client, *key, "-X", "DELETE").status == 204
    assert not gateway.lets_in(client)


def test_a_page_of_another_origin_may_knock(gateway: Gateway, bench: Bench) -> None:
    asked = ["Origin: https://knock.example.org", "Access-Control-Request-Method: POST"]
    answer = gateway.send(bench.stranger_6(), asked, "/knock", method="OPTIONS", site="knock.example.com")
    assert answer.status == 204
    assert answer.lines("Access-Control-Allow-Origin") == ["*"]


FORGED = [
    "X-Forwarded-For: forged",
    "X-Forwarded-For: forged, as well",
    "X-Forwarded-Host: forged",
    "X-Forwarded-Uri: /forged",
    "X-Forwarded-Method: FORGED",
    "X-Original-URI: /forged",
    "X-Original-URL: /forged",
    "X-Original-Method: FORGED",
    "X-Real-IP: forged",
    "Forwarded: for=forged",
    "X_Forwarded_For: forged",
    "X_Forwarded_Uri: /forged",
    "X_Real_IP: forged",
    "Cookie: session=forged",
    "Authorization: Basic forged",
]


@pytest.fixture(scope="module", params=GATEWAYS)
def overheard(
    request: pytest.FixtureRequest,
    bench: Bench,
    client: Client,
    app: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Gateway, Server]]:
    """A gateway, and in its Knocker's place a server that writes down what it hears, and says yes."""
    builder = Builder(bench, client, tmp_path_factory.mktemp("overheard"))
    folder = tmp_path_factory.mktemp("stand-in")
    (folder / "status").write_text("200")
    try:
        gateway = builder.gateway(request.param)
        gateway.knocker.kill()
        port = gateway.knocker.port
        with Server([sys.executable, str(HERE / "stand_in.py"), str(port)], folder, port, bench.server) as stand_in:
            yield gateway, stand_in
    finally:
        builder.close()


def _heard(stand_in: Server) -> tuple[str, str, dict[str, list[str]]]:
    """The last request: method, path and headers, where nothing that was forged is among them."""
    last = stand_in.log.splitlines()[-1]
    assert "forged" not in last.lower()
    told = json.loads(last)
    headers: dict[str, list[str]] = {}
    for name, value in told["headers"]:
        headers.setdefault(name, []).append(value)
    return told["method"], told["path"], headers


@pytest.mark.parametrize("target", ["/a/path?with=query", "/%61/..;/b?%20"])
def test_a_question_has_the_proxys_word_alone(overheard: tuple[Gateway, Server], fresh: Fresh, target: str) -> None:
    (gateway, stand_in), client = overheard, fresh()
    lines = [*FORGED, "Content-Type: text/plain", "Content-Length: 6"]
    assert reached(gateway.send(client, lines, target, method="POST", body="forged"))
    method, path, headers = _heard(stand_in)
    if gateway.name == "envoy":
        assert method == "POST"
        assert path.startswith("/verify/")
        assert "x-forwarded-uri" not in headers
    else:
        assert (method, path) == ("GET", "/verify")
        assert headers["x-forwarded-method"] == ["POST"]
        if gateway.name != "traefik":
            assert headers["x-forwarded-uri"] == [target]
    assert headers["x-forwarded-for"] == [client]
    assert [host.partition(":")[0] for host in headers["x-forwarded-host"]] == ["app.example.com"]
    assert headers.get("content-length", ["0"]) == ["0"]
    assert "transfer-encoding" not in headers


def test_a_knock_has_the_clients_key_and_nothing_that_a_proxy_says_in_a_question(
    overheard: tuple[Gateway, Server], fresh: Fresh
) -> None:
    (gateway, stand_in), client = overheard, fresh()
    lines = [*FORGED, "X-Api-Key: some-key", "Content-Type: application/json", "Content-Length: 2"]
    answer = gateway.send(client, lines, "/knock", method="POST", site="knock.example.com", body="{}")
    assert answer.status == 200
    method, path, headers = _heard(stand_in)
    assert (method, path) == ("POST", "/knock")
    assert headers["x-api-key"] == ["some-key"]
    assert headers["content-type"] == ["application/json"]
    assert headers["x-forwarded-for"] == [client]
    assert not {"x-forwarded-uri", "x-forwarded-method", "x-original-uri"} & headers.keys()


@pytest.mark.parametrize("chunked", [False, True], ids=["by its length", "by its chunks"])
def test_a_body_that_no_knock_needs_is_refused_by_the_proxy_already(
    overheard: tuple[Gateway, Server], nobodies: list[str], chunked: bool
) -> None:
    (gateway, _), text = overheard, "x" * 5000
    line, body = (
        ("Transfer-Encoding: chunked", f"1388\r\n{text}\r\n0\r\n\r\n") if chunked else ("Content-Length: 5000", text)
    )
    answer = gateway.send(nobodies[0], [line], "/knock", method="POST", site="knock.example.com", body=body)
    assert answer.status == 413


def test_the_app_hears_nothing_forged_of_the_clients_address(overheard: tuple[Gateway, Server], fresh: Fresh) -> None:
    (gateway, _), client = overheard, fresh()
    told = dict(gateway.send(client, FORGED).json()["headers"])
    assert told["x-forwarded-for"] == client
    assert told.get("x-real-ip", client) in (client, "forged")
