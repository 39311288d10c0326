"""What a whitelist that several gates share costs: how soon a knock counts elsewhere, knocks, /verify, and a start.

Run ``python benchmarks/cluster.py``, with ``--quick`` for a few seconds that only show that it works and ``--grants``
for another number of grants at the largest start. All gates are real Knockers, the engine is a real redis-server:

1. Three gates share it. From the 200 of a knock at gate A until gate B's /verify, asked without a pause, says 200; and
   from the answer to a revoke at A until B denies. All processes share all cores.
2. /verify at a gate with the file and at one with an engine, in turns.
3. Knocks by wrk at a gate with the file and at gates with engines that write differently, in turns.
4. From the launch of twistd until /ready is 200, with many grants in the engine.

From the second on, the gates have one core; wrk and the engine, which would be another machine, have the other.
Everything stays on loopback. Needs Linux, wrk, taskset and redis-server.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import verify
from benchmarks.attack import percentile
from benchmarks.printed import machine, need, say
from benchmarks.store import knock
from benchmarks.verify import HOST, Case, Load, Sample, judged
from knocker.core.grant import Grant
from knocker.settings.model import Shared
from knocker.store.redis.keys import Keys
from knocker.store.redis.record import Owner, Record
from tests.engine import Redis, gate
from tests.service import Knocker, Server, ask, free_port

AIM_P99 = 50.0  # ms, until another gate knows
AIM_VERIFY = 1.1  # times what a gate with a file takes
PATIENCE = 10.0  # seconds, until another gate knows
START_DEADLINE = 240.0  # seconds
TEXTS = 1_000  # different knocks
BATCH = 2_000  # grants that the engine is given in one go
FILE, VOLATILE, DURABLE = "whitelist.json", "Redis, appendonly no", "Redis, appendfsync always"
ELSEWHERE = ["taskset", "-c", str(verify.WRKS_CORE)]

Gates = dict[str, tuple[Server, ...]]  # by the name of their store: a gate, and its engine if it has one


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and how long. `seconds`: of one case in one round."""

    propagated: int = 500  # knocks, each until another gate knows
    grants: int = 10_000  # of the gates that are asked and knocked at
    connections: tuple[int, ...] = (1, 16, 200)
    rounds: int = 3
    seconds: float = 2.5
    verify_rounds: int = 7
    verify_seconds: float = 1.0
    starts: int = 1_000_000  # grants of the largest start


QUICK = Sizes(20, 1_000, (1, 16), rounds=1, seconds=0.25, verify_rounds=1, verify_seconds=0.25, starts=2_000)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description="What sharing a whitelist costs.")
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see that it works")
    parser.add_argument("--grants", metavar="N", type=int, default=0, help="grants in the engine at the largest start")
    options = parser.parse_args()
    need("wrk", "taskset", "redis-server")
    sizes = QUICK if options.quick else Sizes()
    sizes = replace(sizes, starts=options.grants or sizes.starts)
    told = " --quick" * options.quick + f" --grants {options.grants}" * (options.grants > 0)
    say(machine())
    say(f"command: python benchmarks/cluster.py{told}")
    say(
        f"gates on core {verify.SERVERS_CORE}, wrk and the engine on core {verify.WRKS_CORE}; in the first table all on"
    )
    say(f"all; load average {os.getloadavg()[0]:.1f} at the start")
    for report in (report_propagation, report_work, report_starts):
        with TemporaryDirectory(prefix="knocker-benchmark-") as folder:
            report(Path(folder), sizes)


# 1. Engines, gates, and what they know.


def settings(grants: int) -> dict[str, Any]:
    """The settings of a gate for so many grants, at which everybody may knock as often as they like."""
    return {
        **verify.settings([], [HOST], True),
        "whitelist": {"max_entries": grants + 1_000},
        "security": {"knock_rate_limit": {"successful_requests": 0, "failed_requests": 0}},
        "logging": {"level": "warning"},
    }


def engine(place: Path, durable: bool, prefix: list[str] | None = None) -> Redis:
    """One that syncs each change before it answers, or writes nothing at all; it takes no snapshot meanwhile."""
    return Redis(place, "--save", "", persistent=durable, prefix=prefix)


