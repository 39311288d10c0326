"""A native install under systemd: its units, the socket that it opens for us, and what it is told."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from knocker.cli import main
from knocker.notifying import PATIENCE, Notifier
from tests.needs import needs
from tests.net import dying_with_us
from tests.service import SCRIPTS, Knocker, Server, Settings, SocketKnocker, ask, eventually, free_port, replaced

ROOT = Path(__file__).parent.parent
SERVICE, SOCKET = ROOT / "examples/systemd/knocker.service", ROOT / "examples/systemd/knocker.socket"
PAGE = ROOT / "docs/install.md"
MOST_EXPOSED = 1.1  # as systemd 252 counts, from 0 to 10; it talks to the network, which is most of that
KEY = "k-of-a-phone-0123456789"
CLIENT = "203.0.113.7"
FORWARDED = {"X-Forwarded-For": CLIENT, "X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/"}
KNOCKING = {"X-Forwarded-For": CLIENT, "X-Api-Key": KEY}

needs_systemd = needs("systemd-analyze")


def told(listen: str | None = None, trusted: str = "127.0.0.1") -> Settings:
    """Settings of one key and one proxy."""
    server = {"trusted_proxies": [trusted]} | ({"listen": listen} if listen else {})
    return {"api_keys": [{"name": "phone", "key": KEY, "ttl": 3600}], "server": server}


# --- The units -------------------------------------------------------------------------------------------------------


def lines_of(unit: Path) -> list[tuple[str, str]]:
    """The settings of a unit, in their order."""
    rows = [line.partition("=") for line in unit.read_text().splitlines() if re.match(r"[A-Z]\w*=", line)]
    return [(name, value) for name, _, value in rows]


def values(name: str) -> list[str]:
    """What the service's unit says for a name, once or several times."""
    return [value for found, value in lines_of(SERVICE) if found == name]


