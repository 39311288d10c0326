"""Replacing a file so that after a crash or a power cut the old or the new content is there, whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from itertools import islice

_BATCH = 64
_LARGE = 65_536  # bytes


def temporary(path: str) -> str:
    """The one temporary name beside `path`: fixed, so that crashes leave no growing litter."""
    return path + ".tmp"


def replace(path: str, chunks: Iterable[bytes]) -> None:
    """Write `chunks` to `path`; when this returns, file and directory are synced. Raises OSError.

    After an error the old content is in place, or the new one where only the directory's sync failed.
    """
    name = temporary(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600)
    directory = -1
    try:
        try:
            for several in _batches(chunks):
                _write(descriptor, several)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        directory = _open_directory(path)  # before the rename: where this fails, the old file stays
        os.rename(name, path)
        os.fsync(directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    finally:
        if directory >= 0:
            os.close(directory)


def _batches(chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """So many at a time: after each write its thread has to wait for its turn in the interpreter."""
    rest = iter(chunks)
    while several := list(islice(rest, _BATCH)):
        yield several


def _write(descriptor: int, chunks: list[bytes]) -> None:
    size = sum(map(len, chunks))
    # Many small texts are cheaper joined, and a large one need not be there twice.
    written = os.writev(descriptor, chunks) if size > _LARGE else os.write(descriptor, b"".join(chunks))
    if written < size:
        rest = memoryview(b"".join(chunks))[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def sync_directory(path: str) -> None:
    """Make the names in the directory of `path` durable, a rename just done among them. Raises OSError."""
    descriptor = _open_directory(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_directory(path: str) -> int:
    return os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
