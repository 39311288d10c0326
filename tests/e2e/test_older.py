"""Who comes from FarisZR/knocker v1: its files start unchanged, its clients and its proxy are answered as before."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.net import Answer
from tests.service import Knocker, ask, free_port, replaced
from tests.settings.test_older import OLDER

ADMIN, PHONE = "4f9d2c8a71b35e60d9f8a7c6b5e4d3c2", "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
ORIGIN = "https://webapp.example.com"
FLAT = {"1.2.3.4": 2000, "2001:db8::/64": 3000, "5.6.7.8": -60, "9.9.9.0/24": 1_000_000}  # seconds from now

_fresh = (f"203.0.113.{number}" for number in count(1))


def _flat() -> str:
    return json.dumps({entry: int(time.time()) + seconds for entry, seconds in FLAT.items()})


def _older(directory: Path) -> Knocker:
    """A Knocker, not started yet, with the files of v1."""
    knocker = Knocker(directory, {}, free_port())
    changed = {
        "server:\n": f"server:\n  host: 127.0.0.1\n  port: {knocker.port}\n",  # v1 has neither
        "trusted_proxies: [": 'trusted_proxies: ["127.0.0.1", ',
        "always_allowed_ips: []": 'always_allowed_ips: ["198.51.100.64/26"]',
        "/data/whitelist.json": str(knocker.whitelist),
    }
    knocker.write(replaced(OLDER, changed))
    knocker.whitelist.write_text(_flat())
    return knocker


@pytest.fixture(scope="module")
def knocker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knocker]:
    """One for all tests here; each of its clients has an address of its own."""
    with _older(tmp_path_factory.mktemp("older")) as running:
        yield running
        running.end(ADMIN, PHONE)


@pytest.fixture
def client() -> str:
    """An address that nobody has knocked from yet."""
    return next(_fresh)


def _post(knocker: Knocker, client: str, key: str | None = PHONE, body: Any = None, **more: str) -> Answer:
    """What v1's clients send, as their proxy passes it on; a `body` of bytes is sent as it is."""
    lines = {"X-Forwarded-For": client, "Origin": ORIGIN}
    if key is not None:
        lines["X-Api-Key"] = key
    if body is not None:
        lines["Content-Type"] = "application/json"
    lines |= {name.replace("_", "-"): value for name, value in more.items()}
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    return ask(knocker.port, "/knock", "POST", lines, data)


def _allowed(answer: Answer) -> list[str]:
    return answer.lines("Access-Control-Allow-Origin")


# --- Its files -------------------------------------------------------------------------------------------------------


def test_the_flat_whitelist_opens_what_it_opened_and_is_kept(tmp_path: Path) -> None:
    knocker = _older(tmp_path)
    text = knocker.whitelist.read_text()
    with knocker:
        for _ in range(2):
            opened = [knocker.verify(client) for client in ("1.2.3.4", "2001:db8::77", "9.9.9.255")]
            shut = [knocker.verify(client) for client in ("1.2.3.5", "2001:db8:0:1::77", "5.6.7.8", "9.9.10.0")]
            assert (opened, shut) == ([200] * 3, [401] * 4)
            assert (tmp_path / "whitelist.json.v0").read_text() == text
            assert ask(knocker.port, "/ready").status == 200
            assert knocker.terminate() == 0
            stored = {one["entry"]: one["expires_at"] for one in json.loads(knocker.whitelist.read_text())["grants"]}
            for entry in ("1.2.3.4", "2001:db8::/64"):
                assert stored[entry] == json.loads(text)[entry]
            assert stored["9.9.9.0/24"] <= time.time() + 14400, "no longer than the longest key may open"
            assert len(stored) == 3
            knocker.start()
    assert not list(tmp_path.glob("*corrupt*"))
    knocker.end(ADMIN, PHONE)


def test_only_what_no_longer_applies_is_complained_of(tmp_path: Path) -> None:
    with _older(tmp_path) as knocker:
        assert knocker.verify("1.2.3.4") == 200
    signs = ("warn", "error", "critical", "knocker.yaml: ")
    lines = [line for line in knocker.log.splitlines() if any(sign in line.lower() for sign in signs)]
    assert [line.partition("knocker.yaml: ")[2].partition(":")[0] for line in lines] == ["firewalld", "documentation"]


# --- Its clients -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Knock:
    """A knock that lets somebody in: what is sent, and what of the answer is known before."""

    seconds: int
    key: str = PHONE
    body: Any = None
    entry: str | None = None  # the client's own


