"""The log's lines: one for each event whatever it holds, and none of them from anybody but us."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.application.twist._options import TwistOptions
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.scripts._twistd_unix import ServerOptions

from knocker import audit, logs
from knocker.core.change import Change, Event
from knocker.core.grant import Grant, Via
from knocker.core.hosts import Scope
from tests.conftest import Errors
from tests.wire import ADMIN, KEY, World

HOSTILE = "a\nb\r\x1b[2J\x00\u2028\u2029\x85\ud800"


def event(sentence: str = "{text}", level: Any = LogLevel.info, namespace: str = "knocker.x", **fields: Any) -> Any:
    return {
        "log_format": sentence,
        "log_level": level,
        "log_namespace": namespace,
        "log_time": 1_800_000_000.1236,
        **fields,
    }


def written(found: dict[str, Any], form: str = "json", level: str = "info") -> str:
    stream = io.StringIO()
    logs.Log(stream, level, form)(found)
    return stream.getvalue()


def test_a_json_line_has_the_time_and_our_fields() -> None:
    line = written(event("hello {key}", key="phone", hosts=["a"], left=5, ratio=0.5, none=None, thing=object()))
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.123Z",
        "level": "info",
        "logger": "knocker.x",
        "message": "hello phone",
        "key": "phone",
        "hosts": ["a"],
        "left": 5,
        "ratio": 0.5,
        "none": None,
    }
    assert ": " not in line.replace("hello phone", ""), "compact"


def test_a_text_line_is_the_familiar_one() -> None:
    assert written(event("hello"), "text") == "2027-01-15T08:00:00+0000 [knocker.x#info] hello\n"


@given(st.text(), st.sampled_from(["json", "text"]))
def test_whatever_an_event_holds_it_is_one_line(text: str, form: str) -> None:
    line = written(event(text=text + HOSTILE), form)
    assert line.splitlines() == [line[:-1]]
    assert not [character for character in line[:-1] if ord(character) < 32]
    if form == "json":
        assert json.loads(line)["text"] == text + HOSTILE


@pytest.mark.parametrize("namespace", ["twisted.web", "knockers", "log_legacy", ""])
def test_fields_of_others_are_left_out(namespace: str) -> None:
    assert set(json.loads(written(event(namespace=namespace, text="x", request="secret")))) == {
        "time",
        "level",
        "logger",
        "message",
    }


def test_a_field_cannot_pose_as_the_line_itself() -> None:
    line = json.loads(written(event("x", level=LogLevel.warn, message="no", time="no", logger="no")))
    assert (line["message"], line["level"], line["logger"]) == ("x", "warn", "knocker.x")
    assert line["time"].startswith("2027")


@pytest.mark.parametrize(
    ("least", "passed"),
    [("debug", "diwec"), ("info", "iwec"), ("warn", "wec"), ("error", "ec")],
)
def test_the_level_decides_what_is_told(least: str, passed: str) -> None:
    stream = io.StringIO()
    log = logs.Log(stream)
    log.set(least, "text")
    for level in (LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error, LogLevel.critical):
        log(event(level.name[0], level))
    assert "".join(line[-1] for line in stream.getvalue().splitlines()) == passed


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_failure_is_told_with_its_traceback(form: str) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        found = event("it broke", LogLevel.critical, log_failure=Failure())
    rows = written(found, form).splitlines()
    if form == "json":
        assert len(rows) == 1
        assert "ValueError" in json.loads(rows[0])["traceback"]
    else:
        assert rows[0].endswith("[knocker.x#critical] it broke")
        assert all(row.startswith("\t") for row in rows[1:])


def test_an_error_logged_the_older_way_has_its_traceback_too() -> None:
    try:
        raise ValueError
    except ValueError:
        found = event("{log_text}", LogLevel.critical, isError=1, failure=Failure(), why=None, log_text="x\ny")
    line = json.loads(written(found))
    assert line["message"] == "Unhandled Error"
    assert "ValueError" in line["traceback"]


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise AttributeError


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


def test_what_twisted_says_again_and_again_is_told_twenty_times_a_minute_and_then_counted() -> None:
    stream = io.StringIO()
    log = logs.Log(stream)
    for second in range(59):
        log(event("closed {peer}", namespace="twisted.internet.tcp.Port", log_time=1000.0 + second, peer=second))
        log(event("another kind", namespace="twisted.internet.tcp.Port", log_time=1000.0 + 3 * second))
        log(event("ours {peer}", namespace="knocker.audit", log_time=1000.0 + second, peer=second))
    log(event("closed {peer}", namespace="twisted.internet.tcp.Port", log_time=1060.0, peer="60"))
    lines = stream.getvalue().splitlines()
    told = [line.partition("] ")[2] for line in lines]
    assert told.count("another kind") == 59, "one in three seconds is not too often"
    assert len([text for text in told if text.startswith("ours ")]) == 59
    closed = [text for text in told if text.startswith("closed ")]
    assert closed == [*(f"closed {second}" for second in range(20)), "closed 60 (39 more since the last such line)"]


def test_no_fault_of_the_log_reaches_who_logs() -> None:
    logs.Log(Broken())(event(text="x"))
    assert "MESSAGE LOST" in written(event(text=Unspeakable()))
    assert "could not be told" in written(event("x", log_time=float("nan")))
    assert json.loads(written(event("x", big=10**5000)))["message"] == "x"
    assert "knocker.x" in written(event(text="x", level=None))
    assert written(event("x", level=[1])) == ""
    ascii_only = io.TextIOWrapper(io.BytesIO(), "ascii")
    logs.Log(ascii_only)(event(text="Zoë"))
    ascii_only.seek(0)
    assert ascii_only.read().endswith("Zo\\xeb\n")


def test_twistd_logs_our_way_from_its_first_line_on(tmp_path: Path) -> None:
    options = ServerOptions()
    options["nodaemon"], options["logfile"] = True, str(tmp_path / "log")
    log = logs.for_twistd(options, "info", "json")
    assert log is not None
    options.postOptions()
    assert options["logger"]() is log
    log(event(text="first"))
    assert json.loads((tmp_path / "log").read_text())["message"] == "first"
    assert log.stream is not None
    log.stream.close()


def test_a_logger_that_the_admin_chose_stays() -> None:
    for name, value in (("logger", "my.logger"), ("syslog", True)):
        options = ServerOptions()
        options[name] = value
        assert logs.for_twistd(options, "info", "json") is None
        assert options["logger"] != "knocker.logs.chosen"
    assert logs.for_twistd(None, "info", "json") is None


def test_twist_logs_our_way_too() -> None:
    options = TwistOptions()
    options.selectDefaultLogObserver()
    log = logs.for_twistd(options, "info", "text")
    stream = io.StringIO()
    assert options["fileLogObserverFactory"](stream) is log
    assert log is not None
    log(event(text="x"))
    assert stream.getvalue().endswith("] x\n")


# The audit trail.


def told(capture: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capture.getvalue().splitlines()]


@pytest.fixture
def capture() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    log: Any = logs.Log(stream, format="json")
    globalLogPublisher.addObserver(log)
    yield stream
    globalLogPublisher.removeObserver(log)


def test_a_grants_life_is_told_line_by_line(tmp_path: Path, capture: io.StringIO) -> None:
    world = World(tmp_path)
    world.whitelist.followers.append(audit.tell)
    world.knock("198.51.100.7")
    world.knock("198.51.100.7")
    world.knock("198.51.100.7", method="DELETE")
    world.knock("198.51.100.8", ADMIN, b'{"ip_address": "10.0.0.0/24"}')
    world.pass_time(3600)
    world.whitelist.expire(world.now())
    world.clock.advance(0)
    lines = [line for line in told(capture) if line["logger"] == "knocker.audit"]
    assert [(line["event"], line["entry"], line["key"], line["via"], line["hosts"]) for line in lines] == [
        ("opened", "198.51.100.7", "user", "http", None),
        ("extended", "198.51.100.7", "user", "http", None),
        ("closed", "198.51.100.7", "user", "http", None),
        ("opened", "10.0.0.0/24", "admin", "remote", None),
        ("expired", "10.0.0.0/24", "admin", "remote", None),
    ]
    assert lines[2]["why"] == "its owner left"
    assert lines[0]["id"] == lines[2]["id"]


def test_a_refused_knock_is_told_with_what_was_asked(tmp_path: Path, capture: io.StringIO, errors: Errors) -> None:
    world = World(tmp_path)
    world.ask(
        "/knock",
        "198.51.100.7",
        "POST",
        [("X-Forwarded-Host", "knock.example.com")],
        b'{"ip_address": "10.0.0.0/24"}',
        key=KEY,
    )
    (line,) = [line for line in told(capture) if line.get("event") == "refused"]
    assert {name: line[name] for name in ("key", "entry", "via", "host", "client", "error", "level")} == {
        "key": "user",
        "entry": "10.0.0.0/24",
        "via": "remote",
        "host": "knock.example.com",
        "client": "198.51.100.7",
        "error": "API key lacks remote whitelist permission.",
        "level": "warn",
    }
    assert KEY not in capture.getvalue()


def test_the_scope_of_a_grant_is_told(capture: io.StringIO) -> None:
    grant = Grant("i" * 22, 32, 1 << 24, 32, None, "", Via.FILE, Scope.parse(["*.b.c", "a.b"]), 0, 0, 5.5, 5)
    audit.tell(Change(Event.CLOSED, grant, "why"))
    (line,) = told(capture)
    assert (line["hosts"], line["key"], line["why"]) == (["a.b", "*.b.c"], None, "why")
    assert line["message"].endswith("on a.b, *.b.c, until 6: why")
