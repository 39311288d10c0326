"""The machine's clocks: wall time, boot time, and which boot this is (contract 3.6)."""

from __future__ import annotations

import time
from typing import Any

from knocker.core.moment import Moment

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # boot time counts sleep too, on Linux


def now() -> Moment:
    """This moment on both clocks."""
    # As Moment() does, which is a function of Python's: each request asks for the time.
    return tuple.__new__(Moment, (time.time(), time.clock_gettime(_BOOT_CLOCK)))


def steady(reactor: Any) -> None:
    """Let a reactor's timers run on a clock that nobody sets; by default they wait as long as that is set back."""
    reactor.seconds = time.monotonic


def boot_id() -> str:
    """A name for this boot of the machine, empty where the system has none: then each start counts as a new boot."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""
