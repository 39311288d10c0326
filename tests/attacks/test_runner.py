"""The runner itself: that nothing of the corpus is passed over, and that wrong answers are noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.attacks import corpus, judgement, test_config, test_wire
from tests.attacks.conversation import Heard, NotHttp, read_answers
from tests.attacks.judgement import Scene
from tests.attacks.service import Service


def _answer(status: int = 200, body: bytes = b"", *more: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d Some" % status, b"Cache-Control: no-store", b"Content-Length: %d" % len(body), *more]
    return b"\r\n".join([*lines, b"", body])


EMPTY_200 = _answer()


def test_every_area_of_the_corpus_has_a_test() -> None:
    areas = {case.area for case in corpus.corpus().cases}
    assert areas == {*test_wire.AREAS, *test_config.AREAS, "state-file"}


def test_every_case_has_an_id_of_its_own_and_something_to_expect() -> None:
    cases = corpus.corpus().cases
    assert len({case.id for case in cases}) == len(cases)
    assert [case.id for case in cases if not case.expect and not all(s.expect or s.wait for s in case.steps)] == []


def test_every_expected_member_has_a_check() -> None:
    known = {
        "config": {"start", "says"},
        "state-file": {"start", "within_s", *test_wire.STATE_CHECKS},
    }
    for case in corpus.corpus().cases:
        for expect in (case.expect, *(step.expect for step in case.steps)):
            assert set(expect) <= known.get(case.area, set(judgement.CHECKS)), case.id


def test_only_slow_cases_are_left_to_the_long_run() -> None:
    slow = [case.id for case in corpus.corpus().cases if case.slow]
    assert 0 < len(slow) < 20, slow


@pytest.mark.parametrize("member", ["expct", "bdy"])
def test_a_misspelt_member_of_a_case_is_an_error(member: str) -> None:
    members: dict[str, Any] = {"id": "X", "area": "xff", "severity": "low", "config": None, "why": "", member: {}}
    with pytest.raises(TypeError):
        corpus.read_case(members)


def test_a_misspelt_member_of_expect_is_an_error(service: Service) -> None:
    with pytest.raises(KeyError):
        judgement.judge(Scene(service, {"statuses": [200]}, _heard(EMPTY_200)))


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ("a", b"a"),
        ("\xff\x00", b"\xff\x00"),
        (["a", {"repeat": "bc", "times": 2}], b"abcbc"),
        ([{"repeat_n": "%d.%d.%d ", "times": 2}], b"0.0.0 0.0.1 "),
        ("{now+600} {now-5}", b"1600 995"),
        (12, b"12"),
    ],
)
def test_texts_and_their_parts_become_bytes(value: Any, data: bytes) -> None:
    assert corpus.latin(value, now=1000.5) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil it is closed",
    ],
)
def test_an_answer_that_has_begun_is_waited_for(data: bytes) -> None:
    assert read_answers(data, ended=False) == ([], data)


@pytest.mark.parametrize(
    ("data", "bodies"),
    [
        (EMPTY_200 * 2, [b"", b""]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab" + EMPTY_200, [b"ab", b""]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + EMPTY_200, [b"abc", b""]),
        (b"HTTP/1.1 204 No Content\r\n\r\n" + EMPTY_200, [b"", b""]),
        (b"HTTP/1.1 400 Bad Request\r\n\r\nto the end", [b"to the end"]),
    ],
)
def test_answers_are_told_apart(data: bytes, bodies: list[bytes]) -> None:
    found, rest = read_answers(data, ended=True)
    assert ([answer.body for answer in found], rest) == (bodies, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nc\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd",
        EMPTY_200 + b"x",
    ],
)
def test_what_is_no_answer_is_an_error(data: bytes) -> None:
    with pytest.raises(NotHttp):
        read_answers(data, ended=True)


_JSON = b"Content-Type: application/json"
_EXPECTED = [
    ({"status": [401]}, _answer(401), EMPTY_200),
    ({"status": [401, 200], "recommended": 401}, _answer(401), EMPTY_200),
    ({"status": [200]}, EMPTY_200, b""),
    ({"status": [200], "or_closed": True}, b"", _answer(400)),
    ({"status": [500]}, None, _answer(500)),
    ({}, _answer(503), _answer(502)),
    ({}, EMPTY_200, _answer(200, b"", b"Server: TwistedWeb")),
    ({}, EMPTY_200, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ({"status_sequence": [200, 401]}, EMPTY_200 + _answer(401), EMPTY_200 * 2),
    ({"responses": 1}, EMPTY_200, EMPTY_200 * 2),
    ({"body_empty": True}, EMPTY_200, _answer(200, b"a")),
    ({"body_absent": ["<b>"]}, _answer(200, b"b"), _answer(200, b"<b>")),
    ({"header_has": {"a": "b"}}, _answer(200, b"", b"A: b"), _answer(200, b"", b"A: c")),
    ({"header_absent": ["a"]}, EMPTY_200, _answer(200, b"", b"A: b")),
    ({"json": {"a": 1}}, _answer(200, b'{"a": 1, "b": 2}', _JSON), _answer(200, b'{"a": 2}', _JSON)),
    ({"within_ms": 1500}, EMPTY_200, None),
    ({"within_ms": 1499}, None, EMPTY_200),
    ({"closed_within_s": 1}, None, EMPTY_200),
    ({"others_within_ms": 200}, EMPTY_200, None),
    ({"others_within_ms": 199}, None, EMPTY_200),
]


@pytest.mark.parametrize(("expect", "heard"), [(expect, right) for expect, right, _ in _EXPECTED if right is not None])
def test_a_right_answer_is_accepted(expect: dict[str, Any], heard: bytes, service: Service) -> None:
    judgement.judge(Scene(service, expect, _heard(heard), slowest_other=0.2))


@pytest.mark.parametrize(("expect", "heard"), [(expect, wrong) for expect, _, wrong in _EXPECTED if wrong is not None])
def test_a_wrong_answer_is_noticed(expect: dict[str, Any], heard: bytes, service: Service) -> None:
    with pytest.raises(AssertionError):
        judgement.judge(Scene(service, expect, _heard(heard), slowest_other=0.2))


def test_an_open_connection_is_noticed(service: Service) -> None:
    found, rest = read_answers(EMPTY_200, ended=False)
    with pytest.raises(AssertionError):
        judgement.judge(Scene(service, {"closed": True}, Heard(tuple(found), rest, False, 0.1)))


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A service that is never started: nothing of it is asked."""
    return Service(tmp_path, "{}")


def _heard(data: bytes) -> Heard:
    found, rest = read_answers(data, ended=True)
    return Heard(tuple(found), rest, True, 1.5)
