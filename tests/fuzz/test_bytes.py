"""Bytes into a connection: as many answers as requests, in their order, however the bytes are cut; and then an end."""

from __future__ import annotations

import gc
import json
import re
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

from tests.fuzz.streams import Said, Stream, cut, streams, timeless
from tests.wire import ADMIN, KEY

ALLOWED = [f"192.0.2.{host}" for host in (1, 2, 3)]
STRANGERS = [f"198.51.100.{host}" for host in range(1, 7)]
HIDDEN, BEHIND = "192.0.2.66", "192.0.2.67"
PATIENCE = 60  # seconds, beyond every deadline for a request
IDLENESS = 160  # seconds, beyond what an idle connection is kept


# What a well-formed client sends, and what it must be told.


@dataclass(frozen=True)
class Ask:
    """One request. `kind` says what is asked, `client` for whom; the rest is how it is written."""

    kind: str
    client: str
    framing: str = "none"
    sizes: tuple[int, ...] = (1000,)
    spelling: int = 0
    last: str = ""

    @property
    def method(self) -> str:
        """Its method."""
        return {"knock": "POST", "bad key": "POST", "bad body": "POST", "leave": "DELETE", "head": "HEAD"}.get(
            self.kind, {"preflight": "OPTIONS", "wrong method": "PATCH"}.get(self.kind, "GET")
        )

    @property
    def target(self) -> str:
        """Its target."""
        return {
            "verify": "/verify", "envoy": "/verify/metrics?q=/x", "below": "/verify/x", "health": "/health",
            "head": "/health", "ready": "/ready", "nowhere": "/nowhere", "dots": "/knock/../knock",
        }.get(self.kind, "/knock")  # fmt: skip

    @property
    def body(self) -> bytes:
        """Its body."""
        return {"knock": b'{"ttl": 60}', "bad body": b'{"ttl": "60"}'}.get(self.kind, b"x" * 7 if self.framing else b"")

    def written(self) -> bytes:
        """Its bytes."""
        version = b"1.0" if self.last == "old" else b"1.1"
        fields = [b"Host: k", b"X-Forwarded-For: " + self.client.encode()]
        if self.kind in ("knock", "leave", "bad body"):
            fields.append(b"X-Api-Key: " + KEY.encode())
        if self.kind == "bad key":
            fields.append(b"X-Api-Key: " + KEY[:-1].encode())
        if self.last == "close":
            fields.append(b"Connection: close")
        body = b"" if self.framing == "none" else self.body
        if self.framing == "chunked":
            fields.append(b"Transfer-Encoding: chunked")
            body = chunked(body, self.sizes, self.spelling)
        elif self.framing != "none":
            fields.append(b"Content-Length: %d" % len(body))
            if self.framing == "expected":
                fields.append(b"Expect: 100-continue")
        if self.spelling & 1:
            fields.reverse()
        if self.spelling & 2:
            fields = [name.lower() + b":\t" + value + b" " for name, _, value in (f.partition(b": ") for f in fields)]
        start = b"\r\n" if self.spelling & 4 else b""
        line = b"%s %s HTTP/%s\r\n" % (self.method.encode(), self.target.encode(), version)
        return start + line + b"\r\n".join(fields) + b"\r\n\r\n" + body


def chunked(body: bytes, sizes: Sequence[int], spelling: int) -> bytes:
    """A body in chunks of these sizes, the last one repeated."""
    found, place = b"", 0
    for number in range(len(body)):
        size = max(1, sizes[min(number, len(sizes) - 1)])
        piece = body[place : place + size]
        if not piece:
            break
        extension = b";a=b" if spelling & 8 else b""
        found += (b"%X" if spelling & 1 else b"0%x") % len(piece) + extension + b"\r\n" + piece + b"\r\n"
        place += size
    return found + b"0\r\n\r\n"


