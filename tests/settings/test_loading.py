"""The settings file on disk: who may read it, and what is said where it is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from knocker.settings import Faulty, load
from knocker.settings.files import whose

GOOD = b"api_keys: [{key: Xy7kQ2mZ9pLw4RtB8s, ttl: 60}]\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "knocker.yaml"
    file.write_bytes(GOOD)
    file.chmod(0o600)
    return file


def fault_of(path: Path) -> str:
    with pytest.raises(Faulty) as caught:
        load(str(path))
    assert len(caught.value.faults) == 1
    return caught.value.faults[0]


@pytest.mark.parametrize(
    ("mode", "warned"),
    [
        pytest.param(0o600, False, id="the owner alone"),
        pytest.param(0o400, False, id="the owner alone, for reading"),
        pytest.param(0o640, True, id="the group may read"),
        pytest.param(0o604, True, id="others may read"),
        pytest.param(0o644, True, id="everybody may read"),
    ],
)
def test_a_file_that_group_or_others_may_read_is_a_warning(path: Path, mode: int, warned: bool) -> None:
    path.chmod(mode)
    warnings = load(str(path)).warnings
    assert bool(warnings) is warned
    assert all(warning.startswith(f"{path}: ") and "0600" in warning for warning in warnings)


def test_the_warning_is_about_the_file_that_a_link_leads_to(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    assert load(str(link)).warnings == ()
    path.chmod(0o644)
    assert len(load(str(link)).warnings) == 1


def test_a_file_that_is_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    fault = fault_of(tmp_path / "knocker.yaml")
    assert fault.startswith(f"{tmp_path / 'knocker.yaml'}: not found")
    assert "--config" in fault


def test_faults_and_warnings_begin_with_the_files_name(path: Path) -> None:
    path.write_bytes(b"quux: 1\n")
    with pytest.raises(Faulty) as caught:
        load(str(path))
    assert all(fault.startswith(f"{path}: ") for fault in caught.value.faults)
    path.write_bytes(GOOD + b"documentation: {}\n")
    assert [warning.startswith(f"{path}: documentation") for warning in load(str(path)).warnings] == [True]


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in fault_of(tmp_path / "fifo")


def test_a_directory_is_refused_and_nothing_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert fault_of(tmp_path).startswith(f"{tmp_path}: ")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_too_long_is_not_read_to_its_end(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole
    assert "bytes long" in fault_of(path)


def test_a_path_through_a_file_is_refused_in_words(path: Path) -> None:
    assert fault_of(path / "knocker.yaml").startswith(f"{path / 'knocker.yaml'}: ")


def test_a_link_to_itself_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert fault_of(tmp_path / "loop").startswith(f"{tmp_path / 'loop'}: ")


def test_a_file_that_was_replaced_under_its_mount_is_a_warning(path: Path) -> None:
    # Opened again through /proc it is what a container sees of it: the old file, deleted where it came from.
    with path.open() as held:
        path.unlink()
        (warning,) = load(f"/proc/self/fd/{held.fileno()}").warnings
    assert warning.endswith("the old one is what is still seen here: restart the container")


def test_a_file_that_may_not_be_read_is_said_to_be_whose(path: Path) -> None:
    def said(error: OSError, name: Path = path) -> str:
        return whose(str(name), error)

    assert said(PermissionError()) == f": it belongs to user {os.getuid()}, and this is user {os.geteuid()}"
    assert said(PermissionError(), path / "deeper") == f" to user {os.geteuid()}"
    assert said(FileNotFoundError()) == ""
