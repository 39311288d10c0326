"""One connection of the web port: what bounds a request before anybody looks at it.

Twisted bounds neither the size of a body nor the time that a request takes to arrive; here both are, counted
as bytes come in and from a request's first byte on, whatever trickles meanwhile (contract 3). A request over
a bound gets its answer, and its connection ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http import HTTPChannel
from twisted.web.server import NOT_DONE_YET, Request

from knocker.core.refusals import Refusal
from knocker.listen import answers
from knocker.listen.question import is_verify

if TYPE_CHECKING:
    from knocker.listen.site import GateSite

MOST_BODY = 4096  # bytes
HEADERS_WITHIN = 10  # seconds from a request's first byte, and from a connection's start to the first one
BODY_WITHIN = 10.0  # seconds from the end of the headers
READ_WITHIN = 10.0  # seconds for the client to take what fills the connection's buffers
IDLE = 130  # seconds between requests; Caddy keeps a connection for 120
TURN, STRANGERS_TURN = 8, 2  # requests of one connection that are answered before others have their turn
LINGER = 2.0  # seconds for the client to read a refusal before the connection is cut
_LONGEST_METHOD = 40  # bytes of a request in which its path has begun, beyond /verify
_LONGEST_LENGTH = 18  # digits of a Content-Length that are still read as a number


class GateRequest(Request):
    """A request without Twisted's own pages, server name and form parsing."""

    defaultContentType = None
    channel: GateChannel
    site: GateSite
    received = 0

    def process(self) -> None:
        """Hand the request to the door."""
        self.site = self.channel.site
        self.setHeader(b"date", answers.date())
        self.setHeader(b"cache-control", b"no-store")
        self.prepath = []
        self.postpath = self.path[1:].split(b"/")
        try:
            body = self.site.resource.render(self)
            if body is not NOT_DONE_YET:
                self.write(body)
                self.finish()
        except Exception:  # noqa: BLE001 - any mistake of ours must deny
            self.processingFailed(Failure())

    def getRequestHostname(self) -> bytes:
        """No route depends on the host, and Klein would stumble over one that is no name."""
        return b"localhost"

    def handleContentChunk(self, data: bytes) -> None:
        """Count the body as it arrives."""
        self.received += len(data)
        if self.received > MOST_BODY:
            self.channel.refuse_size()
        else:
            super().handleContentChunk(data)

    def processingFailed(self, reason: Failure) -> Failure:
        """Deny, or say that it is our mistake; the log gets the traceback."""
        house = self.site.house
        house.reports.failure("request_error", "a request failed", reason)
        if self._disconnected or self.finished or self.startedWriting:
            self.channel.loseConnection()
            return reason
        if is_verify(self.path):
            body = answers.empty(self, house.manners.denial.status)
        else:
            body = answers.answer(self, 500, {"error": "Internal error."})
        self.write(body)
        self.finish()
        return reason


