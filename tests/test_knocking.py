"""The commands that knock, by HTTP and by packet: gates and sockets stand in for real ones (contract 5)."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from knocker import confirming, knocking, sending
from knocker.account import silent_account
from knocker.cli import main
from knocker.core.addresses import Network
from knocker.core.keys import generate, udp_secret
from knocker.core.packets.native import Knock, Secrets, decode, scope_of
from tests.service import eventually
from tests.test_client import Asked, Stub, private, reply
from tests.test_sending import GLOBAL_4, GLOBAL_6, Net

KEY = generate(lambda count: bytes(range(count)))
LEFT = 3570
OPENED = {"whitelisted_entry": "203.0.113.7", "expires_at": 1_800_003_570, "expires_in_seconds": LEFT}
OPENED_6 = {**OPENED, "whitelisted_entry": "2001:db8:7::/64", "expires_in_seconds": 60}
OPEN, OPEN_6 = reply(200, OPENED), reply(200, OPENED_6)
FULL = reply(503, {"error": "The whitelist is full."})
OFTEN = reply(429, {"error": "Too many knock attempts."}, Retry_After="7")
WRONG = reply(401, {"error": "Invalid or missing API key."})
DENIED, PAGE = reply(401), reply(200, b"<html>welcome</html>")


class Gate(Stub):
    """Gives one answer after the other, the last one for ever, and keeps what it was sent."""

    def __init__(self, *replies: bytes, host: str = "127.0.0.1", port: int = 0) -> None:
        self.replies = list(replies)
        self.bodies: list[bytes] = []
        self.moments: list[float] = []
        self.clock: Callable[[], float] = time.monotonic
        super().__init__(b"", host, port)

    def _answer(self, connection: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            more = connection.recv(65536)
            if not more:
                return
            received += more
        head, _, body = received.partition(b"\r\n\r\n")
        line, *rest = head.decode("latin-1").split("\r\n")
        headers: dict[str, list[str]] = {}
        for each in rest:
            name, _, value = each.partition(": ")
            headers.setdefault(name.lower(), []).append(value)
        length = int(headers.get("content-length", ["0"])[0])
        while len(body) < length:
            body += connection.recv(65536)
        self.moments.append(self.clock())
        self.asked.append(Asked(line, headers))
        self.bodies.append(body)
        connection.sendall(self.replies.pop(0) if len(self.replies) > 1 else self.replies[0])


class Ear:
    """Where datagrams arrive; a context manager."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._wire = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._wire.bind((host, port))
        self._wire.setblocking(False)
        self.port = int(self._wire.getsockname()[1])

    def __enter__(self) -> Ear:
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()

    def heard(self) -> list[bytes]:
        """What arrived since the last time."""
        found = []
        while True:
            try:
                found.append(self._wire.recv(2000))
            except BlockingIOError:
                return found

    def knocks(self, realm: str = "") -> list[Knock]:
        """The knocks among it; copies are one."""
        secret = Secrets.of(udp_secret(KEY), realm)
        return [decode(secret, data) for data in dict.fromkeys(self.heard())]


MakeGate = Callable[..., Gate]
Run = Callable[..., Result]


@pytest.fixture
def gate() -> Iterator[MakeGate]:
    """Makes gates that end with the test."""
    with ExitStack() as stack:

        def make(*replies: bytes, **named: Any) -> Gate:
            made = Gate(*replies, **named)
            stack.enter_context(made)
            return made

        yield make


@pytest.fixture
def ear() -> Iterator[Ear]:
    """An ear for IPv4."""
    with Ear() as found:
        yield found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own with the key in the environment, and no wait between the copies of a packet."""
    for name in [name for name in os.environ if name.startswith(("KNOCKER_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KNOCKER_KEY", KEY)
    monkeypatch.setattr(sending, "AT", (0.0, 0.0, 0.0))
    monkeypatch.setattr(confirming, "_EVERY", 0.01)
    monkeypatch.setattr(confirming, "WITHIN", 0.3)
    return tmp_path


@pytest.fixture
def run(home: Path) -> Run:
    """Runs the command; whatever it says, it shows no secret."""

    def run_one(*args: str, url: str = "") -> Result:
        result = CliRunner().invoke(main, [*args, *(["--url", url] if url else [])])
        assert not isinstance(result.exception, Exception), result.exception
        for secret in (KEY, udp_secret(KEY).hex(), Secrets.of(udp_secret(KEY)).mac.hex()):
            assert secret not in result.output
        return result

    return run_one


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def lead_to(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """From now on every name has both of this machine's addresses, IPv6 first."""
    rows = {
        socket.AF_INET6: (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        socket.AF_INET: (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
    }
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(rows.values()))


# --- By HTTP ---------------------------------------------------------------------------------------------------------


def test_a_knock_opens_and_says_for_how_long(gate: MakeGate, run: Run) -> None:
    stub = gate(OPEN)
    result = run("knock", stub.url)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "open: 203.0.113.7, 59m 30s left\n", "")
    (asked,) = stub.asked
    assert asked.line == "POST /knock HTTP/1.1"
    assert asked.headers["x-api-key"] == [KEY]
    assert asked.headers["host"] == [f"127.0.0.1:{stub.port}"]
    assert "content-type" not in asked.headers
    assert stub.bodies == [b""]


