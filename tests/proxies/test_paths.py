"""Real file servers behind every proxy: no spelling of a path leads a stranger from what is open to what is not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.net import HOME, Answer, NoAnswer
from tests.proxies.conftest import Builder, Gateway, settings
from tests.proxies.recipes import RECIPES, all_but, nginx
from tests.service import Caddy, Knocker, Server

GATEWAYS = all_but("caddy-first", "caddy", "haproxy")

SECRET = b"nobody may read this"
OPEN = {
    "/metrics/public.txt": b"cpu 1",
    "/metrics/": b"<",
    "/metrics/?a=/../admin": b"<",
    "/api/v1/status/ok.txt": b"fine",
}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the file servers serve."""
    folder = tmp_path_factory.mktemp("files")
    for name, text in {
        "index.html": b"<p>start</p>\n",
        "metrics/public.txt": b"cpu 1\n",
        "metrics/index.html": b"<p>metrics</p>\n",
        "api/v1/status/ok.txt": b"fine\n",
        "admin/secret.txt": SECRET,
        "metricsx/secret.txt": SECRET,
        "secret.txt": SECRET,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    return folder


def _python(folder: Path, port: int, prefix: list[str], files: Path) -> Server:
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(files)]
    return Server(command, folder, port, prefix)


def _caddy(folder: Path, port: int, prefix: list[str], files: Path) -> Server:
    return Caddy(folder, f"http://:{port} {{\nroot {files}\nfile_server\n}}\n", port, prefix)


def _nginx(folder: Path, port: int, prefix: list[str], files: Path) -> Server:
    return nginx(folder, f"server {{ listen 127.0.0.1:{port}; root {files}; }}", port, prefix)


FILE_SERVERS = {"python": _python, "caddy": _caddy, "nginx": _nginx}
PAIRS = [
    (proxy, server)
    for proxy in RECIPES
    for server in FILE_SERVERS
    if LONG or (server == "python" and proxy not in ("caddy-first", "caddy"))
]

Serving = Callable[[str, str], Gateway]


@pytest.fixture(scope="session")
def serving(builder: Builder, files: Path) -> Serving:
    """Gives a gateway after a recipe with that file server behind it; one Knocker is asked by all."""
    servers: dict[str, Server] = {}
    gateways: dict[tuple[str, str], Gateway] = {}
    knockers: list[Knocker] = []

    def give(proxy: str, server: str) -> Gateway:
        if not knockers:
            knockers.append(builder.knocker(settings("app.example.com")))
        if server not in servers:
            start = FILE_SERVERS[server]
            servers[server] = builder.server(lambda folder, port: start(folder, port, builder.bench.server, files))
        if (proxy, server) not in gateways:
            gateways[proxy, server] = builder.gateway(proxy, servers[server].port, knockers[0])
        return gateways[proxy, server]

    return give


@pytest.fixture(params=PAIRS, ids="-before-".join)
def served(request: pytest.FixtureRequest, serving: Serving) -> Gateway:
    """Each proxy before each file server."""
    return serving(*request.param)


