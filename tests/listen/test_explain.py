"""GET /explain says what /verify does, and why, in a table of situations (contract 3.4)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.core.addresses import Address
from knocker.core.explain import Told
from tests.wire import ADMIN, KEY, World

SETTINGS = f"""
server: {{trusted_proxies: ["127.0.0.1", "::1"]}}
security:
  knock_rate_limit: {{successful_requests: 0, failed_requests: 0}}
  excluded_paths: ["/metrics", "/open/*", "/below/"]
  excluded_paths_by_host: {{app.example.com: ["/status"]}}
  always_allowed_ips: ["192.0.2.0/25", "2001:db8:aaaa::/48"]
  deny_by_host: {{strict.example.com: {{status: 403}}}}
api_keys:
  - {{name: user, key: "{KEY}", ttl: 600}}
  - {{name: admin, key: "{ADMIN}", ttl: 3600, allow_remote_whitelist: true}}
  - {{name: tv, key: "tv-key-0123456789-abcdefgh", ttl: 600, hosts: [tv.example.com, "*.lab.example.com"]}}
"""
TV = "tv-key-0123456789-abcdefgh"
HERE, HERE6, TVS, NOBODY, NOBODY6 = "198.51.100.7", "2001:db8:1::7", "198.51.100.8", "198.51.100.9", "2001:db8:9::9"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One grant of each sort."""
    made = World(tmp_path_factory.mktemp("explained"), SETTINGS)
    for client in (HERE, HERE6):
        assert made.knock(client).status == 200
    assert made.knock(TVS, TV).status == 200
    assert made.knock("203.0.113.1", ADMIN, b'{"ip_address": "203.0.112.0/24"}').status == 200
    return made


def ask(world: World, key: str = ADMIN, client: str = NOBODY, **query: str) -> tuple[int, Any]:
    text = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
    got = world.ask(f"/explain?{text}" if text else "/explain", client, key=key)
    return got.status, json.loads(got.body)


@dataclass(frozen=True)
class Situation:
    """Who asks for what, and what is to be said of it."""

    ip: str
    host: str = ""
    path: str = ""
    status: int = 401
    cause: str = "no_grant"
    words: str = "nobody has knocked from"
    setting: str = "api_keys[].ttl"


