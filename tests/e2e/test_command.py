"""`knocker`, the command, as an admin runs it on the server."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import ADMIN, LAPTOP, PHONE, Start, laptop, phone, settings
from tests.service import SCRIPTS, Knocker, ask, eventually, free_port, ran

LONG = os.environ.get("KNOCKER_TEST_LONG") == "1"
FAULTY = f"api_keys:\n  - {{name: phone, key: {PHONE}, ttl: abc}}\nsever: {{}}\n"


def run(directory: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, in a directory, and what became of it."""
    return ran([str(SCRIPTS / "knocker"), *args], directory, **environment)


@pytest.mark.parametrize("told", ["by its name", "by the environment", "by standing here"])
def test_check_is_content_with_a_good_file(make: Start, tmp_path: Path, told: str) -> None:
    knocker = make()
    away = tmp_path / "away"
    away.mkdir()
    where = tmp_path if told == "by standing here" else away
    args = [str(knocker.config)] if told == "by its name" else []
    environment = {"KNOCKER_CONFIG_PATH": str(knocker.config)} if told == "by the environment" else {}
    ended = run(where, "check", *args, **environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert PHONE not in ended.stdout


def test_check_tells_every_fault(tmp_path: Path) -> None:
    file = tmp_path / "knocker.yaml"
    file.write_text(FAULTY)
    file.chmod(0o600)
    ended = run(tmp_path, "check", "knocker.yaml")
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert "knocker: error: knocker.yaml: api_keys[0].ttl: expected a positive integer, got 'abc'" in lines
    assert any("sever" in line and "did you mean server?" in line for line in lines)
    assert len(lines) == 2
    assert PHONE not in ended.stdout + ended.stderr


def test_check_warns_of_a_file_that_others_may_read(make: Start) -> None:
    knocker = make()
    knocker.config.chmod(0o644)
    ended = run(knocker.directory, "check")
    assert ended.returncode == 0
    assert "0600" in ended.stderr


def test_genkey_makes_a_key_and_the_stanza_for_it(make: Start, tmp_path: Path) -> None:
    ended = run(tmp_path, "genkey", "--name", "laptop")
    assert ended.returncode == 0
    keys = re.findall(r"\bkn_[0-9A-Za-z]{49}\b", ended.stdout + ended.stderr)
    assert len(keys) == 1
    stanza = ended.stdout[ended.stdout.index("  - name:") :]
    (told,) = yaml.safe_load(stanza)
    assert keys[0] not in stanza
    assert told["name"] == "laptop"
    assert told["key_sha256"] == hashlib.sha256(keys[0].encode()).hexdigest()
    assert re.fullmatch("[0-9a-f]{64}", told["udp_secret"])
    knocker = make(settings({"ttl": 60, **told}))
    knocker.start()
    assert knocker.knock("203.0.113.7", keys[0]).status == 200
    assert knocker.knock("203.0.113.7", keys[0][:-1] + "!").status == 401
    assert keys[0] not in run(tmp_path, "genkey").stdout


def test_health_is_for_container_probes(start: Start, tmp_path: Path) -> None:
    knocker = start()
    url = f"http://127.0.0.1:{knocker.port}"
    for args in (["--config", str(knocker.config)], ["--url", url]):
        assert run(tmp_path, "health", *args).returncode == 0
    assert run(tmp_path, "health", KNOCKER_CONFIG_PATH=str(knocker.config)).returncode == 0
    knocker.terminate()
    for args in (["--config", str(knocker.config)], ["--url", url]):
        ended = run(tmp_path, "health", *args)
        assert ended.returncode == 3
        assert ended.stderr.startswith("knocker: error: ")


def test_health_reaches_a_knocker_on_both_families(start: Start) -> None:
    knocker = start(host="::")
    assert run(knocker.directory, "health").returncode == 0


@pytest.mark.parametrize(
    "args", [["nonsense"], ["check", "--nonsense"], ["health", "--url", "ftp://x"], ["check", "a", "b"]]
)
def test_a_wrong_use_is_status_2(tmp_path: Path, args: list[str]) -> None:
    ended = run(tmp_path, *args)
    assert ended.returncode == 2
    assert ended.stdout == ""


def test_help_is_no_fault(tmp_path: Path) -> None:
    for args in (["--help"], ["check", "--help"], ["genkey", "-h"]):
        ended = run(tmp_path, *args)
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("who", ["nobody", "one that hangs"] if LONG else ["nobody"])  # that one takes 5 s
def test_health_without_an_answer_is_status_3(start: Start, tmp_path: Path, who: str) -> None:
    port = free_port()
    if who == "one that hangs":
        knocker = start()
        knocker.signal(signal.SIGSTOP)
        port = knocker.port
    ended = run(tmp_path, "health", "--url", f"http://127.0.0.1:{port}")
    assert ended.returncode == 3
    assert ended.stderr.startswith("knocker: error: ")


# --- reload ----------------------------------------------------------------------------------------------------------

RELOADED = "the settings were reloaded from"


def test_reload_has_the_settings_read_again(start: Start, tmp_path: Path) -> None:
    knocker = start()
    assert knocker.knock("203.0.113.7", LAPTOP).status == 401
    knocker.configure(settings(phone(), laptop()))
    ended = run(tmp_path, "reload", "--config", str(knocker.config))
    said = f"asked Knocker (pid {knocker.pid}) to read its settings again; its log says what came of it\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, said, "")
    eventually(lambda: RELOADED in knocker.log, "the log says that they were")
    assert knocker.knock("203.0.113.7", LAPTOP).status == 200


def test_reload_of_a_faulty_file_signals_nobody(start: Start) -> None:
    knocker = start()
    knocker.write(FAULTY)
    log = knocker.log
    ended = run(knocker.directory, "reload")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "did you mean server?" in ended.stderr
    assert PHONE not in ended.stderr
    assert knocker.knock("203.0.113.7", PHONE).status == 200
    assert "not reloaded" not in knocker.log.removeprefix(log)


def test_reload_without_a_knocker_is_no_answer(start: Start) -> None:
    knocker = start()
    assert run(knocker.directory, "reload", KNOCKER_CONFIG_PATH=str(knocker.config)).returncode == 0
    for end in (knocker.kill, knocker.terminate):  # the one leaves its lock file behind
        end()
        ended = run(knocker.directory, "reload")
        assert (ended.returncode, ended.stdout) == (3, "")
        assert ended.stderr.startswith(f"knocker: error: no Knocker runs on {knocker.whitelist}\n")
        knocker.start()


def test_reload_never_signals_who_only_has_the_number(start: Start) -> None:
    knocker = start()
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        lock = knocker.directory / "whitelist.json.lock"
        lock.write_text(f"{sleeper.pid}\n")
        ended = run(knocker.directory, "reload")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "docker compose exec knocker knocker reload" in ended.stderr
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


# --- leave, grants, revoke -------------------------------------------------------------------------------------------


@pytest.fixture
def gate(start: Start) -> Knocker:
    """A Knocker that we reach without a proxy, and that lets loopback in."""
    admin = {"name": "admin", "key": ADMIN, "ttl": 600, "allow_remote_whitelist": True}
    return start(settings(phone(), laptop(), admin, trusted_proxies=[], allow_loopback_clients=True))


def knocks(knocker: Knocker, key: str, body: bytes = b"", host: str = "127.0.0.1") -> str:
    """Knock from here; what was opened."""
    headers = {"X-Api-Key": key, "Content-Type": "application/json"}
    answer = ask(knocker.port, "/knock", "POST", headers, body, host)
    assert answer.status == 200, answer.body
    return str(answer.json()["whitelisted_entry"])


def asks(knocker: Knocker, key: str, *args: str) -> subprocess.CompletedProcess[str]:
    """The command with a key in the environment, which it never shows."""
    url = f"http://{'[::1]' if knocker.host == '::' else '127.0.0.1'}:{knocker.port}"
    home = str(knocker.directory)
    ended = run(knocker.directory, *args, KNOCKER_URL=url, KNOCKER_KEY=key, HOME=home, XDG_CONFIG_HOME="")
    assert key not in ended.stdout + ended.stderr
    return ended


def test_leave_closes_the_own_grant_of_the_key_alone(gate: Knocker) -> None:
    knocks(gate, PHONE)
    knocks(gate, LAPTOP)
    for _ in range(2):  # also where there is none
        ended = asks(gate, PHONE, "leave")
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "closed\n", "")
    assert asks(gate, PHONE, "grants").stdout == "no grants\n"
    assert len(asks(gate, LAPTOP, "grants").stdout.splitlines()) == 2


