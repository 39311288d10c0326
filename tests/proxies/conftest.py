"""One bench for all tests here, and on it each proxy before a small app, with Knocker at its side."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.net import HOME, HOME_NETWORKS, SERVER, SERVER_6, Answer, Bench, NoAnswer, bench_or_skip
from tests.proxies.recipes import RECIPES, Place, Recipe
from tests.service import Caddy, Knocker, Server, Settings, eventually

HERE = Path(__file__).parent
APP_PORT = 8096

KEYS = {
    "phone": "phone-key-0123456789-abc",
    "brief": "brief-key-0123456789-abc",
    "admin": "admin-key-0123456789-abc",
    "elsewhere": "elsewhere-key-0123456789",
    "here": "here-key-0123456789-abcd",
}
ELSEWHERE = "elsewhere.example.com"
EXCLUDED = ["/metrics", "/api/v1/status"]


class Client:
    """Sends bytes as they are from the client's side of the bench; a context manager."""

    def __init__(self, bench: Bench) -> None:
        self._process = subprocess.Popen(
            [*bench.client, sys.executable, str(HERE / "client.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)  # it ends with its input

    def send(self, source: str, port: int, data: str, **order: Any) -> Answer:
        """The answer to these bytes (a character is one) from the address `source`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        server = SERVER_6 if ":" in source else SERVER
        whole = {"source": source, "server": server, "port": port, "send": data, "tls": None, "timeout": 6, **order}
        print(json.dumps(whole), file=self._process.stdin, flush=True)
        told = json.loads(self._process.stdout.readline())
        if "fault" in told:
            raise NoAnswer(told["fault"])
        headers = tuple((name, value) for name, value in told["headers"])
        return Answer(told["status"], headers, told["body"].encode("latin-1"))


@dataclass(frozen=True)
class Gateway:
    """A proxy on the bench with the app behind it and a Knocker that it asks."""

    name: str
    bench: Bench
    client: Client
    proxy: Server
    knocker: Knocker
    recipe: Recipe
    inside: str | None = HOME  # a client that is always let in, None where there may be none

    @property
    def app_host(self) -> str:
        """The name of the app's site, as a client writes it."""
        return f"{self.recipe.app_host}:{self.proxy.port}"

    def get(self, path: str, source: str, *args: str) -> Answer:
        """What curl is answered when the client `source` asks the app for `path`."""
        return self._curl(self.recipe.app_host, path, source, args)

    def ask_knocker(self, path: str, source: str, *args: str) -> Answer:
        """What curl is answered when the client `source` asks the knock host for `path`."""
        return self._curl(self.recipe.knock_host, path, source, args)

    def _curl(self, host: str, path: str, source: str, args: tuple[str, ...]) -> Answer:
        url = f"{self.recipe.scheme}://{host}:{self.proxy.port}{path}"
        return self.bench.curl("--insecure", "--path-as-is", *args, url, source=source)

    def send(
        self,
        source: str,
        lines: Sequence[str] = (),
        target: str = "/",
        hosts: Sequence[str] | None = None,
        method: str = "GET",
        site: str = "",
        body: str = "",
        **order: Any,
    ) -> Answer:
        """The answer to a request of exactly these lines; `site` is the host that TLS names, the app's by default."""
        site = site or self.recipe.app_host
        hosts = [f"{site}:{self.proxy.port}"] if hosts is None else hosts
        head = [f"{method} {target} HTTP/1.1", *(f"Host: {host}" for host in hosts), *lines]
        if not any(line.lower().startswith("connection:") for line in lines):
            head.append("Connection: close")
        tls = site if self.recipe.scheme == "https" else None
        return self.client.send(source, self.proxy.port, "\r\n".join([*head, "", body]), tls=tls, **order)

    def answers(self) -> bool:
        """Whether the proxy answers for both hosts as it shall: it may begin to listen before it is ready."""
        try:
            app = self.get("/", self.inside or HOME).status
            return (app == 200 if self.inside else app != 404) and self.ask_knocker("/health", HOME).status == 200
        except NoAnswer:
            return False

    def knock(self, source: str, *args: str, key: str = "phone") -> Answer:
        """The answer to a knock as the README shows it."""
        return self.ask_knocker("/knock", source, "-H", f"X-Api-Key: {KEYS[key]}", *args)

    def lets_in(self, source: str, path: str = "/") -> bool:
        """Whether the client `source` gets to the app; whoever does not must be told 401."""
        answer = self.send(source, target=path)
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
            {"name": "elsewhere", "key": KEYS["elsewhere"], "ttl": 3600, "hosts": [ELSEWHERE]},
            {"name": "here", "key": KEYS["here"], "ttl": 3600, "hosts": [app_host]},
        ],
        "security": {
            "always_allowed_ips": HOME_NETWORKS,
            "excluded_paths": EXCLUDED,
            "knock_rate_limit": {"successful_requests": 0, "failed_requests": 0},
        },
    }


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """The two namespaces, or the reason why there are none."""
    with bench_or_skip() as made:
        yield made


@pytest.fixture(scope="session")
def client(bench: Bench) -> Iterator[Client]:
    """The sender of bytes."""
    with Client(bench) as running:
        yield running


@pytest.fixture(scope="session")
def app(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The protected app, which only processes on the server can reach."""
    command = [sys.executable, str(HERE / "app.py"), str(APP_PORT)]
    with Server(command, tmp_path_factory.mktemp("app"), APP_PORT, bench.server) as running:
        yield running


_ports = count(8101)


class Builder:
    """Starts processes on the bench's server, each on a port of its own, and ends them all."""

    def __init__(self, bench: Bench, client: Client, directory: Path) -> None:
        self.bench = bench
        self.client = client
        self.directory = directory
        self._running = ExitStack()

    def close(self) -> None:
        """End everything."""
        self._running.close()

    def server(self, make: Callable[[Path, int], Server]) -> Server:
        """The server made for a folder and a port, started."""
        port = next(_ports)
        return self._running.enter_context(make(self._folder(str(port)), port))

    def python(self, script: Path, *args: str) -> Server:
        """A program of ours, which is told its port, then the other arguments."""
        return self.server(
            lambda folder, port: Server(
                [sys.executable, str(script), str(port), *args], folder, port, self.bench.server
            )
        )

    def knocker(self, settings: Settings) -> Knocker:
        """A Knocker with these settings."""
        port = next(_ports)
        knocker = Knocker(self._folder(f"knocker-{port}"), settings, port, prefix=self.bench.server)
        self._running.callback(knocker.end, *KEYS.values())
        knocker.start()
        return knocker

    def gateway(
        self,
        name: str,
        app: int = APP_PORT,
        knocker: Knocker | None = None,
        edits: Mapping[str, Mapping[str, str]] | None = None,
        inside: str | None = HOME,
    ) -> Gateway:
        """A proxy after a recipe, and its Knocker."""
        recipe = RECIPES[name]
        knocker = knocker or self.knocker(settings(recipe.app_host))
        asked = knocker.port
        proxy = self.server(
            lambda folder, port: recipe.start(Place(folder, port, asked, app, self.bench.server, edits or {}))
        )
        gateway = Gateway(name, self.bench, self.client, proxy, knocker, recipe, inside)
        eventually(gateway.answers, f"{name} answers for both hosts", seconds=20)
        return gateway

    def beside(self, knocker: Knocker, asks: str, options: str = "") -> Gateway:
        """A Caddy that asks this Knocker as `asks` tells forward_auth to."""

        def start(place: Place) -> Server:
            text = f"""
http://app.example.com:{place.port} {{
  forward_auth 127.0.0.1:{place.knocker} {{
    {asks}
  }}
  reverse_proxy 127.0.0.1:{place.app}
}}
http://knock.example.com:{place.port} {{
  reverse_proxy 127.0.0.1:{place.knocker}
}}
"""
            return Caddy(place.directory, text, place.port, place.prefix, options)

        recipe = Recipe(start, scheme="http")
        proxy = self.server(lambda folder, port: start(Place(folder, port, knocker.port, APP_PORT, self.bench.server)))
        return Gateway("caddy", self.bench, self.client, proxy, knocker, recipe)

    def _folder(self, name: str) -> Path:
        folder = self.directory / name
        folder.mkdir()
        return folder


@pytest.fixture
def build(bench: Bench, client: Client, app: Server, tmp_path: Path) -> Iterator[Builder]:
    """Processes for one test."""
    builder = Builder(bench, client, tmp_path)
    try:
        yield builder
    finally:
        builder.close()


@pytest.fixture(scope="session")
def builder(bench: Bench, client: Client, app: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """Processes for all tests."""
    made = Builder(bench, client, tmp_path_factory.mktemp("gateways"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def gateways(builder: Builder) -> Callable[[str], Gateway]:
    """Gives the gateway after a recipe, which the tests share: so each test uses clients that no other has used."""
    made: dict[str, Gateway] = {}

    def give(name: str) -> Gateway:
        if name not in made:
            made[name] = builder.gateway(name)
        return made[name]

    return give


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that wants a gateway runs once for each that its file names in GATEWAYS."""
    if "gateway" in metafunc.fixturenames:
        metafunc.parametrize("gateway", metafunc.module.GATEWAYS, indirect=True, scope="module")


@pytest.fixture(scope="module")
def gateway(request: pytest.FixtureRequest, gateways: Callable[[str], Gateway]) -> Gateway:
    """A gateway after a recipe."""
    return gateways(request.param)


@pytest.fixture(scope="session")
def nobodies(bench: Bench) -> list[str]:
    """A client of each address family that never knocks."""
    return [bench.stranger(), bench.stranger_6()]


@pytest.fixture(params=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> str:
    """The address family of the clients."""
    return str(request.param)


@pytest.fixture
def fresh(bench: Bench, family: str) -> Callable[[], str]:
    """Gives addresses of that family that no test has used."""
    return bench.stranger if family == "IPv4" else bench.stranger_6
