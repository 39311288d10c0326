"""A wire to the engine that a test can make silent in one direction, for those who wait for changes."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Relay:
    """Hands everything on between gates and an engine; a context manager. `port` is where gates connect.

    While `silent`, nothing comes back on connections that asked for changes: they look alive, and are not.
    """

    def __init__(self, engine_port: int) -> None:
        self._engine_port = engine_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._audible = threading.Event()
        self._audible.set()
        self._wires: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._over = False

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._audible.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for wire in self._wires:
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for wire in self._wires:
            wire.close()

    def silence(self) -> None:
        """Let nothing be heard of changes."""
        self._audible.clear()

    def speak(self) -> None:
        """Let what waits be heard, and what comes."""
        self._audible.set()

    def _begin(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._engine_port))
            except OSError:
                return
            self._wires += [near, far]
            waits = threading.Event()
            self._begin(self._pump, near, far, waits, True)
            self._begin(self._pump, far, near, waits, False)

    def _pump(self, source: socket.socket, target: socket.socket, waits: threading.Event, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if asks and b"XREAD" in data:
                    waits.set()
                if not asks and waits.is_set():
                    self._audible.wait()
                target.sendall(data)
        for wire in (source, target):
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
