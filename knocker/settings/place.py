"""Where in the settings a value stands, and every complaint about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

SHORTEST_KEY = 16  # characters

Read = Callable[[Any, "Place"], Any]
File = Callable[[str, "Place"], bytes | None]  # the bytes of a file that a setting names, or a fault


class Complaints:
    """All faults and warnings of one reading. `names`: every setting's name and path, for suggestions."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names
        self.faults: list[str] = []
        self.warnings: list[str] = []


class Place:
    """One value's path, ``api_keys[0].ttl``. Below api_keys nothing is shown that is long enough to be a key."""

    def __init__(self, path: str, complaints: Complaints) -> None:
        self.path = path
        self.complaints = complaints

    def at(self, name: str | int) -> Place:
        """The place of one member or item."""
        dotted = f"{self.path}.{name}" if self.path else f"{name}"
        path = f"{self.path}[{name}]" if isinstance(name, int) else dotted
        return Place(path, self.complaints)

    def fault(self, message: str) -> None:
        """Say that the settings cannot be used."""
        self.complaints.faults.append(f"{self.path}: {message}" if self.path else message)

    def warn(self, message: str) -> None:
        """Say what the admin should know."""
        self.complaints.warnings.append(f"{self.path}: {message}" if self.path else message)

    def expected(self, what: str, value: Any) -> None:
        """The fault of a wrong type or form."""
        self.fault(f"expected {what}, got {self.shown(value)}")

    def shown(self, value: Any) -> str:
        """A value as a message may show it: short, on one line, and nothing that could be a key."""
        if isinstance(value, (dict, list)):
            return "a mapping" if isinstance(value, dict) else "a list"
        if value is None or isinstance(value, bool):
            return {None: "nothing", True: "true", False: "false"}[value]
        text = repr(value)
        if self.path.startswith("api_keys") and len(str(value)) >= SHORTEST_KEY:
            return "a text" if isinstance(value, str) else "another value"
        return text if len(text) <= 80 else text[:77] + "..."


def section(value: Any, place: Place, table: Mapping[str, Read]) -> dict[str, Any]:
    """Read a mapping by its table of known names; unknown ones are faults that name the nearest known one.

    What is absent, and what could not be read (a fault is noted then), is not in the answer.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        place.expected("a mapping", value)
        return {}
    found = {}
    for name, member in value.items():
        if not isinstance(name, str) or name not in table:
            place.fault(_unknown(name, place, table))
            continue
        faults = len(place.complaints.faults)
        read = table[name](member, place.at(name))
        if len(place.complaints.faults) == faults:
            found[name] = read
    return found


def _unknown(name: Any, place: Place, table: Mapping[str, Read]) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,31}", name):
        return "a setting whose name is not a plain word"
    near = next(iter(difflib.get_close_matches(name, table, 1)), "")
    if not near:
        known = next(iter(difflib.get_close_matches(name, place.complaints.names, 1)), "")
        near = place.complaints.names.get(known, "")
        near += " without an indent" if near and near == known else ""
    # A long name may be a key that slipped to the left of a colon, however much it looks like a setting.
    hidden = len(name) >= SHORTEST_KEY and (place.path.startswith("api_keys") or not near)
    return ("an unknown setting" if hidden else f"unknown setting {name}") + (f"; did you mean {near}?" if near else "")
