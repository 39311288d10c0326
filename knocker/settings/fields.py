"""How one value of the settings is read: each function answers the value's meaning or notes a fault."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any

from knocker.core.addresses import ALL_MAPPED, Address, Network, Networks
from knocker.core.hosts import Scope, parse_name
from knocker.core.paths import Exclusion
from knocker.settings.place import Place, Read

TEN_YEARS = 10 * 366 * 86400  # seconds


def boolean(value: Any, place: Place) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        place.expected("true or false", value)
    return value is True


def integer(least: int, most: int, words: str = "") -> Read:
    """A whole number from `least` to `most`; `words` say so in the fault."""

    def read(value: Any, place: Place) -> int:
        if type(value) is not int or not least <= value <= most:
            place.expected(words or f"a whole number from {least} to {most}", value)
            return least
        return value

    return read


def seconds(value: Any, place: Place) -> int:
    """A positive number of seconds, ten years at most."""
    if type(value) is int and value > TEN_YEARS:
        place.fault("more than ten years")
        return 1
    return integer(1, TEN_YEARS, "a positive integer")(value, place)  # type: ignore[no-any-return]


def moment(value: Any, place: Place) -> float | None:
    """A date, 00:00 UTC, or a date-time with its zone, as Unix seconds; null is None."""
    if value is None:
        return None
    found: date | None = value if isinstance(value, date) else None
    if isinstance(value, str):
        with suppress(ValueError):
            found = date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value)
    if isinstance(found, datetime):
        if found.tzinfo is None:
            place.fault("a date-time needs its zone, such as 2027-01-31T18:00:00Z")
            return None
    elif isinstance(found, date):
        found = datetime(found.year, found.month, found.day, tzinfo=UTC)
    else:
        place.expected("a date such as 2027-01-31, or a date-time with its zone", value)
        return None
    return found.timestamp()


def maybe(read: Read) -> Read:
    """What `read` reads, or null."""
    return lambda value, place: None if value is None else read(value, place)


def text(value: Any, place: Place) -> str:
    """A text without control characters."""
    if not isinstance(value, str) or not value or not value.isprintable():
        place.expected("a text on one line", value)
        return ""
    return value


def choice(*options: Any) -> Read:
    """One of a few values."""

    def read(value: Any, place: Place) -> Any:
        if not any(value == option and type(value) is type(option) for option in options):
            place.expected(" or ".join(str(option) for option in options), value)
        return value

    return read


def log_level(value: Any, place: Place) -> str:
    """A level of the log, in either case, also by the names of Python's own logging."""
    level = {"warning": "warn", "critical": "error"}.get(str(value).lower(), str(value).lower())
    if not isinstance(value, str) or level not in ("debug", "info", "warn", "error"):
        place.expected("debug, info, warn or error", value)
        return "info"
    return level


def items(read: Read) -> Callable[[Any, Place], list[Any]]:
    """A list, each item read alike."""

    def read_all(value: Any, place: Place) -> list[Any]:
        if not isinstance(value, list):
            place.expected("a list, as [one, another]", value)
            return []
        return [read(item, place.at(index)) for index, item in enumerate(value)]

    return read_all


def by_host(read: Read) -> Callable[[Any, Place], dict[str, Any]]:
    """A mapping whose names are host names."""

    def read_all(value: Any, place: Place) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            place.expected("a mapping of host names", value)
            return {}
        found: dict[str, Any] = {}
        for name, member in value.items():
            host = host_name(name, place)
            if host in found:
                place.fault(f"the host {host} stands here twice")
            found[host] = read(member, place.at(host))
        return found

    return read_all


def host_name(value: Any, place: Place) -> str:
    """One literal host name, lower case, without port."""
    try:
        return parse_name(value) if isinstance(value, str) else _refuse("no text")
    except ValueError:
        place.expected("a host name without port, such as app.example.com", value)
        return ""


def scope(value: Any, place: Place) -> Scope | None:
    """A key's `hosts`: names and ``*.`` patterns, or null for all."""
    if value is None:
        return None
    names = items(_pattern)(value, place)
    if value == []:
        place.fault("an empty list opens no host at all; leave the setting out to open every host")
    return Scope.parse(name for name in names if name)


def _pattern(value: Any, place: Place) -> str:
    try:
        if isinstance(value, str):
            Scope.parse([value])
            return value
    except ValueError:
        pass
    place.expected("a host name, or *. and a domain, without https:// and a path", value)
    return ""


def ip_literal(value: Any, place: Place) -> str:
    """An address to listen on."""
    try:
        Address.parse(value if isinstance(value, str) else "")
    except ValueError:
        place.expected('an IP address to listen on, such as "0.0.0.0" or "::"', value)
    return str(value)


def network(value: Any, place: Place) -> Network | None:
    """An address or a network, but not a whole address family."""
    try:
        found = Network.parse(value) if isinstance(value, str) else _refuse("no text")
    except ValueError:
        place.expected("an IP address or a network such as 192.168.1.0/24", value)
        return None
    if found.prefix == 0 or found.overlaps(ALL_MAPPED):
        place.fault(f"{value} covers everybody")
    elif not found.single and not _spelt_out(value, found):
        place.warn(f"{value} has host bits set and is read as {found}")
    return found


def _spelt_out(value: str, found: Network) -> bool:
    return Network.parse(value.partition("/")[0]).base == found.base


def network_list(value: Any, place: Place) -> Networks:
    """A list of addresses and networks."""
    return Networks(found for found in items(network)(value, place) if found is not None)


def exclusion(value: Any, place: Place) -> Exclusion | None:
    """One excluded path."""
    if not isinstance(value, str):
        place.expected("a path such as /metrics", value)
        return None
    try:
        return Exclusion.parse(value)
    except ValueError as error:
        place.fault(f"{value!r} cannot be excluded: {error}")
        return None


def exclusions(value: Any, place: Place) -> list[Exclusion]:
    """A list of excluded paths."""
    return [found for found in items(exclusion)(value, place) if found is not None]


def origin(value: Any, place: Place) -> str:
    """``*``, or one origin as browsers send it."""
    if isinstance(value, str) and (value == "*" or re.fullmatch(r"https?://[a-z0-9.:\[\]-]+", value)):
        return value
    place.expected('"*" or one origin such as https://app.example.com', value)
    return "*"


def hex_digits(value: Any, place: Place) -> str:
    """64 hexadecimal digits, which are never shown."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        place.fault("expected 64 hexadecimal digits")
        return ""
    return value.lower()


def anything(value: Any, place: Place) -> Any:
    """A member of a section that is switched off."""
    return value


def _refuse(message: str) -> Any:
    raise ValueError(message)