def test_the_gate_may_be_named_in_three_ways(gate: MakeGate, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = gate(OPEN)
    assert run("knock", stub.url + "/base/knock").exit_code == 0
    assert run("knock", url=stub.url).exit_code == 0
    monkeypatch.setenv("KNOCKER_URL", stub.url)
    assert run("knock").exit_code == 0
    assert [asked.line.split()[1] for asked in stub.asked] == ["/base/knock", "/knock", "/knock"]


def test_an_ipv6_address_may_be_the_gate(gate: MakeGate, run: Run) -> None:
    stub = gate(OPEN_6, host="::1")
    result = run("knock", f"http://[::1]:{stub.port}")
    assert (result.exit_code, result.stdout) == (0, "open: 2001:db8:7::/64, 1m 00s left\n")
    assert stub.asked[0].headers["host"] == [f"[::1]:{stub.port}"]


@pytest.mark.parametrize(
    ("args", "body"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param(["--ttl", "60"], {"ttl": 60}, id="a time"),
        pytest.param(["--ttl", "4294967295"], {"ttl": 4294967295}, id="the longest"),
        pytest.param(["--ip", "203.0.113.9"], {"ip_address": "203.0.113.9"}, id="an address"),
        pytest.param(["--ip", "10.1.2.3/24"], {"ip_address": "10.1.2.0/24"}, id="a network, without its host bits"),
        pytest.param(["--ip", "2001:DB8::/64", "--ttl", "5"], {"ip_address": "2001:db8::/64", "ttl": 5}, id="both"),
        pytest.param(["--ip", "::ffff:1.2.3.4"], {"ip_address": "1.2.3.4"}, id="IPv4 written as IPv6"),
    ],
)
def test_a_knock_names_what_it_wishes(gate: MakeGate, run: Run, args: list[str], body: Any) -> None:
    stub = gate(OPEN)
    assert run("knock", *args, url=stub.url).exit_code == 0
    assert [json.loads(sent) if sent else None for sent in stub.bodies] == [body]
    assert stub.asked[0].headers.get("content-type") == (["application/json"] if body else None)


def test_a_knock_answers_in_json(gate: MakeGate, run: Run) -> None:
    result = run("knock", "--json", url=gate(OPEN).url)
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"opened": [OPENED], "refused": [], "no_answer": []}


def test_a_name_with_both_families_is_knocked_at_over_both(
    gate: MakeGate, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = gate(OPEN)
    six = gate(OPEN_6, host="::1", port=four.port)
    lead_to(monkeypatch, four.port)
    result = run("knock", f"http://localhost:{four.port}")
    assert result.stdout == "open: 2001:db8:7::/64, 1m 00s left\nopen: 203.0.113.7, 59m 30s left\n"
    assert (len(four.asked), len(six.asked)) == (1, 1)


@dataclass
class Both:
    """What a name with both families leads to, and what becomes of a knock."""

    why: str
    v4: bytes | None
    v6: bytes | None
    status: int
    opened: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()


FOUR, SIX = "203.0.113.7", "2001:db8:7::/64"
KNOCKING = [
    Both("both open", OPEN, OPEN_6, 0, (SIX, FOUR)),
    Both("IPv6 away", OPEN, None, 0, (FOUR,), ("warning: over IPv6: no answer",), silent=("IPv6",)),
    Both("IPv4 away", None, OPEN_6, 0, (SIX,), ("warning: over IPv4: no answer",), silent=("IPv4",)),
    Both("both away", None, None, 3, (), ("error: over IPv6: no answer", "error: over IPv4: no answer")),
    Both("one refuses", OPEN, FULL, 1, (FOUR,), ("error: over IPv6: the gate refused",), refused=("IPv6",)),
    Both("both refuse", FULL, FULL, 1, (), ("error: over IPv6: the gate", "error: over IPv4: the gate")),
    Both("one refuses, one is away", None, FULL, 1, (), ("error: over IPv4: no", "error: over IPv6: the gate")),
    Both("only IPv4 wanted", OPEN, FULL, 0, (FOUR,), (), ("-4",)),
    Both("only IPv6 wanted", FULL, OPEN_6, 0, (SIX,), (), ("-6",)),
    Both("both wanted", OPEN, OPEN_6, 0, (SIX, FOUR), (), ("-4", "-6")),
    Both("only the one that is away wanted", OPEN, None, 3, (), ("error: no answer",), ("-6",)),
    Both("another address, over whichever answers", OPEN, None, 0, (FOUR,), (), ("--ip", FOUR)),
    Both("another address, over the first", FULL, OPEN_6, 0, (SIX,), (), ("--ip", SIX)),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.why) for case in KNOCKING])