KINDS = [
    "verify", "verify", "verify", "envoy", "below", "knock", "knock", "leave", "bad key", "bad body", "health", "head",
    "ready", "nowhere", "dots", "preflight", "wrong method",
]  # fmt: skip
STRANGE_KINDS = ["verify", "below", "bad key", "health", "nowhere"]
SIZES = st.sampled_from([(1,), (9,), (1, 3, 2), (4, 1000)])
FRAMINGS = st.sampled_from(["none", "none", "length", "chunked", "expected"])
CLIENTS = st.sampled_from([*STRANGERS, *STRANGERS, *ALLOWED])
LASTS = st.sampled_from([""] * 12 + ["close", "old"])
ASKS = st.builds(Ask, st.sampled_from(KINDS), CLIENTS, FRAMINGS, SIZES, st.integers(0, 15), LASTS)
STAYING = st.builds(Ask, st.sampled_from(KINDS), CLIENTS, FRAMINGS, SIZES, st.integers(0, 15))
STRANGERS_ASKS = st.builds(
    Ask, st.sampled_from(STRANGE_KINDS), st.sampled_from(STRANGERS), FRAMINGS, SIZES, st.integers(0, 15), LASTS
)
CUTS = st.lists(st.integers(0, 5000), max_size=12)


def expectations(asks: Sequence[Ask]) -> list[tuple[int, str | None, str | None]]:
    """For each request up to the last one of the connection: status, client that is told, entry that is told."""
    found: list[tuple[int, str | None, str | None]] = []
    granted: set[str] = set()
    for ask in asks:
        knocks = ask.kind == "knock" or (ask.kind == "bad body" and ask.framing == "none")
        if ask.kind in ("verify", "below"):
            allowed = ask.client in ALLOWED or ask.client in granted
            found.append((200, ask.client, None) if allowed else (401, None, None))
        elif ask.kind == "envoy":
            found.append((200, ask.client, None))
        elif knocks:
            granted.add(ask.client)
            found.append((200, None, ask.client))
        elif ask.kind == "leave":
            granted.discard(ask.client)
            found.append((204, None, None))
        else:
            status = {"bad key": 401, "bad body": 400, "preflight": 204, "wrong method": 405}
            found.append((status.get(ask.kind, 404 if ask.kind in ("nowhere", "dots") else 200), None, None))
        if ask.last:
            break
    return found


def seen(answers: Sequence[Said]) -> list[tuple[int, str | None, str | None]]:
    """What the answers say, in the words of `expectations`."""
    found = []
    for said in answers:
        entry = json.loads(said.body).get("whitelisted_entry") if said.body else None
        found.append((said.status, said.field("x-forwarded-for"), entry))
    return found


def whole_requests(raw: bytes) -> int:
    """How many requests are complete: a strict reader of streams that are well-formed but for their end."""
    count = 0
    while True:
        raw = raw.removeprefix(b"\r\n")
        head, end, raw = raw.partition(b"\r\n\r\n")
        if not end:
            return count
        fields = {
            name.lower(): value.strip() for name, _, value in (f.partition(b":") for f in head.split(b"\r\n")[1:])
        }
        if b"transfer-encoding" in fields:
            while True:
                line, end, raw = raw.partition(b"\r\n")
                if not end:
                    return count
                size = int(line.partition(b";")[0], 16)
                if len(raw) < size + 2:
                    return count
                raw = raw[size + 2 :]
                if size == 0:
                    break
        else:
            size = int(fields.get(b"content-length", b"0"))
            if len(raw) < size:
                return count
            raw = raw[size:]
        count += 1
        if fields.get(b"connection") == b"close" or head.split(b"\r\n")[0].endswith(b"1.0"):
            return count


@given(asks=st.lists(ASKS, min_size=1, max_size=24), cuts=CUTS, busily=st.booleans())
@example(
    asks=[Ask("verify", STRANGERS[0]), Ask("knock", STRANGERS[0]), Ask("verify", STRANGERS[0])], cuts=[], busily=True
)
@example(asks=[Ask("verify", client) for client in [*ALLOWED, *STRANGERS] * 3], cuts=[], busily=False)
def test_every_request_has_its_answer_in_its_turn(asks: list[Ask], cuts: list[int], busily: bool) -> None:
    raw = b"".join(ask.written() for ask in asks)
    methods = [ask.method for ask in asks]
    expected = expectations(asks)
    assert whole_requests(raw) == len(expected)
    with streams() as stream:
        stream.send(cut(raw, cuts), busily)
        assert seen(stream.answers(methods)) == expected
        assert stream.is_over == any(ask.last for ask in asks)


