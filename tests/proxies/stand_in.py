"""Stands in for a Knocker: notes each request on standard output, and answers with the status in the file `status`."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _StandIn(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = [[name.lower(), value] for name, value in self.headers.items()]
        print(json.dumps({"method": self.command, "path": self.path, "headers": headers}), flush=True)
        self.send_response(int(Path("status").read_text()))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing else."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of a proxy that is gone before its answer."""


if __name__ == "__main__":
    _Server(("127.0.0.1", int(sys.argv[1])), _StandIn).serve_forever()
