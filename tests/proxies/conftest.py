"""One bench for all tests here, and on it Caddy before a small app, with Knocker at its side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.net import HOME, HOME_NETWORKS, Answer, Bench, NoAnswer, NoBench
from tests.service import PROJECT, Caddy, Knocker, Server, Settings, eventually, replaced

APP = Path(__file__).parent / "app.py"
APP_PORT = 8096

KEYS = {
    "phone": "phone-key-0123456789-abc",
    "brief": "brief-key-0123456789-abc",
    "admin": "admin-key-0123456789-abc",
    "elsewhere": "elsewhere-key-0123456789",
    "here": "here-key-0123456789-abcd",
}
EXCLUDED = ["/metrics", "/api/v1/status"]

# What users have copied from older pages about Knocker; it has to go on working as it stands.
FIRST_RECIPE = """\
(knocker_auth) {
  forward_auth knocker:8000 {
    uri /verify
    copy_headers X-Forwarded-For
  }
}
knock.your-domain.com {
  reverse_proxy knocker:8000
}
jellyfin.your-domain.com {
  import knocker_auth
  reverse_proxy jellyfin_service_name:8096
}
"""


@dataclass(frozen=True)
class Recipe:
    """A Caddyfile, and the texts in it that stand for this or that host."""

    caddyfile: str
    knock_host: str
    app_host: str
    knocker: str
    app: str


RECIPES = {
    "first": Recipe(
        FIRST_RECIPE, "knock.your-domain.com", "jellyfin.your-domain.com", "knocker:8000", "jellyfin_service_name:8096"
    ),
    "ours": Recipe(
        (PROJECT / "Caddyfile").read_text(), "knock.example.com", "app.example.com", "knocker:8000", "app:80"
    ),
}


@dataclass(frozen=True)
class Gateway:
    """A Caddy on the bench with the app behind it and a Knocker that it asks."""

    bench: Bench
    caddy: Caddy
    knocker: Knocker
    app_host: str
    knock_host: str
    scheme: str = "http"

    def get(self, path: str, source: str, *args: str) -> Answer:
        """What curl is answered when the client `source` asks the app for `path`."""
        return self._curl(self.app_host, path, source, args)

    def ask_knocker(self, path: str, source: str, *args: str) -> Answer:
        """What curl is answered when the client `source` asks the knock host for `path`."""
        return self._curl(self.knock_host, path, source, args)

    def _curl(self, host: str, path: str, source: str, args: tuple[str, ...]) -> Answer:
        url = f"{self.scheme}://{host}:{self.caddy.port}{path}"
        return self.bench.curl("--insecure", "--path-as-is", *args, url, source=source)

    def answers(self) -> bool:
        """Whether Caddy answers for both hosts."""
        try:
            return bool(self.get("/", HOME) and self.ask_knocker("/", HOME))
        except NoAnswer:
            return False

    def knock(self, source: str, *args: str, key: str = "phone") -> Answer:
        """The answer to a knock as the README shows it."""
        return self.ask_knocker("/knock", source, "-H", f"X-Api-Key: {KEYS[key]}", *args)

    def lets_in(self, source: str, path: str = "/") -> bool:
        """Whether the client `source` gets to the app; whoever does not must be told 401."""
        answer = self.get(path, source)
        assert answer.status in (200, 401), answer
        assert reached(answer) == (answer.status == 200)
        return answer.status == 200


def reached(answer: Answer) -> bool:
    """Whether this is the app's answer."""
    return b'"app": "reached"' in answer.body


def settings(app_host: str) -> Settings:
    """Settings of a Knocker beside its proxy: a key of each sort, and what opens without one."""
    return {
        "server": {"trusted_proxies": ["127.0.0.1", "::1"]},
        "api_keys": [
            {"name": "phone", "key": KEYS["phone"], "ttl": 3600},
            {"name": "brief", "key": KEYS["brief"], "ttl": 2},
            {"name": "admin", "key": KEYS["admin"], "ttl": 3600, "allow_remote_whitelist": True},
            {"name": "elsewhere", "key": KEYS["elsewhere"], "ttl": 3600, "hosts": ["elsewhere.example.com"]},
            {"name": "here", "key": KEYS["here"], "ttl": 3600, "hosts": [app_host]},
        ],
        "security": {
            "always_allowed_ips": HOME_NETWORKS,
            "excluded_paths": EXCLUDED,
            "knock_rate_limit": {"successful_requests": 0, "failed_requests": 0},
        },
    }


