"""SIGHUP to a real process: what a change ends, what it leaves alone, and that nobody is served wrong meanwhile."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import ADMIN, LAPTOP, PHONE, Start, laptop, phone, settings
from tests.service import Knocker, Settings, ask, eventually, free_port

LONG = os.environ.get("KNOCKER_TEST_LONG") == "1"
CLIENT, OTHER = "203.0.113.7", "203.0.113.8"
TAKEN, REFUSED = "the settings were reloaded from", "the settings were not reloaded"


def admin(**more: Any) -> dict[str, Any]:
    """A key that may open any address and see every grant."""
    return {"name": "admin", "key": ADMIN, "ttl": 3600, "allow_remote_whitelist": True, **more}


def _reload(knocker: Knocker, said: str = TAKEN) -> None:
    """Tell it to read its settings, and wait until it took them or refused them."""
    count = knocker.log.count(said)
    knocker.hup()
    eventually(lambda: knocker.log.count(said) > count, f"the log says {said!r} after SIGHUP", seconds=5)


def _change(knocker: Knocker, told: Settings) -> None:
    knocker.configure(told)
    _reload(knocker)


# --- Under load ------------------------------------------------------------------------------------------------------

RELOADS = 500 if LONG else 40
STRANGER, LISTED, SWINGING = "203.0.113.99", "198.18.7.7", "198.51.100.9"
ALWAYS = {CLIENT: 200, STRANGER: 401, LISTED: 200}
VERSIONS: dict[int, dict[str, Any]] = {
    200: {
        "always_allowed_ips": ["198.18.7.0/24", "198.51.100.0/25"],
        "deny_by_host": {"a.example.com": {"status": 403}},
    },
    401: {"always_allowed_ips": ["198.18.7.0/24"], "excluded_paths": ["/api/status"]},
}


def _version(answer: int) -> dict[str, Any]:
    """Settings under which SWINGING is answered so; what else they say has no part in the answers."""
    keys = [phone(), laptop()] if answer == 200 else [phone(ttl=1800)]
    told = settings(*keys)
    return {**told, "security": {**told["security"], **VERSIONS[answer]}}


def _faulty(text: str, number: int) -> str | None:
    """Good settings made bad, each time in another way; None: the file is not there."""
    ways = [
        text + "nosuch: 1\n",
        text.replace(f"key: {PHONE}", f"key: [{PHONE}]"),
        text + f"api_keys: [{{key: {PHONE}",
        None,
        text + "security: {}\n",
        text.replace("ttl: ", "ttl: -"),
    ]
    return ways[number % len(ways)]


@dataclass
class Seen:
    """One answer about SWINGING, and between which moments it was asked for and had."""

    began: float
    ended: float
    status: int


@dataclass
class History:
    """Which answer about SWINGING was true, from when it may have begun to be until when it may have been."""

    spans: list[tuple[int, float, float]] = field(default_factory=list)

    def begin(self, answer: int) -> None:
        """Settings with this answer are about to count."""
        self.spans.append((answer, time.monotonic(), float("inf")))

    def settle(self) -> None:
        """They count by now, and those before them no longer."""
        self.spans[:-1] = [(answer, since, min(until, time.monotonic())) for answer, since, until in self.spans[:-1]]

    def allows(self, seen: Seen) -> bool:
        """Whether it was true at some moment between question and answer."""
        return any(
            answer == seen.status and since <= seen.ended and seen.began <= until for answer, since, until in self.spans
        )


def _status(connection: HTTPConnection, client: str) -> int:
    lines = {
        "X-Forwarded-For": client,
        "X-Forwarded-Method": "GET",
        "X-Forwarded-Uri": "/",
        "X-Forwarded-Host": "b.example",
    }
    connection.request("GET", "/verify", headers=lines)
    answer = connection.getresponse()
    assert answer.read() == b""
    return answer.status


def _ask_all(connection: HTTPConnection) -> Seen:
    """Ask about everybody once; the answer about SWINGING is left to be judged."""
    for client, expected in ALWAYS.items():
        assert (client, _status(connection, client)) == (client, expected)
    began = time.monotonic()
    status = _status(connection, SWINGING)
    return Seen(began, time.monotonic(), status)


def _ask_on(port: int, over: Event, seconds: float, *, anew: bool) -> list[Seen]:
    """A proxy that asks until it is over, on one connection or each round on a new one."""
    seen = []
    end = time.monotonic() + seconds
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.connect()
        used = connection.sock
        while not over.is_set() and time.monotonic() < end:
            seen.append(_ask_all(connection))
            assert connection.sock is used, "the connection was closed"
            if anew:
                connection.close()
                connection.connect()
                used = connection.sock
    finally:
        connection.close()
    return seen


def _reload_often(knocker: Knocker, history: History, asking: Sequence[Future[list[Seen]]]) -> None:
    """Good and bad settings in turn; the bad ones would, but for their fault, change the answer too."""
    answer = 200
    for number in range(RELOADS):
        other = 401 if answer == 200 else 200
        knocker.configure(_version(other))
        if number % 2:
            history.begin(other)
            _reload(knocker)
            history.settle()
            answer = other
        else:
            text = _faulty(knocker.config.read_text(), number // 2)
            knocker.config.unlink() if text is None else knocker.write(text)
            _reload(knocker, REFUSED)
        assert knocker.verify(SWINGING) == answer
        assert not any(proxy.done() for proxy in asking), "a proxy met with something else than an answer"


@pytest.mark.timeout(240 if LONG else 60)
def test_while_the_settings_change_again_and_again_every_answer_is_right(start: Start) -> None:
    knocker = start(_version(200))
    assert knocker.knock(CLIENT, PHONE).status == 200
    history, over = History(), Event()
    history.begin(200)
    with ThreadPoolExecutor(5) as pool:
        asking = [
            pool.submit(_ask_on, knocker.port, over, 220 if LONG else 50, anew=number == 4) for number in range(5)
        ]
        try:
            _reload_often(knocker, history, asking)
        finally:
            over.set()
        seen = [proxy.result(15) for proxy in asking]
    assert all(len(answers) > 5 for answers in seen), [len(answers) for answers in seen]
    assert {one.status for answers in seen for one in answers} == {200, 401}
    assert [one for answers in seen for one in answers if not history.allows(one)] == []
    assert (knocker.log.count(TAKEN), knocker.log.count(REFUSED)) == (RELOADS // 2, RELOADS // 2)
    assert knocker.terminate() == 0


# --- What a change ends ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A change of the settings, the knocks before it, and whom it leaves outside and inside."""

    why: str
    key: dict[str, Any]  # beside name, secret and ttl
    after: dict[str, Any] | None  # what it says differently afterwards; None: the key is gone
    knocks: tuple[tuple[str, dict[str, Any]], ...]  # client and body
    outside: tuple[str, ...]
    inside: tuple[str, ...] = ()
    server: Mapping[str, Any] = field(default_factory=dict)  # added to its lists

    @property
    def name(self) -> str:
        return self.why.replace(" ", "-")

    @property
    def secret(self) -> str:
        return f"secret-of-{self.name}-0123456789"

    @property
    def before(self) -> dict[str, Any]:
        """The key's entry before the change."""
        return {"name": self.name, "key": self.secret, "ttl": 3600, **self.key}


