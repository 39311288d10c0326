"""Behind a content delivery network the client is whom it names, with each recipe changed as its page says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tests.net import CDN, HOME, Bench
from tests.proxies.conftest import ELSEWHERE, KEYS, Builder, Client, Gateway, reached, settings
from tests.service import Server

EDITS: dict[str, Mapping[str, Mapping[str, str]]] = {
    "caddy": {
        "Caddyfile": {
            "\tservers {\n": f"\tservers {{\n\t\ttrusted_proxies static {CDN}\n\t\ttrusted_proxies_strict\n",
        }
    },
    "nginx": {
        "nginx.conf": {
            "\nssl_certificate ": f"\nset_real_ip_from {CDN};\nreal_ip_header X-Forwarded-For;\nreal_ip_recursive on;"
            "\nssl_certificate "
        }
    },
    "traefik": {
        "traefik-static.yaml": {"    http:\n": f"    forwardedHeaders:\n      trustedIPs: [{CDN}]\n    http:\n"},
        "traefik.yaml": {"trustForwardHeader: false": "trustForwardHeader: true"},
    },
    "envoy": {
        "envoy.yaml": {
            "\n" + " " * 24 + "- remove: x-forwarded-for": "",
            "\n" + " " * 28 + '- { key: x-forwarded-for, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%" }': "",
            "patterns: [{ exact: accept }": "patterns: [{ exact: x-forwarded-for }, { exact: accept }",
        }
    },
    "haproxy": {
        "haproxy.cfg": {
            "\thttp-request del-header ^(": "\thttp-request set-src hdr_ip(x-forwarded-for,-1) if "
            f"{{ src {CDN} }}\n\thttp-request del-header ^("
        }
    },
}
GATEWAYS = list(EDITS)

CLIENT = "203.0.113.7"


@pytest.fixture(scope="module")
def gateway(
    request: pytest.FixtureRequest, bench: Bench, client: Client, app: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway that trusts the network, as Knocker does; CLIENT has knocked through it."""
    told = {**settings("app.example.com"), "server": {"trusted_proxies": ["127.0.0.1", CDN]}}
    builder = Builder(bench, client, tmp_path_factory.mktemp("cdn"))
    try:
        made = builder.gateway(request.param, knocker=builder.knocker(told), edits=EDITS[request.param])
        assert _knock(made, CLIENT) == (200, CLIENT)
        yield made
    finally:
        builder.close()


def _knock(gateway: Gateway, chain: str, *more: str) -> tuple[int, str | None]:
    lines = [f"X-Forwarded-For: {chain}", f"X-Api-Key: {KEYS['phone']}", *more]
    answer = gateway.send(CDN, lines, "/knock", site="knock.example.com")
    return answer.status, answer.json().get("whitelisted_entry")


def test_the_client_is_whom_the_network_names(gateway: Gateway) -> None:
    inside = gateway.send(CDN, [f"X-Forwarded-For: {CLIENT}"])
    assert reached(inside)
    assert CLIENT in inside.json()["forwarded_for"][0]
    assert gateway.send(CDN, ["X-Forwarded-For: 203.0.113.8"]).status == 401


def test_what_stands_left_of_the_client_was_written_by_it(gateway: Gateway) -> None:
    assert reached(gateway.send(CDN, [f"X-Forwarded-For: {HOME}, {CLIENT}"]))
    for left in (HOME, CLIENT, f"{CLIENT}, unknown"):
        assert gateway.send(CDN, [f"X-Forwarded-For: {left}, 203.0.113.8"]).status == 401
        assert gateway.send(CDN, [f"X-Forwarded-For: {left}", "X-Forwarded-For: 203.0.113.8"]).status == 401


@pytest.mark.parametrize(
    "line",
    ["X-Forwarded-Uri: /metrics", "X-Forwarded-Method: OPTIONS", "X-Original-URI: /metrics", "X-Forwarded-Proto: http"],
)
def test_what_the_network_passes_on_from_a_client_opens_nothing(gateway: Gateway, line: str) -> None:
    assert gateway.send(CDN, ["X-Forwarded-For: 203.0.113.8", line]).status == 401
    assert reached(gateway.send(CDN, [f"X-Forwarded-For: {CLIENT}", line]))
    assert _knock(gateway, CLIENT, line) == (200, CLIENT)


def test_a_grant_for_another_host_opens_nothing_here_whatever_the_network_passes_on(gateway: Gateway) -> None:
    chain = "X-Forwarded-For: 203.0.113.9"
    knock = [chain, f"X-Api-Key: {KEYS['elsewhere']}"]
    assert gateway.send(CDN, knock, "/knock", site="knock.example.com").status == 200
    assert gateway.send(CDN, [chain]).status == 401
    assert gateway.send(CDN, [chain, f"X-Forwarded-Host: {ELSEWHERE}"]).status == 401


@pytest.mark.parametrize("chain", ["", "unknown", f"{CLIENT}, unknown", "fe80::1%eth0", CDN])
def test_whom_the_network_does_not_name_is_nobody(gateway: Gateway, chain: str) -> None:
    """And is never taken for the network itself, for whom a knock would let everybody in."""
    assert gateway.send(CDN, [f"X-Forwarded-For: {chain}"]).status == 401
    assert _knock(gateway, chain) == (400, None)


def test_who_comes_past_the_network_is_seen_as_what_it_is(gateway: Gateway, bench: Bench) -> None:
    client = bench.stranger()
    assert gateway.send(client, [f"X-Forwarded-For: {CLIENT}"]).status == 401
    gateway.knock(client, "-H", f"X-Forwarded-For: {CLIENT}")
    assert reached(gateway.send(client))
