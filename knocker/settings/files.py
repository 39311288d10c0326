"""Files that hold secrets, and others that settings name: their bytes, and what an admin should know of them."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from knocker.core.keys import LONGEST_KEY
from knocker.settings.pages import MOST_HTML
from knocker.settings.place import Place
from knocker.settings.shared import LONGEST_PEM

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


class Files:
    """What settings name, from the folder of the settings file on. Without a folder no file is read."""

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder

    def key(self, name: str, place: Place) -> bytes | None:
        """A file with a secret."""
        path = self._path(name)
        try:
            found = self._contents(path, LONGEST_KEY + 3)
        except OSError as error:
            # Whoever puts the key itself there must not find it in the log: only what looks like a path is shown.
            parent = os.path.dirname(name)
            shown = f"{path}: " if parent not in ("", "/") and os.path.isdir(os.path.dirname(path)) else ""
            place.fault(f"{shown}{error.strerror or error}{whose(path, error)}")
            return None
        return _warned(found, path, place, secret=True)

    def page(self, name: str, place: Place) -> bytes | None:
        """An HTML file of the admin's."""
        path = self._path(name)
        try:
            found = self._contents(path, MOST_HTML + 1)
            found.data.decode()
        except OSError as error:
            place.fault(f"expected none, knock or an HTML file; {path}: {error.strerror or error}{whose(path, error)}")
        except UnicodeDecodeError:
            place.fault(f"{path} is not UTF-8")
        else:
            return _warned(found, path, place, secret=False)
        return None

    def pem(self, name: str, place: Place) -> bytes | None:
        """A file of certificates; one with a private key is nobody else's."""
        path = self._path(name)
        try:
            found = self._contents(path, LONGEST_PEM)
        except OSError as error:
            place.fault(f"{path}: {error.strerror or error}{whose(path, error)}")
            return None
        return _warned(found, path, place, secret=b"PRIVATE KEY-----" in found.data)

    def _path(self, name: str) -> str:
        return os.path.join(self._folder or "", name)

    def _contents(self, path: str, most: int) -> Contents:
        if self._folder is None:
            raise OSError("no files are read here")
        return contents(path, most)


def _warned(found: Contents, path: str, place: Place, *, secret: bool) -> bytes:
    if found.is_open and secret:
        place.warn(f"{path}: {OPEN_TO_OTHERS}")
    if found.is_replaced:
        place.warn(f"{path}: {REPLACED}")
    return found.data
