"""Which gate a client command talks to, and with which key (contract 5)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from knocker.core.keys import LONGEST_KEY, well_formed
from knocker.faults import USAGE, Failed
from knocker.settings import fields
from knocker.settings.document import MOST_BYTES, Unreadable, read
from knocker.settings.files import OPEN_TO_OTHERS, contents
from knocker.settings.place import Complaints, Place, Read, section

UDP_PORT = 62201
TYPED = "what was typed"  # where a key was found that was asked for

Prompt = Callable[[], str]


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

    @property
    def authority(self) -> str:
        """Host and port as a URL has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

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
        raise ValueError("an address here has no query and no fragment")
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise ValueError("an address here has no user or password")
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


@dataclass(frozen=True, slots=True)
class SilentAccount:
    """Where a gate takes datagrams, its realm, and the key for it."""

    host: str
    port: int
    realm: str
    key: str = field(repr=False)
    key_source: str
    warnings: tuple[str, ...] = ()


def account(
    url: str | None,
    key_file: str | None,
    environ: Mapping[str, str],
    named: str = "--url",
    prompt: Prompt | None = None,
) -> Account:
    """Each of the two from its option, which is `named` so, else the environment, else client.yaml; raises Failed.

    `prompt` asks for a key that is nowhere.
    """
    sources = _Sources(environ)
    key_source, key = sources.key(key_file, bool(url is not None or environ.get("KNOCKER_URL")))
    url_source, url_text = sources.url(url, named)
    if url_text is None or not (key or prompt):
        raise _nothing(url_text is not None, sources.path)
    try:
        where = read_url(url_text)
    except ValueError as error:
        raise Failed(USAGE, f"{url_source}: {error}") from None
    if not key and prompt is not None:
        key_source, key = TYPED, prompt()
    key = key or ""
    sources.check(key_source, key)
    if where.in_clear:
        sources.warnings.append(f"{url_source}: over http:// the key travels in clear text; use https:// where you can")
    return Account(where, key, key_source, tuple(sources.warnings))


def silent_account(
    target: str | None,
    realm: str | None,
    key_file: str | None,
    environ: Mapping[str, str],
    prompt: Prompt | None = None,
) -> SilentAccount:
    """The same for datagrams. `target`: HOST or HOST:PORT of the option, None for client.yaml's; raises Failed."""
    sources = _Sources(environ)
    key_source, key = sources.key(key_file, bool(target))
    filed = {} if target and realm is not None else sources.filed.get("udp", {})
    if target:
        host, port = _target(target)
    elif "host" in filed:
        host, port = filed["host"], filed.get("port", UDP_PORT)
    else:
        raise Failed(USAGE, "which gate?", f"put host into {sources.path}, below udp, or use --udp HOST:PORT")
    if not key and prompt is not None:
        key_source, key = TYPED, prompt()
    elif not key:
        raise _nothing(True, sources.path)
    sources.check(key_source, key)
    if not well_formed(key):
        sources.warnings.append(f"{key_source}: a gate takes datagrams only with keys that `knocker genkey` made")
    return SilentAccount(
        host, port, filed.get("realm", "") if realm is None else realm, key, key_source, tuple(sources.warnings)
    )


def _target(text: str) -> tuple[str, int]:
    """HOST, HOST:PORT, or an IPv6 address in brackets before its port."""
    host, port = text, ""
    if text.startswith("[") or text.count(":") == 1:
        host, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    try:
        if port and not (re.fullmatch("[0-9]{1,5}", port, re.ASCII) and 1 <= int(port) <= 65535):
            raise ValueError("a port is a number from 1 to 65535")
        return _host(host.removeprefix("[").removesuffix("]")), int(port or UDP_PORT)
    except ValueError as error:
        raise Failed(USAGE, f"--udp: {error}", "write HOST or HOST:PORT, and IPv6 as [2001:db8::1]:62201") from None


class _Sources:
    """Where a person may have put what a command needs. client.yaml is read only where nothing else says it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.path = client_yaml(environ)
        self.warnings: list[str] = []
        self._filed: dict[str, Any] | None = None

    @property
    def filed(self) -> dict[str, Any]:
        """What client.yaml says."""
        if self._filed is None:
            self._filed = _filed(self.path, self.warnings)
        return self._filed

    def url(self, option: str | None, named: str) -> tuple[str, str | None]:
        """The gate's address, and where it stands."""
        if option is not None:
            return named, option
        if self.environ.get("KNOCKER_URL"):
            return "$KNOCKER_URL", self.environ["KNOCKER_URL"]
        return f"{self.path}: url", self.filed.get("url")

    def key(self, option: str | None, gate_known: bool) -> tuple[str, str | None]:
        """The key, and where it stands. `gate_known`: nothing else is needed of client.yaml."""
        source, key = "$KNOCKER_KEY", self.environ.get("KNOCKER_KEY")
        if option is not None:
            source, key = option, _filed_key(option, self.warnings)
        if key and gate_known:
            return source, key
        filed = self.filed
        if not key and filed.get("key_file"):
            source = os.path.join(os.path.dirname(self.path), os.path.expanduser(filed["key_file"]))
            key = _filed_key(source, self.warnings)
        elif not key:
            source, key = self.path, filed.get("key")
        return source, key

    def check(self, source: str, key: str) -> None:
        """Whether a gate could take this key; raises Failed."""
        fault = key_fault(key)
        if fault:
            raise Failed(USAGE, f"{source}: {fault}")
        if key.startswith("kn_") and len(key) == 52 and not well_formed(key):
            self.warnings.append(
                f"{source}: it looks like a generated key, but its checksum is wrong: was it mistyped?"
            )


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


_UDP: dict[str, Read] = {
    "host": lambda value, place: _udp_host(value, place),
    "port": fields.integer(1, 65535),
    "realm": lambda value, place: fields.text(value, place) if value != "" else "",
}
_TABLE: dict[str, Read] = {
    "url": fields.maybe(_url),
    "key": fields.maybe(_key),
    "key_file": fields.maybe(_file),
    "udp": lambda value, place: section(value, place, _UDP),
}
_NAMES = {**{name: name for name in _TABLE}, **{name: f"udp.{name}" for name in _UDP}}


def _udp_host(value: Any, place: Place) -> str:
    try:
        return _host(value if isinstance(value, str) else "")
    except ValueError as error:
        place.fault(str(error))
        return ""


def _filed(path: str, warnings: list[str]) -> dict[str, Any]:
    """What client.yaml says; empty where there is none."""
    try:
        data, is_open, _ = contents(path, MOST_BYTES + 1)
        document = read(data, _NAMES)
    except FileNotFoundError:
        return {}
    except (OSError, Unreadable) as error:
        raise Failed(USAGE, f"{path}: {(error.strerror or error) if isinstance(error, OSError) else error}") from None
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
        data, is_open, _ = contents(path, LONGEST_KEY + 3)
    except OSError as error:
        # Whoever gives the key itself for its file must not find it on the screen.
        parent = os.path.dirname(path)
        shown = f"{path}: " if parent not in ("", "/") and os.path.isdir(parent) else "the key file: "
        raise Failed(USAGE, f"{shown}{(error.strerror or error)}") from None
    if is_open:
        warnings.append(f"{path}: {OPEN_TO_OTHERS}")
    key = data.decode("latin-1").removesuffix("\n").removesuffix("\r")
    fault = key_fault(key)
    if fault:
        raise Failed(USAGE, f"{path}: {fault}")
    return key
