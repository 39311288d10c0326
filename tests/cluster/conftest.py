"""An engine of a test's own, and three gates that share it: real processes, on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.fleet import SETTINGS, Fleet
from tests.engine import Redis, gate


@pytest.fixture(scope="module")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three gates and their engine, for tests that leave both as they found them."""
    yield from _fleet(tmp_path_factory.mktemp("fleet"), SETTINGS)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Three gates and their engine, for a test alone."""
    yield from _fleet(tmp_path, SETTINGS)


def _fleet(directory: Path, settings: dict[str, Any]) -> Iterator[Fleet]:
    with ExitStack() as stack:
        engine = stack.enter_context(Redis(directory / "engine", persistent=True))
        gates = [gate(directory / name, engine.store, settings) for name in "abc"]
        for one in gates:
            stack.callback(one.end)
            one.launch()
        fleet = Fleet(engine, gates)
        fleet.wait_until_ready()
        yield fleet
