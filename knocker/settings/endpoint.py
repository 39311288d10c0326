"""server.listen: where the web port is, as a Twisted server endpoint says it (contract 2).

TCP and unix sockets are taken apart here; any other endpoint goes to Twisted as it stands, at the start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from knocker.settings import fields
from knocker.settings.model import UnixSocket
from knocker.settings.place import Place

_LONGEST_PATH = 107  # bytes: what the kernel's sockaddr_un holds, without the final NUL


def listen(value: Any, place: Place) -> dict[str, Any]:
    """The members of Server that an endpoint stands for; null is none."""
    if value is None:
        return {}
    kind, *parts = _parts(value) if isinstance(value, str) and value.isprintable() else [""]
    if kind == "haproxy":
        place.fault("whoever connects to a haproxy: endpoint may claim any address; name the proxy in trusted_proxies")
    elif not re.fullmatch(r"[a-z][a-z0-9]*", kind) or not parts:
        place.expected("a server endpoint such as unix:/run/knocker/knocker.sock or tcp:8000", value)
    elif kind in _KINDS:
        return _KINDS[kind](parts, place)
    return {"endpoint": value}


def _parts(text: str) -> list[str]:
    """What stands between the colons; a backslash takes the next character as it is."""
    parts, quoted = [""], False
    for character in text:
        if character == "\\" and not quoted:
            quoted = True
        elif character == ":" and not quoted:
            parts.append("")
        else:
            parts[-1] += character
            quoted = False
    return parts


def _named(parts: list[str], known: tuple[str, ...], place: Place) -> dict[str, str]:
    """The parts after the first one, each `name=value`."""
    found: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or name not in known or name in found:
            place.fault(f"{part!r}: expected {' or '.join(f'{name}=...' for name in known)}, each once")
        found[name] = value
    return found


def _unix(parts: list[str], place: Place) -> dict[str, Any]:
    path, others = parts[0], _named(parts[1:], ("mode",), place)
    mode = others.get("mode", "660")
    if not path or path.endswith("/") or len(os.fsencode(path)) > _LONGEST_PATH:
        place.fault(f"a unix socket needs the path of a file, of at most {_LONGEST_PATH} bytes")
    if not re.fullmatch(r"0?[0-7]{3}", mode):
        place.fault(f"mode={mode}: expected three octal digits such as 660")
        mode = "660"
    return {"unix": UnixSocket(path, int(mode, 8))}


def _tcp(parts: list[str], place: Place, everywhere: str) -> dict[str, Any]:
    others = _named(parts[1:], ("interface",), place)
    port = int(parts[0]) if re.fullmatch(r"[0-9]{1,5}", parts[0]) else 0
    return {
        "host": fields.ip_literal(others.get("interface") or everywhere, place),
        "port": fields.integer(1, 65535)(port, place),
    }


_KINDS: dict[str, Callable[[list[str], Place], dict[str, Any]]] = {
    "unix": _unix,
    "tcp": lambda parts, place: _tcp(parts, place, "0.0.0.0"),  # noqa: S104
    "tcp6": lambda parts, place: _tcp(parts, place, "::"),
}