def test_a_knock_goes_by_both_families(run: Run, gate: MakeGate, case: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    four = gate(case.v4) if case.v4 is not None else None
    six = gate(case.v6, host="::1", port=four.port if four else 0) if case.v6 is not None else None
    port = four.port if four else six.port if six else closed_port()
    lead_to(monkeypatch, port)
    result = run("knock", *case.args, url=f"http://localhost:{port}")
    assert result.exit_code == case.status
    assert re.findall("^open: (.*), ", result.stdout, re.MULTILINE) == list(case.opened)
    lines = result.stderr.splitlines()
    assert len(lines) == len(case.said), lines
    assert all(any(line.startswith(f"knocker: {said}") for line in lines) for said in case.said), lines
    result = run("knock", "--json", *case.args, url=f"http://localhost:{port}")
    assert result.exit_code == case.status
    if not case.opened:
        assert result.stdout == ""
        return
    told = json.loads(result.stdout)
    assert [row["whitelisted_entry"] for row in told["opened"]] == list(case.opened)
    assert (told["refused"], told["no_answer"]) == (list(case.refused), list(case.silent))


@pytest.mark.parametrize(
    ("answer", "error", "hint"),
    [
        pytest.param(WRONG, "Invalid or missing API key.", "the key came from $KNOCKER_KEY", id="a wrong key"),
        pytest.param(OFTEN, "Too many knock attempts.", "try again in 7 seconds", id="too often"),
        pytest.param(FULL, "The whitelist is full.", "", id="full"),
        pytest.param(reply(403, {"error": "API key lacks x."}), "API key lacks x.", "", id="not allowed"),
        pytest.param(reply(400, {"error": "Could not determine client IP."}), "Could not determine", "", id="nobody"),
        pytest.param(reply(301, Location="https://new.example/"), "redirects (301)", "https://new.example", id="gone"),
        pytest.param(reply(401), "answered 401, and not as Knocker does", "a site behind the gate", id="a site"),
        pytest.param(PAGE, "answered 200, and not as Knocker does", "/health", id="a page"),
        pytest.param(reply(204), "answered 204, and not as Knocker does", "", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not answer in HTTP", "", id="not HTTP"),
    ],
)
def test_a_refusal_is_told(gate: MakeGate, run: Run, answer: bytes, error: str, hint: str) -> None:
    result = run("knock", url=gate(answer).url)
    assert (result.exit_code, result.stdout) == (1, "")
    first, *rest = result.stderr.splitlines()
    assert first.startswith("knocker: error: ")
    assert error in first
    assert hint in " ".join(rest)
    assert all(line.startswith("knocker: hint: ") for line in rest)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param([], id="a list"),
        pytest.param({}, id="nothing"),
        pytest.param({**OPENED, "whitelisted_entry": 7}, id="a number for an entry"),
        pytest.param({**OPENED, "expires_in_seconds": "7"}, id="a text for a time"),
        pytest.param({**OPENED, "expires_in_seconds": True}, id="true for a time"),
        pytest.param({**OPENED, "expires_at": 1.5}, id="a fraction for a moment"),
        pytest.param(b"[" * 60_000, id="too deep"),
    ],
)
def test_an_answer_that_is_none_of_a_knock_is_refused(gate: MakeGate, run: Run, body: Any) -> None:
    result = run("knock", url=gate(reply(200, body)).url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "and not as Knocker does" in result.stderr


def test_no_text_of_the_gate_reaches_the_terminal_as_it_is(gate: MakeGate, run: Run) -> None:
    stub = gate(reply(200, {**OPENED, "whitelisted_entry": "\x1b]0;x\x07\r\nopen: 0.0.0.0/0\u202e"}))
    result = run("knock", url=stub.url)
    assert len(result.stdout.splitlines()) == 1
    assert result.stdout.rstrip("\n").isprintable()
    assert run("knock", "--json", url=stub.url).stdout.isascii()


def test_what_leads_nowhere_is_no_answer(run: Run) -> None:
    result = run("knock", url=f"http://127.0.0.1:{closed_port()}")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("knocker: error: no answer from 127.0.0.1 port ")


# --- A wrong use -----------------------------------------------------------------------------------------------------

WRONG_USES = [
    pytest.param(["knock", "GATE", "--url", "GATE"], id="two gates"),
    pytest.param(["knock", "GATE", "--udp", "EAR"], id="a gate and a host for packets"),
    pytest.param(["knock", "--url", "GATE", "--udp", "EAR"], id="an option for each"),
    pytest.param(["knock", "GATE", "--host", "a.example"], id="a host by HTTP"),
    pytest.param(["knock", "GATE", "--realm", "home"], id="a realm by HTTP"),
    pytest.param(["knock", "GATE", "--ttl", "0"], id="no time"),
    pytest.param(["knock", "GATE", "--ttl", "-5"], id="a negative time"),
    pytest.param(["knock", "GATE", "--ttl", "1h"], id="a time in words"),
    pytest.param(["knock", "GATE", "--ttl", "4294967296"], id="a time beyond a packet"),
    pytest.param(["knock", "GATE", "--ip", "home"], id="no address"),
    pytest.param(["knock", "GATE", "--ip", "1.2.3.4/33"], id="a prefix too long"),
    pytest.param(["knock", "GATE", "--ip", "fe80::1%eth0"], id="a zone"),
    pytest.param(["knock", "GATE", "--ip", ""], id="an empty address"),
    pytest.param(["knock", "GATE", "--nosuch"], id="no such option"),
    pytest.param(["knock", "GATE", "GATE"], id="two arguments"),
    pytest.param(["knock", "ftp://a.example"], id="another scheme"),
    pytest.param(["knock", ""], id="an empty gate"),
    pytest.param(["knock", "--udp", "EAR", "--keep"], id="packets for ever without a time"),
    pytest.param(["knock", "--udp", "127.0.0.1:0"], id="port 0"),
    pytest.param(["knock", "--udp", "127.0.0.1:99999"], id="a port too high"),
    pytest.param(["knock", "--udp", "127.0.0.1:6220l"], id="a port that is none"),
    pytest.param(["knock", "--udp", "https://a.example"], id="a URL for packets"),
    pytest.param(["knock", "--udp", "[::1"], id="half a bracket"),
    pytest.param(["knock", "--udp", "fe80::1%eth0"], id="a zone for packets"),
    pytest.param(["knock", "--udp", "a b"], id="a space"),
    pytest.param(["knock", "--udp"], id="no host anywhere"),
    pytest.param(["knock", "--udp", "EAR", "--host", "a.example:443"], id="a host with a port"),
    pytest.param(["knock", "--udp", "EAR", "--host", "*.example"], id="a pattern for a host"),
    pytest.param(["knock", "GATE", "--confirm", "a.example"], id="a page without a scheme"),
    pytest.param(["knock", "GATE", "--confirm", "https://secret@a.example/"], id="a page with a user"),
    pytest.param(["knock", "--udp", "EAR", "--confirm", "ftp://a.example"], id="a page of another scheme"),
    pytest.param(["knock", "GATE", "--key-file", "/nosuch"], id="no key file"),
    pytest.param(["leave", "--url", "GATE", "--udp", "EAR"], id="leaving from two"),
    pytest.param(["leave", "--url", "GATE", "--realm", "home"], id="leaving a realm by HTTP"),
    pytest.param(["packet", "--bind"], id="bound to nothing"),
    pytest.param(["packet", "--revoke", "--ttl", "5"], id="closing for a time"),
    pytest.param(["packet", "--revoke", "--host", "a.example"], id="closing one host"),
    pytest.param(["packet", "more"], id="an argument too many"),
]


@pytest.mark.parametrize("args", WRONG_USES)
def test_a_wrong_use_sends_nothing_and_says_why(gate: MakeGate, ear: Ear, run: Run, args: list[str]) -> None:
    stub = gate(OPEN)
    named = {"GATE": stub.url, "EAR": f"127.0.0.1:{ear.port}"}
    result = run(*(named.get(arg, arg) for arg in args))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr
    assert "secret" not in result.stderr
    assert stub.asked == []
    assert ear.heard() == []


@pytest.mark.parametrize("args", [["--ttl", "1h"], ["--ip", "home"], ["--nosuch"], ["https://a.example", "again"]])
def test_a_wrong_option_is_told_as_any_other_fault(run: Run, args: list[str]) -> None:
    result = run("knock", *args)
    assert result.exit_code == 2
    assert [line for line in result.stderr.splitlines() if line.startswith("knocker: error: ")]


def test_a_password_in_an_address_is_not_shown(run: Run) -> None:
    result = run("knock", "https://user:secret@a.example", "--url", "https://b.example")
    assert result.exit_code == 2
    assert "secret" not in result.stderr


def test_without_a_key_it_says_where_to_put_one(run: Run, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KNOCKER_KEY")
    for args in (["--url", "https://a.example"], ["--udp", f"127.0.0.1:{ear.port}"]):
        result = run("knock", *args)
        assert result.exit_code == 2
        assert result.stderr.startswith("knocker: error: no key to show\nknocker: hint: ")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "knock",
            ["--ttl", "--ip", "-4", "-6", "--udp", "--host", "--realm", "--confirm", "--keep", "--json", "--url"],
        ),
        ("leave", ["-4", "-6", "--udp", "--realm", "--json", "--key-file"]),
        ("packet", ["--ttl", "--ip", "--host", "--realm", "--bind", "--revoke", "--json", "--key-file"]),
    ],
)
def test_help_names_every_option(run: Run, command: str, words: list[str]) -> None:
    for name in ("--help", "-h"):
        result = run(command, name)
        assert result.exit_code == 0
        assert [word for word in words if word not in result.stdout] == []
    assert command in run("--help").stdout


