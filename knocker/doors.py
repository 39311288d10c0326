"""The ports: opened last, closed first. What they lead to is the listeners' own affair."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from knocker.descriptors import room_for
from knocker.lag import Lag
from knocker.listen import port
from knocker.listen.channel import GateChannel
from knocker.listen.door import Door
from knocker.listen.house import House
from knocker.listen.lane import LaneChannel
from knocker.listen.site import GateSite
from knocker.listen.udp import SilentDoor
from knocker.listen.udp import listen as listen_udp
from knocker.listen.verify import Verify
from knocker.listen.web import Web
from knocker.settings import Server, Udp
from knocker.settings.model import Metrics
from knocker.store.lock import Unusable

MOST_SCRAPERS = 32  # connections of the metrics port
GRACE = 5.0  # seconds that requests in flight get at the end (contract 1)

log = Logger()


class Doors:
    """All ports of one house. A port that cannot be opened raises Unusable, with the setting that says which."""

    def __init__(self, reactor: Any, house: House, server: Server, silent: SilentDoor | None) -> None:
        self._reactor = reactor
        self._house = house
        self._web = Web(house)
        door = Door(house, Verify(house), self._web.app.resource())
        channel = LaneChannel if server.fast_lane else GateChannel
        self._site = GateSite(door, house, server.max_connections, reactor, channel)
        self._sites = [self._site]
        self._silent = silent
        self._ports: list[IListeningPort] = []
        self._lag = Lag(reactor)

    def prepare(self, server: Server) -> None:
        """Do beforehand what would cost the first visitors time."""
        self._web.warm_up()
        self._site.most_connections = room = room_for(server.max_connections)
        if room < server.max_connections:
            log.warn(
                "server.max_connections is {most}, but the limit of open files leaves room for {room}: so many are"
                " taken; raise that limit (LimitNOFILE= in a systemd unit, ulimit -n, nofile of a container)",
                most=server.max_connections,
                room=room,
            )

    def open(self, server: Server, udp: Udp, metrics: Metrics) -> None:
        """Let everybody in front of them in."""
        if self._silent is not None:
            self._open_silent(udp, self._silent)
        self._ports.append(self._listen(server))
        if metrics.enabled:
            self._open_metrics(metrics)

    def _open_silent(self, udp: Udp, silent: SilentDoor) -> None:
        try:
            self._ports.append(listen_udp(self._reactor, udp.host, udp.port, silent))
        except port.CannotListen as error:
            raise Unusable(f"cannot listen on {udp.where}: {error}; see udp.host and udp.port") from None
        log.info("listening on {where}", where=udp.where)

    def _open_metrics(self, told: Metrics) -> None:
        # Only here, since it costs everybody else two megabytes.
        from knocker.listen.metrics import Metrics as MetricsDoor

        site = GateSite(MetricsDoor(self._house, self._lag.worst), self._house, MOST_SCRAPERS, self._reactor)
        try:
            self._ports.append(port.on_address(self._reactor, told.host, told.port, site))
        except port.CannotListen as error:
            raise Unusable(f"cannot listen on {told.where}: {error}; see metrics.host and metrics.port") from None
        self._sites.append(site)
        self._lag.start()
        log.info("listening on {where}", where=told.where)

    def _listen(self, server: Server) -> IListeningPort:
        try:
            if server.unix is not None:
                return port.on_unix_socket(self._reactor, server.unix.path, server.unix.mode, self._site)
            if server.endpoint:
                opened = port.on_endpoint(self._reactor, server.endpoint, self._site)
                if server.trusts_unix and port.is_open_to_all(opened):
                    raise Unusable(
                        f'server.trusted_proxies: "unix" would believe every user of this machine, since all may write'
                        f" to the socket of {server.endpoint}; with systemd, write SocketMode=0660 and SocketGroup="
                    )
                return opened
            return port.on_address(self._reactor, server.host, server.port, self._site)
        except port.CannotListen as error:
            raise Unusable(f"cannot listen on {server.where}: {error}; see {server.setting}") from None

    async def close(self) -> None:
        """Let nobody in any more, and those who are in finish what they began."""
        for opened in self._ports:
            await Deferred.fromCoroutine(port.close(opened))
        finished = [site.leave() for site in self._sites]
        if self._silent is not None:
            finished.append(self._silent.finished())
        try:
            await gatherResults(finished).addTimeout(GRACE, self._reactor)
        except Exception:  # noqa: BLE001 - who is not gone by now is cut off
            for channel in [channel for site in self._sites for channel in site.channels]:
                channel.transport.abortConnection()
        self._lag.stop()
