"""A client that sends any bytes, and a strict reader of HTTP/1.1 answers: what it cannot read is an error."""

from __future__ import annotations

import json
import re
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.attacks.corpus import Pace

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) [\x20-\x7e]*")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})\r\n")


class NotHttp(Exception):
    """The server sent what is no HTTP/1 answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; header names are in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The one value of a header, or None; raises NotHttp where it stands twice."""
        values = [value for key, value in self.headers if key == name]
        if len(values) > 1:
            raise NotHttp(f"{name} stands {len(values)} times")
        return values[0] if values else None

    def json(self) -> Any:
        """The body, which has to call itself JSON."""
        if self.header("content-type") != "application/json":
            raise NotHttp(f"content type {self.header('content-type')} instead of application/json")
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back: whole answers, what followed them, whether the server closed; `took` seconds until then."""

    answers: tuple[Answer, ...]
    rest: bytes
    closed: bool
    took: float


def converse(
    port: int,
    data: bytes,
    *,
    source: str = "127.0.0.1",
    answers: int | None = 1,
    patience: float = 5.0,
    pace: Pace | None = None,
    bodiless: bool = False,
) -> Heard:
    """Send `data` from `source` and listen until so many answers came (None: until it is closed) or patience ends."""
    started = time.monotonic()
    received = b""
    closed = False
    took = 0.0
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=patience, source_address=(source, 0)) as sock:
        sock.setblocking(False)
        while not closed and (left := started + patience - time.monotonic()) > 0:
            due = _due(data, pace, time.monotonic() - started)
            left = min(left, 0.1) if pace else left
            readable, writable, _ = select.select([sock], [sock] if sent < due else [], [], left)
            if writable:
                sent = _send(sock, data, sent, due)
            if not readable:
                continue
            more = _receive(sock)
            closed = not more
            received += more
            took = time.monotonic() - started
            if answers is not None and len(read_answers(received, closed, bodiless)[0]) >= answers:
                break
    found, rest = read_answers(received, closed, bodiless)
    return Heard(tuple(found), rest, closed, took)


def _due(data: bytes, pace: Pace | None, elapsed: float) -> int:
    if pace is None:
        return len(data)
    return min(len(data), pace.first + pace.bytes * int(elapsed * 1000 / pace.every_ms))


def _send(sock: socket.socket, data: bytes, sent: int, due: int) -> int:
    """How much of `data` is sent now; all of it where the server listens no more."""
    try:
        return sent + sock.send(memoryview(data)[sent : min(due, sent + 65536)])
    except (BrokenPipeError, ConnectionResetError):
        return len(data)


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except ConnectionResetError:
        return b""


def read_answers(data: bytes, ended: bool, bodiless: bool = False) -> tuple[list[Answer], bytes]:
    """The whole answers in `data` and what is left over; raises NotHttp. `bodiless`: they answer HEAD."""
    found: list[Answer] = []
    while data:
        whole = _read_answer(data, ended, bodiless)
        if whole is None:
            break
        answer, data = whole
        found.append(answer)
    return found, data


def _read_answer(data: bytes, ended: bool, bodiless: bool) -> tuple[Answer, bytes] | None:
    head, gap, rest = data.partition(b"\r\n\r\n")
    if not gap:
        if ended or not b"HTTP/1.".startswith(data[:7]):
            raise NotHttp(f"not an answer: {data[:200]!r}")
        return None
    status, headers = _read_head(head)
    body = _read_body(status, headers, rest, ended, bodiless)
    return None if body is None else (Answer(status, headers, body[0]), body[1])


def _read_head(head: bytes) -> tuple[int, tuple[tuple[str, str], ...]]:
    first, *lines = head.split(b"\r\n")
    match = _STATUS.fullmatch(first)
    if not match:
        raise NotHttp(f"not a status line: {first!r}")
    headers = []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if not field:
            raise NotHttp(f"not a header line: {line!r}")
        headers.append((field[1].decode("ascii").lower(), field[2].decode("latin-1")))
    return int(match[1]), tuple(headers)


def _read_body(
    status: int, headers: tuple[tuple[str, str], ...], rest: bytes, ended: bool, bodiless: bool
) -> tuple[bytes, bytes] | None:
    """The body and what follows it, or None while it is not complete."""
    lengths = [value for name, value in headers if name == "content-length"]
    codings = [value for name, value in headers if name == "transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise NotHttp(f"more than one framing: {lengths} {codings}")
    if status < 200 or status in (204, 304) or bodiless:
        if status == 204 and (lengths or codings):
            raise NotHttp("a 204 with a body's framing")
        return b"", rest
    if codings:
        if codings != ["chunked"]:
            raise NotHttp(f"unknown coding: {codings}")
        return _incomplete(_read_chunks(rest), ended)
    if lengths:
        if not re.fullmatch("0|[1-9][0-9]*", lengths[0]):
            raise NotHttp(f"not a length: {lengths[0]!r}")
        length = int(lengths[0])
        return _incomplete((rest[:length], rest[length:]) if len(rest) >= length else None, ended)
    return (rest, b"") if ended else None


def _incomplete(body: tuple[bytes, bytes] | None, ended: bool) -> tuple[bytes, bytes] | None:
    if body is None and ended:
        raise NotHttp("closed in the middle of a body")
    return body


def _read_chunks(rest: bytes) -> tuple[bytes, bytes] | None:
    body = b""
    while True:
        match = _CHUNK.match(rest)
        if not match:
            if b"\r\n" in rest or len(rest) > 8:
                raise NotHttp(f"not a chunk: {rest[:20]!r}")
            return None
        size = int(match[1], 16)
        end = match.end() + size
        if len(rest) < end + 2:
            return None
        if rest[end : end + 2] != b"\r\n":
            raise NotHttp("a chunk without its end, or a trailer")
        body += rest[match.end() : end]
        rest = rest[end + 2 :]
        if not size:
            return body, rest


def within(seconds: float, condition: Callable[[], bool], pause: Callable[[float], object]) -> bool:
    """Whether a condition comes true in time, asked again and again."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        pause(0.03)
    return True