def test_no_option_takes_a_secret(run: Run) -> None:
    """What stands on a command line, every process of the machine can read."""
    for command in ("knock", "leave", "packet"):
        options = set(re.findall(r"--[a-z-]+", run(command, "--help").stdout))
        assert not options & {"--key", "--secret", "--password", "--token", "--api-key"}


# --- Whether it opened -----------------------------------------------------------------------------------------------


def test_a_page_that_opens_after_a_while_confirms(gate: MakeGate, run: Run) -> None:
    page = gate(DENIED, DENIED, reply(502), PAGE)
    result = run("knock", "--confirm", f"{page.url}/films?page=2#top", url=gate(OPEN).url)
    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(line.partition(": ")[0] for line in result.stdout.splitlines()) == ["confirmed", "open"]
    assert [asked.line for asked in page.asked] == ["GET /films?page=2 HTTP/1.1"] * 4
    assert not [asked for asked in page.asked if "x-api-key" in asked.headers], "the page is a stranger"


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        pytest.param(DENIED, 1, "answers 401", id="denied"),
        pytest.param(reply(403), 1, "answers 403", id="denied otherwise"),
        pytest.param(reply(502), 3, "answers 502", id="nobody behind it"),
        pytest.param(b"", 3, "no answer from", id="no answer"),
    ],
)
def test_a_page_that_stays_shut_is_told(
    gate: MakeGate, run: Run, ear: Ear, answer: bytes, status: int, said: str
) -> None:
    page = gate(answer)
    for args in (["--url", gate(OPEN).url], ["--udp", f"127.0.0.1:{ear.port}"]):
        result = run("knock", *args, "--confirm", page.url)
        assert result.exit_code == status
        assert result.stderr.startswith("knocker: error: over IPv4 ")
        assert said in result.stderr
        assert "confirmed" not in result.stdout
    assert len(page.asked) > 4, "it asks again and again"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reply(302, Location="/login"), id="a login of the app's own"),
        pytest.param(reply(404), id="no such page"),
        pytest.param(reply(200, b"x" * 100_000), id="a long page"),
    ],
)
def test_whatever_the_app_says_it_is_open(gate: MakeGate, run: Run, answer: bytes) -> None:
    result = run("knock", "--confirm", gate(answer).url, url=gate(OPEN).url)
    assert result.exit_code == 0
    assert "confirmed: " in result.stdout


def test_a_page_is_not_asked_for_when_the_knock_was_refused(gate: MakeGate, run: Run) -> None:
    page = gate(PAGE)
    assert run("knock", "--confirm", page.url, url=gate(FULL).url).exit_code == 1
    assert page.asked == []


@pytest.mark.parametrize(
    ("args", "asked", "status"),
    [([], (True, True), 1), (["-4"], (True, False), 1), (["-6"], (False, True), 0)],
    ids=["both", "IPv4", "IPv6"],
)
def test_a_page_is_asked_for_over_the_families_that_knocked(
    gate: MakeGate, run: Run, monkeypatch: pytest.MonkeyPatch, args: list[str], asked: tuple[bool, bool], status: int
) -> None:
    """One server is gate and page: over IPv6 it opens, and over IPv4 the page stays denied."""
    four = gate(OPEN, DENIED)
    six = gate(OPEN_6, PAGE, host="::1", port=four.port)
    lead_to(monkeypatch, four.port)
    url = f"http://localhost:{four.port}"
    result = run("knock", *args, "--confirm", url, url=url)
    assert result.exit_code == status
    probed = [any(one.line.startswith("GET /") for one in stub.asked) for stub in (four, six)]
    assert tuple(probed) == asked
    assert ("over IPv4 " in result.stderr) is bool(status)


def test_json_stays_json_when_it_is_confirmed(gate: MakeGate, run: Run, ear: Ear) -> None:
    page = gate(PAGE)
    result = run("knock", "--json", "--confirm", page.url, url=gate(OPEN).url)
    assert json.loads(result.stdout)["opened"] == [OPENED]
    result = run("knock", "--json", "--confirm", page.url, "--udp", f"127.0.0.1:{ear.port}")
    assert json.loads(result.stdout)["sent"]


