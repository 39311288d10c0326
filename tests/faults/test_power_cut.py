"""Power cuts on ext4 and xfs: what was acknowledged is there, and the file is whole; without the syncs it is not."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LONG
from tests.e2e.conftest import PHONE
from tests.faults.conftest import Crowd, Witness, entries, roomy
from tests.faults.disks import CARELESS, EXT4, KINDS, XFS, Cut, Disk, Kind, Mounts
from tests.service import Knocker, eventually, free_port

ROUNDS = 40 if LONG else 1  # on each disk, of each kind of cut
COPIES = 54 if LONG else 1  # of each disk
ROUNDS_WITHOUT_SYNCS = 5 if LONG else 1

# A Knocker that syncs nothing, and leaves a file for each sync that it did without.
WITHOUT_SYNCS = """
import os, pathlib
def _like_that(name):
    def synced(descriptor):
        pathlib.Path({folder!r}, name).touch()
    return synced
os.fsync, os.fdatasync = _like_that("fsync"), _like_that("fdatasync")
"""

StartOn = Callable[..., tuple[Knocker, Disk]]


def named(*which: Any) -> Any:
    return pytest.param(*which, id="-".join(str(one.name if isinstance(one, Cut) else one).lower() for one in which))


CUTS = [named(kind, how) for kind in KINDS for how in Cut]
# Where the journal gets written, ext4's care for renames without a sync saves nearly all.
HARMFUL = [named(kind, how) for kind in KINDS for how in Cut if (kind, how) != (EXT4, Cut.JOURNAL)]


class Figures:
    """What was on the disk after each cut, and what should have been."""

    def __init__(self) -> None:
        self.rounds = 0
        self.unreadable = 0
        self.acknowledged: set[str] = set()
        self.lost: set[str] = set()
        self.uninvited: set[str] = set()

    def __str__(self) -> str:
        sets = {"acknowledged": self.acknowledged, "lost": self.lost, "uninvited": self.uninvited}
        counts = [f"{name} {len(clients)}" for name, clients in sets.items()]
        return ", ".join([f"rounds {self.rounds}", *counts, f"unreadable {self.unreadable}"])

    def judge(self, disk: Disk, acknowledged: set[str], asked: set[str]) -> None:
        """Look at the whitelist on a disk that should hold all that were acknowledged, and only such as asked."""
        self.rounds += 1
        try:
            found = entries(disk.seen / "whitelist.json")
        except (OSError, ValueError, KeyError, TypeError):
            self.unreadable += 1
            found = set()
        self.acknowledged |= acknowledged
        self.lost |= acknowledged - found
        self.uninvited |= found - asked

    @property
    def harm(self) -> bool:
        """Whether a cut did any."""
        return bool(self.lost or self.uninvited or self.unreadable)


@pytest.fixture
def tell(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[[Figures], None]:
    """Prints the figures of the test (`pytest -s` shows them)."""

    def tell_them(figures: Figures) -> None:
        record_property("figures", str(figures))
        print(f"\n{request.node.name}: {figures}")

    return tell_them


@pytest.fixture
def start_on(tmp_path: Path) -> Iterator[StartOn]:
    """Starts a Knocker whose whitelist is on a disk of its own; both end with the test."""
    with ExitStack() as stack:

        def start_one(kind: Kind, environment: dict[str, str] | None = None) -> tuple[Knocker, Disk]:
            mounts = stack.enter_context(Mounts())
            disk = stack.enter_context(Disk(mounts, kind, tmp_path / "disk"))
            disk.make()
            told = roomy(storage_path=str(disk.folder / "whitelist.json"))
            knocker = Knocker(tmp_path, told, free_port(), prefix=mounts.within(tmp_path))
            knocker.whitelist = disk.seen / "whitelist.json"
            knocker.environment = environment or {}
            stack.callback(knocker.end, PHONE)
            knocker.start()
            return knocker, disk

        yield start_one


@pytest.fixture
def start_without_syncs(start_on: StartOn, tmp_path: Path) -> Iterator[StartOn]:
    """Starts such a Knocker that syncs nothing."""
    folder = tmp_path / "without"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT_SYNCS.format(folder=str(folder)))
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    started = []

    def start_one(kind: Kind) -> tuple[Knocker, Disk]:
        started.append(start_on(kind, {"PYTHONPATH": path}))
        return started[-1]

    yield start_one
    assert not started or (folder / "fsync").exists(), "it did without a sync"


@contextmanager
def under_load(knocker: Knocker, witness: Witness, number: int) -> Iterator[None]:
    """Among clients that knock, the first of which have been let in, at some moment."""
    before = len(witness.acknowledged)
    with Crowd(witness, knocker, number):
        eventually(lambda: len(witness.acknowledged) > before, "a knock is acknowledged")
        time.sleep(random.Random(number).uniform(0.005, 0.15))
        yield


@contextmanager
def stopped(knocker: Knocker) -> Iterator[None]:
    """While none of its threads does anything: what they had begun with the disk is done."""
    tasks = Path(f"/proc/{knocker.pid}/task")
    knocker.signal(signal.SIGSTOP)
    try:
        eventually(
            lambda: {(task / "stat").read_text().rpartition(") ")[2][0] for task in tasks.iterdir()} == {"T"},
            "every thread stands",
        )
        yield
    finally:
        knocker.signal(signal.SIGCONT)


def power_cut(knocker: Knocker, disk: Disk, how: Cut, witness: Witness, number: int) -> None:
    """The power is cut while clients knock, and comes back; the Knocker has not been started again."""
    with under_load(knocker, witness, number):
        before = set(witness.acknowledged)
        disk.cut(how)
        assert witness.knock(knocker, f"10.255.0.{number + 1}") == 503
    knocker.kill()
    # Without power nobody is answered; here some are, since xfs, once cut, has a directory's fsync do nothing and
    # succeed, also where the cut undid the rename before it.
    witness.acknowledged &= before
    disk.unmount()
    disk.mount()


def copy(knocker: Knocker, disk: Disk, witness: Witness, number: int, figures: Figures) -> None:
    """The disk is copied while clients knock, and the copy looked at."""
    image = disk.folder.with_name("copy")
    with under_load(knocker, witness, number):
        with stopped(knocker):
            acknowledged = set(witness.acknowledged)
            copied = disk.copied(image)
    with copied:
        copied.mount()
        figures.judge(copied, acknowledged, witness.asked)
        copied.unmount()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "how"), CUTS if LONG else [named(CARELESS, Cut.NOTHING), named(XFS, Cut.JOURNAL)])
def test_a_power_cut_loses_no_acknowledged_knock(
    start_on: StartOn, tell: Callable[[Figures], None], kind: Kind, how: Cut
) -> None:
    (knocker, disk), witness, figures = start_on(kind), Witness(), Figures()
    for number in range(ROUNDS):
        power_cut(knocker, disk, how, witness, number)
        figures.judge(disk, witness.acknowledged, witness.asked)
        assert not figures.harm, str(figures)
        knocker.start()
        witness.check(knocker)
    tell(figures)
    assert len(figures.acknowledged) > ROUNDS


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", [named(kind) for kind in (KINDS if LONG else [EXT4])])
def test_a_copy_of_the_disk_under_load_has_every_acknowledged_knock(
    start_on: StartOn, tell: Callable[[Figures], None], kind: Kind
) -> None:
    (knocker, disk), witness, figures = start_on(kind), Witness(), Figures()
    for number in range(COPIES):
        copy(knocker, disk, witness, number, figures)
        assert not figures.harm, str(figures)
    tell(figures)
    assert len(figures.acknowledged) > COPIES


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "how"), HARMFUL if LONG else [named(EXT4, Cut.NOTHING), named(XFS, Cut.NOTHING)])
def test_a_power_cut_does_harm_where_nothing_is_synced(
    start_without_syncs: StartOn, tell: Callable[[Figures], None], kind: Kind, how: Cut
) -> None:
    (knocker, disk), witness, figures = start_without_syncs(kind), Witness(), Figures()
    for number in range(ROUNDS_WITHOUT_SYNCS):
        if not knocker.running:
            knocker.start()
        power_cut(knocker, disk, how, witness, number)
        figures.judge(disk, witness.acknowledged, witness.asked)
    tell(figures)
    assert figures.lost or figures.unreadable


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", [named(kind) for kind in (KINDS if LONG else [XFS])])
def test_a_copy_of_the_disk_lacks_what_was_never_synced(
    start_without_syncs: StartOn, tell: Callable[[Figures], None], kind: Kind
) -> None:
    (knocker, disk), witness, figures = start_without_syncs(kind), Witness(), Figures()
    for number in range(ROUNDS_WITHOUT_SYNCS):
        copy(knocker, disk, witness, number, figures)
    tell(figures)
    assert figures.lost or figures.unreadable
