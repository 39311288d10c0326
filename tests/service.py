"""Real processes for tests: Knocker under twistd, Caddy, or any other server, each with a directory of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests import quick
from tests.net import Answer, dying_with_us

SCRIPTS = Path(sysconfig.get_path("scripts"))
PROJECT = Path(__file__).parent.parent
CADDY, TWISTD = str(SCRIPTS / "caddy"), str(SCRIPTS / "twistd")
forks = True  # whether twistd is forked instead of executed, see quick.py

Settings = Mapping[str, Any]


def eventually(condition: Callable[[], Any], what: str, seconds: float = 10) -> None:
    """Wait, by asking again and again, until `condition` holds; fail with `what` when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


# Below those that the kernel gives to clients, any of which may be in use for a moment; each process has its own.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ports = cycle(random.sample(range(12_000 + 4_000 * (_WORKER % 5), 16_000 + 4_000 * (_WORKER % 5)), 4_000))


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on, and that nobody else is given."""
    while True:
        port = next(_ports)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener, suppress(OSError):
            listener.bind((host, port))
            return port


def ask(
    port: int,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    host: str = "127.0.0.1",
) -> Answer:
    """One HTTP request to a server on this machine, on a connection of its own."""
    connection = HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, tuple(answer.getheaders()), answer.read())
    finally:
        connection.close()


def replaced(text: str, exchange: Mapping[str, str]) -> str:
    """`text` with each of the given pieces exchanged; each has to be there."""
    for old, new in exchange.items():
        assert old in text, f"the text has no {old!r}"
        text = text.replace(old, new)
    return text


class Server:
    """A process that listens; a context manager. What it says is kept in `log`; it is ended by its own id."""

    def __init__(self, command: list[str], directory: Path, port: int, prefix: list[str] | None = None) -> None:
        self.command = command
        self.directory = directory
        self.port = port
        self.prefix = prefix or []
        self.environment: dict[str, str] = {}
        self.log_file = directory / f"{Path(command[0]).name}.log"
        self._process: subprocess.Popen[bytes] | quick.Child | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has said so far, over all its starts."""
        return self.log_file.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.launch()
        eventually(lambda: not self.running or self.listening, f"{self.command[0]} listens", seconds=15)
        assert self.running, f"it ended with {self.wait()}:\n{self.log}"

    def launch(self) -> None:
        """Start it without waiting."""
        assert not self.running
        if forks and not self.prefix and not self.environment and self.command[0] == TWISTD:
            self._process = quick.start(self.command, self.directory, self.log_file)
            return
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, *dying_with_us(self.command)],
                cwd=self.directory,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def listening(self) -> bool:
        """Whether this very process listens on its port, in whichever namespace it lives."""
        try:
            tables = [Path(f"/proc/{self.pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
            rows = [line.split() for table in tables for line in table]
            wanted = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1][-4:], 16) == self.port}
            return any(target in wanted for target in self._open_files())
        except OSError:  # it is ending
            return False

    def _open_files(self) -> list[str]:
        found = []
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found.append(os.readlink(entry))
            except FileNotFoundError:  # closed meanwhile
                continue
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, seconds: float = 10) -> int:
        """Its exit status, once it has ended by itself."""
        assert self._process is not None
        return self._process.wait(seconds)

    def terminate(self, seconds: float = 10) -> int:
        """Ask it to end; its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Knocker(Server):
    """Knocker as an admin starts it, on `directory`, which keeps its settings and its whitelist over restarts."""

    def __init__(
        self, directory: Path, settings: Settings, port: int, host: str = "127.0.0.1", prefix: list[str] | None = None
    ) -> None:
        self.config = directory / "knocker.yaml"
        self.whitelist = directory / "whitelist.json"
        super().__init__(twistd("--config", str(self.config)), directory, port, prefix)
        self.host = host
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Write its settings; ours are where it listens and where the whitelist is."""
        whole = dict(settings)
        whole["server"] = {"host": self.host, "port": self.port, **settings.get("server", {})}
        whole["whitelist"] = {"storage_path": str(self.whitelist), **settings.get("whitelist", {})}
        self.write(yaml.safe_dump(whole, sort_keys=False))

    def write(self, text: str) -> None:
        """Write its settings file, as it stands."""
        self.config.touch(mode=0o600)
        self.config.write_text(text)

    def end(self, *secrets: str) -> None:
        """Kill it, if it runs, and look through all that it said: no mistake of ours in it, and no secret."""
        self.kill()
        if self.log_file.exists():
            assert not [word for word in ("Traceback", "Unhandled", *secrets) if word in self.log], self.log

    def hup(self) -> None:
        """Tell it to read its settings again."""
        self.signal(signal.SIGHUP)

    def verify(self, client: str, **headers: str) -> int:
        """The status with which it answers a trusted proxy on this machine that asks about `client`."""
        lines = {"X-Forwarded-For": client, "X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/", **headers}
        return ask(self.port, "/verify", headers=lines).status

    def knock(self, client: str, key: str, method: str = "POST", **body: Any) -> Answer:
        """Its answer to a knock of `client` that a trusted proxy on this machine passes on."""
        lines = {"X-Forwarded-For": client, "X-Api-Key": key}
        if not body:
            return ask(self.port, "/knock", method, lines)
        return ask(
            self.port, "/knock", method, {**lines, "Content-Type": "application/json"}, json.dumps(body).encode()
        )


