"""`make run`: Knocker and a real Caddy with a small protected page, and the lines to try them with."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from knocker.cli import owner
from knocker.core.addresses import Address
from knocker.core.keys import generate
from knocker.faults import Failed
from knocker.settings import Faulty, Settings, load

HERE = Path(__file__).resolve().parent
CONFIG = Path(os.environ.get("CONFIG", "knocker.yaml"))
DEMO_DIR = Path(".demo").resolve()


def chosen_port(name: str, standard: int) -> int:
    """The port of an environment variable; anything else than a port ends us."""
    text = os.environ.get(name) or str(standard)
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        sys.exit(f"{name}={text}: a port is a number from 1 to 65535")
    return int(text)


PAGE_PORT = chosen_port("PAGE_PORT", 8080)
KNOCK_PORT = chosen_port("KNOCK_PORT", 8081)
KNOCKER_PORT = chosen_port("KNOCKER_PORT", 8000)
HOST = Address.parse("127.0.0.1")
ASIDE = "make run CONFIG=.demo/knocker.yaml"
MADE_HERE = "# Made by `make run`, to try Knocker on one machine. For real use start from knocker.example.yaml."

NEW_CONFIG = """\
{made_here}
server:
  host: "127.0.0.1"
  port: {port}
  trusted_proxies: ["127.0.0.1"]
  allow_loopback_clients: true    # only for trying it out: whoever is on this machine may be let in
whitelist:
  storage_path: {storage}
api_keys:
  - name: me
    key: "{key}"
    ttl: 60
    max_ttl: 3600
"""


def main() -> int:
    """Run until Ctrl-C, or until one of the two ends."""
    DEMO_DIR.mkdir(exist_ok=True)
    if not CONFIG.exists():
        write_config()
    try:
        settings = load(str(CONFIG))
    except Faulty as faulty:
        print(*faulty.faults, sep="\n", file=sys.stderr)
        return 1
    if not is_for_here(settings):
        print(f"{CONFIG} lets nobody in from this machine; to try Knocker aside from it: {ASIDE}", file=sys.stderr)
        return 1
    ports = (settings.server.port, PAGE_PORT, KNOCK_PORT)
    if len(set(ports)) < len(ports):
        print(f"Knocker, the page and the knock page need a port each, not {ports}", file=sys.stderr)
        return 1
    busy = [port for port in (settings.server.port, PAGE_PORT, KNOCK_PORT) if is_busy(port)]
    if busy:
        complain_of(busy, settings)
        return 1
    for polite in (signal.SIGTERM, signal.SIGHUP):  # the latter where the terminal is closed
        signal.signal(polite, interrupt)
    children: list[subprocess.Popen[bytes]] = []
    try:
        children.append(start("knocker", "twistd", "-n", "--pidfile=", "knocker", "--config", str(CONFIG)))
        if not answers(children[0], settings.server.port):
            return gave_up("knocker")
        children.append(start("caddy", "caddy", "run", "--adapter", "caddyfile", "--config", str(HERE / "Caddyfile")))
        if not (answers(children[1], PAGE_PORT) and answers(children[1], KNOCK_PORT)):
            return gave_up("caddy")
        show(settings)
        while all(child.poll() is None for child in children):
            time.sleep(0.3)
        return gave_up("knocker" if children[0].poll() is not None else "caddy")
    except KeyboardInterrupt:
        print("\nstopping")
        return 0
    finally:
        end(children)


def write_config() -> None:
    """A knocker.yaml for this machine alone, with a fresh key."""
    text = NEW_CONFIG.format(
        made_here=MADE_HERE,
        port=KNOCKER_PORT,
        storage=f'"{DEMO_DIR / "whitelist.json"}"',
        key=generate(secrets.token_bytes),
    )
    descriptor = os.open(CONFIG, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"wrote {CONFIG} with a fresh key")


def is_for_here(settings: Settings) -> bool:
    """Whether somebody on this machine can be let in, through a proxy on it."""
    return settings.server.allow_loopback_clients and HOST in settings.server.trusted_proxies


def is_busy(port: int) -> bool:
    """Whether something on this machine listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def complain_of(busy: list[int], settings: Settings) -> None:
    """Name the ports that are taken and how to choose others."""
    ways = {
        settings.server.port: f"server.port in {CONFIG}",
        PAGE_PORT: f"make run PAGE_PORT={PAGE_PORT + 1000}",
        KNOCK_PORT: f"make run KNOCK_PORT={KNOCK_PORT + 1000}",
    }
    for port in busy:
        print(f"port {port} is in use: stop what uses it, or choose another: {ways[port]}", file=sys.stderr)
    with suppress(Failed):
        pid = owner(settings.storage.storage_path)
        print(f"process {pid} is a Knocker with these settings, perhaps of an earlier `make run`", file=sys.stderr)


def start(name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A program of this environment, its output in .demo; Ctrl-C reaches only us."""
    environment = dict(
        os.environ,
        PAGE_PORT=str(PAGE_PORT),
        KNOCK_PORT=str(KNOCK_PORT),
        KNOCKER_PORT=str(load(str(CONFIG)).server.port),
        PAGE_DIR=str(HERE / "page"),
        DEMO_DIR=str(DEMO_DIR),
        XDG_CONFIG_HOME=str(DEMO_DIR),
        XDG_DATA_HOME=str(DEMO_DIR),
    )
    with open(DEMO_DIR / f"{name}.log", "wb") as log:
        return subprocess.Popen(
            [os.path.join(sysconfig.get_path("scripts"), program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def answers(child: subprocess.Popen[bytes], port: int) -> bool:
    """Whether a child listens on its port, within 20 s."""
    for _ in range(200):
        if child.poll() is not None:
            return False
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.1)
    return False


def gave_up(name: str) -> int:
    """Say which of the two ended, with the end of its log."""
    log = DEMO_DIR / f"{name}.log"
    print(f"{name} ended; the last lines of {log}:", file=sys.stderr)
    print("".join(log.read_text(errors="replace").splitlines(keepends=True)[-10:]), file=sys.stderr)
    return 1


def show(settings: Settings) -> None:
    """The lines to try."""
    text = CONFIG.read_text(encoding="utf-8")
    key = text.split('key: "', 1)[1].split('"', 1)[0] if text.startswith(MADE_HERE) else "YOUR_KEY"
    page, knock = f"http://127.0.0.1:{PAGE_PORT}/", f"http://127.0.0.1:{KNOCK_PORT}/knock"
    print(f"""
Knocker is running, with Caddy in front of a page that only those see who knocked. Try, in another terminal:

  curl -i {page}                # 401: a stranger, unless the last knock still counts
  curl -i -H "X-Api-Key: {key}" {knock}
  curl -i {page}                # 200: let in, for {settings.keys[0].ttl} seconds

Or with a browser: open {knock.removesuffix("knock")}, enter the key {key} and knock.

Logs: {DEMO_DIR}/knocker.log and caddy.log. Settings: {CONFIG}. Ctrl-C ends both.
""")
    sys.stdout.flush()


def interrupt(number: int, frame: FrameType | None) -> None:
    """A polite kill ends us like Ctrl-C."""
    raise KeyboardInterrupt


def end(children: list[subprocess.Popen[bytes]]) -> None:
    """End what we started, Caddy first."""
    for child in reversed(children):
        if child.poll() is None:
            child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


if __name__ == "__main__":
    sys.exit(main())