class GateChannel(HTTPChannel):
    """One connection: HTTPChannel with absolute deadlines and a bounded body."""

    site: GateSite
    transport: Any  # an ITCPTransport, also where it is a test's
    _refused = False
    _leaving = False
    _answered = 0
    _turn = STRANGERS_TURN
    _deadline: IDelayedCall | None = None
    _unread: IDelayedCall | None = None
    _waits = False  # for a turn in which what came is read
    _is_gone = False

    @property
    def is_answering(self) -> bool:
        """Whether a request is being answered, or waits for its turn."""
        return bool(self._handlingRequest) or self._waits

    def connectionMade(self) -> None:
        """A connection that says nothing at all may not stay."""
        self.timeOut = HEADERS_WITHIN  # until the first whole request; a timer that is brought forward costs more
        super().connectionMade()
        self.site.channels[self] = None
        self._turn = TURN if self.site.is_proxy(self.getPeer()) else STRANGERS_TURN

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Forget the connection."""
        self._end_deadline()
        self._end_unread()
        self._is_gone = True
        super().connectionLost(reason)
        self.site.forget(self)

    def dataReceived(self, data: bytes) -> None:
        """Parse, then see to it that an unfinished request has a deadline."""
        if self._refused:
            return
        if not (self._handlingRequest or self.paused or self.site.house.turns.has_room() or self._is_question(data)):
            self.paused = True  # it is kept unread
            self.transport.pauseProducing()
            self._go_on_later()
        self._read(data)

    def _is_question(self, data: bytes) -> bool:
        """Whether this is a proxy's question, whole or a part of it, which never waits."""
        if self.requests:
            begun = bytes(getattr(self, "_path", b"")).partition(b"?")[0]
        else:
            begun = data[:_LONGEST_METHOD].partition(b" ")[2].partition(b" ")[0].partition(b"?")[0]
        return is_verify(begun) and self.site.is_proxy(self.getPeer())

    def _read(self, data: bytes) -> None:
        if not self._busyReceiving:
            self._answered = 0
        super().dataReceived(data)
        self._watch()

    def lineReceived(self, line: bytes) -> None:
        """One line of a request's head."""
        if not self._refused:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        """A piece of a body, or of what was sent behind a request that is being answered."""
        if not self._refused:
            super().rawDataReceived(data)

    def headerReceived(self, line: bytes) -> bool:
        """One header; a length that is no sane number is refused before Twisted would trip over it."""
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and len(value.strip(b" \t")) > _LONGEST_LENGTH:
            self.refuse_size() if value.strip(b" \t").isdigit() else self._respondToBadRequestAndDisconnect()
            return False
        return bool(super().headerReceived(line)) and not self._refused

    def allHeadersReceived(self) -> None:
        """The head is complete: the body's bound and deadline begin."""
        if self._refused:
            return
        self._end_deadline()
        if self.length is not None and self.length > MOST_BODY:
            self.refuse_size()
            return
        super().allHeadersReceived()
        if self.length != 0:
            self._deadline = self.callLater(BODY_WITHIN, self._too_late)

    def allContentReceived(self) -> None:
        """The request is complete: it is answered now."""
        if not self._refused:
            self._end_deadline()
            self.timeOut = IDLE  # from the first whole request on; what Twisted goes back to after the answer
            super().allContentReceived()

    def checkPersistence(self, request: http.Request, version: bytes) -> bool:
        """Whether the connection stays open after this request."""
        return bool(super().checkPersistence(request, version)) and not self._leaving

    def requestDone(self, request: Request) -> None:
        """A request is answered; what came meanwhile is looked at, in turn with everybody else's."""
        self._answered += 1
        if self._answered >= self._turn or self._waitingForTransport:
            self.paused = True
        super().requestDone(request)
        if self.paused and self.persistent:
            self.transport.pauseProducing()
            if not self._waitingForTransport:
                self._go_on_later()
        self._watch()

    def pauseProducing(self) -> None:
        """The client does not read as fast as it is answered: it gets a while to go on."""
        super().pauseProducing()
        if self._unread is None:
            self._unread = self.callLater(READ_WITHIN, self._too_late)

    def resumeProducing(self) -> None:
        """The client read its answers: more may be asked."""
        self._end_unread()
        super().resumeProducing()
        if self.paused:
            self.transport.pauseProducing()
            self._go_on_later()

    def _go_on_later(self) -> None:
        if not self._waits:
            self._waits = True
            self.site.house.turns.wait(self._go_on)

    def _go_on(self) -> None:
        self._waits = False
        if self._is_gone:
            return
        if not self._waitingForTransport:
            self.paused = False
            if not self._handlingRequest:
                self.transport.resumeProducing()
            if not self._refused:
                self._read(b"")
        if self._leaving:
            self.leave()

    def loseConnection(self) -> None:
        """Close; a client that does not read its last answer is cut off."""
        if self._abortingCall is None:
            self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)
        super().loseConnection()

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line beyond 16 KiB; Twisted would close without a word."""
        self._refuse_head()

    def refuse_size(self) -> None:
        """The body is over its bound; size alone may end a request early (contract 3)."""
        self._refuse(413, b"Content Too Large", Refusal.TOO_LARGE.value)

    def timeoutConnection(self) -> None:
        """Nothing came for too long: close, without a line in the log for each."""
        self.loseConnection()

    def forceAbortClient(self) -> None:
        """The connection would not close: cut it."""
        self._abortingCall = None
        self.transport.abortConnection()

    def leave(self) -> None:
        """The service ends: close now, or once the request at hand, or arriving, is answered."""
        self._leaving = True
        if self._handlingRequest or self.requests:
            self.persistent = 0
        elif not self._waits:
            self.loseConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            self._refuse_head()
        else:
            self._refuse(400, b"Bad Request", "Bad request.")

    def _refuse_head(self) -> None:
        self._refuse(431, b"Request Header Fields Too Large", "Request header fields too large.")

    def _refuse(self, status: int, phrase: bytes, error: str) -> None:
        """Answer, say that no more will come, and let the client read that before the connection is cut."""
        if self._refused:
            return
        self._refused = True
        self.clearLineBuffer()
        self._end_deadline()
        self.setTimeout(None)
        self.site.house.tally.drop(f"http_{status}")
        asked = bytes(getattr(self, "_path", b"")).partition(b"?")[0]
        origin = "" if is_verify(asked) else self.site.house.manners.cors_origin
        self.transport.write(answers.raw(status, phrase, error, origin))
        self.transport.unregisterProducer()
        self._deadline = self.callLater(LINGER, self.transport.abortConnection)
        self.transport.loseWriteConnection()

    def _watch(self) -> None:
        unfinished = (self.requests or self._buffer) and not self.paused
        if unfinished and not self._handlingRequest and self._deadline is None and not self._refused:
            self._deadline = self.callLater(HEADERS_WITHIN, self._too_late)

    def _too_late(self) -> None:
        self._deadline = None
        self.site.house.tally.drop("too_slow")
        self.transport.abortConnection()

    def _end_unread(self) -> None:
        if self._unread is not None and self._unread.active():
            self._unread.cancel()
        self._unread = None

    def _end_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
