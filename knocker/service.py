"""The one place that knows all rooms: options, the assembly of the service, its start, reload and end."""

from __future__ import annotations

import gc
import os
import secrets
import signal
import sys
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, gatherResults
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThread, deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool
from twisted.python.usage import Options as UsageOptions

from knocker import audit, clock, logs, terms
from knocker.core.canaries import Canaries
from knocker.core.gate import Gate
from knocker.core.keys import Keyring
from knocker.core.limits import Limits
from knocker.core.packets.pace import Pace
from knocker.core.tally import Tally
from knocker.core.turns import Turns
from knocker.core.whitelist import Whitelist
from knocker.descriptors import room_for
from knocker.lag import Lag
from knocker.listen import port
from knocker.listen.channel import GateChannel
from knocker.listen.door import Door
from knocker.listen.house import House
from knocker.listen.lane import LaneChannel
from knocker.listen.reports import Reports
from knocker.listen.site import GateSite
from knocker.listen.udp import SilentDoor
from knocker.listen.udp import listen as listen_udp
from knocker.listen.verify import Verify
from knocker.listen.web import Web
from knocker.reaper import Reaper
from knocker.settings import Faulty, Server, Settings, Udp, load
from knocker.settings.model import Metrics
from knocker.store.jsonfile import JsonFile
from knocker.store.lock import Lock, Unusable
from knocker.store.seenfile import SeenFile
from knocker.surroundings import Surroundings, read_surroundings

MOST_SCRAPERS = 32  # connections of the metrics port
GRACE = 5.0  # seconds that requests in flight get at the end (contract 1)

log = Logger()


