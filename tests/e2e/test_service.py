"""The service as an admin meets it: real processes that start, serve, reload, are killed and come back."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ADMIN, LAPTOP, PHONE, Start, laptop, phone, settings
from tests.service import SCRIPTS, Knocker, ask, eventually, free_port, ran, twistd

LONG = os.environ.get("KNOCKER_TEST_LONG") == "1"
CLIENT, OTHER = "203.0.113.7", "203.0.113.8"


# --- Starting --------------------------------------------------------------------------------------------------------

FAULTY = f"""
server:
  prot: 8000
  trusted_proxies: ["0.0.0.0/0"]
api_keys:
  - name: phone
    key: {PHONE}
    ttl: abc
  - name: laptop
    key: CHANGE_ME
    ttl: 60
security:
  excluded_paths: ["/"]
"""
FAULTS = [
    "server: unknown setting prot; did you mean port?",
    "server.trusted_proxies[0]: ",
    "api_keys[0].ttl: expected a positive integer, got 'abc'",
    "api_keys[1].key: ",
    "security.excluded_paths[0]: ",
]


def _assert_faults(lines: list[str], prefix: str) -> None:
    for fault in FAULTS:
        assert len([line for line in lines if line.startswith(prefix + fault)]) == 1, (fault, lines)
    assert len(lines) == len(FAULTS)
    assert PHONE not in "".join(lines)


@pytest.mark.parametrize("starter", ["twistd", "twist"])
def test_a_faulty_configuration_ends_the_start_with_a_line_for_each_fault(tmp_path: Path, starter: str) -> None:
    file = tmp_path / "knocker.yaml"
    file.write_text(FAULTY)
    file.chmod(0o600)
    command = twistd("--config", "knocker.yaml") if starter == "twistd" else [str(SCRIPTS / "twist"), "knocker"]
    ended = ran(command, tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == ""
    _assert_faults(ended.stderr.splitlines(), "knocker.yaml: ")


NO_SETTINGS = [None, "", "api_keys: [", "[]", "api_keys: []", "server: {}", "\x00", "a: &x 1\nb: *x\n", "\xff" * 3]


@pytest.mark.parametrize("text", NO_SETTINGS if LONG else NO_SETTINGS[:3])
def test_a_file_that_holds_no_settings_is_one_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "knocker.yaml").write_text(text)
    ended = ran(twistd(), tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("knocker.yaml: ")


FOUND_BY = ["--config", "$KNOCKER_CONFIG_PATH", "./knocker.yaml", "twist", "-c"]


@pytest.mark.parametrize("told", FOUND_BY if LONG else FOUND_BY[:4])
def test_the_settings_are_found(make: Start, tmp_path: Path, told: str) -> None:
    knocker = make()
    away = tmp_path / "away"
    away.mkdir()
    knocker.directory = tmp_path if told == "./knocker.yaml" else away
    # An option counts more than the environment.
    named = {"$KNOCKER_CONFIG_PATH": str(knocker.config), "--config": str(tmp_path / "not-there.yaml")}.get(told)
    knocker.environment = {"KNOCKER_CONFIG_PATH": named} if named else {}
    knocker.command = {
        "$KNOCKER_CONFIG_PATH": twistd(),
        "./knocker.yaml": twistd(),
        "twist": [str(SCRIPTS / "twist"), "knocker", "--config", str(knocker.config)],
    }.get(told, twistd(told, str(knocker.config)))
    knocker.start()
    assert knocker.knock(CLIENT, PHONE).status == 200
    assert knocker.verify(CLIENT) == 200
    assert knocker.terminate() == 0


def test_a_busy_port_ends_the_start(make: Start) -> None:
    knocker = make()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", knocker.port))
        busy.listen()
        ended = ran(knocker.command, knocker.directory)
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if line]
    assert len(lines) == 1
    assert str(knocker.port) in lines[0]
    assert "Traceback" not in ended.stdout + ended.stderr
    assert PHONE not in ended.stdout + ended.stderr
    knocker.start()  # and nothing it left behind is in the way


def test_a_second_instance_on_the_same_whitelist_does_not_start(start: Start, tmp_path: Path) -> None:
    first = start()
    first.knock(CLIENT, PHONE)
    before = first.whitelist.read_bytes()
    folder = tmp_path / "second"
    folder.mkdir()
    second = Knocker(folder, {**settings(), "whitelist": {"storage_path": str(first.whitelist)}}, free_port())
    ended = ran(second.command, folder)
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if line]
    assert len(lines) == 1
    assert str(first.pid) in lines[0]
    assert "Traceback" not in ended.stdout + ended.stderr
    assert first.whitelist.read_bytes() == before
    assert first.verify(CLIENT) == 200
    assert first.terminate() == 0
    with second:
        assert second.verify(CLIENT) == 200


def test_a_whitelist_in_a_directory_that_is_not_there_ends_the_start(make: Start, tmp_path: Path) -> None:
    knocker = make({**settings(), "whitelist": {"storage_path": str(tmp_path / "no" / "whitelist.json")}})
    ended = ran(knocker.command, tmp_path)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert str(tmp_path / "no") in ended.stderr


# --- Answering -------------------------------------------------------------------------------------------------------


def test_a_deny_answer_tells_nothing_and_is_not_kept(start: Start) -> None:
    knocker = start()
    answer = ask(knocker.port, "/verify", headers={"X-Forwarded-For": CLIENT})
    assert answer.status == 401
    assert answer.body == b""
    assert answer.lines("Cache-Control") == ["no-store"]
    assert answer.lines("Content-Length") == ["0"]
    for path in ("/verify", "/knock", "/health", "/nowhere", "/%ff", "//"):
        told = str(ask(knocker.port, path).headers).lower()
        assert "no-store" in told
        assert "twisted" not in told
        assert "'server'" not in told


def test_a_grant_lasts_its_time_and_no_longer(start: Start) -> None:
    knocker = start(settings(phone(ttl=1)))
    began = time.monotonic()
    assert knocker.knock(CLIENT, PHONE).json()["expires_in_seconds"] == 1
    assert knocker.verify(CLIENT) == 200
    eventually(lambda: knocker.verify(CLIENT) == 401, "the grant of 1 s is over", seconds=3)
    assert 0.9 <= time.monotonic() - began <= 2.0


def test_one_socket_serves_both_families(start: Start) -> None:
    knocker = start(host="::")
    for peer, client in (("127.0.0.1", "203.0.113.1"), ("::1", "203.0.113.2")):
        lines = {"X-Forwarded-For": f"::ffff:{client}", "X-Api-Key": PHONE}
        assert ask(knocker.port, "/knock", "POST", lines, host=peer).json()["whitelisted_entry"] == client
        for name, status in ((client, 200), (f"::ffff:{client}", 200), (OTHER, 401)):
            assert ask(knocker.port, "/verify", headers={"X-Forwarded-For": name}, host=peer).status == status


def test_a_direct_peer_is_known_by_its_own_address(start: Start) -> None:
    knocker = start(settings(allow_loopback_clients=True, trusted_proxies=[]), host="::")
    for peer, other in (("127.0.0.1", "::1"), ("::1", "127.0.0.1")):
        assert ask(knocker.port, "/verify", host=peer).status == 401
        assert ask(knocker.port, "/knock", "POST", {"X-Api-Key": PHONE}, host=peer).json()["whitelisted_entry"] == peer
        assert ask(knocker.port, "/verify", host=peer).status == 200
        assert ask(knocker.port, "/verify", host=other).status == 401
        # A peer that is no trusted proxy and passes something on is believed in nothing, not even itself.
        assert ask(knocker.port, "/verify", headers={"X-Forwarded-For": peer}, host=peer).status == 401
        assert ask(knocker.port, "/knock", "DELETE", {"X-Api-Key": PHONE}, host=peer).status == 204


def test_loopback_is_nobody_unless_it_is_allowed(start: Start) -> None:
    knocker = start(settings(trusted_proxies=[]))
    answer = ask(knocker.port, "/knock", "POST", {"X-Api-Key": PHONE})
    assert answer.status == 400
    assert answer.json() == {"error": "Could not determine client IP."}


# --- Ending ----------------------------------------------------------------------------------------------------------

# What a Knocker's disk does while a file of that name exists: `held`, nothing gets synced; `full`, nothing can be.
DISK = """
import os, pathlib, time
_folder = pathlib.Path({folder!r})
def _like_that(sync):
    def synced(descriptor):
        end = time.monotonic() + 20
        while (_folder / "held").exists() and time.monotonic() < end:
            (_folder / "waiting").touch()
            time.sleep(0.01)
        if (_folder / "full").exists():
            raise OSError(28, "No space left on device")
        return sync(descriptor)
    return synced