def some_grants(count: int) -> list[Grant]:
    """Grants of one key's for single IPv4 addresses."""
    chance = random.Random(count)  # noqa: S311 - the same addresses at every run
    return verify.granted(verify.different(count, partial(verify.single, 32, chance)), verify.PHONE)


def fill(redis: Redis, grants: list[Grant]) -> None:
    """Let the engine have these as scripts/open.lua leaves them, of its stream the last entry only."""
    keys, last = Keys(Shared(HOST).prefix), str(len(grants))
    change = ("o", Owner.of(grants[-1]).text, "v", recorded(grants[-1], len(grants)), "w", "", "t", "benchmark")
    with socket.create_connection((HOST, redis.port), 60) as wire, wire.makefile("rb") as replies:
        for start in range(0, len(grants), BATCH):
            commands = list(written(keys, grants[start : start + BATCH], start + 1))
            if start + BATCH >= len(grants):
                commands.append(command("HSET", keys.state, "changes", last, "clock", str(round(1000 * time.time()))))
                commands.append(command("XADD", keys.changes, "MAXLEN", "1", f"{last}-0", *change))
            wire.sendall(b"".join(commands))
            said = [replies.readline() for _ in commands]
            if bad := [reply for reply in said if reply.startswith(b"-")]:
                raise AssertionError(f"the engine refused {bad[0]!r}")


def written(keys: Keys, grants: list[Grant], first: int) -> Iterator[bytes]:
    """The commands that leave some grants there; `first`: the number of the first one's change."""
    crowds: dict[tuple[str | None, int], tuple[str, list[str]]] = {}
    for number, grant in enumerate(grants, first):
        owner, ends = Owner.of(grant), str(round(1000 * grant.expires_at))
        text = owner.text
        yield command("SET", keys.grant(text), recorded(grant, number), "PXAT", ends)
        if (crowd := (grant.key, grant.bits)) not in crowds:
            crowds[crowd] = keys.crowd(owner.crowd), []
        crowds[crowd][1].extend((ends, text))
    for name, members in crowds.values():
        yield command("ZADD", name, *members)
        yield command("ZADD", keys.all, *members)


def recorded(grant: Grant, number: int) -> str:
    """The engine's record of a grant."""
    created, last, ends = (round(1000 * at) for at in (grant.created_at, grant.last_knock_at, grant.expires_at))
    return Record(grant.id, created, last, ends, grant.via, grant.mark, number).text


def command(*words: str) -> bytes:
    """As the engine's protocol has it; all are ASCII."""
    return (f"*{len(words)}\r\n" + "".join([f"${len(word)}\r\n{word}\r\n" for word in words])).encode("ascii")


def started(knocker: Knocker) -> tuple[float, float, float]:
    """Start it. Seconds until it answers at all and until it is ready; the slowest of these answers, in ms."""
    began = time.perf_counter()
    knocker.launch()
    opened = slowest = 0.0
    while (asked := time.perf_counter()) - began < START_DEADLINE and knocker.running:
        with suppress(ConnectionError):
            status = ask(knocker.port, "/ready").status
            answered = time.perf_counter()
            opened, slowest = opened or answered - began, max(slowest, 1000 * (answered - asked))
            if status == 200:
                return opened, answered - began, slowest
        time.sleep(0.02)  # to ask more often would take the gate's time
    raise AssertionError(f"it ended, or was not ready in {START_DEADLINE:g} s:\n{knocker.log}")


# 2. How soon another gate knows.


@dataclass
class Times:
    """Milliseconds. `here`: until gate A answered; `there`: from then until gate B knew."""

    here: list[float] = field(default_factory=list)
    there: list[float] = field(default_factory=list)

    def take(self, act: Callable[[], int], answer: int, verdict: Callable[[], int], wanted: int) -> None:
        """Do it at A, and ask B until it knows."""
        began = time.perf_counter()
        if (status := act()) != answer:
            raise AssertionError(f"answered {status}, not {answer}")
        answered = time.perf_counter()
        while verdict() != wanted:
            if time.perf_counter() - answered > PATIENCE:
                raise AssertionError("the other gate never heard of it")
        self.there.append((time.perf_counter() - answered) * 1000)
        self.here.append((answered - began) * 1000)

    def tell(self, name: str) -> None:
        """Their line of the table."""
        p99 = percentile(self.there, 99)
        cells = [percentile(self.here, 50), percentile(self.here, 99), percentile(self.there, 50), p99, max(self.there)]
        aim = f"{'met' if p99 <= AIM_P99 else 'MISSED'}: p99 <= {AIM_P99:g}"
        say(f"  {name:<34}" + "".join(f"{cell:9.2f}" for cell in cells) + f"{aim:>18}")


