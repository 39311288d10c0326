"""What only Caddy can be told: our Caddyfiles, and mistakes that people make in theirs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.net import CDN, HOME, Bench
from tests.proxies.conftest import KEYS, Builder, Client, Gateway, reached, settings
from tests.service import Server

WRONG = ["/ready", "/knock", "/grants", "/explain", "/", "/openapi.json", "/verifyx", "/Verify", "//verify", "/knock?"]
TOLD_BY = {
    "the proxy's headers": "",
    "the host, since knock_page.url is set": "header_up -X-Forwarded-Method\nheader_up -X-Forwarded-Uri",
}


@pytest.fixture(scope="module", params=list(TOLD_BY.values()), ids=list(TOLD_BY))
def astray(
    request: pytest.FixtureRequest, bench: Bench, client: Client, app: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway whose proxy asks Knocker at the address that a request names in X-Ask."""
    builder = Builder(bench, client, tmp_path_factory.mktemp("astray"))
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