def test_leave_over_ipv6(start: Start) -> None:
    knocker = start(settings(trusted_proxies=[], allow_loopback_clients=True), host="::")
    assert knocks(knocker, PHONE, host="::1") == "::1"
    assert asks(knocker, PHONE, "leave").stdout == "closed\n"
    assert asks(knocker, PHONE, "grants").stdout == "no grants\n"


def test_grants_are_listed_and_revoked(gate: Knocker) -> None:
    knocks(gate, PHONE)
    knocks(gate, ADMIN, b'{"ip_address": "198.51.100.0/24", "ttl": 100}')
    first, second, third = (line.split() for line in asks(gate, ADMIN, "grants").stdout.splitlines())
    assert first == ["ID", "ENTRY", "KEY", "VIA", "HOSTS", "LEFT"]
    assert second[1:5] == ["198.51.100.0/24", "admin", "remote", "*"]
    assert third[1:5] == ["127.0.0.1", "phone", "http", "*"]
    assert third[5] in ("59m", "1h")
    assert len(asks(gate, PHONE, "grants").stdout.splitlines()) == 2
    owned = json.loads(asks(gate, ADMIN, "grants", "--json", "--owner", "phone").stdout)["grants"]
    assert [(grant["id"], grant["entry"], grant["hosts"]) for grant in owned] == [(third[0], "127.0.0.1", None)]

    denied = asks(gate, PHONE, "revoke", second[0])
    assert (denied.returncode, denied.stdout) == (1, "")
    assert denied.stderr.startswith("knocker: error: no such grant\n")
    closed = asks(gate, ADMIN, "revoke", second[0])
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, "closed\n", "")
    assert asks(gate, ADMIN, "revoke", second[0]).returncode == 1
    assert asks(gate, PHONE, "revoke", third[0]).returncode == 0
    assert asks(gate, ADMIN, "grants").stdout == "no grants\n"


