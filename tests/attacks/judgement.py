"""What the corpus expects, and whether it came: a check for each member of `expect`; an unknown one is an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.attacks.conversation import Answer, Heard
from tests.attacks.corpus import Request, corpus, latin
from tests.attacks.service import TRUSTED, Service

STRANGER = "198.51.100.9"
LONGEST_LIFE_SIGN = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Scene:
    """What one request, or one handful of bytes, led to."""

    service: Service
    expect: dict[str, Any]
    heard: Heard
    request: Request | None = None
    source: str = TRUSTED
    slowest_other: float = 0.0  # seconds that another client waited for /verify meanwhile

    def answer(self) -> Answer | None:
        """The first answer; None where there was none and the case allows that."""
        if self.heard.answers:
            return self.heard.answers[0]
        allowed = self.expect.get("no_answer_ok") or (self.expect.get("or_closed") and self.heard.closed)
        assert allowed, f"no answer; closed: {self.heard.closed}, received: {self.heard.rest!r}"
        return None


def judge(scene: Scene) -> None:
    """Hold everything against the scene that its case expects, and what is expected of every answer."""
    for answer in scene.heard.answers:
        assert answer.status not in corpus().never, f"{answer.status}: {answer.body!r}"
        assert answer.header("server") is None, f"the server names itself: {answer.header('server')}"
        assert answer.header("cache-control") == "no-store", answer.headers
    for name, value in scene.expect.items():
        CHECKS[name](scene, value)


def settle(service: Service) -> None:
    """After every case: the service lives, and its log holds no traceback and no key."""
    assert service.verdict(STRANGER, patience=LONGEST_LIFE_SIGN) in (401, 403), "no life sign within 1 s"
    log = service.log()
    for text in (*corpus().log_absent, "Unhandled Error", "Unhandled error", *corpus().keys):
        assert text not in log, f"the log holds {text!r}:\n{log[-3000:]}"


def _status(scene: Scene, allowed: list[int]) -> None:
    answer = scene.answer()
    assert answer is None or answer.status in allowed, f"{answer.status} instead of {allowed}: {answer.body[:300]!r}"


def _recommended(scene: Scene, status: int) -> None:
    answer = scene.answer()
    assert answer is None or answer.status == status, f"{answer.status} instead of {status}: {answer.body[:300]!r}"


def _status_sequence(scene: Scene, statuses: list[int]) -> None:
    assert [answer.status for answer in scene.heard.answers] == statuses
    assert not scene.heard.rest


def _responses(scene: Scene, count: int) -> None:
    assert len(scene.heard.answers) == count, [answer.status for answer in scene.heard.answers]


def _closed(scene: Scene, value: bool) -> None:
    assert value is True
    assert scene.heard.closed, "the connection stayed open"


def _closed_within_s(scene: Scene, seconds: float) -> None:
    assert scene.heard.closed, f"the connection stayed open for {seconds} s"
    assert scene.heard.took <= seconds


def _within_ms(scene: Scene, milliseconds: float) -> None:
    assert scene.heard.took * 1000 <= milliseconds


def _others_within_ms(scene: Scene, milliseconds: float) -> None:
    assert scene.slowest_other * 1000 <= milliseconds, "another client's /verify waited too long"


def _json(scene: Scene, members: dict[str, Any]) -> None:
    (answer,) = scene.heard.answers
    found = answer.json()
    assert {name: found.get(name) for name in members} == members, found


def _body_empty(scene: Scene, value: bool) -> None:
    assert value is True
    assert all(answer.body == b"" for answer in scene.heard.answers)


def _body_absent(scene: Scene, texts: list[str]) -> None:
    for answer in scene.heard.answers:
        for text in texts:
            assert latin(text) not in answer.body, answer.body


def _header_has(scene: Scene, headers: dict[str, str]) -> None:
    (answer,) = scene.heard.answers
    assert {name: answer.header(name) for name in headers} == headers


def _header_absent(scene: Scene, names: list[str]) -> None:
    for answer in scene.heard.answers:
        assert [name for name in names if answer.header(name) is not None] == []


def _log_absent(scene: Scene, texts: list[str]) -> None:
    log = scene.service.log()
    assert [text for text in texts if text in log] == []


def _same_body_as(scene: Scene, which: str) -> None:
    assert which == "missing key"
    assert scene.request is not None
    other = scene.service.ask(scene.request.without("X-Api-Key"), scene.source).answers[0]
    assert (other.status, other.body) == (scene.heard.answers[0].status, scene.heard.answers[0].body)


def _whitelisted(scene: Scene, clients: list[str]) -> None:
    assert {client: scene.service.verdict(client) for client in clients} == dict.fromkeys(clients, 200)


def _not_whitelisted(scene: Scene, clients: list[str]) -> None:
    assert {client: scene.service.verdict(client) for client in clients} == dict.fromkeys(clients, 401)


def _alive(scene: Scene, value: bool) -> None:
    assert value is True
    assert scene.service.verdict(STRANGER, patience=LONGEST_LIFE_SIGN) == 401


def _leave(scene: Scene, value: bool) -> None:
    """Members that allow a case to have no answer; `Scene.answer` reads them."""
    assert value is True


CHECKS: dict[str, Callable[[Scene, Any], None]] = {
    "status": _status,
    "recommended": _recommended,
    "status_sequence": _status_sequence,
    "responses": _responses,
    "closed": _closed,
    "or_closed": _leave,
    "no_answer_ok": _leave,
    "closed_within_s": _closed_within_s,
    "within_ms": _within_ms,
    "others_within_ms": _others_within_ms,
    "json": _json,
    "body_empty": _body_empty,
    "body_absent": _body_absent,
    "header_has": _header_has,
    "header_absent": _header_absent,
    "log_absent": _log_absent,
    "same_body_as": _same_body_as,
    "whitelisted": _whitelisted,
    "not_whitelisted": _not_whitelisted,
    "alive": _alive,
}


@dataclass(slots=True)
class Bystander:
    """Another client, who asks /verify again and again while something happens; `slowest` is in seconds."""

    service: Service
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def _ask(self) -> None:
        request = Request("GET", "/verify", [["X-Forwarded-For", STRANGER]])
        while not self._over.wait(0.02):
            try:
                heard = self.service.ask(request)
            except OSError as error:
                self.failures.append(repr(error))
                continue
            self.slowest = max(self.slowest, heard.took)
            if [answer.status for answer in heard.answers] != [401]:
                self.failures.append(repr(heard))

    @contextmanager
    def watching(self) -> Generator[None]:
        """Ask from here on until the block is left; then every answer has to have been right."""
        thread = threading.Thread(target=self._ask)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
        assert not self.failures, self.failures[:3]
