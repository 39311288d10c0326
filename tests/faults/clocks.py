"""Clocks of its own for a Knocker: the wall clock by libfaketime, the boot clock and the boot's name by namespaces."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from contextlib import suppress
from pathlib import Path

from tests.needs import need
from tests.refused import refused
from tests.service import Knocker, Settings

_LIBRARIES = "*/faketime/libfaketimeMT.so.1"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_YOUNG = 10  # seconds that a machine is up when Knocker starts


class Clocked(Knocker):
    """A Knocker whose clocks go as a test says: the wall clock at any time, the others from its next start on.

    `ahead`: seconds that its wall clock is before ours.
    """

    def __init__(self, directory: Path, settings: Settings, port: int) -> None:
        super().__init__(directory, settings, port)
        self.ahead = 0.0
        self._boot_ahead = 0
        self._wall = directory / "wall"
        self._boot_id = directory / "boot_id"
        self._boot_id.write_text(_BOOT_ID.read_text())
        self.environment = {
            "FAKETIME_TIMESTAMP_FILE": str(self._wall),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",  # else Python takes its compiled modules for outdated, and writes them anew
        }
        self.set_wall(0)
        self._enter()

    def set_wall(self, ahead: float) -> None:
        """Let its wall clock be that many seconds before ours from now on."""
        self.ahead = ahead
        new = self._wall.with_suffix(".new")
        new.write_text(f"{ahead:+.3f}\n")
        new.replace(self._wall)

    def sleep(self, seconds: int) -> None:
        """Let so much boot time pass until the next start."""
        self._boot_ahead += seconds
        self._enter(*self._clocks)

    def reboot(self, up: int = _YOUNG) -> None:
        """Let the next start be in another boot, `up` seconds after its begin."""
        self._boot_id.write_text(f"{uuid.uuid4()}\n")
        self._boot_ahead = up - int(time.clock_gettime(time.CLOCK_BOOTTIME))
        self._enter(*self._clocks)

    @property
    def _clocks(self) -> list[str]:
        return ["--time", f"--boottime={self._boot_ahead}", "--fork", "--kill-child"]

    def _enter(self, *clocks: str) -> None:
        """Let the next start be in namespaces of its own: what libfaketime keeps in shared memory ends with them."""
        as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        mounts = f'mount -t tmpfs none /dev/shm && mount --bind "$0" {_BOOT_ID}'
        own = f'{mounts} && library=$1 && shift && exec env LD_PRELOAD="$library" "$@"'
        within = ["unshare", *as_root, "--mount", *clocks, "sh", "-c", own, str(self._boot_id)]
        self.prefix = [*within, _library()]
        tried = subprocess.run([*within, "", "true"], capture_output=True, text=True, check=False)
        if tried.returncode:
            refused("clocks, a name for the boot and shared memory of its own", tried.stderr)

    @property
    def pid(self) -> int:
        """The id of Knocker itself, where a process that waits for its end is around it."""
        outer = super().pid
        inner = Path(f"/proc/{outer}/task/{outer}/children").read_text().split() if self.prefix else []
        return int(inner[0]) if inner else outer

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self.running:
            with suppress(FileNotFoundError, ProcessLookupError):  # it is ending
                self.signal(signal.SIGKILL)
            self.wait()


def _library() -> str:
    need("faketime")
    return str(next(Path("/usr/lib").glob(_LIBRARIES)))