REMOTE = {"allow_remote_whitelist": True}
CHANGES = [
    Change("key removed", {}, None, (("203.0.113.20", {}),), ("203.0.113.20",)),
    Change("key renamed", {}, {"name": "another"}, (("203.0.113.21", {}),), ("203.0.113.21",)),
    Change("secret changed", {}, {"key": "another-secret-0123456789"}, (("203.0.113.22", {}),), ("203.0.113.22",)),
    Change(
        "right to open others lost",
        REMOTE,
        {"allow_remote_whitelist": False},
        (("203.0.113.23", {"ip_address": "198.51.100.0/28"}), ("203.0.113.23", {})),
        ("198.51.100.1", "198.51.100.15"),
        ("203.0.113.23",),
    ),
    Change("key expired", {}, {"expires": "2020-01-01T00:00:00Z"}, (("203.0.113.24", {}),), ("203.0.113.24",)),
    Change(
        "ipv6_prefix narrowed",
        {"ipv6_prefix": 64},
        {"ipv6_prefix": 72},
        (("2001:db8:1::7", {}), ("203.0.113.25", {})),
        ("2001:db8:1::7", "2001:db8:1::8"),
        ("203.0.113.25",),
    ),
    Change(
        "trusted proxy inside",
        REMOTE,
        {},
        (("203.0.113.26", {"ip_address": "198.18.0.0/28"}), ("203.0.113.26", {"ip_address": "198.18.0.16/28"})),
        ("198.18.0.1", "198.18.0.5", "198.18.0.15"),
        ("198.18.0.17",),
        {"trusted_proxies": ["198.18.0.5"]},
    ),
    Change(
        "trusted network around",
        {},
        {},
        (("198.18.0.70", {}),),
        ("198.18.0.70",),
        (),
        {"trusted_proxies": ["198.18.0.64/28"]},
    ),
    Change(
        "shared address",
        {},
        {},
        (("198.18.0.40", {}), ("198.18.0.41", {})),
        ("198.18.0.40",),
        ("198.18.0.41",),
        {"shared_addresses": ["198.18.0.40"]},
    ),
    Change(
        "max_addresses lowered",
        {"max_addresses": 3},
        {"max_addresses": 1},
        (("203.0.113.31", {}), ("203.0.113.32", {}), ("203.0.113.33", {}), ("203.0.113.31", {})),
        ("203.0.113.32", "203.0.113.33"),
        ("203.0.113.31",),
    ),
]


