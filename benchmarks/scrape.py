"""What metrics cost: the rate of /verify of a busy gate that is scraped, beside one that is not.

Run ``python benchmarks/scrape.py``, with ``--quick`` for a few seconds that only show that it works. A real Knocker
with 10,000 grants, which has one core, is asked by wrk from the other, by 32 connections without pause; in some rounds
something scrapes /metrics besides, as often as is told. Prometheus does so each 15 to 60 s by default. Everything stays
on loopback. Needs Linux, wrk and taskset.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import threading
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.printed import machine, need, say
from benchmarks.verify import (
    HOST,
    PHONE,
    PINNED,
    SERVERS_CORE,
    WRKS_CORE,
    Case,
    Load,
    Sample,
    Street,
    different,
    granted,
    hits,
    question,
    settings,
    single,
    store,
)
from knocker.core.grant import Grant
from tests.service import Knocker, free_port

AIM = 0.05  # of the rate
CONNECTIONS = 32


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and how long."""

    grants: int = 10_000
    seconds: float = 3.0
    rounds: int = 15
    pauses: tuple[float, ...] = (1.0, 0.1)  # seconds between scrapes


QUICK = Sizes(grants=100, seconds=0.4, rounds=1)


class Scraper:
    """Reads /metrics again and again, in a thread; a context manager."""

    def __init__(self, port: int, pause: float) -> None:
        self.url = f"http://{HOST}:{port}/metrics"
        self.pause = pause
        self.scrapes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        os.sched_setaffinity(0, {WRKS_CORE})  # this thread alone: elsewhere it would take the gate's time
        while not self._ended.is_set():
            with urllib.request.urlopen(self.url, timeout=10) as answer:  # noqa: S310 - the URL is ours
                if b"knocker_verdicts_total" not in answer.read():
                    raise AssertionError("a scrape without verdicts")
            self.scrapes += 1
            self._ended.wait(self.pause)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description="What metrics cost.")
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see that it works")
    options = parser.parse_args()
    need("wrk", "taskset")
    sizes = QUICK if options.quick else Sizes()
    say(machine())
    say(f"command: python benchmarks/scrape.py{' --quick' if options.quick else ''}")
    say(f"Knocker on core {SERVERS_CORE}, wrk on core {WRKS_CORE}; load average {os.getloadavg()[0]:.1f} at the start")
    report(sizes)


def report(sizes: Sizes) -> None:
    """One table: without metrics, with them, and scraped."""
    with ExitStack() as stack, Street() as street:  # the folder goes last
        chance = random.Random(1)  # noqa: S311 - the same addresses at every run
        grants = granted(different(sizes.grants, lambda: single(32, chance)), PHONE)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="knocker-benchmark-")))
        clients = hits(grants)
        load = Load(folder, [question(next(clients), number) for number in range(1_000)], [False] * 1_000)
        ports = [free_port(), 0]
        silent, telling = (_knocker(stack, street, grants, port) for port in ports[::-1])
        street.wait()
        cases = [
            (Case("without metrics", silent.port, load, CONNECTIONS, (silent,)), None),
            (Case("metrics, not scraped", telling.port, load, CONNECTIONS, (telling,)), None),
            *(
                (Case(f"scraped each {pause:g} s", telling.port, load, CONNECTIONS, (telling,)), pause)
                for pause in sizes.pauses
            ),
        ]
        for turn in range(sizes.rounds):
            for case, pause in cases[:: -1 if turn % 2 else 1]:
                with Scraper(ports[0], pause) if pause is not None else nullcontext():
                    case.measure(sizes.seconds)
    say(f"\n{sizes.grants:,} grants; medians of {sizes.rounds} rounds of {sizes.seconds:g} s, in turns; each ratio is")
    say("of one round, since the machine's own speed changes more from round to round")
    say(f"  {'':<22}{'verdicts/s':>12}{'p50 us':>8}{'p99 us':>8}{'CPU us':>8}{'rate':>7}{'CPU':>7}{'aim':>14}")
    base = cases[1][0]
    for case, pause in cases:
        rate = _median_ratio(case, base, lambda sample: sample.rate)
        spent = _median_ratio(case, base, lambda sample: sum(sample.spent))
        aim = f"{'met' if rate >= 1 - AIM else 'missed'}: >= {1 - AIM:.2f}" if pause is not None else ""
        say(
            f"  {case.name:<22}{case.rate:12,.0f}{case.p50:8.0f}{case.p99:8.0f}{case.processor:8.1f}"
            f"{rate:7.3f}{spent:7.3f}{aim:>14}"
        )


def _median_ratio(case: Case, base: Case, what: Callable[[Sample], float]) -> float:
    """Of the rounds in which both were measured."""
    return statistics.median(what(one) / what(other) for one, other in zip(case.samples, base.samples, strict=True))


def _knocker(stack: ExitStack, street: Street, grants: list[Grant], port: int) -> Knocker:
    """A Knocker with these grants, and metrics at `port` unless that is 0."""
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="knocker-benchmark-")))
    store(folder, grants)
    told = {**settings(grants, [HOST], True), "metrics": {"enabled": port != 0, "host": HOST, "port": port or 9}}
    knocker = Knocker(folder, told, free_port(), prefix=PINNED)
    street.add(knocker)
    return knocker


if __name__ == "__main__":
    main()
