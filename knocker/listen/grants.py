"""GET /grants, a list that may be long, and DELETE /grants/{id} (contract 3.4)."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from itertools import islice

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer
from twisted.web.http import Request
from zope.interface import implementer

from knocker.core.grant import Grant, One
from knocker.core.moment import Moment
from knocker.core.refusals import Refusal, Refused
from knocker.listen import answers
from knocker.listen.call import Call
from knocker.listen.house import House
from knocker.listen.request import host_in, query

_TURN = 200  # grants that are written, and times ten sorted, before others have their turn


class Filter:
    """Which grants a caller asked to see; an admin key sees all, any other its own."""

    def __init__(self, call: Call) -> None:
        """Read the query; raises Refused for anything but ``key`` and ``host``, once each."""
        given = query(call.request, "key", "host")
        self.caller = call.caller
        self._owner = None if call.caller.admin else call.caller.name
        self._key = given["key"].decode("utf-8", "replace") if "key" in given else None
        self._host = host_in(given)

    def __contains__(self, grant: Grant) -> bool:
        """Whether the caller may and wants to see it."""
        return (
            (self._owner is None or grant.key == self._owner)
            and (self._key is None or grant.key == self._key)
            and (self._host is None or grant.hosts is None or self._host in grant.hosts)
        )


async def show(house: House, call: Call) -> bytes:
    """Answer GET /grants."""
    wanted = Filter(call)
    request = call.request
    request.setResponseCode(200)
    request.setHeader(b"content-type", b"application/json")
    if request.method != b"HEAD":
        await Listing(house, request, wanted).written
    return b""


async def revoke(house: House, call: Call, grant_id: str) -> bytes:
    """Answer DELETE /grants/{id}."""
    grant = house.gate.whitelist.with_id(grant_id, house.now())
    if grant is None or not (call.caller.admin or grant.key == call.caller.name):
        raise Refused(Refusal.NO_GRANT, "there is none of this id, or it is another key's")
    call.entry = str(grant.network)
    await house.store.remove(One(grant.key, grant.network, grant.host), f"revoked with the key {call.caller.name}")
    return answers.empty(call.request, 204)


@implementer(IPullProducer)
class Listing:
    """Writes the grants as the client reads them, a few at a time: a long list delays nobody's /verify."""

    def __init__(self, house: House, request: Request, wanted: Filter) -> None:
        self.written: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._house = house
        self._request = request
        self._wanted = wanted
        self._now = house.now()
        self._unsorted = iter(tuple(house.gate.whitelist))
        self._sorted: list[list[Grant]] = []
        self._merged: Iterator[Grant] | None = None
        self._separator = b""
        self._over = False
        request.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Do a little more: choose and sort a share, or write some lines."""
        if self._over:
            return
        if self._merged is None:
            share = list(islice(self._unsorted, 10 * _TURN))
            if share:
                chosen = [grant for grant in share if grant in self._wanted and grant.lives(self._now)]
                self._sorted.append(sorted(chosen, key=self._time_left))
                return
            self._merged = heapq.merge(*self._sorted, key=self._time_left)
            self._request.write(b'{"grants": [')
            return
        now = self._house.now()
        texts = [json.dumps(_shown(grant, now)).encode() for grant in islice(self._merged, _TURN)]
        if texts:
            self._request.write(self._separator + b",\n".join(texts))
            self._separator = b",\n"
            return
        caller = {"admin": self._wanted.caller.admin, "key": self._wanted.caller.name}
        self._request.write(b"], " + json.dumps(caller).encode()[1:] + b"\n")
        self._end()

    def _time_left(self, grant: Grant) -> float:
        return min(grant.expires_at - self._now.wall, grant.boot_ends_at - self._now.boot)

    def stopProducing(self) -> None:
        """The client is gone."""
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._request.unregisterProducer()
            self.written.callback(None)


def _shown(grant: Grant, now: Moment) -> dict[str, object]:
    return {
        "id": grant.id,
        "entry": str(grant.network),
        "key": grant.key,
        "via": grant.via.value,
        "hosts": None if grant.hosts is None else grant.hosts.patterns,
        "created_at": int(grant.created_at),
        "last_knock_at": int(grant.last_knock_at),
        "expires_at": grant.shown_end(now),
        "expires_in_seconds": grant.seconds_left(now),
    }