@given(asks=st.lists(ASKS, min_size=1, max_size=8), end=st.integers(0, 5000), cuts=CUTS, busily=st.booleans())
def test_no_answer_comes_before_its_request_is_complete(
    asks: list[Ask], end: int, cuts: list[int], busily: bool
) -> None:
    raw = b"".join(ask.written() for ask in asks)
    raw = raw[: end % (len(raw) + 1)]
    methods = [ask.method for ask in asks]
    sent = b""
    with streams() as stream:
        for piece in cut(raw, cuts):
            sent += piece
            stream.send([piece], busily)
            assert len(stream.answers(methods)) == whole_requests(sent)
        assert seen(stream.answers(methods)) == expectations(asks)[: whole_requests(raw)]
        comes_to_an_end(stream, len(stream.answers(methods)), methods)


def comes_to_an_end(stream: Stream, answered: int, methods: Sequence[str] = ()) -> None:
    """After every deadline a connection is closed, or answers one request more and is closed when it idles."""
    stream.pass_time(PATIENCE)
    if not stream.wire.closed:
        stream.send([Ask("verify", BEHIND).written()])
        found = stream.answers([*methods[:answered], "GET"])
        assert seen(found[answered:]) == [(200, BEHIND, None)]
        stream.pass_time(IDLENESS)
    assert stream.wire.closed


# What others send.

FIRST_LINES = [
    b"GET /verify HTTP/1.1", b"POST /knock HTTP/1.1", b"GET /health HTTP/1.1", b"OPTIONS /knock HTTP/1.1",
    b"GET /grants HTTP/1.1", b"DELETE /knock HTTP/1.1", b"GET /verify/x HTTP/1.1", b"GET /verify",
    b"GET /verify HTTP/1.0",
    b"GET /verify HTTP/0.9", b"GET /verify HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n", b"GET /verify HTTP/1.10",
    b"GET  /verify HTTP/1.1", b" GET /verify HTTP/1.1", b"GET\t/verify\tHTTP/1.1", b"GET /verify HTTP/1.1 x",
    b"GET /verify http/1.1",
    b"G\x00T /verify HTTP/1.1", b"GET /ver\x00ify HTTP/1.1", b"GET /verify\xff HTTP/1.1", b"GET /\x80\xb0 HTTP/1.1",
    b"CONNECT k:443 HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET http://k/verify HTTP/1.1", b"GET //verify HTTP/1.1",
    b"GET ?verify HTTP/1.1", b"GET verify HTTP/1.1", b"TRACE /verify HTTP/1.1", b"POST /verify HTTP/1.1",
    b"GET /" + b"a" * 17000 + b" HTTP/1.1", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PROXY TCP4 192.0.2.1 1.1.1.1 1 2",
    b"\r\n\x00\r\nQUIT\n", b"HTTP/1.1 200 OK", b"GET /grants/\xe9 HTTP/1.1", b"GET /%zz HTTP/1.1",
    b"GET /grants/%00 HTTP/1.1",
]  # fmt: skip
FIELDS = [
    b"Host: k", b"Host: a\r\nHost: b", b"Host: \xff", b"X-Forwarded-For: 198.51.100.7", b"X-Forwarded-For:198.51.100.8",
    b"X-Forwarded-For : 198.51.100.9", b"X-Forwarded-For: 198.51.100.7\r\n , 198.51.100.8",
    b"X-Api-Key: no-such-key-0000000000",
    b"X-Forwarded-Uri: /admin", b"X-Forwarded-Uri: /metrics/../x", b"X-Forwarded-Host: a.example.com",
    b"X-Original-URI: /x",
    b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: 99999999999999999999", b"Content-Length: -1",
    b"Content-Length: 5, 5", b"Content-Length:", b"Content-Length: 4097", b"Content-Length: 4096",
    b"Content-Length: 0x5",
    b"Content-Length : 5", b"Content-Length: 5\r\n 0", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding: chunked, identity", b"Expect: 100-continue", b"Expect: 200-ok",
    b"Upgrade: h2c\r\nConnection: Upgrade",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==",
    b"Connection: close", b"Connection: keep-alive, close", b"Cookie: a=\xff; =; b", b"Authorization: Basic !!!",
    b"Range: bytes=0-",
    b"If-None-Match: *", b"Content-Type: multipart/form-data; boundary=",
    b"Content-Type: application/x-www-form-urlencoded",
    b": nothing", b"nothing", b"a b: c", b"a\x00: b", b"a: \x00", b"a: b\rc: d", b"a: b\nc: d", b" folded",
    b"\tfolded: x", b"\xff: a",
    b"A: " + b"a" * 17000, b"\r\n".join([b"A: b"] * 501), b"",
]  # fmt: skip
ENDS = [b"\r\n\r\n", b"\r\n\r\n", b"\r\n\r\n", b"\n\n", b"\r\r", b"\r\n", b"", b"\r\n\n", b"\n\r\n", b"\r\n \r\n\r\n"]
BODIES = [
    b"", b"", b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", b"0\r\n\r\n",
    b"5\r\nhellooo\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n", b"+5\r\nhello\r\n", b"0x5\r\nhello\r\n", b"ffffffffffffffffffff\r\nhello", b"g\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5;" + b"a" * 5000 + b"\r\nhello\r\n0\r\n\r\n", b"5\nhello\n0\n\n", b"\r\n\r\n", b"1" * 2000,
    b"1001\r\n" + b"a" * 4097 + b"\r\n0\r\n\r\n",
    b"{", b'{"ttl": 60}', b"\x00" * 20, b"a" * 5000, b"000000000000000000005\r\nhello\r\n0\r\n\r\n",
    b"0\r\n" + b"A: b\r\n" * 3000,
]  # fmt: skip


