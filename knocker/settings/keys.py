"""How api_keys is read. No secret, and no value that could be one, ever gets into a message."""

from __future__ import annotations

from typing import Any

from knocker.core.keys import LONGEST_KEY, Key, digest_of, udp_secret, well_formed
from knocker.settings import fields
from knocker.settings.place import SHORTEST_KEY, File, Place, Read, section

PLACEHOLDERS = ("CHANGE_ME", "CHANGEME", "REPLACE_WITH", "YOUR_SECRET", "YOUR_KEY", "YOUR_API_KEY")


def api_keys(default_prefix: int, key_file: File) -> Read:
    """The list of keys. `default_prefix`: whitelist.ipv6_prefix; `key_file` reads the bytes of a key's file."""

    def read(value: Any, place: Place) -> tuple[Key, ...]:
        if not isinstance(value, list) or not value:
            place.expected('a list of at least one key, each beginning with "- "', value)
            return ()
        found = [_members_of(item, place.at(index), index, key_file) for index, item in enumerate(value)]
        _distinct([members.get("name") for members in found], place, "name", "the name of another key")
        _distinct([members.get("digest") for members in found], place, "key", "the same secret as another key")
        _distinct([members.get("udp_secret") for members in found], place, "udp_secret", "the same as another key's")
        if place.complaints.faults:
            return ()
        return tuple(_key(members, default_prefix) for members in found)

    return read


def _distinct(values: list[Any], place: Place, member: str, what: str) -> None:
    first: dict[Any, int] = {}
    for index, value in enumerate(values):
        if value is not None and first.setdefault(value, index) != index:
            place.at(index).at(member).fault(f"{what}, api_keys[{first[value]}]: each key needs its own")


_MEMBERS: dict[str, Read] = {
    "name": fields.maybe(lambda value, place: _name(value, place)),
    "key": fields.maybe(lambda value, place: _plain(value, place)),
    "key_sha256": fields.maybe(lambda value, place: bytes.fromhex(fields.hex_digits(value, place))),
    "key_file": fields.maybe(fields.text),
    "ttl": fields.seconds,
    "max_ttl": fields.seconds,
    "allow_remote_whitelist": fields.boolean,
    "hosts": fields.scope,
    "max_addresses": fields.maybe(fields.integer(1, 1000)),
    "expires": fields.moment,
    "ipv6_prefix": fields.integer(48, 128),
    "udp": fields.boolean,
    "udp_secret": fields.maybe(lambda value, place: bytes.fromhex(fields.hex_digits(value, place))),
}
NAMES = tuple(_MEMBERS)


def _members_of(value: Any, place: Place, index: int, key_file: File) -> dict[str, Any]:
    """What one entry says, as far as it could be read; its name and digest are there even beside faults."""
    if not isinstance(value, dict):
        place.fault("expected a mapping with a key and its ttl")
        return {}
    found = section(value, place, _MEMBERS)
    named = [name for name in ("key", "key_sha256", "key_file") if value.get(name) is not None]
    if len(named) != 1:
        place.at("key").fault("exactly one of key, key_sha256 and key_file is needed")
    if value.get("udp_secret") is not None and value.get("key_sha256") is None:
        place.at("udp_secret").fault("it goes only beside key_sha256; from a plain key it is computed")
    if "ttl" not in value and "max_ttl" not in value:
        place.at("ttl").fault("missing: the seconds that a knock with this key opens the gate")
    elif found.get("ttl", 0) > found.get("max_ttl", found.get("ttl", 0)):
        place.at("ttl").fault(f"{found['ttl']} is more than max_ttl, {found['max_ttl']}")
    if value.get("name") is None:
        found["name"] = f"key-{index + 1}"
    plain = found.get("key") or ""
    if found.get("key_file") is not None and len(named) == 1:
        plain = _filed(found["key_file"], place.at("key_file"), key_file)
    found["digest"] = digest_of(plain.encode("ascii")) if plain else found.get("key_sha256") or None
    if not found.get("udp"):
        found["udp_secret"] = None
    elif plain:
        found["udp_secret"] = udp_secret(plain)
        if not well_formed(plain):
            # Whoever sees one packet could try easy keys on it for as long as he likes.
            place.at("udp").fault("a key that knocks over UDP has to be one that `knocker genkey` made")
    elif found.get("key_sha256") and not found.get("udp_secret"):
        place.at("udp").fault("beside key_sha256 it needs udp_secret, which `knocker genkey` printed with it")
    return found


def _key(members: dict[str, Any], default_prefix: int) -> Key:
    ttl: int = members.get("ttl") or members["max_ttl"]
    return Key(
        name=members["name"],
        digest=members["digest"],
        ttl=ttl,
        max_ttl=members.get("max_ttl", ttl),
        admin=members.get("allow_remote_whitelist", False),
        hosts=members.get("hosts"),
        ipv6_prefix=members.get("ipv6_prefix", default_prefix),
        max_addresses=members.get("max_addresses"),
        expires=members.get("expires"),
        udp_secret=members.get("udp_secret"),
    )


def _filed(path: str, place: Place, key_file: File) -> str:
    """The key in a file: its text but for one line break at the end."""
    data = key_file(path, place)
    if data is None:
        return ""
    try:
        text = data.decode("ascii")
    except ValueError:
        place.fault("the file holds other than printable ASCII characters")
        return ""
    return _plain(text.removesuffix("\n").removesuffix("\r"), place)


def _name(value: Any, place: Place) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 64 or not value.isprintable() or value != value.strip():
        place.fault("expected a name of 1 to 64 printable characters")
        return ""
    return value


def _plain(value: Any, place: Place) -> str:
    """A key in plain text."""
    fault = _weakness(value)
    if fault:
        place.fault(fault)
        return ""
    if value.startswith("kn_") and len(value) == 52 and not well_formed(value):
        place.warn("it looks like a generated key, but its checksum is wrong: was it mistyped?")
    return str(value)


def _weakness(value: Any) -> str:
    if not isinstance(value, str):
        return "a key is a text; put it in quotes, else YAML reads it as something else"
    if any(word in value.upper() for word in PLACEHOLDERS):
        return "this is the example's text; put a key of your own here (knocker genkey makes one)"
    if not (value.isascii() and value.isprintable()):
        return "a key has only printable ASCII characters: others cannot be sent reliably"
    if value != value.strip():
        return "a key that begins or ends with a space can never match"
    if len(value) < SHORTEST_KEY or len(set(value)) < 6:
        return f"too easy to guess: use {SHORTEST_KEY} characters or more, six different ones (try knocker genkey)"
    if len(value) > LONGEST_KEY:
        return f"longer than {LONGEST_KEY} characters, so that no knock could present it"
    return ""
