"""The fast lane: a plain question of a proxy is answered as it arrives, without a request object.

It takes only a read that holds exactly one whole request for /verify, on a connection at rest, in the form that
proxies send: HTTP/1.1, each line ended by CRLF, names of letters, digits and hyphens, nothing about a body, the
connection or an upgrade. Whatever is otherwise goes to the channel untouched. So it accepts a part of what the
channel accepts, reads it the same way, and asks the same function for the verdict.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet import tcp, unix
from twisted.web.http import RESPONSES

from knocker.listen import answers
from knocker.listen.channel import IDLE, GateChannel
from knocker.listen.house import House
from knocker.listen.request import PROXYS, peer_of
from knocker.listen.verify import judge

_LONGEST = 16_000  # bytes of a request; the channel's own bounds lie above
_MOST_LINES = 400
_FIRST_LINE = re.compile(rb"[A-Z]{3,20} /verify((?:[/?][!-~]*)?) HTTP/1\.1")
_BELIEVED = frozenset(PROXYS)
# What makes a request more than a question, or its end another than the empty line.
_OTHERWISE = frozenset(
    (
        *(b"connection", b"content-length", b"expect", b"http2-settings", b"keep-alive", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    )
)
_HEADS = {
    status: b"HTTP/1.1 %d %s\r\nDate: %%s\r\nCache-Control: no-store\r\n" % (status, RESPONSES[status])
    for status in (200, 401, 403)
}
_NOTHING: tuple[bytes, ...] = ()


def read_question(data: bytes) -> tuple[bytes, dict[bytes, list[bytes]]] | None:
    """What follows /verify in the target, and the lines that a proxy sends; None for what is no plain question."""
    if data[-4:] != b"\r\n\r\n" or len(data) > _LONGEST or b"\0" in data:
        return None
    lines = data[:-4].split(b"\r\n")
    breaks = len(lines) + 1
    if breaks > _MOST_LINES or data.count(b"\n") != breaks or data.count(b"\r") != breaks:
        return None
    first = _FIRST_LINE.fullmatch(lines[0])
    if first is None:
        return None
    found: dict[bytes, list[bytes]] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name.replace(b"-", b"").isalnum():
            return None
        name = name.lower()
        if name in _OTHERWISE:
            return None
        if name in _BELIEVED:
            found.setdefault(name, []).append(value.strip(b" \t"))
    return first[1], found


class LaneChannel(GateChannel):
    """A connection whose plain questions are answered at once."""

    _socket: Any = None  # while nothing of ours waits in the transport's buffers

    def connectionMade(self) -> None:
        """Who is at the other end stays the same."""
        super().connectionMade()
        self._peer = peer_of(self.getPeer())
        if type(self.transport) in (tcp.Server, unix.Server):
            self._socket = self.transport.getHandle()

    def dataReceived(self, data: bytes) -> None:
        """Answer a plain question, or let the channel read what came."""
        question = read_question(data) if self._is_at_rest() else None
        if question is None:
            self._socket = None
            super().dataReceived(data)
            return
        tail, found = question
        self._send(self._answer(self.site.house, tail, found))
        self.timeOut = IDLE
        self.resetTimeout()

    def _is_at_rest(self) -> bool:
        """Whether the next byte begins a request, and that may be answered now."""
        return not (
            self.requests
            or self._buffer
            or self._dataBuffer
            or self._handlingRequest
            or self._refused
            or self._leaving
            or self.paused
            or not self.persistent
            or self._HTTPChannel__first_line != 1  # type: ignore[attr-defined]
            or self._waitingForTransport
        )

    def _answer(self, house: House, tail: bytes, found: dict[bytes, list[bytes]]) -> bytes:
        status, client = judge(house, self._peer, lambda name: found.get(name, _NOTHING), tail)
        head: bytes = _HEADS[status] % answers.date()
        if client is not None:
            return b"%sX-Forwarded-For: %s\r\nContent-Length: 0\r\n\r\n" % (head, str(client).encode())
        return head + b"Content-Length: 0\r\n\r\n"

    def _send(self, answer: bytes) -> None:
        """Straight to the socket, which saves the reactor two turns of its own; the rest as always."""
        if self._socket is not None:
            try:
                answer = answer[self._socket.send(answer) :]
            except OSError:
                self._socket = None
            if not answer:
                return
            self._socket = None
        self.transport.write(answer)