SPELLINGS = {
    "the secret itself": "/admin/secret.txt",
    "the secret itself, with an excluded query": "/admin/secret.txt?/metrics",
    "a query that would lead out": "/metrics/?/../../admin/secret.txt",
    "a query before the way": "/admin/secret.txt?x=1&uri=/metrics/",
    "two dots": "/metrics/../admin/secret.txt",
    "two dots below a file": "/metrics/public.txt/../../admin/secret.txt",
    "two dots, to the root": "/metrics/../secret.txt",
    "two dots from deeper": "/metrics/a/b/../../../admin/secret.txt",
    "two dots from a deep exclusion": "/api/v1/status/../../../admin/secret.txt",
    "two dots beyond the root": "/metrics/../../../admin/secret.txt",
    "two dots at the start": "/../admin/secret.txt",
    "two dots, there and back": "/admin/../metrics/../admin/secret.txt",
    "a dot": "/./admin/secret.txt",
    "a dot inside": "/metrics/./../admin/secret.txt",
    "a longer name": "/metricsx/secret.txt",
    "a longer name by a dot": "/metrics.x/../admin/secret.txt",
    "three dots": "/metrics/.../admin/secret.txt",
    "two slashes before": "//admin/secret.txt",
    "two slashes before the exclusion": "//metrics/../admin/secret.txt",
    "two slashes, as if metrics were a host": "//metrics/admin/secret.txt",
    "two slashes inside": "/metrics//../admin/secret.txt",
    "two slashes, dots": "/metrics//../../admin/secret.txt",
    "many slashes": "/metrics////..////admin////secret.txt",
    "a scheme in the query": "//admin/secret.txt?x=://metrics",
    "a scheme in the path": "/metrics://../../admin/secret.txt",
    "coded dots": "/metrics/%2e%2e/admin/secret.txt",
    "coded dots in capitals": "/metrics/%2E%2E/admin/secret.txt",
    "one coded dot": "/metrics/.%2e/admin/secret.txt",
    "the other coded dot": "/metrics/%2e./admin/secret.txt",
    "a coded slash": "/metrics/..%2fadmin/secret.txt",
    "a coded slash in capitals": "/metrics/..%2Fadmin/secret.txt",
    "coded slashes": "/metrics%2f..%2fadmin%2fsecret.txt",
    "all coded": "/metrics%2f%2e%2e%2fadmin%2fsecret.txt",
    "a coded slash before": "/%2fadmin/secret.txt",
    "coded letters": "/%61dmin/secret.txt",
    "coded letters of the exclusion": "/%6detrics/../admin/secret.txt",
    "coded twice": "/metrics/%252e%252e/admin/secret.txt",
    "a slash coded twice": "/metrics/..%252fadmin/secret.txt",
    "an overlong dot": "/metrics/%c0%ae%c0%ae/admin/secret.txt",
    "an overlong slash": "/metrics/..%c0%afadmin/secret.txt",
    "wide dots": "/metrics/%ef%bc%8e%ef%bc%8e/admin/secret.txt",
    "the code of another standard": "/metrics/%u002e%u002e/admin/secret.txt",
    "a semicolon": "/metrics;/../admin/secret.txt",
    "a semicolon behind dots": "/metrics/..;/admin/secret.txt",
    "a parameter behind dots": "/metrics/..;a=b/admin/secret.txt",
    "a coded semicolon": "/metrics/..%3b/admin/secret.txt",
    "a backslash": "/metrics/..\\admin/secret.txt",
    "backslashes": "/metrics\\..\\admin\\secret.txt",
    "a coded backslash": "/metrics/..%5cadmin/secret.txt",
    "coded backslashes": "/metrics%5c..%5cadmin%5csecret.txt",
    "a fragment": "/admin/secret.txt#/metrics",
    "a fragment behind the exclusion": "/metrics#/../admin/secret.txt",
    "a coded fragment": "/metrics%23/../admin/secret.txt",
    "a coded query": "/metrics%3f/../admin/secret.txt",
    "a coded query behind the secret": "/admin/secret.txt%3f/metrics",
    "a zero byte": "/admin/secret.txt%00/metrics",
    "a zero byte behind the exclusion": "/metrics%00/../admin/secret.txt",
    "a coded line break": "/metrics/%0d%0a/../../admin/secret.txt",
    "a coded line break that begins a header": "/admin/secret.txt?%0d%0aX-Forwarded-Uri:%20/metrics",
    "the same in the path": "/admin/secret.txt%0d%0aX-Forwarded-Uri:%20/metrics",
    "a coded space": "/metrics/..%20/admin/secret.txt",
    "a space": "/metrics /../admin/secret.txt",
    "a space, as if a version came": "/metrics HTTP/1.1/../admin/secret.txt",
    "a tab": "/metrics\t/../admin/secret.txt",
    "a coded tab": "/metrics/.%09./admin/secret.txt",
    "a broken code": "/metrics/%/../../admin/secret.txt",
    "another broken code": "/metrics/%zz/../../admin/secret.txt",
    "bytes beyond ASCII": "/metrics/\xe4\xff/../../admin/secret.txt",
    "wide dots as they are": "/metrics/\xef\xbc\x8e\xef\xbc\x8e/admin/secret.txt",
    "capitals": "/METRICS/../admin/secret.txt",
    "a whole URL": "http://app.example.com/metrics/../admin/secret.txt",
    "a whole URL of the exclusion as host": "http://metrics/../admin/secret.txt",
    "a whole URL with two slashes": "http://app.example.com//metrics/../admin/secret.txt",
    "no slash at the start": "metrics/../admin/secret.txt",
    "an asterisk": "*/metrics/../admin/secret.txt",
    "a very long way": "/metrics/" + "a/../" * 400 + "../admin/secret.txt",
}


def _asked(gateway: Gateway, source: str, target: str) -> Answer | None:
    """The answer, or None where the proxy found the request unworthy of any."""
    try:
        return gateway.send(source, [], target)
    except NoAnswer:
        return None


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_leads_a_stranger_to_the_secret(served: Gateway, nobodies: list[str], spelling: str) -> None:
    answer = _asked(served, nobodies[0], SPELLINGS[spelling])
    assert answer is None or SECRET not in answer.body


def test_many_spellings_lead_who_may_read_it_to_the_secret(served: Gateway) -> None:
    """So the test above could fail."""
    answers = {kind: _asked(served, HOME, target) for kind, target in SPELLINGS.items()}
    found = [kind for kind, answer in answers.items() if answer and answer.status == 200 and SECRET in answer.body]
    assert "the secret itself" in found
    assert len(found) >= 10, found


@pytest.mark.parametrize("path", OPEN)
def test_what_is_excluded_is_served_to_strangers(served: Gateway, nobodies: list[str], path: str) -> None:
    answer = served.get(path, nobodies[1])
    assert answer.status == 200
    assert OPEN[path] in answer.body


# Where even the name is not what it seems, and no file would tell.
ODD = [
    "/metricsx",
    "/METRICS",
    "/?x=/metrics",
    "/admin/metrics",
    "/metrics/..",
    "/metrics/.",
    "/metrics/./x",
    "/metrics//x",
    "//metrics",
    "/metrics%00",
    "/%6detrics",
    "/metrics;x",
    "/metrics/%ff",
    "/metrics/\xe4",
]


@pytest.mark.parametrize("path", ODD)
def test_whatever_could_be_read_as_another_path_is_not_excluded(
    gateway: Gateway, nobodies: list[str], path: str
) -> None:
    """Unless the proxy tidies it up for both Knocker and the app."""
    answer = _asked(gateway, nobodies[1], path)
    if answer and answer.status == 200:
        assert gateway.name in ("traefik", "envoy")
        told = answer.json()["path"]
        assert told in ("/metrics", "/metrics/", "/metrics/x")
    else:
        assert answer is None or answer.status in (301, 307, 400, 401), answer
