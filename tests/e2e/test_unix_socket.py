"""Knocker on a unix socket: who asks there is believed only if that is said, and a crash is in nobody's way."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import ADMIN, LAPTOP, PHONE, phone, settings
from tests.service import SCRIPTS, Settings, SocketKnocker, eventually

CLIENT = "203.0.113.7"
ASKING = {"X-Forwarded-For": CLIENT, "X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/"}
KNOCKING = {"X-Forwarded-For": CLIENT, "X-Api-Key": PHONE}
Make = Callable[..., SocketKnocker]


def on_a_socket(**server: object) -> Settings:
    """The usual settings, without the usual proxy."""
    return {**settings(), "server": server}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes Knockers that are not started yet and end with the test."""
    with ExitStack() as stack:

        def make_one(told: Settings | None = None, mode: str = "660") -> SocketKnocker:
            knocker = SocketKnocker(tmp_path, told or on_a_socket(), mode)
            stack.callback(knocker.end, PHONE, LAPTOP, ADMIN)
            return knocker

        yield make_one


def _health(knocker: SocketKnocker) -> int:
    command = [str(SCRIPTS / "knocker"), "health", "--config", str(knocker.config)]
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode


def _faults(knocker: SocketKnocker) -> str:
    """The one line that a start says when it fails, after what twistd says of every start."""
    knocker.launch()
    assert knocker.wait() == 1
    (line,) = [line for line in knocker.log.splitlines() if not line.startswith("20")]
    return line


def test_a_proxy_on_the_socket_is_believed(make: Make) -> None:
    knocker = make()
    knocker.start()
    assert knocker.ask("/verify", headers=ASKING).status == 401
    assert knocker.ask("/knock", headers=KNOCKING).json()["whitelisted_entry"] == CLIENT
    assert knocker.ask("/verify", headers=ASKING).status == 200
    assert knocker.ask("/verify", headers={**ASKING, "X-Forwarded-For": "203.0.113.8"}).status == 401
    assert _health(knocker) == 0
    # Somebody on the machine itself has no address: nothing to let in, but a list to see.
    assert knocker.ask("/verify").status == 401
    assert knocker.ask("/knock", headers={"X-Api-Key": PHONE}).status == 400
    assert len(knocker.ask("/grants", headers={"X-Api-Key": PHONE}).json()["grants"]) == 1


def test_nobody_on_the_socket_is_believed_unless_that_is_said(make: Make) -> None:
    knocker = make(on_a_socket(trusted_proxies=["127.0.0.1"]))
    knocker.start()
    answer = knocker.ask("/knock", headers=KNOCKING)
    assert answer.status == 400
    assert answer.json() == {"error": "Forwarded headers from a peer that is not a trusted proxy."}
    assert knocker.ask("/knock", headers={"X-Api-Key": PHONE}).json() == {"error": "Could not determine client IP."}
    assert knocker.ask("/verify", headers=ASKING).status == 401
    assert knocker.ask("/verify").status == 401
    assert '"unix" is not in server.trusted_proxies' in knocker.log
    assert 'until "unix" is named here' in knocker.log


@pytest.mark.parametrize("mode", ["660", "600"])
def test_only_whom_its_mode_admits_may_connect(make: Make, mode: str) -> None:
    knocker = make(mode=mode)
    knocker.start()
    assert stat.S_IMODE(knocker.socket.stat().st_mode) == int(mode, 8)


