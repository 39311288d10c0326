"""What everybody can use, and what it looks like: axe-core, and the pictures of the README."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, ViewportSize, expect

from tests.conftest import LONG
from tests.page.conftest import ADMIN, APP, KNOCK, LARGE, PHONE, SMALL, Stage, Visitor
from tests.service import PROJECT

Scheme = Literal["light", "dark"]
PICTURES = bool(os.environ.get("KNOCKER_PICTURES"))
SCREENS = {"phone": SMALL, "desktop": LARGE}


@contextmanager
def looking(chromium: Browser, stage: Stage, screen: ViewportSize, scheme: Scheme, locale: str) -> Iterator[Visitor]:
    with chromium.new_context(
        ignore_https_errors=True, viewport=screen, color_scheme=scheme, locale=locale, reduced_motion="reduce"
    ) as context:
        visitor = Visitor(context)
        yield visitor
        visitor.check(stage)


def knock(page: Page, key: str) -> None:
    page.locator("#key").fill(key)
    page.locator("#knock").click()
    expect(page.locator("#grants")).to_be_visible()


def take(page: Page, path: Path) -> None:
    """A picture; a browser that has much to do may refuse the first time."""
    for left in (2, 1, 0):
        try:
            page.screenshot(path=path)
        except Error:
            if not left:
                raise
        else:
            return


def complaints(page: Page) -> list[str]:
    found = Axe().run(page).response
    assert found["passes"], "it looked at something"
    return [f"{violation['id']}: {node['html']}" for violation in found["violations"] for node in violation["nodes"]]


@pytest.mark.parametrize(
    ("screen", "scheme", "locale"),
    list(product(SCREENS, ("light", "dark"), ("en-GB", "de-DE")))
    if LONG
    else [("phone", "dark", "de-DE"), ("desktop", "light", "en-GB")],
)
def test_nothing_shuts_anybody_out(stage: Stage, chromium: Browser, screen: str, scheme: Scheme, locale: str) -> None:
    assert stage.ask("/knock", method="POST", body=b'{"ip_address": "198.51.100.1"}').status == 200
    with looking(chromium, stage, SCREENS[screen], scheme, locale) as visitor:
        page = visitor.page
        page.goto(stage.url(APP))
        assert complaints(page) == [], "of the refused page"
        page.goto(stage.url(KNOCK))
        assert complaints(page) == [], "of the page as it opens"
        page.locator("#key").fill("wrong-key-0123456789-abc")
        page.locator("#knock").click()
        expect(page.locator("#said")).to_have_class("bad")
        assert complaints(page) == [], "of one with an error"
        knock(page, ADMIN)
        expect(page.locator("#list li")).to_have_count(2)
        assert complaints(page) == [], "of one with all that an admin sees"


@pytest.mark.parametrize("width", [320, 390, 1280] if LONG else [320])
def test_nothing_has_to_be_scrolled_sideways(stage: Stage, chromium: Browser, width: int) -> None:
    network = b'{"ip_address": "2001:db8:1111:2222:3333:4444:5555:6666"}'
    assert stage.ask("/knock", method="POST", body=network).status == 200
    with looking(chromium, stage, {"width": width, "height": 700}, "light", "de-DE") as visitor:
        page = visitor.page
        for host in (APP, KNOCK):
            page.goto(stage.url(host))
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        knock(page, ADMIN)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        small = page.evaluate(
            "[...document.querySelectorAll('button, a.button, input:not([type=checkbox], .away), .check')]"
            ".filter(each => each.checkVisibility() && each.getBoundingClientRect().height < 44).map(each => each.id)"
        )
        assert small == [], "a thumb needs 44 pixels"


@pytest.mark.parametrize("scheme", ["light", "dark"] if LONG or PICTURES else ["light"])
@pytest.mark.parametrize("screen", SCREENS if LONG or PICTURES else ["phone"])
def test_pictures(stage: Stage, chromium: Browser, tmp_path: Path, screen: str, scheme: Scheme) -> None:
    """KNOCKER_PICTURES=1 keeps them in docs/images (`make pictures`)."""
    folder = PROJECT / "docs" / "images" if PICTURES else tmp_path
    folder.mkdir(exist_ok=True)
    with looking(chromium, stage, SCREENS[screen], scheme, "en-GB") as visitor:
        page = visitor.page
        # As it would be for a phone out there: a picture of 127.0.0.1 says nothing.
        page.route("**/knock", lambda route: route.fulfill(json=OPENED))
        page.route("**/grants", lambda route: route.fulfill(json=GRANTS))
        page.goto(stage.url(APP))
        take(page, folder / f"refused-{screen}-{scheme}.png")
        page.goto(stage.url(KNOCK, f"/#back=https%3A%2F%2F{APP}%2F"))
        expect(page.locator("#key")).to_be_visible()
        take(page, folder / f"page-{screen}-{scheme}.png")
        knock(page, PHONE)
        expect(page.locator("#back")).to_be_visible()
        take(page, folder / f"open-{screen}-{scheme}.png")
    assert all(path.stat().st_size > 5_000 for path in folder.glob(f"*-{screen}-{scheme}.png"))


OPENED = {"whitelisted_entry": "203.0.113.7", "expires_at": 1_800_000_000, "expires_in_seconds": 3600}
GRANTS = {
    "grants": [
        {
            "id": "a-grant-of-a-picture", "entry": "203.0.113.7", "key": "phone", "via": "http", "hosts": None,
            "created_at": 0, "last_knock_at": 0, "expires_at": 1_800_000_000, "expires_in_seconds": 3600,
        }
    ],
    "admin": False,
    "key": "phone",
}  # fmt: skip
