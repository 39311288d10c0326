"""What the file of seen packets promises: known for good before anything comes of it, and never twice (contract 4)."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.python.failure import Failure

from knocker.core.packets import seen as seen_module
from knocker.core.packets.native import NotOurs
from knocker.core.packets.seen import Sighting
from knocker.core.refusals import Refusal, Refused
from knocker.store import seenfile as module
from knocker.store.lock import Unusable
from knocker.store.seenfile import SeenFile
from tests.conftest import LONG, Errors

WINDOW = 120_000  # milliseconds, as all times here
NOW = 1_767_225_600_000
LONG_AGO = NOW - 100 * WINDOW  # a first start then has a fence that is no matter now


def nonce(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Thread:
    """A writer's thread that the test holds: each write ends when it says so."""

    def __init__(self) -> None:
        self.held: list[tuple[Callable[[], None], Deferred[None]]] = []

    def __call__(self, function: Callable[[], None]) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self.held.append((function, done))
        return done

    def go_on(self) -> None:
        """Let the oldest write happen, and tell how it went."""
        function, done = self.held.pop(0)
        try:
            function()
        except OSError:
            done.errback(Failure())
        else:
            done.callback(None)


class Shelf:
    """The folder of a seen file, and who opens it, again and again."""

    def __init__(self, folder: Path, window: int = WINDOW) -> None:
        self.path = folder / "udp-seen.log"
        self.window = window
        self.file: SeenFile | None = None
        self.open(LONG_AGO)

    def open(self, now: int = NOW, in_thread: Any = maybeDeferred) -> SeenFile:
        """Start anew, as after a kill."""
        self.close()
        self.file = SeenFile(str(self.path), in_thread)
        self.file.load(self.window, now)
        return self.file

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    found = Shelf(tmp_path)
    yield found
    found.close()


def outcome(keeping: Deferred[None]) -> str:
    """What became of it so far: kept, not yet, or the refusal."""
    found: list[str] = []
    keeping.addCallbacks(lambda _: found.append("kept"), lambda failure: found.append(_refusal(failure)))
    return found[0] if found else "not yet"


def _refusal(failure: Failure) -> str:
    failure.trap(Refused)
    assert isinstance(failure.value, Refused)
    return failure.value.refusal.name


def begun(file: SeenFile, number: int, made: int = NOW, now: int = NOW, owner: str = "a") -> Deferred[None]:
    """The storing of a packet that is let in; raises NotOurs."""
    return file.keep(file.seen.admit(owner, nonce(number), made, now))


def kept(file: SeenFile, number: int, made: int = NOW, now: int = NOW, owner: str = "a") -> str:
    """What becomes of a packet: kept, or why not."""
    try:
        return outcome(begun(file, number, made, now, owner))
    except NotOurs as why:
        return str(why)


# --- Known for good --------------------------------------------------------------------------------------------------


