"""A client that lies about itself gets nothing by it, through any proxy, and does not shut itself out either."""

from __future__ import annotations

import pytest

from tests.net import HOME, HOME_6, Bench, NoAnswer
from tests.proxies.conftest import ELSEWHERE, KEYS, Gateway, reached
from tests.proxies.recipes import all_but

GATEWAYS = all_but("caddy", "caddy-first", "traefik", "haproxy")
FORGED = {
    "a forwarded address that is always allowed": [f"X-Forwarded-For: {HOME}"],
    "two lines of them": [f"X-Forwarded-For: {HOME}", f"X-Forwarded-For: {HOME_6}"],
    "two in one line": [f"X-Forwarded-For: {HOME}, {HOME_6}"],
    "one with a port": [f"X-Forwarded-For: {HOME}:443", f"X-Forwarded-For: [{HOME_6}]:443"],
    "one before what nobody can read": [f"X-Forwarded-For: {HOME}, unknown, _hidden, 1.2.3.4.5, fe80::1%eth0"],
    "one behind what nobody can read": [f"X-Forwarded-For: ,,\t,unknown, {HOME}"],
    "an empty forwarded address": ["X-Forwarded-For:"],
    "more than anybody reads": ["X-Forwarded-For: " + ", ".join([HOME] * 100)],
    "the proxy's own address": ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: ::1"],
    "every other header that names an address": [
        f"X-Real-IP: {HOME}",
        f"Forwarded: for={HOME}",
        f"CF-Connecting-IP: {HOME}",
        f"True-Client-IP: {HOME}",
        f"X-Client-IP: {HOME}",
        f"X-Envoy-External-Address: {HOME}",
    ],
    "names with underscores": [
        f"X_Forwarded_For: {HOME}",
        f"X-Forwarded_For: {HOME}",
        "X_Forwarded_Uri: /metrics",
        "X_Original_URI: /metrics",
        f"X_Real_IP: {HOME}",
    ],
    "an excluded path": ["X-Forwarded-Uri: /metrics"],
    "an excluded path twice": ["X-Forwarded-Uri: /metrics", "X-Forwarded-Uri: /metrics"],
    "an excluded path as the original one": ["X-Original-URI: /metrics"],
    "an excluded path by other names": [
        "X-Original-URL: /metrics",
        "X-Rewrite-URL: /metrics",
        "X-Envoy-Original-Path: /metrics",
        "X-Forwarded-Path: /metrics",
        "X-Forwarded-Prefix: /metrics",
    ],
    "another method": ["X-Forwarded-Method: OPTIONS", "X-Original-Method: OPTIONS", "X-HTTP-Method-Override: OPTIONS"],
    "another host": [f"X-Forwarded-Host: {ELSEWHERE}", f"X-Forwarded-Server: {ELSEWHERE}"],
    "another scheme and port": ["X-Forwarded-Proto: http", "X-Forwarded-Port: 80", "X-Forwarded-Ssl: off"],
    "headers struck out by Connection": [
        f"X-Forwarded-For: {HOME}",
        "Connection: close, X-Forwarded-For, X-Forwarded-Uri, X-Forwarded-Method, X-Forwarded-Host",
    ],
    "a key for the app": [f"X-Api-Key: {KEYS['admin']}"],
    "a long cookie": ["Cookie: " + "a" * 7000],
    "a longer cookie": ["Cookie: " + "a" * 12000],
    "a cookie too long for anybody": ["Cookie: " + "a" * 17000],
}

# What a proxy refuses, whoever sends it.
REFUSED = {
    ("nginx", "a longer cookie"),
    ("envoy", "headers struck out by Connection"),
}
TOO_LONG = "a cookie too long for anybody"

# The first recipe passes these on to Knocker, which takes them for a proxy's question and denies.
TAKEN_FOR_A_QUESTION = ("X-Forwarded-Uri", "X-Forwarded-Method", "X-Original-URI")


def _may_be_refused(gateway: Gateway, kind: str) -> bool:
    return (gateway.name, kind) in REFUSED or kind == TOO_LONG


@pytest.mark.parametrize("kind", FORGED)
def test_forged_headers_let_no_stranger_in(gateway: Gateway, nobodies: list[str], kind: str) -> None:
    for client in nobodies:
        answer = gateway.send(client, FORGED[kind], "/admin")
        assert not reached(answer)
        assert answer.status == 401 or (answer.status in (400, 431, 502) and _may_be_refused(gateway, kind)), answer


