"""The store's promises: durable before answered, closing at once, nothing kept too long (contract 3.6)."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from knocker.core.addresses import Address
from knocker.core.grant import Own, Via, Wish
from knocker.core.keys import Keyring
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.core.turns import SHARE, Turns
from knocker.core.whitelist import Plan
from knocker.store import atomic
from knocker.store.lock import Lock, Unusable
from tests.conftest import Errors
from tests.wire import ADMIN, KEY, SETTINGS, Disk, World, hang_up

CLIENT = "198.51.100.7"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def stored(world: World) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.folder / "whitelist.json").read_text())
    return found


def entries(world: World) -> list[str]:
    return [grant["entry"] for grant in stored(world)["grants"]]


def knocks(world: World, *clients: str, method: str = "POST", key: str = KEY) -> list[Any]:
    """Knocks that are not answered yet, each on a connection of its own."""
    found = []
    for client in clients:
        channel, wire = world.connect()
        head = f"{method} /knock HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: {client}\r\nX-Api-Key: {key}\r\n\r\n"
        channel.dataReceived(head.encode())
        found.append(wire)
    world.clock.advance(0)
    return found


def status(wire: Any) -> int | None:
    return int(wire.value()[9:12]) if wire.value() else None


@pytest.fixture(autouse=True)
def hang_up_all(world: World) -> Any:
    yield
    for channel in tuple(world.site.channels):
        hang_up(channel)


def test_a_knock_is_answered_and_counts_only_when_it_is_on_disk(world: World) -> None:
    disk = Disk(world)
    (wire,) = knocks(world, CLIENT)
    assert (status(wire), world.verdict(CLIENT)) == (None, 401)
    disk.succeed()
    assert (status(wire), world.verdict(CLIENT)) == (200, 200)
    assert entries(world) == [CLIENT]


def test_knocks_that_arrive_during_a_write_share_the_next(world: World) -> None:
    disk = Disk(world)
    first = knocks(world, "198.51.100.1")
    others = knocks(world, *(f"198.51.100.{host}" for host in range(2, 40)))
    assert len(disk.writes) == 1
    disk.succeed()
    assert [status(wire) for wire in first + others] == [200] + [None] * 38
    assert len(disk.writes) == 1
    disk.succeed()
    while None in [status(wire) for wire in others]:
        assert world.clock.getDelayedCalls(), "they are answered some in each turn of the reactor"
        world.clock.advance(0)
    assert {status(wire) for wire in others} == {200}
    assert disk.writes == []
    assert len(entries(world)) == 39


def test_who_knocks_twice_before_one_write_is_let_in_twice(world: World) -> None:
    disk = Disk(world)
    knocks(world, "198.51.100.1")
    twice = knocks(world, CLIENT, CLIENT)
    disk.succeed()
    disk.succeed()
    assert [status(wire) for wire in twice] == [200, 200]
    assert world.verdict(CLIENT) == 200
    assert disk.writes == []
    assert entries(world) == ["198.51.100.1", CLIENT]


def test_the_file_is_ours_alone_and_says_when_it_was_written(world: World) -> None:
    world.knock(CLIENT)
    path = world.folder / "whitelist.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = stored(world)
    assert (found["version"], found["saved_at"], found["boot_time"], found["boot_id"]) == (
        1, world.wall, world.boot, "boot-1",
    )  # fmt: skip
    text = path.read_text()
    assert KEY not in text
    assert os.listdir(world.folder) == ["whitelist.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EMFILE])
def test_what_could_not_be_stored_is_refused_and_grants_nothing(world: World, number: int, errors: Errors) -> None:
    world.knock("198.51.100.1")
    disk = Disk(world)
    (wire,) = knocks(world, CLIENT)
    disk.fail(number)
    assert status(wire) == 503
    assert b"The whitelist could not be stored." in wire.value()
    assert (world.verdict(CLIENT), world.verdict("198.51.100.1")) == (401, 200)
    ready = world.ask("/ready")
    assert (ready.status, os.strerror(number) in ready.body.decode()) == (503, True)
    assert len(errors.expected()) == 1
    (wire,) = knocks(world, CLIENT)
    disk.succeed()
    assert (status(wire), world.verdict(CLIENT), world.ask("/ready").status) == (200, 200, 200)


def test_after_a_failure_the_file_is_written_again_until_it_is_right(world: World, errors: Errors) -> None:
    disk = Disk(world)
    knocks(world, CLIENT)
    disk.fail(errno.EIO)
    for pause in (1, 2, 4, 8, 16, 30, 30):
        assert disk.writes == []
        world.pass_time(pause - 0.1)
        assert disk.writes == []
        world.pass_time(0.2)
        disk.fail(errno.EIO)
    assert len(errors.expected()) == 1, "the same failure is said once"
    world.pass_time(31)
    disk.succeed()
    assert entries(world) == []
    assert [call for call in world.clock.getDelayedCalls() if call.getTime() > 500] == []


def test_a_failing_disk_holds_no_knock_back(world: World, errors: Errors) -> None:
    world.in_thread = lambda function: fail(OSError(errno.ENOSPC, "No space left on device"))
    assert [world.knock(CLIENT).status for _ in range(5)] == [503] * 5
    errors.expected()
    world.store.stop()


def test_an_extension_that_was_not_stored_changes_nothing(world: World, errors: Errors) -> None:
    world.knock(CLIENT)
    disk = Disk(world)
    world.pass_time(500)
    (wire,) = knocks(world, CLIENT)
    disk.fail(errno.EIO)
    assert status(wire) == 503
    world.pass_time(99)
    disk.succeed()
    assert world.verdict(CLIENT) == 200
    world.pass_time(2)
    assert world.verdict(CLIENT) == 401
    disk.succeed()
    assert entries(world) == []
    errors.expected()


def test_closing_counts_at_once_and_is_written_until_it_is(world: World, errors: Errors) -> None:
    world.knock(CLIENT)
    disk = Disk(world)
    (wire,) = knocks(world, CLIENT, method="DELETE")
    assert (status(wire), world.verdict(CLIENT)) == (None, 401)
    disk.fail(errno.EIO)
    assert status(wire) == 503
    assert b"Closed, but not stored." in wire.value()
    assert world.verdict(CLIENT) == 401
    assert world.ask("/ready").status == 503
    world.pass_time(1.1)
    disk.succeed()
    assert entries(world) == []
    assert world.ask("/ready").status == 200
    assert len(errors.expected()) == 1


def test_a_grant_closed_while_its_renewal_is_written_stays_closed(world: World) -> None:
    world.knock(CLIENT)
    disk = Disk(world)
    (renewal,) = knocks(world, CLIENT)
    (leaving,) = knocks(world, CLIENT, method="DELETE")
    assert world.verdict(CLIENT) == 401
    disk.succeed()
    assert status(renewal) == 503, "nothing was granted, so it is not said to be"
    assert world.verdict(CLIENT) == 401
    disk.succeed()
    assert status(leaving) == 204
    assert entries(world) == []


def test_leaving_also_takes_back_a_knock_that_still_waits(world: World) -> None:
    disk = Disk(world)
    knocks(world, "198.51.100.1")
    (waiting, other) = knocks(world, CLIENT, "198.51.100.2")
    (leaving,) = knocks(world, CLIENT, method="DELETE")
    assert status(waiting) == 503
    while disk.writes:
        disk.succeed()
    assert (status(leaving), status(other)) == (204, 200)
    assert (world.verdict(CLIENT), world.verdict("198.51.100.2")) == (401, 200)


def test_a_knock_whose_key_went_while_it_was_written_is_not_said_to_be_granted(world: World) -> None:
    disk = Disk(world)
    (wire,) = knocks(world, CLIENT)
    world.whitelist.revise(Keyring(), Forbidden(), world.now())
    disk.succeed()
    assert (status(wire), world.verdict(CLIENT)) == (503, 401)
    disk.succeed()
    assert entries(world) == []


def test_a_file_with_live_grants_is_never_older_than_a_few_minutes(world: World) -> None:
    world.knock(CLIENT)
    for _ in range(5):
        world.pass_time(60)
        world.store.refresh()
    world.clock.advance(0)
    assert stored(world)["saved_at"] == world.wall
    again = World(world.folder, wall=world.wall - 50, boot=10.0, boot_id="boot-2")
    again.load()
    assert next(iter(again.whitelist)).seconds_left(again.now()) == 300
    world.pass_time(60)
    world.store.flush()
    world.clock.advance(0)
    assert stored(world)["saved_at"] == world.wall


def test_a_grant_that_ends_while_its_renewal_is_written_is_renewed(world: World) -> None:
    world.knock(CLIENT)
    disk = Disk(world)
    world.pass_time(599)
    (wire,) = knocks(world, CLIENT)
    world.pass_time(2)
    assert world.verdict(CLIENT) == 401
    disk.succeed()
    assert (status(wire), world.verdict(CLIENT)) == (200, 200)
    while disk.writes:
        disk.succeed()
    assert entries(world) == [CLIENT]


def test_a_restart_forgets_nothing_and_prolongs_nothing(world: World) -> None:
    world.knock(CLIENT)
    world.knock("9.9.9.9", ADMIN, b'{"ip_address": "10.1.0.0/24"}')
    world.pass_time(100)
    again = World(world.folder, wall=world.wall, boot=world.boot)
    again.load()
    assert (again.verdict(CLIENT), again.verdict("10.1.0.9"), again.verdict("9.9.9.9")) == (200, 200, 401)
    assert [grant.id for grant in again.whitelist] == [grant.id for grant in world.whitelist]
    again.pass_time(499)
    assert again.verdict(CLIENT) == 200
    again.pass_time(2)
    assert again.verdict(CLIENT) == 401


@pytest.mark.parametrize(
    "rewritten",
    [
        pytest.param(lambda line: line.replace('"id": "g', '"id": "\\u0067'), id="an escape in its id"),
        pytest.param(lambda line: line.replace('{"id": ', '{ "id": '), id="a blank before its id"),
        pytest.param(lambda line: line.replace('", "entry"', '" , "entry"'), id="a blank behind its id"),
    ],
)
def test_what_somebody_else_laid_out_differently_is_closed_for_good(
    world: World, rewritten: Callable[[str], str]
) -> None:
    world.knock(CLIENT)
    world.knock("198.51.100.8")
    file = world.folder / "whitelist.json"
    before = file.read_text()
    file.write_text("\n".join(rewritten(line) for line in before.split("\n")))
    assert file.read_text() != before
    again = World(world.folder)
    again.load()
    assert again.knock(CLIENT, method="DELETE").status == 204
    assert entries(again) == ["198.51.100.8"]


@pytest.mark.parametrize(
    ("same_boot", "wall", "boot", "lives"),
    [
        pytest.param(True, 100, 100, True, id="the same boot"),
        pytest.param(True, -10_000, 100, True, id="a clock set back does not shorten"),
        pytest.param(True, -10_000, 601, False, id="nor prolong: boot time counts"),
        pytest.param(True, 601, 100, False, id="a clock set forward ends early"),
        pytest.param(False, 100, -4_000, True, id="another boot, where boot time begins anew"),
        pytest.param(False, 601, -4_000, False, id="another boot, too late"),
        pytest.param(False, -59, -4_000, True, id="another boot, the clock a little behind"),
        pytest.param(False, -61, -4_000, False, id="another boot, the clock behind: nothing can be known"),
    ],
)
def test_the_time_left_over_a_restart(world: World, same_boot: bool, wall: int, boot: int, lives: bool) -> None:
    world.knock(CLIENT)
    again = World(
        world.folder, wall=world.wall + wall, boot=world.boot + boot, boot_id="boot-1" if same_boot else "boot-2"
    )
    again.load()
    assert (again.verdict(CLIENT) == 200) is lives
    if lives:
        left = next(iter(again.whitelist)).seconds_left(again.now())
        assert left <= 600
        again.pass_time(601, step=-100_000)
        assert again.verdict(CLIENT) == 401


def test_a_clock_that_steps_revives_nobody(world: World) -> None:
    world.knock(CLIENT)
    world.pass_time(1, step=700)
    assert world.verdict(CLIENT) == 401
    world.pass_time(1, step=-700)
    assert world.verdict(CLIENT) == 401
    again = World(world.folder, wall=world.wall, boot=world.boot)
    again.load()
    assert again.verdict(CLIENT) == 401


@pytest.mark.parametrize(
    ("change", "lives"),
    [
        pytest.param(('name: user, key: "' + KEY, 'name: user, key: "' + KEY[::-1]), False, id="another secret"),
        pytest.param(("name: user", "name: other"), False, id="the key is gone"),
        pytest.param(
            ("max_ttl: 1200", "max_ttl: 1200, hosts: [tv.example.com]"), False, id="its hosts are the current"
        ),
        pytest.param(("excluded_paths", "excluded_paths"), True, id="nothing changed"),
    ],
)
def test_a_grant_follows_its_key_over_a_restart(world: World, change: tuple[str, str], lives: bool) -> None:
    world.knock(CLIENT)
    again = World(world.folder, SETTINGS.replace(*change), wall=world.wall, boot=world.boot)
    again.load()
    assert (again.verdict(CLIENT) == 200) is lives


def test_an_admins_grant_ends_with_the_right_that_it_used(world: World) -> None:
    world.knock("198.51.100.1", ADMIN, b'{"ip_address": "%s"}' % CLIENT.encode())
    world.knock("198.51.100.1", ADMIN)
    text = SETTINGS.replace("allow_remote_whitelist: true", "allow_remote_whitelist: false")
    again = World(world.folder, text, wall=world.wall, boot=world.boot)
    again.load()
    assert (again.verdict(CLIENT), again.verdict("198.51.100.1")) == (401, 200)


def test_the_older_flat_file_is_read_and_kept_once(world: World) -> None:
    path = world.folder / "whitelist.json"
    now = int(world.wall)
    flat = {"1.2.3.4": now + 60, "10.0.0.0/24": now + 60, "2001:db8::1": now + 10**9, "9.9.9.9": now - 1}
    path.write_text(json.dumps(flat))
    world.load()
    world.store.start()
    world.clock.advance(0)
    assert [world.verdict(client) for client in ("1.2.3.4", "10.0.0.7", "2001:db8::1", "9.9.9.9")] == [
        200,
        200,
        200,
        401,
    ]
    assert json.loads((world.folder / "whitelist.json.v0").read_text()) == flat
    assert {grant["via"] for grant in stored(world)["grants"]} == {"file"}
    assert {grant["key"] for grant in stored(world)["grants"]} == {None}
    assert world.ask("/ready").status == 200
    world.pass_time(3601)
    assert world.verdict("2001:db8::1") == 401, "at most the largest max_ttl from the start on"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\0\0\0\0", b"\xff\xfe", b"not json", b"[]", b"3", b"[" * 100_000, b'{"version": 2, "grants": []}',
     b'{"version": 1}', b'{"version": 1, "saved_at": 1e400, "boot_id": "b", "boot_time": 1, "grants": []}',
     b'{"version": 1, "saved_at": 1, "boot_id": "b", "boot_time": 1, "grants": {}}', b'{"1.2.3.4": 1, "1.2.3.4": 2}',
     b'{"version": 1, "saved_at": ' + b"9" * 400 + b', "boot_id": "b", "boot_time": 1, "grants": []}',
     b'{"1.2.3.4": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_a_file_that_is_no_whitelist_is_kept_aside(world: World, data: bytes, errors: Errors) -> None:
    path = world.folder / "whitelist.json"
    path.write_bytes(data)
    world.load()
    assert len(world.whitelist) == 0
    (kept,) = [name for name in os.listdir(world.folder) if name.startswith("whitelist.json.corrupt-")]
    assert (world.folder / kept).read_bytes() == data
    assert len(errors.expected()) == 1
    assert kept in world.ask("/ready").body.decode()
    assert world.knock(CLIENT).status == 200
    assert entries(world) == [CLIENT]


def test_of_a_whitelist_with_bad_entries_the_good_ones_live(world: World, errors: Errors) -> None:
    for host in range(1, 6):
        world.knock(f"198.51.100.{host}")
    found = stored(world)
    good = found["grants"]
    bad: list[Any] = [
        None, 5, {}, {**good[0], "id": "short"}, {**good[0], "id": "x" * 20},
        {**good[0], "id": "a" * 20, "entry": "0.0.0.0/0"}, {**good[0], "id": "b" * 20, "entry": "127.0.0.1"},
        {**good[0], "id": "c" * 20, "entry": "10.0.0.0/8"}, {**good[0], "id": "d" * 20, "entry": "fe80::1%\nx"},
        {**good[0], "id": "e" * 20, "entry": "9.9.9.9", "expires_at": "never"},
        {**good[0], "id": "f" * 20, "entry": "9.9.9.9", "boot_ends_at": True},
        {**good[0], "id": "g" * 20, "entry": "9.9.9.9", "via": "magic"},
        {**good[0], "id": "h" * 20, "entry": "9.9.9.9", "key": None},
        {**good[0], "id": "i" * 20, "entry": "9.9.9.9", "via": "file"},
        {**good[0], "entry": "9.9.9.9"}, {**good[0], "id": "j" * 20, "entry": 5},
    ]  # fmt: skip
    path = world.folder / "whitelist.json"
    path.write_text(json.dumps({**found, "grants": [*good, *bad]}))
    again = World(world.folder, wall=world.wall, boot=world.boot)
    again.load()
    assert len(again.whitelist) == 5
    assert "16 bad entries" in errors.expected()[0]["damage"]
    assert "16 bad entries" in again.ask("/ready").body.decode()
    (kept,) = [name for name in os.listdir(world.folder) if name.startswith("whitelist.json.corrupt-")]
    assert json.loads((world.folder / kept).read_text())["grants"][5:] == bad
    assert [again.verdict(client) for client in ("198.51.100.1", "9.9.9.9", "10.0.0.1")] == [200, 401, 401]


def test_a_planted_time_is_cut_to_the_keys_longest(world: World) -> None:
    world.knock(CLIENT)
    found = stored(world)
    found["grants"][0]["expires_at"] += 10**9
    found["grants"][0]["boot_ends_at"] += 10**9
    (world.folder / "whitelist.json").write_text(json.dumps(found))
    again = World(world.folder, wall=world.wall, boot=world.boot)
    again.load()
    assert [grant.expires_at for grant in again.whitelist] == [again.wall + 1200]
    again.pass_time(1201)
    assert again.verdict(CLIENT) == 401


@pytest.mark.parametrize("kind", ["directory", "fifo", "symlink", "dangling"])
def test_a_path_that_is_no_plain_file_ends_the_start(world: World, kind: str) -> None:
    path = world.folder / "whitelist.json"
    target = world.folder / "target"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        if kind == "symlink":
            target.write_text("{}")
        path.symlink_to(target)
    with pytest.raises(Unusable, match=r"whitelist\.json"):
        world.load()
    assert not target.exists() or target.read_text() == "{}"


def test_a_temporary_file_of_a_crash_is_removed_at_the_start(world: World) -> None:
    left = world.folder / "whitelist.json.tmp"
    left.write_text("half")
    world.load()
    assert not left.exists()


def test_the_writer_replaces_no_file_that_somebody_planted(world: World) -> None:
    target = world.folder / "target"
    target.write_text("precious")
    (world.folder / "whitelist.json.tmp").symlink_to(target)
    assert world.knock(CLIENT).status == 200
    assert target.read_text() == "precious"


def test_everything_is_written_before_the_end(world: World) -> None:
    disk = Disk(world)
    knocks(world, CLIENT)
    knocks(world, "198.51.100.8")
    ended: list[None] = []
    world.store.idle().addCallback(ended.append)
    world.clock.advance(0)
    disk.succeed()
    assert ended == []
    disk.succeed()
    assert ended == [None]
    assert entries(world) == [CLIENT, "198.51.100.8"]


def test_one_file_has_one_owner(tmp_path: Path) -> None:
    path = str(tmp_path / "whitelist.json")
    first, second = Lock(path), Lock(path)
    first.take(4711)
    with pytest.raises(Unusable, match="4711"):
        second.take(4712)
    assert (tmp_path / "whitelist.json.lock").read_text() == "4711\n"
    first.release()
    second.take(4712)
    assert (tmp_path / "whitelist.json.lock").read_text() == "4712\n"
    second.release()


def test_a_lock_that_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "whitelist.json.lock")
    with pytest.raises(Unusable, match=r"whitelist\.json\.lock"):
        Lock(str(tmp_path / "whitelist.json")).take(1)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"whitelist\.storage_path must exist"):
        Lock(str(tmp_path / "nowhere" / "whitelist.json")).take(1)


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic.replace(str(path), [b"old"])

    def broken() -> Any:
        yield b"new"
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        atomic.replace(str(path), broken())
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_file_and_directory_are_synced_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    kinds = {True: "directory", False: "file"}
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor: int) -> None:
        done.append("sync " + kinds[stat.S_ISDIR(os.fstat(descriptor).st_mode)])
        fsync(descriptor)

    def watched_rename(old: str, new: str) -> None:
        done.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    atomic.replace(str(tmp_path / "file"), [b"a", b"b"])
    assert done == ["sync file", "rename", "sync directory"]
    assert (tmp_path / "file").read_bytes() == b"ab"


class Slow:
    """A world in which each step of a write takes a turn of the reactor."""

    def __init__(self, folder: Path, text: str) -> None:
        self.world = World(folder, text)
        self.disk = Disk(self.world)
        self.answers: dict[str, str] = {}
        self._turns: list[Callable[[], None]] = []

    def slow_down(self) -> None:
        """From now on."""
        self.world.store._turns = Turns(lambda _, work: self._turns.append(work), lambda: self.world.worked)
        plan = self.world.whitelist.plan

        def slowly(wish: Wish, now: Moment) -> Plan:
            self.world.worked += 2 * SHARE
            return plan(wish, now)

        self.world.whitelist.plan = slowly  # type: ignore[method-assign]

    def hear(self, name: str, answer: Deferred[Any]) -> None:
        """Note what becomes of it."""
        answer.addCallbacks(
            lambda _: self.answers.update({name: "yes"}),
            lambda failure: self.answers.update({name: str(failure.value)}),
        )

    def knock(self, name: str, client: str, key: str) -> None:
        """A knock, as the web port hands it on."""
        found = self.world.whitelist.keyring.named(key)
        assert found is not None
        self.hear(name, self.world.store.put(Wish(Address.parse(client).network, found, Via.HTTP, 600)))

    def leave(self, name: str, client: str, key: str) -> None:
        """And the end of one, as a datagram asks for it: it waits for no turn."""
        found = self.world.whitelist.keyring.named(key)
        assert found is not None
        self.hear(name, self.world.store.remove(Own(found, Address.parse(client)), "left"))

    def turn(self) -> None:
        """One turn of the reactor, and all that the disk was told."""
        self.world.clock.advance(0)
        work, self._turns = self._turns, []
        for do in work:
            do()
        while self.disk.writes:
            whitelist = self.world.whitelist
            displaced = {grant.id for plan in whitelist._planned.values() for grant in plan.displaces}
            live = {str(grant.network) for grant in whitelist if grant.id not in displaced}
            self.disk.succeed()
            assert live <= set(entries(self.world)), "what lives is in every file that is written"


@pytest.mark.parametrize("before", range(12))
def test_what_is_closed_while_a_write_is_prepared_is_not_written_nor_what_it_displaced_lost(
    tmp_path: Path, before: int, errors: Errors
) -> None:
    slow = Slow(tmp_path, SETTINGS.replace("max_ttl: 1200}", "max_ttl: 1200, max_addresses: 1}"))
    slow.knock("first", "198.51.100.1", "user")
    slow.turn()
    slow.slow_down()
    slow.knock("second", "198.51.100.2", "user")  # takes the first one's place
    slow.knock("other", "198.51.100.50", "admin")
    slow.knock("first again", "198.51.100.1", "user")
    slow.knock("another", "198.51.100.51", "admin")
    for _ in range(before):
        slow.turn()
    slow.leave("leaves", "198.51.100.2", "user")
    for _ in range(60):
        slow.turn()
        live = {str(grant.network) for grant in slow.world.whitelist}
        acknowledged = {"198.51.100.1"} if slow.answers.get("first again") == "yes" else set()
        assert acknowledged <= live
    assert set(slow.answers) == {"first", "second", "other", "first again", "another", "leaves"}, (
        "nobody waits for ever"
    )
    assert sorted(entries(slow.world)) == sorted(str(grant.network) for grant in slow.world.whitelist)
    assert "198.51.100.2" not in entries(slow.world)
    assert slow.world.store._leaving == set()
    assert slow.world.whitelist._planned == {}
    assert errors.events == []


def test_a_write_of_many_knocks_leaves_turns_to_others(tmp_path: Path) -> None:
    slow = Slow(tmp_path, SETTINGS)
    slow.slow_down()
    for number in range(5):
        slow.knock(str(number), f"198.51.100.{number + 1}", "user")
    slow.turn()
    assert slow.answers == {}, "the share of one turn is used up by one of them"
    for _ in range(60):
        slow.turn()
    assert slow.answers == dict.fromkeys("01234", "yes")


def test_a_mistake_of_ours_leaves_nobody_waiting(world: World, errors: Errors, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(world)
    with monkeypatch.context() as broken:
        broken.setattr("knocker.store.jsonfile.document", lambda *_: 1 / 0)
        (wire,) = knocks(world, CLIENT)
        assert status(wire) == 503
    assert len(errors.expected()) == 1
    (wire,) = knocks(world, CLIENT)
    disk.succeed()
    assert status(wire) == 200