LIST, HOSTS, PATHS = "security.always_allowed_ips", "api_keys[].hosts", "security.excluded_paths"
SITUATIONS = [
    Situation(NOBODY),
    Situation(NOBODY6),
    Situation(NOBODY, "app.example.com", "/"),
    Situation(NOBODY6, "app.example.com", "/x"),
    Situation("192.0.2.1", status=200, cause="always_allowed", words="is in 192.0.2.0/25", setting=LIST),
    Situation("192.0.2.127", "tv.example.com", "/", 200, "always_allowed", "never needs to knock", LIST),
    Situation("192.0.2.128", words="nobody has knocked from 192.0.2.128"),
    Situation("2001:db8:aaaa::1", "", "", 200, "always_allowed", "is in 2001:db8:aaaa::/48", LIST),
    Situation("2001:db8:aaab::1", words="2001:db8:aaab::1 is not among those", setting=LIST),
    Situation(HERE, status=200, cause="grant", words="of the key user has 600 s left and opens every host"),
    Situation(HERE, "any.example.com", "/x", 200, "grant", "the grant for 198.51.100.7"),
    Situation(f"::ffff:{HERE}", status=200, cause="grant", words="the grant for 198.51.100.7"),
    Situation(HERE6, status=200, cause="grant", words="the grant for 2001:db8:1::7"),
    Situation("2001:0DB8:1:0::7", status=200, cause="grant", words="the grant for 2001:db8:1::7"),
    Situation("203.0.112.77", status=200, cause="grant", words="the grant for 203.0.112.0/24 of the key admin"),
    Situation("203.0.114.77"),
    Situation(TVS, "tv.example.com", "", 200, "grant", "and opens tv.example.com, *.lab.example.com", HOSTS),
    Situation(TVS, "TV.example.com:8443", "", 200, "grant", "tv.example.com was asked for", HOSTS),
    Situation(TVS, "a.lab.example.com", "", 200, "grant", "a.lab.example.com was asked for", HOSTS),
    Situation(TVS, "lab.example.com", "", 401, "out_of_scope", "but opens only tv.example.com", HOSTS),
    Situation(TVS, "app.example.com", "/", 401, "out_of_scope", "app.example.com was asked for", HOSTS),
    Situation(TVS, "", "", 401, "out_of_scope", "not known for sure which host", HOSTS),
    Situation(NOBODY, "", "/metrics", 200, "excluded_path", "/metrics and all below it", PATHS),
    Situation(NOBODY6, "", "/metrics/x?y=1", 200, "excluded_path", "/metrics/x is open to everybody", PATHS),
    Situation(NOBODY, "", "/metricsx", words="/metricsx is no excluded path", setting=PATHS),
    Situation(NOBODY, "", "/METRICS", words="is no excluded path", setting=PATHS),
    Situation(NOBODY, "", "/metrics/../x", words="can be read in more than one way", setting=PATHS),
    Situation(NOBODY, "", "/metrics%2f", words="can be read in more than one way", setting=PATHS),
    Situation(NOBODY, "", "/open-ended", words="is no excluded path", setting=PATHS),
    Situation(NOBODY, "", "/open/x", 200, "excluded_path", "every path that begins with /open/", PATHS),
    Situation(NOBODY, "", "/below/x", 200, "excluded_path", "all below /below/", PATHS),
    Situation(NOBODY, "", "/below", words="/below is no excluded path", setting=PATHS),
    Situation(NOBODY, "app.example.com", "/status", 200, "excluded_path", "/status and all below it", PATHS),
    Situation(NOBODY, "tv.example.com", "/status", words="is no excluded path", setting=PATHS),
    Situation(NOBODY, "", "/status", words="is no excluded path", setting=PATHS),
    Situation(NOBODY, "", "", words="not known for sure which path", setting=PATHS),
    Situation(NOBODY, "strict.example.com", "/", 403),
    Situation(TVS, "strict.example.com", "/metrics", 200, "excluded_path", "/metrics is open", PATHS),
]


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda found: f"{found.ip} {found.host}{found.path}")
def test_the_reason_is_named_and_the_verdict_is_the_proxys(world: World, situation: Situation) -> None:
    query = {"ip": situation.ip, "host": situation.host, "path": situation.path}
    status, found = ask(world, **{name: value for name, value in query.items() if value})
    assert status == 200
    assert (found["status"], found["allowed"], found["cause"]) == (
        situation.status, situation.status == 200, situation.cause,
    )  # fmt: skip
    assert any(situation.words in step["text"] and step["setting"] == situation.setting for step in found["steps"])
    headers = [("X-Forwarded-Host", situation.host)] if situation.host else []
    headers += [("X-Forwarded-Uri", situation.path)] if situation.path else []
    assert world.verdict(situation.ip, headers) == situation.status
    assert [step["outcome"] for step in found["steps"]].count("allows") == (situation.status == 200)


def test_without_an_address_this_very_request_is_explained(world: World) -> None:
    status, found = ask(world, client=f"8.8.8.8, {NOBODY}")
    assert (status, found["ip"], found["cause"]) == (200, NOBODY, "no_grant")
    first = found["steps"][0]
    assert (first["step"], first["setting"]) == ("client", "server.trusted_proxies")
    assert first["text"] == (
        "127.0.0.1 asks, which is in server.trusted_proxies;"
        f" X-Forwarded-For says 8.8.8.8, {NOBODY}: the client is {NOBODY}"
    )


@pytest.mark.parametrize(
    ("client", "peer", "trusted", "found", "why"),
    [
        (f"8.8.8.8, {NOBODY}", "127.0.0.1", True, NOBODY, None),
        ("127.0.0.1", "127.0.0.1", True, None, "only addresses of server.trusted_proxies"),
        ("unknown", "127.0.0.1", True, None, "not a plain address"),
        (NOBODY, "203.0.113.5", False, None, "not in server.trusted_proxies"),
        (None, "203.0.113.5", False, "203.0.113.5", None),
    ],
)
def test_how_this_request_came_is_told_whatever_is_wrong_with_it(
    world: World, client: str | None, peer: str, trusted: bool, found: str | None, why: str | None
) -> None:
    got = world.ask("/explain", client, headers=[("X-Forwarded-Host", "App.example.com:8443")], peer=peer, key=ADMIN)
    told = json.loads(got.body)
    if client is None:  # a direct one names no host
        got = world.ask("/explain", peer=peer, key=ADMIN)
        told = json.loads(got.body)
    assert (got.status, told["ip"], told["allowed"]) == (200, found, False)
    asked = told["request"]
    assert asked["forwarded_for"] == ([client] if client is not None else [])
    assert (asked["peer"], asked["trusted"], asked["client"]) == (peer, trusted, found)
    assert asked["host"] == ("app.example.com" if trusted else None)
    assert asked["why"] is None if why is None else why in asked["why"]


