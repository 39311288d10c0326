"""The examples do what they say: the shell's knock is any other's, and the unit runs a command that there is."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from knocker.cli import main
from knocker.core.keys import generate, udp_secret
from knocker.core.packets.native import Knock, Secrets, decode, encode
from tests.conftest import LONG
from tests.needs import need, needs
from tests.test_knocking import Ear

ROOT = Path(__file__).parent.parent
SCRIPT, UNIT = ROOT / "examples/knock.sh", ROOT / "examples/knocker-keep.service"
VECTORS = json.loads((ROOT / "tests/vectors/knk1.json").read_text())["vectors"]
PLAIN = next(row for row in VECTORS if "network" not in row and "ttl" in row)  # what the script can say
KEY = generate(lambda count: bytes(range(count)))
NONCE = bytes(range(16))
# sh is always there; the others where they are installed, and then the script has to work in them too.
SHELLS = {"sh": ["sh"], "dash": ["dash"], "busybox": ["busybox", "sh"], "bash": ["bash", "--posix"], "mksh": ["mksh"]}
FOUND = {name: command for name, command in SHELLS.items() if shutil.which(command[0])}
each_shell = pytest.mark.parametrize("shell", [pytest.param(command, id=name) for name, command in FOUND.items()])
some_shells = each_shell if LONG else pytest.mark.parametrize("shell", [pytest.param(FOUND["sh"], id="sh")])

Sender = Callable[..., subprocess.CompletedProcess[str]]

# In the place of a tool: it writes down how it was called, and does what the tool does.
_NOTING = """#!/bin/sh
printf '%s\\n' "$*" >>"{notes}"
{then}
"""


class Bin:
    """A folder of tools that goes before all others; what they are told is written down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "bin"
        self.folder.mkdir()
        self.sent = folder / "sent"
        self.put("nc", f'exec cat >>"{self.sent}"')
        self.put("sleep", "exit 0")
        self.put("openssl", f'exec {shutil.which("openssl")} "$@"')

    def put(self, name: str, then: str) -> None:
        tool = self.folder / name
        tool.write_text(_NOTING.format(notes=self.folder / f"{name}.notes", then=then))
        tool.chmod(0o755)

    def told(self, name: str) -> list[str]:
        notes = self.folder / f"{name}.notes"
        return notes.read_text().splitlines() if notes.exists() else []

    def packets(self) -> list[bytes]:
        data = self.sent.read_bytes() if self.sent.exists() else b""
        return [data[start : start + 80] for start in range(0, len(data), 80)]


@pytest.fixture
def tools(tmp_path: Path) -> Bin:
    need("openssl")
    return Bin(tmp_path)


