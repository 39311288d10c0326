"""JSON as strict as it is written down: UTF-8, no repeated member, no NaN (RFC 8259)."""

from __future__ import annotations

import json
from typing import Any


def read(data: bytes) -> Any:
    """The value of a JSON text; raises ValueError for anything else, and for one that is nested too deeply."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_members, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a repeated member")
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
