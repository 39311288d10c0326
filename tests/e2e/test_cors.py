"""What scripts of pages may read: a real browser decides, by what a real Knocker answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Page, Seen
from tests.e2e.conftest import ADMIN, PHONE, Start, phone, settings
from tests.net import Answer
from tests.service import Knocker, Settings, ask, free_port

ORIGIN = "https://page.example.com"
JSON = {"Content-Type": "application/json"}
WITH_KEY = {"X-Api-Key": PHONE}


def _told(origin: str | None = None, **server: Any) -> Settings:
    """Settings of a Knocker that browsers on this machine ask without a proxy; `origin` None is the default."""
    admin = {"name": "admin", "key": ADMIN, "ttl": 3600, "allow_remote_whitelist": True}
    told = settings(phone(), admin, **{"trusted_proxies": [], "allow_loopback_clients": True, **server})
    return told if origin is None else {**told, "cors": {"allowed_origin": origin}}


def _url(knocker: Knocker, path: str) -> str:
    return f"http://127.0.0.1:{knocker.port}{path}"


def _shared(directory: Path, told: Settings) -> Iterator[Knocker]:
    """A Knocker for all tests of this file."""
    knocker = Knocker(directory, told, free_port())
    try:
        knocker.start()
        yield knocker
    finally:
        knocker.end(PHONE, ADMIN)


def _closed(knocker: Knocker) -> Knocker:
    """The same Knocker, with no grant that an earlier test left."""
    lines = {"X-Api-Key": ADMIN}
    for grant in ask(knocker.port, "/grants", headers=lines).json()["grants"]:
        assert ask(knocker.port, f"/grants/{grant['id']}", "DELETE", lines).status == 204
    return knocker


@pytest.fixture(scope="module")
def _for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knocker]:
    yield from _shared(tmp_path_factory.mktemp("all"), _told("*"))


@pytest.fixture
def for_all(_for_all: Knocker) -> Knocker:
    """A Knocker whose answers any page may read; nothing is open."""
    return _closed(_for_all)


@pytest.fixture(scope="module")
def _for_page(tmp_path_factory: pytest.TempPathFactory, page: Page) -> Iterator[Knocker]:
    yield from _shared(tmp_path_factory.mktemp("one"), _told(page.origin))


@pytest.fixture
def for_page(_for_page: Knocker) -> Knocker:
    """A Knocker whose answers `page` alone may read; nothing is open."""
    return _closed(_for_page)


@pytest.fixture(scope="module")
def for_origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knocker]:
    """A Knocker whose answers pages at ORIGIN alone may read."""
    yield from _shared(tmp_path_factory.mktemp("origin"), _told(ORIGIN))


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knocker]:
    """A Knocker to which everybody on this machine is a proxy that should send the knock page's requests alone."""
    told = _told("*", trusted_proxies=["127.0.0.1"])
    page = {"knock_page": {"url": "https://knock.example.com"}}
    yield from _shared(tmp_path_factory.mktemp("proxy"), {**told, **page})


@pytest.fixture(params=["*", ORIGIN])
def told_origin(request: pytest.FixtureRequest) -> tuple[Knocker, str]:
    """A Knocker, and its cors.allowed_origin."""
    name = "_for_all" if request.param == "*" else "for_origin"
    return request.getfixturevalue(name), request.param


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page, open in a browser."""
    with Page(tmp_path_factory.mktemp("page")) as opened:
        yield opened


@pytest.fixture(scope="module")
def other_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page of another origin."""
    with Page(tmp_path_factory.mktemp("other"), "localhost") as opened:
        yield opened


# --- In a browser: any page ------------------------------------------------------------------------------------------


def _knocks_and_leaves(page: Page, knocker: Knocker) -> None:
    got = page.fetch(_url(knocker, "/knock"), "POST", {**WITH_KEY, **JSON}, '{"ttl": 60}')
    assert (got.error, got.type, got.status) == ("", "cors", 200)
    assert (got.json()["whitelisted_entry"], got.json()["expires_in_seconds"]) == ("127.0.0.1", 60)
    assert ask(knocker.port, "/verify").status == 200
    left = page.fetch(_url(knocker, "/knock"), "DELETE", WITH_KEY)
    assert (left.error, left.status, left.body) == ("", 204, "")
    assert ask(knocker.port, "/verify").status == 401


