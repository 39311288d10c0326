"""The packets that were seen, on disk: a knock counts only once its packet is known for good (contract 4).

Lines are appended and synced, several packets at a time, and what is too old to matter is left out when the file
is written anew. A file that is lost or damaged cannot say which packets were seen: then those made before now and
for a window after are refused, once.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from knocker.core.packets.seen import MOST, Seen, Sighting
from knocker.core.refusals import Refusal, Refused
from knocker.store import atomic
from knocker.store.jsonfile import InThread
from knocker.store.lock import Lock, Unusable
from knocker.store.plainfile import contents, why_not

_HEAD = "knocker-seen-1"
_LONGEST = 120 * 4 * MOST  # bytes that a file of ours can have
_OLDEST = 300_000  # milliseconds that the mark in the file may lie behind
_FEW = 200  # lines beyond what must be kept, before the file is written anew

log = Logger()


class _NotOurs(Exception):
    """Not even a damaged file of ours."""


@dataclass
class _Found:
    """What a file holds; `damage` says what is wrong with it."""

    mark: int = 0
    fence: int = 0
    sightings: tuple[Sighting, ...] = ()
    damage: str = ""


class SeenFile:
    """The file and what it says. `in_thread` runs a function off the reactor, one at a time."""

    def __init__(self, path: str, in_thread: InThread) -> None:
        self.path = path
        self.failure = ""
        self.seen = Seen(0)
        self._lock = Lock(path, "udp.state_path")
        self._marked = 0  # the mark that the file has
        self._stale = False  # the file wants the mark of now
        self._in_thread = in_thread
        self._descriptor = -1
        self._lines = 0
        self._torn = False  # the file may end in half a line
        self._waiting: list[tuple[Sighting, Deferred[None]]] = []
        self._writing = False

    # Loading, before any packet.

    def load(self, window: int, now: int) -> None:
        """Read what is there (times in milliseconds) and write it anew; raises Unusable."""
        self._lock.take(os.getpid())
        found = _read(self.path)
        if found.damage:
            found.fence = max(found.fence, now + window)
            log.warn(
                "{path}: {damage}: UDP knocks made before now and in the next {seconds} s are refused, since they may"
                " have been seen already",
                path=self.path,
                damage=found.damage,
                seconds=window // 1000,
            )
        self.seen = Seen(window, found.mark, found.fence, found.sightings)
        if self.seen.is_behind(now):
            log.error(
                "{path}: the clock is {seconds} s behind the highest time that it ever had: UDP knocks are refused"
                " until it is right; if it was wrong before, remove the file",
                path=self.path,
                seconds=(self.seen.mark - now) // 1000,
            )
        self.seen.mark = max(self.seen.mark, now)
        text = self._text()
        self._lines = text.count(b"\n")
        try:
            self._rewrite(text)
        except OSError as error:
            raise Unusable(f"{self.path}: cannot be written: {error.strerror}") from None

    def complaints(self, now: int) -> list[str]:
        """What keeps UDP knocks from being taken, in words for the admin."""
        behind = [f"the clock is behind the highest time in {self.path}"] if self.seen.is_behind(now) else []
        return [self.failure, *behind] if self.failure else behind

    def refresh(self, now: int) -> None:
        """Let the file know the time of now, where what it knows is old: no clock that is set back later denies it."""
        if now - self._marked >= _OLDEST:
            self.seen.mark = max(self.seen.mark, now)
            self._stale = True
            self._wake()

    def close(self) -> None:
        """Keep nothing open, and let another process have it."""
        self._lock.release()
        self._close_file()

    def _close_file(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # Keeping.

    def keep(self, sighting: Sighting) -> Deferred[None]:
        """Fires once the packet is known for good; fails with Refused, and then it may be sent again."""
        waiter: Deferred[None] = Deferred()
        self._waiting.append((sighting, waiter))
        self._wake()
        return waiter

    def _wake(self) -> None:
        if not self._writing:
            self._writing = True
            Deferred.fromCoroutine(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._waiting or self._stale:
                waiting, self._waiting = self._waiting, []
                await self._write([sighting for sighting, _ in waiting])
                for sighting, waiter in waiting:
                    if self.failure:
                        self.seen.forget(sighting)
                        waiter.errback(Refused(Refusal.NOT_STORED, self.failure))
                    else:
                        waiter.callback(None)
        finally:
            self._writing = False

    async def _write(self, sightings: list[Sighting]) -> None:
        anew = self._torn or self._stale or self._lines > len(self.seen) + _FEW
        self._stale = False
        # What is written anew has those that wait already: they were seen, though nothing came of them yet.
        text = self._text() if anew else "".join(map(_line, sightings)).encode()
        try:
            await self._in_thread(lambda: self._rewrite(text) if anew else self._append(text))
        except Exception as error:  # noqa: BLE001 - whatever it was, nothing is known to be stored
            self._torn = True
            self._fail(error)
            return
        self._lines = self._lines + len(sightings) if not anew else text.count(b"\n")
        if self.failure:
            log.info("{path} can be written again", path=self.path)
        self.failure, self._torn = "", False

    def _fail(self, error: Exception) -> None:
        failure = why_not(self.path, error)
        if failure != self.failure:
            log.error("{failure}; UDP knocks are refused until it can be", failure=failure)
        self.failure = failure

    # In the writer's thread.

    def _append(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fdatasync(self._descriptor)

    def _rewrite(self, text: bytes) -> None:
        self._close_file()
        atomic.replace(self.path, [text])
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _text(self) -> bytes:
        self.seen.prune()
        self._marked = self.seen.mark
        head = f"{_HEAD} {self.seen.mark} {self.seen.fence}"
        return "".join((_checked(head), *map(_line, self.seen))).encode()


def _line(sighting: Sighting) -> str:
    return _checked(f"{sighting.seen} {sighting.made} {sighting.owner} {sighting.nonce.hex()}")


def _checked(text: str) -> str:
    return f"{text} {zlib.crc32(text.encode()):08x}\n"


def _read(path: str) -> _Found:
    """What the file says; raises Unusable for what is no file to work with."""
    data = contents(path, "udp.state_path", _LONGEST + 1)
    if data is None:
        return _Found(damage="there is no such file")
    try:
        return _parsed(data)
    except _NotOurs:
        raise Unusable(f"{path}: not a file of Knocker's; name another in udp.state_path, or remove it") from None


def _parsed(data: bytes) -> _Found:
    *whole, rest = data.decode("ascii", "replace").split("\n")
    lines = [_fields(line) for line in whole]
    begun = data[:8] == _HEAD.encode()[:8][: len(data)]
    if not any(lines) and not begun and data.strip(b"\0\n"):  # zeros are what a file system may leave of it
        raise _NotOurs
    try:
        name, mark, fence = lines[0] if lines else []
        if name != _HEAD or len(data) > _LONGEST:
            raise ValueError
        found = _Found(int(mark), int(fence))
    except ValueError:
        return _Found(damage="it is damaged")
    sightings = []
    for fields in lines[1:]:
        try:
            sightings.append(_sighting(fields))
        except ValueError:
            found.damage = "a part of it is damaged"
    found.sightings = (*sightings, *_unfinished(rest))
    return found


def _unfinished(rest: str) -> list[Sighting]:
    """What stands behind the last line break: half a line was being written when we died, and nothing came of it.

    A whole line there lost only its end, or has another character for it, and was seen.
    """
    for text in (rest, rest[:-1]):
        with contextlib.suppress(ValueError):
            return [_sighting(_fields(text))]
    return []


def _fields(line: str) -> list[str]:
    """What a line says; nothing where its checksum is not that of the rest."""
    text, _, _ = line.rpartition(" ")
    return text.split(" ") if _checked(text) == line + "\n" else []


def _sighting(fields: list[str]) -> Sighting:
    seen, made, owner, nonce = fields
    return Sighting(int(seen), int(made), owner, bytes.fromhex(nonce))
