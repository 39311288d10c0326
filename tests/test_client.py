"""The commands that ask a gate, and `reload`: what they read, what they say, against a gate that answers as told."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from knocker import client, remote
from knocker.account import Account, Where, account, read_url
from knocker.cli import main, owner
from knocker.core.printable import printable
from knocker.faults import Failed

KEY = "phone-key-0123456789-abc"
OTHER = "other-key-0123456789-abc"


def private(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    """A file with this content that only we may read, or as `mode` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


# --- Addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where"),
    [
        pytest.param("https://knock.example.com", Where(True, "knock.example.com", 443), id="a name"),
        pytest.param("http://192.0.2.1", Where(False, "192.0.2.1", 80), id="an address in clear text"),
        pytest.param("HTTPS://Knock.Example.COM", Where(True, "knock.example.com", 443), id="capitals"),
        pytest.param("https://a.example:8443/", Where(True, "a.example", 8443), id="a port and a slash"),
        pytest.param("https://a.example:", Where(True, "a.example", 443), id="a colon without a port"),
        pytest.param("https://[2001:db8::1]", Where(True, "2001:db8::1", 443), id="IPv6"),
        pytest.param("http://[::1]:8000/knock", Where(False, "::1", 8000), id="IPv6 with a port"),
        pytest.param("https://a.example/knock", Where(True, "a.example", 443), id="what one knocks at"),
        pytest.param("https://a.example/knock/", Where(True, "a.example", 443), id="that with a slash"),
        pytest.param("https://a.example/base/", Where(True, "a.example", 443, "/base"), id="a path"),
        pytest.param("https://a.example/base/knock", Where(True, "a.example", 443, "/base"), id="a path, and knock"),
        pytest.param("https://a.example/myknock", Where(True, "a.example", 443, "/myknock"), id="another word"),
        pytest.param("https://bücher.example", Where(True, "xn--bcher-kva.example", 443), id="a name beyond ASCII"),
    ],
)
def test_an_address_is_read(text: str, where: Where) -> None:
    assert read_url(text) == where


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("knock.example.com", id="no scheme"),
        pytest.param("localhost:8000", id="a port that looks like a scheme"),
        pytest.param("ftp://secret.example", id="another scheme"),
        pytest.param("file:///etc/passwd", id="a file"),
        pytest.param("https://", id="no host"),
        pytest.param("https:///knock", id="no host but a path"),
        pytest.param("https://user:secret@a.example", id="a password"),
        pytest.param("https://secret@a.example", id="a user"),
        pytest.param("https://@a.example", id="an empty user"),
        pytest.param("https://a.example/?key=secret", id="a query"),
        pytest.param("https://a.example/?", id="an empty query"),
        pytest.param("https://a.example/#secret", id="a fragment"),
        pytest.param("https://a.example#", id="an empty fragment"),
        pytest.param("https://a.example:0", id="port 0"),
        pytest.param("https://a.example:65536", id="a port too high"),
        pytest.param("https://a.example:8O", id="a port that is none"),
        pytest.param("https://a.example:+80", id="a port with a sign"),
        pytest.param("https://a.example:٨٠", id="a port in other digits"),
        pytest.param("https://a secret.example", id="a space"),
        pytest.param("https://a.example/secret\r\nX: y", id="a second line"),
        pytest.param("https://a.example\t", id="a tab, which urlsplit would drop"),
        pytest.param("https://a.example\\@b.example", id="a backslash"),
        pytest.param("https://a..example", id="an empty label"),
        pytest.param("https://" + "a" * 64 + ".example", id="a label too long"),
        pytest.param("https://[::1", id="half a bracket"),
        pytest.param("https://[::g]", id="no IPv6"),
        pytest.param("https://[fe80::1%25eth0]", id="a zone"),
        pytest.param("https://a.example/ä", id="a path beyond ASCII"),
    ],
)
def test_what_is_no_address_of_a_gate_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_url(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://a.example", True),
        ("http://192.0.2.1", True),
        ("http://127.example.com", True),
        ("http://localhost.example", True),
        ("http://localhost:8000", False),
        ("http://127.0.0.1", False),
        ("http://[::1]:80", False),
        ("https://a.example", False),
    ],
)
def test_a_key_in_clear_text_is_warned_of_unless_it_stays_on_this_machine(url: str, warned: bool) -> None:
    found = account(url, None, {"KNOCKER_KEY": KEY})
    assert [("clear text" in warning) for warning in found.warnings] == [True] * warned


# --- Which gate and which key ----------------------------------------------------------------------------------------


@dataclass
class Desk:
    """A home directory, and what is set there: each value may come from the option, the environment or the file."""

    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environ |= {"HOME": str(self.home)}

    @property
    def file(self) -> Path:
        return self.home / ".config/knocker/client.yaml"

    def account(self, url: str | None = None, key_file: Path | None = None) -> Account:
        return account(url, None if key_file is None else str(key_file), self.environ)

    def fault(self, url: str | None = None, key_file: Path | None = None) -> str:
        """What is said of what cannot be used, which is a wrong use, and shows no key."""
        with pytest.raises(Failed) as caught:
            self.account(url, key_file)
        assert caught.value.status == 2
        assert KEY not in caught.value.error + caught.value.hint
        return caught.value.error


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "home")


