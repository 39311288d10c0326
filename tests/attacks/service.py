"""Knocker in a process of its own, with a settings file of the corpus, a planted whitelist and a log to search."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.attacks.conversation import Heard, converse, within
from tests.attacks.corpus import Request

MOST_SECONDS_TO_START = 15.0
TRUSTED = "127.0.0.1"
UNTRUSTED = "127.0.0.2"

# Ends the process when the tests end without doing so; not there on every system, and only a second net.
_DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


class Service:
    """One running Knocker; a context manager. `config` is the text of its settings, without port and storage path."""

    def __init__(self, directory: Path, config: str) -> None:
        self.directory = directory
        self.storage = directory / "whitelist.json"
        self.port = _free_port()
        self._log = directory / "service.log"
        self._settings = directory / "knocker.yaml"
        _write(self._settings, yaml.safe_dump(_completed(config, self.port, self.storage)).encode())
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KNOCKER_")}
        command = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "knocker"]
        self._started = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*_DIES_WITH_US, *command, "--config", str(self._settings)],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError("SIGTERM did not end the service within 10 s") from error

    def listens(self, seconds: float = MOST_SECONDS_TO_START) -> bool:
        """Wait until the service answers (True) or has ended (False); fails when neither comes in time."""
        if not within(seconds, lambda: self.ended or _connects(self.port), self._pause):
            raise AssertionError(f"after {seconds:g} s the service neither listens nor has ended:\n{self.log()}")
        return not self.ended

    def _pause(self, seconds: float) -> None:
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        assert self._process is not None
        return self._process.poll() is not None

    @property
    def status(self) -> int | None:
        """The exit status, once it has ended."""
        assert self._process is not None
        return self._process.returncode

    @property
    def seconds_since_start(self) -> float:
        """How long ago the process was started."""
        return time.monotonic() - self._started

    def log(self) -> str:
        """Everything that the service has written so far."""
        return self._log.read_bytes().decode("latin-1")

    def ask(self, request: Request, source: str = TRUSTED, patience: float = 5.0) -> Heard:
        """Send one well-formed request on a connection of its own."""
        return converse(self.port, request.wire(), source=source, patience=patience, bodiless=request.method == "HEAD")

    def verdict(self, client: str, patience: float = 5.0) -> int:
        """What /verify says about a client that the trusted proxy names; 0 for no answer."""
        heard = self.ask(Request("GET", "/verify", [["X-Forwarded-For", client]]), patience=patience)
        return heard.answers[0].status if heard.answers else 0

    def plant(self, data: bytes) -> None:
        """Lay down a state file before the start."""
        _write(self.storage, data)


def flat_whitelist(addresses: tuple[str, ...], seconds: int = 600) -> bytes:
    """A state file in the older flat format."""
    return json.dumps({address: int(time.time()) + seconds for address in addresses}).encode()


def _completed(config: str, port: int, storage: Path) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(config)
    settings.setdefault("server", {}).update(host="127.0.0.1", port=port)
    settings.setdefault("whitelist", {})["storage_path"] = str(storage)
    # The cases are many and their clients few: limits would answer instead of what is under test.
    unlimited = {"successful_requests": 0, "failed_requests": 0}
    settings.setdefault("security", {})["knock_rate_limit"] = unlimited
    return settings


def _write(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
