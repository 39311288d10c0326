"""A real redis-server of a test's own, and gates that share it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.needs import needs
from tests.service import Knocker, Server, free_port

needs_redis = needs("redis-server")

Reply = Any


class Redis(Server):
    """redis-server on a free port of this machine, with a directory that keeps what it stores."""

    def __init__(
        self, directory: Path, *options: str, persistent: bool = False, prefix: list[str] | None = None
    ) -> None:
        self.options = list(options)
        directory.mkdir(exist_ok=True)
        port = free_port()
        stored = ["--appendonly", "yes", "--appendfsync", "always"] if persistent else ["--save", ""]
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
        super().__init__([*command, *stored, *options], directory, port, prefix)

    @property
    def store(self) -> str:
        """What whitelist.store says to reach it."""
        return f"redis://127.0.0.1:{self.port}"

    def ask(self, *command: str | int) -> Reply:
        """What it says to one command."""
        with closing(Talk(self.port)) as talk:
            return talk.ask(*command)


class Talk:
    """As much of its protocol as tests need to look behind the gates' backs."""

    def __init__(self, port: int, *first: tuple[str, ...], host: str = "127.0.0.1") -> None:
        self._socket = socket.create_connection((host, port), 10)
        self._replies = self._socket.makefile("rb")
        for command in first:
            self.ask(*command)

    def ask(self, *command: str | int) -> Reply:
        """The answer to one command; an error is raised."""
        words = [str(word).encode() for word in command]
        self._socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
        return self._read()

    def close(self) -> None:
        """End it."""
        self._replies.close()
        self._socket.close()

    def _read(self) -> Reply:
        line = self._replies.readline().rstrip(b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise ValueError(rest.decode())
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if int(rest) < 0 else self._replies.read(int(rest) + 2)[:-2].decode()
        assert kind == b"*", line
        return None if int(rest) < 0 else [self._read() for _ in range(int(rest))]


def gate(directory: Path, store: str, settings: Mapping[str, Any], prefix: list[str] | None = None) -> Knocker:
    """A Knocker that shares that store, with a directory of its own."""
    directory.mkdir(exist_ok=True)
    whitelist = {"store": store, **settings.get("whitelist", {})}
    return Knocker(directory, {**settings, "whitelist": whitelist}, free_port(), prefix=prefix)
