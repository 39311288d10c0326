"""Staying in touch with the engine: reach it, be in step, listen, and begin anew when anything goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.logger import Logger

from knocker.store.lock import Unusable
from knocker.store.redis.engine import Away, Engine, Unfit
from knocker.store.redis.link import Link
from knocker.store.redis.mirror import Mirror
from knocker.store.redis.session import Session

BEAT = 2.0  # seconds between two looks at the engine's clock and state

log = Logger()


class Contact:
    """The way to the engine. `session` is there while the mirror is in step with it, `failure` says why it is not.

    `loaded` fires when it first was, and fails with Unusable where that will never be. `heard` is called with the
    session when it begins, and after each beat.
    """

    def __init__(
        self,
        engine: Engine,
        mirror: Mirror,
        reactor: Any,
        session_on: Callable[[Link], Session],
        heard: Callable[[Session], None],
    ) -> None:
        self.session: Session | None = None
        self.reading = False  # what the engine has is on its way
        self.failure = f"the store {engine.where} was not reached yet"
        self.loaded: Deferred[None] = Deferred()
        self._engine = engine
        self._mirror = mirror
        self._reactor = reactor
        self._session_on = session_on
        self._heard = heard
        self._stopped = False
        self._running: Deferred[None] = Deferred()
        self._attempts = 0
        self._retry_after = backoffPolicy(initialDelay=0.2, maxDelay=10.0, factor=1.7)

    def start(self) -> None:
        """Begin, and go on until `stop`."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(lambda failure: failure.trap(CancelledError) and None)
        self._running.addErrback(lambda failure: log.failure("the store was given up", failure))

    def stop(self) -> None:
        """Leave the engine."""
        self._stopped = True
        self._running.cancel()

    async def _run(self) -> None:
        while not self._stopped:
            self._attempts += 1
            try:
                await self._attend(await Link.open(self._engine, self._reactor))
            except Away as error:
                self._away(error)
            except CancelledError:
                raise
            except Exception:  # noqa: BLE001 - a mistake of ours must not end the way to the engine
                log.failure("a session with the store failed")
                self._away(Away("was not understood; the log has the traceback"))
            if not self._stopped:
                await self._pause(self._retry_after(self._attempts))

    async def _attend(self, link: Link) -> None:
        """Be in touch over one link; it ends by an exception."""
        both: list[Deferred[None]] = []
        try:
            session = self._session_on(link)
            self.reading = True
            await session.resume()
            self._arrived(session)
            both = [Deferred.fromCoroutine(session.read()), Deferred.fromCoroutine(self._beat(session))]
            await gatherResults(both, consumeErrors=True)
        except FirstError as first:
            first.subFailure.raiseException()
        finally:
            self.session, self.reading = None, False
            link.close()
            for running in both:
                running.cancel()

    def _arrived(self, session: Session) -> None:
        self.session, self.reading, self._attempts = session, False, 0
        live = len(self._mirror.whitelist)
        log.info("in step with the store {where}: {count} live grants", where=self._engine.where, count=live)
        self.failure = ""
        self._heard(session)
        if not self.loaded.called:
            self.loaded.callback(None)

    async def _beat(self, session: Session) -> None:
        while True:
            await self._pause(BEAT)
            if await session.beat() != "same":
                raise Away("lost or dropped changes that this gate has to know: all is read once more")
            session.listen()
            self._heard(session)

    def _pause(self, seconds: float) -> Deferred[None]:
        waiter: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self._reactor.callLater(seconds, waiter.callback, None)
        return waiter

    def _away(self, error: Away) -> None:
        failure = f"the store {self._engine.where} {error}"
        self._mirror.broken(error)
        if isinstance(error, Unfit) and not self.loaded.called:
            self.loaded.errback(Unusable(failure))
        elif failure != self.failure and not self._stopped:
            log.error("{failure}; knocks are refused with 503, what is granted goes on to its end", failure=failure)
        self.failure = failure
