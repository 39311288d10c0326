"""The knock page in a real browser, through the real Caddy, as somebody with a phone meets it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.conftest import LONG
from tests.page.conftest import (
    ADMIN,
    APP,
    BRIEF,
    KNOCK,
    PHONE,
    V6,
    Stage,
    Told,
    Visitor,
    is_open,
)
from tests.service import eventually

# The whole way.


def test_from_a_refused_page_to_the_key_and_back_and_out_again(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    refused = page.goto(stage.url(APP, "/some/path?q=1"))
    assert refused is not None
    assert (refused.status, refused.headers["content-type"]) == (401, "text/html; charset=utf-8")
    page.get_by_role("link", name="To the knock page").click()
    expect(page).to_have_title("Knock")
    expect(page).to_have_url(stage.url(KNOCK))  # what was refused does not stay in the address
    visitor.knock(PHONE)
    is_open(page)
    expect(page.locator("#entries .entry")).to_have_text("127.0.0.1")
    expect(page.get_by_role("timer")).to_have_text(re.compile(r"^59:5\d left$"))
    page.get_by_role("link", name=f"Back to {APP}").click()
    expect(page).to_have_title("app")
    assert page.url == stage.url(APP, "/some/path?q=1")

    page.goto(stage.url(KNOCK))
    is_open(page)
    page.get_by_role("button", name="Close the door", exact=True).click()
    expect(page.locator("#said")).to_have_text("The door is closed.")
    assert stage.entries() == []
    again = page.goto(stage.url(APP, "/some/path?q=1"))
    assert again is not None
    assert again.status == 401


def test_the_time_runs_down_and_the_door_closes(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(BRIEF)
    is_open(page)
    bar = page.get_by_role("progressbar")
    assert bar.get_attribute("max") in ("1", "2")  # whole seconds of 2 s, some of which may have passed
    assert bar.get_attribute("aria-label") == "Time left: 127.0.0.1"
    expect(page.locator("#said")).to_have_text("The time is over: the door is closed.")
    expect(page.get_by_role("button", name="Knock")).to_be_visible()
    refused = page.goto(stage.url(APP))
    assert refused is not None
    assert refused.status == 401


def test_a_renewal_begins_the_time_anew(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(PHONE)
    is_open(page)
    assert stage.ask("/knock", PHONE, "127.0.0.1", method="POST", body=b'{"ttl": 100}').status == 200
    page.reload()
    expect(page.get_by_role("timer")).to_have_text(re.compile(r"^1:[43]\d left$"))
    page.get_by_role("button", name="Renew").click()
    expect(page.get_by_role("timer")).to_have_text(re.compile(r"^59:5\d left$"))


def test_it_is_used_with_the_keyboard_alone(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    page.keyboard.press("Tab")
    page.keyboard.type(PHONE)
    page.keyboard.press("Enter")
    is_open(page)
    assert page.evaluate("document.activeElement.id") == "open-title", "a screen reader reads on from there"
    names = []
    for _ in range(3):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.textContent"))
    assert names == ["Renew", "Close the door", "Forget the key"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text("The door is closed.")


# The key.


def test_the_key_stays_in_its_tab_unless_it_shall_be_remembered(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(PHONE)
    is_open(page)
    page.reload()
    is_open(page)
    assert page.evaluate("localStorage.length") == 0
    other = visitor.context.new_page()
    other.goto(stage.url(KNOCK))
    expect(other.get_by_label("Key", exact=True)).to_have_value("")
    expect(other.get_by_role("button", name="Forget the key")).to_be_hidden()


def test_a_remembered_key_is_there_until_it_is_forgotten(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(PHONE, remember=True)
    is_open(page)
    other = visitor.context.new_page()
    other.goto(stage.url(KNOCK))
    expect(other.get_by_label("Key", exact=True)).to_have_value(PHONE)
    other.get_by_role("button", name="Forget the key").click()
    expect(other.locator("#said")).to_contain_text("The key is forgotten.")
    expect(page.get_by_label("Key", exact=True)).to_have_value("")  # the other tab forgets it too
    expect(page.get_by_role("button", name="Knock")).to_be_visible()
    expect(other.get_by_label("Key", exact=True)).to_have_value("")
    assert other.evaluate("localStorage.length + sessionStorage.length") == 0
    other.reload()
    expect(other.get_by_label("Key", exact=True)).to_have_value("")
    expect(other.get_by_label("Remember")).not_to_be_checked()


def test_an_icon_on_the_home_screen_knocks_at_once_when_the_key_is_remembered(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK, "/#knock"))
    expect(page.get_by_role("button", name="Knock")).to_be_visible()
    assert stage.entries() == []
    visitor.knock(PHONE, remember=True)
    is_open(page)
    stage.close_all()
    tapped = visitor.context.new_page()
    tapped.goto(stage.url(KNOCK, "/#knock"))
    is_open(tapped)
    assert stage.entries() == ["127.0.0.1"]
    tapped.get_by_role("button", name="Close the door", exact=True).click()
    expect(tapped.locator("#said")).to_have_text("The door is closed.")
    tapped.reload()
    expect(tapped.get_by_text("None.")).to_be_visible()
    assert stage.entries() == [], "to load it again is no knock"
    opened = visitor.context.new_page()
    opened.goto(stage.url(KNOCK))
    expect(opened.get_by_text("None.")).to_be_visible()
    assert stage.entries() == [], "only #knock does it"


def test_another_site_cannot_knock_for_somebody(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(PHONE, remember=True)
    is_open(page)
    page.goto(stage.url(APP))
    stage.close_all()
    page.evaluate("where => { location.href = where; }", stage.url(KNOCK, "/#knock"))
    expect(page.get_by_text("None.")).to_be_visible()
    assert stage.entries() == []


def test_a_door_that_was_closed_elsewhere_is_not_shown_as_open(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(PHONE)
    is_open(page)
    stage.close_all()
    page.reload()
    expect(page.get_by_role("button", name="Knock")).to_be_visible()
    expect(page.get_by_text("None.")).to_be_visible()


def test_what_was_opened_from_another_address_is_closed_too(stage: Stage, visitor: Visitor, told: Told) -> None:
    told(knock_page={"also": [stage.url(V6, "")]})
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(PHONE)
    expect(page.locator("#entries .entry")).to_have_count(2)
    # To the gate this phone has the first address alone by now.
    page.route(f"{stage.url(V6, '')}/**", lambda route: route.abort())
    page.get_by_role("button", name="Close the door", exact=True).click()
    expect(page.locator("#said")).to_have_text("The door is closed.")
    assert stage.entries() == []


def test_a_close_that_fails_is_told_and_the_door_stays_on_the_page(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(PHONE)
    expect(page.get_by_role("heading", name="Open doors")).to_be_visible()
    visitor.context.set_offline(True)
    for name in ("Close the door", "Close the door of 127.0.0.1"):
        page.get_by_role("button", name=name, exact=True).click()
        expect(page.locator("#said")).to_have_text("No answer from the server. Is there a connection?")
        is_open(page)
    visitor.context.set_offline(False)


def test_who_forgets_the_key_meanwhile_sees_nothing_that_was_asked_before(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(ADMIN)
    expect(page.get_by_label("Search")).to_be_visible()
    held: list[Any] = []
    page.route("**/knock", lambda route: held.append(route))
    page.get_by_role("button", name="Renew").click()
    eventually(lambda: page.evaluate("1") and held, "the knock is under way")
    page.get_by_role("button", name="Forget the key").click()
    expect(page.locator("#said")).to_have_text("The key is forgotten. The door stays open until its time is over.")
    held[0].continue_()
    page.wait_for_timeout(300)
    expect(page.get_by_role("button", name="Knock")).to_be_visible()
    expect(page.get_by_label("Search")).to_be_hidden()
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0
    assert page.evaluate("document.activeElement.id") == "key"


def test_a_browser_that_keeps_nothing_still_knocks(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    blocked = "Object.defineProperty(window, NAME, {get() { throw new DOMException('no', 'SecurityError'); }});"
    visitor.context.add_init_script(
        "".join(blocked.replace("NAME", f"'{area}Storage'") for area in ("local", "session"))
    )
    page.goto(stage.url(KNOCK))
    visitor.knock(PHONE, remember=True)
    is_open(page)
    page.get_by_role("button", name="Close the door", exact=True).click()
    expect(page.locator("#said")).to_have_text("The door is closed.")


def test_an_answer_that_is_no_knockers_opens_nothing(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    page.route("**/knock", lambda route: route.fulfill(json={"welcome": "to this hotel"}))
    visitor.knock(PHONE)
    expect(page.locator("#said")).to_have_text("The server answered 200. The admin's log may say why.")
    expect(page.get_by_role("button", name="Forget the key")).to_be_hidden()


def test_a_keyboards_focus_is_never_lost(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    page.get_by_label("Key", exact=True).fill("wrong-key-0123456789-abc")
    page.get_by_role("button", name="Knock").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_class("bad")
    assert page.evaluate("document.activeElement.id") == "knock"
    visitor.knock(BRIEF)
    is_open(page)
    page.get_by_role("button", name="Renew").focus()
    expect(page.locator("#said")).to_have_text("The time is over: the door is closed.")
    assert page.evaluate("document.activeElement.id") == "knock"
    expect(page.get_by_text("None.")).to_be_visible()
    visitor.knock(PHONE)
    page.get_by_role("button", name="Close the door of 127.0.0.1").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text("The door of 127.0.0.1 is closed.")
    assert page.evaluate("document.activeElement.id") == "grants-title"


def test_it_can_be_installed(stage: Stage, visitor: Visitor) -> None:
    visitor.page.goto(stage.url(KNOCK))
    session = visitor.context.new_cdp_session(visitor.page)
    manifest = session.send("Page.getAppManifest")
    assert (manifest["errors"], manifest["url"]) == ([], stage.url(KNOCK, "/page/manifest.webmanifest"))
    told = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
    # A test's window is one that keeps nothing, and its certificate nobody's.
    assert {error["errorId"] for error in told} <= {"in-incognito", "not-from-secure-origin"}


# The way back.


WAYS = [
    ("https://app.example.com/x?y=%41#z", "app.example.com"),
    ("https://tv.home.example.com:8443/", "tv.home.example.com:8443"),
    ("https://a.b.home.example.com/", "a.b.home.example.com"),
    ("https://APP.example.com/", "app.example.com"),
    ("http://app.example.com/", None),
    ("https://home.example.com/", None),
    ("https://strange.example.com/", None),
    ("https://app.example.com.evil.example/", None),
    ("https://evil.example/?app.example.com", None),
    ("https://app.example.com@evil.example/", None),
    ("https://user@app.example.com/", None),
    ("javascript:alert(1)//app.example.com", None),
    ("//app.example.com/", None),
    ("app.example.com", None),
    ("%", None),
]


@pytest.mark.parametrize(("back", "offered"), WAYS if LONG else WAYS[:2] + WAYS[4:9:2])
def test_the_way_back_is_offered_to_names_of_the_admins_choice(
    stage: Stage, visitor: Visitor, back: str, offered: str | None
) -> None:
    page = visitor.page
    encoded = back if back == "%" else page.evaluate("encodeURIComponent", back)
    page.goto(stage.url(KNOCK, f"/#back={encoded}"))
    visitor.knock(PHONE)
    is_open(page)
    expect(page.get_by_role("heading", name="Open doors")).to_be_visible()  # by then all is done
    links = page.get_by_role("link")
    if offered is None:
        expect(links).to_have_count(0)
    else:
        expect(links).to_have_text([f"Back to {offered}"])
        assert page.url.startswith(stage.url(KNOCK)), "it never goes there by itself"


def test_the_admins_names_cannot_be_read_off_the_page(stage: Stage, visitor: Visitor) -> None:
    visitor.page.goto(stage.url(KNOCK))
    assert APP not in visitor.page.content()
    assert "home.example" not in visitor.page.content()