os.fsync, os.fdatasync = _like_that(os.fsync), _like_that(os.fdatasync)
"""


class Disk:
    """The disk of one Knocker, which does not always do as it is told."""

    def __init__(self, knocker: Knocker) -> None:
        self._folder = knocker.directory / "disk"
        self._folder.mkdir()
        (self._folder / "sitecustomize.py").write_text(DISK.format(folder=str(self._folder)))
        knocker.environment = {"PYTHONPATH": str(self._folder)}

    @contextmanager
    def being(self, what: str) -> Iterator[None]:
        """From now to the block's end it is `held` or `full`."""
        (self._folder / what).touch()
        try:
            yield
        finally:
            (self._folder / what).unlink()

    def wait(self) -> None:
        """Until a write waits for it."""
        eventually((self._folder / "waiting").exists, "a write has begun")


@pytest.fixture
def on_a_disk(make: Start) -> tuple[Knocker, Disk]:
    """A Knocker that is listening, and its disk."""
    knocker = make()
    disk = Disk(knocker)
    knocker.start()
    return knocker, disk


def _refused(port: int) -> bool:
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex(("127.0.0.1", port)) != 0


def test_sigterm_ends_in_time_whoever_hangs_on(start: Start) -> None:
    """An idle proxy's connection, a request that never gets complete, and one that has not begun."""
    knocker = start()
    sent = [
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /knock HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{",
        b"",
    ]
    connections = [socket.create_connection(("127.0.0.1", knocker.port), timeout=10) for _ in sent]
    try:
        for connection, data in zip(connections, sent, strict=True):
            connection.sendall(data)
        assert connections[0].recv(9).startswith(b"HTTP/1.1")
        began = time.monotonic()
        assert knocker.terminate() == 0
        assert time.monotonic() - began < 6
    finally:
        for connection in connections:
            connection.close()


def test_a_knock_in_flight_at_the_end_is_answered_and_kept(on_a_disk: tuple[Knocker, Disk]) -> None:
    knocker, disk = on_a_disk
    with ThreadPoolExecutor(1) as pool:
        with disk.being("held"):
            knock = pool.submit(knocker.knock, CLIENT, PHONE)
            disk.wait()
            assert knocker.verify(CLIENT) == 401  # opening changes memory only after the disk did
            knocker.signal(signal.SIGTERM)
            eventually(lambda: _refused(knocker.port), "the door is closed")
            knocker.signal(signal.SIGTERM)  # an impatient admin's
            assert not knock.done()
            assert knocker.running
        assert knock.result(6).status == 200
    assert knocker.wait(6) == 0
    knocker.start()
    assert knocker.verify(CLIENT) == 200


# --- The disk --------------------------------------------------------------------------------------------------------


def test_verify_does_not_wait_for_the_disk(on_a_disk: tuple[Knocker, Disk]) -> None:
    knocker, disk = on_a_disk
    knocker.knock(OTHER, PHONE)
    with ThreadPoolExecutor(1) as pool:
        with disk.being("held"):
            knock = pool.submit(knocker.knock, CLIENT, PHONE)
            disk.wait()
            began = time.monotonic()
            assert [knocker.verify(OTHER) for _ in range(20)] == [200] * 20
            assert time.monotonic() - began < 2
            assert not knock.done()
        assert knock.result(6).status == 200
    assert knocker.verify(CLIENT) == 200


def test_closing_does_not_wait_for_the_disk(on_a_disk: tuple[Knocker, Disk]) -> None:
    knocker, disk = on_a_disk
    knocker.knock(CLIENT, PHONE)
    with ThreadPoolExecutor(1) as pool:
        with disk.being("held"):
            left = pool.submit(knocker.knock, CLIENT, PHONE, "DELETE")
            eventually(lambda: knocker.verify(CLIENT) == 401, "it is closed")
            assert not left.done()
        assert left.result(6).status == 204


def test_a_full_disk_opens_nothing_and_closes_all_the_same(on_a_disk: tuple[Knocker, Disk]) -> None:
    knocker, disk = on_a_disk
    knocker.knock(CLIENT, PHONE)
    with disk.being("full"):
        refused = knocker.knock(OTHER, PHONE)
        assert refused.status == 503
        assert refused.json() == {"error": "The whitelist could not be stored."}
        assert knocker.verify(OTHER) == 401
        assert knocker.verify(CLIENT) == 200
        assert ask(knocker.port, "/ready").status == 503
        left = knocker.knock(CLIENT, PHONE, "DELETE")
        assert left.status == 503
        assert left.json() == {"error": "Closed, but not stored."}
        assert knocker.verify(CLIENT) == 401
        assert ask(knocker.port, "/ready").status == 503
    # As soon as there is room again it catches up by itself, and stays with what it said.
    eventually(lambda: ask(knocker.port, "/ready").status == 200, "it is ready again")
    knocker.kill()
    knocker.start()
    assert knocker.verify(CLIENT) == 401
    assert knocker.verify(OTHER) == 401


# --- Reloading -------------------------------------------------------------------------------------------------------


def _reload(knocker: Knocker, said: str = "reloaded") -> None:
    count = knocker.log.count(said)
    knocker.hup()
    eventually(lambda: knocker.log.count(said) > count, f"the log says {said!r} after SIGHUP", seconds=5)


def test_sighup_with_a_faulty_file_changes_nothing(start: Start) -> None:
    knocker = start(settings(phone(), laptop()))
    knocker.knock(CLIENT, PHONE)
    knocker.write(FAULTY)
    _reload(knocker, "api_keys[0].ttl: expected a positive integer, got 'abc'")
    for fault in FAULTS:
        assert fault in knocker.log
    assert PHONE not in knocker.log
    assert knocker.running
    assert knocker.verify(CLIENT) == 200
    assert knocker.knock(OTHER, LAPTOP).status == 200
    assert knocker.verify(OTHER) == 200
    knocker.config.unlink()
    _reload(knocker, "not found")
    assert knocker.verify(OTHER) == 200
    # And the next good one counts.
    knocker.configure(settings(phone()))
    _reload(knocker)
    assert knocker.knock(OTHER, LAPTOP).status == 401


def test_a_key_that_was_added_knocks_and_the_grants_stay(start: Start) -> None:
    knocker = start()
    knocker.knock(CLIENT, PHONE)
    assert knocker.knock(OTHER, LAPTOP).status == 401
    knocker.configure(settings(phone(), laptop()))
    _reload(knocker)
    assert knocker.verify(CLIENT) == 200
    assert knocker.knock(OTHER, LAPTOP).status == 200
    assert knocker.verify(OTHER) == 200


def test_a_key_that_was_removed_takes_its_grants_along(start: Start) -> None:
    knocker = start(settings(phone(), laptop()))
    knocker.knock(CLIENT, PHONE)
    knocker.knock(OTHER, LAPTOP)
    knocker.configure(settings(laptop()))
    _reload(knocker)
    assert knocker.verify(CLIENT) == 401
    assert knocker.knock(CLIENT, PHONE).status == 401
    assert knocker.verify(OTHER) == 200
    # It is gone for good: the key's return does not revive it.
    eventually(lambda: CLIENT not in knocker.whitelist.read_text(), "the grant is gone from the disk")
    knocker.configure(settings(phone(), laptop()))
    _reload(knocker)
    assert knocker.verify(CLIENT) == 401


CHANGED = {"another secret": phone(key="another-secret-0123456789"), "removed": laptop()}


@pytest.mark.parametrize("after", CHANGED if LONG else list(CHANGED)[:1])
def test_a_key_that_changed_while_we_were_down_takes_its_grants_along(start: Start, after: str) -> None:
    knocker = start()
    knocker.knock(CLIENT, PHONE)
    assert knocker.terminate() == 0
    knocker.configure(settings(CHANGED[after]))
    knocker.start()
    assert knocker.verify(CLIENT) == 401


def test_a_right_that_was_taken_takes_along_what_it_opened(start: Start) -> None:
    admin = {"name": "admin", "key": ADMIN, "ttl": 3600}
    knocker = start(settings({**admin, "allow_remote_whitelist": True}))
    assert knocker.knock(OTHER, ADMIN, ip_address="198.51.100.0/24").status == 200
    assert knocker.knock(OTHER, ADMIN).status == 200
    assert knocker.verify("198.51.100.9") == 200
    knocker.configure(settings(admin))
    _reload(knocker)
    assert knocker.verify("198.51.100.9") == 401
    assert knocker.verify(OTHER) == 200


def test_hosts_of_a_grant_are_its_keys_current_ones(start: Start) -> None:
    knocker = start(settings(phone(hosts=["a.example.com"])))
    knocker.knock(CLIENT, PHONE)
    assert knocker.verify(CLIENT, **{"X-Forwarded-Host": "a.example.com"}) == 200
    knocker.configure(settings(phone(hosts=["b.example.com"])))
    _reload(knocker)
    assert knocker.verify(CLIENT, **{"X-Forwarded-Host": "a.example.com"}) == 401
    assert knocker.verify(CLIENT, **{"X-Forwarded-Host": "B.example.com:443"}) == 200


def test_many_hangups_are_no_harm(start: Start) -> None:
    knocker = start()
    knocker.knock(CLIENT, PHONE)
    for _ in range(20):
        knocker.hup()
    eventually(lambda: "reloaded" in knocker.log, "the settings are read again")
    assert knocker.verify(CLIENT) == 200
    assert knocker.terminate() == 0


# --- What is never lost ----------------------------------------------------------------------------------------------


def test_a_restart_forgets_nothing(start: Start) -> None:
    knocker = start()
    left = knocker.knock(CLIENT, PHONE, ttl=900).json()
    six = knocker.knock("2001:db8::7", PHONE).json()
    assert six["whitelisted_entry"] == "2001:db8::7"
    for _ in range(2 if LONG else 1):
        assert knocker.terminate() == 0
        knocker.start()
        assert knocker.verify(CLIENT) == 200
        assert knocker.verify("2001:db8::7") == 200
        assert knocker.verify(OTHER) == 401
        again = next(grant for grant in _stored(knocker)["grants"] if CLIENT in str(grant))
        assert left["expires_at"] in [int(value) for value in again.values() if isinstance(value, int | float)]


def test_a_grant_that_was_closed_stays_closed_over_a_restart(start: Start) -> None:
    knocker = start()
    knocker.knock(CLIENT, PHONE)
    assert knocker.knock(CLIENT, PHONE, "DELETE").status == 204
    knocker.kill()
    knocker.start()
    assert knocker.verify(CLIENT) == 401


def _knock_and_kill(knocker: Knocker, client: str) -> None:
    """Kill it as soon as the first line of its answer is there."""
    request = f"POST /knock HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\nX-Api-Key: {PHONE}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", knocker.port), timeout=10) as connection:
        connection.sendall(request.encode())
        first = connection.recv(12)
        knocker.kill()
    assert first == b"HTTP/1.1 200"


