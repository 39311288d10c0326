"""File systems in image files, whose power can be cut; needs root, and loop devices that may be mounted."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.needs import found
from tests.refused import held, refused

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN of linux/fs.h


class Cut(IntEnum):
    """What the file system still writes when it ends, as FS_IOC_SHUTDOWN calls it."""

    JOURNAL = 1  # its journal, no file's data
    NOTHING = 2


@dataclass(frozen=True, slots=True)
class Kind:
    """A file system: its `name`, the bytes of an image, and how it is mounted."""

    name: str
    size: int
    options: str = "defaults"
    for_copies: str = "defaults"

    def __str__(self) -> str:
        return self.name if self.options == "defaults" else f"{self.name}-{self.options}"


EXT4 = Kind("ext4", 64 << 20)
# Without ext4's own care for programs that rename without a sync.
CARELESS = Kind("ext4", 64 << 20, "noauto_da_alloc", "noauto_da_alloc")
XFS = Kind("xfs", 320 << 20, for_copies="nouuid")
KINDS = [EXT4, CARELESS, XFS]


class Mounts:
    """A mount namespace; a context manager.

    Nobody else's processes inherit its mounts and keep them, and they end with the tests, however those end.
    """

    def __enter__(self) -> Self:
        # A cat reads until our end of its input is closed, by whatever closes it.
        command = ["unshare", "--mount", "sh", "-c", "echo && exec cat"]
        self._holder = held(command, "a loop mount")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.kill()
        self._holder.communicate()

    def within(self, directory: Path) -> list[str]:
        """The start of a command that runs in `directory` and sees the mounts."""
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", f"--wd={directory}", "--"]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command that sees the mounts."""
        return subprocess.run([*self.within(Path("/")), *command], capture_output=True, text=True, check=False)

    def seen(self, path: Path) -> Path:
        """Where we see what is at `path` for those inside."""
        return Path(f"/proc/{self._holder.pid}/root{path}")


class Disk:
    """A file system in an image file; a context manager, at whose end it is unmounted and gone.

    `folder` is where it is mounted, `seen` where we see that from outside.
    """

    def __init__(self, mounts: Mounts, kind: Kind, image: Path) -> None:
        self.folder = image.with_suffix(".mounted")
        self.seen = mounts.seen(self.folder)
        self._mounts, self._kind, self._image = mounts, kind, image
        self._options = kind.options

    def __enter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mounts.run("umount", "-l", str(self.folder))
        self._image.unlink(missing_ok=True)

    def make(self) -> None:
        """Make the file system, with nothing in it, and mount it, if this machine lets us."""
        maker = found(f"mkfs.{self._kind.name}")
        with self._image.open("wb") as file:
            file.truncate(self._kind.size)
        subprocess.run([maker, "-q", str(self._image)], check=True)
        if why := self._mount():
            refused("a loop mount", why)

    def mount(self) -> None:
        """Mount it again, which replays its journal."""
        why = self._mount()
        assert not why, why

    def _mount(self) -> str:
        options = ["-t", self._kind.name, "-o", f"loop,{self._options}"]
        done = self._mounts.run("mount", *options, str(self._image), str(self.folder))
        return f"mount: {done.returncode} {done.stderr}" if done.returncode else ""

    def unmount(self) -> None:
        """Unmount it; fails while somebody uses it."""
        done = self._mounts.run("umount", str(self.folder))
        assert done.returncode == 0, done.stderr

    def cut(self, how: Cut) -> None:
        """Cut its power: what it has not written by now never is, and calls fail until it is mounted again."""
        descriptor = os.open(self.seen, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", how))
        finally:
            os.close(descriptor)

    def copied(self, image: Path) -> Disk:
        """Another one in the state of this one's image at one moment, as if the power had been cut then.

        Nobody may be using it, so that but the kernel's own writes are to be waited for.
        """
        for _ in range(50):
            before, busy = self._traffic()
            subprocess.run(["cp", "--sparse=always", str(self._image), str(image)], check=True)
            if not busy and self._traffic() == (before, False):
                break
        else:
            raise AssertionError("the disk was written to all the time")
        copy = Disk(self._mounts, self._kind, image)
        copy._options = self._kind.for_copies
        return copy

    def _traffic(self) -> tuple[list[str], bool]:
        """The counts of the device's reads and writes, and whether some are under way."""
        device = self.seen.stat().st_dev
        fields = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
        return fields, fields[8] != "0"
