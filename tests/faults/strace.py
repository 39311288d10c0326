"""Harm to the system calls of a running Knocker, done by strace."""

from __future__ import annotations

import os
import signal
import subprocess
from types import TracebackType
from typing import Self

from tests.needs import need
from tests.service import Knocker, eventually


class Traced:
    """A context in which some system calls of a Knocker's writer go as told (strace's `inject`).

    `call`: the system call or several; `where`: on the whitelist's "tmp" file or its "directory"; `first`: from
    the how many'th of them on; `how`: "error=ENOSPC", "signal=KILL", "delay_enter=3s" and the like.
    """

    def __init__(self, knocker: Knocker, call: str, where: str, first: int, how: str, more: str = "") -> None:
        need("strace")
        path = {"tmp": f"{knocker.whitelist}.tmp", "directory": str(knocker.directory)}[where]
        self._log = knocker.directory / "strace.log"
        inject = f"inject={call}:{how}:when={first}{more}"
        self._command = ["strace", "-f", "-qq", "-o", str(self._log), "-P", path, "-e", f"trace={call}", "-e", inject]
        self._command += ["-p", str(knocker.pid)]
        self._tasks = f"/proc/{knocker.pid}/task"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE)
        eventually(self._is_attached, "strace has every thread")
        return self

    def _is_attached(self) -> bool:
        assert self._process.poll() is None, self._process.stderr and self._process.stderr.read()
        tracers = []
        for task in os.listdir(self._tasks):
            with open(f"{self._tasks}/{task}/status", encoding="ascii") as status:
                tracers += [line.split()[1] for line in status if line.startswith("TracerPid")]
        return set(tracers) == {str(self._process.pid)}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.communicate()

    @property
    def harmed(self) -> int:
        """How many system calls were harmed."""
        return self._log.read_text(errors="replace").count("(INJECTED)")
