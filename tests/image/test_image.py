"""The image by itself: what is in it, what is not, and how it starts, answers, reloads and ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import knocker
from tests.image.conftest import BASE
from tests.image.containers import Containers
from tests.service import PROJECT, eventually

pytestmark = pytest.mark.timeout(900)

STRICT = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
KEY = "phone-key-0123456789-abcd"


def config(containers: Containers, image: str) -> Any:
    return json.loads(containers.said("image", "inspect", image))[0]


def run(containers: Containers, image: str, script: str) -> str:
    """What a shell script prints in a fresh container."""
    return containers.said("run", "--rm", "--network=none", "--entrypoint=sh", image, "-c", script)


def test_it_says_who_runs_it_what_it_needs_and_how_it_is(containers: Containers, image: str) -> None:
    told = config(containers, image)["Config"]
    assert told["User"] == "10001:10001"
    assert told["Entrypoint"] == ["twistd", "-n", "--pidfile=", "knocker"]
    assert "Cmd" not in told
    assert list(told["Volumes"]) == ["/data"]
    assert list(told["ExposedPorts"]) == ["8000/tcp"]
    check = config(containers, image)["Healthcheck"]
    assert check["Test"] == ["CMD", "knocker", "health"]
    assert check["Timeout"] > 5e9, "knocker health gives up after 5 s"


def test_it_weighs_what_the_page_says(containers: Containers, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    above = (config(containers, image)["Size"] - config(containers, BASE)["Size"]) / 1e6
    with capsys.disabled():
        print(f"\nthe image weighs {above:.0f} MB above its base")
    said = re.search(r"(\d+) MB above", (PROJECT / "docs/docker.md").read_text())
    assert said
    assert above < int(said[1]) * 1.1 < 132


def test_it_has_what_knocker_needs_and_no_more(containers: Containers, image: str) -> None:
    script = "cd /opt/knocker/bin; ls; for name in cc gcc make pip wheel setuptools; do command -v $name; done; true"
    names = run(containers, image, script).split()
    assert {"knocker", "twistd"} <= set(names)
    assert not {"pip", "pip3"} & {Path(name).name for name in names}
    assert not [name for name in names if name.endswith(("cc", "make"))]
    asked = "import knocker, hiredis, txredisapi, OpenSSL; print(knocker.__file__)"
    assert run(containers, image, f"python -c '{asked}'").startswith("/opt/knocker/lib/python3.")
    assert run(containers, image, r"find /opt/knocker ! -type l \( ! -user root -o -perm -o+w \)") == ""
    assert run(containers, image, "python -c 'import importlib.util as u; print(u.find_spec(\"pip\"))'") == "None"


def test_twistd_finds_its_cache_and_need_not_write_one(containers: Containers, image: str) -> None:
    script = "cd /opt/knocker/lib/python3.*/site-packages/twisted/plugins && stat -c '%Y %n' dropin.cache *.py"
    times = {name: int(at) for at, name in (line.split() for line in run(containers, image, script).splitlines())}
    assert "knocker_plugin.py" in times
    assert times["dropin.cache"] == max(times.values())
    done = containers.podman("run", "--rm", "--network=none", *STRICT, image, "--help")
    assert "--config" in done.stdout
    assert "cache" not in done.stderr


def test_its_version_is_the_checkouts(containers: Containers, image: str) -> None:
    told = containers.said("run", "--rm", "--network=none", "--entrypoint=knocker", image, "--version")
    assert told == f"knocker {knocker.__version__}"


_numbers = count()


class Gate:
    """A container of the image with as few rights as it may have, its settings' owner as its user, and a volume."""

    def __init__(self, containers: Containers, image: str, user: int | None) -> None:
        self.name = f"gate-{next(_numbers)}"
        self._containers, self._image = containers, image
        self._options = [] if user is None else [f"--user={user}:{user}"]
        self._owner = 10001 if user is None else user
        self._settings = containers.folder / self.name / "knocker.yaml"
        self._settings.parent.mkdir()

    def write(self, ttl: int | str = 600) -> None:
        """Write the settings."""
        told = {
            "server": {"host": "127.0.0.1", "trusted_proxies": ["127.0.0.1"]},
            "whitelist": {"storage_path": "/data/whitelist.json"},
            "api_keys": [{"name": "phone", "key": KEY, "ttl": ttl}],
        }
        self._settings.touch(mode=0o600)
        self._settings.write_text(json.dumps(told))
        self.chown(self._owner)

    def chown(self, user: int) -> None:
        """Let the settings be that user's."""
        os.chown(self._settings, user, user)

    def run(self) -> None:
        """Make the container and start it."""
        mounted = [f"--volume={self._settings.parent}:/etc/knocker:ro", f"--volume={self.name}:/data"]
        command = ["run", "--detach", "--name", self.name, "--network=none", *STRICT, *mounted, *self._options]
        self._containers.podman(*command, self._image)

    def remove(self) -> None:
        """Take the container and its volume away."""
        self._containers.podman("rm", "--force", "--time", "1", self.name, check=False)
        self._containers.podman("volume", "rm", "--force", self.name, check=False)

    def do(self, command: str, *words: str) -> str:
        """What podman says to a command about it."""
        return self._containers.said(command, self.name, *words)

    def ask(self, method: str, path: str, address: str) -> tuple[int, str]:
        """Status and body of an answer, asked from inside by a proxy that names a client."""
        script = (
            "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=10); "
            "c.request(*sys.argv[1:3], headers={'X-Api-Key': sys.argv[3], 'X-Forwarded-For': sys.argv[4]}); "
            "r = c.getresponse(); print(r.status, r.read().decode())"
        )
        status, _, body = self.do("exec", "python", "-c", script, method, path, KEY, address).partition(" ")
        return int(status), body

    @property
    def healthy(self) -> bool:
        """Whether its own check holds."""
        return self._containers.podman("healthcheck", "run", self.name, check=False).returncode == 0

    @property
    def log(self) -> str:
        """What it has said so far."""
        done = self._containers.podman("logs", self.name)
        return done.stdout + done.stderr

    def end_and_start(self) -> tuple[int, float]:
        """The status with which it ends when it is told to, and the seconds that this took; then it runs again."""
        before = time.time()
        self.do("kill", "--signal=TERM")
        status = int(self.do("wait"))
        took = float(self.do("inspect", "--format={{.State.FinishedAt.UnixMilli}}")) / 1000 - before
        self.do("start")
        eventually(lambda: self.healthy, "healthy again", seconds=30)
        return status, took