def test_any_page_knocks_and_leaves_and_reads_the_answers(for_all: Knocker, page: Page, other_page: Page) -> None:
    for one in (page, other_page):
        _knocks_and_leaves(one, for_all)


def test_any_page_may_read_where_no_origin_is_told(start: Start, page: Page) -> None:
    _knocks_and_leaves(page, start(_told()))


def test_any_page_knocks_with_a_plain_get(for_all: Knocker, page: Page) -> None:
    got = page.fetch(_url(for_all, "/knock"), headers=WITH_KEY)
    assert (got.error, got.status) == ("", 200)
    assert got.json()["whitelisted_entry"] == "127.0.0.1"


REFUSED: dict[str, tuple[str, dict[str, str], str, int, str]] = {
    "a wrong key": ("/knock", {"X-Api-Key": "wrong-key-0123456789-abc"}, "", 401, "Invalid or missing API key."),
    "no key": ("/knock", {}, "", 401, "Invalid or missing API key."),
    "no JSON": ("/knock", WITH_KEY | JSON, "{", 400, "Malformed JSON request body."),
    "a bad ttl": (
        "/knock",
        WITH_KEY | JSON,
        '{"ttl": 0}',
        400,
        "Invalid TTL specified. Must be a positive integer.",
    ),
    "no permission": (
        "/knock",
        WITH_KEY | JSON,
        '{"ip_address": "203.0.113.7"}',
        403,
        "API key lacks remote whitelist permission.",
    ),
    "another type": ("/knock", WITH_KEY | {"Content-Type": "text/plain"}, "{}", 415, "Request body must be JSON."),
    "an unknown path": ("/nowhere", {}, "", 404, "Not found."),
    "a strange path": ("/knock/%20//", {}, "", 404, "Not found."),
    "a wrong method": ("/health", {}, "{}", 405, "Method not allowed."),
    "a long body": (
        "/knock",
        WITH_KEY | JSON,
        json.dumps({"ttl": 60, "x": "x" * 5000}),
        413,
        "Request body too large.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_any_page_reads_why_it_was_refused(for_all: Knocker, page: Page, case: str) -> None:
    path, headers, body, status, error = REFUSED[case]
    got = page.fetch(_url(for_all, path), "POST", headers, body)
    assert (got.error, got.status) == ("", status)
    assert got.json() == {"error": error}


def test_any_page_reads_that_it_asked_too_often(start: Start, page: Page) -> None:
    limits = {"window_seconds": 60, "successful_requests": 1, "failed_requests": 1}
    knocker = start({**_told(), "security": {"knock_rate_limit": limits}})
    assert page.fetch(_url(knocker, "/knock"), "POST", WITH_KEY).status == 200
    got = page.fetch(_url(knocker, "/knock"), "POST", WITH_KEY)
    assert (got.error, got.status) == ("", 429)
    assert got.json() == {"error": "Too many knock attempts."}


def test_any_page_lists_and_closes_grants_with_an_admin_key(for_all: Knocker, page: Page) -> None:
    lines = {"X-Api-Key": ADMIN}
    body = '{"ip_address": "203.0.113.7"}'
    assert page.fetch(_url(for_all, "/knock"), "POST", {**lines, **JSON}, body).status == 200
    listed = page.fetch(_url(for_all, "/grants"), headers=lines)
    assert (listed.error, listed.status) == ("", 200)
    (grant,) = listed.json()["grants"]
    assert (grant["entry"], grant["via"]) == ("203.0.113.7", "remote")
    closed = page.fetch(_url(for_all, f"/grants/{grant['id']}"), "DELETE", lines)
    assert (closed.error, closed.status, closed.body) == ("", 204, "")
    again = page.fetch(_url(for_all, f"/grants/{grant['id']}"), "DELETE", lines)
    assert (again.status, again.json()) == (404, {"error": "No such grant."})
    assert page.fetch(_url(for_all, "/grants"), headers=lines).json() == {"grants": [], "admin": True, "key": "admin"}


# --- In a browser: one page ------------------------------------------------------------------------------------------


def test_the_allowed_page_knocks_and_leaves_and_reads_the_answers(for_page: Knocker, page: Page) -> None:
    _knocks_and_leaves(page, for_page)
    refused = page.fetch(_url(for_page, "/knock"), "POST", {"X-Api-Key": "wrong-key-0123456789-abc"})
    assert (refused.status, refused.json()) == (401, {"error": "Invalid or missing API key."})


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_page_of_another_origin_neither_opens_nor_closes(
    for_page: Knocker, page: Page, other_page: Page, method: str
) -> None:
    if method == "DELETE":
        assert page.fetch(_url(for_page, "/knock"), "POST", WITH_KEY).status == 200
    before = ask(for_page.port, "/verify").status
    assert other_page.fetch(_url(for_page, "/knock"), method, WITH_KEY) == Seen(error="TypeError")
    assert ask(for_page.port, "/verify").status == before


@pytest.mark.parametrize("path", ["/knock", "/grants", "/health", "/ready", "/nowhere"])
def test_a_page_of_another_origin_reads_nothing_of_what_it_may_ask(
    for_page: Knocker, page: Page, other_page: Page, path: str
) -> None:
    assert page.fetch(_url(for_page, path)).type == "cors"
    assert other_page.fetch(_url(for_page, path)) == Seen(error="TypeError")
    _assert_opaque(other_page, for_page, path)


def _assert_opaque(page: Page, knocker: Knocker, path: str) -> None:
    """A request that does not want to read is answered: what failed was the reading."""
    assert page.fetch(_url(knocker, path), mode="no-cors") == Seen(type="opaque", headers={})


# --- In a browser: no page -------------------------------------------------------------------------------------------


def test_no_page_reads_a_verdict(for_all: Knocker, page: Page) -> None:
    for verdict in (401, 200):
        assert ask(for_all.port, "/verify").status == verdict
        for path in ("/verify", "/verify/", "/verify/knock?a=b"):
            assert page.fetch(_url(for_all, path)) == Seen(error="TypeError")
            assert page.fetch(_url(for_all, path), headers=WITH_KEY) == Seen(error="TypeError")
            _assert_opaque(page, for_all, path)
        assert page.fetch(_url(for_all, "/knock"), "POST", WITH_KEY).status == 200


def test_no_page_reads_what_a_proxy_at_the_wrong_address_is_told(behind_proxy: Knocker, page: Page) -> None:
    """A browser that comes through a proxy which leads more hosts here than the knock page's."""
    assert page.fetch(_url(behind_proxy, "/health")).json() == {"status": "ok"}
    for path in ("/knock", "/grants", "/nowhere"):
        assert ask(behind_proxy.port, path).status == 401
        assert page.fetch(_url(behind_proxy, path)) == Seen(error="TypeError")
        assert page.fetch(_url(behind_proxy, path), headers=WITH_KEY) == Seen(error="TypeError")
        _assert_opaque(page, behind_proxy, path)


def test_no_page_poses_as_a_proxy(for_all: Knocker, page: Page) -> None:
    for name in ("X-Forwarded-For", "X-Forwarded-Uri", "X-Forwarded-Method", "X-Original-URI"):
        got = page.fetch(_url(for_all, "/knock"), "POST", {**WITH_KEY, name: "127.0.0.1"})
        assert got == Seen(error="TypeError")
    assert ask(for_all.port, "/verify").status == 401


# --- On the wire -----------------------------------------------------------------------------------------------------


def _asked(
    knocker: Knocker, path: str, method: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> Answer:
    return ask(knocker.port, path, method, {"Origin": ORIGIN, **(headers or {})}, body)


def _assert_allows(answer: Answer, origin: str) -> None:
    assert answer.lines("Access-Control-Allow-Origin") == [origin]
    assert answer.lines("Vary") == ([] if origin == "*" else ["Origin"])
    assert answer.lines("Access-Control-Allow-Credentials") == []


def _assert_tells_no_page(answer: Answer, status: int) -> None:
    assert (answer.status, answer.body) == (status, b"")
    assert [name for name, _ in answer.headers if name.lower().startswith("access-control-")] == []


def _items(line: str) -> set[str]:
    return {item.strip().lower() for item in line.split(",")}


@pytest.mark.parametrize("path", ["/knock", "/grants", "/grants/x"])
def test_a_preflight_is_204_and_says_what_is_allowed(told_origin: tuple[Knocker, str], path: str) -> None:
    knocker, origin = told_origin
    wants = {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "content-type,x-api-key"}
    answer = _asked(knocker, path, "OPTIONS", wants)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.lines("Content-Length") == []
    assert answer.lines("Cache-Control") == ["no-store"]
    _assert_allows(answer, origin)
    (methods,) = answer.lines("Access-Control-Allow-Methods")
    (headers,) = answer.lines("Access-Control-Allow-Headers")
    assert _items(methods) == {"get", "post", "delete"}
    assert _items(headers) == {"x-api-key", "content-type"}


@pytest.mark.parametrize(
    "asking", ["null", "https://other.example.com", f"{ORIGIN}.evil.example", f"{ORIGIN}:444", ORIGIN.upper()]
)
def test_an_origin_that_asks_is_never_repeated(told_origin: tuple[Knocker, str], asking: str) -> None:
    knocker, origin = told_origin
    for method, path in (("OPTIONS", "/knock"), ("GET", "/health")):
        _assert_allows(_asked(knocker, path, method, {"Origin": asking}), origin)


ERRORS: dict[str, tuple[str, str, bytes | None, int]] = {
    "a wrong key": ("POST", "/knock", None, 401),
    "a wrong key for the list": ("GET", "/grants", None, 401),
    "a wrong key for a grant": ("DELETE", "/grants/x", None, 401),
    "a wrong method": ("PUT", "/knock", None, 405),
    "a wrong method for the list": ("POST", "/grants", None, 405),
    "a wrong method for a grant": ("GET", "/grants/x", None, 405),
    "an unknown method": ("ABC", "/knock", None, 405),
    "a long body": ("POST", "/knock", b"x" * 4097, 413),
    "an unknown path": ("GET", "/nowhere", None, 404),
    "a strange path": ("GET", "/%ff", None, 404),
    "two slashes": ("GET", "//", None, 404),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_may_be_read_like_any_answer(told_origin: tuple[Knocker, str], case: str) -> None:
    knocker, origin = told_origin
    method, path, body, status = ERRORS[case]
    answer = _asked(knocker, path, method, {"X-Api-Key": "wrong-key-0123456789-abc"}, body)
    assert answer.status == status
    assert answer.json()["error"]
    _assert_allows(answer, origin)


def test_a_long_body_of_untold_length_may_be_read_like_any_answer(told_origin: tuple[Knocker, str]) -> None:
    knocker, origin = told_origin
    chunks = b"1001\r\n" + b"x" * 4097 + b"\r\n0\r\n\r\n"
    answer = _asked(knocker, "/knock", "POST", WITH_KEY | {"Transfer-Encoding": "chunked"}, chunks)
    assert answer.status == 413
    _assert_allows(answer, origin)


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_no_verdict_allows_any_origin(for_all: Knocker, method: str) -> None:
    for status in (401, 200):
        for path in ("/verify", "/verify/", "/verify/knock", "/verify?a=b"):
            _assert_tells_no_page(_asked(for_all, path, method), status)
        assert ask(for_all.port, "/knock", "POST", WITH_KEY).status == 200


@pytest.mark.parametrize("path", ["/verify", "/verify/knock"])
def test_a_verdicts_path_allows_no_origin_to_read_of_a_long_body(for_all: Knocker, path: str) -> None:
    answer = _asked(for_all, path, "POST", body=b"x" * 4097)
    assert answer.status == 413
    assert answer.lines("Access-Control-Allow-Origin") == []


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_no_answer_to_a_proxy_at_the_wrong_address_allows_any_origin(behind_proxy: Knocker, method: str) -> None:
    ours = {"Host": "knock.example.com"}
    for path in ("/knock", "/grants", "/grants/x", "/nowhere"):
        _assert_tells_no_page(_asked(behind_proxy, path, method), 401)
        for name in ("X-Forwarded-Method", "X-Forwarded-Uri", "X-Original-URI"):
            _assert_tells_no_page(_asked(behind_proxy, path, method, {**ours, name: "/"}), 401)
    _assert_allows(_asked(behind_proxy, "/nowhere", method, ours), "*")
