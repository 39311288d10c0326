"""`knocker`, the command. What talks over the network is imported only where it is used (contract 5).

Exit status: 0 done, 1 refused, 2 usage, 3 no answer. Results go to stdout, faults to stderr as
``knocker: error: ...`` and, where it helps, ``knocker: hint: ...``.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from knocker import __version__
from knocker.core.keys import digest_of, generate, udp_secret
from knocker.settings import Faulty, Settings, load

REFUSED, USAGE, NO_ANSWER = 1, 2, 3


def fail(status: int, error: str, hint: str = "") -> NoReturn:
    """Say what went wrong, and end."""
    click.echo(f"knocker: error: {error}", err=True)
    if hint:
        click.echo(f"knocker: hint: {hint}", err=True)
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="knocker %(version)s")
def main() -> None:
    """Let yourself in: a knock-knock gateway for services behind a reverse proxy.

    On the server: check, genkey, health. The service itself runs under twistd:

        twistd -n --pidfile= knocker --config knocker.yaml
    """


def _config_path(path: str | None) -> str:
    return path or os.environ.get("KNOCKER_CONFIG_PATH") or "knocker.yaml"


def _load(path: str) -> Settings:
    try:
        return load(path)
    except Faulty as faulty:
        for fault in faulty.faults:
            click.echo(f"knocker: error: {fault}", err=True)
        sys.exit(REFUSED)


@main.command()
@click.argument("file", required=False)
def check(file: str | None) -> None:
    """Check a settings file: every fault at once, each with its place.

    FILE is $KNOCKER_CONFIG_PATH, else ./knocker.yaml, unless it is given.
    """
    path = _config_path(file)
    settings = _load(path)
    for warning in settings.warnings:
        click.echo(f"knocker: warning: {warning}", err=True)
    click.echo(f"{path} is fine: {len(settings.keys)} key{'s' if len(settings.keys) != 1 else ''}")


@main.command()
@click.option("--name", default="phone", show_default=True, help="What the key is called in logs and listings.")
def genkey(name: str) -> None:
    """Make a new key: shown this once, with the stanza for knocker.yaml, which holds only its hash."""
    from secrets import token_bytes

    if not name.isprintable() or not 1 <= len(name) <= 64 or name != name.strip():
        fail(USAGE, "a name has 1 to 64 printable characters")
    key = generate(token_bytes)
    click.echo(f"key: {key}")
    click.echo("Keep it now, it is not shown again. For api_keys in knocker.yaml:", err=True)
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    click.echo(f'  - name: "{quoted}"')
    click.echo(f'    key_sha256: "{digest_of(key.encode()).hex()}"')
    click.echo(f'    udp_secret: "{udp_secret(key).hex()}"')
    click.echo("    ttl: 3600")


@main.command()
@click.option("--config", "-c", help="The settings file that names the port.")
@click.option("--url", help="Ask there instead, e.g. http://127.0.0.1:8000")
def health(config: str | None, url: str | None) -> None:
    """Ask the Knocker on this machine whether it is well; for container probes."""
    import http.client
    from urllib.parse import urlsplit

    if url is None:
        server = _load(_config_path(config)).server
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
        port: int | None = server.port
    else:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            parts, host, port = None, "", None
        if parts is None or parts.scheme != "http" or not host:
            fail(USAGE, f"not an http address: {url}")
    connection = http.client.HTTPConnection(host, port or 80, timeout=5)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        fail(NO_ANSWER, f"no answer from {host} port {port}: {error}", "is Knocker running?")
    finally:
        connection.close()
    if status != 200:
        fail(REFUSED, f"{host} port {port} answered {status}")
    click.echo("ok")