def test_a_verdict_is_explained(gate: Knocker) -> None:
    knocks(gate, PHONE)
    ended = asks(gate, ADMIN, "explain")
    assert (ended.returncode, ended.stderr) == (0, "")
    first, *steps = ended.stdout.splitlines()
    assert first == "127.0.0.1, asking for any host, is let in: grant"
    assert steps[-1].startswith("  allows   the grant for 127.0.0.1 of the key phone has 3")
    assert steps[-1].endswith("s left and opens every host  [api_keys[].ttl]")
    other = asks(gate, ADMIN, "explain", "--ip", "198.51.100.9", "--host", "app.example.com", "--path", "/x?y=1")
    assert other.stdout.startswith("198.51.100.9, asking for app.example.com/x, is refused with 401: no_grant\n")
    told = json.loads(asks(gate, ADMIN, "explain", "--ip", "198.51.100.9", "--json").stdout)
    assert (told["allowed"], told["cause"], told["steps"][0]["step"]) == (False, "no_grant", "list")
    refused = asks(gate, PHONE, "explain")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "lacks remote whitelist permission" in refused.stderr


def test_grants_of_one_host(start: Start) -> None:
    keys = (phone(hosts=["a.example.com"]), laptop(hosts=["b.example.com"]))
    admin = {"name": "admin", "key": ADMIN, "ttl": 600, "allow_remote_whitelist": True}
    knocker = start(settings(*keys, admin, trusted_proxies=[], allow_loopback_clients=True))
    knocks(knocker, PHONE)
    knocks(knocker, LAPTOP)
    rows = asks(knocker, ADMIN, "grants", "--host", "a.example.com").stdout.splitlines()[1:]
    assert [row.split()[2:5] for row in rows] == [["phone", "http", "a.example.com"]]


