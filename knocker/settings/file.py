"""A file that holds secrets: its bytes, and what an admin should know of it."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

OPEN_TO_OTHERS = "group or others can read it: set its permissions to 0600"
REPLACED = "another file has taken its place, but the old one is what is still seen here: restart the container"
_PROTECTED = ("/run/secrets/", "/run/credentials/")


class Contents(NamedTuple):
    """What was read. `is_open`: group or others may read it. `is_replaced`: it is deleted, and still shown here.

    A container sees the file that was mounted when it started; most editors write a new one and rename it.
    """

    data: bytes
    is_open: bool
    is_replaced: bool


def contents(path: str, most: int) -> Contents:
    """The first `most` bytes of a regular file; raises OSError.

    Files below /run/secrets are the container's to protect. Those below /run/credentials are systemd's, which may let
    their one reader in by a right that looks like the group's.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    with open(descriptor, "rb") as file:
        data = file.read(most)
    is_open = bool(status.st_mode & 0o077) and not os.path.realpath(path).startswith(_PROTECTED)
    return Contents(data, is_open, status.st_nlink == 0)


def whose(path: str, error: OSError) -> str:
    """What explains that a file may not be read, to be put behind the error; empty where it is another one."""
    if not isinstance(error, PermissionError):
        return ""
    try:
        owner = os.stat(path).st_uid
    except OSError:
        return f" to user {os.geteuid()}"
    return f": it belongs to user {owner}, and this is user {os.geteuid()}"