def test_for_another_address_there_is_no_request_to_tell_of(world: World) -> None:
    assert ask(world, ip=NOBODY)[1]["request"] is None


def test_a_client_that_cannot_be_told_is_explained_too(world: World) -> None:
    got = world.ask("/explain", key=ADMIN)
    found = json.loads(got.body)
    assert (got.status, found["ip"], found["cause"]) == (200, None, "no_client")
    assert "let the proxy set it" in found["steps"][0]["text"]
    assert "no grant can help" in found["steps"][1]["text"]


def test_a_host_and_a_path_may_be_named_for_this_request(world: World) -> None:
    status, found = ask(world, client=TVS, host="tv.example.com", path="/x")
    assert (status, found["host"], found["path"], found["cause"]) == (200, "tv.example.com", "/x", "grant")


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"ip": "nonsense"}, "Invalid IP address or CIDR notation in request body."),
        ({"ip": "10.0.0.0/8"}, "Invalid IP address or CIDR notation in request body."),
        ({"host": "a b"}, "Invalid request data."),
        ({"path": "x"}, "Invalid request data."),
        ({"hosts": "a.example"}, "Invalid request data."),
    ],
)
def test_a_question_that_is_none_is_refused(world: World, query: dict[str, str], error: str) -> None:
    assert ask(world, **query) == (400, {"error": error})


def test_only_admins_are_told(world: World) -> None:
    assert ask(world, KEY, ip=HERE) == (403, {"error": "API key lacks remote whitelist permission."})
    assert ask(world, "wrong-key-0123456789", ip=HERE)[0] == 401
    assert world.ask("/explain", HERE, method="POST", key=ADMIN).status == 405


def test_it_opens_nothing_and_reveals_no_key(world: World) -> None:
    before = len(world.whitelist)
    got = world.ask(f"/explain?ip={HERE}", NOBODY, key=ADMIN)
    assert len(world.whitelist) == before
    assert KEY.encode() not in got.body
    assert ADMIN.encode() not in got.body


@dataclass(frozen=True)
class Asked:
    host: str | None
    path: str | None


@given(
    client=st.sampled_from([None, HERE, HERE6, TVS, NOBODY, NOBODY6, "192.0.2.5", "203.0.112.9"]),
    host=st.sampled_from([None, "tv.example.com", "a.lab.example.com", "app.example.com"]),
    path=st.sampled_from([None, "/", "/metrics", "/metrics/../x", "/status", "/open/y", "/%6d"]),
)
def test_to_tell_a_verdict_does_not_change_it(
    tmp_path_factory: pytest.TempPathFactory, client: str | None, host: str | None, path: str | None
) -> None:
    gate, now = WORLDS.of(tmp_path_factory).house.gate, WORLDS.of(tmp_path_factory).now()
    address = Address.parse(client) if client is not None else None
    told = Told()
    verdict = gate.verdict(address, Asked(host, path), now, told)
    assert verdict is gate.verdict(address, Asked(host, path), now)
    allowing = [step.name for step in told.steps if step.outcome == "allows"]
    expected = {"always_allowed": ["list"], "excluded_path": ["path"]}
    if verdict.label[1] == "grant":
        assert allowing in (["grant"], ["scope"])
    else:
        assert allowing == expected.get(verdict.label[1], [])


class _Worlds:
    """The same world for all examples."""

    def __init__(self) -> None:
        self._made: World | None = None

    def of(self, folders: pytest.TempPathFactory) -> World:
        if self._made is None:
            self._made = World(Path(folders.mktemp("examples")), SETTINGS)
            for client in (HERE, HERE6):
                self._made.knock(client)
            self._made.knock(TVS, TV)
        return self._made


WORLDS = _Worlds()