def _settings(changes: Sequence[Change], after: Sequence[Change] = ()) -> Settings:
    """Settings with the keys of all these changes, some of them as they are afterwards."""
    keys = [phone(), admin()]
    server: dict[str, Any] = {"trusted_proxies": ["127.0.0.1"], "shared_addresses": []}
    for change in changes:
        if change not in after:
            keys.append(change.before)
        elif change.after is not None:
            keys.append({**change.before, **change.after})
        if change in after:
            server = {name: [*entries, *change.server.get(name, [])] for name, entries in server.items()}
    return settings(*keys, **server)


def _knocks(knocker: Knocker, change: Change) -> None:
    for client, body in change.knocks:
        assert knocker.knock(client, change.secret, **body).status == 200, (change.why, client)
    for client in (*change.outside, *change.inside):
        assert knocker.verify(client) == 200, (change.why, client)


def _wrong(knocker: Knocker, change: Change) -> list[str]:
    """Whom it answers otherwise than the change would have it."""
    told = {client: (401, knocker.verify(client)) for client in change.outside}
    told |= {client: (200, knocker.verify(client)) for client in change.inside}
    return [f"{change.why}: {client} {got}" for client, (expected, got) in told.items() if got != expected]


@pytest.fixture
def quiet(make: Start) -> Iterator[Knocker]:
    """A Knocker with all keys of the table, which says none of them."""
    knocker = make(_settings(CHANGES))
    knocker.start()
    yield knocker
    knocker.end(*(change.secret for change in CHANGES))


def test_what_a_reload_ends_ends_at_once_and_for_good(quiet: Knocker) -> None:
    assert quiet.knock(CLIENT, PHONE).status == 200
    wrong = []
    for change in CHANGES:
        _knocks(quiet, change)
        _change(quiet, _settings(CHANGES, [change]))
        wrong += _wrong(quiet, change)
        _change(quiet, _settings(CHANGES))
        wrong += [f"undone, {line}" for line in _wrong(quiet, change)]
    assert quiet.terminate() == 0
    quiet.start()
    wrong += [f"restarted, {line}" for change in CHANGES for line in _wrong(quiet, change)]
    assert wrong == []
    assert quiet.verify(CLIENT) == 200


def _stored(knocker: Knocker) -> list[str]:
    """What the file would open now."""
    grants = json.loads(knocker.whitelist.read_text())["grants"]
    return [grant["entry"] for grant in grants if grant["expires_at"] > time.time()]


def test_what_a_reload_ends_stays_ended_when_the_process_is_killed_once_the_file_says_so(quiet: Knocker) -> None:
    for change in CHANGES:
        _knocks(quiet, change)
    _change(quiet, _settings(CHANGES, CHANGES))
    left = sum(len(change.inside) for change in CHANGES)
    eventually(lambda: len(_stored(quiet)) == left, "the change is on the disk")
    quiet.kill()
    quiet.configure(_settings(CHANGES))
    quiet.start()
    assert [line for change in CHANGES for line in _wrong(quiet, change)] == []


