"""What a refused browser is shown, and what the knock page is sent with (contract 3.2 and 3.7)."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from knocker.listen.channel import GateChannel
from knocker.listen.knockpage import FILES, digest
from knocker.listen.lane import LaneChannel
from tests.conftest import Errors
from tests.wire import SETTINGS, Answer, World

STRANGER = "198.51.100.9"
SCRIPTS = {name: content.decode() for name, (_, content) in FILES.items() if name.endswith(".js")}
EXPLAINS = (
    SETTINGS.replace("security: {", "security: {deny: {page: knock}, deny_by_host: {quiet.example.com: {page: none}}, ")
    + "knock_page: {url: 'https://Knock.example.com:443/', also: ['https://v4.knock.example.com:8443'],"
    " return_to: [app.example.com]}\ncors: {allowed_origin: 'https://other.example.com'}\n"
)
NAVIGATION = [("Sec-Fetch-Mode", "navigate"), ("Accept", "text/html,application/xhtml+xml;q=0.9")]
ASKED = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "app.example.com"), ("X-Forwarded-Uri", "/a?b=%41&c")]


@pytest.fixture(params=[True, False], ids=["lane", "channel"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A world whose refusals explain themselves."""
    return World(tmp_path, EXPLAINS, channel=LaneChannel if request.param else GateChannel)


def link_of(got: Answer) -> str:
    found = re.search(r'<a href="([^"]+)"', got.body.decode())
    assert found is not None, got
    return html.unescape(found[1])


def test_a_browser_is_led_to_the_knock_page_with_the_way_back(world: World) -> None:
    got = world.ask("/verify", STRANGER, headers=NAVIGATION + ASKED)
    assert (got.status, got.headers["content-type"]) == (401, "text/html; charset=utf-8")
    origin, _, back = link_of(got).partition("/#back=")
    assert (origin, unquote(back)) == ("https://knock.example.com", "https://app.example.com/a?b=%41&c")
    assert int(got.headers["content-length"]) == len(got.body)
    assert got.headers["cache-control"] == "no-store"
    assert got.headers["referrer-policy"] == "no-referrer"
    assert b"<script" not in got.body
    assert b"<input" not in got.body
    assert "script-src" not in got.headers["content-security-policy"]
    assert got.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        pytest.param([("Sec-Fetch-Mode", "navigate")], True, id="a browser of today"),
        pytest.param([("Accept", "text/html")], True, id="one of yesterday"),
        pytest.param([("Accept", " text/html ;q=0.9, */*")], True, id="with a weight"),
        pytest.param([("Accept", "*/*")], False, id="curl"),
        pytest.param([("Accept", "application/json, text/html")], False, id="an app"),
        pytest.param([("Accept", "text/htmlx")], False, id="another type"),
        pytest.param([("Accept", "image/avif,image/webp,*/*"), ("Sec-Fetch-Mode", "no-cors")], False, id="an image"),
        pytest.param([("Accept", "text/html"), ("Sec-Fetch-Mode", "cors")], False, id="a script's fetch"),
        pytest.param([("Accept", "text/html"), ("Sec-Fetch-Mode", "websocket")], False, id="a websocket of today"),
        pytest.param([("Accept", "text/html"), ("Upgrade", "websocket")], False, id="a websocket"),
        pytest.param([("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Mode", "cors")], False, id="two modes"),
        pytest.param([("Sec-Fetch-Mode", "navigate"), ("X-Forwarded-Method", "POST")], False, id="a form"),
        pytest.param([("Sec-Fetch-Mode", "navigate"), ("X-Forwarded-Method", "GET")], True, id="no form"),
        pytest.param([], False, id="nothing"),
    ],
)
def test_only_who_navigates_is_shown_a_page(world: World, headers: list[tuple[str, str]], shown: bool) -> None:
    got = world.ask("/verify", STRANGER, headers=headers + ASKED)
    assert (got.status, b"<html" in got.body) == (401, shown)
    if not shown:
        assert (got.body, got.headers.get("content-type")) == (b"", None)


