"""The corpus over real sockets, against a Knocker in a process of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.conversation import Heard, converse
from tests.attacks.corpus import Case, Pace, Request, chosen, corpus, latin
from tests.attacks.judgement import Bystander, Scene, judge, settle
from tests.attacks.service import MOST_SECONDS_TO_START, TRUSTED, UNTRUSTED, Service, flat_whitelist

AREAS = (
    "xff",
    "knock-identity",
    "untrusted-peer",
    "other-headers",
    "excluded-paths",
    "routes",
    "keys",
    "body",
    "remote",
    "ttl",
    "http-parser",
    "information",
)
_PEERS = {"trusted": TRUSTED, "untrusted": UNTRUSTED}
_SILENCE = 0.3  # seconds to listen where no answer is fine too


class Services:
    """One service for each configuration of the corpus, started when it is first asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running = ExitStack()
        self._by_config: dict[str, Service] = {}

    def of(self, config: str) -> Service:
        """The service that runs with a configuration, and holds the corpus's default whitelist."""
        if config not in self._by_config:
            directory = self._directory / config
            directory.mkdir()
            service = Service(directory, corpus().configs[config])
            service.plant(flat_whitelist(corpus().whitelisted))
            self._running.enter_context(service)
            assert service.listens(), f"ended with {service.status}:\n{service.log()}"
            self._by_config[config] = service
        return self._by_config[config]

    def close(self) -> None:
        """End all of them; each has to end well, and to have kept the keys out of its log to the last line."""
        self._running.close()
        for service in self._by_config.values():
            assert service.status == 0, f"ended with {service.status}:\n{service.log()[-3000:]}"
            log = service.log()
            assert [key for key in corpus().keys if key in log] == []
            assert "Traceback" not in log, log[-3000:]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The services that the cases of this module share."""
    running = Services(tmp_path_factory.mktemp("services"))
    yield running
    running.close()


def _cases(*areas: str) -> list[object]:
    return [pytest.param(case, id=case.id) for case in chosen(areas)]


@pytest.mark.parametrize("case", _cases(*AREAS))
def test_hostile_input_gets_a_safe_answer(case: Case, services: Services) -> None:
    assert case.config is not None
    service = services.of(case.config)
    try:
        for step in case.steps:
            time.sleep(step.wait)  # the case is about what time does
            if step.request is not None:
                judge(_scene(service, step.request, step.expect, _PEERS[case.peer]))
        if case.request is not None:
            judge(_scene(service, case.request, case.expect, _PEERS[case.peer]))
        elif case.raw is not None:
            judge(_raw_scene(service, case))
        else:
            assert case.steps, "the case does nothing"
            assert not case.expect, "what a case of steps expects stands in its steps"
    finally:
        settle(service)


def _scene(service: Service, request: Request, expect: dict[str, object], source: str) -> Scene:
    scene = _heard(service, request.wire(), expect, source, bodiless=request.method == "HEAD", request=request)
    assert not scene.heard.rest, f"more than one answer: {scene.heard.rest!r}"
    return scene


def _raw_scene(service: Service, case: Case) -> Scene:
    return _heard(service, latin(case.raw), case.expect, _PEERS[case.peer], pace=case.send)


def _heard(
    service: Service,
    data: bytes,
    expect: dict[str, object],
    source: str,
    *,
    pace: Pace | None = None,
    bodiless: bool = False,
    request: Request | None = None,
) -> Scene:
    bystander = Bystander(service)
    with ExitStack() as meanwhile:
        if "others_within_ms" in expect:
            meanwhile.enter_context(bystander.watching())
        heard: Heard = converse(
            service.port,
            data,
            source=source,
            answers=_answers(expect),
            patience=_patience(expect),
            pace=pace,
            bodiless=bodiless,
        )
    return Scene(service, expect, heard, request, source, bystander.slowest)


def _answers(expect: dict[str, object]) -> int | None:
    """How many answers to listen for; None: until the connection is closed."""
    if expect.keys() & {"closed", "responses", "closed_within_s"}:
        return None
    sequence = expect.get("status_sequence")
    return len(sequence) if isinstance(sequence, list) else 1


def _patience(expect: dict[str, object]) -> float:
    """Seconds to listen."""
    if "no_answer_ok" in expect:
        return _SILENCE
    if isinstance(seconds := expect.get("closed_within_s"), int):
        return seconds
    if isinstance(milliseconds := expect.get("within_ms"), int):
        return milliseconds / 1000 + 1
    return 5.0


# The rest: starts with a planted state file.


@pytest.mark.parametrize("case", _cases("state-file"))
def test_a_planted_state_file_does_no_harm(case: Case, tmp_path: Path) -> None:
    assert case.config is not None
    expect = dict(case.expect)
    service = Service(tmp_path, corpus().configs[case.config])
    planted = _plant(service, case)
    with service:
        listens = service.listens(expect.pop("within_s", MOST_SECONDS_TO_START))
        assert listens or expect.pop("start") == "ok_or_fail", f"did not start:\n{service.log()}"
        if listens:
            assert expect.pop("start") in ("ok", "ok_or_fail")
            for name, value in expect.items():
                STATE_CHECKS[name](service, planted, value)
            settle(service)
    log = service.log()
    assert "Traceback" not in log, log
    assert [key for key in corpus().keys if key in log] == []


def _plant(service: Service, case: Case) -> bytes:
    """Lay down the state that the case describes; returns its content."""
    data = b"" if case.state_file is None else latin(case.state_file)
    match case.file_kind:
        case "file":
            service.plant(data)
        case "symlink":
            target = service.directory / "target"
            target.write_bytes(data)
            service.storage.symlink_to(target)
        case "fifo":
            os.mkfifo(service.storage, 0o600)
        case kind:
            raise ValueError(f"unknown kind of file: {kind}")
    return data


def _opens(service: Service, planted: bytes, clients: list[str]) -> None:
    assert {client: service.verdict(client) for client in clients} == dict.fromkeys(clients, 200)


def _opens_not(service: Service, planted: bytes, clients: list[str]) -> None:
    assert {client: service.verdict(client) for client in clients} == dict.fromkeys(clients, 401)


def _is_quarantined(service: Service, planted: bytes, value: bool) -> None:
    assert value is True
    kept = list(service.directory.glob("whitelist.json.corrupt-*"))
    assert [path.read_bytes() for path in kept] == [planted]
    assert kept[0].name in service.log(), "the log does not say where the file is kept"


def _knock(service: Service) -> tuple[int, int]:
    """The status of a knock, and what /verify says afterwards."""
    client = "198.51.100.77"
    heard = service.ask(Request("POST", "/knock", [["X-Forwarded-For", client], ["X-Api-Key", corpus().keys[1]]]))
    return heard.answers[0].status, service.verdict(client)


def _knock_is_ok(service: Service, planted: bytes, value: bool) -> None:
    assert value is True
    assert _knock(service) == (200, 200)
    assert b"198.51.100.77" in service.storage.read_bytes()


def _knock_is_ok_or_503(service: Service, planted: bytes, value: bool) -> None:
    assert value is True
    assert _knock(service) in ((200, 200), (503, 401))


def _target_is_untouched(service: Service, planted: bytes, value: bool) -> None:
    assert value is True
    assert (service.directory / "target").read_bytes() == planted


STATE_CHECKS: dict[str, Callable[[Service, bytes, Any], None]] = {
    "whitelisted": _opens,
    "not_whitelisted": _opens_not,
    "quarantined": _is_quarantined,
    "then_knock_ok": _knock_is_ok,
    "then_knock_ok_or_503": _knock_is_ok_or_503,
    "symlink_target_untouched": _target_is_untouched,
}