def test_what_a_change_would_end_ends_at_the_next_start_and_for_good(quiet: Knocker) -> None:
    assert quiet.knock(CLIENT, PHONE).status == 200
    for change in CHANGES:
        _knocks(quiet, change)
    for after in (CHANGES, []):
        assert quiet.terminate() == 0
        quiet.configure(_settings(CHANGES, after))
        quiet.start()
        # An address that became a proxy's or a shared one is judged once it is an ordinary one again.
        assert [line for change in CHANGES for line in _wrong(quiet, change)] == [], "after" if after else "undone"
    assert quiet.verify(CLIENT) == 200


# --- What a change alters --------------------------------------------------------------------------------------------

A, B = "a.example.com", "b.example.com"


def _hosts(knocker: Knocker) -> set[str]:
    return {host for host in (A, B) if knocker.verify(CLIENT, **{"X-Forwarded-Host": host}) == 200}


def test_the_hosts_of_a_grant_follow_its_key(start: Start) -> None:
    knocker = start()
    knocker.knock(CLIENT, PHONE)
    assert _hosts(knocker) == {A, B}
    for hosts, opened in (([A], {A}), ([B], {B}), (["*.example.com"], {A, B}), ([B], {B}), (None, {A, B}), ([A], {A})):
        _change(knocker, settings(phone(hosts=hosts)))
        assert _hosts(knocker) == opened, hosts
        assert (knocker.verify(CLIENT) == 200) == (hosts is None), "without a host"
    assert knocker.terminate() == 0
    knocker.start()
    assert _hosts(knocker) == {A}


def _left(knocker: Knocker) -> dict[str, int]:
    """The seconds that each grant has left, as an admin is told."""
    grants = ask(knocker.port, "/grants", headers={"X-Api-Key": ADMIN, "X-Forwarded-For": OTHER}).json()["grants"]
    for grant in grants:
        assert abs(grant["expires_at"] - time.time() - grant["expires_in_seconds"]) < 3
    return {grant["entry"]: grant["expires_in_seconds"] for grant in grants}


def _in_an_hour() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))


def test_the_time_left_of_a_grant_is_cut_to_what_its_key_allows_and_never_given_back(start: Start) -> None:
    long = {"ttl": 86400, "max_ttl": 864_000}
    before = settings(phone(**long), laptop(**long), admin())
    knocker = start(before)
    knocker.knock(CLIENT, PHONE, ttl=800_000)
    knocker.knock(OTHER, PHONE, ttl=300)
    knocker.knock("203.0.113.9", LAPTOP)
    untouched = _left(knocker)
    assert untouched[CLIENT] > 799_000
    _change(knocker, settings(phone(ttl=600, max_ttl=600), laptop(**long, expires=_in_an_hour()), admin()))
    for step in ("changed", "undone", "restarted"):
        left = _left(knocker)
        assert 500 < left[CLIENT] <= 600, step
        assert 200 < left[OTHER] <= 300, step
        assert 3500 < left["203.0.113.9"] <= 3600, step
        if step == "changed":
            _change(knocker, before)
        elif step == "undone":
            assert knocker.terminate() == 0
            knocker.start()
    assert knocker.knock(CLIENT, PHONE, ttl=800_000).json()["expires_in_seconds"] == 800_000


# --- Key files -------------------------------------------------------------------------------------------------------