@st.composite
def broken_streams(draw: st.DrawFn) -> bytes:
    """Requests of strangers from the pieces above, then damaged here and there."""
    raw = b""
    for _ in range(draw(st.integers(1, 5))):
        wellformed = draw(st.integers(0, 2))
        if wellformed:
            raw += draw(STRANGERS_ASKS).written()
        else:
            fields = draw(st.lists(st.sampled_from(FIELDS), max_size=5))
            raw += b"\r\n".join([draw(st.sampled_from(FIRST_LINES)), *fields]) + draw(st.sampled_from(ENDS))
            raw += draw(st.sampled_from(BODIES))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(raw)))
        kind = draw(st.integers(0, 5))
        if kind == 0 and raw:
            place %= len(raw)
            raw = raw[:place] + bytes([raw[place] ^ 1 << draw(st.integers(0, 7))]) + raw[place + 1 :]
        elif kind == 1:
            raw = raw[:place] + raw[place + draw(st.integers(1, 30)) :]
        elif kind == 2:
            raw = (
                raw[:place]
                + draw(st.sampled_from([b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"\xff"]))
                + raw[place:]
            )
        elif kind == 3:
            lines = raw.split(b"\r\n")
            number = place % len(lines)
            raw = b"\r\n".join([*lines[:number], lines[number], *lines[number:]])
        elif kind == 4:
            raw = raw.replace(
                b"\r\n", draw(st.sampled_from([b"\n", b"\r", b"\n\r", b"\r\r\n"])), draw(st.integers(1, 4))
            )
        else:
            raw = raw[:place]
    return raw


def stand_for_requests(raw: bytes) -> int:
    """How many request lines there can be in these bytes at most, however they are read."""
    return len(re.findall(rb"HTTP/", raw))


def is_yes(said: Said) -> bool:
    """A 2xx that a stranger must not have."""
    if not 200 <= said.status < 300:
        return False
    if said.status == 204:
        return said.field("access-control-allow-methods") is None
    return said.field("x-forwarded-for") is not None or said.body not in (b'{"status": "ok"}', b'{"status": "ready"}')


PEERS = st.sampled_from(["127.0.0.1", "127.0.0.1", "203.0.113.9", "2001:db8::9"])


