"""Knocker on a unix socket, asked by the real Caddy and nginx: their recipes with its path instead of its port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net import HOME, Bench
from tests.proxies.conftest import APP_PORT, KEYS, Builder, Client, Gateway, reached, settings
from tests.proxies.recipes import RECIPES, Place, Recipe, nginx, with_certificate
from tests.service import Caddy, Server, SocketKnocker, eventually, replaced


def _caddy(place: Place, socket: Path) -> Server:
    text = replaced(
        place.text("Caddyfile"),
        {
            "127.0.0.1:8000": f"unix/{socket}",
            "127.0.0.1:8096": f"127.0.0.1:{place.app}",
            "\nknock.example.com {": f"\nhttps://knock.example.com:{place.port} {{",
            "\napp.example.com {": f"\nhttps://app.example.com:{place.port} {{",
        },
    )
    return Caddy(place.directory, text, place.port, place.prefix)


def _nginx(place: Place, socket: Path) -> Server:
    ports = {"listen 443 ": f"listen {place.port} ", "listen [::]:443 ": f"listen [::]:{place.port} "}
    places = {"server 127.0.0.1:8000;": f"server unix:{socket};", "127.0.0.1:8096": f"127.0.0.1:{place.app}"}
    text = with_certificate(place, place.text("nginx.conf"))
    return nginx(place.directory, replaced(text, ports | places), place.port, place.prefix)


STARTS = {"caddy": _caddy, "nginx": _nginx}


@pytest.fixture(scope="module", params=sorted(STARTS))
def on_a_socket(
    request: pytest.FixtureRequest, bench: Bench, client: Client, app: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A proxy, and the Knocker that it asks over a unix socket."""
    recipe: Recipe = RECIPES[request.param]
    folder = tmp_path_factory.mktemp("socket")
    told = dict(settings(recipe.app_host))
    told["server"] = {"trusted_proxies": ["unix"]}
    knocker = SocketKnocker(folder, told, prefix=bench.server)
    builder = Builder(bench, client, tmp_path_factory.mktemp("proxy"))
    try:
        knocker.start()
        proxy = builder.server(
            lambda place, port: STARTS[request.param](Place(place, port, 0, APP_PORT, bench.server), knocker.socket)
        )
        gateway = Gateway(request.param, bench, client, proxy, knocker, recipe)
        eventually(gateway.answers, "the proxy answers for both hosts", seconds=20)
        yield gateway
    finally:
        builder.close()
        knocker.end(*KEYS.values())


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_knock_opens_for_its_own_address_and_for_no_other(on_a_socket: Gateway, bench: Bench, family: str) -> None:
    fresh = bench.stranger if family == "IPv4" else bench.stranger_6
    client, other = fresh(), fresh()
    assert not on_a_socket.lets_in(client)
    assert on_a_socket.knock(client).json()["whitelisted_entry"] == client
    assert on_a_socket.lets_in(client)
    assert not on_a_socket.lets_in(other)
    assert on_a_socket.knock(client, "-X", "DELETE").status == 204
    assert not on_a_socket.lets_in(client)


@pytest.mark.parametrize(
    "line", [f"X-Forwarded-For: {HOME}", "X-Forwarded-Uri: /metrics", f"Forwarded: for={HOME}", "X-Forwarded-For;"]
)
def test_forged_headers_let_no_stranger_in(on_a_socket: Gateway, bench: Bench, line: str) -> None:
    answer = on_a_socket.get("/admin", bench.stranger_6(), "-H", line)
    assert answer.status == 401
    assert not reached(answer)


def test_without_knocker_nobody_gets_in(on_a_socket: Gateway, bench: Bench) -> None:
    client = bench.stranger_6()
    on_a_socket.knock(client)
    assert on_a_socket.lets_in(client)
    assert on_a_socket.knocker.terminate() == 0
    for source in (client, HOME):
        answer = on_a_socket.get("/", source)
        assert answer.status >= 500
        assert not reached(answer)
    on_a_socket.knocker.start()
    eventually(lambda: on_a_socket.get("/", client).status == 200, "the proxy reaches Knocker again")
