"""The fast lane: a plain question of a proxy is answered as it arrives, without a request object.

It takes only a read that holds exactly one whole request for /verify, from a peer that is believed, on a
connection at rest, in the form that proxies send: HTTP/1.1, each line ended by CRLF, names of letters, digits and
hyphens, each line that matters only once, nothing about a body, the connection or an upgrade, nothing of a
browser's wish to see a page where a refusal may be one, and no canary while there is any. Whatever is otherwise goes
to the channel untouched. So it accepts a part of what the channel accepts, reads it the same way, and asks the same
function for the verdict.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet import tcp
from twisted.web.http import RESPONSES

from knocker.core.gate import Policy
from knocker.listen import answers
from knocker.listen.channel import IDLE, GateChannel
from knocker.listen.denial import may_navigate
from knocker.listen.port import UnixConnection
from knocker.listen.question import Question
from knocker.listen.request import peer_of
from knocker.listen.verify import judge

_LONGEST = 16_000  # bytes of a request; the channel's own bounds lie above
_MOST_LINES = 400

# A line whose name is none of those that matter, and none that makes a request more than a question, or its end
# another than the empty line (connection, content-length, expect, http2-settings, keep-alive, proxy-connection, te,
# trailer, transfer-encoding, upgrade). Names are told apart by their first letter, as reading is a third of what an
# answer costs. No group of several things is possessive: Python 3.11.2, which Debian 12 has, matches those wrongly.
_OTHER = rb"""
    (?: [abdfgijl-oqrsvwyzABDFGIJL-OQRSVWYZ0-9]
      | [cC] (?! (?i: onnection | ontent-length ) : )
      | [xX] (?! (?i: -forwarded- (?: for | host | uri ) | -original-uri ) : )
      | [ehkptuEHKPTU]
        (?! (?i: xpect | ttp2-settings | eep-alive | roxy-connection | e | railer | ransfer-encoding | pgrade ) : )
    )
    [A-Za-z0-9-]*+ : [^\r]*+ \r\n
"""
# The rest of a line that matters: its value without blanks around it, if no such line came before.
_ONCE = rb": (?(%d) (?!) ) [ \t]*+ ([^\r]*+) (?<! [ \t] ) \r\n"
_QUESTION = re.compile(
    rb"""
    [A-Z]{3,20} \ /verify ( (?: [/?] [!-~]*+ )? ) \ HTTP/1\.1 \r\n
    (?: (?= .* \r\n )
        (?: %b | [xX] (?i: -forwarded-for %b | -forwarded-host %b | -forwarded-uri %b | -original-uri %b ) )
    ){0,%d}
    \r\n
    """
    % (_OTHER, _ONCE % 2, _ONCE % 3, _ONCE % 4, _ONCE % 5, _MOST_LINES),
    re.VERBOSE,
)
_HEADS = {
    status: b"HTTP/1.1 %d %s\r\nDate: %%s\r\nCache-Control: no-store\r\n" % (status, RESPONSES[status])
    for status in (200, 401, 403)
}
_PLAIN = (tcp.Server, UnixConnection)  # transports whose socket has what a client gets, byte for byte
_NONE: tuple[bytes, ...] = ()
_END = b"Content-Length: 0\r\n\r\n"
_OF_CLIENT = _HEADS[200] + b"X-Forwarded-For: %s\r\n" + _END


def read_question(data: bytes) -> Question | None:
    """The question of a peer that is believed; None for what is no plain one."""
    read = _QUESTION.fullmatch(data) if len(data) <= _LONGEST and 0 not in data else None
    if read is None:
        return None
    tail, chain, host, uri, original = read.groups()
    return Question(
        True,
        False,
        tail,
        _NONE if chain is None else (chain,),
        _NONE if host is None else (host,),
        _NONE if uri is None else (uri,),
        _NONE if original is None else (original,),
    )


class LaneChannel(GateChannel):
    """A connection whose plain questions are answered at once."""

    _socket: Any = None  # while nothing of ours waits in the transport's buffers
    _policy: Policy | None = None
    _believed = False
    _untouched = True  # the channel is as it was made

    def connectionMade(self) -> None:
        """Who is at the other end stays the same."""
        super().connectionMade()
        self._peer = peer_of(self.getPeer())
        if type(self.transport) in _PLAIN:
            self._socket = self.transport.getHandle()

    def dataReceived(self, data: bytes) -> None:
        """Answer a plain question, or let the channel read what came."""
        policy = self.site.house.gate.policy
        if policy is not self._policy:
            self._policy, self._believed = policy, policy.believes(self._peer)
        ready = self._believed and (self._untouched or self._is_at_rest())
        if ready and self.site.house.manners.has_pages and may_navigate(data):
            ready = False
        if ready and self.site.house.canaries.live and self.site.house.canaries.concern(data):
            ready = False
        question = read_question(data) if ready else None
        if question is None:
            self._socket = None
            self._untouched = False
            super().dataReceived(data)
            return
        status, client = judge(self.site.house, self._peer, question)
        if client is None:
            self._send(_HEADS[status] % answers.date() + _END)
        else:
            said = question.chain[0]
            # A lone IPv4 address has one spelling, so what the proxy said is what it is told.
            text = said if b"," not in said and b":" not in said else str(client).encode()
            self._send(_OF_CLIENT % (answers.date(), text))
        self.timeOut = IDLE
        self.resetTimeout()

    def pauseProducing(self) -> None:
        """The client does not read as fast as it is answered."""
        self._untouched = False
        super().pauseProducing()

    def leave(self) -> None:
        """The service ends."""
        self._untouched = False
        super().leave()

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

    def _send(self, answer: bytes) -> None:
        """Straight to the socket, which saves the reactor two turns of its own; the rest as always."""
        if self._socket is not None:
            try:
                sent = self._socket.send(answer)
            except OSError:
                sent = 0
            if sent == len(answer):
                return
            answer = answer[sent:]
            self._socket = None
        self.transport.write(answer)