@given(raw=broken_streams(), cuts=CUTS, busily=st.booleans(), peer=PEERS)
def test_broken_requests_are_answered_in_whole_answers_none_of_them_yes(
    raw: bytes, cuts: list[int], busily: bool, peer: str
) -> None:
    assume(b"HEAD " not in raw)
    with streams(peer=peer) as stream:
        stream.send(cut(raw, cuts), busily)
        found = stream.answers()
        # Only the last answer of a connection may be to what is no request line.
        assert len(found) <= stand_for_requests(raw) + 1
        assert not any(map(is_yes, found))
        event(f"ended with {found[-1].status if found else 'no answer'}")
        if peer == "127.0.0.1":
            stream.pass_time(PATIENCE)
            later = stream.answers()
            assert later[: len(found)] == found
            comes_to_an_end(stream, len(later))
        else:
            stream.pass_time(PATIENCE + IDLENESS)
            assert stream.wire.closed


def test_no_odd_line_alone_is_a_yes_to_a_stranger() -> None:
    lines = [(line, b"Host: k") for line in FIRST_LINES] + [(b"GET /verify HTTP/1.1", field) for field in FIELDS]
    for line, field in lines:
        raw = b"\r\n".join([line, field, b"X-Forwarded-For: 198.51.100.7"]) + b"\r\n\r\n"
        with streams() as stream:
            stream.send([raw])
            found = stream.answers()
            assert len(found) <= stand_for_requests(raw) + 1, raw
            assert not any(map(is_yes, found)), raw
            comes_to_an_end(stream, len(found))


@settings(max_examples=min(settings().max_examples, 1000))
@given(raw=broken_streams(), first=CUTS, second=CUTS, busily=st.booleans())
def test_the_same_bytes_in_other_pieces_have_the_same_answers(
    raw: bytes, first: list[int], second: list[int], busily: bool
) -> None:
    assume(b"HEAD " not in raw)
    found = []
    for places, quickly in (([], False), (first, busily), (second, False)):
        with streams() as stream:
            stream.send(cut(raw, places), quickly)
            found.append((timeless(stream.answers()), stream.wire.closed))
    assert found[1] == found[0]
    assert found[2] == found[0]


@settings(max_examples=min(settings().max_examples, 600))
@given(asks=st.lists(ASKS, min_size=1, max_size=3))
def test_bytes_that_come_one_by_one_have_the_same_answers(asks: list[Ask]) -> None:
    raw = b"".join(ask.written() for ask in asks)
    with streams() as stream:
        stream.send([raw[place : place + 1] for place in range(len(raw))])
        assert seen(stream.answers([ask.method for ask in asks])) == expectations(asks)


@settings(max_examples=min(settings().max_examples, 200))
@given(
    ask=st.one_of(
        STAYING, st.builds(Ask, st.sampled_from(["knock", "verify"]), CLIENTS, st.sampled_from(["length", "chunked"]))
    ),
    pause=st.integers(1, 9),
    size=st.integers(1, 6),
    slow_head=st.booleans(),
)
@example(ask=Ask("knock", STRANGERS[0], "length"), pause=9, size=1, slow_head=False)
@example(ask=Ask("knock", STRANGERS[0], "chunked"), pause=3, size=1, slow_head=False)
def test_who_drips_a_request_is_cut_off_in_its_middle(ask: Ask, pause: int, size: int, slow_head: bool) -> None:
    raw = ask.written()
    with streams() as stream:
        passed = 0
        for start in range(0, len(raw), size):
            stream.send([raw[start : start + size]])
            if start + size >= len(raw) or stream.is_over:
                break
            if slow_head or b"\r\n\r\n" in raw[4 : start + size]:
                stream.pass_time(pause)
                passed += pause
            # Ten seconds for the head and ten for the body, however often something comes.
            assert passed < 20 or stream.is_over
            assert stream.answers([ask.method]) == []


# A request hidden in another's body.

