"""One connected time with the engine: from the first words, over the whole whitelist, to change after change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from knocker.core.moment import Moment
from knocker.store.loading import uncollected
from knocker.store.redis.engine import Away, Engine, Unfit
from knocker.store.redis.engineclock import MOST_APART
from knocker.store.redis.keys import Keys
from knocker.store.redis.link import BEAT, TOGETHER, Link
from knocker.store.redis.mirror import Mirror
from knocker.store.redis.record import Owner

MOST_BEHIND = 60_000  # milliseconds that the engine's clock may lie behind its highest time, as scripts/open.lua has it
OLDEST = (6, 2)  # the first version that knows SET with PXAT

log = Logger()


class Session:
    """Reads from one link into a mirror. Whatever goes wrong is Away, and then another session begins anew.

    `token` marks the changes of this gate; `window`: milliseconds in which a UDP packet could be taken twice.
    """

    def __init__(
        self,
        link: Link,
        engine: Engine,
        mirror: Mirror,
        now: Callable[[], Moment],
        room: Callable[[], Deferred[None] | None],
        token: bytes,
        window: int,
    ) -> None:
        self.link = link
        self.keys = Keys(engine.prefix)
        self.fence = 0  # milliseconds; UDP packets made before it may have been seen
        self.few = ""  # what is wrong with its replicas
        self._engine = engine
        self._mirror = mirror
        self._now = now
        self._room = room
        self._token = token
        self._window = window
        self._last = 0, b""  # the newest change that it told of
        self._reread = False

    async def resume(self) -> None:
        """Let the mirror be in step, by the changes that it missed where they are still known, else as a whole."""
        await self.check()
        same = await self.beat()
        if same == "lost":
            log.warn("the store lost changes that this gate had seen: what it has is read as a whole")
            await self.beat(lost=True)
        if same != "same":
            with uncollected():
                await self._read_all()
        await self._catch_up()

    async def read(self) -> None:
        """Follow the changes until something goes wrong."""
        while True:
            await self._apply(await self.link.changes(self.keys.changes, self._mirror.position))
            if self._reread:
                self._reread = False
                await self.beat()
                await self._read_all()

    def reread(self) -> None:
        """Read everything once more if something was not honoured, which new settings may allow."""
        self._reread = self._mirror.left_out

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
        if words not in self._mirror.told:
            self._mirror.told.add(words)
            log.warn("{words}", words=words)

    def _count_replicas(self, about: dict[str, str]) -> None:
        # Those that still take in what was there before count for nothing yet.
        there = sum("state=online" in told for name, told in about.items() if name.startswith("slave"))
        wanted = self._engine.min_replicas
        self.few = "" if there >= wanted else f"has {there} replicas, and whitelist.min_replicas wants {wanted}"

    async def beat(self, lost: bool = False) -> str:
        """Hear the time, and whether the mirror's last change is still the engine's: same, trimmed or lost."""
        asked, mirror = self._now().boot, self._mirror
        answer = await self.link.run(
            BEAT,
            [self.keys.state, self.keys.changes],
            *(mirror.position, mirror.token, self._token, self._window, int(lost)),
        )
        said, last, highest, same, epoch, fence, token = answer
        mirror.clock.heard(float(said), asked, self._now().boot)
        self._tell_of_clocks()
        if highest - said > MOST_BEHIND:
            raise Away(
                f"has a clock that is {(highest - said) // 1000} s behind the highest time that it ever had: nothing"
                f" is granted until it is right; if it was wrong before, remove all keys of {self.keys.start} there"
            )
        self.fence, self._last = int(fence), (int(last), token)
        if self._engine.min_replicas:
            self._count_replicas(_fields(await self.link.ask("INFO", "replication")))
        known, mirror.epoch = mirror.epoch, epoch
        return "lost" if known and known != epoch else str(same.decode())

    def _tell_of_clocks(self) -> None:
        ahead = self._mirror.clock.ours_ahead(self._now())
        apart = abs(ahead) > MOST_APART
        if apart and not self._mirror.apart:
            log.warn(
                "this gate's clock is {seconds} s {way} the store's; grants end by the store's, but set both right",
                seconds=round(abs(ahead), 1),
                way="ahead of" if ahead > 0 else "behind",
            )
        self._mirror.apart = apart

    # What it has.

    async def size(self) -> int:
        """How many grants it has."""
        return int(await self.link.ask("ZCARD", self.keys.all))

    async def _read_all(self) -> None:
        """Take in every grant as it was at one change; what happened since is told by the changes after it."""
        mirror, (position, token) = self._mirror, self._last
        mirror.left_out = False
        whitelist, first = mirror.whitelist, mirror.position == 0 and not len(mirror.whitelist)
        before = [grant for part in whitelist.parts(1000) for grant in part]
        later: set[bytes] = set()
        cursor = b"0"
        while True:
            cursor, found = await self.link.ask("ZSCAN", self.keys.all, cursor, "COUNT", TOGETHER)
            owners = found[::2]
            if owners:
                values = await self.link.ask("MGET", *(self.keys.grant(owner.decode("latin-1")) for owner in owners))
                mirror.begin()
                for owner, value in zip(owners, values, strict=True):
                    await self._turn()
                    if value is not None and not mirror.take(owner, value, position, quiet=first):
                        later.add(owner)
            if cursor == b"0":
                break
        for grant in before:
            await self._turn()
            owner = Owner.of(grant)
            if whitelist.held(owner.key, owner.network, owner.host) is grant and owner.text.encode() not in later:
                mirror.drop(owner, "it is no longer in the store")
        mirror.forget_ended()
        mirror.move(position, token)

    async def _catch_up(self) -> None:
        while self._mirror.position < self._last[0]:
            await self._apply(await self.link.past_changes(self.keys.changes, self._mirror.position))

    async def _apply(self, changes: list[tuple[int, dict[bytes, bytes]]]) -> None:
        self._mirror.begin()
        for number, fields in changes:
            await self._turn()
            if number != self._mirror.position + 1:
                raise Away("dropped changes before this gate had read them")
            self._mirror.apply(number, fields, self._token)

    async def _turn(self) -> None:
        waiting = self._room()
        if waiting is not None:
            await waiting


def _fields(info: bytes) -> dict[str, str]:
    """What INFO says."""
    lines: list[Any] = [line.partition(":") for line in info.decode("utf-8", "replace").splitlines() if ":" in line]
    return {name: value for name, _, value in lines}