@pytest.fixture(params=[None, 4242, 0], ids=["the image's user", "another user", "root without its rights"])
def gate(request: pytest.FixtureRequest, containers: Containers, image: str) -> Iterator[Gate]:
    """One whose settings are written."""
    made = Gate(containers, image, request.param)
    made.write()
    yield made
    made.remove()


def test_it_serves_on_a_read_only_root_reloads_and_forgets_nothing(gate: Gate) -> None:
    gate.run()
    eventually(lambda: gate.healthy, "healthy", seconds=30)
    assert gate.ask("GET", "/verify", "203.0.113.7")[0] == 401
    status, body = gate.ask("POST", "/knock", "203.0.113.7")
    assert (status, json.loads(body)["expires_in_seconds"]) == (200, 600)
    assert gate.ask("GET", "/verify", "203.0.113.7")[0] == 200

    gate.write(ttl=900)
    assert gate.do("exec", "knocker", "reload").startswith("asked Knocker (pid 1) to read its settings again")
    eventually(lambda: "the settings were reloaded" in gate.log, "reloaded")
    assert json.loads(gate.ask("POST", "/knock", "203.0.113.8")[1])["expires_in_seconds"] == 900

    ended = [gate.end_and_start() for _ in range(3)]
    assert {status for status, _ in ended} == {0}
    assert min(took for _, took in ended) < 1
    for address in ("203.0.113.7", "203.0.113.8"):
        assert gate.ask("GET", "/verify", address)[0] == 200
    assert "Traceback" not in gate.log


def test_its_one_process_has_no_rights(gate: Gate) -> None:
    gate.run()
    eventually(lambda: gate.healthy, "healthy", seconds=30)
    assert gate.do("exec", "cat", "/proc/1/cmdline").split("\0")[1:] == [
        "/opt/knocker/bin/twistd",
        "-n",
        "--pidfile=",
        "knocker",
        "",
    ]
    told = dict(line.split(":\t", 1) for line in gate.do("exec", "cat", "/proc/1/status").splitlines())
    assert {told[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"0000000000000000"}
    assert told["NoNewPrivs"] == "1"
    written = "for at in / /opt/knocker /etc/knocker /data; do touch $at/x 2>/dev/null && echo $at; done; true"
    assert gate.do("exec", "sh", "-c", written) == "/data"


def test_a_check_that_nothing_answers_fails(containers: Containers, image: str) -> None:
    containers.podman("run", "--detach", "--name=idle", "--network=none", "--entrypoint=sleep", image, "60")
    try:
        assert containers.podman("healthcheck", "run", "idle", check=False).returncode == 1
    finally:
        containers.podman("rm", "--force", "--time", "0", "idle")


def test_settings_that_are_wrong_end_it_and_it_says_why(gate: Gate) -> None:
    gate.write(ttl="soon")
    gate.run()
    assert int(gate.do("wait")) == 1
    assert gate.log == "/etc/knocker/knocker.yaml: api_keys[0].ttl: expected a positive integer, got 'soon'\n"


def test_settings_that_are_somebody_elses_end_it_and_it_says_whose(containers: Containers, image: str) -> None:
    gate = Gate(containers, image, 4243)
    gate.write()
    gate.chown(0)
    try:
        gate.run()
        assert int(gate.do("wait")) == 1
        assert gate.log == "/etc/knocker/knocker.yaml: Permission denied: it belongs to user 0, and this is user 4243\n"
    finally:
        gate.remove()


def test_every_package_has_wheels_for_both_kinds_of_machine(tmp_path: Path) -> None:
    """Nothing has to be compiled, on Debian's C library; the image has no compiler."""
    version = re.search(r"^ARG BASE=python:([\d.]+)-", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    assert version
    for machine in ("x86_64", "aarch64"):
        platforms = [f"--platform=manylinux{glibc}_{machine}" for glibc in ("2014", "_2_17", "_2_28", "_2_34")]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        wanted = ["--only-binary=:all:", f"--python-version={version[1]}", *platforms, f"--target={tmp_path}"]
        done = subprocess.run(
            [*command, *wanted, f"{PROJECT}[redis]"], capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, f"{machine}: {done.stderr}"