KNOCKS = {
    "without a body it is the key's max_ttl": Knock(14400),
    "an empty object is no body": Knock(14400, body={}),
    "a ttl": Knock(60, body={"ttl": 60}),
    "a ttl over the key's is capped": Knock(14400, body={"ttl": 99999}),
    "another address": Knock(3600, ADMIN, {"ip_address": "198.51.100.7"}, "198.51.100.7"),
    "another address and a ttl": Knock(5, ADMIN, {"ip_address": "198.51.100.8", "ttl": 5}, "198.51.100.8"),
    "a network": Knock(3600, ADMIN, {"ip_address": "198.51.100.32/28", "ttl": 7200}, "198.51.100.32/28"),
    "an IPv6 network": Knock(3600, ADMIN, {"ip_address": "2001:db8:7::/64"}, "2001:db8:7::/64"),
    "an admin's own": Knock(3600, ADMIN),
    "empty members": Knock(14400, body={"ip_address": None, "ttl": None}),
}


@pytest.mark.parametrize("what", KNOCKS)
def test_a_knock_is_answered_as_before(knocker: Knocker, client: str, what: str) -> None:
    knock = KNOCKS[what]
    before = time.time()
    answer = _post(knocker, client, knock.key, knock.body)
    assert answer.status == 200
    assert answer.lines("Content-Type") == ["application/json"]
    assert _allowed(answer) == [ORIGIN]
    told = answer.json()
    assert {name: type(value) for name, value in told.items()} == {
        "whitelisted_entry": str,
        "expires_at": int,
        "expires_in_seconds": int,
    }
    assert told["whitelisted_entry"] == (knock.entry or client)
    assert told["expires_in_seconds"] == knock.seconds
    assert int(before) + knock.seconds <= told["expires_at"] <= time.time() + knock.seconds
    assert knocker.verify(told["whitelisted_entry"].partition("/")[0].replace("::", "::1")) == 200


def test_an_ipv6_client_is_let_in(knocker: Knocker) -> None:
    assert _post(knocker, "2001:db8:9::7").json()["whitelisted_entry"] == "2001:db8:9::7"
    assert [knocker.verify(f"2001:db8:9::{last}") for last in (7, 8)] == [200, 401]


@dataclass(frozen=True)
class Refused:
    """A knock that lets nobody in."""

    status: int
    error: str
    key: str | None = PHONE
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


MALFORMED, NO_OBJECT, NO_TTL, NO_ADDRESS, NO_KEY, NO_RIGHT = (
    "Malformed JSON request body.",
    "Request body must be a JSON object.",
    "Invalid TTL specified. Must be a positive integer.",
    "Invalid IP address or CIDR notation in request body.",
    "Invalid or missing API key.",
    "API key lacks remote whitelist permission.",
)
REFUSED = {
    "not JSON": Refused(400, MALFORMED, body=b"{"),
    "an array": Refused(400, NO_OBJECT, body=[]),
    "a string": Refused(400, NO_OBJECT, body="1.2.3.4"),
    "an unknown member": Refused(400, "Invalid request data.", body={"ip": "198.51.100.7"}),
    "no seconds": Refused(400, NO_TTL, body={"ttl": 0}),
    "negative seconds": Refused(400, NO_TTL, body={"ttl": -1}),
    "seconds as a text": Refused(400, NO_TTL, body={"ttl": "60"}),
    "seconds with a fraction": Refused(400, NO_TTL, body={"ttl": 1.5}),
    "true seconds": Refused(400, NO_TTL, body={"ttl": True}),
    "no address": Refused(400, NO_ADDRESS, ADMIN, {"ip_address": "somewhere"}),
    "an address as a number": Refused(400, NO_ADDRESS, ADMIN, {"ip_address": 16909060}),
    "no key": Refused(401, NO_KEY, None),
    "an empty key": Refused(401, NO_KEY, ""),
    "a wrong key": Refused(401, NO_KEY, "ffffffffffffffffffffffffffffffff"),
    "a wrong key and a bad body": Refused(401, NO_KEY, "ffffffffffffffffffffffffffffffff", b"{"),
    "another's address": Refused(403, NO_RIGHT, body={"ip_address": "198.51.100.7"}),
    "another's network": Refused(403, NO_RIGHT, body={"ip_address": "198.51.100.0/28", "ttl": 60}),
    "too large": Refused(413, "Request body too large.", body=b'{"ttl": 60}' + b" " * 4096),
    "plain text": Refused(415, "Request body must be JSON.", body={}, headers={"Content_Type": "text/plain"}),
    "a form with files": Refused(
        415, "Request body must be JSON.", body=b"ttl=60", headers={"Content_Type": "multipart/form-data; boundary=a"}
    ),
}