@pytest.fixture
def send(tools: Bin) -> Sender:
    """Runs the script with those tools; whatever it says, it does not show the key."""

    def send_one(
        *args: str, shell: Sequence[str] = ("sh",), key: str | None = KEY, path: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KNOCK")}
        kept |= {"PATH": path or f"{tools.folder}:{os.environ['PATH']}", "KNOCK_NC": str(tools.folder / "nc")}
        kept |= environment | ({"KNOCK_KEY": key} if key is not None else {})
        done = subprocess.run(
            [*shell, str(SCRIPT), *args], env=kept, capture_output=True, text=True, timeout=20, check=False
        )
        assert not key or key not in done.stdout + done.stderr
        return done

    return send_one


# --- The shell's knock -----------------------------------------------------------------------------------------------


@each_shell
def test_the_shell_makes_the_packet_of_the_vector_three_times(send: Sender, tools: Bin, shell: list[str]) -> None:
    done = send(
        "gate.example",
        "62201",
        str(PLAIN["ttl"]),
        shell=shell,
        key=PLAIN["api_key"],
        KNOCK_TS=str(PLAIN["ts_ms"] // 1000),
        KNOCK_NONCE=PLAIN["nonce"],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [packet.hex() for packet in tools.packets()] == [PLAIN["packet_hex"]] * 3
    assert tools.told("nc") == ["-u -w 1 gate.example 62201"]
    if shell != FOUND.get("busybox"):  # which has a sleep of its own
        assert tools.told("sleep") == ["0.15", "0.45"]


@some_shells
@pytest.mark.parametrize(
    ("args", "ttl", "realm", "now"),
    [
        pytest.param([], 0, "", 1_767_225_719, id="nothing, at the end of a slot"),
        pytest.param(["0"], 0, "", 1_767_225_720, id="the key's own time, at the begin of the next"),
        pytest.param(["4294967295", "home"], 0xFFFFFFFF, "home", 1_767_225_600, id="the longest time"),
        pytest.param(["1", "Café 100% \\n 'x' $HOME"], 1, "Café 100% \\n 'x' $HOME", 4_102_444_801, id="any realm"),
        pytest.param(["60", ""], 60, "", 1_700_000_003, id="an empty realm"),
    ],
)
def test_the_shell_says_what_the_command_would(
    send: Sender, tools: Bin, shell: list[str], args: list[str], ttl: int, realm: str, now: int
) -> None:
    done = send("192.0.2.1", "1", *args, shell=shell, KNOCK_TS=str(now), KNOCK_NONCE=NONCE.hex())
    assert (done.returncode, done.stderr) == (0, "")
    expected = encode(Secrets.of(udp_secret(KEY), realm), Knock(now * 1000, NONCE, ttl=ttl))
    assert tools.packets() == [expected] * 3


def test_a_key_with_all_that_a_shell_could_mistake_is_taken_as_it_is(send: Sender, tools: Bin) -> None:
    key = "a key with $(id) `id` \\n %s ' \" * ~ -n"
    assert send("192.0.2.1", "1", key=key, KNOCK_TS="1767225600", KNOCK_NONCE=NONCE.hex()).returncode == 0
    assert tools.packets()[0] == encode(Secrets.of(udp_secret(key)), Knock(1_767_225_600_000, NONCE))


def test_each_knock_of_the_shell_is_new_and_of_now(send: Sender, tools: Bin) -> None:
    before = int(time.time())
    for _ in range(2):
        assert send("192.0.2.1", "1").returncode == 0
    packets = tools.packets()
    first, second = (decode(Secrets.of(udp_secret(KEY)), packet) for packet in (packets[0], packets[3]))
    assert packets[0] == packets[1] == packets[2]
    assert first.nonce != second.nonce
    assert before <= first.seconds <= second.seconds <= time.time()


def test_the_key_is_on_no_command_line(send: Sender, tools: Bin) -> None:
    """What it is made into is, and the script says so."""
    send("192.0.2.1", "1")
    told = tools.told("openssl")
    assert len(told) > 5
    for text in (KEY, KEY.encode().hex()):
        assert not [line for line in told + tools.told("nc") if text in line]
    assert "the process list" in SCRIPT.read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        pytest.param([], "use: ", id="nothing"),
        pytest.param(["gate.example"], "use: ", id="no port"),
        pytest.param(["gate.example", "1", "2", "3", "4"], "use: ", id="too much"),
        pytest.param(["gate.example", "ssh"], "not a number: ssh", id="a port by name"),
        pytest.param(["gate.example", ""], "not a number: ", id="an empty port"),
        pytest.param(["gate.example", "1", "1h"], "not a number: 1h", id="a time in words"),
        pytest.param(["gate.example", "1", "-5"], "not a number: -5", id="a negative time"),
        pytest.param(["gate.example", "1", "010"], "not a number: 010", id="a leading zero, which would be octal"),
        pytest.param(
            ["gate.example", "1", "4294967296"], "a packet has no room for so many seconds", id="a time too long"
        ),
        pytest.param(["gate.example", "1", "9" * 30], "not a number", id="a time beyond any number"),
    ],
)
@some_shells
def test_the_shell_refuses_a_wrong_use(send: Sender, tools: Bin, shell: list[str], args: list[str], said: str) -> None:
    done = send(*args, shell=shell)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"knock.sh: {said}")
    assert len(done.stderr.splitlines()) == 1
    assert tools.packets() == []


@pytest.mark.parametrize("key", [None, ""])
def test_the_shell_sends_nothing_without_a_key(send: Sender, tools: Bin, key: str | None) -> None:
    done = send("gate.example", "1", key=key)
    assert (done.returncode, done.stderr) == (2, "knock.sh: put the key into the variable KNOCK_KEY\n")
    assert tools.packets() == []