INNER = Ask("verify", HIDDEN).written()
SIZE = b"%d" % len(INNER)
WHOLE = b"%x\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER)
# Framings of RFC 9112 6 and 7.1 that say where the body ends, with the bytes of the body.
CLEAR = [
    ([b"Content-Length: " + SIZE], INNER),
    ([b"content-length:" + SIZE + b"  "], INNER),
    ([b"Content-Length: 0" + SIZE], INNER),
    ([b"Transfer-Encoding: chunked"], WHOLE),
    ([b"transfer-encoding: CHUNKED"], WHOLE),
    ([b"Transfer-Encoding:", b" chunked"], WHOLE),
    ([b"Transfer-Encoding: chunked"], b"%x;name=value\r\n%s\r\n0;x\r\n\r\n" % (len(INNER), INNER)),
    ([b"Transfer-Encoding: chunked"], b"%X\r\n%s\r\n1\r\n\n\r\n0\r\n\r\n" % (len(INNER), INNER)),
    ([b"Transfer-Encoding: chunked"], b"%x\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(INNER), INNER)),
    ([b"Transfer-Encoding: chunked"], b"1\r\na\r\n0\r\nX: " + INNER.replace(b"\r\n", b" ") + b"\r\n\r\n"),
]
# Framings that are wrong, doubtful or refused: whatever is made of them, the inner request is none.
DOUBTFUL = [
    ([b"Content-Length: " + SIZE, b"Content-Length: 0"], INNER),
    ([b"Content-Length: 0", b"Content-Length: " + SIZE], INNER),
    ([b"Content-Length: " + SIZE, b"Content-Length: " + SIZE], INNER),
    ([b"Content-Length: 0, " + SIZE], INNER),
    ([b"Content-Length: +0"], INNER),
    ([b"Content-Length: -0"], INNER),
    ([b"Content-Length: 0x0"], INNER),
    ([b"Content-Length: 0_0"], INNER),
    ([b"Content-Length: "], INNER),
    ([b"Content-Length: 0;"], INNER),
    ([b"Content-Length : 0"], INNER),
    ([b"Content-Length\x00: 0"], INNER),
    ([b"Content-Length: 0\x00"], INNER),
    ([b"Content-Length: 0\x0b"], INNER),
    ([b"Content-Length: 0" + b"0" * 40], INNER),
    ([b"Content-Length: " + b"9" * 400], INNER),
    ([b"Content-Length: 0", b"Transfer-Encoding: chunked"], WHOLE),
    ([b"Transfer-Encoding: chunked", b"Content-Length: 0"], WHOLE),
    ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], b"0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked", b"Content-Length: 5"], b"0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], WHOLE),
    ([b"Transfer-Encoding: gzip"], INNER),
    ([b"Transfer-Encoding: gzip, chunked"], b"0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked, gzip"], b"0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: xchunked"], b"0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked;q=1"], b"0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: \x0bchunked"], b"0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding : chunked"], b"0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked\x00"], b"0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: ch\xc5\xaanked"], b"0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding:"], b"0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked"], b"0x0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked"], b"-0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked"], b"+0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked"], b"0\n\n" + INNER),
    ([b"Transfer-Encoding: chunked"], b"1\na\n0\n\n" + INNER),
    ([b"Transfer-Encoding: chunked"], b"1\r\nabc0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked"], b"1\r\na0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked"], b"1_\r\na\r\n0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked"], b"\r\n0\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked"], b"g\r\n\r\n" + INNER),
    ([b"Transfer-Encoding: chunked"], b"1" + b"0" * 400 + b"\r\n" + INNER + b"a" * 5000),
    ([b"Transfer-Encoding: chunked"], b"1;\n\r\na\r\n0\r\n\r\n" + INNER),
    ([b"X: y\nContent-Length: 0"], INNER),
    ([b"X: y\rContent-Length: 0"], INNER),
    ([b"X: y\n\nGET /verify HTTP/1.1\nX-Forwarded-For: " + HIDDEN.encode() + b"\n"], INNER),
    ([b"X\x00: y"], INNER),
    ([b"X Y: z"], INNER),
    ([b": z"], INNER),
    ([b"no colon"], INNER),
]  # fmt: skip
OTHER_FIELDS = st.lists(st.sampled_from([b"Host: k", b"X-Forwarded-For: 198.51.100.7", b"Accept: */*"]), max_size=3)
TARGETS = st.sampled_from(
    [b"POST /knock", b"GET /verify", b"POST /verify/x", b"DELETE /knock", b"GET /health", b"PUT /x"]
)