@pytest.mark.parametrize("kind", FORGED)
def test_forged_headers_neither_change_whom_a_knock_is_for_nor_shut_it_out(
    gateway: Gateway, bench: Bench, kind: str
) -> None:
    client = bench.stranger_6()
    lines = [line for line in FORGED[kind] if not line.startswith("X-Api-Key")]
    knock = [*lines, f"X-Api-Key: {KEYS['phone']}"]
    knocked = gateway.send(client, knock, "/knock", site=gateway.recipe.knock_host)
    if knocked.status == 200:
        assert knocked.json()["whitelisted_entry"] == client
    else:
        question = gateway.name == "caddy-first" and any(line.startswith(TAKEN_FOR_A_QUESTION) for line in lines)
        assert question or _may_be_refused(gateway, kind), knocked
        assert not gateway.lets_in(client)
        gateway.knock(client)
    inside = gateway.send(client, FORGED[kind], "/admin")
    if inside.status == 200:
        assert inside.json()["forwarded_for"] == [client]
    else:
        assert _may_be_refused(gateway, kind), inside


# Request target, and the lines of Host; {app} is the app's.
ADDRESSED = {
    "by a whole URL": ("https://{app}/admin", ["{app}"]),
    "by a whole URL without TLS": ("http://{app}/admin", ["{app}"]),
    "by a URL, with the host of another site beside it": ("https://{app}/admin", [ELSEWHERE]),
    "by the URL of another site": (f"https://{ELSEWHERE}/admin", ["{app}"]),
    "by a URL with a name in front": (f"https://{ELSEWHERE}@{{app}}/admin", ["{app}"]),
    "by a URL with an excluded path in front": ("https://metrics/admin", ["{app}"]),
    "by a URL without a path": ("https://{app}?/metrics", ["{app}"]),
    "by the host of another site": ("/admin", [ELSEWHERE]),
    "by two hosts": ("/admin", ["{app}", ELSEWHERE]),
    "by two hosts in the other order": ("/admin", [ELSEWHERE, "{app}"]),
    "by two hosts in one line": ("/admin", [f"{ELSEWHERE}, {{app}}"]),
    "by two hosts in one line in the other order": ("/admin", [f"{{app}}, {ELSEWHERE}"]),
    "by a host with a path": ("/admin", ["{app}/metrics"]),
    "by a host with another's port": ("/admin", ["app.example.com:1"]),
    "by a host with a dot at its end": ("/admin", ["app.example.com."]),
    "by a host in capitals": ("/admin", ["APP.EXAMPLE.COM"]),
    "by no host": ("/admin", []),
    "by an empty host": ("/admin", [""]),
    "by an asterisk": ("*", ["{app}"]),
    "by the proxy's address": ("/admin", ["198.51.100.1"]),
}


@pytest.mark.parametrize("how", ADDRESSED)
def test_the_app_is_closed_however_it_is_addressed(
    gateway: Gateway, bench: Bench, nobodies: list[str], how: str
) -> None:
    """To strangers, and to who has knocked for another host."""
    target, hosts = ADDRESSED[how]
    client = bench.stranger_6()
    assert gateway.knock(client, key="elsewhere").status == 200
    for source in (*nobodies, client):
        for path in (target, target.replace("/admin", "/metrics/../admin")):
            try:
                answer = gateway.send(
                    source,
                    [],
                    path.replace("{app}", gateway.app_host),
                    [host.replace("{app}", gateway.app_host) for host in hosts],
                )
            except NoAnswer:
                continue
            assert not reached(answer), answer


def test_the_app_is_open_by_a_whole_url_to_who_has_knocked(gateway: Gateway, bench: Bench) -> None:
    client = bench.stranger_6()
    gateway.knock(client, key="here")
    for target in ("/x?y=1", f"{gateway.recipe.scheme}://{gateway.app_host}/x?y=1"):
        answer = gateway.send(client, [], target)
        assert answer.status == 200
        assert answer.json()["path"] == "/x?y=1"


@pytest.mark.parametrize("how", [how for how in ADDRESSED if "host" in how])
def test_who_has_knocked_for_the_app_names_no_other_host_to_it(gateway: Gateway, bench: Bench, how: str) -> None:
    """What Knocker judged is what the app hears; one that serves several names would else show another."""
    target, hosts = ADDRESSED[how]
    client = bench.stranger_6()
    assert gateway.knock(client, key="here").status == 200
    try:
        asked = [host.replace("{app}", gateway.app_host) for host in hosts]
        answer = gateway.send(client, [], target.replace("{app}", gateway.app_host), asked)
    except NoAnswer:
        return
    if reached(answer):
        heard = dict(answer.json()["headers"])["host"].lower()
        assert heard.partition(":")[0].removesuffix(".") == gateway.recipe.app_host