class Options(UsageOptions):
    """The options of `twistd knocker`."""

    optParameters = (("config", "c", None, "The settings file. Default: $KNOCKER_CONFIG_PATH, then ./knocker.yaml"),)

    def postOptions(self) -> None:
        """Read the settings now: a fault ends the start with one line for each, and nothing else."""
        self["config"] = self["config"] or os.environ.get("KNOCKER_CONFIG_PATH") or "knocker.yaml"
        try:
            self["settings"] = load(self["config"])
        except Faulty as faulty:
            _give_up(faulty.faults)
        logging = self["settings"].logging
        self["log"] = logs.for_twistd(self.parent, logging.level, logging.format)
        # twistd may change the directory before a reload reads the file again.
        self["config"] = os.path.abspath(self["config"])


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
        self.store = JsonFile(
            settings.storage.storage_path,
            self.whitelist,
            clock.now,
            clock.boot_id(),
            self._in_thread,
            reactor.callLater,
            turns,
            tally,
        )
        self.whitelist.followers.append(audit.tell)
        self.reaper = Reaper(self.whitelist, clock.now, reactor, self._refresh)
        self.house = self._house(keyring, turns, tally)
        self.lag = Lag(reactor)
        self.seen = SeenFile(settings.udp.state_path, self._in_thread) if settings.udp.enabled else None
        self.silent_door = self._silent_door(self.seen) if self.seen is not None else None
        self.web = Web(self.house)
        door = Door(self.house, Verify(self.house), self.web.app.resource())
        channel = LaneChannel if settings.server.fast_lane else GateChannel
        self.site = GateSite(door, self.house, settings.server.max_connections, reactor, channel)
        self.sites = [self.site]
        self.ports: list[IListeningPort] = []
        self._reloading = DeferredLock()

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
            own, gateways = self.house.surroundings()
            forbidden = self.house.gate.forbidden(own, gateways)
            self.store.load(self.whitelist.keyring, forbidden, _new_id)
            self.web.warm_up()
            self._bound_connections(self.settings.server.max_connections)
            gc.freeze()  # what is there now stays: to look through it for garbage stalls everybody for 0.1 s
            self._heed_signals()
            self._open_silent_door(self.settings.udp)
            self.ports.append(self._listen(self.settings.server))
            self._open_metrics(self.settings.metrics)
        except Unusable as unusable:
            self.lock.release()
            _give_up([str(unusable)])
        self.pool.start()
        self.store.start()
        self.reaper.start(self.settings.storage.cleanup_interval_seconds)
        self.reactor.callWhenRunning(self._heed_signals)  # once more, since the reactor takes SIGTERM when it starts
        terms.announce(self.settings, clock.now().wall)
        log.info("listening on {where}", where=self.settings.server.where)

    def _in_thread(self, function: Callable[[], None]) -> Deferred[None]:
        return deferToThreadPool(self.reactor, self.pool, function)

    def _silent_door(self, file: SeenFile) -> SilentDoor:
        return SilentDoor(
            self.house, terms.reader(self.settings), Pace(self.settings.security.limit), lambda: file.seen, file.keep
        )

    def _open_silent_door(self, udp: Udp) -> None:
        if self.seen is None or self.silent_door is None:
            return
        self.seen.load(udp.window * 1000, round(clock.now().wall * 1000))
        try:
            self.ports.append(listen_udp(self.reactor, udp.host, udp.port, self.silent_door))
        except port.CannotListen as error:
            raise Unusable(f"cannot listen on {udp.where}: {error}; see udp.host and udp.port") from None
        log.info("listening on {where}", where=udp.where)

    def _open_metrics(self, told: Metrics) -> None:
        if not told.enabled:
            return
        # Only here, since it costs everybody else two megabytes.
        from knocker.listen.metrics import Metrics as MetricsDoor

        site = GateSite(MetricsDoor(self.house, self.lag.worst), self.house, MOST_SCRAPERS, self.reactor)
        try:
            self.ports.append(port.on_address(self.reactor, told.host, told.port, site))
        except port.CannotListen as error:
            raise Unusable(f"cannot listen on {told.where}: {error}; see metrics.host and metrics.port") from None
        self.sites.append(site)
        self.lag.start()
        log.info("listening on {where}", where=told.where)

    def _refresh(self) -> None:
        self.store.refresh()
        if self.seen is not None:
            self.seen.refresh(round(clock.now().wall * 1000))

    def _complaints(self) -> list[str]:
        seen = self.seen.complaints(round(clock.now().wall * 1000)) if self.seen is not None else []
        return self.reaper.complaints() + seen

    def _bound_connections(self, most: int) -> None:
        self.site.most_connections = room = room_for(most)
        if room < most:
            log.warn(
                "server.max_connections is {most}, but the limit of open files leaves room for {room}: so many are"
                " taken; raise that limit (LimitNOFILE= in a systemd unit, ulimit -n, nofile of a container)",
                most=most,
                room=room,
            )

    def _listen(self, server: Server) -> IListeningPort:
        try:
            if server.unix is not None:
                return port.on_unix_socket(self.reactor, server.unix.path, server.unix.mode, self.site)
            if server.endpoint:
                opened = port.on_endpoint(self.reactor, server.endpoint, self.site)
                if server.trusts_unix and port.is_open_to_all(opened):
                    raise Unusable(
                        f'server.trusted_proxies: "unix" would believe every user of this machine, since all may write'
                        f" to the socket of {server.endpoint}; with systemd, write SocketMode=0660 and SocketGroup="
                    )
                return opened
            return port.on_address(self.reactor, server.host, server.port, self.site)
        except port.CannotListen as error:
            raise Unusable(f"cannot listen on {server.where}: {error}; see {server.setting}") from None

    async def _stop(self) -> None:
        for opened in self.ports:
            await Deferred.fromCoroutine(port.close(opened))
        finished = [site.leave() for site in self.sites] + (
            [self.silent_door.finished()] if self.silent_door is not None else []
        )
        try:
            await gatherResults(finished).addTimeout(GRACE, self.reactor)
        except Exception:  # noqa: BLE001 - who is not gone by now is cut off
            for channel in [channel for site in self.sites for channel in site.channels]:
                channel.transport.abortConnection()
        self.lag.stop()
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
            try:
                settings = await deferToThread(load, self.config_path)
            except Faulty as faulty:
                for fault in faulty.faults:
                    log.error("{fault}", fault=fault)
                log.error("the settings were not reloaded; the old ones stay")
                return
            self._adopt(settings)

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
        self.store.start()
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


def _give_up(faults: list[str]) -> None:
    """End the start: the faults on stderr, one a line, and status 1."""
    stderr = sys.__stderr__ or sys.stderr  # by now twistd may have made the other one a part of its log
    stderr.write("".join(f"{fault}\n" for fault in faults))
    stderr.flush()
    raise SystemExit(1)
