"""The whitelist that several gates share: knocks and closes go to the engine, and count when its word comes back.

Every gate holds all grants in memory, so a verdict never waits for the network. What is promised stands in
docs/cluster.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TimeIsOver

from knocker.core.change import Change, Event
from knocker.core.grant import Choice, Grant, Wish
from knocker.core.keys import Key
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.core.packets.native import NotOurs
from knocker.core.packets.seen import Sighting
from knocker.core.refusals import Refusal, Refused
from knocker.core.tally import Tally
from knocker.core.turns import Turns
from knocker.core.whitelist import Whitelist
from knocker.store.redis.closes import Close
from knocker.store.redis.contact import Contact
from knocker.store.redis.copies import Copies
from knocker.store.redis.delivery import LONGEST, Delivery
from knocker.store.redis.engine import Away, Engine, Unanswered
from knocker.store.redis.engineclock import EngineClock
from knocker.store.redis.keys import Keys
from knocker.store.redis.link import CLAIM, OPEN, PATIENCE
from knocker.store.redis.mirror import Mirror
from knocker.store.redis.record import Owner
from knocker.store.redis.session import Session
from knocker.store.turn import room

DEADLINE = 1.5  # seconds after which the engine must not do what was asked of it: we gave up then, or nearly
SLACK = 600_000  # milliseconds that two gates' clocks may differ before a packet could be taken twice
_MOST_ROUNDS = 20


class SharedStore:
    """A whitelist and its engine. `token`: 16 random characters, this gate's name for as long as it runs.

    `window`: milliseconds that a UDP packet's time may differ from ours; `fenced` is told which packets, by their
    time, may have been seen before the engine knew of them.
    """

    def __init__(
        self,
        engine: Engine,
        whitelist: Whitelist,
        now: Callable[[], Moment],
        reactor: Any,
        turns: Turns,
        tally: Tally,
        token: bytes,
        window: int,
        forbidden: Callable[[], Forbidden],
        fenced: Callable[[int], None],
    ) -> None:
        self.engine = engine
        self.whitelist = whitelist
        self._keys = Keys(engine.prefix)
        self._now = now
        self._reactor = reactor
        self._tally = tally
        self._token = token
        self._marks = count(1)
        self._window = window
        self._mirror = Mirror(whitelist, EngineClock(), now, forbidden)
        self._contact = Contact(
            engine,
            self._mirror,
            reactor,
            lambda link: Session(link, engine, self._mirror, now, partial(room, turns), token, window),
            heard=lambda session: self._heard(session, fenced),
        )
        self._delivery = Delivery(self._mirror, self._keys, now, reactor, lambda: self._contact.session, self._mark)
        self._copies = Copies(engine.min_replicas)
        whitelist.followers.append(self._follow)

    def _heard(self, session: Session, fenced: Callable[[int], None]) -> None:
        fenced(session.fence)
        self._mirror.forget_ended()
        self._delivery.soon()

    @property
    def loaded(self) -> Deferred[None]:
        """Fires when the whitelist was in step for the first time; fails with Unusable where it never will be."""
        return self._contact.loaded

    @property
    def reading(self) -> bool:
        """Whether the engine was reached, and what it has is on its way."""
        return self._contact.reading

    def start(self) -> None:
        """Reach the engine, and go on trying."""
        self._contact.start()

    def stop(self) -> None:
        """Leave the engine."""
        self._contact.stop()

    # What the house asks of it.

    def put(self, wish: Wish) -> Deferred[Grant]:
        """Store what a knock leaves, then let it count; fails with Refused."""
        return Deferred.fromCoroutine(self._put(wish))

    def remove(self, choice: Choice, why: str = "") -> Deferred[None]:
        """Close an owner's grants, here at once, then everywhere; fails with Refused where the engine was not told.

        Such a close counts here all the same, and the engine is told when it is back.
        """
        return Deferred.fromCoroutine(self._remove(choice, why))

    def claim(self, sighting: Sighting) -> Deferred[None]:
        """Take a UDP packet for this gate alone; fails with NotOurs where another gate took it, or with Refused."""
        return Deferred.fromCoroutine(self._claim(sighting))

    def complaints(self) -> list[str]:
        """What keeps this store from being ready, in words for the admin."""
        session, failure = self._contact.session, self._contact.failure
        found = [failure] if failure else []
        if session is not None:
            found += [f"the store {self.engine.where} {words}" for words in (session.few, session.trouble) if words]
        owed = len(self._mirror.closes.owed)
        if owed and (failure or self._delivery.trouble):
            found.append(f"{owed} closed grants are closed at this gate alone until the store takes that")
        return found

    def revised(self) -> None:
        """The settings changed: grants that were not honoured may be now."""
        self._mirror.outdated = True

    def refresh(self) -> None:
        """Nothing here grows old."""

    def flush(self) -> None:
        """Nothing is held back."""

    def idle(self) -> Deferred[None]:
        """Fires when the engine was told of all closes, or cannot be."""
        return Deferred.fromCoroutine(self._settled())

    async def _settled(self) -> None:
        with suppress(Away):
            await self._settle()

    # Knocks.

    async def _put(self, wish: Wish) -> Grant:
        session = self._there(Refusal.NOT_STORED)
        if session.few:
            raise Refused(Refusal.NOT_STORED, f"the store {self.engine.where} {session.few}")
        now = self._now()
        key, fresh = self.whitelist.fresh(wish, now)
        owner = Owner.of(fresh)
        try:
            await self._delivery.all(session)  # a close that was asked for before this knock comes before it
            number = self._number(await self._open(session, owner, fresh, key, wish))
            try:
                await self._within(self._mirror.reached(number))
                await self._copies.made(session)
            except Away:
                self._take_back(owner, fresh)
                raise
        except Away as error:
            self._tally.write(self._now().boot - now.boot, stored=False)
            raise Refused(Refusal.NOT_STORED, f"the store {self.engine.where} {error}") from None
        self._tally.write(self._now().boot - now.boot, stored=True)
        grant = self.whitelist.held(owner.key, owner.network, owner.host)
        if grant is None or not grant.lives(self._now()):
            raise Refused(Refusal.NOT_STORED, "it was closed while it was stored, or this gate does not allow it")
        return grant

    async def _open(self, session: Session, owner: Owner, fresh: Grant, key: Key, wish: Wish) -> list[Any]:
        keys, text, now = self._keys, owner.text, self._now()
        left = min(fresh.expires_at - now.wall, fresh.boot_ends_at - now.boot)
        marks = [mark for mark in (key.mark, key.udp_mark) if mark and mark != fresh.mark]
        try:
            answer: list[Any] = await session.link.run(
                OPEN,
                [keys.state, keys.changes, keys.all, keys.crowd(owner.crowd), keys.grant(text)],
                *(keys.start, text, fresh.id, int(1000 * left), int(wish.ttl_named)),
                *(fresh.via.value, fresh.mark or "-", marks[0] if marks else "-", int(key.admin)),
                *(self.whitelist.max_entries, -1 if key.max_addresses is None else key.max_addresses),
                *(math.ceil(self._mirror.clock.now(now.boot) + 1000 * DEADLINE), self._mark(), LONGEST),
            )
        except Unanswered:
            self._take_back(owner, fresh)
            raise
        return answer

    def _take_back(self, owner: Owner, fresh: Grant) -> None:
        """What is answered with 503 must not count, whatever became of it; a renewal stays what it was, or longer."""
        why = "its knock was not answered in time"
        held = self.whitelist.held(owner.key, owner.network, owner.host)
        if held is not None and held.id == fresh.id:
            self.whitelist.close([held], why)
        else:
            self._mirror.closes.add(owner, Close(owner.crowd, self._now().boot, why, only=fresh.id))
        self._delivery.soon()

    def _there(self, refusal: Refusal) -> Session:
        if self._contact.session is None:
            raise Refused(refusal, self._contact.failure)
        return self._contact.session

    def _number(self, answer: list[Any]) -> int:
        """The number of the change that a knock led to; raises Refused or Away where it led to none."""
        if answer[0] == b"full":
            most = self.whitelist.max_entries
            raise Refused(Refusal.FULL, f"all {most} entries of whitelist.max_entries are in use, over all gates")
        if answer[0] == b"late":
            raise Away("was asked too long ago: it, or the way to it, stood still")
        if answer[0] == b"behind":
            raise Away(f"has a clock that is {int(answer[1]) // 1000} s behind the highest time that it ever had")
        return int(answer[1])

    async def _within(self, waited: Deferred[None]) -> None:
        try:
            await waited.addTimeout(PATIENCE, self._reactor)
        except (TimeIsOver, CancelledError):
            raise Away("has it, but does not tell this gate so in time") from None

    # Closing.

    async def _remove(self, choice: Choice, why: str) -> None:
        for _ in range(_MOST_ROUNDS):
            self.whitelist.close(self.whitelist.chosen(choice), why)
            self._there(Refusal.CLOSED_NOT_STORED)
            try:
                await self._settle()
            except Away as error:
                why = f"the store {self.engine.where} {error}"
                raise Refused(Refusal.CLOSED_NOT_STORED, why) from None
            # What other gates, or knocks on their way, had opened before is known by now.
            if not self.whitelist.chosen(choice):
                return
        raise Refused(Refusal.CLOSED_NOT_STORED, "it is opened again as often as it is closed")

    async def _settle(self) -> None:
        """Tell the engine of all closes, and hear of all that it did before; raises Away."""
        session = self._contact.session
        if session is None:
            return
        await self._delivery.all(session)
        await self._within(self._mirror.reached(await self._delivery.some(session, [])))
        await self._copies.made(session)

    def _follow(self, change: Change) -> None:
        """A grant that ends here for a reason of ours ends everywhere."""
        if self._mirror.at_work:
            return
        if change.event is Event.EXPIRED:
            self._mirror.ended(change.grant)
        elif change.event is Event.CLOSED:
            owner = Owner.of(change.grant)
            self._mirror.closes.add(owner, Close(owner.crowd, self._now().boot, change.why))
            self._delivery.soon()

    # UDP packets.

    async def _claim(self, sighting: Sighting) -> None:
        session, mirror = self._there(Refusal.NOT_STORED), self._mirror
        name = self._keys.seen(sighting.owner, sighting.nonce)
        told = (mirror.epoch, mirror.position, sighting.made, 2 * self._window + SLACK)
        try:
            answer = await session.link.run(CLAIM, [self._keys.state, name], *told)
        except Away as error:
            raise Refused(Refusal.NOT_STORED, f"the store {self.engine.where} {error}") from None
        if answer != b"first":
            # Also where the engine forgot what was seen: this packet may have been among it.
            raise NotOurs("replay" if answer == b"again" else "fenced")

    def _mark(self) -> bytes:
        """A name for what we ask for next that nothing else ever has, so that no change is taken for another."""
        return b"%b-%d" % (self._token, next(self._marks))
