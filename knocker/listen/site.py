"""The web port: all its connections, bounded in number."""

from __future__ import annotations

from io import BytesIO
from typing import Any, BinaryIO

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.web import http
from twisted.web.resource import IResource
from twisted.web.server import Site

from knocker.listen.channel import IDLE, GateChannel, GateRequest
from knocker.listen.house import House
from knocker.listen.request import peer_of


class GateSite(Site):
    """All connections of the web port, bounded in number."""

    noisy = False

    def __init__(
        self,
        door: IResource,
        house: House,
        most_connections: int,
        reactor: IReactorTime,
        channel: type[GateChannel] = GateChannel,
    ) -> None:
        super().__init__(door, GateRequest, timeout=IDLE, reactor=reactor, parsePOSTFormSubmission=False)
        self.protocol = channel  # type: ignore[assignment]
        self.house = house
        self.most_connections = most_connections
        self.channels: dict[GateChannel, None] = {}  # in the order in which they came
        self._emptied: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Take one more connection, or close it at once when there are too many.

        A trusted proxy gets the place of a stranger: who reaches the port directly cannot shut it for the others.
        """
        if len(self.channels) >= self.most_connections and not (self.is_proxy(addr) and self._make_room()):
            self.house.tally.drop("too_many_connections")
            self.house.reports.report(
                "too_many_connections",
                "closed a new connection: {most} are open, as many as server.max_connections allows",
                most=self.most_connections,
            )
            return None
        return super().buildProtocol(addr)

    def is_proxy(self, addr: object) -> bool:
        """Whether a trusted proxy is at the other end."""
        return self.house.gate.policy.believes(peer_of(addr))

    def _make_room(self) -> bool:
        """Cut off the stranger that has been here longest without a request at hand, if there is one."""
        for channel in self.channels:
            if not channel.is_answering and not self.is_proxy(channel.getPeer()):
                self.channels.pop(channel)
                channel.transport.abortConnection()
                return True
        return False

    def getContentFile(self, length: int | None) -> BinaryIO:
        """Where a body is kept; it is small, so never on disk."""
        return BytesIO()

    def forget(self, channel: GateChannel) -> None:
        """A connection is gone."""
        self.channels.pop(channel, None)
        self._tell_when_empty()

    def leave(self) -> Deferred[None]:
        """Close all connections, those with a request at hand once it is answered; fires when none is left."""
        emptied = self._emptied = Deferred()
        for channel in tuple(self.channels):
            channel.leave()
        self._tell_when_empty()
        return emptied

    def _tell_when_empty(self) -> None:
        if not self.channels and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def startFactory(self) -> None:
        """No access log, so no clock for one."""

    def stopFactory(self) -> None:
        """Nothing to end."""

    def log(self, request: http.Request) -> None:
        """Requests are not logged; verdicts and knocks are counted."""
