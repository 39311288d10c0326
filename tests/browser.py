"""A real browser, without a screen, and pages whose scripts ask in it what a test wants to know."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.needs import missing
from tests.net import dying_with_us

MOST = 120.0  # seconds that a browser may live, whatever the tests do
START = 30.0  # seconds for it to show its page
ANSWER = 5.0  # seconds for one fetch

# Nothing but loopback has a name or can be reached; nothing is asked for, reported or brought up to date.
FLAGS = [
    "--headless=new",
    "--no-sandbox",  # which does not work for root, nor in most containers; the pages are ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--password-store=basic",
]

PAGE = """<!doctype html><meta charset="utf-8"><title>a page</title><link rel="icon" href="data:,"><script>
const fetched = async ({url, options}) => {
  try {
    const answer = await fetch(url, {...options, signal: AbortSignal.timeout(MILLISECONDS)});
    const headers = Object.fromEntries(answer.headers);
    return {type: answer.type, status: answer.status, headers, body: await answer.text()};
  } catch (error) {
    return {error: error.name};
  }
};
(async () => {
  for (;;) {
    const next = await fetch("/next", {method: "POST"});
    if (next.status === 200) {
      await fetch("/done", {method: "POST", body: JSON.stringify(await fetched(await next.json()))});
    }
  }
})();
</script>
""".replace("MILLISECONDS", str(int(1000 * ANSWER)))


def found() -> str:
    """The browser on this machine; the test is skipped when there is none."""
    for name in ("chromium", "chromium-browser"):
        if path := shutil.which(name):
            return path
    pytest.skip(missing("chromium"))


class Browser:
    """A browser that shows one page; a context manager. It is ended with all processes that it started."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.log_file = directory / "browser.log"
        self._command = [found(), *FLAGS, f"--user-data-dir={directory / 'profile'}", url]
        self._process: subprocess.Popen[bytes] | None = None
        self._limit = threading.Timer(MOST, self._kill)
        self._limit.daemon = True

    def __enter__(self) -> Self:
        home = {"HOME": str(self.directory)}
        home |= {f"XDG_{kind}_HOME": str(self.directory / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                dying_with_us(self._command),
                cwd=self.directory,
                env=os.environ | home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own, that we can end as a whole
            )
        self._limit.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limit.cancel()
        self._kill()
        assert self._process is not None
        self._process.wait(10)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self.log_file.read_text(errors="replace")

    def _kill(self) -> None:
        assert self._process is not None
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it ended by itself, and all of its processes with it
            return


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page's script got from `fetch`: an answer that it may read, an opaque one, or an exception's name."""

    error: str = ""
    type: str = ""
    status: int = 0
    headers: Mapping[str, str] | None = None
    body: str = ""

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


class Page:
    """A page on an origin of its own, open in a browser of its own; a context manager.

    `host` is 127.0.0.1 or localhost: to a browser two hosts, so two origins also apart from the port.
    """

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        self._server = _Server()
        self.origin = f"http://{host}:{self._server.server_port}"
        self._directory = directory
        self._held = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._server.server_close)
            served = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            served.start()
            stack.callback(served.join, 10)
            stack.callback(self._server.shutdown)
            self._browser = stack.enter_context(Browser(self._directory, f"{self.origin}/"))
            assert self._server.shown.wait(START), f"no page within {START} s:\n{self._browser.log}"
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def fetch(
        self,
        url: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: str | None = None,
        mode: str = "cors",
    ) -> Seen:
        """What the page's script gets when it fetches `url`."""
        options = {"method": method, "headers": dict(headers or {}), "body": body, "mode": mode}
        self._server.wanted.put({"url": url, "options": {k: v for k, v in options.items() if v is not None}})
        try:
            return Seen(**self._server.done.get(timeout=2 * ANSWER))
        except queue.Empty:
            raise AssertionError(f"the page is gone:\n{self._browser.log}") from None


class _Server(ThreadingHTTPServer):
    """The page, and what its script wants to know: what to fetch next, and where to say what came of it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.shown = threading.Event()
        self.wanted: queue.Queue[dict[str, Any]] = queue.Queue()
        self.done: queue.Queue[dict[str, Any]] = queue.Queue()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a browser that ended
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200, "text/html", PAGE.encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/done":
            self.server.done.put(json.loads(body))
            self._answer(204)
            return
        self.server.shown.set()
        try:
            wanted = self.server.wanted.get(timeout=1)
        except queue.Empty:
            self._answer(204)
        else:
            self._answer(200, "application/json", json.dumps(wanted).encode())

    def _answer(self, status: int, content_type: str = "", body: bytes = b"") -> None:
        self.send_response(status)
        if content_type:
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""
