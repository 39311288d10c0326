"""One connected time with the engine: from the first words, over the whole whitelist, to change after change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from twisted.logger import Logger

from knocker.core.grant import Grant
from knocker.core.moment import Moment
from knocker.store.loading import uncollected
from knocker.store.redis.engine import Away, Engine, Unfit, refusal
from knocker.store.redis.engineclock import MOST_APART
from knocker.store.redis.keys import Keys
from knocker.store.redis.link import BEAT, TOGETHER, Link
from knocker.store.redis.mirror import Mirror
from knocker.store.redis.record import Owner

MOST_BEHIND = 60_000  # milliseconds that the engine's clock may lie behind its highest time, as scripts/open.lua has it
OLDEST = (6, 2)  # the first version that knows SET with PXAT

Row = tuple[bytes, bytes]

log = Logger()


class Session:
    """Reads from one link into a mirror. Whatever goes wrong is Away, and then another session begins anew.

    `room` waits while others have their turn; `token` marks the changes of this gate; `window`: milliseconds in which a
    UDP packet could be taken twice.
    """

    def __init__(
        self,
        link: Link,
        engine: Engine,
        mirror: Mirror,
        now: Callable[[], Moment],
        room: Callable[[], Awaitable[None]],
        token: bytes,
        window: int,
    ) -> None:
        self.link = link
        self.keys = Keys(engine.prefix)
        self.fence = 0  # milliseconds; UDP packets made before it may have been seen
        self.few = ""  # what is wrong with its replicas
        self.trouble = ""  # why nothing can be written
        self._engine = engine
        self.mirror = mirror
        self._now = now
        self._room = room
        self._token = token
        self._window = window
        self._last = 0, b""  # the newest change that it told of
        self._epoch = b""
        self._seen_at = -1  # where the mirror was at the last beat, if it was behind then

    async def resume(self) -> None:
        """Let the mirror be in step, by the changes that it missed where they are still known, else as a whole."""
        await self.check()
        same = await self.beat()
        if same == "lost":
            log.warn("the store lost changes that this gate had seen: what it has is read as a whole")
            self.mirror.closes.redo()
            await self.beat(lost=True)
        if same != "same" or self.mirror.may_have_more:
            with uncollected():
                await self._read_all()
        await self._catch_up()
        self.mirror.complete, self.mirror.epoch = True, self._epoch

    async def read(self) -> None:
        """Follow the changes until something goes wrong."""
        while True:
            await self._apply(await self.link.changes(self.keys.changes, self.mirror.position))
            if self.mirror.may_have_more:
                await self._read_more()

    # What the engine is like.

    async def check(self) -> None:
        """See whether the engine will do; raises Away, or Unfit where its settings have to be others."""
        about = _fields(await self.link.ask("INFO"))
        version = about.get("redis_version", "0")
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
            raise Unfit(f"is of version {version}: Redis 6.2 is the oldest that will do")
        if about.get("role") == "slave":
            raise Away("is a read-only replica: name the primary in whitelist.store")
        policy = about.get("maxmemory_policy", "noeviction")
        evicts = "" if policy == "noeviction" else f"its maxmemory-policy is {policy}: set it to noeviction"
        if evicts and about.get("maxmemory", "0") != "0":
            raise Unfit(f"would drop grants when its memory is full, for {evicts}")
        if evicts:
            self._warn(f"the store would drop grants once it has a maxmemory, for {evicts}")
        if about.get("aof_enabled") == "0":
            self._warn("the store keeps nothing when it restarts, but what it last saved: set its appendonly to yes")
        self._count_replicas(about)

    def _warn(self, words: str) -> None:
        if words not in self.mirror.told:
            self.mirror.told.add(words)
            log.warn("{words}", words=words)

    def _count_replicas(self, about: dict[str, str]) -> None:
        # Those that still take in what was there before count for nothing yet.
        there = sum("state=online" in told for name, told in about.items() if name.startswith("slave"))
        wanted = self._engine.min_replicas
        self.few = "" if there >= wanted else f"has {there} replicas, and whitelist.min_replicas wants {wanted}"

    async def beat(self, lost: bool = False) -> str:
        """Hear the time, and whether the mirror's last change is still the engine's: same, trimmed or lost."""
        asked, mirror = self._now().boot, self.mirror
        answer = await self.link.run(
            BEAT,
            [self.keys.state, self.keys.changes],
            *(mirror.position, mirror.token, self._token, self._window, int(lost)),
        )
        said, last, highest, same, epoch, fence, token, trouble = answer
        mirror.clock.heard(float(highest), asked, self._now().boot)
        self._tell_of_clocks()
        self.trouble = str(refusal(trouble.decode("latin-1"))) if trouble else ""
        if highest - said > MOST_BEHIND:
            raise Away(
                f"has a clock that is {(highest - said) // 1000} s behind the highest time that it ever had: nothing"
                f" is granted until it is right; if it was wrong before, remove all keys of {self.keys.start} there"
            )
        self.fence, self._last = int(fence), (int(last), token)
        if self._engine.min_replicas:
            self._count_replicas(_fields(await self.link.ask("INFO", "replication")))
        self._epoch = epoch
        return "lost" if mirror.epoch not in (b"", epoch) else str(same.decode())

    def listen(self) -> None:
        """See, after each beat, whether changes come: a connection may be dead for long before anybody knows.

        Raises Away where the mirror stays where it was though there is more.
        """
        position = self.mirror.position
        if position < self._last[0] and position == self._seen_at:
            raise Away("has changes that do not arrive")
        self._seen_at = position if position < self._last[0] else -1

    def _tell_of_clocks(self) -> None:
        ahead = self.mirror.clock.ours_ahead(self._now())
        apart = abs(ahead) > MOST_APART
        if apart and not self.mirror.apart:
            log.warn(
                "this gate's clock is {seconds} s {way} the store's; grants end by the store's, but set both right",
                seconds=round(abs(ahead), 1),
                way="ahead of" if ahead > 0 else "behind",
            )
        self.mirror.apart = apart

    # What it has.

    async def _read_all(self) -> None:
        """Take in every grant as it was at one change; what happened since is told by the changes after it."""
        mirror, (position, token) = self.mirror, self._last
        before: list[Grant] = []
        for part in mirror.whitelist.parts(TOGETHER):
            before += part
            await self._room()
        mirror.left_out, mirror.outdated = 0, True  # until it is read to the end
        later: set[bytes] = set()
        async for owner, value in self._records():
            await self._room()
            if not mirror.take(owner, value, position, quiet=not mirror.complete):
                later.add(owner)
        for grant in before:
            await self._room()
            known = Owner.of(grant)
            is_old = mirror.whitelist.held(known.key, known.network, known.host) is grant
            if is_old and known.text.encode() not in later:
                mirror.drop(known, "it is no longer in the store")
        mirror.outdated = False
        mirror.whitelist.reorder()
        mirror.move(position, token)

    async def _read_more(self) -> None:
        """Take in what new settings may allow, while changes go on to be followed: nothing else can be missing."""
        mirror = self.mirror
        mirror.left_out, mirror.outdated = 0, False
        try:
            async for owner, value in self._records(self._follow):
                await self._room()
                mirror.take(owner, value, mirror.position, quiet=False)
        except BaseException:
            mirror.left_out, mirror.outdated = 1, True
            raise
        mirror.whitelist.reorder()

    async def _follow(self) -> None:
        """Let all changes count that there are by now."""
        while True:
            changes = await self.link.past_changes(self.keys.changes, self.mirror.position)
            await self._apply(changes)
            if len(changes) < TOGETHER:
                return

    async def _records(self, meanwhile: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[Row]:
        """All owners and their records, some of them twice, as they are by and by; `meanwhile` is done in between."""
        cursor = b"0"
        while True:
            if meanwhile is not None:
                await meanwhile()
            cursor, found = await self.link.ask("ZSCAN", self.keys.all, cursor, "COUNT", TOGETHER)
            owners = found[::2]
            if owners:
                values = await self.link.ask("MGET", *(self.keys.grant(owner.decode("latin-1")) for owner in owners))
                self.mirror.begin()
                for owner, value in zip(owners, values, strict=True):
                    if value is not None:
                        yield owner, value
            if cursor == b"0":
                return

    async def _catch_up(self) -> None:
        while self.mirror.position < self._last[0]:
            changes = await self.link.past_changes(self.keys.changes, self.mirror.position)
            if not changes:
                raise Away("dropped changes before this gate had read them")
            await self._apply(changes)

    async def _apply(self, changes: list[tuple[int, dict[bytes, bytes]]]) -> None:
        self.mirror.begin()
        for number, fields in changes:
            await self._room()
            if number != self.mirror.position + 1:
                self.mirror.token = b""  # no change has that name, so the next session reads everything
                raise Away("dropped changes before this gate had read them")
            self.mirror.apply(number, fields, self._token)


def _fields(info: bytes) -> dict[str, str]:
    """What INFO says."""
    lines: list[Any] = [line.partition(":") for line in info.decode("utf-8", "replace").splitlines() if ":" in line]
    return {name: value for name, _, value in lines}
