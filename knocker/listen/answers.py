"""Answers: JSON with its headers, and the one table that gives each refusal its status (contract 3.3)."""

from __future__ import annotations

import json
import time
from typing import Any

from twisted.web.http import Request, datetimeToString

from knocker.core.refusals import Refusal

_dated = 0, b""


def date() -> bytes:
    """The Date of an answer; made once a second."""
    global _dated
    second, text = _dated
    now = int(time.time())
    if now != second:
        text = datetimeToString(now)
        _dated = now, text
    return text


STATUS = {
    Refusal.NO_CLIENT: 400,
    Refusal.FORGED: 400,
    Refusal.MALFORMED: 400,
    Refusal.NOT_AN_OBJECT: 400,
    Refusal.INVALID_DATA: 400,
    Refusal.INVALID_TTL: 400,
    Refusal.INVALID_ADDRESS: 400,
    Refusal.TOO_BROAD: 400,
    Refusal.BAD_KEY: 401,
    Refusal.NO_PERMISSION: 403,
    Refusal.METHOD: 405,
    Refusal.TOO_LARGE: 413,
    Refusal.CONTENT_TYPE: 415,
    Refusal.NOT_STORED: 503,
    Refusal.CLOSED_NOT_STORED: 503,
    Refusal.FULL: 503,
    Refusal.LIMITED: 429,
    Refusal.NO_GRANT: 404,
    Refusal.NO_CANARY: 404,
}


def answer(request: Request, status: int, value: Any) -> bytes:
    """Set status and headers of a JSON answer; returns its body."""
    return sized(request, status, json.dumps(value).encode(), b"application/json")


def refuse(request: Request, refusal: Refusal, retry_after: int = 0) -> bytes:
    """A refusal in its sender's words; `retry_after`: seconds, 0 where nothing is known."""
    if retry_after:
        request.setHeader(b"retry-after", b"%d" % retry_after)
    return answer(request, STATUS[refusal], {"error": refusal.value})


def nothing(request: Request) -> bytes:
    """Nothing is at that path."""
    return answer(request, 404, {"error": "Not found."})


def page(request: Request, status: int, html: bytes, policy: bytes) -> bytes:
    """A page for a browser; `policy`: its Content-Security-Policy, empty for none of ours."""
    harden(request)
    if policy:
        request.setHeader(b"content-security-policy", policy)
        request.setHeader(b"x-frame-options", b"DENY")
    return sized(request, status, html, b"text/html; charset=utf-8")


def harden(request: Request) -> None:
    """What every file that a browser loads from here is sent with."""
    request.setHeader(b"x-content-type-options", b"nosniff")
    request.setHeader(b"referrer-policy", b"no-referrer")
    request.setHeader(b"cross-origin-opener-policy", b"same-origin")


def empty(request: Request, status: int) -> bytes:
    """An answer without a body."""
    return sized(request, status, b"", None)


def sized(request: Request, status: int, body: bytes, content_type: bytes | None) -> bytes:
    """Set status and headers of any answer; returns its body."""
    request.setResponseCode(status)
    if content_type is not None:
        request.setHeader(b"content-type", content_type)
    if status != 204:  # RFC 9110 8.6: no Content-Length there
        request.setHeader(b"content-length", b"%d" % len(body))
    return body


def raw(status: int, phrase: bytes, error: str, origin: str = "") -> bytes:
    """A whole answer for a request that never became one; the connection ends with it. `origin`: who may read it."""
    body = json.dumps({"error": error}).encode()
    head = b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n" % (status, phrase)
    if origin:
        head += b"Access-Control-Allow-Origin: %s\r\n" % origin.encode()
    if origin not in ("", "*"):
        head += b"Vary: Origin\r\n"
    return head + b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
