"""Keys in files of their own: what is read, what is refused, and that no word of them is ever shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from knocker.core.keys import digest_of
from knocker.settings import Faulty, load

KEY = b"Xy7kQ2mZ9pLw4RtB8s"


def settings_with(folder: Path, key_file: str) -> str:
    path = folder / "knocker.yaml"
    path.touch(mode=0o600)
    path.write_text(f'api_keys: [{{key_file: "{key_file}", ttl: 60}}]\n')
    return str(path)


def secret(folder: Path, data: bytes, mode: int = 0o600) -> Path:
    path = folder / "phone.key"
    path.touch(mode=mode)
    path.chmod(mode)
    path.write_bytes(data)
    return path


def faults_of(path: str) -> list[str]:
    with pytest.raises(Faulty) as caught:
        load(path)
    return caught.value.faults


@pytest.mark.parametrize(
    ("data", "key"),
    [
        pytest.param(KEY, KEY, id="without a line break"),
        pytest.param(KEY + b"\n", KEY, id="one line break at the end is none of it"),
        pytest.param(KEY + b"\r\n", KEY, id="nor is that of another system"),
    ],
)
def test_a_key_file_holds_the_key(tmp_path: Path, data: bytes, key: bytes) -> None:
    secret(tmp_path, data)
    for named in (str(tmp_path / "phone.key"), "phone.key"):
        settings = load(settings_with(tmp_path, named))
        assert settings.keys[0].digest == digest_of(key)
        assert settings.warnings == ()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(KEY + b"\n\n", "printable ASCII", id="two line breaks"),
        pytest.param(KEY + b" ", "space", id="a space at the end"),
        pytest.param(b"\xff" + KEY, "printable ASCII", id="no text"),
        pytest.param(b"", "too easy to guess", id="nothing"),
        pytest.param(KEY[:10], "too easy to guess", id="too short"),
        pytest.param(b"CHANGE_ME" + KEY, "example's text", id="an example"),
        pytest.param(KEY * 20, "longer than 256", id="too long"),
    ],
)
def test_a_key_file_that_holds_no_key_is_a_fault_that_shows_nothing_of_it(
    tmp_path: Path, data: bytes, words: str
) -> None:
    secret(tmp_path, data)
    (fault,) = faults_of(settings_with(tmp_path, "phone.key"))
    assert "api_keys[0].key_file: " in fault
    assert words in fault
    assert KEY[:10].decode() not in fault


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (fault,) = faults_of(settings_with(tmp_path, str(tmp_path / "gone.key")))
    assert fault.endswith(f"api_keys[0].key_file: {tmp_path / 'gone.key'}: No such file or directory")


@pytest.mark.parametrize("value", [KEY.decode(), "/" + KEY.decode(), "Xy7k/Q2mZ9pLw4RtB8s", "/Xy7k/Q2mZ9pLw4RtB8s"])
def test_a_key_in_the_place_of_a_file_is_not_shown(tmp_path: Path, value: str) -> None:
    (fault,) = faults_of(settings_with(tmp_path, value))
    assert fault.endswith("api_keys[0].key_file: No such file or directory")
    assert "Q2mZ9" not in fault


def test_a_key_file_that_is_a_pipe_does_not_hold_up_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "phone.key", 0o600)
    (fault,) = faults_of(settings_with(tmp_path, "phone.key"))
    assert fault.endswith("not a regular file")


def test_a_key_file_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    path = secret(tmp_path, KEY, 0o644)
    (warning,) = load(settings_with(tmp_path, "phone.key")).warnings
    assert f"api_keys[0].key_file: {path}: group or others can read it" in warning


def test_a_key_in_a_file_and_the_same_in_the_settings_are_one_secret(tmp_path: Path) -> None:
    secret(tmp_path, KEY)
    path = settings_with(tmp_path, "phone.key")
    Path(path).write_text(f"api_keys: [{{key: {KEY.decode()}, ttl: 60}}, {{key_file: phone.key, ttl: 60}}]")
    (fault,) = faults_of(path)
    assert "api_keys[1].key: the same secret" in fault