def test_a_page_may_have_an_ipv6_address(gate: MakeGate, run: Run) -> None:
    page = gate(PAGE, host="::1")
    result = run("knock", "--ip", "203.0.113.7", "--confirm", page.url, url=gate(OPEN).url)
    assert result.exit_code == 0
    assert page.asked[0].headers["host"] == [f"[::1]:{page.port}"]


# --- By packet -------------------------------------------------------------------------------------------------------


def test_a_silent_knock_is_one_packet_three_times(run: Run, ear: Ear) -> None:
    before = time.time()
    result = run("knock", "--udp", f"127.0.0.1:{ear.port}")
    said = "sent over IPv4 to 127.0.0.1, for 127.0.0.1; a gate never answers\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, said, "")
    heard = ear.heard()
    assert (len(heard), len(set(heard)), len(heard[0])) == (3, 1, 80)
    found = decode(Secrets.of(udp_secret(KEY)), heard[0])
    assert found == Knock(found.moment, found.nonce)
    assert before - 0.1 <= found.moment / 1000 <= time.time() + 0.1


def test_each_silent_knock_is_another(run: Run, ear: Ear) -> None:
    for _ in range(3):
        run("knock", "--udp", f"127.0.0.1:{ear.port}")
    assert len({found.nonce for found in ear.knocks()}) == 3


@pytest.mark.parametrize(
    ("args", "realm", "expected"),
    [
        pytest.param([], "", {}, id="nothing"),
        pytest.param(["--ttl", "60"], "", {"ttl": 60}, id="a time"),
        pytest.param(["--ttl", "4294967295"], "", {"ttl": 4294967295}, id="the longest"),
        pytest.param(["--ip", "10.1.2.3/24"], "", {"network": Network.parse("10.1.2.0/24")}, id="a network"),
        pytest.param(["--ip", "2001:db8::7"], "", {"network": Network.parse("2001:db8::7")}, id="of the other family"),
        pytest.param(["--host", "Jellyfin.Example.com."], "", {"scope": scope_of("jellyfin.example.com")}, id="a host"),
        pytest.param(["--realm", "home"], "home", {}, id="a realm"),
        pytest.param(["--realm", ""], "", {}, id="no realm"),
    ],
)
def test_a_packet_says_what_is_wished(
    run: Run, ear: Ear, args: list[str], realm: str, expected: dict[str, Any]
) -> None:
    assert run("knock", "--udp", f"127.0.0.1:{ear.port}", *args).exit_code == 0
    (found,) = ear.knocks(realm)
    assert found == Knock(found.moment, found.nonce, **expected)


def test_a_silent_knock_answers_in_json(run: Run, ear: Ear) -> None:
    result = run("knock", "--json", "--udp", f"127.0.0.1:{ear.port}")
    row = {"family": "IPv4", "to": "127.0.0.1", "for": "127.0.0.1"}
    assert json.loads(result.stdout) == {"sent": [row], "no_answer": []}


def test_leaving_by_packet_closes_the_own_address(run: Run, ear: Ear) -> None:
    result = run("leave", "--udp", f"127.0.0.1:{ear.port}")
    assert result.exit_code == 0
    (found,) = ear.knocks()
    assert found == Knock(found.moment, found.nonce, revoke=True)
    result = run("leave", "--json", "--udp", f"127.0.0.1:{ear.port}", "--realm", "home")
    assert json.loads(result.stdout)["sent"][0]["family"] == "IPv4"
    assert [found.revoke for found in ear.knocks("home")] == [True]


@pytest.mark.parametrize("command", ["knock", "leave"])
@pytest.mark.parametrize(
    ("own", "bound"),
    [
        pytest.param((GLOBAL_4, GLOBAL_6), (True, True), id="both of the world"),
        pytest.param(("192.168.1.5", GLOBAL_6), (False, True), id="IPv4 behind a router"),
        pytest.param(("192.168.1.5", "fd00::5"), (False, False), id="both private"),
    ],
)
def test_each_family_has_its_own_packet_bound_to_its_own_address(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, own: tuple[str, str], bound: tuple[bool, bool]
) -> None:
    net = Net({socket.AF_INET: own[0], socket.AF_INET6: own[1]})
    lead_to(monkeypatch, 62201)
    net.stand_in(monkeypatch)
    result = run(command, "--udp", "gate.example")
    assert result.exit_code == 0
    packets = {address[0]: data for data, address in net.sent}
    assert len(net.sent) == 6
    found = [decode(Secrets.of(udp_secret(KEY)), packets[to]) for to in ("127.0.0.1", "::1")]
    assert found[0].nonce != found[1].nonce
    assert tuple(knock.bound for knock in found) == bound
    assert [knock.network for knock in found] == [
        Network.parse(address) if is_bound else None for address, is_bound in zip(own, bound, strict=True)
    ]
    assert [knock.revoke for knock in found] == [command == "leave"] * 2
    assert result.stdout.splitlines() == [
        f"sent over IPv6 to ::1, for {own[1]}; a gate never answers",
        f"sent over IPv4 to 127.0.0.1, for {own[0]}; a gate never answers",
    ]