@pytest.mark.parametrize("url_from", ["option", "environment", "file"])
@pytest.mark.parametrize("key_from", ["option", "environment", "file"])
def test_option_goes_before_environment_before_file_for_each_value(desk: Desk, url_from: str, key_from: str) -> None:
    key_file = private(desk.home / "a.key", "key-of-option\n")
    private(desk.file, "url: https://file.example\nkey: key-of-file\n")
    if url_from != "file":
        desk.environ["KNOCKER_URL"] = "https://environment.example"
    if key_from != "file":
        desk.environ["KNOCKER_KEY"] = "key-of-environment"
    found = desk.account(
        "https://option.example" if url_from == "option" else None, key_file if key_from == "option" else None
    )
    assert (found.where.host, found.key) == (f"{url_from}.example", f"key-of-{key_from}")
    source = {"option": str(key_file), "environment": "$KNOCKER_KEY", "file": str(desk.file)}
    assert found.key_source == source[key_from]
    assert found.warnings == ()
    assert found.key not in repr(found)


def test_an_empty_variable_is_none(desk: Desk) -> None:
    private(desk.file, f"url: https://file.example\nkey: {KEY}\n")
    desk.environ |= {"KNOCKER_URL": "", "KNOCKER_KEY": "", "XDG_CONFIG_HOME": ""}
    found = desk.account()
    assert (found.where.host, found.key) == ("file.example", KEY)


def test_an_empty_option_is_a_fault_and_not_another_gate(desk: Desk) -> None:
    private(desk.file, f"url: https://file.example\nkey: {KEY}\n")
    assert desk.fault("").startswith("--url: ")
    with pytest.raises(Failed):
        account("https://a.example", "", desk.environ)


def test_what_is_set_nowhere_is_asked_for(desk: Desk) -> None:
    assert desk.fault() == "which gate?"
    assert desk.fault("https://a.example") == "no key to show"


def test_the_file_is_looked_for_where_xdg_says_so(desk: Desk, tmp_path: Path) -> None:
    private(desk.file, f"url: https://home.example\nkey: {KEY}\n")
    private(tmp_path / "xdg/knocker/client.yaml", f"url: https://xdg.example\nkey: {KEY}\n")
    desk.environ["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    assert desk.account().where.host == "xdg.example"
    desk.environ["XDG_CONFIG_HOME"] = "xdg"
    assert desk.account().where.host == "home.example"


def test_a_file_that_is_not_needed_is_not_read(desk: Desk) -> None:
    private(desk.file, "]")
    desk.environ["KNOCKER_KEY"] = KEY
    assert desk.account("https://a.example").key == KEY


@pytest.mark.parametrize("name", ["phone.key", "{home}/phone.key", "~/phone.key"])
def test_a_key_file_is_found_from_the_file_that_names_it(
    desk: Desk, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(desk.home))
    file = private((desk.file.parent if name == "phone.key" else desk.home) / "phone.key", KEY)
    private(desk.file, f"url: https://a.example\nkey_file: {name.format(home=desk.home)}\n", 0o644)
    found = desk.account()
    assert (found.key, found.key_source, found.warnings) == (KEY, str(file), ())


def test_what_a_udp_knock_needs_may_stand_in_the_file(desk: Desk) -> None:
    private(desk.file, f"url: https://a.example\nkey: {KEY}\nudp: {{host: a.example, port: 62201, realm: ''}}\n")
    assert desk.account().key == KEY


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(f"ulr: https://a.example\nkey: {KEY}", "unknown setting ulr; did you mean url?", id="a slip"),
        pytest.param(f"api_key: {KEY}", "did you mean key?", id="the server's word"),
        pytest.param(f"url: https://a.example\nkey: {KEY}\nkey_file: x", "only one", id="two keys"),
        pytest.param(f"key: {KEY}\nkey: {KEY}", "a second time", id="a repeated name"),
        pytest.param(KEY, "expected a mapping", id="a key alone"),
        pytest.param(f"- {KEY}", "expected a mapping", id="a list"),
        pytest.param(f"{{url: ['{KEY}']", "not valid YAML", id="not YAML"),
        pytest.param(f"url: https://{KEY}@a.example\nkey: x", "url: an address here has no user", id="a user"),
        pytest.param(f"url: [{KEY}]\nkey: x", "url: an address begins", id="a list for an address"),
        pytest.param("url: https://a.example\nkey: 12345678901234567890", "put it in quotes", id="a number"),
        pytest.param(f"url: https://a.example\nkey: '{KEY} '", "space", id="a space at the end"),
        pytest.param(f"url: https://a.example\nkey_file: [{KEY}]", "expected the path of a file", id="no path"),
        pytest.param("url: https://a.example\nkey_file: nosuch", "nosuch: No such file", id="no key file"),
        pytest.param(f"key: {KEY}\nudp: {{prot: 1}}", "unknown setting prot; did you mean port?", id="a slip below"),
        pytest.param("url: https://a.example", "no key", id="no key"),
        pytest.param(f"key: {KEY}", "which gate?", id="no address"),
        pytest.param("", "which gate?", id="nothing"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_fault(desk: Desk, text: str, said: str) -> None:
    private(desk.file, text)
    assert said in desk.fault()


def test_every_fault_of_the_file_has_its_line(desk: Desk) -> None:
    private(desk.file, "ulr: x\nkye: y\n")
    assert [line.partition(": ")[0] for line in desk.fault().splitlines()] == [str(desk.file)] * 2


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_may_read_is_warned_of(desk: Desk, mode: int) -> None:
    private(desk.file, f"url: https://a.example\nkey: {KEY}\n", mode)
    assert ["0600" in warning for warning in desk.account().warnings] == [True]
    key_file = private(desk.home / "a.key", KEY, mode)
    (warning,) = desk.account("https://a.example", key_file).warnings
    assert warning.startswith(f"{key_file}: ")


def test_a_file_without_a_key_may_be_read_by_all(desk: Desk) -> None:
    private(desk.file, "url: https://a.example\n", 0o644)
    desk.environ["KNOCKER_KEY"] = KEY
    assert desk.account().warnings == ()


@pytest.mark.parametrize(
    ("content", "key"),
    [
        pytest.param(KEY, KEY, id="as it is"),
        pytest.param(KEY + "\n", KEY, id="one line break"),
        pytest.param(KEY + "\r\n", KEY, id="one of another system"),
        pytest.param("x", "x", id="one character"),
        pytest.param("k y", "k y", id="a space inside"),
        pytest.param("k" * 256 + "\r\n", "k" * 256, id="the longest"),
    ],
)
def test_a_key_file_holds_the_key(desk: Desk, content: str, key: str) -> None:
    assert desk.account("https://a.example", private(desk.home / "a.key", content)).key == key


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param("\n", id="only a line break"),
        pytest.param(KEY + "\n\n", id="two line breaks"),
        pytest.param(f"{KEY}\n{KEY}", id="two lines"),
        pytest.param(f" {KEY}", id="a space before"),
        pytest.param(f"{KEY}\t", id="a tab"),
        pytest.param("k" * 257, id="too long"),
        pytest.param("k" * 100_000, id="much too long"),
        pytest.param(KEY + "\0", id="a zero byte"),
        pytest.param(f"{KEY}ä", id="beyond ASCII"),
        pytest.param(b"\xff\xfe" + KEY.encode("utf-16-le"), id="UTF-16"),
    ],
)
def test_a_key_file_that_no_gate_could_take_is_a_fault(desk: Desk, content: str | bytes) -> None:
    file = private(desk.home / "a.key", content)
    assert desk.fault("https://a.example", file).startswith(f"{file}: ")


