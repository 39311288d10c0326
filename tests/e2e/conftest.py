"""Knockers on this machine's loopback, each with a directory and a port of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests import service
from tests.conftest import LONG
from tests.service import Knocker, Settings, free_port

PHONE = "phone-key-0123456789-abc"
LAPTOP = "laptop-key-0123456789-abc"
ADMIN = "admin-key-0123456789-abc"

Start = Callable[..., Knocker]


def settings(*keys: dict[str, Any], **server: Any) -> Settings:
    """Settings whose trusted proxy is whoever asks on loopback: the tests then say who the client is."""
    return {
        "server": {"trusted_proxies": ["127.0.0.1", "::1"], **server},
        "api_keys": list(keys) or [phone()],
        "security": {"knock_rate_limit": {"successful_requests": 0, "failed_requests": 0}},
    }


def phone(**more: Any) -> dict[str, Any]:
    """The key that most tests knock with."""
    return {"name": "phone", "key": PHONE, "ttl": 3600, **more}


def laptop(**more: Any) -> dict[str, Any]:
    """Another key."""
    return {"name": "laptop", "key": LAPTOP, "ttl": 3600, **more}


@pytest.fixture(autouse=True, scope="module")
def executed() -> Iterator[None]:
    """In the whole run Knocker starts here as an admin starts it, from nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "forks", not LONG)
        yield


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Start]:
    """Makes Knockers, not started yet, that end with the test."""
    with ExitStack() as stack:

        def make_one(told: Settings | None = None, host: str = "127.0.0.1", directory: Path = tmp_path) -> Knocker:
            knocker = Knocker(directory, told or settings(), free_port(), host)
            stack.callback(knocker.end, PHONE, LAPTOP, ADMIN)
            return knocker

        yield make_one


@pytest.fixture
def start(make: Start) -> Start:
    """Makes Knockers that are listening, and end with the test."""

    def start_one(*args: Any, **named: Any) -> Knocker:
        knocker = make(*args, **named)
        knocker.start()
        return knocker

    return start_one
