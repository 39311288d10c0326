"""How a client command reaches a gate: the gate's address, a key, and one HTTP exchange (contract 5)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from knocker import __version__
from knocker.core.keys import LONGEST_KEY, well_formed
from knocker.faults import NO_ANSWER, REFUSED, USAGE, Failed, printable
from knocker.settings import fields
from knocker.settings.document import MOST_BYTES, Unreadable, read
from knocker.settings.file import OPEN_TO_OTHERS, contents
from knocker.settings.place import Complaints, Place, Read, section

if TYPE_CHECKING:
    import http.client
    import socket

TIMEOUT = 10  # seconds
SMALL, LARGE = 64 << 10, 64 << 20  # bytes of an answer: most of them, a list of grants


@dataclass(frozen=True, slots=True)
class Where:
    """The address of a gate; `path` is what stands before /knock."""

    secure: bool
    host: str
    port: int
    path: str = ""

    @property
    def in_clear(self) -> bool:
        """Whether a key on its way there can be read by others."""
        return not (self.secure or self.host == "localhost" or _is_loopback(self.host))

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"


def read_url(text: str) -> Where:
    """Read an address such as https://knock.example.com; raises ValueError, whose text never shows a part of it."""
    from urllib.parse import urlsplit

    if not re.match("https?://", text, re.IGNORECASE):
        raise ValueError("an address begins with https:// or http://, such as https://knock.example.com")
    if not text.isprintable() or re.search(r"[\s\\]", text):
        raise ValueError("an address has no spaces, backslashes or control characters")
    if "?" in text or "#" in text:
        raise ValueError("the address of a gate has no query and no fragment")
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise ValueError("the address of a gate has no user or password")
    if not parts.path.isascii():
        raise ValueError("the path of an address is ASCII; write other characters as %XX")
    secure = parts.scheme == "https"
    path = parts.path.rstrip("/").removesuffix("/knock").rstrip("/")
    return Where(secure, _host(parts.hostname or ""), _port(parts.netloc, 443 if secure else 80), path)


def _host(name: str) -> str:
    import ipaddress

    if ":" in name:
        if "%" in name:
            raise ValueError("an address has no zone such as %eth0")
        return str(ipaddress.IPv6Address(name))
    try:
        name = name.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise ValueError("the address names no host")
    return name


def _port(netloc: str, standard: int) -> int:
    found = re.search(r":([^:\]]*)$", netloc)
    if found is None or not found[1]:
        return standard
    if not re.fullmatch("[0-9]{1,5}", found[1], re.ASCII) or not 1 <= int(found[1]) <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return int(found[1])


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- Which gate, and with which key ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    """A gate and the key for it; `key_source` says where the key was found, `warnings` are for whoever asks."""

    where: Where
    key: str = field(repr=False)
    key_source: str
    warnings: tuple[str, ...] = ()


def account(url: str | None, key_file: str | None, environ: Mapping[str, str]) -> Account:
    """Each of the two from its option, else the environment, else client.yaml; raises Failed."""
    url_source, url_text = ("--url", url) if url is not None else ("$KNOCKER_URL", environ.get("KNOCKER_URL"))
    warnings: list[str] = []
    key_source, key = "$KNOCKER_KEY", environ.get("KNOCKER_KEY")
    if key_file is not None:
        key_source, key = key_file, _filed_key(key_file, warnings)
    path = client_yaml(environ)
    filed = {} if (url is not None or url_text) and key else _filed(path, warnings)
    if url is None and not url_text:
        url_source, url_text = f"{path}: url", filed.get("url")
    if not key and filed.get("key_file"):
        key_source = os.path.join(os.path.dirname(path), os.path.expanduser(filed["key_file"]))
        key = _filed_key(key_source, warnings)
    elif not key:
        key_source, key = path, filed.get("key")
    if url_text is None or not key:
        raise _nothing(url_text is not None, path)
    fault = key_fault(key)
    if fault:
        raise Failed(USAGE, f"{key_source}: {fault}")
    if key.startswith("kn_") and len(key) == 52 and not well_formed(key):
        warnings.append(f"{key_source}: it looks like a generated key, but its checksum is wrong: was it mistyped?")
    try:
        where = read_url(url_text)
    except ValueError as error:
        raise Failed(USAGE, f"{url_source}: {error}") from None
    if where.in_clear:
        warnings.append(f"{url_source}: over http:// the key travels in clear text; use https:// where you can")
    return Account(where, key, key_source, tuple(warnings))


def _nothing(has_url: bool, path: str) -> Failed:
    if has_url:
        return Failed(USAGE, "no key to show", f"put it into {path} (key or key_file), $KNOCKER_KEY, or use --key-file")
    return Failed(USAGE, "which gate?", f"put its url into {path} or $KNOCKER_URL, or use --url https://...")


