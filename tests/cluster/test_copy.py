"""`knocker store copy`: grants go from a file to an engine and back, none lost and none longer."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.fleet import FEW, PHONE, SETTINGS, grants, ready
from tests.engine import Redis, gate, needs_redis
from tests.service import SCRIPTS, Knocker, eventually, free_port

pytestmark = needs_redis
SHOWN = ("id", "entry", "key", "via", "hosts", "created_at", "last_knock_at", "expires_at")


def copy(config: Path, source: object, target: object, *options: str) -> subprocess.CompletedProcess[str]:
    """The command's outcome."""
    command = [str(SCRIPTS / "knocker"), "store", "copy", "--config", str(config), *options, str(source), str(target)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def shown(gate_: Knocker) -> list[dict[str, Any]]:
    """What a gate shows of its grants, but for what changes from second to second."""
    return sorted(({name: grant[name] for name in SHOWN} for grant in grants(gate_)), key=lambda grant: grant["entry"])


def close_enough(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """The same but for a second, which may be rounded; no end is later."""
    for one, other in zip(found, wanted, strict=True):
        for name in ("id", "entry", "key", "via", "hosts"):
            assert one[name] == other[name], name
        for name in ("created_at", "last_knock_at", "expires_at"):
            assert abs(one[name] - other[name]) <= 1, name


def test_grants_go_there_and_back(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    alone = Knocker(tmp_path / "alone", SETTINGS, free_port())
    with Redis(tmp_path / "engine") as engine:
        shared = gate(tmp_path / "shared", engine.store, SETTINGS)
        try:
            alone.start()
            for number in range(1, 30):
                assert alone.knock(f"203.0.113.{number}", PHONE, ttl=100 + number).status == 200
            alone.knock("2001:db8:5::1", FEW)
            before = shown(alone)
            assert alone.terminate() == 0

            done = copy(alone.config, alone.whitelist, engine.store, "--json")
            assert (done.returncode, json.loads(done.stdout)) == (0, {"copied": 30, "kept": 0, "over": 0}), done.stderr
            shared.start()
            close_enough(shown(shared), before)
            again = copy(alone.config, alone.whitelist, engine.store)
            assert again.stdout.startswith("copied 0 grants from ")
            assert again.stdout.endswith(", 30 there already\n")
            close_enough(shown(shared), before)

            back = tmp_path / "back.json"
            done = copy(shared.config, engine.store, back)
            assert done.returncode == 0, done.stderr
            assert oct(back.stat().st_mode & 0o777) == "0o600"
            back.replace(alone.whitelist)
            alone.start()
            close_enough(shown(alone), before)
        finally:
            alone.end()
            shared.end()


def test_a_running_gate_hears_of_what_is_copied(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    alone = Knocker(tmp_path / "alone", SETTINGS, free_port())
    with Redis(tmp_path / "engine") as engine:
        shared = gate(tmp_path / "shared", engine.store, SETTINGS)
        try:
            alone.start()
            shared.start()
            eventually(lambda: ready(shared) == [], "in step")
            alone.knock("203.0.113.1", PHONE, ttl=3)
            alone.knock("203.0.113.2", PHONE, ttl=100)
            shared.knock("203.0.113.2", PHONE, ttl=1000)
            alone.terminate()
            copied_at = time.monotonic()
            assert copy(alone.config, alone.whitelist, engine.store).returncode == 0
            eventually(lambda: shared.verify("203.0.113.1") == 200, "it counts", 2)
            left = {grant["entry"]: grant["expires_in_seconds"] for grant in grants(shared)}
            assert left["203.0.113.2"] > 900, "the longer of the two stays"
            eventually(lambda: shared.verify("203.0.113.1") == 401, "it ends when it would have", 4)
            assert time.monotonic() - copied_at < 3.2
        finally:
            alone.end()
            shared.end()


@pytest.mark.parametrize(
    ("source", "target", "status", "words"),
    [
        pytest.param("{file}", "other.json", 2, "one of the two has to be a file", id="two files"),
        pytest.param("{store}", "{store}", 2, "one of the two has to be a file", id="two stores"),
        pytest.param("missing.json", "{store}", 1, "missing.json: No such file or directory", id="no such file"),
        pytest.param("broken.json", "{store}", 1, "broken.json: it is not JSON", id="no whitelist"),
        pytest.param("{store}", "{file}", 1, "is there already", id="a file that is there"),
        pytest.param("{file}", "redis://127.0.0.1:1", 3, "cannot be reached", id="nobody there"),
        pytest.param("{file}", "redis://u:secret-word@127.0.0.1", 2, "does not belong here", id="a password"),
        pytest.param("{file}", "redis://u@127.0.0.1", 2, "how to be let in there", id="a user without a password"),
        pytest.param("{store}", "no/such/folder.json", 1, "must exist and be writable", id="no such folder"),
    ],
)
def test_what_cannot_be_copied_is_told_and_loses_nothing(
    source: str, target: str, status: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = '{"version": 1, "saved_at": 1, "boot_id": "x", "boot_time": 1, "grants": [\n\n]}\n'
    (tmp_path / "whitelist.json").write_text(kept)
    (tmp_path / "broken.json").write_text("{")
    one = Knocker(tmp_path, SETTINGS, free_port())
    with Redis(tmp_path / "engine") as engine:
        names = {"file": one.whitelist, "store": engine.store}
        done = copy(one.config, source.format(**names), target.format(**names))
        assert done.returncode == status, done.stderr
        assert words in done.stderr
        assert done.stderr.startswith("knocker: error: ")
        assert "secret-word" not in done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "whitelist.json").read_text() == kept


def test_what_ended_meanwhile_is_not_missed(tmp_path: Path) -> None:
    with Redis(tmp_path / "engine") as engine:
        one = gate(tmp_path / "gate", engine.store, SETTINGS)
        try:
            one.start()
            one.knock("203.0.113.1", PHONE, ttl=1)
            one.knock("203.0.113.2", PHONE, ttl=100)
            eventually(lambda: one.verify("203.0.113.1") == 401, "one ends")
            done = copy(one.config, engine.store, tmp_path / "back.json", "--json")
            assert (json.loads(done.stdout)["copied"], done.stderr.count("left out")) == (1, 0)
            fewer = [key for key in SETTINGS["api_keys"] if key["name"] != "phone"]
            one.configure({**SETTINGS, "api_keys": fewer, "whitelist": {"store": engine.store}})
            done = copy(one.config, engine.store, tmp_path / "fewer.json")
            assert "1 grants are left out: these settings do not allow them" in done.stderr
        finally:
            one.end()


def test_a_file_that_a_knocker_uses_is_not_copied(tmp_path: Path) -> None:
    one = Knocker(tmp_path, SETTINGS, free_port())
    with Redis(tmp_path / "engine") as engine:
        try:
            one.start()
            done = copy(one.config, one.whitelist, engine.store)
            assert (done.returncode, f"another Knocker (pid {one.pid}) uses this file" in done.stderr) == (1, True)
        finally:
            one.end()


def test_a_store_that_is_full_is_told_of(tmp_path: Path) -> None:
    one = Knocker(tmp_path, SETTINGS, free_port())
    with Redis(tmp_path / "engine") as engine:
        try:
            one.start()
            for number in range(1, 6):
                one.knock(f"203.0.113.{number}", PHONE)
            one.terminate()
            one.configure({**SETTINGS, "whitelist": {"max_entries": 3}})
            done = copy(one.config, one.whitelist, engine.store)
            assert (done.returncode, "has 3 grants, as many as whitelist.max_entries allows" in done.stderr) == (
                3,
                True,
            )
        finally:
            one.end()