def fitted(recipe: Recipe, caddy_port: int, knocker_port: int, scheme: str) -> str:
    """The recipe's Caddyfile with the bench's ports, and its addresses instead of names."""
    return replaced(
        recipe.caddyfile,
        {
            f"\n{recipe.knock_host} {{": f"\n{scheme}://{recipe.knock_host}:{caddy_port} {{",
            f"\n{recipe.app_host} {{": f"\n{scheme}://{recipe.app_host}:{caddy_port} {{",
            recipe.knocker: f"127.0.0.1:{knocker_port}",
            recipe.app: f"127.0.0.1:{APP_PORT}",
        },
    )


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """The two namespaces, or the reason why there are none."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(Bench())
        except NoBench as reason:
            pytest.skip(str(reason))
        yield made


@pytest.fixture(scope="session")
def app(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The protected app, which only processes on the server can reach."""
    command = [sys.executable, str(APP), str(APP_PORT)]
    with Server(command, tmp_path_factory.mktemp("app"), APP_PORT, bench.server) as running:
        yield running


class Builder:
    """Starts processes on the bench's server, each on a port of its own, and ends them all."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.bench = bench
        self.directory = directory
        self._running = ExitStack()

    def close(self) -> None:
        """End everything."""
        self._running.close()

    def caddy(self, caddyfile: Callable[[int], str], options: str = "") -> Caddy:
        """A Caddy with the Caddyfile made for its port."""
        port = next(_ports)
        caddy = Caddy(self._folder(f"caddy-{port}"), caddyfile(port), port, self.bench.server, options)
        return self._running.enter_context(caddy)

    def knocker(self, settings: Settings) -> Knocker:
        """A Knocker with these settings."""
        port = next(_ports)
        knocker = Knocker(self._folder(f"knocker-{port}"), settings, port, prefix=self.bench.server)
        self._running.callback(knocker.end, *KEYS.values())
        knocker.start()
        return knocker

    def gateway(self, recipe: str, scheme: str = "http") -> Gateway:
        """Both, after a recipe."""
        chosen = RECIPES[recipe]
        knocker = self.knocker(settings(chosen.app_host))
        caddy = self.caddy(lambda port: fitted(chosen, port, knocker.port, scheme))
        gateway = Gateway(self.bench, caddy, knocker, chosen.app_host, chosen.knock_host, scheme)
        # Caddy makes its certificates only after it has begun to listen.
        eventually(gateway.answers, "Caddy answers for both hosts")
        return gateway

    def beside(self, knocker: Knocker, asks: str, options: str = "") -> Gateway:
        """A Caddy that asks this Knocker as `asks` tells forward_auth to."""
        caddy = self.caddy(
            lambda port: (
                f"""
http://app.example.com:{port} {{
  forward_auth 127.0.0.1:{knocker.port} {{
    {asks}
  }}
  reverse_proxy 127.0.0.1:{APP_PORT}
}}
http://knock.example.com:{port} {{
  reverse_proxy 127.0.0.1:{knocker.port}
}}
"""
            ),
            options,
        )
        return Gateway(self.bench, caddy, knocker, "app.example.com", "knock.example.com")

    def _folder(self, name: str) -> Path:
        folder = self.directory / name
        folder.mkdir()
        return folder


_ports = count(8101)


@pytest.fixture
def build(bench: Bench, app: Server, tmp_path: Path) -> Iterator[Builder]:
    """Processes for one test."""
    builder = Builder(bench, tmp_path)
    try:
        yield builder
    finally:
        builder.close()


@pytest.fixture(scope="session")
def builder(bench: Bench, app: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """Processes for all tests."""
    made = Builder(bench, tmp_path_factory.mktemp("gateways"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def first(builder: Builder) -> Gateway:
    """A gateway after the first recipe."""
    return builder.gateway("first")


@pytest.fixture(scope="session")
def ours(builder: Builder) -> Gateway:
    """A gateway after our Caddyfile."""
    return builder.gateway("ours")


@pytest.fixture(scope="session", params=sorted(RECIPES))
def gateway(request: pytest.FixtureRequest) -> Gateway:
    """A gateway after each recipe, which the tests share: so each test uses clients that no other has used."""
    shared: Gateway = request.getfixturevalue(request.param)
    return shared


@pytest.fixture(params=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> str:
    """The address family of the clients."""
    return str(request.param)


@pytest.fixture
def fresh(bench: Bench, family: str) -> Callable[[], str]:
    """Gives addresses of that family that no test has used."""
    return bench.stranger if family == "IPv4" else bench.stranger_6