def _assert_refused(answer: Answer, status: int, error: str) -> None:
    assert (answer.status, answer.json()) == (status, {"error": error})
    assert answer.lines("Content-Type") == ["application/json"]
    assert _allowed(answer) == [ORIGIN]


@pytest.mark.parametrize("what", REFUSED)
def test_a_knock_is_refused_as_before(knocker: Knocker, client: str, what: str) -> None:
    refused = REFUSED[what]
    answer = _post(knocker, client, refused.key, refused.body, **refused.headers)
    _assert_refused(answer, refused.status, refused.error)
    assert knocker.verify(client) == 401


def test_who_cannot_be_told_from_the_proxy_is_refused_as_before(knocker: Knocker) -> None:
    for chain in ("", "127.0.0.1", "172.16.238.5", "unknown"):
        _assert_refused(_post(knocker, chain), 400, "Could not determine client IP.")


def test_too_many_knocks_are_refused_as_before(knocker: Knocker) -> None:
    for client, key, most, status in (("198.51.100.1", PHONE, 10, 200), ("198.51.100.2", "f" * 32, 15, 401)):
        assert [_post(knocker, client, key).status for _ in range(most)] == [status] * most
        for _ in range(2):
            _assert_refused(_post(knocker, client, key), 429, "Too many knock attempts.")
        assert knocker.verify(client) == status


def test_a_browser_may_knock_from_the_configured_origin(knocker: Knocker, client: str) -> None:
    lines = {
        "Origin": ORIGIN,
        "X-Forwarded-For": client,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key,content-type",
    }
    answer = ask(knocker.port, "/knock", "OPTIONS", lines)
    assert (answer.status, answer.body) == (204, b"")
    assert _allowed(answer) == [ORIGIN]
    (methods,), (headers,) = (answer.lines(f"Access-Control-Allow-{name}") for name in ("Methods", "Headers"))
    assert "POST" in methods.split(", ")
    assert {"X-Api-Key", "Content-Type"} <= set(headers.split(", "))


def test_another_method_is_refused_as_before(knocker: Knocker, client: str) -> None:
    answer = ask(knocker.port, "/knock", "PUT", {"X-Forwarded-For": client, "X-Api-Key": PHONE})
    assert answer.status == 405
    assert "POST" in answer.lines("Allow")[0]
    assert knocker.verify(client) == 401


# --- Its proxy -------------------------------------------------------------------------------------------------------


def test_a_proxy_is_answered_as_before(knocker: Knocker, client: str) -> None:
    def verify(address: str, **more: str) -> tuple[int, bytes]:
        lines = {"X-Forwarded-For": address, **{name.replace("_", "-"): value for name, value in more.items()}}
        answer = ask(knocker.port, "/verify", headers=lines)
        return answer.status, answer.body

    assert verify(client) == (401, b"")
    assert verify("198.51.100.65") == (200, b"")
    assert verify("172.16.238.5") == (401, b"")
    assert _post(knocker, client).status == 200
    assert verify(client) == (200, b"")
    # A caller can put addresses of its own in front; the nearest that no trusted proxy has is the one.
    assert verify(f"{client}, 203.0.113.250, 172.16.238.5") == (401, b"")
    assert verify(f"203.0.113.250, {client}, 172.16.238.5") == (200, b"")
    for host, uri, status in (
        ("jellyfin.example.com", "/health", 200),
        ("jellyfin.example.com", "/health?all=1", 200),
        ("jellyfin.example.com", "/healthy", 401),
        ("jellyfin.example.com", "/", 401),
        ("app.example.com", "/health", 401),
    ):
        assert verify("203.0.113.250", X_Forwarded_Host=host, X_Forwarded_Uri=uri) == (status, b""), (host, uri)


def test_a_container_is_told_that_it_is_well(knocker: Knocker) -> None:
    answer = ask(knocker.port, "/health")
    assert (answer.status, answer.json()) == (200, {"status": "ok"})
    assert answer.lines("Content-Type") == ["application/json"]
