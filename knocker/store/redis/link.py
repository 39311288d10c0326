"""The connections to the engine: one for commands, one that waits for changes. What goes wrong is Away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Any

from OpenSSL.SSL import Error as TlsError
from service_identity import VerificationError
from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as TimeIsOver
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure
from txredisapi import ConnectionError as Lost
from txredisapi import InvalidData, RedisError, RedisProtocol, ResponseError
from txredisapi import TimeoutError as NoReply

from knocker.store.redis.engine import Away, Engine, Unanswered, Unfit, not_let_in, refusal

PATIENCE = 2.0  # seconds that an answer may take
BLOCK = 5.0  # seconds that the engine keeps a question for changes
TOGETHER = 500  # changes, or records, in one answer


@dataclass(frozen=True)
class Script:
    """A script that the engine runs as one step. It is called by its digest, so that it travels once."""

    text: str

    @classmethod
    def of(cls, name: str) -> Script:
        """The one of this name in scripts/."""
        return cls((files("knocker.store.redis") / "scripts" / f"{name}.lua").read_text("utf-8"))

    @property
    def digest(self) -> str:
        """Its name there."""
        return sha1(self.text.encode(), usedforsecurity=False).hexdigest()


OPEN, CLOSE, BEAT, COPY, CLAIM = SCRIPTS = tuple(Script.of(name) for name in ("open", "close", "beat", "copy", "claim"))


class _Wire(RedisProtocol):  # type: ignore[misc]
    """txredisapi's protocol, for bytes: a text that is no UTF-8 must not end it. `end`: why the connection ended."""

    end = ""

    def __init__(self) -> None:
        super().__init__(charset=None, replyTimeout=PATIENCE, convertNumbers=False)

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        """Read answers; what is none ends the connection."""
        try:
            super().dataReceived(data, unpause)
        except InvalidData:
            self.end = "speaks another protocol than Redis'"
            self.transport.abortConnection()

    def connectionLost(self, why: Failure) -> None:
        """Fail what waits, and know why."""
        self.end = self.end or "closed the connection"
        if why.check(TlsError, VerificationError):
            self.end = "and this gate do not agree on TLS: see whitelist.tls_ca_file and tls_cert_file"
        super().connectionLost(why)


class _Wires(Factory):
    """Makes them, without a line in the log for each."""

    noisy = False
    protocol = _Wire


class Link:
    """An engine that answers. It is not mended when it breaks: another one is opened."""

    def __init__(self, commands: Any, waiting: Any) -> None:
        self._commands = commands
        self._waiting = waiting

    @classmethod
    async def open(cls, engine: Engine, reactor: Any) -> Link:
        """Reach the engine, and see whether it will do; raises Away."""
        commands = await _connected(engine, reactor)
        try:
            link = cls(commands, await _connected(engine, reactor))
        except BaseException:
            commands.transport.abortConnection()
            raise
        try:
            for script in SCRIPTS:
                await link.ask("SCRIPT", "LOAD", script.text)
        except BaseException:
            link.close()
            raise
        return link

    async def ask(self, *command: object) -> Any:
        """The answer to one command; raises Away."""
        return await _answer(self._commands, command)

    async def run(self, script: Script, keys: Sequence[str], *arguments: object) -> Any:
        """What a script says; raises Away."""
        return await self.ask("EVALSHA", script.digest, len(keys), *keys, *arguments)

    async def changes(self, stream: str, position: int) -> list[tuple[int, dict[bytes, bytes]]]:
        """The changes behind `position`, once there are any, or none after a while."""
        block = round(1000 * BLOCK)
        command = ("XREAD", "COUNT", TOGETHER, "BLOCK", block, "STREAMS", stream, f"{position}-0")
        found = await _answer(self._waiting, command, BLOCK + PATIENCE)
        return _entries(found[0][1]) if found else []

    async def past_changes(self, stream: str, position: int) -> list[tuple[int, dict[bytes, bytes]]]:
        """The changes behind `position` that there are now, so many of them as fit into one answer."""
        return _entries(await self.ask("XRANGE", stream, f"{position + 1}-0", "+", "COUNT", TOGETHER))

    def close(self) -> None:
        """End both connections; whatever waits fails."""
        for wire in (self._commands, self._waiting):
            if wire.transport is not None:
                wire.transport.abortConnection()


def _entries(found: list[Any]) -> list[tuple[int, dict[bytes, bytes]]]:
    return [(int(name.partition(b"-")[0]), dict(zip(fields[::2], fields[1::2], strict=True))) for name, fields in found]


async def _answer(wire: Any, command: Sequence[object], patience: float | None = None) -> Any:
    """One command's answer. With `patience` its own time limit counts, in seconds."""
    try:
        if patience is None:
            return await wire.execute_command(*command)
        asked = wire.execute_command(*command, apply_timeout=False)
        return await asked.addTimeout(patience, wire.reactor)
    except ResponseError as error:
        raise refusal(str(error)) from None
    except (NoReply, TimeIsOver, CancelledError):
        raise Unanswered("does not answer") from None
    except (Lost, ConnectionClosed):
        raise Unanswered(wire.end or "closed the connection") from None
    except RedisError as error:
        raise Away(f"answers with nonsense: {type(error).__name__}") from None


async def _connected(engine: Engine, reactor: Any) -> Any:
    endpoint = HostnameEndpoint(reactor, engine.host, engine.port, timeout=PATIENCE)
    wire: Any
    try:
        wire = await _secured(engine, endpoint).connect(_Wires())
    except ConnectingCancelledError:
        raise CancelledError from None
    except (ConnectError, DNSLookupError, CancelledError) as error:
        raise Away(f"cannot be reached: {str(error).rstrip('.') or 'it does not answer'}") from None
    wire.reactor = reactor
    try:
        await _introduced(engine, wire)
    except BaseException:
        wire.transport.abortConnection()
        raise
    return wire


async def _introduced(engine: Engine, wire: Any) -> None:
    if engine.password:
        user = (engine.user,) if engine.user else ()
        try:
            await wire.execute_command("AUTH", *user, engine.password)
        except ResponseError as error:
            raise not_let_in(str(error)) from None
        except (RedisError, ConnectionClosed):
            raise Away(wire.end or "does not answer") from None
    if engine.database:
        await _answer(wire, ("SELECT", engine.database))
    await _answer(wire, ("PING",))


def _secured(engine: Engine, endpoint: HostnameEndpoint) -> IStreamClientEndpoint:
    if not engine.tls:
        return endpoint
    try:
        trusted = trustRootFromCertificates(_certificates(engine.ca)) if engine.ca is not None else None
        ours = PrivateCertificate.loadPEM(engine.certificate) if engine.certificate is not None else None
        options = optionsForClientTLS(engine.host, trustRoot=trusted, clientCertificate=ours)
    except Exception as error:  # noqa: BLE001 - whatever a library thinks of what the files hold
        raise Unfit(
            f"cannot be spoken to: what whitelist.tls_ca_file or tls_cert_file holds cannot be used"
            f" ({type(error).__name__})"
        ) from None
    secured: IStreamClientEndpoint = wrapClientTLS(options, endpoint)
    return secured


def _certificates(bundle: bytes) -> list[Certificate]:
    """Those of a file that may hold several."""
    end = b"-----END CERTIFICATE-----"
    return [Certificate.loadPEM(part + end) for part in bundle.split(end)[:-1]]
