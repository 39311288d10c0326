"""Grants on their way into an engine or out of it, as they are: none is lost, and none becomes longer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from knocker.core.grant import Grant
from knocker.core.keys import Keyring
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.core.whitelist import Whitelist
from knocker.store.redis.delivery import LONGEST
from knocker.store.redis.engine import Away, Engine
from knocker.store.redis.engineclock import EngineClock
from knocker.store.redis.link import COPY, Link
from knocker.store.redis.mirror import Mirror
from knocker.store.redis.record import Owner
from knocker.store.redis.session import Session

_TOGETHER = 200  # grants that are on their way at a time

Now = Callable[[], Moment]


@dataclass
class Copied:
    """What became of the grants: copied, there already and lasting as long, or over on the way."""

    copied: int = 0
    kept: int = 0
    over: int = 0


async def into(
    engine: Engine, reactor: Any, now: Now, grants: Sequence[Grant], most: int, token: bytes, window: int
) -> Copied:
    """Take these in, up to `most` in the engine; raises Away. `window`: as of Session, for an engine that is new."""
    link = await Link.open(engine, reactor)
    try:
        session = _session(link, engine, now, Whitelist(Keyring(), most, str), Forbidden, token, window)
        await session.check()
        await session.beat()
        done = Copied()
        for start in range(0, len(grants), _TOGETHER):
            batch = [
                Deferred.fromCoroutine(_take(session, grant, now(), most, token))
                for grant in grants[start : start + _TOGETHER]
            ]
            for answer in await gatherResults(batch, consumeErrors=True):
                if answer == b"behind":
                    raise Away("has a clock that is behind the highest time that it ever had")
                if answer == b"full":
                    raise Away(f"has {most} grants, as many as whitelist.max_entries allows")
                done.copied += answer == b"ok"
                done.kept += answer == b"kept"
                done.over += answer == b"over"
        return done
    finally:
        link.close()


async def _take(session: Session, grant: Grant, now: Moment, most: int, token: bytes) -> bytes:
    owner, keys = Owner.of(grant), session.keys
    # By the earliest that the engine's clock may be, so that nothing becomes longer.
    ends = int(
        session.mirror.clock.at_least(now.boot) + 1000 * min(grant.expires_at - now.wall, grant.boot_ends_at - now.boot)
    )
    ages = [max(0, round(1000 * (now.wall - then))) for then in (grant.created_at, grant.last_knock_at)]
    answer = await session.link.run(
        COPY,
        [keys.state, keys.changes, keys.all, keys.crowd(owner.crowd), keys.grant(owner.text)],
        *(owner.text, grant.id, *ages, ends, grant.via.value, grant.mark or "-", most, token, LONGEST),
    )
    return bytes(answer[0])


async def out_of(
    engine: Engine, reactor: Any, now: Now, whitelist: Whitelist, forbidden: Callable[[], Forbidden], token: bytes
) -> int:
    """Let the whitelist have all that it may; returns how many grants it may not. Raises Away."""
    link = await Link.open(engine, reactor)
    try:
        session = _session(link, engine, now, whitelist, forbidden, token, 0)
        await session.resume()
        return session.mirror.left_out
    finally:
        link.close()


def _session(
    link: Link,
    engine: Engine,
    now: Now,
    whitelist: Whitelist,
    forbidden: Callable[[], Forbidden],
    token: bytes,
    window: int,
) -> Session:
    mirror = Mirror(whitelist, EngineClock(), now, forbidden)
    return Session(link, engine, mirror, now, _at_once, token, window)


async def _at_once() -> None:
    """Nobody else has to be served."""