def test_who_is_let_in_sees_nothing_of_it(world: World) -> None:
    world.ask("/knock", STRANGER, "POST", headers=[], key="usr-Tn5c8Qe1Wz7Ux3Ib9Om2Pk6Gv4Dh0Sl")
    got = world.ask("/verify", STRANGER, headers=NAVIGATION + ASKED)
    assert (got.status, got.body) == (200, b"")


def test_a_peer_that_is_not_believed_is_shown_nothing(world: World) -> None:
    got = world.ask("/verify", headers=NAVIGATION, peer=STRANGER)
    assert (got.status, got.body) == (401, b"")


def test_a_host_may_have_its_own_way(world: World) -> None:
    asked = [(name, value.replace("app.", "quiet.")) for name, value in ASKED]
    assert world.ask("/verify", STRANGER, headers=NAVIGATION + asked).body == b""


@pytest.mark.parametrize(
    ("asked", "tail", "back"),
    [
        pytest.param(ASKED[:2], "/envoy?x=1", "https://app.example.com/envoy?x=1", id="Envoy's way"),
        pytest.param(ASKED[:2], "", None, id="no path"),
        pytest.param(ASKED[1:], "", None, id="no scheme"),
        pytest.param([ASKED[0], ASKED[2]], "", None, id="no host"),
        pytest.param([*ASKED, ASKED[1]], "", None, id="two hosts"),
        pytest.param([*ASKED, ASKED[2]], "", None, id="two paths"),
        pytest.param([("X-Forwarded-Proto", "javascript"), *ASKED[1:]], "", None, id="another scheme"),
        pytest.param([ASKED[0], ("X-Forwarded-Host", "a/b"), ASKED[2]], "", None, id="no host at all"),
        pytest.param([*ASKED[:2], ("X-Forwarded-Uri", "//evil")], "", "https://app.example.com//evil", id="slashes"),
        pytest.param([*ASKED[:2], ("X-Forwarded-Uri", "/\xe4")], "", None, id="not ASCII"),
        pytest.param(
            [*ASKED[:2], ("X-Forwarded-Uri", '/"><script>alert(1)</script>&amp;')], "",
            'https://app.example.com/"><script>alert(1)</script>&amp;', id="a script",
        ),
        pytest.param([*ASKED[:2], ("X-Forwarded-Uri", "/" + "a" * 3000)], "", "https://app.example.com/", id="long"),
    ],
)  # fmt: skip
def test_the_way_back_is_what_was_asked_for_or_none(
    world: World, asked: list[tuple[str, str]], tail: str, back: str | None
) -> None:
    got = world.ask("/verify" + tail, STRANGER, headers=NAVIGATION + asked)
    assert got.status == 401
    origin, fragment, found = link_of(got).partition("#back=")
    assert origin == "https://knock.example.com/"
    assert (unquote(found) if fragment else None) == back
    assert b"<script" not in got.body


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        (["de-AT,de;q=0.9,en;q=0.8"], "de"), (["en-GB,de"], "en"), (["fr, de;q=0.5"], "de"), (["fr"], "en"), ([], "en"),
        (["x" * 5000], "en"), (["fr", "de"], "de"), (["den, de"], "de"),
    ],
)  # fmt: skip
def test_it_speaks_the_browsers_language(world: World, languages: list[str], expected: str) -> None:
    headers = NAVIGATION + [("Accept-Language", language) for language in languages]
    got = world.ask("/verify", STRANGER, headers=headers)
    assert f'<html lang="{expected}">'.encode() in got.body


def test_a_mistake_of_ours_still_denies(world: World, monkeypatch: pytest.MonkeyPatch, errors: Errors) -> None:
    monkeypatch.setattr("knocker.listen.denial.address_asked", lambda _: 1 / 0)
    got = world.ask("/verify", STRANGER, headers=NAVIGATION + ASKED)
    assert (got.status, got.body) == (401, b"")
    (event,) = errors.expected()
    assert "failed" in str(event["log_format"])


def test_what_is_no_navigation_still_takes_the_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, EXPLAINS, channel=LaneChannel)
    monkeypatch.setattr(GateChannel, "dataReceived", lambda *_: pytest.fail("it went to the channel"))
    assert world.ask("/verify", STRANGER, headers=[("Accept", "image/avif"), *ASKED]).status == 401


# The knock page.


