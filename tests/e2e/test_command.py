"""`knocker`, the command, as an admin runs it on the server."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import PHONE, Start, settings
from tests.service import SCRIPTS, free_port

LONG = os.environ.get("KNOCKER_TEST_LONG") == "1"
FAULTY = f"api_keys:\n  - {{name: phone, key: {PHONE}, ttl: abc}}\nsever: {{}}\n"


def run(directory: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, in a directory, and what became of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KNOCKER_")}
    return subprocess.run(
        [str(SCRIPTS / "knocker"), *args],
        cwd=directory,
        env=kept | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize("told", ["by its name", "by the environment", "by standing here"])
def test_check_is_content_with_a_good_file(make: Start, tmp_path: Path, told: str) -> None:
    knocker = make()
    away = tmp_path / "away"
    away.mkdir()
    where = tmp_path if told == "by standing here" else away
    args = [str(knocker.config)] if told == "by its name" else []
    environment = {"KNOCKER_CONFIG_PATH": str(knocker.config)} if told == "by the environment" else {}
    ended = run(where, "check", *args, **environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert PHONE not in ended.stdout


def test_check_tells_every_fault(tmp_path: Path) -> None:
    file = tmp_path / "knocker.yaml"
    file.write_text(FAULTY)
    file.chmod(0o600)
    ended = run(tmp_path, "check", "knocker.yaml")
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert "knocker: error: knocker.yaml: api_keys[0].ttl: expected a positive integer, got 'abc'" in lines
    assert any("sever" in line and "did you mean server?" in line for line in lines)
    assert len(lines) == 2
    assert PHONE not in ended.stdout + ended.stderr


def test_check_warns_of_a_file_that_others_may_read(make: Start) -> None:
    knocker = make()
    knocker.config.chmod(0o644)
    ended = run(knocker.directory, "check")
    assert ended.returncode == 0
    assert "0600" in ended.stderr


def test_genkey_makes_a_key_and_the_stanza_for_it(make: Start, tmp_path: Path) -> None:
    ended = run(tmp_path, "genkey", "--name", "laptop")
    assert ended.returncode == 0
    keys = re.findall(r"\bkn_[0-9A-Za-z]{49}\b", ended.stdout + ended.stderr)
    assert len(keys) == 1
    stanza = ended.stdout[ended.stdout.index("  - name:") :]
    (told,) = yaml.safe_load(stanza)
    assert keys[0] not in stanza
    assert told["name"] == "laptop"
    assert told["key_sha256"] == hashlib.sha256(keys[0].encode()).hexdigest()
    assert re.fullmatch("[0-9a-f]{64}", told["udp_secret"])
    knocker = make(settings({"ttl": 60, **told}))
    knocker.start()
    assert knocker.knock("203.0.113.7", keys[0]).status == 200
    assert knocker.knock("203.0.113.7", keys[0][:-1] + "!").status == 401
    assert keys[0] not in run(tmp_path, "genkey").stdout


def test_health_is_for_container_probes(start: Start, tmp_path: Path) -> None:
    knocker = start()
    url = f"http://127.0.0.1:{knocker.port}"
    for args in (["--config", str(knocker.config)], ["--url", url]):
        assert run(tmp_path, "health", *args).returncode == 0
    assert run(tmp_path, "health", KNOCKER_CONFIG_PATH=str(knocker.config)).returncode == 0
    knocker.terminate()
    for args in (["--config", str(knocker.config)], ["--url", url]):
        ended = run(tmp_path, "health", *args)
        assert ended.returncode == 3
        assert ended.stderr.startswith("knocker: error: ")


def test_health_reaches_a_knocker_on_both_families(start: Start) -> None:
    knocker = start(host="::")
    assert run(knocker.directory, "health").returncode == 0


@pytest.mark.parametrize(
    "args", [["nonsense"], ["check", "--nonsense"], ["health", "--url", "ftp://x"], ["check", "a", "b"]]
)
def test_a_wrong_use_is_status_2(tmp_path: Path, args: list[str]) -> None:
    ended = run(tmp_path, *args)
    assert ended.returncode == 2
    assert ended.stdout == ""


def test_help_is_no_fault(tmp_path: Path) -> None:
    for args in (["--help"], ["check", "--help"], ["genkey", "-h"]):
        ended = run(tmp_path, *args)
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("who", ["nobody", "one that hangs"] if LONG else ["nobody"])  # that one takes 5 s
def test_health_without_an_answer_is_status_3(start: Start, tmp_path: Path, who: str) -> None:
    port = free_port()
    if who == "one that hangs":
        knocker = start()
        knocker.signal(signal.SIGSTOP)
        port = knocker.port
    ended = run(tmp_path, "health", "--url", f"http://127.0.0.1:{port}")
    assert ended.returncode == 3
    assert ended.stderr.startswith("knocker: error: ")
