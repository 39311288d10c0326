"""The whitelist on disk: one writer, several knocks in one write, memory only after the disk (contract 3.6).

Every write holds the whole whitelist. While one is under way in the writer's thread, knocks wait for the next.
The grants' texts are kept in pages, so that a write costs the reactor no more than a copy of few references.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from knocker.core.change import Change, Event
from knocker.core.grant import Choice, Grant, Wish
from knocker.core.keys import Keyring
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.core.refusals import Refusal, Refused
from knocker.core.tally import Tally
from knocker.core.turns import Turns
from knocker.core.whitelist import Crowded, Plan, Whitelist
from knocker.store import atomic
from knocker.store.document import document, grant_text
from knocker.store.loading import stored
from knocker.store.pages import Pages
from knocker.store.plainfile import why_not
from knocker.store.turn import room

OLDEST = 300.0  # seconds after which a file with live grants is written anew
LONGEST_RETRY = 30.0  # seconds between attempts to write what memory already knows

InThread = Callable[[Callable[[], None]], Deferred[None]]
CallLater = Callable[[float, Callable[[], None]], IDelayedCall]


class JsonFile:
    """A whitelist and its file. `in_thread` runs a function off the reactor, one at a time."""

    log = Logger()

    def __init__(
        self,
        path: str,
        whitelist: Whitelist,
        now: Callable[[], Moment],
        boot_id: str,
        in_thread: InThread,
        call_later: CallLater,
        turns: Turns,
        tally: Tally,
    ) -> None:
        self.path = path
        self.whitelist = whitelist
        self.damage = ""
        self.failure = ""
        self._now = now
        self._boot_id = boot_id
        self._in_thread = in_thread
        self._call_later = call_later
        self._turns = turns
        self._tally = tally
        self._pages = Pages()
        self._opening: list[tuple[Wish, Deferred[Grant]]] = []
        self._closing: list[Deferred[None]] = []
        self._leaving: set[str] = set()  # ids that the last write no longer holds
        self._dirty = False
        self._writing = False
        self._written_at = now().boot
        self._retry: IDelayedCall | None = None
        self._retry_after = 1.0
        self._idle: list[Deferred[None]] = []
        whitelist.followers.append(self._follow)

    # Loading, before anybody asks.

    def load(self, keyring: Keyring, forbidden: Forbidden, new_id: Callable[[], str]) -> None:
        """Take in what an earlier process stored; raises Unusable where the path is no file to work with.

        It is written anew at once, so that the file tells the time of this boot before anybody is let in by it.
        """
        now = self._now()
        found = stored(self.path, now, self._boot_id, keyring, forbidden, new_id)
        self.damage = found.damage
        self.whitelist.restore(found.grants)
        self._pages = found.pages
        self.whitelist.trim(now)
        if not found.outdated:
            return
        try:
            atomic.replace(self.path, document(self._pages.copy(), now, self._boot_id))
            self._dirty = False
        except OSError as error:
            self._dirty = True
            self._fail(error)

    def start(self) -> None:
        """Write what loading could not."""
        self._wake()

    def revised(self) -> None:
        """The settings changed; write what they made of it."""
        self._wake()

    # Opening and closing.

    def put(self, wish: Wish) -> Deferred[Grant]:
        """Store what a knock leaves, then let it count; fails with Refused where nothing was granted."""
        waiter: Deferred[Grant] = Deferred()
        self._opening.append((wish, waiter))
        self._wake()
        return waiter

    def remove(self, choice: Choice, why: str = "") -> Deferred[None]:
        """Close an owner's grants: at once in memory, then on disk; fails with Refused where the disk did not take it.

        A close that could not be stored counts all the same and is written again until it is. Knocks of the same
        owner that still wait for their write are refused: they came before.
        """
        waiter: Deferred[None] = Deferred()
        waiting, self._opening = self._opening, []
        for wish, knock in waiting:
            if choice.holds(wish.key.name, wish.via, wish.network, wish.host):
                knock.errback(Refused(Refusal.NOT_STORED, why))
            else:
                self._opening.append((wish, knock))
        if not self.whitelist.close(self.whitelist.chosen(choice), why) and not self._dirty and not self._writing:
            waiter.callback(None)
            return waiter
        self._closing.append(waiter)
        self._dirty = True
        self._wake()
        return waiter

    def complaints(self) -> list[str]:
        """What keeps this store from being ready, in words for the admin."""
        return [complaint for complaint in (self.failure, self.damage) if complaint]

    def refresh(self) -> None:
        """Write anew what was written long ago, so that after a reboot the file's clocks say how late it was."""
        if len(self.whitelist) and self._now().boot - self._written_at >= OLDEST:
            self.flush()

    def flush(self) -> None:
        """Write what is true now, with the time of now."""
        self._dirty = True
        self._wake()

    def idle(self) -> Deferred[None]:
        """Fires when nothing waits to be written any more, or a last attempt failed."""
        waiter: Deferred[None] = Deferred()
        self._idle.append(waiter)
        self._wake()
        return waiter

    def stop(self) -> None:
        """Plan no further attempts."""
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._retry = None

    def _follow(self, change: Change) -> None:
        if change.event in (Event.CLOSED, Event.EXPIRED):
            self._pages.drop(change.grant.id)
            if change.grant.id in self._leaving:
                return
        elif change.event is Event.ALTERED:
            self._pages.put(change.grant.id, grant_text(change.grant))
        else:
            return
        self._dirty = True
        if change.event is not Event.CLOSED:
            self._wake()

    # The writer.

    def _wake(self) -> None:
        if not self._writing:
            self._writing = True
            # On the next turn, so that whatever happens in this one shares the write.
            self._call_later(0, self._work)

    def _work(self) -> None:
        Deferred.fromCoroutine(self._write_all()).addErrback(
            lambda failure: self.log.failure("the writer of {path} failed", failure, path=self.path)
        )

    async def _write_all(self) -> None:
        failed = False
        try:
            while self._opening or self._closing or (self._dirty and not failed):
                failed = not await self._write_once()
        finally:
            self._writing = False
            if failed:
                self._retry_later()
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)

    async def _write_once(self) -> bool:
        closing, self._closing = self._closing, []
        changed, self._dirty = self._dirty, False
        planned: list[tuple[Plan, Deferred[Grant]]] = []
        try:
            await self._plan(planned)
            return True if not planned and not closing and not changed else await self._store(planned, closing)
        except Exception:
            self._dirty = True
            self._answer_failure(planned, closing)
            raise

    async def _store(self, planned: list[tuple[Plan, Deferred[Grant]]], closing: list[Deferred[None]]) -> bool:
        texts: dict[str, bytes] = {}
        for plan, _ in planned:
            await room(self._turns)
            texts[plan.grant.id] = grant_text(plan.grant)
        # What was closed since it was planned is not written, nor is what it would have displaced left out.
        held = {plan.grant.id: plan for plan, _ in planned if self.whitelist.intends(plan)}
        leaving = {displaced.id for plan in held.values() for displaced in plan.displaces}
        pages = self._pages.copy()
        for name in leaving:
            pages.drop(name)
        for name in held:
            pages.put(name, texts[name])
        now = self._now()
        chunks = document(pages, now, self._boot_id)
        try:
            await self._in_thread(lambda: atomic.replace(self.path, chunks))
            self._tally.write(self._now().boot - now.boot, stored=True)
        except Exception as error:  # noqa: BLE001 - whatever it was, nothing is known to be stored
            self._tally.write(self._now().boot - now.boot, stored=False)
            self._dirty = True
            self._fail(error)
            self._answer_failure(planned, closing)
            return False
        self._written_at = now.boot
        self._recovered()
        self._leaving = leaving
        try:
            await self._settle(planned, texts)
        finally:
            self._leaving = set()
        for closed in closing:
            closed.callback(None)
        return True

    async def _plan(self, planned: list[tuple[Plan, Deferred[Grant]]]) -> None:
        """Decide what the knocks that wait would leave."""
        for _ in range(len(self._opening)):
            await room(self._turns)
            if not self._opening:
                break
            wish, waiter = self._opening.pop(0)
            try:
                planned.append((self.whitelist.plan(wish, self._now()), waiter))
            except Crowded:
                if planned:
                    self._opening.append((wish, waiter))
                else:  # nothing of this write is in its way, so it would wait for ever
                    waiter.errback(Refused(Refusal.NOT_STORED, "another knock is in its way"))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this knock's alone
                waiter.errback(error)

    async def _settle(self, planned: list[tuple[Plan, Deferred[Grant]]], texts: dict[str, bytes]) -> None:
        """Let what was written count, and answer its knocks."""
        plans = {plan.grant.id: plan for plan, _ in planned}  # of several knocks of one owner the last holds them all
        waiting: dict[str, list[Deferred[Grant]]] = {}
        for plan, waiter in planned:
            waiting.setdefault(plan.grant.id, []).append(waiter)
        for name, plan in plans.items():
            await room(self._turns)
            grant = self.whitelist.settle(plan, self._now())
            if grant is not None:
                same = grant is plan.grant
                self._pages.put(name, texts[name] if same else grant_text(grant))
            self._dirty = self._dirty or grant is None or not same
            for waiter in waiting[name]:
                if grant is not None:
                    waiter.callback(grant)
                else:
                    waiter.errback(Refused(Refusal.NOT_STORED, "it was closed while it was written"))

    def _answer_failure(self, planned: list[tuple[Plan, Deferred[Grant]]], closing: list[Deferred[None]]) -> None:
        for plan, _ in planned:
            self.whitelist.abandon(plan)
        for _, waiter in planned:
            if not waiter.called:
                waiter.errback(Refused(Refusal.NOT_STORED, self.failure))
        for closed in closing:
            if not closed.called:
                closed.errback(Refused(Refusal.CLOSED_NOT_STORED, self.failure))

    def _fail(self, error: Exception) -> None:
        failure = why_not(self.path, error)
        if failure != self.failure:
            self.log.error("{failure}; knocks are refused with 503 until it can be", failure=failure)
        self.failure = failure

    def _recovered(self) -> None:
        if self.failure:
            self.log.info("{path} can be written again", path=self.path)
        self.failure, self._retry_after = "", 1.0
        self.stop()

    def _retry_later(self) -> None:
        if self._retry is None:
            self._retry = self._call_later(self._retry_after, self._try_again)
            self._retry_after = min(2 * self._retry_after, LONGEST_RETRY)

    def _try_again(self) -> None:
        self._retry = None
        self._wake()