def test_the_page_speaks_to_its_own_origins_alone(world: World) -> None:
    got = world.ask("/", headers=[("X-Forwarded-Host", "knock.example.com")])
    assert (got.status, got.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.strip().partition(" ")[::2] for part in got.headers["content-security-policy"].split(";"))
    assert policy["connect-src"] == "'self' https://v4.knock.example.com:8443"
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    told = re.search(r'<meta name="knocker" content="([^"]+)">', got.body.decode())
    assert told is not None
    assert json.loads(html.unescape(told[1])) == {
        "origin": "https://knock.example.com",
        "also": ["https://v4.knock.example.com:8443"],
        "return_to": [digest("app.example.com")],
        "may_knock": True,
    }


@pytest.mark.parametrize(
    ("site", "may"), [("none", True), ("same-origin", True), ("cross-site", False), ("same-site", False)]
)
def test_another_site_cannot_have_the_page_knock(world: World, site: str, may: bool) -> None:
    got = world.ask("/", headers=[("X-Forwarded-Host", "knock.example.com"), ("Sec-Fetch-Site", site)])
    assert (b"may_knock&quot;: true" in got.body) == may


def test_what_the_page_loads_is_there_and_named(world: World) -> None:
    got = world.ask("/", headers=[("X-Forwarded-Host", "knock.example.com")])
    wanted = set(re.findall(r'(?:href|src)="page/([^"]+)"', got.body.decode()))
    icons = {icon["src"] for icon in json.loads(FILES["manifest.webmanifest"][1])["icons"]}
    imported = {name for script in SCRIPTS.values() for name in re.findall(r'from "\./([^"]+)"', script)}
    assert wanted | icons | imported == set(FILES)
    for name, (content_type, content) in FILES.items():
        file = world.ask(f"/page/{name}", headers=[("X-Forwarded-Host", "knock.example.com")])
        assert (file.status, file.body, file.headers["content-type"]) == (200, content, content_type.decode())
        assert file.headers["x-content-type-options"] == "nosniff"
    assert sum(len(content) for _, content in FILES.values()) + len(got.body) < 40_000


@pytest.mark.parametrize("path", ["/", "/page/page.js"])
def test_the_page_is_read_and_no_more(world: World, path: str) -> None:
    host = [("X-Forwarded-Host", "knock.example.com")]
    assert world.ask(path, method="HEAD", headers=host).status == 200
    got = world.ask(path, method="POST", headers=host)
    assert (got.status, got.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/page/page.js"])
def test_there_may_be_no_page(tmp_path: Path, path: str) -> None:
    world = World(tmp_path, SETTINGS + "knock_page: {enabled: false}\n")
    assert world.ask(path).status == 404


def test_the_knock_page_may_read_answers_whatever_cors_says(world: World) -> None:
    def allowed(origin: str) -> tuple[str, str]:
        headers = [("Origin", origin), ("X-Forwarded-Host", "v4.knock.example.com")]
        got = world.ask("/knock", STRANGER, "OPTIONS", headers=headers)
        assert got.status == 204
        return got.headers["access-control-allow-origin"], got.headers["vary"]

    assert allowed("https://knock.example.com") == ("https://knock.example.com", "Origin")
    for other in ("https://knock.example.com.evil.example", "https://evil.example", "null", "http://knock.example.com"):
        assert allowed(other) == ("https://other.example.com", "Origin")


def test_every_language_says_all(world: World) -> None:
    script = FILES["words.js"][1].decode()
    languages = re.split(r"\n  ([a-z]{2}): \{\n", script)[1:]
    names = {
        language: sorted(re.findall(r"^    (\w+): \"", text, re.MULTILINE))
        for language, text in zip(languages[::2], languages[1::2], strict=True)
    }
    assert set(names) == {"en", "de"}
    assert names["en"] == names["de"]
    others = "".join(text for name, text in SCRIPTS.items() if name != "words.js")
    used = set(re.findall(r'"(\w+)"', others))
    used |= set(
        re.findall(
            r'data-text="(\w+)"', world.ask("/", headers=[("X-Forwarded-Host", "knock.example.com")]).body.decode()
        )
    )
    assert set(names["en"]) <= used, "a word that nothing says"
    said = set(re.findall(r'word\("(\w+)"', others))
    assert said <= set(names["en"])
