"""Starts twistd quickly: a process that has imported everything forks for each start, and each goes on as twistd does.

Importing is most of a start, and tests start hundreds. With KNOCKER_TEST_LONG=1 the command itself is executed in
tests/e2e; so is, everywhere, whatever is not the plain command. Linux only.

A child is ended and waited for by its parent's word alone, so that its id is nobody else's as long as it is used here.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.net import dying_with_us

_PR_SET_PDEATHSIG = 1
# Klein takes the reactor into use as it is imported, and that has a descriptor that must not be shared.
_LATER = ("klein", "twisted.internet.reactor", "knocker.doors", "knocker.service", "knocker.listen.web")
_LIST = "import sys, knocker.service, twisted.scripts.twistd as _; print('\\n'.join(sys.modules))"


class Child:
    """A twistd that was forked; as much of a Popen as tests need."""

    def __init__(self, pid: int, parent: _Parent) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._parent = parent

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._parent.ask({"wait": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended; raises TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("twistd", timeout or 0)
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, if it runs."""
        self.send_signal(signal.SIGKILL)


class _Parent:
    """The process that forks, as the tests see it; started with the first start, ended with the tests."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                dying_with_us([sys.executable, "-m", "tests.quick", str(theirs.fileno())]),
                cwd=Path(__file__).parent.parent,
                pass_fds=[theirs.fileno()],
            )
        self._socket = ours
        self._answers = ours.makefile("r")
        atexit.register(self.end)

    def ask(self, order: Mapping[str, Any]) -> Any:
        """What it says to that."""
        self._socket.sendall(json.dumps(order).encode() + b"\n")
        return json.loads(self._answers.readline())

    def end(self) -> None:
        """Let it end; so do its children, if any were left."""
        self._answers.close()
        self._socket.close()
        self._process.wait(10)


_parent: _Parent | None = None


def start(command: list[str], directory: Path, log: Path) -> Child:
    """Start this command, which is twistd's, in `directory`, with `log` for what it says."""
    global _parent
    if _parent is None:
        _parent = _Parent()
    order = {"argv": command, "cwd": str(directory), "environment": dict(os.environ), "log": str(log)}
    return Child(_parent.ask(order), _parent)


def main(descriptor: int) -> None:
    """Be the parent, and in a child go on as twistd."""
    names = subprocess.run([sys.executable, "-c", _LIST], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if not name.startswith(_LATER):
            with suppress(ImportError):  # some are made by others, and none by that name alone
                importlib.import_module(name)
    assert "twisted.internet.reactor" not in sys.modules
    from twisted.scripts.twistd import run

    if _serve(descriptor):
        run()


def _serve(descriptor: int) -> bool:
    """Fork and wait as told; true in a child."""
    with socket.socket(fileno=descriptor) as wire, wire.makefile("r") as orders:
        for line in orders:
            order = json.loads(line)
            if "wait" in order:
                pid, status = os.waitpid(order["wait"], os.WNOHANG)
                said = os.waitstatus_to_exitcode(status) if pid else None
            else:
                said = os.fork()
                if said == 0:
                    break
            wire.sendall(json.dumps(said).encode() + b"\n")
        else:
            return False
    _become(order)
    return True


def _become(order: Mapping[str, Any]) -> None:
    """Be as a new process with that command would be."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["cwd"])
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, place in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, place)
    os.closerange(3, 64)
    sys.argv = order["argv"]
    sys.path[0] = os.path.dirname(order["argv"][0])


if __name__ == "__main__":
    main(int(sys.argv[1]))