class SocketKnocker(Knocker):
    """Knocker on a unix socket in its directory, whose peers it believes."""

    def __init__(self, directory: Path, settings: Settings, mode: str = "660", prefix: list[str] | None = None) -> None:
        self.socket = directory / "knocker.sock"
        self.mode = mode
        super().__init__(directory, settings, 0, prefix=prefix)

    def configure(self, settings: Settings) -> None:
        """Write its settings; ours are where it listens, whom it believes, and where the whitelist is."""
        listen = {"listen": f"unix:{self.socket}:mode={self.mode}", "trusted_proxies": ["unix"]}
        whole = {
            **settings,
            "server": {**listen, **settings.get("server", {})},
            "whitelist": {"storage_path": str(self.whitelist), **settings.get("whitelist", {})},
        }
        self.write(yaml.safe_dump(whole, sort_keys=False))

    @property
    def listening(self) -> bool:
        """Whether somebody answers on the socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def ask(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own."""
        connection = HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        try:
            connection.sock.connect(str(self.socket))
            connection.request(method, path, None, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, tuple(answer.getheaders()), answer.read())
        finally:
            connection.close()


def ran(command: list[str], directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What became of a command that is to end by itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KNOCKER_")}
    return subprocess.run(
        command,
        cwd=directory,
        env=kept | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def twistd(*options: str) -> list[str]:
    """The command that starts Knocker."""
    return [TWISTD, "-n", "--pidfile=", "knocker", *options]


class Caddy(Server):
    """Caddy with a Caddyfile; `options` go into its global block."""

    def __init__(
        self, directory: Path, caddyfile: str, port: int, prefix: list[str] | None = None, options: str = ""
    ) -> None:
        self.caddyfile = directory / "Caddyfile"
        super().__init__(
            [CADDY, "run", "--adapter", "caddyfile", "--config", str(self.caddyfile)],
            directory,
            port,
            prefix,
        )
        self.caddyfile.write_text(with_options(caddyfile, directory, options))
        self.environment = {"HOME": str(directory), "XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}


def with_options(caddyfile: str, directory: Path, options: str = "") -> str:
    """The Caddyfile, with what tests need in its global block: no admin port, own certificates, nothing at home."""
    needed = [
        "admin off",
        "persist_config off",
        "grace_period 1s",
        f"storage file_system {directory}",
        "auto_https disable_redirects",
        "local_certs",
        "skip_install_trust",
        options,
    ]
    lines = caddyfile.splitlines()
    first = next((n for n, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")), 0)
    if lines[first].strip() == "{":
        return "\n".join([*lines[: first + 1], *needed, *lines[first + 1 :], ""])
    return "\n".join(["{", *needed, "}", caddyfile])
