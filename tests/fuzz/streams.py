"""A client of the web port that reads strictly: it sends bytes in pieces and takes no answer that is no HTTP."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from tests.wire import SETTINGS, Disk, World, hang_up

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}) [ -~]+")
_FIELD = re.compile(rb"([A-Za-z0-9-]+): ([ -~]*)")


@dataclass(frozen=True)
class Said:
    """One answer: its status, its fields by lower-case name, its body."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def field(self, name: str) -> str | None:
        """The value of the one field of this name."""
        found = [value for other, value in self.fields if other == name]
        assert len(found) < 2, f"{name} stands there twice"
        return found[0] if found else None


def answers_in(raw: bytes, methods: Sequence[str] = ()) -> list[Said]:
    """All answers in a stream, but for 100; fails where a byte of it belongs to none. `methods`: of the requests."""
    found: list[Said] = []
    rest = raw
    while rest:
        head, end, rest = rest.partition(b"\r\n\r\n")
        assert end, f"an answer whose head does not end: {head!r}"
        first, *lines = head.split(b"\r\n")
        match = _STATUS.fullmatch(first)
        assert match, f"no status line: {first!r}"
        status = int(match[1])
        if status == 100:
            assert not lines
            continue
        fields = []
        for line in lines:
            field = _FIELD.fullmatch(line)
            assert field, f"no header: {line!r}"
            fields.append((field[1].decode().lower(), field[2].decode()))
        said = Said(status, tuple(fields), b"")
        assert said.field("cache-control") == "no-store"
        assert said.field("server") is None
        length = said.field("content-length")
        if status == 204:
            assert length is None
        else:
            assert length is not None, f"an answer without its length: {head!r}"
            if methods[len(found) : len(found) + 1] != ["HEAD"]:
                said = Said(status, said.fields, rest[: int(length)])
                assert len(said.body) == int(length), "an answer whose body is cut short"
                rest = rest[int(length) :]
        found.append(said)
    return found


def timeless(answers: Sequence[Said]) -> list[Said]:
    """The answers without the hour at which they were given."""
    return [Said(said.status, tuple(pair for pair in said.fields if pair[0] != "date"), said.body) for said in answers]


class Stream:
    """One connection to a Knocker of its own, whose disk writes only when the client waits for it."""

    def __init__(self, world: World, peer: str = "127.0.0.1") -> None:
        self.world = world
        self.disk = Disk(world)
        self.channel, self.wire = world.connect(peer)
        self.lost = False

    @property
    def is_over(self) -> bool:
        """Whether a real transport would read no more."""
        return bool(self.wire.disconnecting or self.wire.disconnected)

    def settle(self) -> None:
        """Let everything happen that needs no time to pass."""
        for _ in range(200):
            if self.disk.writes:
                self.disk.succeed()
            elif any(call.getTime() <= self.world.clock.seconds() for call in self.world.clock.getDelayedCalls()):
                self.world.clock.advance(0)
            else:
                return
        raise AssertionError("a connection that never comes to rest")

    def send(self, pieces: Sequence[bytes], busily: bool = False) -> None:
        """Send pieces as a real transport delivers them; `busily`: the next before the last is looked at."""
        for piece in pieces:
            if self.wire.producerState != "producing" or not busily:
                self.settle()
            if self.is_over:
                return
            if piece:
                self.channel.dataReceived(piece)
        self.settle()

    def pass_time(self, seconds: int) -> None:
        """Let seconds pass, one by one."""
        for _ in range(seconds):
            self.world.pass_time(1)
            self.settle()

    def answers(self, methods: Sequence[str] = ()) -> list[Said]:
        """What was answered so far."""
        return answers_in(bytes(self.wire.value()), methods)

    def end(self) -> None:
        """The connection is lost; nothing of it may be left."""
        if not self.lost:
            self.lost = True
            hang_up(self.channel)
            self.settle()
            assert not self.world.site.channels
            assert not self.world.clock.getDelayedCalls()


@contextmanager
def streams(text: str = SETTINGS, peer: str = "127.0.0.1") -> Iterator[Stream]:
    """A connection to a fresh Knocker; fails on any error that it logs."""
    errors: list[str] = []

    def heed(event: LogEvent) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            errors.append(f"{formatEvent(event)} {event.get('log_failure', '')}")

    observer: Any = heed
    globalLogPublisher.addObserver(observer)
    try:
        with tempfile.TemporaryDirectory() as folder:
            stream = Stream(World(Path(folder), text), peer)
            yield stream
            stream.end()
    finally:
        globalLogPublisher.removeObserver(observer)
    assert not errors, errors


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The bytes in pieces, cut at these places, counted modulo their number."""
    marks = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *marks], [*marks, len(data)], strict=True)]
