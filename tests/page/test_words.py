"""What the page says, what an admin sees, both address families, and what its policy blocks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.page.conftest import (
    ADMIN,
    APP,
    KNOCK,
    LARGE,
    OWN_PAGE,
    PHONE,
    V4,
    V6,
    Stage,
    Told,
    Visitor,
    is_open,
)

# In words.


def test_a_wrong_key_is_said_in_words(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock("wrong-key-0123456789-abc")
    expect(page.locator("#said")).to_have_text("This key is wrong, or it has expired.")
    for strange in ("schlüssel-0123456789", "ключ-0123456789-abc", "two words 0123456789"):
        visitor.knock(strange)
        expect(page.locator("#said")).to_have_text("A key has only plain letters, digits and signs, and no blanks.")
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0, "only a key that opened is kept"


def test_too_many_tries_have_to_wait(stage: Stage, visitor: Visitor, told: Told) -> None:
    limit = {"window_seconds": 3, "successful_requests": 0, "failed_requests": 1}
    told(security={"knock_rate_limit": limit})
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock("wrong-key-0123456789-abc")
    expect(page.locator("#said")).to_have_text("This key is wrong, or it has expired.")
    visitor.knock(PHONE)
    expect(page.locator("#said")).to_have_text(re.compile(r"^Too many tries: wait [123] s\.$"))
    expect(page.get_by_role("button", name="Knock")).to_be_disabled()
    expect(page.locator("#said")).to_have_text("You may try again.")
    page.get_by_role("button", name="Knock").click()
    is_open(page)


def test_a_proxy_that_is_not_set_up_is_said_in_words(stage: Stage, visitor: Visitor, told: Told) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    told(server={"trusted_proxies": ["192.0.2.1"]})
    visitor.knock(PHONE)
    expect(page.locator("#said")).to_have_text("The proxy is not set up: the admin's log says how to mend it.")


def test_no_connection_is_said_in_words(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.context.set_offline(True)
    visitor.knock(PHONE)
    expect(page.locator("#said")).to_have_text("No answer from the server. Is there a connection?")
    visitor.context.set_offline(False)
    page.get_by_role("button", name="Knock").click()
    is_open(page)


def test_a_knocker_that_is_down_is_said_in_words(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    stage.knocker.terminate()
    try:
        visitor.knock(PHONE)
        expect(page.locator("#said")).to_have_text("The server answered 502. The admin's log may say why.")
    finally:
        stage.knocker.start()
    page.get_by_role("button", name="Knock").click()
    is_open(page)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (503, "The whitelist could not be stored.", "Nothing was opened, because it could not be stored."),
        (503, "The whitelist is full.", "The list of open doors is full."),
        (400, "Could not determine client IP.", "The proxy is not set up"),
        (500, "Internal error.", "The server answered 500."),
    ],
)
def test_what_is_rare_is_said_in_words_too(stage: Stage, visitor: Visitor, status: int, error: str, words: str) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    page.route("**/knock", lambda route: route.fulfill(status=status, json={"error": error}))
    visitor.knock(PHONE)
    expect(page.locator("#said")).to_contain_text(words)


def test_it_speaks_german_to_who_reads_german(stage: Stage, chromium: Browser) -> None:
    with chromium.new_context(ignore_https_errors=True, viewport=LARGE, locale="de-AT") as context:
        visitor = Visitor(context)
        refused = visitor.page.goto(stage.url(APP))
        assert refused is not None
        expect(visitor.page.get_by_role("heading")).to_have_text("Diese Tür ist zu")
        visitor.page.get_by_role("link", name="Zum Anklopfen").click()
        expect(visitor.page.locator("html")).to_have_attribute("lang", "de")
        visitor.page.get_by_label("Schlüssel", exact=True).fill("wrong-key-0123456789-abc")
        visitor.page.get_by_role("button", name="Anklopfen").click()
        expect(visitor.page.locator("#said")).to_have_text("Dieser Schlüssel ist falsch oder abgelaufen.")
        visitor.check(stage)


# An admin.


def test_an_admin_sees_all_that_is_open_and_closes_it(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    for host in range(1, 4):
        body = f'{{"ip_address": "198.51.100.{host}"}}'.encode()
        assert stage.ask("/knock", method="POST", body=body).status == 200
    page.goto(stage.url(KNOCK))
    visitor.knock(ADMIN)
    is_open(page)
    rows = page.locator("#list li")
    expect(rows).to_have_count(4)
    page.get_by_label("Search").fill("100.2")
    expect(rows).to_have_count(1)
    expect(page.locator("#counted")).to_have_text("1 of 4")
    page.get_by_role("button", name="Close the door of 198.51.100.2").click()
    expect(page.locator("#said")).to_have_text("The door of 198.51.100.2 is closed.")
    expect(page.locator("#counted")).to_have_text("None.")
    page.get_by_label("Search").fill("")
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Close the door of 127.0.0.1").click()
    expect(page.get_by_role("button", name="Knock", exact=True)).to_be_visible()
    assert sorted(stage.entries()) == ["198.51.100.1", "198.51.100.3"]


def test_an_admin_opens_another_address_for_a_time(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(ADMIN)
    page.get_by_label("Address or network").fill(" 203.0.113.9/24 ")
    page.get_by_label("Minutes").fill("20160")
    page.get_by_role("button", name="Open", exact=True).click()
    expect(page.locator("#said")).to_have_text("Open for 203.0.113.0/24.")
    grants = stage.ask("/grants").json()["grants"]
    (grant,) = [grant for grant in grants if grant["entry"] == "203.0.113.0/24"]
    assert grant["expires_in_seconds"] > 20160 * 60 - 60
    expect(page.locator("#list")).to_contain_text("203.0.113.0/24")
    for wrong, words in (("nonsense", "This is no address or network"), ("10.0.0.0/8", "This network is too large.")):
        page.get_by_label("Address or network").fill(wrong)
        page.get_by_role("button", name="Open", exact=True).click()
        expect(page.locator("#said")).to_contain_text(words)


def test_others_see_their_own_grants_and_no_more(stage: Stage, visitor: Visitor) -> None:
    assert stage.ask("/knock", method="POST", body=b'{"ip_address": "198.51.100.1"}').status == 200
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(PHONE)
    expect(page.locator("#list li")).to_have_count(1)
    expect(page.get_by_label("Address or network")).to_be_hidden()
    expect(page.get_by_label("Search")).to_be_hidden()
    assert "198.51.100.1" not in page.content()


# Two names, two address families.


def test_one_press_knocks_over_both_address_families(stage: Stage, visitor: Visitor, told: Told) -> None:
    told(knock_page={"also": [stage.url(V4, ""), stage.url(V6, "")]})
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(PHONE)
    expect(page.locator("#entries .entry")).to_have_text(["127.0.0.1", "::1"])
    expect(page.locator("#said")).to_be_empty()
    assert sorted(stage.entries()) == ["127.0.0.1", "::1"]
    page.get_by_role("button", name="Close the door", exact=True).click()
    expect(page.locator("#said")).to_have_text("The door is closed.")
    assert stage.entries() == []


def test_a_name_that_does_not_answer_is_no_error(stage: Stage, visitor: Visitor, told: Told) -> None:
    told(knock_page={"also": [stage.url(V4, ""), "https://v6.nowhere.example:9"]})
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(PHONE)
    is_open(page)
    expect(page.locator("#said")).to_have_text(re.compile("^v6.nowhere.example:9 did not open"))
    expect(page.locator("#said")).not_to_have_class("bad")
    assert stage.entries() == ["127.0.0.1"]
    visitor.elsewhere = {"https://v6.nowhere.example:9"}


# What others are shown.


def test_a_host_may_have_a_page_of_the_admins_own(stage: Stage, visitor: Visitor) -> None:
    refused = visitor.page.goto(stage.url(OWN_PAGE))
    assert refused is not None
    assert (refused.status, refused.text()) == (403, "<!doctype html><title>own</title>Ask Jo for a key.")


def test_a_page_of_the_admins_own_is_read_again_at_a_reload(stage: Stage, visitor: Visitor, told: Told) -> None:
    file = Path(stage.settings["security"]["deny_by_host"][OWN_PAGE]["page"])
    before = file.read_text(encoding="utf-8")
    file.write_text("<!doctype html><title>own</title>Ask Kim.", encoding="utf-8")
    try:
        told()
        refused = visitor.page.goto(stage.url(OWN_PAGE))
        assert refused is not None
        assert refused.text().endswith("Ask Kim.")
    finally:
        file.write_text(before, encoding="utf-8")


def test_only_who_navigates_is_shown_a_page(stage: Stage, visitor: Visitor) -> None:
    page = visitor.page
    page.goto(stage.url(KNOCK))
    visitor.knock(PHONE)
    is_open(page)
    page.goto(stage.url(APP))
    stage.close_all()
    fetch = """async (accept) => {
      const got = await fetch("/", {headers: {Accept: accept}});
      return [got.status, await got.text()];
    }"""
    for accept in ("application/json", "text/html", "*/*"):
        assert page.evaluate(fetch, accept) == [401, ""]


# The policy.


def test_the_page_is_protected_by_its_headers(stage: Stage, visitor: Visitor) -> None:
    answer = visitor.page.goto(stage.url(KNOCK))
    assert answer is not None
    headers = answer.headers
    assert "unsafe" not in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", [KNOCK, APP])
def test_the_policy_blocks_what_is_injected(stage: Stage, visitor: Visitor, host: str) -> None:
    page = visitor.page
    page.goto(stage.url(host))
    page.evaluate("addEventListener('securitypolicyviolation', () => { window.blocked = (window.blocked ?? 0) + 1; })")
    inline = """() => {
      const script = document.createElement("script");
      try { script.textContent = "window.injected = 1"; } catch { return "refused"; }
      document.body.append(script);
    }"""
    foreign = """() => {
      const script = document.createElement("script");
      try { script.src = "https://evil.example/x.js"; } catch { return "refused"; }
      document.body.append(script);
    }"""
    handler = """() => {
      try { document.body.innerHTML += "<img src=x onerror='window.injected = 1'>"; } catch { return "refused"; }
    }"""
    for attack in (inline, foreign, handler):
        page.evaluate(attack)
    if host == KNOCK:
        assert page.evaluate("fetch('https://evil.example/').catch(error => error.name)") == "TypeError"
    page.wait_for_timeout(200)
    assert page.evaluate("window.injected") is None
    assert page.evaluate("window.blocked") >= 3
    visitor.complaints.clear()  # which are the policy's, and wanted
    visitor.elsewhere = {"https://evil.example"}  # what it blocks is told as asked for