def test_an_open_file_that_is_sent_along_is_neither_taken_nor_told_of(make: Make) -> None:
    knocker = make()
    knocker.start()
    folder = Path(f"/proc/{knocker.pid}/fd")
    with socket.socket(socket.AF_UNIX) as wire, knocker.config.open("rb") as file:
        wire.settimeout(10)
        wire.connect(str(knocker.socket))
        wire.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.recv(4096), "it is up and knows this connection"
        before = len(list(folder.iterdir()))
        for _ in range(20):
            socket.send_fds(wire, [b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"], [file.fileno()] * 3)
            assert wire.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert len(list(folder.iterdir())) <= before
    assert "descriptor" not in knocker.log


def test_a_kill_leaves_nothing_in_the_way_of_the_next_start(make: Make) -> None:
    knocker = make()
    knocker.start()
    knocker.ask("/knock", headers=KNOCKING)
    knocker.kill()
    assert knocker.socket.is_socket()
    knocker.start()
    assert knocker.ask("/verify", headers=ASKING).status == 200


def test_the_end_removes_the_socket(make: Make) -> None:
    knocker = make()
    knocker.start()
    assert knocker.terminate() == 0
    assert not knocker.socket.exists()


def test_the_end_is_orderly_also_when_somebody_removed_the_socket(make: Make) -> None:
    knocker = make()
    knocker.start()
    knocker.ask("/knock", headers=KNOCKING)
    knocker.socket.unlink()
    assert knocker.terminate() == 0
    assert "1 live grants are stored" in knocker.log


def test_a_socket_of_another_process_is_left_alone(make: Make) -> None:
    knocker = make()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(knocker.socket))
        other.listen()
        line = _faults(knocker)
        assert f"cannot listen on the unix socket {knocker.socket}: another process listens there" in line
        assert "server.listen" in line
        assert knocker.socket.is_socket()


def test_a_file_that_is_no_socket_is_left_alone(make: Make) -> None:
    knocker = make()
    knocker.socket.write_text("precious")
    assert "a file is there already that is no socket" in _faults(knocker)
    assert knocker.socket.read_text() == "precious"


def test_a_folder_that_is_not_there_ends_the_start_with_one_line(make: Make, tmp_path: Path) -> None:
    knocker = make()
    knocker.write(knocker.config.read_text().replace("/knocker.sock", "/nowhere/knocker.sock"))
    assert "No such file or directory" in _faults(knocker)


@pytest.mark.parametrize("endpoint", ["nonsense:1", "tls:/nowhere:tcp:1", "systemd:domain=INET:index=7"])
def test_an_endpoint_that_twisted_cannot_use_ends_the_start_with_one_line(make: Make, endpoint: str) -> None:
    knocker = make({"api_keys": [phone()], "server": {"listen": endpoint, "trusted_proxies": ["127.0.0.1"]}})
    assert f"cannot listen on {endpoint}: " in _faults(knocker)


def test_moving_it_needs_a_restart_and_the_log_says_so(make: Make) -> None:
    knocker = make()
    knocker.start()
    knocker.write(knocker.config.read_text().replace("/knocker.sock", "/other.sock"))
    knocker.hup()
    eventually(lambda: "server.listen changed; that needs a restart" in knocker.log, "the log says so")
    assert knocker.ask("/verify", headers=ASKING).status == 401
    assert sorted(os.listdir(knocker.directory)).count("other.sock") == 0


# What systemd does for a socket unit: the socket is descriptor 3 of the process that it starts.
_ACTIVATE = """
import os, socket, sys
path, mode, *command = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
os.chmod(path, int(mode, 8))
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="knocker.socket")
os.execv(command[0], command)
"""


def _activated(make: Make, mode: str, trusted: str = "unix") -> SocketKnocker:
    server = {"listen": "systemd:domain=UNIX:index=0", "trusted_proxies": [trusted]}
    knocker = make({"api_keys": [phone()], "server": server})
    knocker.command = [sys.executable, "-c", _ACTIVATE, str(knocker.socket), mode, *knocker.command]
    return knocker


def test_a_socket_of_systemds_is_believed_where_its_mode_says_who_may_connect(make: Make) -> None:
    knocker = _activated(make, "660")
    knocker.start()
    assert knocker.ask("/knock", headers=KNOCKING).json()["whitelisted_entry"] == CLIENT
    assert knocker.ask("/verify", headers=ASKING).status == 200
    assert stat.S_IMODE(knocker.socket.stat().st_mode) == 0o660
    assert knocker.terminate() == 0
    assert knocker.socket.is_socket(), "its file is systemd's"


def test_the_end_puts_no_file_where_a_socket_of_systemds_was(make: Make) -> None:
    knocker = _activated(make, "660")
    knocker.start()
    assert knocker.ask("/verify", headers=ASKING).status == 401
    knocker.socket.unlink()
    assert knocker.terminate() == 0
    assert not knocker.socket.exists()


def test_a_socket_of_systemds_that_everybody_may_write_is_not_believed(make: Make) -> None:
    line = _faults(_activated(make, "666"))
    assert 'server.trusted_proxies: "unix" would believe every user of this machine' in line
    assert "SocketMode=0660" in line


def test_one_whose_peers_are_not_believed_may_have_any_mode(make: Make) -> None:
    knocker = _activated(make, "666", "192.0.2.1")
    knocker.start()
    assert knocker.ask("/verify", headers=ASKING).status == 401