@pytest.mark.parametrize(
    ("args", "fails", "status", "to", "said"),
    [
        ([], [], 0, ["::1", "127.0.0.1"], []),
        (["-4"], [], 0, ["127.0.0.1"], []),
        (["-6"], [], 0, ["::1"], []),
        ([], [0, 1, 2], 0, ["127.0.0.1"], ["warning: over IPv6: nothing could be sent to ::1"]),
        ([], [3, 4, 5], 0, ["::1"], ["warning: over IPv4: nothing could be sent to 127.0.0.1"]),
        ([], [1, 2, 3, 4], 0, ["::1", "127.0.0.1"], []),
        ([], range(6), 3, [], ["error: over IPv6: nothing could", "error: over IPv4: nothing could"]),
        (["-6"], [0, 1, 2], 3, [], ["error: nothing could be sent to ::1: Network is unreachable"]),
    ],
    ids=["both", "IPv4", "IPv6", "IPv6 fails", "IPv4 fails", "some copies fail", "both fail", "the only one fails"],
)
def test_a_family_that_nothing_can_be_sent_over_is_told(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    fails: Sequence[int],
    status: int,
    to: list[str],
    said: list[str],
) -> None:
    net = Net({socket.AF_INET: "192.168.1.5", socket.AF_INET6: "fd00::5"}, list(fails))
    lead_to(monkeypatch, 62201)
    net.stand_in(monkeypatch)
    result = run("knock", "--udp", "gate.example", *args)
    assert result.exit_code == status
    assert re.findall(" to ([^,]*),", result.stdout) == to
    lines = result.stderr.splitlines()
    assert [line.startswith(f"knocker: {start}") for line, start in zip(lines, said, strict=True)] == [True] * len(said)
    assert list(dict.fromkeys(address[0] for _, address in net.sent)) == to
    if not args and to:
        net.attempts = 0
        told = json.loads(run("knock", "--json", "--udp", "gate.example").stdout)
        assert [row["to"] for row in told["sent"]] == to
        assert len(told["no_answer"]) == len(said)


def test_a_system_without_ipv6_knocks_over_ipv4(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net({socket.AF_INET: "192.168.1.5"}, missing=(socket.AF_INET6,))
    lead_to(monkeypatch, 62201)
    net.stand_in(monkeypatch)
    result = run("knock", "--udp", "gate.example")
    assert (result.exit_code, len(net.sent)) == (0, 3)
    assert result.stderr.startswith("knocker: warning: over IPv6: ")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("gate.example", ("gate.example", 62201)),
        ("gate.example:1234", ("gate.example", 1234)),
        ("192.0.2.1", ("192.0.2.1", 62201)),
        ("192.0.2.1:65535", ("192.0.2.1", 65535)),
        ("2001:db8::1", ("2001:db8::1", 62201)),
        ("[2001:db8::1]", ("2001:db8::1", 62201)),
        ("[2001:db8::1]:1234", ("2001:db8::1", 1234)),
        ("bücher.example:5", ("xn--bcher-kva.example", 5)),
    ],
)
def test_where_packets_go_is_read(home: Path, target: str, expected: tuple[str, int]) -> None:
    found = silent_account(target, None, None, {"KNOCKER_KEY": KEY, "HOME": str(home)})
    assert (found.host, found.port, found.realm, found.warnings) == (*expected, "", ())
    assert KEY not in repr(found)
    assert KEY not in str(found)


@pytest.mark.parametrize(
    ("filed", "args", "realm"),
    [
        pytest.param("host: 127.0.0.1, port: EAR", ["--udp"], "", id="host and port"),
        pytest.param("host: 127.0.0.1, port: EAR, realm: home", ["--udp"], "home", id="and a realm"),
        pytest.param("host: 127.0.0.1, port: EAR, realm: home", ["--udp", "--realm", "there"], "there", id="another"),
        pytest.param("host: 127.0.0.1, port: EAR, realm: home", ["--udp", "--realm", ""], "", id="none after all"),
        pytest.param("host: nosuch.invalid, port: 9, realm: home", ["--udp", "HERE"], "home", id="another host"),
        pytest.param("realm: home", ["--udp", "HERE"], "home", id="only a realm"),
        pytest.param("", ["--udp", "HERE"], "", id="nothing"),
    ],
)
@pytest.mark.parametrize("command", ["knock", "leave"])
def test_the_file_says_where_packets_go(
    run: Run, home: Path, ear: Ear, filed: str, args: list[str], realm: str, command: str
) -> None:
    text = f"url: http://127.0.0.1:9\nkey: {KEY}\nudp: {{{filed.replace('EAR', str(ear.port))}}}\n"
    private(home / ".config/knocker/client.yaml", text)
    result = run(command, *(arg.replace("HERE", f"127.0.0.1:{ear.port}") for arg in args))
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(ear.knocks(realm)) == 1


def test_the_file_alone_is_enough(run: Run, home: Path, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KNOCKER_KEY")
    private(home / "phone.key", KEY + "\n")
    text = f"key_file: {home}/phone.key\nudp: {{host: 127.0.0.1, port: {ear.port}}}\n"
    private(home / ".config/knocker/client.yaml", text)
    assert run("knock", "--udp", "--ttl", "5").exit_code == 0
    assert [found.ttl for found in ear.knocks()] == [5]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        pytest.param("a-key-of-my-own-0123456789", "only with keys that `knocker genkey` made", id="one of one's own"),
        pytest.param(KEY[:-1] + ("0" if KEY[-1] != "0" else "1"), "mistyped", id="a letter wrong"),
    ],
)
def test_a_key_that_no_gate_could_know_is_warned_of(
    run: Run, ear: Ear, monkeypatch: pytest.MonkeyPatch, key: str, said: str
) -> None:
    monkeypatch.setenv("KNOCKER_KEY", key)
    result = run("knock", "--udp", f"127.0.0.1:{ear.port}")
    assert result.exit_code == 0
    assert said in result.stderr
    assert key not in result.output


# --- A packet to print -----------------------------------------------------------------------------------------------

VECTORS = json.loads((Path(__file__).parent / "vectors/knk1.json").read_text())["vectors"]


@dataclass
class Moment:
    """In the place of the time module: it stands still, or is moved on by who sleeps; it ends with Ctrl-C."""

    now: float = 1_767_225_600.0
    end: float = float("inf")
    CLOCK_MONOTONIC: int = time.CLOCK_MONOTONIC
    slept: list[float] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def clock_gettime(self, _: int) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if self.now > self.end:
            raise KeyboardInterrupt