def client_yaml(environ: Mapping[str, str]) -> str:
    """Where a person's own settings are."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # the XDG specification has relative ones ignored
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
    return os.path.join(base, "knocker", "client.yaml")


def key_fault(key: str) -> str:
    """Why no gate could take this text as a key; empty where one could."""
    if not key:
        return "the key is empty"
    if not (key.isascii() and key.isprintable()):
        return "a key has only printable ASCII characters, on one line"
    if key != key.strip():
        return "a key that begins or ends with a space can never match"
    return f"longer than {LONGEST_KEY} characters, so that no gate would take it" if len(key) > LONGEST_KEY else ""


def _key(value: Any, place: Place) -> str:
    fault = key_fault(value) if isinstance(value, str) else "a key is a text; put it in quotes"
    if fault:
        place.fault(fault)
    return str(value)


def _file(value: Any, place: Place) -> str:
    if not isinstance(value, str) or not value or "\0" in value:  # not shown: it may be the key itself
        place.fault("expected the path of a file")
    return str(value)


def _url(value: Any, place: Place) -> str:
    try:
        read_url(value if isinstance(value, str) else "")
    except ValueError as error:
        place.fault(str(error))
    return str(value)


_UDP: dict[str, Read] = {"host": fields.text, "port": fields.integer(1, 65535), "realm": fields.anything}
_TABLE: dict[str, Read] = {
    "url": fields.maybe(_url),
    "key": fields.maybe(_key),
    "key_file": fields.maybe(_file),
    "udp": lambda value, place: section(value, place, _UDP),
}
_NAMES = {**{name: name for name in _TABLE}, **{name: f"udp.{name}" for name in _UDP}}


def _filed(path: str, warnings: list[str]) -> dict[str, str]:
    """What client.yaml says; empty where there is none."""
    try:
        data, is_open = contents(path, MOST_BYTES + 1)
        document = read(data, _NAMES)
    except FileNotFoundError:
        return {}
    except (OSError, Unreadable) as error:
        raise Failed(USAGE, f"{path}: {_reason(error) if isinstance(error, OSError) else error}") from None
    if not isinstance(document, dict | None):  # not shown: it may be a key alone
        raise Failed(USAGE, f"{path}: expected a mapping with url, and key or key_file")
    complaints = Complaints(_NAMES)
    found = section(document, Place("", complaints), _TABLE)
    if found.get("key") and found.get("key_file"):
        complaints.faults.append("key: key_file is there too, and only one of them can count")
    if complaints.faults:
        raise Failed(USAGE, "\n".join(f"{path}: {fault}" for fault in complaints.faults))
    if found.get("key") and is_open:
        warnings.append(f"{path}: {OPEN_TO_OTHERS}")
    return found


def _filed_key(path: str, warnings: list[str]) -> str:
    """The text of a key file but for one line break at the end."""
    try:
        data, is_open = contents(path, LONGEST_KEY + 3)
    except OSError as error:
        raise Failed(USAGE, f"{path}: {_reason(error)}") from None
    if is_open:
        warnings.append(f"{path}: {OPEN_TO_OTHERS}")
    key = data.decode("latin-1").removesuffix("\n").removesuffix("\r")
    fault = key_fault(key)
    if fault:
        raise Failed(USAGE, f"{path}: {fault}")
    return key


# --- One exchange ----------------------------------------------------------------------------------------------------


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
    import socket

    names = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
    try:
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = _reason(error) if isinstance(error, OSError) else "it is no host name"
        raise Failed(NO_ANSWER, f"no address of {where.host} could be found: {why}") from None
    return [Candidate(names[row[0]], row[0], row[4]) for row in found if row[0] in names]


def ask(account: Account, method: str, path: str, candidates: Sequence[Candidate], most: int = SMALL) -> Answer:
    """One request at the first candidate that can be reached, without proxies or redirects; raises Failed."""
    import http.client

    where = account.where
    connection = http.client.HTTPConnection(where.host, where.port, timeout=TIMEOUT)
    connection.auto_open = 0
    connection.default_port = 443 if where.secure else 80  # which of them the Host line may leave out
    connection.sock = _connected(where, candidates)
    lines = {"X-Api-Key": account.key, "Accept": "application/json", "Connection": "close"}
    try:
        connection.request(method, where.path + path, headers={**lines, "User-Agent": f"knocker/{__version__}"})
        with connection.getresponse() as response:
            return _received(response, where, most)
    except OSError as error:
        raise Failed(NO_ANSWER, f"no answer from {where}: {_reason(error)}") from None
    except http.client.HTTPException:
        raise Failed(REFUSED, f"{where} does not answer in HTTP, or only half") from None
    finally:
        connection.close()


def _received(response: http.client.HTTPResponse, where: Where, most: int) -> Answer:
    body = response.read(most + 1)
    if len(body) > most:
        raise Failed(REFUSED, f"{where} answered {response.status} with more than {most} bytes")
    if response.length:
        raise Failed(NO_ANSWER, f"no whole answer from {where}: the connection was closed early")
    return Answer(response.status, body, response.headers)


def _connected(where: Where, candidates: Sequence[Candidate]) -> socket.socket:
    """A connection to the first candidate that takes one; raises the first one's Failed."""
    first = Failed(NO_ANSWER, f"{where.host} has no address")
    for number, candidate in enumerate(candidates):
        try:
            return _connected_to(where, candidate)
        except Failed as failed:
            first = failed if number == 0 else first
    raise first


def _connected_to(where: Where, candidate: Candidate) -> socket.socket:
    import socket
    import ssl

    plain = None
    try:
        plain = socket.socket(candidate.family, socket.SOCK_STREAM)
        plain.settimeout(TIMEOUT)
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
        return f"nothing came within {TIMEOUT} s" if error.errno is None else "it timed out"
    if getattr(error, "verify_message", ""):  # of a ssl.SSLError, as is `reason`
        return printable(str(getattr(error, "verify_message", "")))
    text = str(getattr(error, "reason", "") or "").lower().replace("_", " ")
    return printable(text or error.strerror or str(error) or type(error).__name__)