def test_killed_right_after_it_said_yes_it_still_lets_that_address_in(start: Start) -> None:
    knocker = start()
    clients = [f"203.0.113.{number}" for number in range(1, 21 if LONG else 7)]
    for number, client in enumerate(clients, 1):
        _knock_and_kill(knocker, client)
        _stored(knocker)
        knocker.start()
        assert [knocker.verify(client) for client in clients[:number]] == [200] * number


def test_killed_while_it_writes_it_comes_back_with_what_it_had(on_a_disk: tuple[Knocker, Disk]) -> None:
    knocker, disk = on_a_disk
    knocker.knock(CLIENT, PHONE)
    with ThreadPoolExecutor(1) as pool, disk.being("held"):
        knock = pool.submit(knocker.knock, OTHER, PHONE)
        disk.wait()
        knocker.kill()
        with pytest.raises(OSError):
            knock.result(6)
    knocker.start()
    assert knocker.verify(CLIENT) == 200
    assert ask(knocker.port, "/ready").status == 200
    assert sorted(path.name for path in knocker.directory.iterdir() if "whitelist" in path.name) == [
        "whitelist.json",
        "whitelist.json.lock",
    ]


def _stored(knocker: Knocker) -> dict[str, Any]:
    assert stat.S_IMODE(knocker.whitelist.stat().st_mode) == 0o600
    stored = json.loads(knocker.whitelist.read_text())
    assert stored["version"] == 1
    assert isinstance(stored["grants"], list)
    return dict(stored)


