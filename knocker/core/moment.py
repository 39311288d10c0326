"""A moment on two clocks. A grant ends on whichever says so first (contract 3.6)."""

from __future__ import annotations

from typing import NamedTuple


class Moment(NamedTuple):
    """`wall`: seconds since 1970, may be set by hand; `boot`: seconds since the machine started, never set."""

    wall: float
    boot: float
