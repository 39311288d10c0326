"""A protected app, run as a program: it answers every request with a JSON object of what reached it."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _echo(self) -> None:
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self._websocket()
            return
        received = self._body()
        told = {
            "app": "reached",
            "method": self.command,
            "path": self.path,
            "forwarded_for": self.headers.get_all("X-Forwarded-For", []),
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "cookie": self.headers.get_all("Cookie", []),
            "authorization": self.headers.get_all("Authorization", []),
            "body": received.decode("latin-1"),
        }
        answer = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    def _websocket(self) -> None:
        """Shake hands, and send back one short message."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        first, length = self.rfile.read(2)
        mask = self.rfile.read(4)
        masked = self.rfile.read(length & 0x7F)
        self.wfile.write(bytes([first, len(masked)]) + bytes(byte ^ mask[n % 4] for n, byte in enumerate(masked)))
        self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while length := int(self.rfile.readline(), 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self._echo
        raise AttributeError(name)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Echo).serve_forever()
