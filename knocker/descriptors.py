"""How many connections the system lets this process have: each is a file descriptor.

A process that runs out of them can accept nobody, not even to say so; so the bound on connections lies below.
"""

from __future__ import annotations

import resource
from contextlib import suppress

RESERVE = 32  # descriptors for the log, the whitelist and its lock, the reactor and whatever else is open


def room_for(connections: int) -> int:
    """Raise the process's own limit as far as needed and allowed; how many of these connections then fit."""
    wanted = connections + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # where the system has a smaller limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard >= 0 else wanted, hard))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    return min(connections, max(1, soft - RESERVE))
