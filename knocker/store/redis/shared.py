"""The whitelist that several gates share: knocks and closes go to the engine, and count when its word comes back.

Every gate holds all grants in memory, so a verdict never waits for the network. What is promised stands in
docs/cluster.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TimeIsOver

from knocker.core.change import Change, Event
from knocker.core.grant import Choice, Grant, Wish
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.core.packets.native import NotOurs
from knocker.core.packets.seen import Sighting
from knocker.core.refusals import Refusal, Refused
from knocker.core.tally import Tally
from knocker.core.turns import Turns
from knocker.core.whitelist import Whitelist
from knocker.store.redis.contact import Contact
from knocker.store.redis.copies import Copies
from knocker.store.redis.engine import Away, Engine
from knocker.store.redis.engineclock import EngineClock
from knocker.store.redis.keys import Keys
from knocker.store.redis.link import CLOSE, OPEN, PATIENCE
from knocker.store.redis.mirror import Close, Mirror
from knocker.store.redis.record import Owner
from knocker.store.redis.session import Session

LONGEST = 100_000  # changes that the engine keeps, for gates that were away
DEADLINE = 1.5  # seconds after which the engine must not do what was asked of it: we gave up then, or nearly
SLACK = 600_000  # milliseconds that two gates' clocks may differ before a packet could be taken twice
_AT_ONCE = 200  # closes in one script
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
        self._turns = turns
        self._tally = tally
        self._token = token
        self._marks = count(1)
        self._window = window
        self._mirror = Mirror(whitelist, EngineClock(), now, forbidden)
        self._contact = Contact(
            engine,
            self._mirror,
            reactor,
            lambda link: Session(link, engine, self._mirror, now, self._room, token, window),
            met=lambda _: self._send_closes(),
            heard=lambda session: fenced(session.fence),
        )
        self._sending = False
        self._copies = Copies(engine.min_replicas)
        whitelist.followers.append(self._follow)

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
        if session is not None and session.few:
            found.append(f"the store {self.engine.where} {session.few}")
        owed = len(self._mirror.closing)
        if owed and failure:
            found.append(f"{owed} closed grants are closed at this gate alone until the store is back")
        return found

    def revised(self) -> None:
        """The settings changed: grants that were not honoured may be now."""
        if self._contact.session is not None:
            self._contact.session.reread()

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
        self._send_closes()
        now = self._now()
        key, fresh = self.whitelist.fresh(wish, now)
        owner = Owner.of(fresh)
        left = min(fresh.expires_at - now.wall, fresh.boot_ends_at - now.boot)
        keys, text = self._keys, owner.text
        try:
            answer = await session.link.run(
                OPEN,
                [keys.state, keys.changes, keys.all, keys.crowd(owner.crowd), keys.grant(text)],
                *(keys.start, text, fresh.id, int(1000 * left), int(wish.ttl_named)),
                *(fresh.via.value, fresh.mark or "-", self.whitelist.max_entries),
                -1 if key.max_addresses is None else key.max_addresses,
                *(math.ceil(self._mirror.clock.now(now.boot) + 1000 * DEADLINE), self._mark(), LONGEST),
            )
            await self._within(self._mirror.reached(self._number(answer)))
            await self._confirmed(session, owner, fresh)
        except Away as error:
            self._tally.write(self._now().boot - now.boot, stored=False)
            raise Refused(Refusal.NOT_STORED, f"the store {self.engine.where} {error}") from None
        self._tally.write(self._now().boot - now.boot, stored=True)
        grant = self.whitelist.held(owner.key, owner.network, owner.host)
        if grant is None or not grant.lives(self._now()):
            raise Refused(Refusal.NOT_STORED, "it was closed while it was stored")
        return grant

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

    async def _confirmed(self, session: Session, owner: Owner, fresh: Grant) -> None:
        """Wait until enough copies have it; a grant that too few have is closed again, if it is new."""
        try:
            await self._copies.made(session)
        except Away:
            held = self.whitelist.held(owner.key, owner.network, owner.host)
            if held is not None and held.id == fresh.id:
                self.whitelist.close([held], "too few replicas of the store have it")
            raise

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
        """Tell the engine of all closes, and hear of all that it did before."""
        session = self._contact.session
        if session is None:
            return
        self._send_closes()
        answer = await session.link.run(CLOSE, self._close_keys, self._keys.start, self._mark(), LONGEST)
        await self._within(self._mirror.reached(int(answer[1])))
        await self._copies.made(session)

    @property
    def _close_keys(self) -> list[str]:
        return [self._keys.state, self._keys.changes, self._keys.all]

    def _follow(self, change: Change) -> None:
        """A grant that ends here for a reason of ours ends everywhere."""
        if self._mirror.at_work:
            return
        if change.event is Event.EXPIRED:
            self._mirror.ended(change.grant)
        elif change.event is Event.CLOSED:
            owner = Owner.of(change.grant)
            at = math.ceil(self._mirror.clock.now(self._now().boot))
            self._mirror.closing[owner] = Close(owner.crowd, at, change.why)
            if not self._sending:
                self._sending = True
                self._reactor.callLater(0, self._send_closes)

    def _send_closes(self) -> None:
        self._sending = False
        session, unsent = self._contact.session, [pair for pair in self._mirror.closing.items() if not pair[1].sent]
        if session is None:
            return
        for start in range(0, len(unsent), _AT_ONCE):
            batch = unsent[start : start + _AT_ONCE]
            for _, close in batch:
                close.sent = True
            Deferred.fromCoroutine(self._send(session, batch))

    async def _send(self, session: Session, batch: list[tuple[Owner, Close]]) -> None:
        told = [part for owner, close in batch for part in (owner.text, close.crowd, close.at, close.why)]
        try:
            answer = await session.link.run(CLOSE, self._close_keys, self._keys.start, self._mark(), LONGEST, *told)
        except Away:
            for _, close in batch:
                close.sent = False
            return
        self._mirror.closed(batch, int(answer[1]), dict(zip(answer[2::2], answer[3::2], strict=True)))

    # UDP packets.

    async def _claim(self, sighting: Sighting) -> None:
        session = self._there(Refusal.NOT_STORED)
        name = self._keys.seen(sighting.owner, sighting.nonce)
        try:
            first = await session.link.ask("SET", name, "1", "NX", "PX", 2 * self._window + SLACK)
        except Away as error:
            raise Refused(Refusal.NOT_STORED, f"the store {self.engine.where} {error}") from None
        if first is None:
            raise NotOurs("replay")

    def _mark(self) -> bytes:
        """A name for what we ask for next that nothing else ever has, so that no change is taken for another."""
        return b"%b-%d" % (self._token, next(self._marks))

    def _room(self) -> Deferred[None] | None:
        """Something to wait for when this turn's share of work is used up."""
        if self._turns.has_room():
            return None
        turn: Deferred[None] = Deferred()
        self._turns.wait(lambda: turn.callback(None), first=True)
        return turn
