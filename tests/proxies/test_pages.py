"""What a refused browser sees behind each proxy, as docs/proxies/README.md tells."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import unquote

import pytest

from tests.net import Bench
from tests.proxies.conftest import Builder, Gateway, settings
from tests.proxies.recipes import FOLDER, RECIPES, all_but

# How each shows it; the recipe's text is changed as the docs tell.
README = (FOLDER / "README.md").read_text(encoding="utf-8")
NAVIGATION = ["Accept: text/html,*/*;q=0.8", "Sec-Fetch-Mode: navigate", "Accept-Language: de"]


def gateway(build: Builder, name: str, edits: dict[str, dict[str, str]] | None = None) -> Gateway:
    recipe = RECIPES[name]
    told = dict(settings(recipe.app_host))
    told["security"] = {**told["security"], "deny": {"page": "knock"}}
    told["knock_page"] = {"url": f"https://{recipe.knock_host}"}
    return build.gateway(name, knocker=build.knocker(told), edits=edits)


def is_shown(made: Gateway, bench: Bench) -> None:
    """A browser is led to the knock page and back; nobody else is told more than before."""
    client, recipe = bench.stranger_6(), made.recipe
    answer = made.send(client, NAVIGATION, "/some/path?q=%41")
    assert (answer.status, answer.lines("Content-Type")) == (401, ["text/html; charset=utf-8"])
    assert '<html lang="de">' in answer.body.decode()
    link = re.search(r'<a href="([^"]+)"', answer.body.decode())
    assert link is not None
    origin, _, back = unescape(link[1]).partition("/#back=")
    assert origin == f"https://{recipe.knock_host}"
    assert re.fullmatch(rf"{recipe.scheme}://{recipe.app_host}(:\d+)?/some/path\?q=(%41|A)", unquote(back))
    image = made.send(client, ["Accept: image/avif,*/*", "Sec-Fetch-Mode: no-cors"])
    assert (image.status, image.body) == (401, b"")
    posted = made.send(client, [*NAVIGATION, "Content-Length: 0"], method="POST")
    assert (posted.status, posted.body) == (401, b"")
    made.knock(client)
    assert made.send(client, NAVIGATION).status == 200


@pytest.mark.parametrize(
    "name", [name for name in all_but("caddy", "caddy-first", "envoy") if RECIPES[name].shows_knockers_answer]
)
def test_knockers_page_is_shown(build: Builder, bench: Bench, name: str) -> None:
    is_shown(gateway(build, name), bench)


@pytest.mark.parametrize("name", [name for name in all_but("nginx") if not RECIPES[name].shows_knockers_answer])
def test_others_show_a_page_of_their_own(build: Builder, bench: Bench, name: str) -> None:
    answer = gateway(build, name).send(bench.stranger_6(), NAVIGATION)
    assert answer.status == 401
    assert b"back=" not in answer.body


def test_nginx_shows_it_when_it_is_told_to(build: Builder, bench: Bench) -> None:
    found = re.search(r"```nginx\n(.*?)\n\n(.*?)```", README, re.DOTALL)
    assert found is not None
    asks, location = (part.replace("\n", "\n\t") for part in found.groups())
    edits = {
        "\t\tauth_request /_knocker;\n": f"\t\tauth_request /_knocker;\n\t{asks}\n",
        "\t# The question to Knocker, which": f"\t{location}\n\t# The question to Knocker, which",
    }
    is_shown(gateway(build, "nginx", {"nginx.conf": edits}), bench)
