"""Ten minutes of mixed traffic and more than a million /verify, to see whether anything grows that should not.

Run ``python benchmarks/soak.py``, with ``--minutes N`` for longer or shorter and ``--quick`` for a few seconds that
only show that it works. A proxy asks as fast as it is answered, phones with ever new addresses knock for half a minute
each and some of them leave, strangers try wrong keys and come and go. Each line says what a Knocker has at that moment.
Everything stays on loopback. Needs Linux.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.printed import machine, say
from benchmarks.verify import HOST, SECRETS, resident, settings
from tests.service import Knocker, free_port

TTL = 30  # seconds that a phone asks for
KNOCKS = 40  # a second
PATIENCE = 10.0  # seconds
REQUESTS = {
    "verify": ("GET", "/verify"),
    "knock": ("POST", "/knock"),
    "leave": ("DELETE", "/knock"),
    "wrong key": ("POST", "/knock"),
}


def main() -> None:
    """Have the traffic, and say each minute what became of it."""
    parser = argparse.ArgumentParser(description="Mixed traffic for a long time.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--quick", action="store_true", help="a few seconds, only to see that it works")
    options = parser.parse_args()
    every, times = (1.0, 4) if options.quick else (60.0, round(options.minutes))
    say(machine())
    with TemporaryDirectory(prefix="knocker-soak-") as folder, ExitStack() as stack:
        told = {**settings([], [HOST], True), "whitelist": {"max_entries": 10_000, "cleanup_interval_seconds": 5}}
        knocker = stack.enter_context(Knocker(Path(folder), told, free_port()))
        with Traffic(knocker.port) as traffic:
            samples = [watched(knocker, traffic, every) for _ in range(times)]
        say(traffic.summary())
        if len(samples) > 2:
            first, last = samples[1], samples[-1]
            say(
                f"from line 2 to the last: memory {last.memory - first.memory:+.1f} MB,"
                f" descriptors {last.files - first.files:+d}, whitelist.json {last.stored - first.stored:+,} bytes"
            )
        if knocker.terminate() != 0:
            raise AssertionError(knocker.log)


class Sample:
    """What a Knocker has at a moment. Megabytes, a count, bytes."""

    def __init__(self, knocker: Knocker) -> None:
        self.memory = resident(knocker.pid)
        self.files = len(os.listdir(f"/proc/{knocker.pid}/fd"))
        self.stored = knocker.whitelist.stat().st_size if knocker.whitelist.exists() else 0
        self.log = knocker.log_file.stat().st_size


def watched(knocker: Knocker, traffic: Traffic, seconds: float) -> Sample:
    """One line, after so long."""
    time.sleep(seconds)
    sample = Sample(knocker)
    say(
        f"{traffic.told['verify']:>10,} /verify {traffic.told['knock']:>7,} knocks {sample.memory:7.1f} MB"
        f" {sample.files:4} descriptors {sample.stored:9,} bytes stored {sample.log / 1e6:7.2f} MB of log"
    )
    return sample


class Traffic:
    """Clients of all kinds, each in a thread of its own; a context manager."""

    def __init__(self, port: int) -> None:
        self.told: Counter[str] = Counter()
        self._port = port
        self._ended = threading.Event()
        self._wrong: list[str] = []
        self._recent = ["198.18.0.1"]  # who knocked last
        self._threads = [
            threading.Thread(target=self._run, args=(one,)) for one in (self._proxy, self._phones, self._strangers)
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def summary(self) -> str:
        """Whether all was answered as it should be."""
        return "; ".join(self._wrong[:5]) or f"every answer was right: {dict(self.told)}"

    def _run(self, client: Callable[[], None]) -> None:
        try:
            client()
        except (OSError, http.client.HTTPException) as error:
            self._wrong.append(f"{client.__name__}: {type(error).__name__}: {error}")

    def _ask(self, wire: http.client.HTTPConnection, what: str, expected: int, body: str = "", **lines: str) -> None:
        method, path = REQUESTS[what]
        wire.request(method, path, body or None, {name.replace("_", "-"): value for name, value in lines.items()})
        answer = wire.getresponse()
        answer.read()
        self.told[what] += 1
        if answer.status != expected:
            self._wrong.append(f"{what}: {answer.status}, not {expected}")

    def _wire(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self._port, timeout=PATIENCE)

    def _proxy(self) -> None:
        """Asks about who is in, and about who is not."""
        wire = self._wire()
        for number in itertools.count():
            if self._ended.is_set():
                break
            known = number % 4 and self._recent[0] != "198.18.0.1"
            client = self._recent[0] if known else f"198.19.{number >> 8 & 255}.{number & 255}"
            self._ask(wire, "verify", 200 if known else 401, X_Forwarded_For=client)
        wire.close()

    def _phones(self) -> None:
        """Knock from ever new addresses; every third one leaves at once."""
        wire, key = self._wire(), SECRETS["phone"]
        for number in itertools.count(1):
            if self._ended.wait(1 / KNOCKS):
                break
            client = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            body = f'{{"ttl": {TTL}}}'
            told = {"X_Forwarded_For": client, "X_Api_Key": key}
            self._ask(wire, "knock", 200, body, Content_Type="application/json", **told)
            if number % 3:
                self._recent[0] = client
            else:
                self._ask(wire, "leave", 204, **told)
        wire.close()

    def _strangers(self) -> None:
        """Come with wrong keys, or say nothing at all."""
        for number in itertools.count(1):
            if self._ended.wait(0.1):
                break
            wire = self._wire()
            with suppress(OSError):
                if number % 2:
                    client = f"198.18.{number >> 8 & 255}.{number & 255}"
                    told = {"X_Forwarded_For": client, "X_Api_Key": "wrong-key-0123456789"}
                    self._ask(wire, "wrong key", 401, **told)
                else:
                    wire.connect()
            wire.close()


if __name__ == "__main__":
    main()