def framed(lines: list[bytes], body: bytes, fields: list[bytes], target: bytes, first: bool) -> bytes:
    """A request with this framing, and another one behind it."""
    head = b"\r\n".join([target + b" HTTP/1.1", *(lines + fields if first else fields + lines)]) + b"\r\n\r\n"
    return head + body + Ask("verify", BEHIND).written()


def ends_where_it_says(pieces: Sequence[bytes]) -> None:
    with streams() as stream:
        stream.send(pieces)
        found = seen(stream.answers())
        assert len(found) == 2, pieces
        assert found[0][1] is None
        assert found[1] == (200, BEHIND, None)


def is_the_last(pieces: Sequence[bytes]) -> None:
    with streams() as stream:
        stream.send(pieces)
        found = stream.answers()
        assert len(found) == 1, pieces
        assert 400 <= found[0].status < 500
        assert stream.wire.closed


@given(framing=st.sampled_from(CLEAR), fields=OTHER_FIELDS, target=TARGETS, cuts=CUTS, first=st.booleans())
def test_a_body_is_never_read_as_a_request(
    framing: tuple[list[bytes], bytes], fields: list[bytes], target: bytes, cuts: list[int], first: bool
) -> None:
    ends_where_it_says(cut(framed(*framing, fields, target, first), cuts))


@given(framing=st.sampled_from(DOUBTFUL), fields=OTHER_FIELDS, target=TARGETS, cuts=CUTS, first=st.booleans())
def test_behind_a_doubtful_framing_nothing_is_read_any_more(
    framing: tuple[list[bytes], bytes], fields: list[bytes], target: bytes, cuts: list[int], first: bool
) -> None:
    is_the_last(cut(framed(*framing, fields, target, first), cuts))


def test_every_framing_is_clear_or_ends_the_connection() -> None:
    for framing in CLEAR:
        ends_where_it_says([framed(*framing, [b"Host: k"], b"POST /knock", True)])
    for framing in DOUBTFUL:
        is_the_last([framed(*framing, [b"Host: k"], b"POST /verify", True)])


# Afterwards.


@settings(max_examples=min(settings().max_examples, 600))
@given(
    raw=broken_streams(), asks=st.lists(ASKS, max_size=3), cuts=CUTS, busily=st.booleans(), seconds=st.integers(0, 30)
)
def test_nothing_of_a_lost_connection_is_kept(
    raw: bytes, asks: list[Ask], cuts: list[int], busily: bool, seconds: int
) -> None:
    with streams() as stream:
        for piece in cut(b"".join(ask.written() for ask in asks) + raw, cuts):
            if not stream.is_over and (busily or stream.wire.producerState == "producing"):
                stream.channel.dataReceived(piece)
        if seconds > 15:
            stream.pass_time(seconds)
        channel = weakref.ref(stream.channel)
        stream.end()
        stream.channel = None
        stream.wire = None  # type: ignore[assignment]
        if channel() is not None:
            gc.collect()
        assert channel() is None


EARLIER = st.lists(STAYING, max_size=6)
LINES = st.lists(st.sampled_from([KEY.encode(), KEY.encode(), ADMIN.encode(), b"", KEY.encode()[:-1]]), max_size=3)


@settings(max_examples=min(settings().max_examples, 600))
@given(lines=LINES, earlier=EARLIER, cuts=CUTS)
def test_only_a_key_that_is_sent_once_and_whole_opens(lines: list[bytes], earlier: list[Ask], cuts: list[int]) -> None:
    head = b"POST /knock HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: 203.0.113.5\r\n"
    head += b"".join(b"X-Api-Key: " + line + b"\r\n" for line in lines) + b"\r\n"
    ask = Ask("verify", "203.0.113.5")
    with streams() as stream:
        stream.send(cut(b"".join(other.written() for other in earlier) + head + ask.written(), cuts))
        found = stream.answers([other.method for other in earlier])[len(earlier) :]
        right = len(lines) == 1 and lines[0] in (KEY.encode(), ADMIN.encode())
        assert [said.status for said in found] == ([200, 200] if right else [401, 401])