FIRST, SECOND = "first-secret-0123456789", "second-secret-0123456789"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A file with the first secret."""
    file = tmp_path / "phone.key"
    file.touch(mode=0o600)
    file.write_text(FIRST + "\n")
    return file


def test_a_key_file_that_was_rewritten_counts_and_the_grants_of_the_old_key_end(start: Start, key_file: Path) -> None:
    knocker = start(settings({"name": "phone", "key_file": str(key_file), "ttl": 3600}, laptop()))
    assert knocker.knock(CLIENT, FIRST).status == 200
    assert knocker.knock(OTHER, LAPTOP).status == 200
    key_file.write_text(SECOND)
    assert knocker.knock(CLIENT, SECOND).status == 401, "nobody said yet that it be read again"
    _reload(knocker)
    assert [knocker.verify(client) for client in (CLIENT, OTHER)] == [401, 200]
    assert [knocker.knock(CLIENT, key).status for key in (FIRST, SECOND)] == [401, 200]
    assert knocker.terminate() == 0
    knocker.start()
    assert [knocker.verify(client) for client in (CLIENT, OTHER)] == [200, 200]
    knocker.end(FIRST, SECOND)


def test_a_key_file_that_cannot_be_used_is_named_and_changes_nothing(start: Start, key_file: Path) -> None:
    knocker = start(settings({"name": "phone", "key_file": str(key_file), "ttl": 3600}, laptop()))
    assert knocker.knock(CLIENT, FIRST).status == 200
    knocker.configure(settings({"name": "phone", "key_file": str(key_file), "ttl": 3600}))
    uses: list[Callable[[], object]] = [
        key_file.unlink,
        lambda: key_file.write_text(""),
        lambda: key_file.write_text("CHANGE_ME"),
        lambda: key_file.write_bytes(b"\xff\xfe" * 16),
    ]
    for number, use in enumerate(uses, 1):
        use()
        _reload(knocker, REFUSED)
        assert knocker.log.count("knocker.yaml: api_keys[0].key_file: ") == number
        assert knocker.verify(CLIENT) == 200
        assert [knocker.knock(OTHER, key).status for key in (FIRST, LAPTOP)] == [200, 200]
    assert str(key_file) in knocker.log
    key_file.write_text(FIRST)
    _reload(knocker)
    assert knocker.verify(CLIENT) == 200
    assert knocker.knock(OTHER, LAPTOP).status == 401
    knocker.end(FIRST)


# --- What a reload cannot change, and what else it can ---------------------------------------------------------------


def test_what_needs_a_restart_is_named_once_and_the_rest_of_the_change_counts(start: Start) -> None:
    knocker = start()
    knocker.knock(CLIENT, PHONE)
    elsewhere, port = knocker.directory / "elsewhere.json", free_port()
    told = settings(phone(), laptop(), host="127.0.0.2", port=port, max_connections=99)
    storage = {"storage_path": str(elsewhere), "cleanup_interval_seconds": 7}
    _change(knocker, {**told, "whitelist": storage})
    _change(knocker, {**told, "whitelist": storage, "cors": {"allowed_origin": "https://a.example.com"}})
    lines = [line for line in knocker.log.splitlines() if "needs a restart" in line]
    named = ["server.host", "server.port", "server.max_connections"]
    named += ["whitelist.storage_path", "whitelist.cleanup_interval_seconds"]
    assert [sum(f"{name} " in line for line in lines) for name in named] == [1] * len(named)
    assert len(lines) == len(named)
    # It stays where it is, and all else counts.
    assert knocker.verify(CLIENT) == 200
    answer = knocker.knock(OTHER, LAPTOP)
    assert (answer.status, answer.lines("Access-Control-Allow-Origin")) == (200, ["https://a.example.com"])
    assert OTHER in knocker.whitelist.read_text()
    assert not elsewhere.exists()
    assert knocker.terminate() == 0
    assert not elsewhere.exists()


def _limited(successful: int, failed: int, **more: Any) -> Settings:
    limit = {"window_seconds": 600, "successful_requests": successful, "failed_requests": failed}
    return {**settings(), "security": {"knock_rate_limit": limit}, **more}


def test_a_changed_rate_limit_counts_at_once(start: Start) -> None:
    knocker = start(_limited(0, 0))

    def knocks(key: str, client: str = CLIENT) -> list[int]:
        return [knocker.knock(client, key).status for _ in range(4)]

    assert knocks(LAPTOP) == [401] * 4
    _change(knocker, _limited(3, 2))
    assert knocks(LAPTOP) == [401, 401, 429, 429]
    assert knocks(PHONE, OTHER) == [200, 200, 200, 429]
    # A change of something else is no way to begin anew.
    _change(knocker, _limited(3, 2, cors={"allowed_origin": "https://a.example.com"}))
    assert knocks(LAPTOP) == [429] * 4
    assert knocks(PHONE, OTHER) == [429] * 4
    _change(knocker, _limited(0, 3))
    assert knocks(PHONE, OTHER) == [200] * 4
    assert knocks(LAPTOP, "203.0.113.9") == [401, 401, 401, 429]
    _change(knocker, settings())
    assert knocks(LAPTOP, "203.0.113.9") == [401] * 4


def test_an_address_that_is_always_allowed_is_so_from_one_reload_to_another(start: Start) -> None:
    knocker = start()
    told = settings()
    listed = {**told, "security": {**told["security"], "always_allowed_ips": ["203.0.113.0/24"]}}
    for whole, status in ((listed, 200), (told, 401), (listed, 200)):
        _change(knocker, whole)
        assert yaml.safe_load(knocker.config.read_text())["security"] == whole["security"]
        assert knocker.verify(CLIENT) == status