@pytest.mark.parametrize("vector", [pytest.param(row, id=row["packet_hex"][80:90]) for row in VECTORS])
def test_a_packet_is_that_of_the_vector(
    run: Run, vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("KNOCKER_KEY", vector["api_key"])
    monkeypatch.setattr(knocking, "time", Moment(vector["ts_ms"] / 1000))
    monkeypatch.setattr(secrets, "token_bytes", lambda _: bytes.fromhex(vector["nonce"]))
    args = ["--ttl", str(vector["ttl"])] if "ttl" in vector else []
    args += ["--ip", vector["network"]] if "network" in vector else []
    args += ["--host", vector["scope"]] if "scope" in vector else []
    args += [f"--{flag}" for flag in ("bind", "revoke") if vector.get(flag)]
    result = run("packet", *args, "--realm", vector["realm"])
    assert (result.exit_code, result.stdout) == (0, vector["packet_hex"] + "\n")
    assert vector["api_key"] not in result.output
    told = run("packet", "--json", *args, "--realm", vector["realm"]).stdout
    assert json.loads(told) == {"packet": vector["packet_hex"]}


def test_a_packet_is_made_now_and_another_each_time(run: Run) -> None:
    before = time.time()
    printed = {run("packet", "--realm", "home").stdout.strip() for _ in range(3)}
    assert len(printed) == 3
    for text in printed:
        found = decode(Secrets.of(udp_secret(KEY), "home"), bytes.fromhex(text))
        assert before - 0.1 <= found.moment / 1000 <= time.time() + 0.1


@pytest.mark.parametrize(
    ("args", "realm"),
    [([], "home"), (["--realm", "there"], "there"), (["--realm", ""], "")],
    ids=["filed", "told", "none"],
)
def test_a_packet_is_for_the_realm_of_the_file_unless_another_is_told(
    run: Run, home: Path, args: list[str], realm: str
) -> None:
    private(home / ".config/knocker/client.yaml", f"key: {KEY}\nudp: {{host: a.example, realm: home}}\n")
    text = run("packet", *args).stdout.strip()
    assert decode(Secrets.of(udp_secret(KEY), realm), bytes.fromhex(text))


# --- Staying ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Moment:
    """The clock of whoever stays."""
    found = Moment()
    monkeypatch.setattr(knocking, "time", found)
    return found


def stay(run: Run, moment: Moment, seconds: float, *args: str, url: str = "") -> Result:
    """Stay for so long, then press Ctrl-C, unless it ended before."""
    moment.end = moment.now + seconds
    return run("knock", "--keep", *args, url=url)


def lasting(seconds: int) -> bytes:
    return reply(200, {**OPENED, "expires_in_seconds": seconds})


def test_whoever_stays_renews_at_nine_tenths_of_the_time(gate: MakeGate, run: Run, moment: Moment) -> None:
    stub = gate(lasting(1000))
    stub.clock, began = moment.time, moment.now
    result = stay(run, moment, 2000, url=stub.url)
    assert (result.exit_code, result.stderr) == (130, "")
    assert [asked - began for asked in stub.moments] == pytest.approx([0, 900, 1800])
    assert result.stdout == "open: 203.0.113.7, 16m 40s left\n" * 3


def test_the_shorter_of_two_families_decides_when(
    gate: MakeGate, run: Run, moment: Moment, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = gate(lasting(1000))
    six = gate(lasting(100), host="::1", port=four.port)
    lead_to(monkeypatch, four.port)
    four.clock, began = moment.time, moment.now
    stay(run, moment, 200, url=f"http://localhost:{four.port}")
    assert [asked - began for asked in four.moments] == pytest.approx([0, 90, 180])
    assert len(six.asked) == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(FULL, "the gate refused: The whitelist is full", id="full"),
        pytest.param(OFTEN, "the gate refused: Too many knock attempts", id="too often"),
        pytest.param(b"", "no answer from 127.0.0.1 port ", id="no answer"),
    ],
)
def test_whoever_stays_waits_for_what_passes(
    gate: MakeGate, run: Run, moment: Moment, answer: bytes, said: str
) -> None:
    stub = gate(lasting(100), answer, answer, lasting(100))
    result = stay(run, moment, 150, url=stub.url)
    assert result.exit_code == 130
    assert len(stub.asked) == 4
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert all(
        re.fullmatch(f"knocker: warning: {re.escape(said.rstrip('.'))}.*; trying again in [1-4]s", line)
        for line in lines
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(WRONG, "Invalid or missing API key.", id="a key that is no longer"),
        pytest.param(reply(403, {"error": "API key lacks x."}), "API key lacks x.", id="a right that is no longer"),
        pytest.param(PAGE, "not as Knocker does", id="no gate any more"),
    ],
)
def test_a_refusal_that_no_waiting_mends_ends_it(
    gate: MakeGate, run: Run, moment: Moment, answer: bytes, said: str
) -> None:
    stub = gate(lasting(100), FULL, answer)
    result = stay(run, moment, 10_000, url=stub.url)
    assert result.exit_code == 1
    assert len(stub.asked) == 3
    assert said in result.stderr.splitlines()[1]