def test_a_packet_is_not_said_to_be_kept_before_it_is_written_and_synced(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread, synced = Thread(), []

    def fdatasync(descriptor: int) -> None:
        assert os.fstat(descriptor).st_ino == shelf.path.stat().st_ino
        synced.append(shelf.path.read_text())

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    keeping = begun(shelf.open(in_thread=thread), 1)
    assert (outcome(keeping), synced) == ("not yet", [])
    thread.go_on()
    assert [nonce(1).hex() in text for text in synced] == [True]
    assert outcome(keeping) == "kept"
    assert shelf.path.read_text() == synced[0]


def test_packets_that_arrive_during_a_write_share_the_next_one(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    thread, synced = Thread(), []
    file = shelf.open(in_thread=thread)
    monkeypatch.setattr(os, "fdatasync", lambda _: synced.append(len(shelf.lines())))
    waiting = [begun(file, number) for number in range(40)]
    assert len(thread.held) == 1
    thread.go_on()
    assert [outcome(keeping) for keeping in waiting] == ["kept"] + ["not yet"] * 39
    assert len(thread.held) == 1
    thread.go_on()
    assert {outcome(keeping) for keeping in waiting[1:]} == {"kept"}
    assert synced == [2, 41], "the first line is the head"
    assert thread.held == []


def test_what_was_kept_is_known_over_any_number_of_restarts(shelf: Shelf) -> None:
    assert [kept(shelf.open(), number) for number in range(5)] == ["kept"] * 5
    for later in range(0, WINDOW + 1, WINDOW // 4):
        file = shelf.open(NOW + later)
        assert [kept(file, number, now=NOW + later) for number in range(5)] == ["replay"] * 5
    assert kept(shelf.open(), 0, owner="b") == "kept", "another key may have the same nonce"


def test_the_file_is_ours_alone_and_has_no_litter_beside_it(shelf: Shelf) -> None:
    kept(shelf.open(), 1)
    assert stat.S_IMODE(shelf.path.stat().st_mode) == 0o600
    (shelf.path.parent / "udp-seen.log.tmp").write_bytes(b"half of a file, from a crash")
    shelf.open()
    assert sorted(os.listdir(shelf.path.parent)) == [shelf.path.name, f"{shelf.path.name}.lock"]


def test_nothing_of_a_file_stays_open(shelf: Shelf) -> None:
    file = shelf.open()
    kept(file, 1)
    target = str(shelf.path)
    assert target in _open_files()
    file.close()
    file.close()
    assert target not in _open_files()


def _open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


# --- Torn, damaged, lost ---------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that need not be waited for: these tests start hundreds of times."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


def filled(shelf: Shelf, count: int = 4) -> bytes:
    """A file in which so many packets were seen, newest last."""
    file = shelf.open()
    for number in range(count):
        assert kept(file, number, made=NOW + number) == "kept"
    shelf.close()
    return shelf.path.read_bytes()


def known(file: SeenFile) -> list[int]:
    return sorted(int.from_bytes(sighting.nonce, "big") for sighting in file.seen)


def complete(data: bytes) -> int:
    return data.count(b"\n")


def test_a_file_that_was_cut_off_anywhere_tells_what_stands_before_the_cut(shelf: Shelf, quick: None) -> None:
    """Only what was being written when we died can be missing, so behind the head a cut is no damage."""
    whole = filled(shelf)
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for length in range(len(whole) + 1):
        shelf.path.write_bytes(whole[:length])
        file = shelf.open()
        lines = complete(whole[:length])
        if lines and whole[length : length + 1] == b"\n":
            lines += 1  # only its end is missing, so it may have counted
        assert known(file) == list(range(max(0, lines - 1))), length
        assert (file.seen.fence > NOW) is (lines == 0), length
        if length >= last:
            assert [kept(file, number) for number in range(3)] == ["replay"] * 3
        assert kept(file, 9, made=NOW + WINDOW) == "kept", length
        assert kept(shelf.open(), 9, made=NOW + WINDOW) == "replay", f"{length}: half a line spoilt the next one"


def test_half_a_line_is_no_damage_and_is_gone_after_the_start(shelf: Shelf) -> None:
    whole = filled(shelf)
    shelf.path.write_bytes(whole[:-20])
    file = shelf.open()
    assert (known(file), kept(file, 3, made=NOW + 3)) == ([0, 1, 2], "kept"), "nothing came of it, so it may come again"
    assert shelf.path.read_bytes().count(b"\n") == complete(whole)


def test_a_flipped_bit_is_damage_and_invents_nothing(shelf: Shelf, quick: None) -> None:
    whole = filled(shelf, 3)
    # The last line break has a test of its own. Seven and eight have no divisor: a share hits every byte, somewhere.
    for bit in range(0, 8 * (len(whole) - 1), 1 if LONG else 7):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        shelf.path.write_bytes(bytes(flipped))
        file = shelf.open()
        assert set(known(file)) <= {0, 1, 2}, bit
        assert file.seen.fence == NOW + WINDOW, bit
        refused = {kept(file, number, made=NOW + number) for number in range(3)}
        assert "kept" not in refused, bit


def test_a_flipped_bit_in_the_last_line_break_is_damage_too(shelf: Shelf, quick: None) -> None:
    """That line was whole: a grant came of it, unlike of one whose end was never written."""
    whole = filled(shelf, 3)
    for bit in range(8):
        shelf.path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1 << bit]))
        assert kept(shelf.open(), 2, made=NOW + 2) in ("replay", "fenced"), bit


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda lines: lines[1:], id="no head"),
        pytest.param(lambda lines: [lines[0], *lines[2:3], "", *lines[3:]], id="an empty line"),
        pytest.param(lambda lines: [lines[0], "x" * 500, *lines[1:]], id="a line of something else"),
        pytest.param(
            lambda lines: [lines[0].replace("knocker-seen-1", "knocker-seen-2"), *lines[1:]], id="a later one"
        ),
        pytest.param(lambda lines: [lines[0], *lines], id="two heads"),
        pytest.param(lambda lines: ["", *lines], id="a line before the head"),
        pytest.param(lambda lines: [line + " " for line in lines], id="spaces at the ends"),
        pytest.param(lambda lines: [line + "\r" for line in lines], id="line ends of another system"),
        pytest.param(lambda lines: ["\0" * 4096], id="zeros, as a file system may leave them"),
        pytest.param(lambda lines: [lines[0], "\0" * 200, *lines[1:]], id="zeros in between"),
    ],
)
def test_a_damaged_file_is_told_and_refuses_what_it_may_have_known(
    shelf: Shelf, errors: Errors, spoil: Callable[[list[str]], list[str]]
) -> None:
    filled(shelf)
    shelf.path.write_text("\n".join(spoil(shelf.lines())) + "\n", newline="")
    file = shelf.open()
    told = [line for line in errors.lines if "damaged" in line]
    assert len(told) == 1
    assert told[0].startswith(f"{shelf.path}: ")
    assert "in the next 120 s are refused" in told[0]
    for number in range(4):
        assert kept(file, number, made=NOW + number) in ("fenced", "replay")
    assert kept(file, 8, made=NOW + WINDOW - 1) == "fenced"
    assert kept(file, 9, made=NOW + WINDOW) == "kept"