@pytest.mark.parametrize("args", [["leave"], ["grants"], ["revoke", "nosuch"]], ids=lambda args: args[0])
def test_a_key_that_the_gate_does_not_know_is_refused(gate: Knocker, args: list[str]) -> None:
    ended = asks(gate, "another-key-0123456789", *args)
    assert (ended.returncode, ended.stdout) == (1, "")
    error, hint = ended.stderr.splitlines()
    assert error == "knocker: error: the gate refused: Invalid or missing API key."
    assert hint == "knocker: hint: the key came from $KNOCKER_KEY"


@pytest.mark.parametrize("args", [["leave"], ["grants"], ["revoke", "nosuch"]], ids=lambda args: args[0])
def test_a_gate_that_is_away_is_no_answer(tmp_path: Path, args: list[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = run(tmp_path, *args, KNOCKER_URL=url, KNOCKER_KEY=PHONE)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith("knocker: error: no answer from 127.0.0.1 port ")


@pytest.mark.parametrize("told", ["key", "key_file"])
def test_a_person_has_gate_and_key_in_a_file(gate: Knocker, tmp_path: Path, told: str) -> None:
    folder = tmp_path / "home/.config/knocker"
    folder.mkdir(parents=True)
    secret = folder / "phone.key"
    secret.write_text(PHONE + "\n")
    file = folder / "client.yaml"
    file.write_text(f"url: http://127.0.0.1:{gate.port}\n{told}: {PHONE if told == 'key' else 'phone.key'}\n")
    for each in (secret, file):
        each.chmod(0o600)
    ended = run(tmp_path, "grants", HOME=str(tmp_path / "home"), XDG_CONFIG_HOME="")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "no grants\n", "")


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(["leave", "--url", "ftp://x"], id="another scheme"),
        pytest.param(["leave", "--url", "https://me:pass@x"], id="a password in the address"),
        pytest.param(["leave", "--key", PHONE], id="a key on the command line"),
        pytest.param(["grants", "x"], id="an argument too many"),
        pytest.param(["revoke"], id="an argument too few"),
        pytest.param(["leave", "--key-file", "nosuch"], id="no key file"),
        pytest.param(["reload", "x"], id="a reload with an argument"),
    ],
)
def test_a_wrong_use_of_what_asks_is_status_2(tmp_path: Path, args: list[str]) -> None:
    environment = {"KNOCKER_URL": "http://127.0.0.1:1", "KNOCKER_KEY": PHONE}
    ended = run(tmp_path, *args, **environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert PHONE not in ended.stderr


def test_a_folder_that_is_not_there_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "knocker.yaml").touch(mode=0o600)
    (tmp_path / "knocker.yaml").write_text(
        f"whitelist: {{storage_path: /nowhere/whitelist.json}}\napi_keys: [{{key: {PHONE}, ttl: 60}}]\n"
    )
    done = run(tmp_path, "check")
    assert (done.returncode, done.stdout) == (0, "knocker.yaml is fine: 1 key\n")
    assert "knocker: warning: whitelist.storage_path: /nowhere is not there: right where a container" in done.stderr


def test_a_key_that_is_nowhere_is_asked_for_on_a_terminal_and_not_shown(make: Start, tmp_path: Path) -> None:
    knocker = make({"server": {"allow_loopback_clients": True}, "api_keys": [{"name": "me", "key": PHONE, "ttl": 60}]})
    knocker.start()
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [str(SCRIPTS / "knocker"), "knock", f"http://127.0.0.1:{knocker.port}"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        seen = b""
        while b"key: " not in seen:
            seen += os.read(ours, 1000)
        os.write(ours, PHONE.encode() + b"\n")
        with suppress(OSError):  # Linux says so where nobody has the other end any more
            while part := os.read(ours, 1000):
                seen += part
        assert process.wait(20) == 0
    os.close(ours)
    assert b"open: 127.0.0.1, " in seen
    assert PHONE.encode() not in seen
