"""One process for one storage file: an advisory lock beside it that holds the owner's pid."""

from __future__ import annotations

import fcntl
import os


class Unusable(Exception):
    """The storage cannot be used, so the start must end; the message says why and what to change."""


class Lock:
    """The lock on ``<storage_path>.lock``; it ends with the process, however that ends."""

    def __init__(self, path: str, setting: str = "whitelist.storage_path") -> None:
        self.path = path + ".lock"
        self.setting = setting
        self._descriptor = -1

    def take(self, pid: int) -> None:
        """Become the only owner; raises Unusable where another process is, or the directory takes no file."""
        if self._descriptor >= 0:
            return
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            self._descriptor = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise Unusable(
                f"{self.path}: {error.strerror}; the directory of {self.setting} must exist and be writable"
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise Unusable(
                f"{self.path}: another Knocker (pid {owner}) uses this file;"
                f" stop it, or give this one a {self.setting} of its own"
            ) from None
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % pid, 0)
        except OSError as error:
            self.release()
            raise Unusable(f"{self.path}: {error.strerror}; a plain file must be writable there") from None

    def release(self) -> None:
        """Let another process have it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