def report_propagation(place: Path, sizes: Sizes) -> None:
    """Knocks and revokes, with an engine that writes nothing and with one that syncs."""
    say(f"\nFrom gate A's answer until gate B knows, of three gates, {sizes.propagated} times each, ms")
    say(f"  {'':<34}{'A: p50':>9}{'p99':>9}{'B: p50':>9}{'p99':>9}{'longest':>9}{'aim':>18}")
    for name, durable in ((VOLATILE, False), (DURABLE, True)):
        with ExitStack() as stack:
            redis = stack.enter_context(engine(place / name, durable))
            wires = []
            for letter in "ABC":
                knocker = gate(place / f"{name}, {letter}", redis.store, settings(0))
                stack.callback(knocker.end)
                started(knocker)
                wires.append(HTTPConnection(HOST, knocker.port, timeout=PATIENCE))
                stack.callback(wires[-1].close)
            knocks, revokes = propagation(wires[0], wires[1], sizes.propagated)
        knocks.tell(f"knock, {name}")
        revokes.tell(f"revoke, {name}")


def propagation(here: HTTPConnection, there: HTTPConnection, count: int) -> tuple[Times, Times]:
    """How soon knocks and revokes at `here` count `there`, each pair from an address that is new."""
    knocks, revokes = Times(), Times()
    for number in range(count):
        client = f"10.1.{number >> 8}.{number & 255}"
        verdict = partial(status_of, there, "GET", "/verify", client)
        if verdict() != 401:
            raise AssertionError("a stranger was not denied")
        knocks.take(partial(status_of, here, "POST", "/knock", client), 200, verdict, 200)
        revokes.take(partial(status_of, here, "DELETE", "/knock", client), 204, verdict, 401)
    return knocks, revokes


def status_of(wire: HTTPConnection, method: str, path: str, client: str) -> int:
    """The answer to what a proxy passes on, or asks about, over a connection that it keeps."""
    key = {"X-Api-Key": verify.SECRETS["phone"]} if path == "/knock" else {"X-Forwarded-Uri": "/"}
    wire.request(method, path, headers={"X-Forwarded-For": client, **key})
    answer = wire.getresponse()
    answer.read()
    return answer.status


# 3. /verify, and knocks a second.


def report_work(place: Path, sizes: Sizes) -> None:
    """What a gate with the file and gates with engines do, with the same grants."""
    grants, told, gates = some_grants(sizes.grants), settings(sizes.grants), Gates()
    (place / "loads").mkdir()
    with ExitStack() as stack:
        for name in (FILE, VOLATILE, DURABLE):
            (folder := place / name).mkdir()
            if name == FILE:
                verify.store(folder, grants)
                knocker = Knocker(folder, told, free_port(), prefix=verify.PINNED)
                gates[name] = (knocker,)
            else:
                redis = stack.enter_context(engine(folder / "engine", name == DURABLE, ELSEWHERE))
                fill(redis, grants)
                knocker = gate(folder, redis.store, told, verify.PINNED)
                gates[name] = (knocker, redis)
            stack.callback(knocker.end)
            started(knocker)
        report_verify(place / "loads", grants, gates, sizes)
        report_knocks(place / "loads", grants, gates, sizes)


