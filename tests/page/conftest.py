"""A knock page on the real Caddy with its own certificates, an app behind the gate, and a browser in front of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright

from tests import browser
from tests.net import Answer
from tests.service import PROJECT, Caddy, Knocker, Settings, ask, eventually, free_port, replaced

PHONE = "phone-key-0123456789-abc"
BRIEF = "brief-key-0123456789-abc"
ADMIN = "admin-key-0123456789-abc"
KNOCK, V4, V6, APP = "knock.example.com", "v4.knock.example.com", "v6.knock.example.com", "app.example.com"
OWN_PAGE = "own.example.com"
STRANGE = "strange.example.com"  # behind the gate, and not among the names to return to
APP_PAGE = "<!doctype html><title>app</title>The app."
SMALL: ViewportSize = {"width": 390, "height": 844}  # a phone's screen
LARGE: ViewportSize = {"width": 1280, "height": 800}

# The names, and the one that sees the other address family.
RESOLVED = f"MAP {V6} [::1], MAP *.example.com 127.0.0.1, MAP * ~NOTFOUND"


Told = Callable[..., None]


expect.set_options(timeout=15_000)  # milliseconds; a machine that has much to do gets them


@dataclass
class Stage:
    """The gate, its proxy, and the app behind them."""

    knocker: Knocker
    caddy: Caddy
    settings: dict[str, Any] = field(default_factory=dict)

    def url(self, host: str, path: str = "/") -> str:
        """An address as people type it."""
        return f"https://{host}:{self.caddy.port}{path}"

    def ask(self, path: str, key: str = ADMIN, client: str = "198.51.100.99", **named: Any) -> Answer:
        """What Knocker answers somebody else."""
        headers = {"X-Api-Key": key, "Host": KNOCK, "X-Forwarded-For": client}
        return ask(self.knocker.port, path, headers=headers, **named)

    def entries(self) -> list[str]:
        """What is open."""
        return [grant["entry"] for grant in self.ask("/grants").json()["grants"]]

    def close_all(self) -> None:
        """Nothing is open any more."""
        for grant in self.ask("/grants").json()["grants"]:
            assert self.ask(f"/grants/{grant['id']}", method="DELETE").status == 204


def settings(port: int, own_page: Path, **page: Any) -> Settings:
    """Settings of a Knocker whose clients are all on this machine."""
    return {
        "server": {"trusted_proxies": ["127.0.0.1", "::1"], "allow_loopback_clients": True},
        "api_keys": [
            {"name": "phone", "key": PHONE, "ttl": 3600},
            {"name": "brief", "key": BRIEF, "ttl": 2},
            {"name": "admin", "key": ADMIN, "ttl": 7200, "max_ttl": 40 * 86400, "allow_remote_whitelist": True},
        ],
        "security": {
            "deny": {"page": "knock"},
            "deny_by_host": {OWN_PAGE: {"status": 403, "page": str(own_page)}},
            "knock_rate_limit": {"window_seconds": 60, "successful_requests": 0, "failed_requests": 0},
        },
        "knock_page": {"url": f"https://{KNOCK}:{port}", "return_to": [APP, "*.home.example.com"], **page},
        "cors": {"allowed_origin": "https://somebody.example.org"},
    }


def caddyfile(port: int, knocker: int, app: int) -> str:
    """The Caddyfile that we ship, with the test's ports and certificates, and an app that Caddy plays as well."""
    protected = ", ".join(f"https://{host}:{port}" for host in (APP, OWN_PAGE, STRANGE, "tv.home.example.com"))
    return (
        replaced(
            (PROJECT / "Caddyfile").read_text(encoding="utf-8"),
            {
                f"\n{KNOCK} {{": f"\n{', '.join(f'https://{host}:{port}' for host in (KNOCK, V4, V6))} {{",
                f"\n{APP} {{": f"\n{protected} {{",
                "knocker:8000": f"127.0.0.1:{knocker}",
                "app:80": f"127.0.0.1:{app}",
            },
        )
        + f'\nhttp://:{app} {{\nbind 127.0.0.1\nheader Content-Type text/html\nrespond "{APP_PAGE}"\n}}\n'
    )


@pytest.fixture(scope="session")
def stage_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One for all tests."""
    browser.found()
    folder = tmp_path_factory.mktemp("stage")
    port, knocker_port = free_port(), free_port()
    own = folder / "own.html"
    own.write_text("<!doctype html><title>own</title>Ask Jo for a key.", encoding="utf-8")
    knocker = Knocker(folder, settings(port, own), knocker_port)
    try:
        knocker.start()
        with Caddy(folder, caddyfile(port, knocker_port, free_port()), port) as caddy:
            yield Stage(knocker, caddy, dict(settings(port, own)))
    finally:
        knocker.end(PHONE, BRIEF, ADMIN)


@pytest.fixture
def stage(stage_of_all: Stage) -> Stage:
    """The stage, with every door closed and its settings as they were."""
    stage_of_all.close_all()
    return stage_of_all


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's browser."""
    flags = [flag for flag in browser.FLAGS if not flag.startswith(("--headless", "--host-resolver-rules"))]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=browser.found(), args=[*flags, f"--host-resolver-rules={RESOLVED}"]
        )
        yield running
        running.close()


class Visitor:
    """Somebody with a browser: one window, and all that its pages asked for and complained of."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.complaints: list[str] = []
        self.asked: list[str] = []
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("console", self._heard)
        self.page: Page = context.new_page()
        self.elsewhere: set[str] = set()  # other origins that a test wants

    def _heard(self, message: Any) -> None:
        # That an answer was no success, a browser tells like this.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    def check(self, stage: Stage) -> None:
        """Nothing was complained of, and nothing asked for but what the policy names."""
        assert self.complaints == []
        known = {stage.url(host, "") for host in (KNOCK, V4, V6, APP, OWN_PAGE, STRANGE)} | self.elsewhere
        assert {"/".join(url.split("/")[:3]) for url in self.asked} <= known

    def knock(self, key: str, *, remember: bool = False) -> None:
        """Type the key and knock."""
        self.page.get_by_label("Key", exact=True).fill(key)
        if remember:
            self.page.get_by_label("Remember").check()
        self.page.get_by_role("button", name="Knock").click()


@pytest.fixture
def visitor(stage: Stage, chromium: Browser) -> Iterator[Visitor]:
    """Somebody with a phone, who has not been here before."""
    with chromium.new_context(
        ignore_https_errors=True, viewport=SMALL, has_touch=True, is_mobile=True, locale="en-GB"
    ) as context:
        somebody = Visitor(context)
        yield somebody
        somebody.check(stage)


@pytest.fixture
def told(stage: Stage) -> Iterator[Told]:
    """Changes the settings of a running Knocker, until the test ends."""

    def tell(whole: dict[str, Any]) -> None:
        before = stage.knocker.log.count("the settings were reloaded")
        stage.knocker.configure(whole)
        stage.knocker.hup()
        eventually(lambda: stage.knocker.log.count("the settings were reloaded") > before, "it reloads")

    yield lambda **sections: tell(
        {
            name: {**stage.settings.get(name, {}), **sections.get(name, {})}
            for name in stage.settings
            if name != "api_keys"
        }
        | {"api_keys": stage.settings["api_keys"]}
    )
    stage.knocker.configure(stage.settings)
    tell(stage.settings)


def is_open(page: Page) -> None:
    """The page says so."""
    expect(page.get_by_role("heading", name="The door is open")).to_be_visible()
