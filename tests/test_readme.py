"""README.md from top to bottom: each command is run here against a real Knocker, or it is told why not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_udp import free_udp_port
from tests.needs import need
from tests.service import PROJECT, SCRIPTS, Knocker, eventually, free_port

README = (PROJECT / "README.md").read_text()
SITE = "https://knock.example.com"
ADMIN = "admin-key-0123456789-abcd"

# Not here, and where instead.
ELSEWHERE = {
    "make run": "tests/e2e/test_demo.py",
    "docker compose up -d": "tests/image/test_compose.py",
    "pip install .": "tests/test_packaging.py",
}
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]


class House:
    """A folder with the files that the README copies, and a Knocker that knows its keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(PROJECT / "knocker.example.yaml", folder)
        made = subprocess.run([SCRIPTS / "knocker", "genkey"], capture_output=True, text=True, check=True).stdout
        (self.key,) = re.findall(r"^key: (\S+)$", made, re.MULTILINE)
        self.udp_port = free_udp_port()
        settings = {
            "server": {"allow_loopback_clients": True},
            "udp": {"enabled": True, "host": "127.0.0.1", "port": self.udp_port, "window_seconds": 30},
            "api_keys": [
                {"name": "phone", "key": self.key, "ttl": 3600, "udp": True},
                {"name": "admin", "key": ADMIN, "ttl": 3600, "allow_remote_whitelist": True},
            ],
        }
        served = folder / "served"
        served.mkdir()
        self.knocker = Knocker(served, settings, free_port())

    def run(self, command: str, key: str) -> subprocess.CompletedProcess[str]:
        """What a shell makes of a command, with this house's names and keys in it."""
        for written, meant in {
            SITE: f"http://127.0.0.1:{self.knocker.port}",
            "--udp knock.example.com": f"--udp 127.0.0.1:{self.udp_port}",
            "YOUR_KEY": self.key,
            "ADMIN_KEY": ADMIN,
        }.items():
            command = command.replace(written, meant)
        environment = {
            "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "KNOCKER_KEY": key,
            "KNOCKER_URL": f"http://127.0.0.1:{self.knocker.port}",
        }
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def grants(self) -> list[str]:
        """The ids of all that is open."""
        return [grant["id"] for grant in json.loads(self.run("knocker grants --json", ADMIN).stdout)["grants"]]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    need("curl")
    made = House(tmp_path)
    with made.knocker:
        yield made
        made.knocker.end(made.key, ADMIN)


def test_each_command_of_the_readme_does_what_it_is_said_to(house: House) -> None:
    ran = []
    for command in COMMANDS:
        if command in ELSEWHERE:
            continue
        done, expected = _try(house, command)
        said = done.stdout + done.stderr
        assert done.returncode in expected, f"{command}: {done.returncode} {said}"
        assert "error" not in said.lower(), f"{command}: {said}"
        ran.append(command)
    assert set(ran) | set(ELSEWHERE) == set(COMMANDS)
    (closing,) = re.findall(r"`(curl -X DELETE .*?)`", README)
    house.run("knocker knock", house.key)
    before = len(house.grants())
    assert house.run(closing, "").returncode == 0
    assert len(house.grants()) == before - 1


def _try(house: House, command: str) -> tuple[subprocess.CompletedProcess[str], set[int]]:
    """A command run, and the statuses that are right for it."""
    if command.startswith("export "):
        return house.run(command, ""), {0}
    if command.startswith("twistd "):
        ours = f's/host: "::"/host: 127.0.0.1/; s/port: 8000/port: {free_port()}/; s#/data/#{house.folder}/#'
        assert house.run(f"sed -i '{ours}' knocker.yaml && grep -q 'host: 127.0.0.1' knocker.yaml", "").returncode == 0
        return house.run(f"timeout 4 {command}", ""), {0, 124}
    if command.startswith("knocker check"):
        # "Then put keys of your own into it."
        for placeholder in ("REPLACE_WITH_A_KEY_OF_YOUR_OWN", "REPLACE_WITH_ANOTHER_KEY"):
            house.run(f"sed -i s/{placeholder}/$(openssl rand -hex 24)/ knocker.yaml", "")
    if command.endswith("--keep"):
        return house.run(f"timeout 3 {command}", house.key), {124}
    if command == "knocker revoke ID":
        return house.run(f"knocker revoke {house.grants()[0]}", ADMIN), {0}
    if command == "knocker leave":
        assert house.run("knocker knock", house.key).returncode == 0
    return house.run(command, ADMIN if command.startswith(("knocker explain", "knocker grants")) else house.key), {0}


def test_a_crontabs_lines_knock(house: House) -> None:
    by_packet, by_request = (line.strip() for line in re.findall(r"^\*/30 \* \* \* \* (.*)$", README, re.MULTILINE))
    shutil.copy(PROJECT / "examples/knock.sh", house.folder)
    (house.folder / "knock.key").write_text(house.key)
    assert house.run(by_request, "").returncode == 0
    assert len(house.grants()) == 1
    done = house.run(by_packet.replace("knock.example.com 62201", f"127.0.0.1 {house.udp_port}"), "")
    assert (done.returncode, done.stderr) == (0, "")
    # The first one is refused, since it comes within a window of the first start; that it was understood is enough.
    eventually(lambda: "was made before the file of udp.state_path knew" in house.knocker.log, house.knocker.log)


def test_what_is_tried_elsewhere_is_tried_there() -> None:
    assert all((PROJECT / place).is_file() for place in ELSEWHERE.values())


def test_the_answer_to_a_knock_is_as_shown(house: House) -> None:
    (shown,) = re.findall(r'`(\{"whitelisted_entry".*?\})`', README)
    (command,) = (command for command in COMMANDS if command.startswith("curl -i"))
    said = house.run(command, "").stdout
    assert said.startswith("HTTP/1.1 200")
    assert json.loads(said.splitlines()[-1]).keys() == json.loads(shown).keys()
    eventually(lambda: house.grants(), "it is listed")
