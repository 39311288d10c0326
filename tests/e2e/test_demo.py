"""`make run`: the demo starts, its printed lines work, Ctrl-C ends all of it, and it starts again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import ask, eventually, free_port

DEMO = Path(__file__).parent.parent.parent / "demo" / "run.py"


class Demo:
    """A run of the demo in a directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.page, self.knock, self.knocker = free_port(), free_port(), free_port()
        self.output = folder / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        ports = {"PAGE_PORT": self.page, "KNOCK_PORT": self.knock, "KNOCKER_PORT": self.knocker}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(DEMO)],
                cwd=self.folder,
                env={**os.environ, **{name: str(port) for name, port in ports.items()}, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self.process

    def said(self) -> str:
        return self.output.read_text()

    def key(self) -> str:
        found = re.search(r"X-Api-Key: (\S+)\"", self.said())
        assert found, self.said()
        return found[1]

    def end(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    found = Demo(tmp_path)
    yield found
    if found.process is not None and found.process.poll() is None:
        found.end()


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_printed_lines_work_and_a_second_run_works_at_once(demo: Demo) -> None:
    keys = []
    for _ in range(2):
        demo.start()
        eventually(lambda: "Ctrl-C" in demo.said(), "the demo says what to try", 30)
        keys.append(demo.key())
        assert ask(demo.page, "/").status == (401 if len(keys) == 1 else 200), "a restart forgets nothing"
        (address,) = re.findall(r"open (http://127\.0\.0\.1:\d+/), enter the key", demo.said())
        assert address == f"http://127.0.0.1:{demo.knock}/"
        assert b'<form id="door"' in ask(demo.knock, "/").body
        knock = ask(demo.knock, "/knock", headers={"X-Api-Key": demo.key()})
        assert (knock.status, b"127.0.0.1" in knock.body) == (200, True)
        page = ask(demo.page, "/")
        assert (page.status, b"You knocked" in page.body) == (200, True)
        assert ask(demo.knock, "/verify").status == 404, "only the way to knock is public"
        assert demo.end() == 0
        assert not any(connects(port) for port in (demo.page, demo.knock, demo.knocker))
    assert keys[0] == keys[1]
    assert (demo.folder / "knocker.yaml").stat().st_mode & 0o777 == 0o600


def test_a_busy_port_is_named_with_the_way_to_choose_another(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", demo.page)):
        assert demo.start().wait(20) == 1
    assert f"port {demo.page} is in use" in demo.said()
    assert "make run PAGE_PORT=" in demo.said()
    assert "Traceback" not in demo.said()


def test_a_faulty_configuration_is_explained_and_kept(demo: Demo) -> None:
    config = demo.folder / "knocker.yaml"
    config.write_text("api_keys: []\n")
    assert demo.start().wait(20) == 1
    assert "api_keys" in demo.said()
    assert config.read_text() == "api_keys: []\n"


def test_when_one_of_the_two_ends_the_other_ends_too_and_the_log_is_shown(demo: Demo) -> None:
    demo.start()
    eventually(lambda: "Ctrl-C" in demo.said(), "the demo says what to try", 30)
    assert demo.process is not None
    children = Path(f"/proc/{demo.process.pid}/task/{demo.process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    assert demo.process.wait(20) == 1
    assert "knocker ended" in demo.said()
    assert not any(connects(port) for port in (demo.page, demo.knock, demo.knocker))


def test_a_closed_terminal_ends_all_of_it(demo: Demo) -> None:
    demo.start()
    eventually(lambda: "Ctrl-C" in demo.said(), "the demo says what to try", 30)
    assert demo.process is not None
    demo.process.send_signal(signal.SIGHUP)
    assert demo.process.wait(20) == 0
    assert not any(connects(port) for port in (demo.page, demo.knock, demo.knocker))


def test_a_second_run_is_told_of_the_first(demo: Demo) -> None:
    demo.start()
    eventually(lambda: "Ctrl-C" in demo.said(), "the demo says what to try", 30)
    assert demo.process is not None
    children = Path(f"/proc/{demo.process.pid}/task/{demo.process.pid}/children").read_text().split()
    second = Demo(demo.folder)
    second.page, second.knock, second.knocker = demo.page, demo.knock, demo.knocker
    assert second.start().wait(20) == 1
    assert f"process {children[0]} is a Knocker with these settings" in second.said()
    assert len(re.findall(r"port \d+ is in use", second.said())) == 3


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("PAGE_PORT", "abc", "PAGE_PORT=abc: a port is a number from 1 to 65535"),
        ("KNOCK_PORT", "80800", "KNOCK_PORT=80800: a port is a number from 1 to 65535"),
        ("PAGE_PORT", "0", "PAGE_PORT=0: a port is a number from 1 to 65535"),
    ],
)
def test_what_is_no_port_is_said_so(demo: Demo, name: str, text: str, said: str) -> None:
    assert demo.start(**{name: text}).wait(20) == 1
    assert demo.said().strip() == said


def test_each_needs_a_port_of_its_own(demo: Demo) -> None:
    demo.knock = demo.page
    assert demo.start().wait(20) == 1
    assert "need a port each" in demo.said()
    assert "Traceback" not in demo.said()


def test_settings_for_other_machines_are_left_alone(demo: Demo) -> None:
    config = demo.folder / "knocker.yaml"
    config.write_text(
        'server: {trusted_proxies: ["172.30.53.2"]}\napi_keys: [{key: own-key-0123456789-abcd, ttl: 60}]\n'
    )
    assert demo.start().wait(20) == 1
    assert "make run CONFIG=.demo/knocker.yaml" in demo.said()
    demo.start(CONFIG=".demo/knocker.yaml")
    eventually(lambda: "Ctrl-C" in demo.said(), "the demo says what to try", 30)
    assert demo.end() == 0
