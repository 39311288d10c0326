"""How a client command reaches a gate: one HTTP exchange at the address that it is told (contract 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from knocker import __version__
from knocker.account import Account, Where
from knocker.core.addresses import Address
from knocker.core.printable import printable
from knocker.faults import NO_ANSWER, REFUSED, Failed

if TYPE_CHECKING:
    import http.client
    import socket

TIMEOUT = 10  # seconds
LONGEST = 120.0  # seconds that an answer may take as a whole
SMALL, LARGE = 64 << 10, 64 << 20  # bytes of an answer: most of them, a list of grants


class Candidate(NamedTuple):
    """One address that a gate may be reached at; `name` is IPv4 or IPv6."""

    name: str
    family: int
    address: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gate said."""

    status: int
    body: bytes
    headers: http.client.HTTPMessage


def resolve(where: Where) -> list[Candidate]:
    """All addresses of a gate, the likeliest first; raises Failed."""
    return addresses(where.host, where.port)


def addresses(host: str, port: int) -> list[Candidate]:
    """All addresses of a name, for connections and datagrams alike; raises Failed."""
    import socket

    names = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = _reason(error) if isinstance(error, OSError) else "it is no host name"
        raise Failed(NO_ANSWER, f"no address of {host} could be found: {why}") from None
    return [Candidate(names[row[0]], row[0], row[4]) for row in found if row[0] in names]


def own_address(candidate: Candidate) -> Address | None:
    """The address that this machine would send from, None where it has none for that; sends nothing."""
    import socket

    try:
        with socket.socket(candidate.family, socket.SOCK_DGRAM) as probe:
            probe.connect(candidate.address)
            return Address.parse(str(probe.getsockname()[0]).partition("%")[0])
    except (OSError, ValueError):
        return None


def ask(
    account: Account,
    method: str,
    path: str,
    candidates: Sequence[Candidate],
    most: int = SMALL,
    body: bytes = b"",
    forged: Sequence[tuple[str, str]] = (),
) -> Answer:
    """One request with the account's key, at the first candidate that can be reached; raises Failed.

    `forged`: more header lines, of those that only a proxy should send.
    """
    lines = [("X-Api-Key", account.key), ("Accept", "application/json"), *forged]
    if body:
        lines.append(("Content-Type", "application/json"))
    return exchange(account.where, method, account.where.path + path, candidates, lines, body, most, TIMEOUT)


def probe(where: Where, target: str, candidates: Sequence[Candidate], within: float) -> int:
    """The status that anybody is answered there, whatever follows it; raises Failed."""
    return exchange(where, "GET", target, candidates, [("Accept", "text/html")], b"", -1, within).status


def exchange(
    where: Where,
    method: str,
    target: str,
    candidates: Sequence[Candidate],
    lines: Sequence[tuple[str, str]],
    body: bytes = b"",
    most: int = SMALL,
    within: float = TIMEOUT,
    host: str | None = None,
) -> Answer:
    """One request without proxies or redirects, for the target and with the lines as they are; raises Failed.

    `most` bytes of the answer are read, none where it is below 0; `within`: seconds for each step, and `LONGEST` for
    all; `host`: the Host line, instead of the one that is due.
    """
    import http.client

    connection = http.client.HTTPConnection(where.host, where.port, timeout=within)
    connection.auto_open = 0
    connection.default_port = 443 if where.secure else 80  # which of them the Host line may leave out
    connection.sock = _connected(where, candidates, within)
    try:
        with _cut_off_at_last(connection.sock):
            connection.putrequest(method, target, skip_host=host is not None)
            for name, value in _all_lines(lines, method, body, host):
                connection.putheader(name, value)
            connection.endheaders(body or None)
            with connection.getresponse() as response:
                return _received(response, where, most)
    except OSError as error:
        raise Failed(NO_ANSWER, f"no answer from {where}: {_reason(error)}") from None
    except (http.client.HTTPException, ValueError):  # the latter for a length that is no number, and the like
        raise Failed(REFUSED, f"{where} does not answer in HTTP, or only half") from None
    finally:
        connection.close()


def _all_lines(
    lines: Sequence[tuple[str, str]], method: str, body: bytes, host: str | None
) -> Iterator[tuple[str, str]]:
    if host is not None:
        yield "Host", host
    yield from lines
    yield "Connection", "close"
    yield "User-Agent", f"knocker/{__version__}"
    if body or method == "POST":
        yield "Content-Length", str(len(body))


@contextmanager
def _cut_off_at_last(wire: socket.socket) -> Iterator[None]:
    """Whoever sends a little now and then, or says "go on" without end, is cut off all the same."""
    import socket
    import threading

    def cut_off() -> None:
        with suppress(OSError):
            wire.shutdown(socket.SHUT_RDWR)

    alarm = threading.Timer(LONGEST, cut_off)
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


def _received(response: http.client.HTTPResponse, where: Where, most: int) -> Answer:
    if most < 0:
        return Answer(response.status, b"", response.headers)
    body = response.read(most + 1)
    if len(body) > most:
        raise Failed(REFUSED, f"{where} answered {response.status} with more than {most} bytes")
    if response.length:
        raise Failed(NO_ANSWER, f"no whole answer from {where}: the connection was closed early")
    return Answer(response.status, body, response.headers)


def _connected(where: Where, candidates: Sequence[Candidate], within: float) -> socket.socket:
    """A connection to the first candidate that takes one; raises the first one's Failed."""
    first = Failed(NO_ANSWER, f"{where.host} has no address")
    for number, candidate in enumerate(candidates):
        try:
            return _connected_to(where, candidate, within)
        except Failed as failed:
            first = failed if number == 0 else first
    raise first


def _connected_to(where: Where, candidate: Candidate, within: float) -> socket.socket:
    import socket
    import ssl

    plain = None
    try:
        plain = socket.socket(candidate.family, socket.SOCK_STREAM)
        plain.settimeout(within)
        plain.connect(candidate.address)
        if not where.secure:
            return plain
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context.wrap_socket(plain, server_hostname=where.host)
    except OSError as error:
        if plain is not None:
            plain.close()
        if isinstance(error, ssl.SSLCertVerificationError):
            hint = "is this the right name? $SSL_CERT_FILE may name the certificate of an authority of your own"
            raise Failed(NO_ANSWER, f"{where} is not trusted: {_reason(error)}", hint) from None
        if isinstance(error, ssl.SSLError):
            hint = "does it speak https there?"
            raise Failed(NO_ANSWER, f"no TLS with {where}: {_reason(error)}", hint) from None
        raise Failed(NO_ANSWER, f"no answer from {where}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came in time" if error.errno is None else "it timed out"
    if getattr(error, "verify_message", ""):  # of a ssl.SSLError, as is `reason`
        return printable(str(getattr(error, "verify_message", "")))
    text = str(getattr(error, "reason", "") or "").lower().replace("_", " ")
    return printable(text or error.strerror or str(error) or type(error).__name__)
