"""Makes pytest-twisted as strict as trial: leftover timers, sockets and logged errors fail the test that left them."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from itertools import groupby
from typing import Any
from zlib import crc32

import hypothesis
import pytest
from twisted.internet import reactor
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from tests.refused import MARK

# `make test` runs a share, KNOCKER_TEST_LONG=1 the full counts; both from fixed seeds, unless KNOCKER_TEST_RANDOM=1.
LONG = os.environ.get("KNOCKER_TEST_LONG") == "1"
FIXED = os.environ.get("KNOCKER_TEST_RANDOM") != "1"
hypothesis.settings.register_profile("share", max_examples=40, derandomize=FIXED, deadline=None)
hypothesis.settings.register_profile("long", max_examples=1000, derandomize=FIXED, deadline=None, print_blob=True)
hypothesis.settings.load_profile("long" if LONG else "share")

# Of areas that start many processes `make test` runs so many tests in a hundred: always the same ones, and one of each
# file. Whoever names tests with :: gets those.
SHARES = {"tests/cluster": 12, "tests/e2e": 30, "tests/faults": 35, "tests/page": 20, "tests/proxies": 17}


class Errors:
    """What was logged as an error during one test; `expected()` takes the errors out that a test is about."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []
        self.lines: list[str] = []

    def heed(self, event: LogEvent) -> None:
        """Note one event."""
        self.lines.append(formatEvent(event))
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            self.events.append(event)

    def expected(self) -> list[LogEvent]:
        """The errors so far, which then fail no test."""
        events, self.events = self.events, []
        return events


_current = Errors()
_OBSERVER: Any = _current.heed


@pytest.fixture
def errors() -> Errors:
    """The errors that this test logs."""
    return _current


def _sockets() -> set[Any]:
    return {reader for reader in reactor.getReaders() if "Waker" not in type(reader).__name__}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, four at most: much of the time is spent waiting for real servers."""
    return min(4, (os.cpu_count() or 1) + 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only the long run has."""
    if LONG or any("::" in argument for argument in config.args):
        return
    chosen: dict[str, list[pytest.Item]] = {}
    for item in sorted(items, key=lambda item: crc32(item.nodeid.encode())):
        file = item.nodeid.partition("::")[0]
        kept = chosen.setdefault(file, [])
        if not kept or crc32(item.nodeid.encode()) % 100 < SHARES.get(file.rpartition("/")[0], 100):
            kept.append(item)
    run = {item for kept in chosen.values() for item in kept}
    config.hook.pytest_deselected(items=[item for item in items if item not in run])
    items[:] = [item for item in items if item in run]


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported so far need not be looked through after each test."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Compare the reactor before and after each test, and listen for errors meanwhile."""
    calls = set(reactor.getDelayedCalls())
    sockets = _sockets()
    _current.events, _current.lines = [], []
    globalLogPublisher.addObserver(_OBSERVER)
    try:
        result = yield
        gc.collect()  # so that a failure nobody looked at is logged inside the guilty test
    finally:
        globalLogPublisher.removeObserver(_OBSERVER)
        left = [call for call in set(reactor.getDelayedCalls()) - calls if call.active()]
        for call in left:
            call.cancel()
    faults = [f"left a timer: {call}" for call in left]
    faults += [f"left a socket: {reader}" for reader in _sockets() - sockets]
    faults += [f"logged: {formatEvent(event)} {event.get('log_failure', '')}" for event in _current.events]
    if faults:
        pytest.fail("\n".join(faults))
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Under KNOCKER_TEST_ALL=1 a skipped test is a failed one, unless it is the machine that refuses."""
    report = yield
    everything = os.environ.get("KNOCKER_TEST_ALL") == "1"
    if report.skipped and everything and MARK not in str(report.longrepr) and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"not run: {report.longrepr}"
    return report


def _why(skipped: pytest.TestReport) -> str:
    assert isinstance(skipped.longrepr, tuple)
    return skipped.longrepr[2].removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was not run, and how long each folder took."""
    skipped = terminalreporter.stats.get("skipped", [])
    for why, several in groupby(sorted(skipped, key=_why), _why):
        names = [report.nodeid for report in several]
        files = {name.partition("::")[0] for name in names}
        terminalreporter.write_line(f"not run: {len(names)} tests, {why}: {', '.join(sorted(files))}")
    seconds: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                folder = report.nodeid.partition("::")[0].rpartition("/")[0]
                seconds[folder] = seconds.get(folder, 0.0) + report.duration
    shown = ", ".join(f"{folder} {time:.0f}" for folder, time in sorted(seconds.items(), key=lambda pair: -pair[1]))
    terminalreporter.write_line(f"seconds per folder: {shown}")
