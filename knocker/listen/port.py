"""The web port: on an address, on a unix socket, or wherever a Twisted endpoint is."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

_BACKLOG = 512  # proxies open connections in bursts
_AT_ONCE = 8  # connections


class CannotListen(Exception):
    """Nobody can be answered there; the text says why."""


def on_address(reactor: Any, host: str, port: int, site: IProtocolFactory) -> IListeningPort:
    """Listen on TCP; raises CannotListen."""
    return _started(_TcpPort(port, site, _BACKLOG, host, reactor))


def on_endpoint(reactor: Any, text: str, site: IProtocolFactory) -> IListeningPort:
    """Listen wherever an endpoint's text says, as Twisted reads it; raises CannotListen."""
    try:
        endpoint = serverFromString(reactor, text)
        if isinstance(endpoint, AdoptedStreamServerEndpoint):
            return _started(_adopted(reactor, endpoint, site))
        opened = endpoint.listen(site)
    except CannotListen:
        raise
    except Exception as error:  # noqa: BLE001 - an endpoint's parser raises what it likes
        raise CannotListen(f"Twisted has no such endpoint: {error}") from None
    return _outcome(opened)


def on_unix_socket(reactor: Any, path: str, mode: int, site: IProtocolFactory) -> IListeningPort:
    """Listen on a unix socket whose file gets the permissions `mode`; raises CannotListen."""
    _make_way(path)
    return _started(_UnixPort(os.fsencode(path), site, _BACKLOG, mode, reactor))


def _started(port: tcp.Port) -> IListeningPort:
    try:
        port.startListening()
    except CannotListenError as error:
        raise CannotListen(_reason(error)) from None
    return port


class _Fair:
    """Takes a few connections in a turn; Twisted takes more and more, and a burst of them fills a turn alone."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        # What Twisted says is Twisted's, also of a class of ours: the log tells it only so often.
        self._logger = Logger(namespace="twisted.internet.tcp.Port")

    @property
    def numberAccepts(self) -> int:
        """How many at once."""
        return _AT_ONCE

    @numberAccepts.setter
    def numberAccepts(self, _: int) -> None:
        """Stays as it is, however many wait."""


class _TcpPort(_Fair, tcp.Port):
    pass


class UnixConnection(unix.Server):
    """One on a unix socket that takes bytes alone.

    Twisted's also takes open files from whoever connects, to close them and to log each time; and it reads more slowly.
    """

    doRead = tcp.Connection.doRead  # type: ignore[assignment]


class _UnixPort(_Fair, unix.Port):
    transport = UnixConnection


class _AdoptedPort(_UnixPort):
    """A unix socket that systemd made: it stays as systemd has it, and so does its file.

    Twisted would set the file's permissions at the start, which only its owner may, and remove it at the end; and it
    would shut the socket down, which systemd and the next Knocker go on to use.
    """

    _shouldShutdown = False

    def startListening(self) -> None:
        """Begin, without a change to the file."""
        self.backlog = _BACKLOG
        self._bindPath = b"\0" + self._bindPath  # one without a file, as far as Twisted can see
        super().startListening()


def _adopted(reactor: Any, endpoint: AdoptedStreamServerEndpoint, site: IProtocolFactory) -> tcp.Port:
    """The port of a socket that systemd opened; raises CannotListen."""
    descriptor, family = endpoint.fileno, endpoint.addressFamily
    with socket.socket(fileno=os.dup(descriptor)) as found:  # without a family it asks the kernel
        if found.family != family:
            # A peer's address would be read as what it is not, beyond its end.
            raise CannotListen(f"that socket is one of domain={found.family.name.removeprefix('AF_')}")
        if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise CannotListen("nobody can connect to that socket; its unit needs ListenStream=")
    os.set_blocking(descriptor, False)
    if family == socket.AF_UNIX:
        port: tcp.Port = _AdoptedPort._fromListeningDescriptor(reactor, descriptor, site)  # noqa: SLF001
    else:
        port = _TcpPort._fromListeningDescriptor(reactor, descriptor, family, site)  # noqa: SLF001
    os.close(descriptor)
    return port


def is_open_to_all(port: IListeningPort) -> bool:
    """Whether it is a unix socket to which every user of the machine may connect, or may for all that can be seen."""
    host = port.getHost()
    if not isinstance(host, UNIXAddress):
        return False
    try:
        return bool(os.stat(host.name or b"").st_mode & 0o002)
    except (OSError, ValueError):  # one without a file has no permissions
        return True


async def close(port: IListeningPort) -> None:
    """Stop listening; a unix socket's file goes too, unless systemd made it."""
    host = port.getHost()
    if isinstance(host, UNIXAddress) and host.name and not isinstance(port, _AdoptedPort):
        # Twisted removes the file, and stumbles where somebody else did.
        with contextlib.suppress(OSError):
            os.close(os.open(host.name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    closed = port.stopListening()
    if isinstance(closed, Deferred):
        await closed


def _make_way(path: str) -> None:
    """Remove the socket of a Knocker that was killed; raises CannotListen where something else is there."""
    try:
        kind = os.lstat(path).st_mode
    except OSError:  # not there, or binding will say what is wrong
        return
    if not stat.S_ISSOCK(kind):
        raise CannotListen("a file is there already that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                os.unlink(path)
            return
        except OSError:  # its queue is full, or it is not ours to ask
            pass
    raise CannotListen("another process listens there")


def _outcome(opened: Deferred[IListeningPort]) -> IListeningPort:
    outcome: list[Any] = []
    opened.addBoth(outcome.append)
    if not outcome:
        raise CannotListen("it does not listen at once")
    if isinstance(outcome[0], Failure):
        raise CannotListen(_reason(outcome[0].value))
    found: IListeningPort = outcome[0]
    return found


def _reason(error: BaseException | None) -> str:
    return str(error.socketError.strerror) if isinstance(error, CannotListenError) else str(error)
