"""What systemd is told of this process: that it serves, reads its settings again, or ends (sd_notify(3)).

One datagram each to the socket that $NOTIFY_SOCKET names. Without that, or when it cannot be told, nothing happens.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

PATIENCE = 0.5  # seconds for a queue that is full: a lost READY=1 would end the start


class Notifier:
    """Tells the service manager, and says each time whether that was told."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        named = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + named[1:] if named.startswith("@") else named
        self._serves = False
        self._status = ""

    def ready(self, status: str) -> bool:
        """It serves, from now on until `stopping`; with a line for `systemctl status`."""
        self._serves, self._status = True, status
        return self._tell("READY=1", _status(status))

    def reloading(self) -> bool:
        """It begins to read its settings again; to be followed by `reloaded`."""
        moment = f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
        return self._serves and self._tell("RELOADING=1", moment, _status(self._status))

    def reloaded(self) -> bool:
        """That is over, whatever came of it."""
        return self._serves and self._tell("READY=1")

    def status(self, text: str) -> bool:
        """Something to see in `systemctl status`, until the next reload."""
        return self._tell(_status(text))

    def stopping(self) -> bool:
        """It ends."""
        self._serves = False
        return self._tell("STOPPING=1")

    def _tell(self, *lines: str) -> bool:
        with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
            wire.settimeout(PATIENCE)
            wire.connect(os.fsencode(self._address))  # an empty name is nobody's
            wire.send("\n".join(lines).encode(errors="backslashreplace"))
            return True
        return False


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())
