"""A bench of two network namespaces: clients have real addresses, and nothing of this machine's network is touched.

`server` and `client` are joined by a veth pair. Neither has a name: each lives as long as the process that holds it,
and that ends with the tests, however they end. Needs root, or a kernel that lets users make user namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import pytest

from tests.needs import missing

SERVER = "198.51.100.1"
SERVER_6 = "2001:db8:88::1"

# Addresses of the client's that have a part to play.
HOME, HOME_6 = "198.51.100.253", "2001:db8:88:aaaa::10"
HOME_NETWORKS = ["198.51.100.252/30", "2001:db8:88:aaaa::/64"]
CDN = "198.51.100.9"

# And those that have none; the offices are the networks, of four addresses each, of which one is there.
_STRANGERS = [f"198.18.{third}.{last}" for third in range(8) for last in range(1, 251)]
_STRANGERS_6 = [f"2001:db8:88:{subnet:x}::10" for subnet in range(1, 2001)]  # each in a /64 of its own
_OFFICES = [(f"192.0.2.{first}/30", f"192.0.2.{first + 1}") for first in range(0, 256, 4)]

_CURL = ["curl", "-q", "-s", "-S", "-i", "--max-time", "5", "--noproxy", "*"]

# Ends what we started when we end, also when we are killed; not there on every system, and only a second net.
_DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


class NoBench(Exception):
    """Network namespaces cannot be made here; the text says why."""


class NoAnswer(Exception):
    """No HTTP answer came back."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as the client saw it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def lines(self, name: str) -> list[str]:
        """The values of every header line called `name`."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


def dying_with_us(command: list[str]) -> list[str]:
    """`command`, ended by the kernel should the tests end without ending it."""
    return [*_DIES_WITH_US, *command]


class Bench:
    """The two namespaces; a context manager. Prefix a command with `server` or `client` to run it there."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._fresh = iter(_STRANGERS)
        self._fresh_6 = iter(_STRANGERS_6)
        self._offices = iter(_OFFICES)

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def _open(self) -> None:
        if why := missing("ip", "unshare", "nsenter", "curl"):
            raise NoBench(f"no bench of network namespaces: {why}")
        root = os.geteuid() == 0
        server = self._hold(["unshare", "--net"] if root else ["unshare", "--user", "--map-root-user", "--net"])
        enter = ["nsenter", "--target", str(server), *([] if root else ["--user", "--preserve-credentials"])]
        client = self._hold([*([] if root else enter), "unshare", "--net"])
        self.server = [*enter, f"--net=/proc/{server}/ns/net"]
        self.client = [*enter, f"--net=/proc/{client}/ns/net"]
        self._ip(self.server, f"link add eth0 type veth peer name eth0 netns {client}")
        self._ip(self.server, "link set lo up", "link set eth0 up", *_addresses([SERVER], [SERVER_6]))
        self._ip(self.server, "route add 192.0.2.0/24 dev eth0")
        # By one neighbour each, since the kernel keeps no table of so many.
        self._ip(self.server, f"route add 198.18.0.0/15 via {HOME}", f"route add 2001:db8:88::/49 via {HOME_6}")
        inside = [address for _, address in _OFFICES]
        clients = _addresses([HOME, CDN, *_STRANGERS, *inside], [HOME_6, *_STRANGERS_6])
        self._ip(self.client, "link set lo up", "link set eth0 up", *clients)

    def _hold(self, command: list[str]) -> int:
        """Start a process in a namespace of its own that stays until we close its standard input; returns its id."""
        holder = subprocess.Popen(
            [*command, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        self._held.enter_context(holder)  # closes its pipes and waits for its end
        try:
            holder.stdin.write(b"\n")
            holder.stdin.flush()
        except BrokenPipeError:
            pass
        if holder.stdout.readline() != b"\n":
            raise NoBench(f"no bench of network namespaces: {holder.stderr.read().decode().strip()}")
        return holder.pid

    def _ip(self, prefix: list[str], *commands: str) -> None:
        done = subprocess.run(
            [*prefix, "ip", "-batch", "-"],
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        if done.returncode:
            raise NoBench(f"no bench of network namespaces: {done.stderr.strip()}")

    def stranger(self) -> str:
        """An IPv4 address of the client's that no test has used yet."""
        return next(self._fresh)

    def stranger_6(self) -> str:
        """An IPv6 address of the client's that no test has used yet, alone in its /64."""
        return next(self._fresh_6)

    def office(self) -> tuple[str, str]:
        """An IPv4 network of the client's that no test has used yet, and the address in it that is there."""
        return next(self._offices)

    def office_6(self) -> tuple[str, str]:
        """The same for IPv6."""
        inside = self.stranger_6()
        return f"{inside.removesuffix('10')}/64", inside

    def curl(self, *args: str, source: str) -> Answer:
        """What curl, run on the client with the address `source`, is answered; host names lead to the server."""
        server = f"[{SERVER_6}]" if ":" in source else SERVER
        done = subprocess.run(
            [*self.client, *_CURL, "--interface", source, "--connect-to", f"::{server}:", *args],
            capture_output=True,
            timeout=10,
            check=False,
        )
        if done.returncode:
            raise NoAnswer(f"curl ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
        return read_answer(done.stdout)


def _addresses(four: list[str], six: list[str]) -> list[str]:
    return [f"address add {address}/24 dev eth0" for address in four] + [
        f"address add {address}/48 dev eth0 nodad" for address in six
    ]


def read_answer(raw: bytes) -> Answer:
    """The answer that `curl -i` printed; interim ones are skipped."""
    while True:
        head, gap, rest = raw.partition(b"\r\n\r\n")
        if not gap:
            raise NoAnswer(f"not an HTTP answer: {raw[:200]!r}")
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        if status >= 200:
            pairs = (line.partition(":") for line in lines)
            return Answer(status, tuple((name, value.strip()) for name, _, value in pairs), rest)
        raw = rest


@contextmanager
def bench_or_skip() -> Iterator[Bench]:
    """A bench for a fixture, or the reason why there is none."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(Bench())
        except NoBench as reason:
            pytest.skip(str(reason))
        yield made
