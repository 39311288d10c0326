"""The fast lane against the channel that it stands before: the same bytes, the same answers, at the same moment."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from knocker.listen.channel import GateChannel
from knocker.listen.lane import LaneChannel, read_question
from knocker.listen.question import Question
from tests.conftest import LONG, Errors
from tests.wire import KEY, SETTINGS, Disk, World, hang_up

ALLOWED, STRANGER, KNOCKER = "192.0.2.1", "198.51.100.1", "198.51.100.2"
TEXT = SETTINGS.replace("security: {", "security: {deny_by_host: {b.example: {status: 403}}, ").replace(
    "ttl: 600, max_ttl: 1200", "ttl: 600, max_ttl: 1200, hosts: [a.example]"
)
_DATE = re.compile(rb"\r\nDate: [^\r\n]*")


class One:
    """A connection to a Knocker of its own, of one kind of channel."""

    def __init__(self, folder: Path, channel: type[GateChannel], peer: str) -> None:
        self.world = World(folder, TEXT, channel=channel)
        self.disk = Disk(self.world)
        self.channel, self.wire = self.world.connect(peer)
        self.wire._lenient = True  # a real transport lets a connection that ends be paused

    def receive(self, data: bytes) -> None:
        """Bytes arrive, unless the connection has ended or is not read."""
        if data and not self.wire.disconnecting and not self.wire.disconnected:
            self.channel.dataReceived(data)

    def settle(self) -> None:
        """Let everything happen that needs no time to pass, but for the disk."""
        clock = self.world.clock
        for _ in range(100):
            if not any(call.getTime() <= clock.seconds() for call in clock.getDelayedCalls()):
                return
            clock.advance(0)

    def seen(self) -> tuple[Any, ...]:
        """What a client and an admin could see of it."""
        wire, tally = self.wire, self.world.house.tally
        ended = (wire.disconnecting, wire.disconnected, wire.half_closed, wire.producerState)
        return (*ended, _DATE.sub(b"", bytes(wire.value())), tally.verdicts, tally.knocks, tally.drops)


class Both:
    """The lane and the channel alone, told the same."""

    def __init__(self, folder: Path, peer: str) -> None:
        for name in ("lane", "plain"):
            (folder / name).mkdir()
        self.sides = [One(folder / "lane", LaneChannel, peer), One(folder / "plain", GateChannel, peer)]

    def receive(self, data: bytes) -> None:
        for side in self.sides:
            side.receive(data)
        self.settle()

    def settle(self) -> None:
        for side in self.sides:
            side.settle()
        self.compare()

    def write(self) -> None:
        """Whatever waits for the disk is written."""
        lane, plain = self.sides
        assert len(lane.disk.writes) == len(plain.disk.writes)
        while plain.disk.writes:
            for side in self.sides:
                side.disk.succeed()
            self.settle()

    def pass_time(self, seconds: float) -> None:
        for side in self.sides:
            side.world.pass_time(seconds)
        self.settle()

    def compare(self) -> None:
        lane, plain = (side.seen() for side in self.sides)
        assert lane == plain

    @property
    def answers(self) -> bytes:
        return bytes(self.sides[1].wire.value())

    def end(self) -> None:
        for side in self.sides:
            while side.disk.writes:
                side.disk.succeed()
                side.settle()
            if side.channel in side.world.site.channels:
                hang_up(side.channel)
            side.settle()


@contextmanager
def both(peer: str = "127.0.0.1") -> Iterator[Both]:
    with tempfile.TemporaryDirectory() as folder:
        found = Both(Path(folder), peer)
        try:
            yield found
        finally:
            found.end()


def request(
    first: str = "GET /verify HTTP/1.1", *lines: str, client: str | None = ALLOWED, end: str = "\r\n", body: str = ""
) -> bytes:
    """A request, a character a byte."""
    chain = [] if client is None else [f"X-Forwarded-For: {client}"]
    return (end.join([first, "Host: knocker:8000", *chain, *lines, "", ""]) + body).encode("latin-1")


# --- What takes the lane ---------------------------------------------------------------------------------------------

# As the proxies' recipes ask, recorded from each.
QUESTIONS = {
    "Caddy": request(
        "GET /verify HTTP/1.1",
        "User-Agent: curl/8.5.0",
        "Accept: */*",
        "X-Forwarded-Host: app.example.com",
        "X-Forwarded-Method: GET",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Uri: /library?x=1",
        "Accept-Encoding: gzip",
        "Via: 2.0 Caddy",
    ),
    "Caddy with the client's query and cookie": request(
        "GET /verify?x=1&y=/metrics HTTP/1.1", "Cookie: session=0123456789", "X-Forwarded-Uri: /?x=1&y=/metrics"
    ),
    "nginx": request(
        "GET /verify HTTP/1.1",
        "X-Forwarded-Host: app.example.com",
        "X-Forwarded-Method: POST",
        "X-Forwarded-Uri: /a%20b",
    ),
    "Traefik": request(
        "GET /verify HTTP/1.1",
        "User-Agent: Go-http-client/1.1",
        "X-Forwarded-Port: 443",
        "X-Forwarded-Server: proxy",
        "X-Real-Ip: 192.0.2.1",
        "Accept-Encoding: gzip",
    ),
    "Envoy": request("PROPFIND /verify/library/x?y HTTP/1.1", "x-envoy-expected-rq-timeout-ms: 5000"),
}


@pytest.mark.parametrize("question", [pytest.param(raw, id=name) for name, raw in QUESTIONS.items()])
def test_a_proxys_question_takes_the_lane(question: bytes) -> None:
    assert read_question(question) is not None
    with both() as pair:
        for _ in range(3):
            pair.receive(question)
        assert pair.answers.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(request("POST /verify HTTP/1.1", "Content-Length: 0"), id="a length, even of nothing"),
        pytest.param(request("POST /verify HTTP/1.1", "Content-Length: 5", body="hello"), id="a body"),
        pytest.param(request("POST /verify HTTP/1.1", "Transfer-Encoding: chunked", body="0\r\n\r\n"), id="chunks"),
        pytest.param(request("GET /verify HTTP/1.1", "Connection: close"), id="the last one"),
        pytest.param(request("GET /verify HTTP/1.1", "connection: keep-alive"), id="about the connection"),
        pytest.param(request("GET /verify HTTP/1.1", "Expect: 100-continue"), id="an expectation"),
        pytest.param(request("GET /verify HTTP/1.1", "Upgrade: websocket"), id="an upgrade"),
        pytest.param(request("GET /verify HTTP/1.0"), id="an older version"),
        pytest.param(request("GET /verify  HTTP/1.1"), id="two spaces"),
        pytest.param(request("get /verify HTTP/1.1"), id="a method in small letters"),
        pytest.param(request("GET /verifyx HTTP/1.1"), id="another path"),
        pytest.param(request("GET //verify HTTP/1.1"), id="two slashes"),
        pytest.param(request("GET /health HTTP/1.1"), id="another question"),
        pytest.param(request("GET http://k/verify HTTP/1.1"), id="a whole URL"),
        pytest.param(request("GET /verify/\xe4 HTTP/1.1"), id="a byte beyond ASCII"),
        pytest.param(request("GET /verify HTTP/1.1", end="\n"), id="lines without CR"),
        pytest.param(request("GET /verify HTTP/1.1", "A: b\rc"), id="a CR alone"),
        pytest.param(request("GET /verify HTTP/1.1", "A: b\nX-Forwarded-For: 192.0.2.1"), id="an LF alone"),
        pytest.param(request("GET /verify HTTP/1.1", "A: b\x00c"), id="a NUL"),
        pytest.param(request("GET /verify HTTP/1.1", "X-Forwarded-Uri: b\rc"), id="a CR in a line that matters"),
        pytest.param(request("GET /verify HTTP/1.1", "X-Forwarded-Uri: b\nc"), id="an LF in a line that matters"),
        pytest.param(request("GET /verify HTTP/1.1", "X-Forwarded-Uri: b "), id="a blank behind one"),
        pytest.param(request("GET /verify HTTP/1.1", " folded"), id="a folded line"),
        pytest.param(request("GET /verify HTTP/1.1", "X-Forwarded-For : 192.0.2.1"), id="a space before the colon"),
        pytest.param(request("GET /verify HTTP/1.1", "X_Forwarded_For: 192.0.2.1"), id="an underscore"),
        pytest.param(request("GET /verify HTTP/1.1", "no colon"), id="no colon"),
        pytest.param(request("GET /verify HTTP/1.1", ": no name"), id="no name"),
        pytest.param(request("GET /verify HTTP/1.1", "A: " + "x" * 16_384), id="too long"),
        pytest.param(request("GET /verify HTTP/1.1", *["A: b"] * 499), id="many lines"),
        pytest.param(request() + request(), id="two at once"),
        pytest.param(b"\r\n" + request(), id="a line break first"),
        pytest.param(request()[:-2], id="not all of it"),
        pytest.param(request() + b"G", id="a little more"),
    ],
)
def test_whatever_is_otherwise_is_the_channels(raw: bytes) -> None:
    assert read_question(raw) is None
    with both() as pair:
        pair.receive(raw)
        pair.receive(request())
        for _ in range(16):
            pair.pass_time(10)


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Uri", "X-Original-URI"])
@pytest.mark.parametrize("spelt", [str, str.lower, str.upper, str.swapcase])
@pytest.mark.parametrize("between", [[], ["A: b"]])
def test_a_second_line_is_seen_wherever_it_stands(name: str, spelt: Callable[[str], str], between: list[str]) -> None:
    lines = [*between, f"{spelt(name)}: {STRANGER}"]
    question = request("GET /verify HTTP/1.1", f"{name}: {ALLOWED}", *lines, client=None)
    assert read_question(question) is None
    with both() as pair:
        pair.receive(question)
        assert pair.answers.startswith(b"HTTP/1.1 401")


def test_a_question_is_read_as_it_is_written() -> None:
    lines = ["x-forwarded-HOST:a.example", "X-Forwarded-Uri: \t/a b", "X-ORIGINAL-URI:", "X-Forwarded-Forx: y"]
    question = read_question(request("BREW /verify/c?d HTTP/1.1", *lines))
    assert question == Question(True, False, b"/c?d", (ALLOWED.encode(),), (b"a.example",), (b"/a b",), (b"",))
    assert read_question(request("GET /verify HTTP/1.1", client=None)) == Question(True, False, b"", (), (), (), ())


# --- Whatever is sent, both say the same -----------------------------------------------------------------------------

_HOSTS = st.sampled_from(["a.example", "B.Example:443", "b.example.", "", "x y", "a.example, b.example"])
_PATHS = st.sampled_from(["/", "/metrics", "/metrics/x?y", "/metrics/../x", "/metricsx", "/%6d", "", "/metrics, /"])
_CLIENTS = st.sampled_from(
    [
        *(ALLOWED, STRANGER, KNOCKER, f"{STRANGER}, {ALLOWED}", f"{ALLOWED},127.0.0.1", "::ffff:192.0.2.1"),
        *("[2001:db8::1]:443", "unknown", "", " ", "192.0.2.1:80", "0.0.0.0", "127.0.0.1", "fe80::1%eth0"),
        *("192.0.2.01", ALLOWED + "\t"),
    ]
)
_SENSIBLE = st.one_of(
    _HOSTS.map(lambda host: f"X-Forwarded-Host: {host}"),
    _PATHS.map(lambda path: f"X-Forwarded-Uri: {path}"),
    _PATHS.map(lambda path: f"x-original-uri:{path}"),
    st.sampled_from(["X-Forwarded-Method: GET", "Forwarded: for=192.0.2.1", "X-Real-IP: 192.0.2.1", "Accept: */*"]),
    _CLIENTS.map(lambda client: f"X-Forwarded-For: {client}"),
    st.sampled_from(["User-Agent: \xe4\x7f\x01", "Cookie: a=b; c", "A:", "X-Api-Key: " + KEY, "1: 2", "-: -"]),
)
_ODD = st.sampled_from(
    [
        *("Connection: close", "Connection: x", "Content-Length: 0", "Content-Length: 3", "Transfer-Encoding: chunked"),
        *("Expect: 100-continue", "Upgrade: h2c", "TE: x", " folded", "a b: c", "A : b", "A\x00: b", "no colon"),
        *("A: b\rc", "A: b\nc", "X_Forwarded_For: 192.0.2.1", ": x", "Host: other", "B: " + "x" * 16_300),
    ]
)
_TARGETS = st.sampled_from(
    [
        *("/verify", "/verify", "/verify?", "/verify/metrics", "/verify/metrics?x", "/verify/", "/verify/%6d"),
        *("/verifyx", "/health", "/knock", "/", "//verify", "/verify#x", "/verify/\xe4", "*", "http://k/verify"),
    ]
)
_METHODS = st.sampled_from(["GET", "GET", "HEAD", "POST", "OPTIONS", "PROPFIND", "get", "G T", "CONNECT", "BREW"])
_VERSIONS = st.sampled_from([*["HTTP/1.1"] * 8, "HTTP/1.0", "HTTP/2.0", "HTTP/1.1 ", ""])
_PLAIN = st.builds(
    lambda target, client, lines: request(f"GET {target} HTTP/1.1", *lines, client=client),
    st.sampled_from(["/verify", "/verify", "/verify/metrics", "/verify?x"]),
    st.none() | _CLIENTS,
    st.lists(_SENSIBLE, max_size=4),
)
_STRANGE = st.builds(
    lambda method, target, version, client, lines, end: request(
        f"{method} {target} {version}".strip(" ") if not version else f"{method} {target} {version}",
        *lines,
        client=client,
        end=end,
    ),
    _METHODS,
    _TARGETS,
    _VERSIONS,
    st.none() | _CLIENTS,
    st.lists(_SENSIBLE | _ODD, max_size=5),
    st.sampled_from(["\r\n"] * 6 + ["\n"]),
)
_KNOCK = st.sampled_from(["GET", "POST", "DELETE"]).map(
    lambda method: request(f"{method} /knock HTTP/1.1", f"X-Api-Key: {KEY}", client=KNOCKER)
)
_BODIES = st.sampled_from([b"", b"\r\n", b"0\r\n\r\n", b"abc", b"\x16\x03\x01", b"GET"])
_STEPS = st.one_of(
    st.tuples(st.just("whole"), _PLAIN),
    st.tuples(st.just("whole"), _PLAIN | _STRANGE | _KNOCK | _BODIES),
    st.tuples(st.just("pieces"), st.tuples(_PLAIN | _STRANGE | _KNOCK, st.lists(st.integers(0, 400), max_size=3))),
    st.tuples(st.just("together"), st.lists(_PLAIN | _STRANGE | _KNOCK | _BODIES, min_size=2, max_size=4)),
    st.tuples(st.just("write"), st.none()),
    st.tuples(st.just("time"), st.sampled_from([0.5, 5, 9.9, 10.1, 129, 131])),
    st.tuples(st.sampled_from(["pause", "resume"]), st.none()),
)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    marks = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *marks], [*marks, len(data)], strict=True)]


def play(pair: Both, steps: Sequence[tuple[str, Any]]) -> None:
    paused = False
    for what, how in steps:
        if what == "whole":
            pair.receive(how)
        elif what == "pieces":
            for piece in cut(*how):
                pair.receive(piece)
        elif what == "together":
            pair.receive(b"".join(how))
        elif what == "write":
            pair.write()
        elif what == "time":
            pair.pass_time(how)
        elif (what == "pause") is not paused and not pair.sides[0].wire.disconnecting:
            paused = not paused
            for side in pair.sides:
                side.channel.pauseProducing() if paused else side.channel.resumeProducing()
        pair.settle()
    pair.write()
    for seconds in (1, 8, 2, 10, 110, 10, 10):
        pair.pass_time(seconds)


@pytest.mark.timeout(1200)
@settings(max_examples=20_000 if LONG else 150)
@given(st.lists(_STEPS, max_size=8), st.sampled_from(["127.0.0.1", "127.0.0.1", "::1", "198.51.100.1"]))
@example([("whole", request()), ("whole", b"\r\n"), ("whole", request()), ("time", 10.1)], "127.0.0.1")
@example([("pieces", (request(), [5])), ("whole", request())], "127.0.0.1")
@example([("whole", request("GET /knock HTTP/1.1", f"X-Api-Key: {KEY}")), ("whole", request())], "127.0.0.1")
def test_the_lane_and_the_channel_answer_alike(steps: list[tuple[str, Any]], peer: str) -> None:
    with both(peer) as pair:
        play(pair, steps)


_KNOWN = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-uri", "x-original-uri")
_NEVER = ("connection", "content-length", "expect", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer")
_NAMES = st.sampled_from([*_KNOWN, *_NEVER, "transfer-encoding", "upgrade", "accept", "x-real-ip", "cookie", "referer"])
_SPELT = st.builds(lambda name, how: str(how(name)), _NAMES, st.sampled_from([str, str.title, str.upper, str.swapcase]))
_NEARLY = st.builds(
    lambda name, place, what: name[:place] + what + name[place:],
    _SPELT,
    st.integers(0, 20),
    st.sampled_from(["", "", "", "x", "-", " ", "_", "\r\n", "\n", ":", "\t", "\xe4", "\0", "1"]),
)
_LINES = st.builds(
    lambda name, colon, value, blank, end: name + colon + value + blank + end,
    _NEARLY,
    st.sampled_from([": ", ":", ":\t ", " : ", ""]),
    st.sampled_from(["192.0.2.1", "", "a\rb", "a\nb", "\xe4\x7f", "x" * 70, "a b", "a\r", "\n", "\0"]),
    st.sampled_from(["", "", "", " ", "\t"]),
    st.sampled_from(["\r\n"] * 9 + ["\n", "\r", "\r\r\n", ""]),
)
_HEADS = st.builds(
    lambda first, lines, end: "".join([first, *lines, end]).encode("latin-1"),
    st.sampled_from(["GET /verify HTTP/1.1\r\n"] * 8 + ["GET /verify/x?y HTTP/1.1\r\n", "GET /verify HTTP/1.1\n"]),
    st.lists(_LINES, max_size=5),
    st.sampled_from(["\r\n"] * 9 + ["", "\n", "\r\n\r\n", "\r\nx"]),
)


def plainly(data: bytes) -> dict[str, str] | None:
    """The lines that matter, read step by step."""
    head, end, rest = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not end or rest or any(odd in line for line in lines for odd in "\r\n\0"):
        return None
    found: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not re.fullmatch("[a-z0-9][a-z0-9-]*", name):
            return None
        if name in (*_NEVER, "transfer-encoding", "upgrade"):
            return None
        if name in _KNOWN:
            if name in found or value != value.rstrip(" \t"):
                return None
            found[name] = value.lstrip(" \t")
    return found


@settings(max_examples=20_000 if LONG else 1_000)
@given(_HEADS)
@example(b"GET /verify HTTP/1.1\r\n\r\n")
def test_one_pattern_reads_as_a_plain_reader_does(data: bytes) -> None:
    question, expected = read_question(data), plainly(data)
    assert (question is None) == (expected is None)
    if question is not None and expected is not None:
        read = (question.chain, question.hosts, question.uris, question.originals)
        assert read == tuple((expected[name].encode("latin-1"),) if name in expected else () for name in _KNOWN)


def test_a_question_may_be_cut_anywhere() -> None:
    question = QUESTIONS["nginx"]
    for place in range(len(question) + 1):
        with both() as pair:
            for piece in cut(question * 2, [place, place + len(question)]):
                pair.receive(piece)
            assert pair.answers.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("before", [[], [request()], [request()[:9]]])
def test_at_the_end_the_lane_closes_as_the_channel_does(before: list[bytes]) -> None:
    with both() as pair:
        for piece in before:
            pair.receive(piece)
        for side in pair.sides:
            side.channel.leave()
        pair.receive(request()[9:] if before and len(before[0]) == 9 else request())


def test_a_mistake_of_ours_in_the_lane_denies(errors: Errors) -> None:
    def broken() -> Any:
        raise RuntimeError("broken")

    with both() as pair:
        for side in pair.sides:
            side.world.house.now = broken
        pair.receive(request())
        assert pair.answers.startswith(b"HTTP/1.1 401")
    assert len(errors.expected()) == 2