def test_a_lost_file_refuses_what_it_may_have_known_and_says_so(shelf: Shelf, errors: Errors) -> None:
    filled(shelf)
    shelf.path.unlink()
    file = shelf.open()
    assert sum("there is no such file" in line for line in errors.lines) == 1
    assert kept(file, 9, made=NOW + WINDOW - 1) == "fenced"
    assert kept(file, 9, made=NOW + WINDOW) == "kept"


@pytest.mark.parametrize("loss", ["lost", "emptied", "damaged"])
def test_a_loss_is_paid_for_once(shelf: Shelf, errors: Errors, loss: str) -> None:
    whole = filled(shelf)
    if loss == "lost":
        shelf.path.unlink()
    else:
        shelf.path.write_bytes(b"" if loss == "emptied" else b"X" + whole[1:])
    shelf.open()
    told = len(errors.lines)
    for later in (1, WINDOW // 2, WINDOW - 1):
        file = shelf.open(NOW + later)
        assert file.seen.fence == NOW + WINDOW, "neither forgotten by a restart nor longer for it"
        assert kept(file, later, made=NOW + WINDOW - 1, now=NOW + later) == "fenced"
    file = shelf.open(NOW + WINDOW)
    assert kept(file, 5, made=NOW + WINDOW, now=NOW + WINDOW) == "kept"
    assert len(errors.lines) == told, "and told once"


def test_a_file_too_long_to_be_ours_is_damage(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = filled(shelf)
    monkeypatch.setattr(module, "_LONGEST", len(whole) - 1)
    file = shelf.open()
    assert file.seen.fence == NOW + WINDOW


# --- The clock -------------------------------------------------------------------------------------------------------


def test_the_highest_time_is_known_after_a_restart(shelf: Shelf, errors: Errors) -> None:
    assert kept(shelf.open(), 1) == "kept"
    file = shelf.open(NOW - 10 * WINDOW)
    assert len(errors.expected()) == 1
    assert sum("the clock is 1200 s behind" in line for line in errors.lines) == 1
    assert file.complaints(NOW - 10 * WINDOW) == [f"the clock is behind the highest time in {shelf.path}"]
    assert kept(file, 2, made=NOW - 10 * WINDOW, now=NOW - 10 * WINDOW) == "behind"
    assert file.complaints(NOW) == []
    assert kept(file, 1) == "replay"
    assert kept(file, 2) == "kept"


def test_the_highest_time_is_known_where_no_packet_tells_it(shelf: Shelf, errors: Errors) -> None:
    """That of a loss, after which nobody knocked."""
    shelf.path.unlink()
    shelf.open()
    file = shelf.open(NOW - 10 * WINDOW)
    assert file.seen.is_behind(NOW - 10 * WINDOW)
    assert len(errors.expected()) == 1


def test_removing_the_file_starts_the_same_fence(shelf: Shelf, errors: Errors) -> None:
    assert kept(shelf.open(), 1) == "kept"
    wrong = NOW - 10 * WINDOW
    shelf.path.unlink()
    file = shelf.open(wrong)
    assert file.complaints(wrong) == []
    assert kept(file, 2, made=wrong, now=wrong) == "fenced"
    assert kept(file, 2, made=wrong + WINDOW, now=wrong + WINDOW) == "kept"


# --- Written anew ----------------------------------------------------------------------------------------------------


def test_the_file_and_the_memory_stay_small_however_long_it_runs(
    shelf: Shelf, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A packet a second for hours, of which only those of the window need be known."""
    monkeypatch.setattr(module, "_FEW", 50)
    file = shelf.open()
    most_lines = most_known = 0
    for number in range(2000):
        now = NOW + 1000 * number
        assert kept(file, number, made=now, now=now) == "kept"
        most_lines = max(most_lines, len(shelf.lines()))
        most_known = max(most_known, len(file.seen))
    assert most_lines < 500
    assert most_known < 500


def test_a_long_time_never_fills_it_up(shelf: Shelf, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too old to be taken takes no room from what is new."""
    monkeypatch.setattr(seen_module, "MOST", 300)
    monkeypatch.setattr(module, "_FEW", 50)
    file = shelf.open()
    refused = {}
    for number in range(1000):
        now = NOW + 1000 * number
        if (said := kept(file, number, made=now, now=now)) != "kept":
            refused[number] = said
    assert refused == {}


def test_what_is_written_anew_forgets_nothing_that_could_count(
    shelf: Shelf, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FEW", 10)
    file = shelf.open()
    for number in range(400):
        now = NOW + 1000 * number
        assert kept(file, number, made=now + WINDOW // 2, now=now) == "kept"
    end = NOW + 399_000
    file = shelf.open(end)
    for number in range(400):
        made = NOW + 1000 * number + WINDOW // 2
        assert kept(file, number, made=made, now=end) in ("replay", "behind", "fenced"), number
        if made >= end - WINDOW:
            assert (number in known(file)) is True, number


def test_what_waits_while_the_file_is_written_anew_is_kept_once_and_for_good(shelf: Shelf, errors: Errors) -> None:
    thread = Thread()
    file = shelf.open(in_thread=thread)
    first = begun(file, 1)
    _, done = thread.held.pop(0)
    done.errback(OSError(errno.EIO, "Input/output error"))  # from now on the file counts as torn
    waiting = [begun(file, number) for number in (2, 3)]
    later = begun(file, 4)
    while thread.held:
        thread.go_on()
    assert outcome(first) == "NOT_STORED"
    errors.expected()
    assert [outcome(keeping) for keeping in (*waiting, later)] == ["kept"] * 3
    assert known(shelf.open()) == [2, 3, 4]


# --- A disk that fails -----------------------------------------------------------------------------------------------

FAULTS = {"disk full": errno.ENOSPC, "input/output error": errno.EIO, "quota": errno.EDQUOT, "read-only": errno.EROFS}


class BadDisk:
    """Takes so many bytes of a write, then fails; or fails to sync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, takes: int | None) -> None:
        self.broken = True
        write, sync = os.write, os.fdatasync

        def write_some(descriptor: int, data: Any) -> int:
            nonlocal takes
            if not self.broken or takes is None:
                return write(descriptor, data)
            if not takes:
                raise OSError(number, os.strerror(number))
            taken, takes = write(descriptor, bytes(data[:takes])), 0
            return taken

        def sync_it(descriptor: int) -> None:
            if self.broken:
                raise OSError(number, os.strerror(number))
            sync(descriptor)

        monkeypatch.setattr(os, "write", write_some)
        monkeypatch.setattr(os, "fdatasync", sync_it)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("takes", [0, 1, 30, None], ids=["nothing", "a byte", "half a line", "all but the sync"])
def test_what_a_disk_does_not_take_is_refused_and_spoils_nothing(
    shelf: Shelf, errors: Errors, monkeypatch: pytest.MonkeyPatch, fault: str, takes: int | None
) -> None:
    file = shelf.open()
    assert kept(file, 1) == "kept"
    disk = BadDisk(monkeypatch, FAULTS[fault], takes)
    assert kept(file, 2) == "NOT_STORED"
    said = f"{shelf.path} could not be written: {os.strerror(FAULTS[fault])}"
    assert file.complaints(NOW) == [said]
    assert kept(file, 1) == "replay"
    disk.broken = False
    copy = SeenFile(str(_copied(shelf)), maybeDeferred)  # as if we had been killed just now
    copy.load(WINDOW, NOW)
    assert known(copy) in ([1], [1, 2])
    assert copy.seen.fence <= NOW, "half a line is no damage"
    copy.close()
    assert kept(file, 2) == "kept", "it may come again"
    assert file.complaints(NOW) == []
    assert kept(file, 3) == "kept"
    assert known(shelf.open()) == [1, 2, 3]
    assert [event["failure"] for event in errors.expected()] == [said]
    assert sum("can be written again" in line for line in errors.lines) == 1


def _copied(shelf: Shelf) -> Path:
    copy = shelf.path.with_name("copy.log")
    copy.write_bytes(shelf.path.read_bytes())
    return copy


def test_a_disk_that_goes_on_failing_is_told_once_and_refuses_all(
    shelf: Shelf, errors: Errors, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = shelf.open()
    monkeypatch.setattr(file, "_in_thread", lambda _: fail(OSError(errno.ENOSPC, "No space left on device")))
    assert [kept(file, number) for number in range(20)] == ["NOT_STORED"] * 20
    assert len(errors.expected()) == 1
    assert len(file.seen) == 0
    assert Refusal.NOT_STORED.value == "The whitelist could not be stored."


def test_when_a_disk_fails_all_that_shared_the_write_are_refused(shelf: Shelf, errors: Errors) -> None:
    thread = Thread()
    file = shelf.open(in_thread=thread)
    first = begun(file, 0)
    others = [begun(file, number) for number in range(1, 6)]
    thread.go_on()
    _, done = thread.held.pop(0)
    done.errback(OSError(errno.EIO, "Input/output error"))
    assert [outcome(keeping) for keeping in (first, *others)] == ["kept"] + ["NOT_STORED"] * 5
    again = [begun(file, number) for number in range(1, 6)]
    while thread.held:
        thread.go_on()
    assert {outcome(keeping) for keeping in again} == {"kept"}
    errors.expected()


def test_a_disk_that_cannot_replace_the_file_keeps_the_old_one(
    shelf: Shelf, errors: Errors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written anew after a failure; where that fails too, what was seen is still there."""
    file = shelf.open()
    assert kept(file, 1) == "kept"

    def full(descriptor: int, *_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full)
        assert [kept(file, 2) for _ in range(3)] == ["NOT_STORED"] * 3
    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", full)
        assert kept(file, 2) == "NOT_STORED"
    assert kept(file, 2) == "kept"
    errors.expected()
    assert known(shelf.open()) == [1, 2]
    assert sorted(os.listdir(shelf.path.parent)) == [shelf.path.name, f"{shelf.path.name}.lock"]


# --- What is no file of ours -----------------------------------------------------------------------------------------


def _link(path: Path) -> None:
    (path.parent / "elsewhere").write_text("precious\n")
    path.symlink_to(path.parent / "elsewhere")


KINDS: dict[str, Callable[[Path], object]] = {
    "a link": _link,
    "a link to nothing": lambda path: path.symlink_to(path.parent / "nosuch"),
    "a FIFO": os.mkfifo,
    "a directory": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_ends_the_start_and_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "udp-seen.log"
    KINDS[kind](path)
    before = path.lstat()
    with pytest.raises(Unusable) as caught:
        SeenFile(str(path), maybeDeferred).load(WINDOW, NOW)
    assert str(caught.value).startswith((f"{path}: ", f"{path}.lock: "))
    assert len(str(caught.value).splitlines()) == 1
    assert path.lstat().st_ino == before.st_ino
    if kind == "a link":
        assert (tmp_path / "elsewhere").read_text() == "precious\n"


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("nosuch/udp-seen.log", id="in a folder that is not there"),
        pytest.param("plain/udp-seen.log", id="below what is a file"),
        pytest.param("n" * 300, id="a name too long for any disk"),
        pytest.param("n" * 253, id="a name too long for the temporary one beside it"),
    ],
)
def test_where_no_file_can_be_ends_the_start_with_a_line(tmp_path: Path, where: str) -> None:
    (tmp_path / "plain").touch()
    path = tmp_path / where
    with pytest.raises(Unusable) as caught:
        SeenFile(str(path), maybeDeferred).load(WINDOW, NOW)
    assert str(caught.value).startswith((f"{path}: ", f"{path}.lock: "))


def test_a_folder_in_the_place_of_the_temporary_file_ends_the_start_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "udp-seen.log.tmp").mkdir()
    with pytest.raises(Unusable):
        SeenFile(str(tmp_path / "udp-seen.log"), maybeDeferred).load(WINDOW, NOW)


def test_a_disk_that_is_full_at_the_start_ends_it_with_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full)
        with pytest.raises(Unusable, match="cannot be written: No space left on device"):
            SeenFile(str(tmp_path / "udp-seen.log"), maybeDeferred).load(WINDOW, NOW)


# --- All of it together ----------------------------------------------------------------------------------------------

_SKEWS = st.integers(-WINDOW, WINDOW)
_STEPS = st.one_of(
    st.tuples(st.just("packet"), st.tuples(st.integers(0, 3), _SKEWS)),
    st.tuples(st.just("old packet"), st.integers(0, 30)),
    st.tuples(st.just("old packet"), st.integers(0, 30)),
    st.tuples(st.just("clock"), st.integers(-3 * WINDOW, 3 * WINDOW)),
    st.tuples(st.sampled_from(["restart", "written anew", "recovery"]), st.none()),
    st.tuples(st.sampled_from(["killed in a write", "disk fails"]), st.integers(0, 200)),
    st.tuples(st.just("window"), st.sampled_from([WINDOW // 4, WINDOW // 2, WINDOW])),
    st.tuples(st.sampled_from(["lost", "bit"]), st.integers(0, 100_000)),
)


class Life:
    """A file over its life: packets, copies of them, and all that can happen to a machine meanwhile."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "fsync", lambda _: None)
        monkeypatch.setattr(os, "fdatasync", lambda _: None)
        monkeypatch.setattr(module, "_FEW", 3)
        self.monkeypatch = monkeypatch
        self.shelf = Shelf(folder)
        self.now = self.highest = NOW
        self.takes: int | None = None  # bytes that the disk still takes, None for any
        self.killed = False
        self.sent: list[tuple[str, int, int]] = []
        self.counted: set[tuple[str, int, int]] = set()
        write = os.write

        def limited(descriptor: int, data: Any) -> int:
            if self.takes is None:
                return write(descriptor, data)
            if not self.takes:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken = write(descriptor, bytes(data[: self.takes]))
            self.takes -= taken
            return taken

        monkeypatch.setattr(os, "write", limited)
        self.file = self.shelf.open(self.now, self.in_thread)

    def in_thread(self, function: Callable[[], None]) -> Deferred[None]:
        if not self.killed:
            return maybeDeferred(function)
        with contextlib.suppress(OSError):
            function()
        return Deferred()  # nobody is there to hear how it went

    def restart(self) -> None:
        self.takes, self.killed = None, False
        self.file = self.shelf.open(self.now, self.in_thread)

    def packet(self, owner: str, number: int, made: int) -> None:
        if abs(made - self.now) > self.shelf.window:
            return  # the reader lets none through
        self.highest = max(self.highest, self.now)
        if kept(self.file, number, made, self.now, owner) == "kept":
            assert (owner, number, made) not in self.counted, "a packet counted twice"
            self.counted.add((owner, number, made))

    def step(self, what: str, much: Any) -> None:
        if what == "clock":
            self.now = max(NOW - 20 * WINDOW, self.now + much)
        elif what == "packet":
            who, skew = much
            self.sent.append((f"key-{who}", len(self.sent), self.now + skew * self.shelf.window // WINDOW))
            self.packet(*self.sent[-1])
        elif what == "old packet" and self.sent:
            self.packet(*self.sent[much % len(self.sent)])
        elif what == "recovery":
            self.takes = None
        elif what == "written anew":
            self.file._lines += 10
        elif what == "disk fails":
            self.takes = much
        elif what == "killed in a write":
            self.takes, self.killed = much, True
            self.step("packet", (much % 4, 0))
            self.restart()
        elif what in ("restart", "window"):
            self.shelf.window = much or self.shelf.window
            self.restart()
        elif what in ("lost", "bit") and self.now >= self.highest:
            # With the file the highest time is lost as well, so the clock has to be right just then.
            self.lose(what, much)

    def lose(self, what: str, much: int) -> None:
        self.now += 1  # no start comes in the very millisecond of the last packet
        if what == "lost":
            self.shelf.path.unlink()
        else:
            data = bytearray(self.shelf.path.read_bytes())
            if b"\n" not in data[:-1] or not data.endswith(b"\n"):
                return  # half a line may say anything
            place = much % (len(data) - 1)
            data[place] ^= 1 << much % 7
            self.shelf.path.write_bytes(bytes(data))
        self.restart()


def test_whatever_happens_no_packet_is_counted_twice(errors: Errors) -> None:
    @given(st.lists(_STEPS, min_size=6, max_size=40))
    def live(steps: list[tuple[str, Any]]) -> None:
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
            life = Life(Path(folder), monkeypatch)
            for what, much in steps:
                life.step(what, much)
            life.restart()
            for sent in life.sent:
                life.packet(*sent)
            life.shelf.close()

    live()
    errors.expected()  # of clocks and disks that went wrong, as they had to


def test_a_life_without_trouble_counts_every_packet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above cannot pass because nothing is ever taken."""
    life = Life(tmp_path, monkeypatch)
    for number in range(30):
        life.step("packet", (number % 4, 0))
        life.step("clock", 7000)
        life.step("old packet", number)
        if number % 5 == 0:
            life.step("restart", None)
    assert len(life.counted) == 30
    life.shelf.close()


def test_a_sighting_is_one_line_of_the_file(shelf: Shelf) -> None:
    """What the file has of a packet: when, whose by a hash, and its nonce; no name, no address, no secret."""
    file = shelf.open()
    file.keep(Sighting(NOW, NOW - 5, "0123456789abcdef", nonce(7)))
    fields = shelf.lines()[-1].split(" ")
    assert fields[:4] == [str(NOW), str(NOW - 5), "0123456789abcdef", nonce(7).hex()]


# --- Whose file it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"root:x:0:0\n", b'{"version": 1}\n', b"\x7fELF\0\0", b"knock\n", b"\n\nno\n"])
def test_a_file_of_somebody_else_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "precious"
    path.write_bytes(content)
    with pytest.raises(Unusable, match="not a file of Knocker's"):
        SeenFile(str(path), maybeDeferred).load(WINDOW, NOW)
    assert path.read_bytes() == content


def test_two_processes_do_not_share_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "udp-seen.log")
    first, second = SeenFile(path, maybeDeferred), SeenFile(path, maybeDeferred)
    first.load(WINDOW, NOW)
    with pytest.raises(Unusable, match=r"another Knocker .* udp\.state_path of its own"):
        second.load(WINDOW, NOW)
    first.close()
    second.load(WINDOW, NOW)
    second.close()


def test_the_file_knows_the_highest_time_also_when_nobody_knocks(tmp_path: Path, errors: Errors) -> None:
    path = str(tmp_path / "udp-seen.log")
    year = 365 * 86_400_000
    file = SeenFile(path, maybeDeferred)
    file.load(WINDOW, NOW)
    file.refresh(NOW + year)
    file.close()
    again = SeenFile(path, maybeDeferred)
    again.load(WINDOW, NOW)
    assert again.seen.is_behind(NOW)
    again.close()
    later = SeenFile(path, maybeDeferred)
    later.load(WINDOW, NOW + 2 * year)
    later.close()
    last = SeenFile(path, maybeDeferred)
    last.load(WINDOW, NOW + year)
    assert last.seen.is_behind(NOW + year)
    last.close()
    assert len(errors.expected()) == 2