def test_a_key_file_must_be_there_and_a_file(desk: Desk) -> None:
    assert "No such file" in desk.fault("https://a.example", desk.home / "nosuch")
    desk.home.mkdir()
    assert "not a regular file" in desk.fault("https://a.example", desk.home)


def test_a_key_of_the_environment_is_looked_at_too(desk: Desk) -> None:
    desk.environ["KNOCKER_KEY"] = KEY + "\n"
    assert desk.fault("https://a.example").startswith("$KNOCKER_KEY: ")


def test_a_key_file_that_is_not_needed_is_not_read(desk: Desk) -> None:
    private(desk.file, "url: https://a.example\nkey_file: nosuch\n")
    desk.environ["KNOCKER_KEY"] = KEY
    assert desk.account().key == KEY


def test_a_generated_key_that_was_mistyped_is_warned_of(desk: Desk) -> None:
    desk.environ["KNOCKER_KEY"] = "kn_" + "0" * 49
    (warning,) = desk.account("https://a.example").warnings
    assert "mistyped" in warning


# --- What is shown ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (45, "45s"),
        (60, "1m 00s"),
        (3570, "59m 30s"),
        (3599, "59m 59s"),
        (3600, "1h 00m"),
        (3900, "1h 05m"),
        (86399, "23h 59m"),
        (86400, "1d 0h"),
        (3 * 86400 + 4 * 3600 + 3599, "3d 4h"),
        (3660 * 86400, "3660d 0h"),
    ],
)
def test_the_time_left_is_told_in_two_units(seconds: int, text: str) -> None:
    assert remote.time_left(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Café", "Café"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp", "\\u202egnp"),
        ("\ud800", "\\ud800"),
    ],
)
def test_a_strangers_text_cannot_steer_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


# --- A gate that answers as it is told -------------------------------------------------------------------------------

Reply = bytes | Callable[[socket.socket], None]


@dataclass
class Asked:
    """One request as it arrived."""

    line: str
    headers: Mapping[str, list[str]]


