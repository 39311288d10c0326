"""whitelist.store: the engine that several gates share, and how it is reached (docs/cluster.md)."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from knocker.settings import fields
from knocker.settings.keys import PLACEHOLDERS
from knocker.settings.model import Shared
from knocker.settings.place import File, Place, Read

LONGEST_PEM = 1 << 20  # bytes
_LONGEST_PASSWORD = 256
_FORM = (
    "expected redis://HOST, with user, port, database and prefix as in redis://knocker@10.0.0.5:6379/0?prefix=knocker"
)

MEMBERS: dict[str, Read] = {
    "password_file": fields.maybe(fields.text),
    "min_replicas": fields.integer(0, 100),
    "tls_ca_file": fields.maybe(fields.text),
    "tls_cert_file": fields.maybe(fields.text),
}


def store(value: Any, place: Place) -> dict[str, Any]:
    """The members of Shared that an address stands for; null is none. Nothing of it is shown: it may hold a secret."""
    if value is None:
        return {}
    try:
        url = urlsplit(value if isinstance(value, str) and value.isprintable() else "")
        host, port = url.hostname, url.port
    except ValueError:
        place.fault(_FORM)
        return {}
    if url.password is not None:
        place.fault("a password does not belong here: write it into a file and name that in whitelist.password_file")
        return {}
    if url.scheme not in ("redis", "rediss") or not host or url.fragment or not re.fullmatch(r"/?|/\d{1,6}", url.path):
        place.fault(_FORM)
        return {}
    prefix = re.fullmatch(r"prefix=([A-Za-z0-9._-]{1,64})", url.query or "prefix=knocker")
    if prefix is None:
        place.fault("expected nothing behind ? but prefix= and a name of letters, digits, dots, dashes or underscores")
        return {}
    return {
        "host": host,
        "port": port or 6379,
        "database": int(url.path[1:] or "0"),
        "prefix": prefix[1],
        "user": url.username or "",
        "tls": url.scheme == "rediss",
    }


def shared(whitelist: dict[str, Any], place: Place, secret_file: File, pem_file: File) -> Shared | None:
    """The engine, from all that whitelist says of it; None without one."""
    found, named = whitelist.get("store"), {name: whitelist[name] for name in MEMBERS if whitelist.get(name)}
    if not found:
        for name in named:
            place.at(name).fault("it means something only beside whitelist.store")
        return None
    if not found["tls"]:
        for name in [name for name in named if name.startswith("tls_")]:
            place.at(name).fault("it means something only for rediss://")
            del named[name]
    if found["user"] and "password_file" not in named:
        place.at("password_file").fault("missing: the user in whitelist.store has a password")
    if "storage_path" in whitelist:
        place.at("storage_path").warn(
            "beside whitelist.store only its lock file is used; `knocker store copy` takes along what it holds"
        )
    password = named.get("password_file")
    return Shared(
        **found,
        password=_password(password, place.at("password_file"), secret_file) if password else "",
        ca=_pem(named.get("tls_ca_file"), place.at("tls_ca_file"), pem_file, b"CERTIFICATE"),
        certificate=_pem(named.get("tls_cert_file"), place.at("tls_cert_file"), pem_file, b"PRIVATE KEY"),
        min_replicas=named.get("min_replicas", 0),
    )


def _password(path: str, place: Place, secret_file: File) -> str:
    """The text of a file but for one line break at the end."""
    data = secret_file(path, place)
    if data is None:
        return ""
    text = data.decode("latin-1").removesuffix("\n").removesuffix("\r")
    if not 1 <= len(text) <= _LONGEST_PASSWORD or not (text.isascii() and text.isprintable()):
        place.fault(f"the file holds no password of 1 to {_LONGEST_PASSWORD} printable ASCII characters")
        return ""
    if any(word in text.upper() for word in PLACEHOLDERS):
        place.fault("the file still holds a placeholder")
        return ""
    return text


def _pem(path: str | None, place: Place, pem_file: File, kind: bytes) -> bytes | None:
    """A file of certificates, or of one with its private key."""
    if path is None:
        return None
    data = pem_file(path, place)
    if data is not None and not (b"-----BEGIN CERTIFICATE-----" in data and kind + b"-----" in data):
        also = " and its private key" if kind == b"PRIVATE KEY" else ""
        place.fault(f"the file holds no certificate{also} in PEM")
        return None
    return data