def report_verify(place: Path, grants: list[Grant], gates: Gates, sizes: Sizes) -> None:
    """The fast lane of a gate with the file, and of one with an engine."""
    load = verify.mixed_load(place, grants)
    file, shared = (Case(name, gates[name][0].port, load, verify.MANY, gates[name][:1]) for name in (FILE, VOLATILE))
    verify.take_turns([file, shared], sizes.verify_rounds, sizes.verify_seconds)
    say(
        f"\n/verify, {len(grants):,} grants, {verify.MANY} connections, one request in ten denied; in turns, medians of"
    )
    say(f"{sizes.verify_rounds} x {sizes.verify_seconds:g} s")
    say(f"  {'':<29}{'/verify/s':>10}{'p50 us':>9}{'p99 us':>9}{'CPU us':>9}{'best':>9}")
    for case in (file, shared):
        say(f"  {case.name:<29}{case.rate:10,.0f}{case.p50:9.0f}{case.p99:9.0f}{case.processor:9.1f}{case.best:9.1f}")
    judged("rate, shared to file, median of the rounds' ratios", of_rounds(shared, file, rate), least=1 / AIM_VERIFY)
    judged("processor time, likewise", of_rounds(shared, file, lambda one: sum(one.spent)), most=AIM_VERIFY)


def report_knocks(place: Path, grants: list[Grant], gates: Gates, sizes: Sizes) -> None:
    """A table for each number of connections."""
    clients = verify.hits(grants)
    load = Load(place, [knock(str(next(clients))) for _ in range(TEXTS)], [False] * TEXTS)
    cases = {
        many: [Case(name, watched[0].port, load, many, watched) for name, watched in gates.items()]
        for many in sizes.connections
    }
    verify.take_turns([case for row in cases.values() for case in row], sizes.rounds, sizes.seconds)
    say(
        f"\nKnocks that renew one of {len(grants):,} grants; in turns, medians of {sizes.rounds} x {sizes.seconds:g} s;"
    )
    say("both the file and appendfsync always answer once it is on disk")
    heads = f"{'knocks/s':>10}{'ratio':>8}{'p50 ms':>9}{'p99 ms':>9}{'gate us':>9}{'engine us':>11}"
    for many, row in cases.items():
        say(f"  {f'{many} connection' + 's' * (many > 1):<29}{heads}")
        for case in row:
            gates_time, engines_time = (case.median(lambda one, at=at: sum(one.spent[at : at + 1])) for at in (0, 1))  # type: ignore[misc]
            say(
                f"  {case.name:<29}{case.rate:10,.0f}{of_rounds(case, row[0], rate):8.2f}{case.p50 / 1000:9.2f}"
                f"{case.p99 / 1000:9.2f}{gates_time:9.0f}{engines_time:11.0f}"
            )


def rate(sample: Sample) -> float:
    """Requests a second."""
    return sample.rate


def of_rounds(case: Case, base: Case, what: Callable[[Sample], float]) -> float:
    """The median of each round's ratio: the machine's own speed changes more from round to round."""
    return statistics.median(what(one) / what(other) for one, other in zip(case.samples, base.samples, strict=True))


# 4. A start with many grants.


def report_starts(place: Path, sizes: Sizes) -> None:
    """One line for each number of grants, with a new engine and a new gate."""
    say("\nA start: seconds from the launch of twistd until it answers, which it does once all is read, and until")
    say("/ready is 200, the slowest answer of that, the gate's resident memory, the engine's used_memory a grant")
    say(f"  {'grants':>11}{'answers s':>11}{'ready s':>9}{'slowest ms':>12}{'gate MB':>9}{'engine bytes':>14}")
    for count in (0, sizes.starts // 10, sizes.starts):
        grants = some_grants(count)
        with ExitStack() as stack:
            redis = stack.enter_context(engine(place / f"engine {count}", False, ELSEWHERE))
            empty = used_memory(redis)
            if grants:
                fill(redis, grants)
            each = f"{(used_memory(redis) - empty) / count:.0f}" if count else ""
            knocker = gate(place / f"gate {count}", redis.store, settings(count), verify.PINNED)
            stack.callback(knocker.end)
            opened, ready, slowest = started(knocker)
            memory = verify.resident(knocker.pid)
            known = [grants[at] for at in (0, count // 2, -1)] if grants else []
            if any(knocker.verify(str(grant.network)) != 200 for grant in known):
                raise AssertionError("a live grant was denied")
        say(f"  {count:>11,}{opened:11.2f}{ready:9.2f}{slowest:12.0f}{memory:9.0f}{each:>14}")


def used_memory(redis: Redis) -> int:
    """Bytes."""
    lines = redis.ask("INFO", "memory").splitlines()
    return int(next(line.partition(":")[2] for line in lines if line.startswith("used_memory:")))


if __name__ == "__main__":
    main()