class Stub:
    """Answers each connection with the same bytes, in a thread; a context manager."""

    def __init__(self, reply: Reply, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.reply = reply
        self.asked: list[Asked] = []
        self._tls = tls
        self._listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, reuse_port=False
        )
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{self.port}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Stub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(10)
            try:
                if self._tls:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                self._answer(connection)
            except OSError:
                pass
            finally:
                connection.close()

    def _answer(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            received = connection.recv(65536)
            if not received:
                return
            head += received
        line, *rest = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        headers: dict[str, list[str]] = {}
        for each in rest:
            name, _, value = each.partition(": ")
            headers.setdefault(name.lower(), []).append(value)
        self.asked.append(Asked(line, headers))
        if callable(self.reply):
            self.reply(connection)
        else:
            connection.sendall(self.reply)


def reply(status: int, body: Any = b"", **headers: str) -> bytes:
    """An HTTP answer; a body that is no bytes becomes JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    lines += [f"Content-Length: {len(data)}"] if status != 204 else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


Gate = Callable[..., Stub]


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Makes gates that end with the test."""
    with ExitStack() as stack:
        yield lambda *args, **named: stack.enter_context(Stub(*args, **named))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command in a home of its own with the key in the environment; it never shows that."""
    for name in [name for name in os.environ if name.startswith(("KNOCKER_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KNOCKER_KEY", KEY)

    def run_one(*args: str, url: str = "") -> Result:
        result = CliRunner().invoke(main, [*args, *(["--url", url] if url else [])])
        assert not isinstance(result.exception, Exception), result.exception
        assert KEY not in result.output
        return result

    return run_one


Run = Callable[..., Result]
GRANT = {
    "id": "5e0f",
    "entry": "203.0.113.7",
    "key": "phone",
    "via": "http",
    "hosts": None,
    "created_at": 1_800_000_000,
    "last_knock_at": 1_800_000_000,
    "expires_at": 1_800_003_570,
    "expires_in_seconds": 3570,
}


def grant(**more: Any) -> dict[str, Any]:
    return {**GRANT, **more}


def test_leave_closes_the_door(gate: Gate, run: Run) -> None:
    stub = gate(reply(204))
    result = run("leave", url=stub.url)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "closed\n", "")
    (asked,) = stub.asked
    assert asked.line == "DELETE /knock HTTP/1.1"
    assert asked.headers["x-api-key"] == [KEY]
    assert asked.headers["host"] == [f"127.0.0.1:{stub.port}"]


def test_leave_answers_in_json(gate: Gate, run: Run) -> None:
    result = run("leave", "--json", url=gate(reply(204)).url)
    assert json.loads(result.stdout) == {"closed": ["IPv4"], "refused": [], "no_answer": []}


def test_the_path_of_the_address_goes_before(gate: Gate, run: Run) -> None:
    stub = gate(reply(204))
    run("leave", url=stub.url + "/base/knock")
    run("revoke", "5e0f", url=stub.url + "/base/")
    assert [asked.line.split()[1] for asked in stub.asked] == ["/base/knock", "/base/grants/5e0f"]


def test_no_proxy_is_asked(gate: Gate, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, proxy = gate(reply(204)), gate(reply(204))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy.url)
    assert run("leave", url=stub.url).exit_code == 0
    assert (len(stub.asked), len(proxy.asked)) == (1, 0)


@dataclass
class Both:
    """What a name with both families leads to, and what becomes of `leave`."""

    why: str
    v4: bytes | None
    v6: bytes | None
    status: int
    stdout: str
    said: tuple[str, ...] = ()
    args: tuple[str, ...] = ()


_FULL = reply(503, {"error": "Closed, but not stored."})
LEAVING = [
    Both("both close", reply(204), reply(204), 0, "closed\n"),
    Both("IPv6 unreachable", reply(204), None, 0, "closed\n", ("warning: over IPv6: no answer",)),
    Both("IPv4 unreachable", None, reply(204), 0, "closed\n", ("warning: over IPv4: no answer",)),
    Both("none reachable", None, None, 3, "", ("error: over IPv6: no answer", "error: over IPv4: no answer")),
    Both(
        "one refuses", reply(204), _FULL, 1, "closed over IPv4 only\n", ("error: over IPv6: the gate refused: Closed",)
    ),
    Both("both refuse", _FULL, _FULL, 1, "", ("error: over IPv6: the gate", "error: over IPv4: the gate")),
    Both("one refuses, one is away", None, _FULL, 1, "", ("error: over IPv4: no", "error: over IPv6: the gate")),
    Both("only IPv4 wanted", reply(204), _FULL, 0, "closed\n", (), ("-4",)),
    Both("only IPv6 wanted", _FULL, reply(204), 0, "closed\n", (), ("-6",)),
    Both("both wanted", reply(204), reply(204), 0, "closed\n", (), ("-4", "-6")),
    Both("only the one that is away wanted", reply(204), None, 3, "", ("error: no answer",), ("-6",)),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.why) for case in LEAVING])
def test_leave_goes_by_both_families(run: Run, gate: Gate, case: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    four = gate(case.v4) if case.v4 is not None else None
    six = gate(case.v6, "::1", port=four.port if four else 0) if case.v6 is not None else None
    port = four.port if four else six.port if six else _closed_port()
    rows = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)
    result = run("leave", *case.args, url=f"http://localhost:{port}")
    assert (result.exit_code, result.stdout) == (case.status, case.stdout)
    lines = result.stderr.splitlines()
    assert len(lines) == len(case.said), lines
    assert all(any(line.startswith(f"knocker: {said}") for line in lines) for said in case.said), lines
    if not case.args:
        assert [len(stub.asked) for stub in (four, six) if stub] == [1] * len([stub for stub in (four, six) if stub])


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_leave_over_a_family_that_the_gate_has_not_is_no_answer(gate: Gate, run: Run) -> None:
    stub = gate(reply(204))
    result = run("leave", "-6", url=stub.url)
    assert result.exit_code == 3
    assert result.stderr == "knocker: error: 127.0.0.1 has no IPv6 address\n"
    assert stub.asked == []


def test_grants_are_a_table(gate: Gate, run: Run) -> None:
    rows = [
        GRANT,
        grant(id="b", entry="2001:db8::/64", key=None, via="file", expires_in_seconds=3900),
        grant(id="c", hosts=["a.example.com", "*.b.example.com"], expires_in_seconds=45),
    ]
    stub = gate(reply(200, {"grants": rows}))
    result = run("grants", url=stub.url)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["ID", "ENTRY", "KEY", "VIA", "HOSTS", "LEFT"],
        ["5e0f", "203.0.113.7", "phone", "http", "*", "59m", "30s"],
        ["b", "2001:db8::/64", "-", "file", "*", "1h", "05m"],
        ["c", "203.0.113.7", "phone", "http", "a.example.com,*.b.example.com", "45s"],
    ]
    ends = zip(result.stdout.splitlines(), ["LEFT", "59m", "1h", "45s"], strict=True)
    assert len({line.rindex(word) for line, word in ends}) == 1, "the last column is one"
    assert stub.asked[0].line == "GET /grants HTTP/1.1"


def test_grants_without_any_says_so(gate: Gate, run: Run) -> None:
    stub = gate(reply(200, {"grants": []}))
    assert run("grants", url=stub.url).stdout == "no grants\n"
    assert json.loads(run("grants", "--json", url=stub.url).stdout) == {"grants": []}


def test_grants_in_json_are_the_servers_object(gate: Gate, run: Run) -> None:
    told = {"grants": [grant(more=[1, None], key="\x1b[2J\u202e")], "and": "more"}
    result = run("grants", "--json", url=gate(reply(200, told)).url)
    assert json.loads(result.stdout) == told
    assert result.stdout.isascii()
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("args", "query"),
    [
        (["--host", "a.example.com"], "?host=a.example.com"),
        (["--owner", "my phone&host=x"], "?key=my+phone%26host%3Dx"),
        (["--owner", "Café", "--host", "b"], "?host=b&key=Caf%C3%A9"),
        (["--owner", ""], "?key="),
    ],
)
def test_grants_can_be_chosen(gate: Gate, run: Run, args: list[str], query: str) -> None:
    stub = gate(reply(200, {"grants": []}))
    assert run("grants", *args, url=stub.url).exit_code == 0
    assert stub.asked[0].line == f"GET /grants{query} HTTP/1.1"


def test_no_text_of_the_server_reaches_the_terminal_as_it_is(gate: Gate, run: Run) -> None:
    evil = "\x1b]0;x\x07\r\nFAKE\u202e"
    rows = [grant(**dict.fromkeys(("id", "entry", "key", "via"), evil), hosts=[evil])]
    result = run("grants", url=gate(reply(200, {"grants": rows})).url)
    assert len(result.stdout.splitlines()) == 2
    assert result.stdout.replace("\n", "").isprintable()
    headers = {"Location": "https://x\x1b[2J.example/", "Retry-After": "\x1b[2J"}
    for status in (302, 400, 429):
        result = run("grants", url=gate(reply(status, {"error": evil}, **headers)).url)
        assert result.exit_code == 1
        assert result.stderr.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html>", id="a page"),
        pytest.param([], id="a list"),
        pytest.param({}, id="no grants"),
        pytest.param({"grants": None}, id="null"),
        pytest.param({"grants": ["x"]}, id="texts"),
        pytest.param({"grants": [{}]}, id="an empty grant"),
        pytest.param({"grants": [grant(id=5)]}, id="a number for an id"),
        pytest.param({"grants": [grant(hosts="abc")]}, id="a text for hosts"),
        pytest.param({"grants": [grant(hosts=[None])]}, id="null for a host"),
        pytest.param({"grants": [grant(expires_in_seconds="5")]}, id="a text for a number"),
        pytest.param({"grants": [grant(expires_in_seconds=True)]}, id="true for a number"),
        pytest.param(b'{"grants": [', id="half of it"),
        pytest.param(b"[" * 100_000, id="too deep"),
    ],
)
def test_a_list_that_is_none_is_refused(gate: Gate, run: Run, body: Any) -> None:
    stub = gate(reply(200, body))
    for args in ([], ["--json"]):
        result = run("grants", *args, url=stub.url)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "and not as Knocker does" in result.stderr


def test_revoke_closes_one_grant(gate: Gate, run: Run) -> None:
    stub = gate(reply(204))
    result = run("revoke", "5e/0f ?ä", url=stub.url)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "closed\n", "")
    assert stub.asked[0].line == "DELETE /grants/5e%2F0f%20%3F%C3%A4 HTTP/1.1"
    assert json.loads(run("revoke", "--json", "5e0f", url=stub.url).stdout) == {"closed": "5e0f"}


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_revoke_never_asks_for_another_path(gate: Gate, run: Run, name: str) -> None:
    stub = gate(reply(204))
    assert run("revoke", name, url=stub.url).exit_code == 2
    assert stub.asked == []


def test_revoke_of_what_is_not_there_is_refused(gate: Gate, run: Run) -> None:
    result = run("revoke", "5e0f", url=gate(reply(404, {"error": "No such grant."})).url)
    assert result.exit_code == 1
    assert result.stderr.startswith("knocker: error: no such grant\n")
    result = run("revoke", "5e0f", url=gate(reply(404, b"nginx")).url)
    assert result.exit_code == 1
    assert "not as Knocker does" in result.stderr


CANARY = {
    "id": "00112233445566aa",
    "address": "100::8001:8002:8003:0",
    "path": "/canary-00112233445566aa",
    "host": "canary-00112233445566aa.invalid",
    "expires_in_seconds": 60,
    "time": 1_800_000_000.0,
}
ASKER = {
    "peer": "127.0.0.1",
    "trusted": True,
    "forwarded_for": ["203.0.113.7"],
    "client": "203.0.113.7",
    "why": None,
    "host": "knock.example.com",
    "refused": "",
}
EXPLAINED = {"ip": "203.0.113.7", "request": ASKER}


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([b"<html>"], id="a page"),
        pytest.param([[]], id="a list"),
        pytest.param([None], id="null"),
        pytest.param([{**CANARY, "time": "noon"}], id="a text for a time"),
        pytest.param([{**CANARY, "time": "inf"}], id="a text that Python takes for a number"),
        pytest.param([json.dumps({**CANARY, "time": 0}).replace("0}", "1e999}").encode()], id="a time without end"),
        pytest.param([{**CANARY, "host": "a.invalid\r\nX-Evil: 1"}], id="a line break in a host"),
        pytest.param([{**CANARY, "path": "/knock"}], id="a path that is none of a canary's"),
        pytest.param([{**CANARY, "address": "127.0.0.1"}], id="an address that is none of a canary's"),
        pytest.param([{name: CANARY[name] for name in CANARY if name != "time"}], id="an older gate"),
        pytest.param([CANARY, []], id="a list for an explanation"),
        pytest.param([CANARY, {"ip": None}], id="an older explanation"),
        pytest.param([CANARY, {**EXPLAINED, "request": {**ASKER, "client": 5}}], id="a number for a client"),
        pytest.param([CANARY, EXPLAINED, EXPLAINED, []], id="a list for what was found"),
        pytest.param([CANARY, EXPLAINED, EXPLAINED, {"questions": [{}], "others": []}], id="an empty question"),
        pytest.param([CANARY, EXPLAINED, EXPLAINED, {"questions": []}], id="no others"),
    ],
)
def test_doctor_takes_no_answer_for_a_gates_that_is_none(gate: Gate, run: Run, answers: list[Any]) -> None:
    replies = iter([reply(200, answer) for answer in answers])
    stub = gate(lambda connection: connection.sendall(next(replies)))
    site = gate(reply(401))
    result = run("doctor", site.url, url=stub.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "and not as Knocker does" in result.stderr
    assert not [asked for asked in site.asked if KEY in str(asked)], "the key is the gate's alone"
    assert all(asked.line.startswith("GET ") for asked in site.asked)


def test_doctor_never_knocks_and_shows_the_key_to_the_gate_alone(gate: Gate, run: Run) -> None:
    told: dict[str, list[Any]] = {"questions": [], "others": []}
    replies = iter([reply(200, answer) for answer in ({**CANARY, "time": time.time()}, EXPLAINED, EXPLAINED, told)])
    stub = gate(lambda connection: connection.sendall(next(replies)))
    site = gate(reply(401, Location="\x1b[31m", Server="\x1b[32m"))
    result = run("doctor", site.url, url=stub.url)
    assert result.exit_code == 3
    assert "\x1b" not in result.output
    assert {asked.line.split()[0] for asked in site.asked} == {"GET"}
    assert not [asked for asked in site.asked if KEY in str(asked)]
    lines = [asked.line.removesuffix(" HTTP/1.1") for asked in stub.asked]
    assert lines == ["POST /canaries", "GET /explain", "GET /explain", f"GET /canaries/{CANARY['id']}"]


def test_doctor_is_for_a_service_and_not_for_the_gate(gate: Gate, run: Run) -> None:
    stub = gate(reply(200, CANARY))
    result = run("doctor", stub.url, url=stub.url)
    assert (result.exit_code, stub.asked) == (2, [])
    assert "that is the gate itself" in result.stderr
    assert run("doctor", "ftp://x", url=stub.url).exit_code == 2


def test_who_says_go_on_without_end_is_cut_off(gate: Gate, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.01)

    monkeypatch.setattr("knocker.client.LONGEST", 0.3)
    result = run("grants", url=gate(endless).url)
    assert result.exit_code in (1, 3)
    assert result.stderr.startswith("knocker: error: ")


COMMANDS = [["leave"], ["grants"], ["revoke", "5e0f"]]
each_command = pytest.mark.parametrize("args", [pytest.param(args, id=args[0]) for args in COMMANDS])


@each_command
@pytest.mark.parametrize(
    ("answer", "error", "hint"),
    [
        pytest.param(
            reply(401, {"error": "Invalid or missing API key."}),
            "the gate refused: Invalid or missing API key.",
            "the key came from $KNOCKER_KEY",
            id="the key is wrong",
        ),
        pytest.param(
            reply(429, {"error": "Too many knock attempts."}, Retry_After="17"),
            "the gate refused: Too many knock attempts.",
            "try again in 17 seconds",
            id="too often",
        ),
        pytest.param(reply(503, {"error": "x"}), "the gate refused: x", "", id="another refusal"),
        pytest.param(
            reply(301, Location="https://new.example/knock"),
            "redirects (301)",
            "https://new.example: if you trust that, use that address as --url",
            id="elsewhere",
        ),
        pytest.param(reply(308, Location="/other"), "redirects (308)", "", id="elsewhere on the same host"),
        pytest.param(reply(302, Location="https://[x"), "redirects (302)", "", id="nowhere"),
        pytest.param(reply(401), "answered 401, and not as Knocker does", "a site behind the gate", id="a site"),
        pytest.param(reply(403, b"<html>"), "answered 403, and not as Knocker does", "another login", id="a login"),
        pytest.param(reply(200, b"<html>"), "answered 200, and not as Knocker does", "/health", id="a page"),
        pytest.param(reply(502, {"error": 5}), "answered 502, and not as Knocker does", "a proxy", id="another JSON"),
        pytest.param(
            reply(400, {"error": "Forwarded headers from x."}),
            "the gate refused: Forwarded headers",
            "the log of the gate",
            id="a client",
        ),
        pytest.param(reply(502, b"x" * 70_000), "answered 502 with more than 65536 bytes", "", id="a long page"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not answer in HTTP", "", id="not HTTP"),
    ],
)
def test_an_answer_that_is_no_success_is_told(
    gate: Gate, run: Run, args: list[str], answer: bytes, error: str, hint: str
) -> None:
    if args == ["grants"] and answer.endswith(b"x" * 70_000):
        error = "answered 502, and not as Knocker does"
    result = run(*args, url=gate(answer).url)
    assert (result.exit_code, result.stdout) == (3 if "502, and" in error else 1, "")
    first, *rest = result.stderr.splitlines()
    assert first.startswith("knocker: error: ")
    assert error in first
    assert hint in " ".join(rest)
    assert all(line.startswith("knocker: hint: ") for line in rest)


@each_command
def test_a_redirect_is_not_followed(gate: Gate, run: Run, args: list[str]) -> None:
    other = gate(reply(204))
    stub = gate(reply(307, Location=other.url))
    assert run(*args, url=stub.url).exit_code == 1
    assert (len(stub.asked), other.asked) == (1, [])


def test_an_answer_of_any_length_is_bounded(gate: Gate, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)

    monkeypatch.setattr(remote, "LARGE", 1 << 20)
    for args in COMMANDS:
        result = run(*args, url=gate(endless).url)
        assert result.exit_code == 1
        assert "with more than" in result.stderr


@each_command
def test_no_answer_is_status_3(gate: Gate, run: Run, args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.2)
    cases: list[tuple[Reply | None, str]] = [
        (None, "Connection refused"),
        (b"", "closed connection without response"),
        (lambda connection: time.sleep(0.5), "nothing came in time"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "closed early"),
    ]
    for answer, said in cases:
        url = f"http://127.0.0.1:{_closed_port()}" if answer is None else gate(answer).url
        result = run(*args, url=url)
        assert (result.exit_code, result.stdout) == (3, ""), said
        assert result.stderr.startswith("knocker: error: no ")
        assert said in result.stderr


def test_a_name_that_leads_nowhere_is_status_3(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    result = run("leave", url="https://nosuch.example")
    assert result.exit_code == 3
    assert "nosuch.example could be found: Name or service not known" in result.stderr


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that its own key signed, and that key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made = subprocess.run(
        ["openssl", "req", "-x509", *kind, *subject, "-keyout", str(key), "-out", str(certificate)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl makes no certificate here")
    return certificate, key


def _tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_over_tls_a_trusted_gate_is_asked(
    gate: Gate, run: Run, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = gate(reply(204), tls=_tls(certificate))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    result = run("leave", url=stub.url)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "closed\n", "")


def test_over_tls_another_gate_gets_no_key(gate: Gate, run: Run, certificate: tuple[Path, Path]) -> None:
    stub = gate(reply(204), tls=_tls(certificate))
    result = run("leave", url=stub.url)
    assert result.exit_code == 3
    error, hint = result.stderr.splitlines()
    assert "is not trusted: self-signed certificate" in error
    assert hint.startswith("knocker: hint: ")
    assert stub.asked == []


def test_tls_with_a_gate_that_has_none_is_no_answer(gate: Gate, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = gate(reply(400), port=0)
    # The stub waits for the end of a request that never comes: a plain server would answer at once.
    monkeypatch.setattr(Stub, "_answer", lambda _, connection: connection.sendall(reply(400)))
    result = run("leave", url=stub.url.replace("http:", "https:"))
    assert result.exit_code == 3
    assert "knocker: error: no TLS with" in result.stderr


# --- The command as a process ----------------------------------------------------------------------------------------


def _process(*args: str, url: str, **named: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "KNOCKER_KEY": KEY, "KNOCKER_URL": url}
    return subprocess.Popen([sys.executable, "-m", "knocker", *args], env=environment, stderr=subprocess.PIPE, **named)


def test_control_c_ends_it_without_a_traceback(gate: Gate) -> None:
    over = threading.Event()
    stub = gate(lambda _: over.wait(10) and None)
    process = _process("grants", url=stub.url, stdout=subprocess.PIPE)
    end = time.monotonic() + 10
    while not stub.asked and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=10)
    over.set()
    assert (process.returncode, said) == (130, (b"", b""))


def test_a_pipe_that_is_closed_is_no_traceback(gate: Gate) -> None:
    stub = gate(reply(200, {"grants": [GRANT] * 5000}))
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = _process("grants", url=stub.url, stdout=write_end)
    os.close(write_end)
    _, stderr = process.communicate(timeout=10)
    assert stderr == b""
    assert process.returncode != 0


def test_help_and_the_commands_of_the_server_import_nothing_of_the_network() -> None:
    code = (
        "import sys, knocker.cli\n"
        "slow = [name for name in ('http', 'ssl', 'twisted', 'urllib.request', 'knocker.listen',"
        " 'knocker.store', 'knocker.service') if name in sys.modules]\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- reload ----------------------------------------------------------------------------------------------------------

# Holds the lock as Knocker does, says so, and counts the signals that it gets.
_HOLDER = """
import fcntl, os, signal, sys
signal.signal(signal.SIGHUP, lambda *_: os.write(1, b"hup\\n"))
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(lock, fcntl.LOCK_EX)
text = sys.argv[2] if len(sys.argv) > 2 else f"{os.getpid()}\\n"
os.ftruncate(lock, 0)
os.write(lock, text.encode())
os.write(1, b"held\\n")
while True:
    signal.pause()
"""

Hold = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    """Starts processes that hold the lock, with a pid in it or another text; they end with the test."""
    held: list[subprocess.Popen[str]] = []

    def hold_one(*text: str) -> subprocess.Popen[str]:
        lock = str(tmp_path / "whitelist.json.lock")
        process = subprocess.Popen([sys.executable, "-c", _HOLDER, lock, *text], stdout=subprocess.PIPE, text=True)
        held.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield hold_one
    for process in held:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    text = f"whitelist: {{storage_path: {tmp_path}/whitelist.json}}\napi_keys: [{{name: p, key: {OTHER}, ttl: 60}}]\n"
    return private(tmp_path / "knocker.yaml", text)


def test_reload_signals_the_process_that_holds_the_lock(run: Run, hold: Hold, config: Path) -> None:
    process = hold()
    result = run("reload", "--config", str(config))
    said = f"asked Knocker (pid {process.pid}) to read its settings again; its log says what came of it\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, said, "")
    assert process.stdout is not None
    assert process.stdout.readline() == "hup\n"
    assert json.loads(run("reload", "-c", str(config), "--json").stdout) == {"pid": process.pid}


def test_reload_signals_nobody_while_the_settings_are_faulty(run: Run, hold: Hold, config: Path) -> None:
    process = hold()
    private(config, config.read_text() + "sever: {}\n")
    result = run("reload", "-c", str(config))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "did you mean server?" in result.stderr
    _kept_quiet(process)


def _kept_quiet(process: subprocess.Popen[str]) -> None:
    """It had no signal until now."""
    process.terminate()
    assert process.communicate()[0] == ""


@pytest.mark.parametrize("left", [None, "", f"{os.getpid()}\n"], ids=["no lock", "an empty one", "one left behind"])
def test_reload_says_when_no_knocker_runs(run: Run, tmp_path: Path, config: Path, left: str | None) -> None:
    lock = tmp_path / "whitelist.json.lock"
    if left is not None:
        lock.write_text(left)
    result = run("reload", "-c", str(config))
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"knocker: error: no Knocker runs on {tmp_path}/whitelist.json\nknocker: hint: ")
    assert lock.exists() == (left is not None)


@pytest.mark.parametrize(
    "text", ["", "\n", "0\n", "-1\n", "+5\n", " 5\n", "5 6", "1e3", "\u0665\n", "99999999\n", "12345\nx", "x" * 100]
)
def test_a_lock_that_names_no_process_signals_nobody(hold: Hold, tmp_path: Path, text: str) -> None:
    process = hold(text)
    with pytest.raises(Failed) as caught:
        owner(str(tmp_path / "whitelist.json"))
    assert (caught.value.status, bool(caught.value.hint)) == (1, True)
    assert "does not say which process" in caught.value.error
    _kept_quiet(process)


def test_a_process_that_only_has_the_number_of_the_owner_is_left_alone(run: Run, hold: Hold, config: Path) -> None:
    if not Path("/proc/locks").exists():
        pytest.skip("locks cannot be looked at here")
    # As from outside of a container: there the number is Knocker's, here another's.
    innocent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        process = hold(f"{innocent.pid}\n")
        result = run("reload", "-c", str(config))
        assert result.exit_code == 1
        assert "docker compose exec knocker knocker reload" in result.stderr
        assert innocent.poll() is None
        _kept_quiet(process)
    finally:
        innocent.kill()
        innocent.wait()


@pytest.mark.parametrize(
    ("error", "hint"),
    [(ProcessLookupError(), "docker compose exec knocker knocker reload"), (PermissionError(), "as the user")],
)
def test_a_process_that_cannot_be_signalled_is_refused(
    run: Run, hold: Hold, config: Path, error: OSError, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(pid: int, number: int) -> None:
        raise error

    process = hold()
    monkeypatch.setattr(os, "kill", kill)
    result = run("reload", "-c", str(config))
    monkeypatch.undo()
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"(pid {process.pid})" in result.stderr
    assert hint in result.stderr
    _kept_quiet(process)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path, hold: Hold) -> None:
    process = hold()
    (tmp_path / "other.json.lock").symlink_to(tmp_path / "whitelist.json.lock")
    with pytest.raises(Failed) as caught:
        owner(str(tmp_path / "other.json"))
    assert caught.value.status == 1
    _kept_quiet(process)


def test_looking_for_the_owner_leaves_the_lock_free(tmp_path: Path) -> None:
    lock = private(tmp_path / "whitelist.json.lock", "5\n")
    with pytest.raises(Failed):
        owner(str(tmp_path / "whitelist.json"))
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_warns_of_a_key_whose_time_is_over(run: Run, config: Path) -> None:
    text = config.read_text()
    private(config, text.replace("ttl: 60", "ttl: 60, expires: 2020-01-31"))
    result = run("check", str(config))
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line == f"knocker: warning: {config}: api_keys[0].expires: over since 2020-01-31 00:00 UTC: p is refused"
    private(config, text.replace("ttl: 60", "ttl: 60, expires: 2999-01-31"))
    assert run("check", str(config)).stderr == ""
