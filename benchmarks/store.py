"""What storing costs: knocks on disk a second, the reactor's longest stall meanwhile, and what /verify feels of it.

Run ``python benchmarks/store.py``, with ``--quick`` for a few seconds that only show that it works. A real Knocker,
which has one core, is knocked at by wrk from the other, and each answer of 200 means that file and directory were
synced. Beside it a proxy asks 200 /verify a second, one after the other, as it does before, when nobody knocks. A
timer of the Knocker's own, due each millisecond, tells how late it ever came. Everything stays on loopback. Needs
Linux, wrk and taskset.
"""

from __future__ import annotations

import argparse
import http.client
import math
import os
import random
import signal
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.attack import percentile
from benchmarks.printed import machine, need, say
from benchmarks.verify import (
    APP,
    HOST,
    PHONE,
    PINNED,
    SECRETS,
    SERVERS_CORE,
    WRKS_CORE,
    Case,
    Load,
    Street,
    as_text,
    different,
    granted,
    hits,
    settings,
    single,
    store,
)
from knocker.core.grant import Grant
from tests.service import Knocker, Server, eventually, free_port

RATE = 200  # /verify a second
TICK = 0.001  # seconds
AIM_STALL = 10.0  # ms, at the most grants
AIM_P99 = 2.0  # times the quiet one


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and how long."""

    grants: tuple[int, ...] = (10, 10_000, 100_000)
    connections: tuple[int, ...] = (1, 16, 200)
    seconds: float = 5.0
    rounds: int = 3


QUICK = Sizes(grants=(10, 1_000), connections=(1, 16), seconds=0.4, rounds=1)


def main() -> None:
    """Measure everything, or be the Knocker that is watched."""
    parser = argparse.ArgumentParser(description="What storing costs.")
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see that it works")
    parser.add_argument("--watched", metavar="FILE", help="only be a twistd whose stalls are written to FILE")
    options, rest = parser.parse_known_args()
    if options.watched:
        be_watched(Path(options.watched), rest)
        return
    need("wrk", "taskset")
    sizes = QUICK if options.quick else Sizes()
    say(machine())
    say(f"command: python benchmarks/store.py{' --quick' if options.quick else ''}")
    say(f"Knocker on core {SERVERS_CORE}, wrk on core {WRKS_CORE}; load average {os.getloadavg()[0]:.1f} at the start")
    report(sizes)


def be_watched(file: Path, arguments: list[str]) -> None:
    """Be a twistd that writes its longest stall, in seconds, at each SIGUSR2, and begins anew."""
    from twisted.internet import reactor
    from twisted.scripts.twistd import run

    longest, last = 0.0, math.inf  # before the first tick there is nothing to compare with
    timers: Any = reactor

    def tick() -> None:
        nonlocal longest, last
        now = time.monotonic()
        longest, last = max(longest, now - last - TICK), now
        timers.callLater(TICK, tick)

    def tell(*_: object) -> None:
        nonlocal longest
        file.with_suffix(".new").write_text(f"{longest}\n", encoding="ascii")
        file.with_suffix(".new").rename(file)
        longest = 0.0

    timers.callWhenRunning(tick)
    signal.signal(signal.SIGUSR2, tell)
    sys.argv = ["twistd", *arguments]
    run()


class Watched(Knocker):
    """A Knocker that tells how long its reactor stood still."""

    def __init__(self, folder: Path, grants: list[Grant]) -> None:
        told = {
            **settings(grants, [HOST], True),
            "security": {"knock_rate_limit": {"successful_requests": 0, "failed_requests": 0}},
            "logging": {"level": "warning"},
        }
        super().__init__(folder, told, free_port(), prefix=PINNED)
        self.stalls = folder / "stalls"
        self.command = [sys.executable, __file__, "--watched", str(self.stalls), *self.command[1:]]

    def longest_stall(self) -> float:
        """Milliseconds, since it was asked last."""
        self.stalls.unlink(missing_ok=True)
        self.signal(signal.SIGUSR2)
        eventually(self.stalls.exists, "it tells its longest stall")
        return float(self.stalls.read_text(encoding="ascii")) * 1000


class Proxy:
    """Asks /verify one after the other, at a steady rate, in a thread; a context manager."""

    def __init__(self, server: Server, client: str) -> None:
        self.times: list[float] = []  # milliseconds
        self._wire = http.client.HTTPConnection(HOST, server.port, timeout=10)
        self._headers = {"X-Forwarded-For": client, "X-Forwarded-Host": APP, "X-Forwarded-Uri": "/"}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._wire.close()

    def _run(self) -> None:
        while not self._ended.wait(1 / RATE):
            began = time.perf_counter()
            self._wire.request("GET", "/verify", headers=self._headers)
            answer = self._wire.getresponse()
            answer.read()
            self.times.append((time.perf_counter() - began) * 1000)
            if answer.status != 200:
                raise AssertionError(f"a live grant was answered {answer.status}")


@dataclass
class Row:
    """What was measured of one number of connections."""

    case: Case
    stalls: list[float] = field(default_factory=list)
    verify: list[float] = field(default_factory=list)


def report(sizes: Sizes) -> None:
    """A table for each number of grants."""
    for count in sizes.grants:
        with ExitStack() as stack, Street() as street:  # the folder goes last
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="knocker-benchmark-")))
            chance = random.Random(count)  # noqa: S311 - the same addresses at every run
            grants = granted(different(count, lambda: single(32, chance)), PHONE)  # noqa: B023 - used at once
            store(folder, grants)
            knocker = Watched(folder, grants)
            street.add(knocker)
            street.wait()
            report_one(knocker, grants, folder, sizes)


def report_one(knocker: Watched, grants: list[Grant], folder: Path, sizes: Sizes) -> None:
    """One size: quiet, and while it is knocked at."""
    say(f"\n{len(grants):,} live grants; {sizes.rounds} rounds of {sizes.seconds:g} s, which renew them")
    clients = hits(grants)
    texts = [knock(str(next(clients))) for _ in range(1_000)]
    rows = [
        Row(Case(f"{many} connections", knocker.port, Load(folder, texts, [False] * len(texts)), many, (knocker,)))
        for many in sizes.connections
    ]
    quiet = Row(rows[0].case)
    client = str(next(clients))
    for _ in range(sizes.rounds):
        knocker.longest_stall()
        with Proxy(knocker, client) as proxy:
            time.sleep(sizes.seconds)
        quiet.verify += proxy.times
        quiet.stalls.append(knocker.longest_stall())
        for row in rows:
            with Proxy(knocker, client) as proxy:
                row.case.measure(sizes.seconds)
            row.verify += proxy.times
            row.stalls.append(knocker.longest_stall())
    say(
        f"  {'':<18}{'knocks/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}{'stall ms':>10}"
        f"{'/verify p50':>13}{'p99 ms':>9}{'ratio':>8}"
    )
    base = percentile(quiet.verify, 99)
    say(f"  {'quiet':<18}{'':>37}{max(quiet.stalls):10.1f}{percentile(quiet.verify, 50):13.2f}{base:9.2f}")
    for row in rows:
        p99 = percentile(row.verify, 99)
        say(
            f"  {row.case.name:<18}{row.case.rate:10,.0f}{row.case.p50 / 1000:9.2f}{row.case.p99 / 1000:9.2f}"
            f"{row.case.processor:9.0f}{max(row.stalls):10.1f}{percentile(row.verify, 50):13.2f}{p99:9.2f}"
            f"{'x' + format(p99 / base, '.1f'):>8}"
        )


def knock(client: str) -> str:
    """One knock as a proxy passes it on."""
    rows = (("X-Forwarded-For", client), ("X-Api-Key", SECRETS["phone"]), ("Content-Length", "0"))
    text = as_text("/knock", "knocker:8000", rows)
    return "POST" + text.removeprefix("GET")


if __name__ == "__main__":
    main()
