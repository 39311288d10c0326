"""The one place that knows all rooms: the assembly of the service, its start, reload and end."""

from __future__ import annotations

import gc
import os
import secrets
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, gatherResults
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThread, deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from knocker import audit, clock, logs, terms
from knocker.core.canaries import Canaries
from knocker.core.gate import Gate
from knocker.core.keys import Keyring
from knocker.core.knock import Forbidden
from knocker.core.limits import Limits
from knocker.core.packets.pace import Pace
from knocker.core.packets.seen import Sighting
from knocker.core.tally import Tally
from knocker.core.turns import Turns
from knocker.core.whitelist import Whitelist
from knocker.doors import Doors
from knocker.listen.house import House
from knocker.listen.reports import Reports
from knocker.listen.udp import SilentDoor
from knocker.notifying import Notifier
from knocker.options import Options, give_up, write_faults
from knocker.reaper import Reaper
from knocker.settings import Faulty, Settings, load
from knocker.store.jsonfile import JsonFile
from knocker.store.lock import Lock, Unusable
from knocker.store.seenfile import SeenFile
from knocker.surroundings import Surroundings, read_surroundings

if TYPE_CHECKING:
    from knocker.store.redis.shared import SharedStore

LOADING = 3.0  # seconds that a start waits for a store that is not here

log = Logger()


def makeService(options: Options) -> Knocker:
    """Assemble a Knocker that is not started yet."""
    from twisted.internet import reactor

    clock.steady(reactor)
    return Knocker(options["settings"], options["config"], reactor, options["log"])