def analyze(*words: str | Path) -> tuple[int, str]:
    """The exit status of systemd-analyze, and what it says."""
    command = ["systemd-analyze", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout + done.stderr


def faults(*units: Path) -> list[str]:
    """What systemd finds fault with in these units; what else it says is of the machine's own."""
    status, said = analyze("verify", "--man=no", "--recursive-errors=no", *units)
    found = [line for line in said.splitlines() if any(unit.name in line for unit in units)]
    assert status == 0 or found, said
    return found


def placed(folder: Path, everything: bool = False) -> list[Path]:
    """The units in a folder, with the programs of this environment; with all that stands in comments, too."""
    kill = shutil.which("kill") or sys.executable
    text = replaced(SERVICE.read_text(), {"/opt/knocker/bin/": f"{SCRIPTS}/", "/bin/kill": kill})
    texts = {SERVICE.name: text, SOCKET.name: SOCKET.read_text()}
    for name, text in texts.items():
        (folder / name).write_text(re.sub(r"(?m)^#(?=[A-Z]\w*=)", "", text) if everything else text)
    return [folder / name for name in texts]


@needs_systemd
@pytest.mark.parametrize("everything", [pytest.param(False, id="as they are"), pytest.param(True, id="with comments")])
def test_systemd_understands_every_line_of_the_units(tmp_path: Path, everything: bool) -> None:
    assert faults(*placed(tmp_path, everything)) == []


@needs_systemd
def test_systemd_would_say_so_if_it_did_not(tmp_path: Path) -> None:
    service, _ = placed(tmp_path)
    service.write_text(service.read_text().replace("ProtectClock", "ProtectClocks"))
    (line,) = faults(service)
    assert "ProtectClocks" in line


@needs_systemd
def test_the_unit_leaves_little_to_whoever_breaks_in(tmp_path: Path) -> None:
    service, _ = placed(tmp_path)
    status, said = analyze("security", "--offline=true", "--no-pager", service)
    assert status == 0, said
    found = re.search(r"Overall exposure level for knocker.service: ([0-9.]+)", said)
    assert found
    assert float(found[1]) <= MOST_EXPOSED


def test_the_units_command_starts_a_knocker_that_keeps_its_files_in_its_folder_and_ends_with_0(tmp_path: Path) -> None:
    state, port = tmp_path / "state", free_port()
    state.mkdir()
    settings = {**told(), "server": {"host": "127.0.0.1", "port": port, "trusted_proxies": ["127.0.0.1"]}}
    settings["udp"] = {"enabled": True, "host": "127.0.0.1", "port": free_port()}
    config = tmp_path / "knocker.yaml"
    config.touch(mode=0o600)
    config.write_text(yaml.safe_dump(settings))
    (line,) = values("ExecStart")
    words = replaced(line, {"/opt/knocker/bin/": f"{SCRIPTS}/", "/etc/knocker/knocker.yaml": str(config)})
    assert values("WorkingDirectory") == [f"%S/{values('StateDirectory')[0]}"]
    with Server(shlex.split(words), state, port) as knocker:
        assert ask(port, "/knock", headers=KNOCKING).status == 200
        assert knocker.terminate() == 0
        files = {file.name for file in state.iterdir()} - {knocker.log_file.name}
    assert {"whitelist.json", "udp-seen.log"} <= files
    assert {name.removesuffix(".lock") for name in files} == {"whitelist.json", "udp-seen.log"}


def test_a_faulty_file_fails_the_reload_before_anybody_is_asked_to_read_it(tmp_path: Path) -> None:
    check, signalling = values("ExecReload")
    assert signalling.split()[1:] == ["-HUP", "$MAINPID"]
    program, *words = check.split()
    assert program == "/opt/knocker/bin/knocker"
    assert words[-1] in values("ExecStart")[0].split(), "the file that it runs with"
    for text, status in (("nonsense: 1\n", 1), (yaml.safe_dump(told()), 0)):
        (tmp_path / "knocker.yaml").write_text(text)
        done = CliRunner().invoke(main, [*words[:-1], str(tmp_path / "knocker.yaml")])
        assert done.exit_code == status


def test_the_units_and_the_page_agree() -> None:
    page, units = PAGE.read_text(), dict(lines_of(SERVICE)) | dict(lines_of(SOCKET))
    assert f"--home-dir /var/lib/{units['StateDirectory']}" in page
    assert page.count(f" {units['User']}\n") >= 1
    assert units["ListenStream"] in page
    assert f"SocketGroup={units['SocketGroup']}" in page
    for told_where in ("/opt/knocker/bin/", "/etc/knocker/knocker.yaml"):
        assert told_where in page
        assert told_where in values("ExecStart")[0]


def test_the_settings_of_the_page_are_good_and_are_those_of_the_units(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    config = tmp_path / "knocker.yaml"
    config.touch(mode=0o600)
    config.write_text(re.sub(r'key_sha256: "[^"]*"', f'key: "{KEY}"', text))
    done = CliRunner().invoke(main, ["check", str(config)])
    warnings = done.stderr.splitlines()
    assert done.exit_code == 0
    assert all(
        "/var/lib/knocker is not there: right where a container or systemd makes it" in line for line in warnings
    )
    settings = yaml.safe_load(text)
    assert f'server: {{listen: "{settings["server"]["listen"]}", trusted_proxies: ["unix"]}}' in SOCKET.read_text()
    for path in (settings["whitelist"]["storage_path"], settings["udp"]["state_path"]):
        assert Path(path).parent == Path("/var/lib") / values("StateDirectory")[0]


# --- The socket that systemd opens -----------------------------------------------------------------------------------


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """What ends with the test."""
    with ExitStack() as stack:
        yield stack


class Inheriting(Knocker):
    """Knocker with a socket that it does not open."""

    def configure(self, settings: Settings) -> None:
        """Write its settings; ours is where the whitelist is."""
        self.write(yaml.safe_dump({**settings, "whitelist": {"storage_path": str(self.whitelist)}}))


def activated(knocker: Knocker, where: str) -> None:
    """Let it be started by systemd-socket-activate, which listens there until somebody comes."""
    knocker.command = [str(shutil.which("systemd-socket-activate")), "-l", where, "--fdname=knocker", *knocker.command]


@needs_systemd
@pytest.mark.parametrize(
    ("domain", "where", "host"),
    [
        pytest.param("INET", "127.0.0.1:{}", "127.0.0.1", id="one family"),
        pytest.param("INET6", "[::1]:{}", "::1", id="the other"),
        pytest.param("INET6", "{}", "127.0.0.1", id="both"),
    ],
)
def test_knocker_serves_on_the_port_that_it_inherits(
    tmp_path: Path, held: ExitStack, domain: str, where: str, host: str
) -> None:
    port = free_port(host)
    knocker = Inheriting(tmp_path, told(f"systemd:domain={domain}:index=0", host), port)
    activated(knocker, where.format(port))
    held.callback(knocker.end, KEY)
    knocker.start()
    assert ask(port, "/knock", headers=KNOCKING, host=host).json()["whitelisted_entry"] == CLIENT
    assert ask(port, "/verify", headers=FORWARDED, host=host).status == 200
    assert knocker.terminate() == 0


@needs_systemd
def test_knocker_serves_on_the_unix_socket_that_it_inherits(tmp_path: Path, held: ExitStack) -> None:
    knocker = SocketKnocker(tmp_path, told("systemd:domain=UNIX:name=knocker", "unix"))
    activated(knocker, str(knocker.socket))
    held.callback(knocker.end, KEY)
    knocker.launch()
    eventually(knocker.socket.exists, "it is there")
    assert knocker.ask("/knock", headers=KNOCKING).json()["whitelisted_entry"] == CLIENT
    assert knocker.ask("/verify", headers=FORWARDED).status == 200
    assert knocker.terminate() == 0


# As systemd does: the socket is descriptor 3 of the process that it starts, and stays its own.
_HAND_ON = """
import os, sys
descriptor, *command = sys.argv[1:]
os.dup2(int(descriptor), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="knocker.socket")
os.execv(command[0], command)
"""


class Handed(Inheriting):
    """Knocker on a socket that is this process's, before it, between two of its lives, and after."""

    def __init__(self, directory: Path, listener: socket.socket, settings: Settings) -> None:
        super().__init__(directory, settings, 0)
        self.listener = listener

    def launch(self) -> None:
        """Start it without waiting: whoever connects waits by himself."""
        descriptor = self.listener.fileno()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_us([sys.executable, "-c", _HAND_ON, str(descriptor), *self.command]),
                cwd=self.directory,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[descriptor],
            )

    def fault(self) -> str:
        """The one line that a start says when it fails, after what twistd says of every start."""
        self.launch()
        assert self.wait() == 1
        (line,) = [line for line in self.log.splitlines() if not line.startswith("20")]
        return line

    def asking(self, path: str, headers: dict[str, str], where: str | None = None) -> HTTPConnection:
        """A question that is asked, whether or not anybody is there to answer."""
        connection = HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(self.listener.family)
        connection.sock.settimeout(20)
        try:
            connection.sock.connect(where or self.listener.getsockname())
            connection.request("GET", path, None, headers)
        except OSError:
            connection.close()
            raise
        return connection

    def status(self, path: str, headers: dict[str, str], where: str | None = None) -> int:
        """How it answers."""
        with closing(self.asking(path, headers, where)) as connection:
            return connection.getresponse().status


Hand = Callable[..., Handed]


@pytest.fixture
def hand(tmp_path: Path, held: ExitStack) -> Hand:
    """Makes a socket and a Knocker that is to get it, not started yet."""

    def hand_one(family: socket.AddressFamily, settings: Settings) -> Handed:
        unix = family == socket.AF_UNIX
        listener = held.enter_context(socket.socket(family))
        listener.bind(
            str(tmp_path / "knocker.sock") if unix else ("::1" if family == socket.AF_INET6 else "127.0.0.1", 0)
        )
        if unix:
            (tmp_path / "knocker.sock").chmod(0o660)
        listener.listen()
        knocker = Handed(tmp_path, listener, settings)
        held.callback(knocker.end, KEY)
        return knocker

    return hand_one


@pytest.mark.parametrize(("domain", "trusted"), [("INET", "127.0.0.1"), ("UNIX", "unix")])
def test_who_comes_while_it_restarts_is_answered_by_the_next(hand: Hand, domain: str, trusted: str) -> None:
    family = socket.AF_UNIX if domain == "UNIX" else socket.AF_INET
    knocker = hand(family, told(f"systemd:domain={domain}:index=0", trusted))
    knocker.launch()
    assert knocker.status("/knock", KNOCKING) == 200
    assert knocker.terminate() == 0
    with closing(knocker.asking("/verify", FORWARDED)) as waiting:
        knocker.launch()
        assert waiting.getresponse().status == 200


def test_the_file_of_a_socket_may_be_somebody_elses(hand: Hand, tmp_path: Path) -> None:
    """As it is root's where systemd made it, which lets nobody else set its permissions."""
    knocker = hand(socket.AF_UNIX, told("systemd:domain=UNIX:index=0", "192.0.2.1"))
    elsewhere = (tmp_path / "knocker.sock").rename(tmp_path / "moved.sock")
    knocker.launch()
    assert knocker.status("/health", {}, str(elsewhere)) == 200
    assert knocker.terminate() == 0
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o660


@pytest.mark.parametrize(
    ("family", "named"),
    [
        pytest.param(socket.AF_INET6, "INET", id="peers would have addresses that are not theirs"),
        pytest.param(socket.AF_INET, "INET6", id="the other way round"),
        pytest.param(socket.AF_INET, "UNIX", id="peers would have none"),
        pytest.param(socket.AF_UNIX, "INET", id="a socket without addresses"),
    ],
)
def test_a_socket_of_another_family_than_the_settings_say_ends_the_start(
    hand: Hand, family: socket.AddressFamily, named: str
) -> None:
    line = hand(family, told(f"systemd:domain={named}:index=0")).fault()
    assert f"that socket is one of domain={family.name.removeprefix('AF_')}; see server.listen" in line


# --- What it is told -------------------------------------------------------------------------------------------------


class Manager:
    """The service manager's end of the notify socket."""

    def __init__(self, name: str) -> None:
        self.environment = {"NOTIFY_SOCKET": name}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def heard(self, seconds: float = 15) -> dict[str, str]:
        """The next thing that it is told; nothing is an empty one."""
        self._socket.settimeout(seconds)
        try:
            lines = self._socket.recv(4096).decode().split("\n")
        except (TimeoutError, BlockingIOError):
            return {}
        assert all(line.count("=") for line in lines), lines
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture(params=["a file", "a name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, held: ExitStack) -> Manager:
    """One with a socket in a folder, and one with an abstract name."""
    name = str(tmp_path / "notify") if request.param == "a file" else f"@knocker-test-{os.getpid()}"
    return held.enter_context(Manager(name))


@pytest.fixture
def watched(tmp_path: Path, held: ExitStack) -> tuple[Knocker, Manager]:
    """A Knocker that is not started yet, and whom it is to tell."""
    manager = held.enter_context(Manager(str(tmp_path / "notify")))
    knocker = Knocker(tmp_path, told(), free_port())
    knocker.environment = manager.environment
    held.callback(knocker.end, KEY)
    return knocker, manager


def test_it_is_ready_once_it_listens_and_stopping_at_sigterm(watched: tuple[Knocker, Manager]) -> None:
    knocker, manager = watched
    knocker.launch()
    assert manager.heard() == {"READY": "1", "STATUS": f"listening on 127.0.0.1 port {knocker.port}"}
    assert knocker.listening
    assert ask(knocker.port, "/health").status == 200
    assert knocker.terminate() == 0
    assert manager.heard() == {"STOPPING": "1"}
    assert manager.heard(0) == {}


def test_sigterm_right_after_ready_is_an_orderly_end(watched: tuple[Knocker, Manager]) -> None:
    knocker, manager = watched
    knocker.launch()
    assert "READY" in manager.heard()
    knocker.signal(signal.SIGTERM)
    assert manager.heard() == {"STOPPING": "1"}
    assert knocker.wait() == 0


def test_a_start_that_fails_is_never_ready(watched: tuple[Knocker, Manager]) -> None:
    knocker, manager = watched
    with socket.create_server(("127.0.0.1", knocker.port)):
        knocker.launch()
        assert knocker.wait() == 1
    assert manager.heard(0) == {}


def test_a_gate_whose_shared_store_is_away_is_ready_when_it_opens_its_doors_at_last(
    watched: tuple[Knocker, Manager],
) -> None:
    knocker, manager = watched
    knocker.configure({**told(), "whitelist": {"store": f"redis://127.0.0.1:{free_port()}"}})
    knocker.launch()
    eventually(lambda: "cannot be reached" in knocker.log, "it looks for the store")
    knocker.hup()  # whose end does not make it ready
    eventually(lambda: "the settings were reloaded" in knocker.log, "it reads them")
    assert not knocker.listening
    assert "READY" in manager.heard()
    assert knocker.listening
    assert knocker.terminate() == 0


def test_a_reload_is_told_from_its_begin_to_its_end(watched: tuple[Knocker, Manager]) -> None:
    knocker, manager = watched
    knocker.launch()
    status = manager.heard()["STATUS"]
    before = time.monotonic_ns() // 1000
    knocker.hup()
    begun = manager.heard()
    assert before <= int(begun.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert begun == {"RELOADING": "1", "STATUS": status}
    assert manager.heard() == {"READY": "1"}
    assert "the settings were reloaded" in knocker.log


def test_a_reload_that_fails_is_over_too_and_the_status_says_so(watched: tuple[Knocker, Manager]) -> None:
    knocker, manager = watched
    knocker.launch()
    status = manager.heard()["STATUS"]
    good = knocker.config.read_text()
    knocker.write("nonsense: 1\n")
    knocker.hup()
    assert "RELOADING" in manager.heard()
    assert "the settings were not reloaded" in manager.heard()["STATUS"]
    assert manager.heard() == {"READY": "1"}
    knocker.write(good)
    knocker.hup()
    assert manager.heard()["STATUS"] == status, "what is mended is not complained of any more"
    assert manager.heard() == {"READY": "1"}


def test_each_thing_is_one_datagram_of_lines(manager: Manager) -> None:
    notifier = Notifier(manager.environment)
    assert notifier.status("reading\nREADY=1\n the  whitelist \udcff")
    assert manager.heard() == {"STATUS": "reading READY=1 the whitelist \\udcff"}
    assert notifier.ready("")
    assert manager.heard() == {"READY": "1", "STATUS": ""}
    assert notifier.reloading()
    assert list(manager.heard()) == ["RELOADING", "MONOTONIC_USEC", "STATUS"]
    assert notifier.reloaded()
    assert manager.heard() == {"READY": "1"}
    assert notifier.stopping()
    assert manager.heard() == {"STOPPING": "1"}


def test_a_reload_before_the_start_is_done_or_after_the_end_began_makes_nobody_ready(manager: Manager) -> None:
    notifier = Notifier(manager.environment)
    assert not notifier.reloading()
    assert not notifier.reloaded()
    assert manager.heard(0) == {}
    notifier.ready("")
    notifier.reloading()
    notifier.stopping()
    for _ in range(3):
        manager.heard()
    assert not notifier.reloaded()
    assert not notifier.reloading()
    assert manager.heard(0) == {}


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="no manager"),
        pytest.param({"NOTIFY_SOCKET": ""}, id="none either"),
        pytest.param({"NOTIFY_SOCKET": "@"}, id="an empty name"),
        pytest.param({"NOTIFY_SOCKET": "@knocker-test-nobody"}, id="nobody there"),
        pytest.param({"NOTIFY_SOCKET": "/nowhere/notify"}, id="no such file"),
        pytest.param({"NOTIFY_SOCKET": "/etc/passwd"}, id="no socket"),
        pytest.param({"NOTIFY_SOCKET": "/" + "x" * 200}, id="no address is so long"),
        pytest.param({"NOTIFY_SOCKET": "/x\0y"}, id="no file has such a name"),
        pytest.param({"NOTIFY_SOCKET": "vsock:2:1234"}, id="not of this machine"),
    ],
)
def test_where_nobody_can_be_told_nothing_happens(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    assert not notifier.ready("x")
    assert not notifier.reloading()
    assert not notifier.reloaded()
    assert not notifier.status("x")
    assert not notifier.stopping()


def test_a_manager_that_does_not_read_holds_nobody_up_for_long(manager: Manager) -> None:
    notifier, begun = Notifier(manager.environment), time.monotonic()
    assert any(not notifier.ready("") for _ in range(1000))
    assert time.monotonic() - begun < PATIENCE + 2
