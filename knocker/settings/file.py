"""A file that holds secrets: its bytes, and whether others can read them too."""

from __future__ import annotations

import os
import stat

OPEN_TO_OTHERS = "group or others can read it: set its permissions to 0600"
_PROTECTED = ("/run/secrets/", "/run/credentials/")


def contents(path: str, most: int) -> tuple[bytes, bool]:
    """The first `most` bytes of a regular file, and whether group or others may read it; raises OSError.

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
    return data, bool(status.st_mode & 0o077) and not os.path.realpath(path).startswith(_PROTECTED)