class Knocker(Service):
    """Everything that runs, wired together."""

    def __init__(self, settings: Settings, config_path: str, reactor: Any, own_log: logs.Log | None = None) -> None:
        self.settings = settings
        self.at_start = settings  # those of the start, where only a restart can change something
        self.own_log = own_log
        self.config_path = config_path
        self.reactor = reactor
        self.lock = Lock(settings.storage.storage_path)
        self.pool = ThreadPool(1, 1, "whitelist writer")
        keyring = Keyring(settings.keys)
        self.whitelist = Whitelist(keyring, settings.storage.max_entries, _new_id)
        turns, tally = Turns(reactor.callLater, reactor.seconds), Tally()
        self.store = self._store(settings, turns, tally)
        self.whitelist.followers.append(audit.tell)
        self.reaper = Reaper(self.whitelist, clock.now, reactor, self._refresh)
        self.house = self._house(keyring, turns, tally)
        self.seen = SeenFile(settings.udp.state_path, self._in_thread) if settings.udp.enabled else None
        self.silent_door = self._silent_door(self.seen) if self.seen is not None else None
        self.doors = Doors(reactor, self.house, settings.server, self.silent_door)
        self._open = self._stopping = False
        self._late: IDelayedCall | None = None  # opens the doors where a shared store keeps a start waiting
        self._reloading = DeferredLock()
        self.notifier = Notifier(os.environ)

    def _store(self, settings: Settings, turns: Turns, tally: Tally) -> JsonFile | SharedStore:
        storage = settings.storage
        if storage.shared is None:
            later, boot_id = self.reactor.callLater, clock.boot_id()
            path = storage.storage_path
            return JsonFile(path, self.whitelist, clock.now, boot_id, self._in_thread, later, turns, tally)
        try:
            # Only here, since a household never needs it.
            from knocker.store.redis.shared import SharedStore
        except ModuleNotFoundError as error:
            how = "pip install '.[redis]' in a checkout of Knocker"
            give_up([f"whitelist.store needs packages that are not installed ({error.name}): {how}"])
        return SharedStore(
            storage.shared,
            self.whitelist,
            clock.now,
            self.reactor,
            turns,
            tally,
            token=secrets.token_hex(8).encode(),
            window=settings.udp.window * 1000,
            forbidden=self._forbidden,
            fenced=self._fence,
        )

    def _fence(self, fence: int) -> None:
        if self.seen is not None:
            self.seen.seen.fence = max(self.seen.seen.fence, fence)

    async def _keep(self, file: SeenFile, sighting: Sighting) -> None:
        """Know a packet for good before anything comes of it, and that no other gate knows it."""
        await file.keep(sighting)
        if not isinstance(self.store, JsonFile):
            await self.store.claim(sighting)

    def _house(self, keyring: Keyring, turns: Turns, tally: Tally) -> House:
        return House(
            gate=Gate(terms.policy(self.settings, keyring), self.whitelist),
            store=self.store,
            tally=tally,
            now=clock.now,
            surroundings=Surroundings(_boot_seconds, read_surroundings),
            reports=Reports(_boot_seconds),
            turns=turns,
            canaries=Canaries(secrets.token_bytes),
            manners=terms.manners(self.settings),
            limits=Limits(self.settings.security.limit),
            complaints=self._complaints,
        )

    def startService(self) -> None:
        """Load what was stored, then open the doors: nobody is answered from a whitelist that is not loaded."""
        super().startService()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
        try:
            self.lock.take(os.getpid())
            if isinstance(self.store, JsonFile):
                self.store.load(self.whitelist.keyring, self._forbidden(), _new_id)
            if self.seen is not None:
                self.seen.load(self.settings.udp.window * 1000, round(clock.now().wall * 1000))
            self.doors.prepare(self.settings.server)
            gc.freeze()  # what is there now stays: to look through it for garbage stalls everybody for 0.1 s
            self._heed_signals()
            if isinstance(self.store, JsonFile):
                self._open_doors()
        except Unusable as unusable:
            self.lock.release()
            give_up([str(unusable)])
        self.pool.start()
        self.store.start()
        self.reactor.callWhenRunning(self._heed_signals)  # once more, since the reactor takes SIGTERM when it starts
        if isinstance(self.store, JsonFile):
            self._begin()
        else:
            self.store.loaded.addCallbacks(self._loaded, self._unfit)
            self._late = self.reactor.callLater(LOADING, self._open_unloaded, self.store)

    def _open_unloaded(self, store: SharedStore) -> None:
        """Denied is better than unanswered, and /ready says why; but what is on its way is worth waiting for."""
        if store.reading:
            self._late = self.reactor.callLater(LOADING, self._open_unloaded, store)
        else:
            self._loaded(None)

    def _loaded(self, _: None) -> None:
        """Go on with a start that waited for what several gates share."""
        if self._open or self._stopping:
            return
        self._open = True
        gc.freeze()
        try:
            self._open_doors()
        except Unusable as unusable:
            self._give_up_late(str(unusable))
        else:
            self._begin()

    def _unfit(self, failure: Failure) -> None:
        """The shared store will never do: a start with it ends, a gate that runs goes on without it."""
        if self._open:
            log.error("{failure}", failure=failure.value)
        else:
            self._give_up_late(str(failure.value))

    def _give_up_late(self, fault: str) -> None:
        """End a start whose reactor runs already, with status 1."""
        if not self._stopping:
            self._stopping = True
            write_faults([fault])
            self.reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
            self.reactor.callWhenRunning(self.reactor.stop)  # which may be about to run only

    def _open_doors(self) -> None:
        self.doors.open(self.settings.server, self.settings.udp, self.settings.metrics)

    def _begin(self) -> None:
        self.reaper.start(self.settings.storage.cleanup_interval_seconds)
        terms.announce(self.settings, clock.now().wall)
        log.info("listening on {where}", where=self.settings.server.where)
        # Only now that signals are heeded for good.
        self.reactor.callWhenRunning(self.notifier.ready, f"listening on {self.settings.server.where}")

    def _forbidden(self) -> Forbidden:
        """What is never granted at this gate, by now."""
        return self.house.gate.forbidden(*self.house.surroundings())

    def _in_thread(self, function: Callable[[], None]) -> Deferred[None]:
        return deferToThreadPool(self.reactor, self.pool, function)

    def _silent_door(self, file: SeenFile) -> SilentDoor:
        return SilentDoor(
            self.house,
            terms.reader(self.settings),
            Pace(self.settings.security.limit),
            lambda: file.seen,
            lambda sighting: self._keep(file, sighting),
        )

    def _refresh(self) -> None:
        self.store.refresh()
        if self.seen is not None:
            self.seen.refresh(round(clock.now().wall * 1000))

    def _complaints(self) -> list[str]:
        seen = self.seen.complaints(round(clock.now().wall * 1000)) if self.seen is not None else []
        return self.reaper.complaints() + seen

    async def _stop(self) -> None:
        self._stopping = True
        self.notifier.stopping()
        if self._late is not None and self._late.active():
            self._late.cancel()
        await self.doors.close()
        self.reaper.stop()
        if len(self.whitelist):
            self.store.flush()
        await self.store.idle()
        self.store.stop()
        self.pool.stop()
        if self.seen is not None:
            self.seen.close()
        self.lock.release()
        log.info("stopped; {count} live grants are stored", count=len(self.whitelist))

    def stopService(self) -> Deferred[Any]:
        """Close the doors, let knocks in flight finish, flush, in this order."""
        stopped = super().stopService()
        return gatherResults([Deferred.fromCoroutine(self._stop())] + ([stopped] if stopped is not None else []))

    def reload(self) -> Deferred[None]:
        """Read the settings again, off the reactor; a faulty file changes nothing. Fires when that is done."""
        done: Deferred[None] = Deferred.fromCoroutine(self._reload())
        return done.addErrback(lambda failure: log.failure("the reload failed; the old settings stay", failure))

    async def _reload(self) -> None:
        async with self._reloading:
            self.notifier.reloading()
            try:
                self._adopt(await deferToThread(load, self.config_path))
            except Faulty as faulty:
                for fault in faulty.faults:
                    log.error("{fault}", fault=fault)
                log.error("the settings were not reloaded; the old ones stay")
                self.notifier.status("the settings were not reloaded; the old ones stay, and the log says why")
            finally:
                self.notifier.reloaded()

    def _adopt(self, settings: Settings) -> None:
        """Let new settings count, in one turn of the reactor: no request sees half of them."""
        changed = terms.fixed_changes(self.settings, settings)
        for name in [name for name in terms.fixed_changes(self.at_start, settings) if name in changed]:
            log.warn("{name} changed; that needs a restart", name=name)
        keyring = Keyring(settings.keys)
        policy, manners = terms.policy(settings, keyring), terms.manners(settings)
        own, gateways = self.house.surroundings()  # first whatever could fail, then what counts
        self.house.gate.policy = policy
        self.house.manners = manners
        if settings.security.limit != self.house.limits.limit:
            self.house.limits = Limits(settings.security.limit)
        if self.silent_door is not None and self.seen is not None:
            self.silent_door.reader = terms.reader(settings)
            self.silent_door.pace = Pace(settings.security.limit)
            self.seen.seen.window = settings.udp.window * 1000
        if self.own_log is not None:
            self.own_log.set(settings.logging.level, settings.logging.format)
        self.whitelist.max_entries = settings.storage.max_entries
        self.whitelist.revise(keyring, self.house.gate.forbidden(own, gateways), clock.now())
        self.store.revised()
        self.settings = settings
        terms.announce(settings, clock.now().wall)
        log.info("the settings were reloaded from {path}", path=self.config_path)

    def _heed_signals(self) -> None:
        """SIGTERM ends with status 0, where twistd would re-raise it; SIGHUP reloads, where it would end us."""
        signal.signal(signal.SIGTERM, lambda *_: self.reactor.callFromThread(self._terminate))
        signal.signal(signal.SIGHUP, lambda *_: self.reactor.callFromThread(self.reload))

    def _terminate(self) -> None:
        try:
            self.reactor.stop()
        except ReactorNotRunning:
            log.info("already stopping")


def _new_id() -> str:
    """An ID that nobody can guess, and that no command takes for an option."""
    while (found := secrets.token_urlsafe(16)).startswith("-"):
        pass
    return found


def _boot_seconds() -> float:
    return clock.now().boot
