"""A file is replaced by exactly the given pieces, however many and long they are, and however little a write takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.store import atomic

SIZES = st.lists(st.sampled_from([0, 1, 100, 5_000, 70_000]), max_size=200)


def pieces(sizes: Sequence[int]) -> list[bytes]:
    return [bytes([number % 251]) * size for number, size in enumerate(sizes)]


@given(SIZES)
def test_what_is_written_is_all_of_it_in_order(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    path = tmp_path_factory.getbasetemp() / "replaced"
    atomic.replace(str(path), iter(pieces(sizes)))
    assert path.read_bytes() == b"".join(pieces(sizes))
    assert not Path(atomic.temporary(str(path))).exists()


@pytest.mark.parametrize("taken", [1, 4_096, 65_537, 99_999])
def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    real: Callable[[int, bytes], int] = os.write

    def short(descriptor: int, buffers: Sequence[bytes]) -> int:
        return real(descriptor, b"".join(buffers)[:taken])

    monkeypatch.setattr(os, "writev", short)
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:50_000]))
    whole = pieces([40_000] * 130)
    atomic.replace(str(tmp_path / "file"), whole)
    assert (tmp_path / "file").read_bytes() == b"".join(whole)


def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(OSError, match="No space"):
        atomic.replace(str(tmp_path / "file"), pieces([70_000] * 3))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"
