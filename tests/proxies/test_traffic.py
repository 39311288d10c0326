"""Every proxy takes to the app what the client sent, and only for who has knocked: bodies, websockets, HTTP/2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.net import Bench
from tests.proxies.conftest import Gateway, reached
from tests.proxies.recipes import RECIPES, all_but

GATEWAYS = all_but("caddy-ours", "caddy-first", "nginx")
Fresh = Callable[[], str]
SECURE = [name for name, recipe in RECIPES.items() if recipe.scheme == "https"]

WEBSOCKET = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


def test_the_app_sees_the_clients_address_and_nothing_else(gateway: Gateway, fresh: Fresh) -> None:
    client = fresh()
    gateway.knock(client)
    assert gateway.get("/", client).json()["forwarded_for"] == [client]
    forged = gateway.get("/", client, "-H", "X-Forwarded-For: 203.0.113.99, 10.0.0.1")
    assert forged.json()["forwarded_for"] == [client]


def test_the_app_sees_what_the_client_sent(gateway: Gateway, bench: Bench) -> None:
    client = bench.stranger_6()
    gateway.knock(client)
    path = "/a/b;c=1/@d!$&'()*+,=:~?e=%20&f=/g"
    told = gateway.get(path, client, "-H", "Cookie: session=1", "-H", "Authorization: Basic eDp5").json()
    assert told["path"] == path
    assert told["cookie"] == ["session=1"]
    assert told["authorization"] == ["Basic eDp5"]
    assert dict(told["headers"])["host"].partition(":")[0] == gateway.recipe.app_host


def test_the_app_sees_the_path_as_it_was_sent_unless_the_proxy_tidies_it_for_knocker_too(
    gateway: Gateway, bench: Bench
) -> None:
    client = bench.stranger_6()
    gateway.knock(client)
    for path in ("/a%2Fb/..;/c//d?e=%20", "/a/./b/../c", "/%61/%2e%2e/b"):
        answer = gateway.send(client, target=path)
        if gateway.name not in ("traefik", "envoy"):
            assert answer.json()["path"] == path


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "HEAD"])
def test_every_method_is_guarded_and_reaches_the_app(gateway: Gateway, bench: Bench, method: str) -> None:
    client = bench.stranger_6()
    assert gateway.send(client, method=method).status == 401
    gateway.knock(client)
    answer = gateway.send(client, method=method)
    assert answer.status == 200
    if method != "HEAD":
        assert answer.json()["method"] == method


@pytest.mark.parametrize("line", ["Expect:", "Expect: 100-continue", "Transfer-Encoding: chunked"])
def test_a_body_reaches_the_app_whole(gateway: Gateway, bench: Bench, tmp_path: Path, line: str) -> None:
    client = bench.stranger_6()
    body = "0123456789abcdef" * 20_000
    file = tmp_path / "body"
    file.write_text(body)
    upload = ["--http1.1", "-H", "Content-Type: text/plain", "-H", line, "--data-binary"]
    assert gateway.get("/", client, *upload, "short").status == 401
    gateway.knock(client)
    told = gateway.get("/upload", client, *upload, f"@{file}").json()
    assert told["method"] == "POST"
    assert told["body"] == body


def test_a_websocket_opens_for_who_has_knocked_alone(gateway: Gateway, fresh: Fresh) -> None:
    client = fresh()
    message: dict[str, Any] = {"then": "\x81\x85" + "\x00" * 4 + "hello", "expect": 7}
    assert gateway.send(client, WEBSOCKET, "/socket", **message).status == 401
    gateway.knock(client)
    answer = gateway.send(client, WEBSOCKET, "/socket", **message)
    assert answer.status == 101
    assert answer.lines("Sec-WebSocket-Accept") == ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]
    assert answer.body == b"\x81\x05hello"


@pytest.mark.parametrize("name", SECURE)
def test_http_2_is_guarded_as_well(gateways: Callable[[str], Gateway], fresh: Fresh, name: str) -> None:
    gateway, client = gateways(name), fresh()
    version = ("--http2", "--write-out", "%{http_version}")
    forged = ("-H", "X-Forwarded-For: 198.51.100.253", "-H", "X-Forwarded-Uri: /metrics", "-H", "X-Real-IP: 127.0.0.1")
    denied = gateway.get("/x?y", client, *version, *forged)
    assert denied.status == 401
    assert denied.body.endswith(b"2")
    assert gateway.get("/metrics", client, "--http2").status == 200
    assert gateway.knock(client, "--http2", *forged).json()["whitelisted_entry"] == client
    inside = gateway.get("/x?y", client, "--http2", *forged)
    assert inside.json()["path"] == "/x?y"
    assert inside.json()["forwarded_for"] == [client]
    posted = gateway.get("/", client, "--http2", "--data", "some text")
    assert posted.json()["body"] == "some text"
    assert gateway.knock(client, "--http2", "-X", "DELETE").status == 204
    assert not reached(gateway.get("/", client, "--http2"))