def test_the_shell_sends_nothing_when_a_tool_is_missing(send: Sender, tools: Bin, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("od", "tr", "cut", "sleep", "date", "cat"):
        (few / name).symlink_to(str(shutil.which(name)))
    done = send("gate.example", "1", shell=[str(shutil.which("sh"))], path=str(few))
    assert (done.returncode, done.stderr) == (2, "knock.sh: openssl is not installed\n")


@pytest.mark.parametrize("command", ["enc", "dgst"])
def test_the_shell_sends_nothing_that_openssl_did_not_make_whole(send: Sender, tools: Bin, command: str) -> None:
    real = shutil.which("openssl")
    tools.put("openssl", f'[ "$1" != {command} ] || exit 1\nexec {real} "$@"')
    done = send("gate.example", "1")
    assert (done.returncode, done.stderr) == (2, "knock.sh: openssl did not do as it was told\n")
    assert tools.packets() == []


@pytest.fixture(params=["127.0.0.1", "::1"])
def heard(request: pytest.FixtureRequest) -> Iterator[tuple[str, Ear]]:
    with Ear(request.param) as ear:
        yield request.param, ear


@needs("nc")
def test_what_the_shell_sends_arrives_as_three_datagrams(send: Sender, heard: tuple[str, Ear]) -> None:
    host, ear = heard
    done = send(host, str(ear.port), "60", "home", path=os.environ["PATH"], KNOCK_NC="nc")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    arrived = ear.heard()
    assert (len(arrived), len(set(arrived))) == (3, 1)
    assert decode(Secrets.of(udp_secret(KEY), "home"), arrived[0]).ttl == 60


@each_shell
def test_the_script_is_one_that_any_shell_can_read(shell: list[str]) -> None:
    checked = subprocess.run([*shell, "-n", str(SCRIPT)], capture_output=True, text=True, timeout=10, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert SCRIPT.read_bytes().startswith(b"#!/bin/sh\n")
    assert os.access(SCRIPT, os.X_OK)


# --- The unit --------------------------------------------------------------------------------------------------------


@pytest.fixture
def unit() -> configparser.ConfigParser:
    """The unit; a name that stands twice would be an error."""
    read = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"))
    read.optionxform = lambda optionstr: optionstr  # type: ignore[method-assign] # as systemd does
    read.read_string(UNIT.read_text())
    return read


def commands(text: str) -> list[list[str]]:
    """The command lines of the unit, those in its comments too."""
    return [line.split() for line in re.findall(r"^#? ?.*ExecStart=(.*)$", text, re.MULTILINE)]


def test_the_unit_runs_a_command_that_there_is() -> None:
    found = commands(UNIT.read_text())
    assert len(found) == 2
    for path, name, *options in found:
        assert path == "%h/.local/bin/knocker"
        told = CliRunner().invoke(main, [name, "--help"])
        assert told.exit_code == 0
        known = set(re.findall(r"(?:^|\s)(--?[a-z0-9-]+)", told.stdout))
        assert {option for option in options if option.startswith("-")} <= known
        assert "--keep" in options


def test_the_unit_is_a_users_and_does_not_insist_where_no_waiting_mends(unit: configparser.ConfigParser) -> None:
    assert unit.sections() == ["Unit", "Service", "Install"]
    assert unit["Install"]["WantedBy"] == "default.target"
    service = unit["Service"]
    assert "User" not in service
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"].split() == ["1", "2"], "refused, and wrong use (contract 5)"


def test_the_unit_is_hardened_and_holds_no_key(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    for name in ("NoNewPrivileges", "LockPersonality", "RestrictRealtime", "RestrictSUIDSGID", "RestrictNamespaces"):
        assert service[name] == "yes", name
    assert {"AF_INET", "AF_INET6"} <= set(service["RestrictAddressFamilies"].split())
    assert service["SystemCallFilter"] == "@system-service"
    assert not [line for line in UNIT.read_text().splitlines() if "KNOCKER_KEY" in line or "kn_" in line]


def test_the_steps_in_the_unit_name_files_that_the_command_reads(unit: configparser.ConfigParser) -> None:
    text = UNIT.read_text()
    assert "~/.config/knocker/client.yaml" in text
    assert f"cp {UNIT.name} ~/.config/systemd/user/" in text