@pytest.mark.parametrize("answer", [FULL, OFTEN], ids=["full", "too often"])
def test_what_passes_over_one_family_alone_is_waited_for_too(
    gate: MakeGate, run: Run, moment: Moment, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    four = gate(lasting(1000))
    six = gate(answer, answer, lasting(1000), host="::1", port=four.port)
    lead_to(monkeypatch, four.port)
    result = stay(run, moment, 1000, url=f"http://localhost:{four.port}")
    assert result.exit_code == 130, result.stderr
    assert len(six.asked) >= 3


def test_a_family_that_is_refused_for_good_ends_it_and_the_way_out_is_told(
    gate: MakeGate, run: Run, moment: Moment, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = gate(lasting(1000))
    gate(reply(400, {"error": "Could not determine client IP."}), host="::1", port=four.port)
    lead_to(monkeypatch, four.port)
    url = f"http://localhost:{four.port}"
    result = stay(run, moment, 1000, url=url)
    assert result.exit_code == 1
    assert result.stderr.startswith("knocker: error: over IPv6: the gate refused: Could not determine client IP.\n")
    assert "knocker: hint: -4 or -6 keeps the other family alone" in result.stderr.splitlines()
    assert stay(run, moment, 1000, "-4", url=url).exit_code == 130


def test_a_family_that_is_away_keeps_nobody_from_staying(
    gate: MakeGate, run: Run, moment: Moment, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = gate(lasting(100))
    lead_to(monkeypatch, four.port)
    result = stay(run, moment, 200, url=f"http://localhost:{four.port}")
    assert result.exit_code == 130
    assert len(four.asked) == 3


def test_whoever_stays_by_packet_sends_another_each_time(run: Run, ear: Ear, moment: Moment) -> None:
    result = stay(run, moment, 200, "--ttl", "100", "--udp", f"127.0.0.1:{ear.port}")
    assert result.exit_code == 130
    found = ear.knocks()
    assert [knock.ttl for knock in found] == [100] * 3
    assert len({knock.nonce for knock in found}) == 3


def test_whoever_moves_knocks_from_the_new_address_at_once(
    run: Run, moment: Moment, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net({socket.AF_INET: GLOBAL_4})
    net.stand_in(monkeypatch)
    sleep, began = moment.sleep, moment.now

    def moving(seconds: float) -> None:
        sleep(seconds)
        if moment.now - began >= 300:
            net.own[socket.AF_INET] = "1.1.1.1"

    monkeypatch.setattr(moment, "sleep", moving)
    result = stay(run, moment, 400, "--ttl", "3600", "--udp", "192.0.2.1")
    assert result.exit_code == 130
    found = [decode(Secrets.of(udp_secret(KEY)), data) for data in dict.fromkeys(data for data, _ in net.sent)]
    assert [str(knock.network) for knock in found] == [GLOBAL_4, "1.1.1.1"]


def test_a_name_that_leads_nowhere_for_a_while_is_waited_for(
    run: Run, ear: Ear, moment: Moment, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, tries = socket.getaddrinfo, iter(range(100))

    def flaky(*args: Any, **named: Any) -> Any:
        if next(tries) < 5:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return find("127.0.0.1", ear.port, type=socket.SOCK_STREAM)

    monkeypatch.setattr(socket, "getaddrinfo", flaky)
    result = stay(run, moment, 60, "--ttl", "100", "--udp", f"gate.example:{ear.port}")
    assert result.exit_code == 130
    assert "could be found: Temporary failure in name resolution; trying again in " in result.stderr
    assert ear.heard()


# --- As a process ----------------------------------------------------------------------------------------------------


def process(home: Path, *args: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "KNOCKER_KEY": KEY, "HOME": str(home)}
    command = [sys.executable, "-m", "knocker", *args]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_staying_renews_in_real_time_tells_at_once_and_ends_with_control_c(gate: MakeGate, home: Path) -> None:
    stub = gate(lasting(1))
    staying = process(home, "knock", "--keep", stub.url)
    try:
        assert staying.stdout is not None
        assert [staying.stdout.readline() for _ in range(2)] == ["open: 203.0.113.7, 1s left\n"] * 2
        assert 0.9 <= stub.moments[1] - stub.moments[0] <= 3
        staying.send_signal(signal.SIGINT)
        _, stderr = staying.communicate(timeout=10)
        assert (staying.returncode, stderr) == (130, "")
    finally:
        staying.kill()
        staying.communicate()


def test_no_secret_is_on_the_command_line_of_a_process(gate: MakeGate, home: Path) -> None:
    stub = gate(lasting(100))
    staying = process(home, "knock", "--keep", stub.url)
    try:
        eventually(lambda: stub.asked, "it knocked")
        assert KEY.encode() not in Path(f"/proc/{staying.pid}/cmdline").read_bytes()
    finally:
        staying.kill()
        staying.communicate()


def test_less_time_than_was_asked_for_is_told(gate: MakeGate, run: Run) -> None:
    result = run("knock", "--ttl", "99999", url=gate(OPEN).url)
    assert result.exit_code == 0
    assert "hint: 99999 s were asked for; the key's max_ttl, or its end, allows no more than this" in result.stderr
    assert "hint" not in run("knock", "--ttl", str(LEFT + 1), url=gate(OPEN).url).stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["knock", "--ttl", "1h"], "--ttl: expected a whole number from 1 to 4294967295"),
        (["knock", "--ip", "198.51.100.300"], "--ip: expected an address or a network; this is not an IPv4 address"),
        (["knock", "--udp", "a.example", "--host", "a b"], "--host: expected a host name"),
        (["doctor"], "URL: it is missing"),
        (["doctor", "--proxy", "iis", "https://a.example"], "--proxy: expected one of caddy, nginx, traefik"),
        (["knock", "127.0.0.1:8000"], "URL: an address begins with https:// or http://"),
        (["knock", "--url", "127.0.0.1:8000"], "--url: an address begins with https:// or http://"),
    ],
)
def test_a_wrong_argument_is_told_with_what_is_wanted(run: Run, args: list[str], said: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert f"knocker: error: {said}" in result.stderr


def test_a_group_without_a_command_shows_its_help(run: Run) -> None:
    result = run("store")
    assert (result.exit_code, "error:" in result.output) == (2, False)
    assert "copy" in result.output


def test_what_was_opened_is_told_before_it_is_confirmed(gate: MakeGate, run: Run) -> None:
    result = run("knock", "--confirm", gate(PAGE).url, url=gate(OPEN).url)
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["open", "confirmed"]


def test_whoever_stays_is_told_of_less_time_once(gate: MakeGate, run: Run, moment: Moment) -> None:
    stub = gate(lasting(100), lasting(100), lasting(100))
    result = stay(run, moment, 190, "--ttl", "99999", url=stub.url)
    assert len(stub.asked) == 3
    assert result.stderr.count("99999 s were asked for") == 1