def test_the_file_is_private_json_without_keys(start: Start) -> None:
    knocker = start()
    knocker.knock(CLIENT, PHONE)
    stored = _stored(knocker)
    assert len(stored["grants"]) == 1
    assert {"saved_at", "boot_id"} <= stored.keys()
    text = knocker.whitelist.read_text()
    assert CLIENT in text
    assert PHONE not in text
    assert PHONE not in knocker.log


def test_the_older_file_is_read_and_kept_once(make: Start) -> None:
    knocker = make(settings(phone(ttl=60, max_ttl=600)))
    old = json.dumps(
        {CLIENT: int(time.time()) + 100_000, OTHER: int(time.time()) - 5, "2001:db8::7": int(time.time()) + 300}
    )
    knocker.whitelist.write_text(old)
    knocker.start()
    assert knocker.verify(CLIENT) == 200
    assert knocker.verify("2001:db8::7") == 200
    assert knocker.verify(OTHER) == 401
    assert (knocker.directory / "whitelist.json.v0").read_text() == old
    knocker.knock("203.0.113.9", PHONE)
    expiries = [value for grant in _stored(knocker)["grants"] for name, value in grant.items() if name == "expires_at"]
    assert expiries
    assert max(expiries) <= time.time() + 601


DAMAGED = ["", '{"version": 1', "{", "null", '{"version": 1, "grants": {}}', "\x00" * 64]


@pytest.mark.parametrize("text", DAMAGED if LONG else DAMAGED[:2])
def test_a_damaged_file_is_kept_and_said(make: Start, text: str) -> None:
    knocker = make()
    knocker.whitelist.write_text(text)
    knocker.start()
    kept = list(knocker.directory.glob("whitelist.json.corrupt-*"))
    assert [path.read_text() for path in kept] == [text]
    ready = ask(knocker.port, "/ready")
    assert ready.status == 503
    assert "whitelist.json" in str(ready.json())
    assert ask(knocker.port, "/health").status == 200
    assert knocker.knock(CLIENT, PHONE).status == 200
    assert knocker.verify(CLIENT) == 200


@pytest.mark.parametrize("number", range(5 if LONG else 1))
def test_an_end_right_after_the_start_is_an_orderly_one(start: Start, number: int) -> None:
    knocker = start()
    assert knocker.terminate() == 0
    assert "stopped" in knocker.log
