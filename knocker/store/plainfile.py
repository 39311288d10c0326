"""A file of Knocker's own as a start finds it: a plain one, or a reason to end."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from knocker.store import atomic
from knocker.store.lock import Unusable


def contents(path: str, setting: str, most: int = -1) -> bytes | None:
    """The file's first `most` bytes, None where there is none; what a crash left beside it is removed.

    Raises Unusable for what is no plain file, which `setting` names.
    """
    _remove(atomic.temporary(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Unusable(f"{path}: a symbolic link; name the file itself in {setting}") from None
        raise Unusable(f"{path}: {error.strerror}; {setting} names a file of Knocker's own") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unusable(f"{path}: not a regular file; {setting} names a file")
    with open(descriptor, "rb") as file:
        try:
            return file.read(most)
        except OSError as error:
            raise Unusable(f"{path}: {error.strerror}") from None


def _remove(name: str) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    except OSError as error:
        raise Unusable(f"{name}: in the way of writing: {error.strerror}") from None


def why_not(path: str, error: Exception) -> str:
    """What keeps a file from being written, in words for the admin."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return f"{path} could not be written: {reason}"
