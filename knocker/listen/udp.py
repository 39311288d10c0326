"""Knocks as single datagrams: never answered, never logged one by one until their key is proven (contract 4)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.udp import Port
from twisted.python.failure import Failure

from knocker.core.addresses import Address
from knocker.core.grant import Wish
from knocker.core.keys import Key
from knocker.core.packets.native import SIZE, Knock, NotOurs
from knocker.core.packets.pace import Pace
from knocker.core.packets.reader import Packet, Reader, Skewed
from knocker.core.packets.rules import meaning
from knocker.core.packets.seen import Seen, Sighting
from knocker.core.refusals import Refusal, Refused
from knocker.listen.call import LINES_A_MINUTE, forbidden_here
from knocker.listen.house import House
from knocker.listen.port import CannotListen
from knocker.listen.request import address_of

AT_ONCE = 8  # datagrams that are read before the others have their turn: a flood may not starve /verify
_BUFFER = 1 << 20  # bytes that the system keeps for us meanwhile

Keep = Callable[[Sighting], Awaitable[None]]


class SilentDoor(DatagramProtocol):
    """Reads datagrams. `keep` stores a packet's sighting before anything comes of it."""

    noisy = False

    def __init__(self, house: House, reader: Reader, pace: Pace, seen: Callable[[], Seen], keep: Keep) -> None:
        self.house = house
        self.reader = reader
        self.pace = pace
        self._seen = seen
        self._keep = keep
        self._acting: set[Deferred[None]] = set()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Drop it, or see what it asks for."""
        try:
            packet = self.reader.read(datagram, self.house.now().wall)
            sighting = self._admit(packet)
        except Skewed as skewed:
            self._drop(skewed)
            self._tell_of_clock(skewed)
        except NotOurs as why:
            self._drop(why)
        except Exception:  # noqa: BLE001 - a mistake of ours must not end the door
            self.house.reports.failure("udp_error", "a datagram failed", Failure())
        else:
            acting: Deferred[None] = Deferred.fromCoroutine(self._act(packet, sighting, address_of(addr[0])))
            self._acting.add(acting)
            acting.addErrback(self._failed).addBoth(lambda _: self._acting.discard(acting))

    def finished(self) -> Deferred[Any]:
        """Fires when the knocks that are being stored are."""
        return DeferredList(list(self._acting))

    def _admit(self, packet: Packet) -> Sighting:
        now, knock = self.house.now(), packet.knock
        # First whether it is new: copies of one knock are no other knocks.
        sighting = self._seen().admit(packet.owner, knock.nonce, knock.moment, round(now.wall * 1000))
        if not self.pace.allows(packet.key, now.boot):
            self._seen().forget(sighting)
            self.house.reports.report(
                f"udp_pace {packet.key}",
                "the key {key} knocked over UDP more often than security.knock_rate_limit.successful_requests allows",
                key=packet.key,
            )
            raise NotOurs("limited")
        return sighting

    async def _act(self, packet: Packet, sighting: Sighting, source: Address) -> None:
        try:
            await self._keep(sighting)
            await self._carry_out(packet.knock, source, self._key(packet))
        except NotOurs as why:  # another gate took it
            self._drop(why)
        except Refused as refused:
            self._report(packet, source, refused)
        else:
            self.house.tally.knock("udp", "closed" if packet.knock.revoke else "granted")

    def _key(self, packet: Packet) -> Key:
        """The packet's key as it is now."""
        key = self.house.gate.policy.keyring.named(packet.key)
        if key is None or not self.reader.knows(packet):
            raise Refused(Refusal.BAD_KEY, f"the key {packet.key} changed while its knock waited")
        if key.is_over(self.house.now().wall):
            raise Refused(Refusal.BAD_KEY, f"the key {packet.key} has expired: see its `expires` in api_keys")
        return key

    async def _carry_out(self, knock: Knock, source: Address, key: Key) -> None:
        meant = meaning(knock, source, key, forbidden_here(self.house))
        if isinstance(meant, Wish):
            await self.house.store.put(meant)
        else:
            await self.house.store.remove(meant, "its owner left")

    def _drop(self, why: NotOurs) -> None:
        self.house.tally.drop(f"udp_{why}")
        if str(why) == "fenced":
            self.house.reports.report(
                "udp_fenced",
                "refused a UDP knock that was made before the file of udp.state_path knew what was seen; later ones"
                " are taken, udp.window_seconds after that start at the latest",
            )
        if self._seen().is_behind(round(self.house.now().wall * 1000)):
            self.house.reports.report(
                "udp_behind",
                "UDP knocks are refused: the clock is further behind the highest time that it had than"
                " udp.window_seconds; set it right, or remove the file of udp.state_path and start anew",
            )

    def _tell_of_clock(self, skewed: Skewed) -> None:
        self.house.reports.report(
            f"udp_clock {skewed.key}",
            "refused a UDP knock with the key {key}: its sender's clock is {seconds} s {way} of ours; set it right",
            key=skewed.key,
            seconds=round(abs(skewed.seconds)),
            way="ahead" if skewed.seconds > 0 else "behind",
        )

    def _report(self, packet: Packet, source: Address, refused: Refused) -> None:
        self.house.tally.knock("udp", refused.refusal.name.lower())
        named = packet.knock.network
        self.house.reports.report(
            f"udp_{refused.refusal.name}",
            "refused a UDP knock of {client}: {error} {why}",
            lines_a_minute=LINES_A_MINUTE,
            event="refused",
            client=source,
            error=refused.refusal.value,
            why=refused.why,
            key=packet.key,
            entry=named or source,
            via="udp",
            host=None,
        )

    def _failed(self, failure: Failure) -> None:
        self.house.tally.drop("udp_not_kept")
        self.house.reports.failure("udp_error", "a UDP knock failed", failure)


class _FairPort(Port):
    """Reads a few datagrams in a turn; Twisted counts bytes, and a flood of empty datagrams has none."""

    def doRead(self) -> None:
        """Read what is there, up to AT_ONCE."""
        for _ in range(AT_ONCE):
            try:
                data, addr = self.socket.recvfrom(self.maxPacketSize)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ECONNREFUSED):
                    return
                raise
            self.protocol.datagramReceived(data, addr)


def listen(reactor: Any, host: str, port: int, door: SilentDoor) -> Port:
    """Open the door; raises CannotListen."""
    found = _FairPort(port, door, host, SIZE + 1, reactor)  # one byte more tells what is too long
    try:
        found.startListening()
    except CannotListenError as error:
        raise CannotListen(str(getattr(error.socketError, "strerror", error))) from None
    with suppress(OSError):
        found.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    return found
