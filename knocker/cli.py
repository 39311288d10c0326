"""`knocker`, the command. What talks over the network is imported only where it is used (contract 5).

Exit status: 0 done, 1 refused, 2 usage, 3 no answer. Results go to stdout, faults to stderr as
``knocker: error: ...`` and, where it helps, ``knocker: hint: ...``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click
from click import types

from knocker import __version__, knocking, remote
from knocker.copying import store
from knocker.core.keys import digest_of, generate, udp_secret
from knocker.doctor.command import doctor
from knocker.faults import INTERRUPTED, NO_ANSWER, REFUSED, USAGE, Failed, fail, say
from knocker.settings import Faulty, Server, Settings, chosen_path, load


def _usage(error: click.UsageError) -> str:
    """What was wrong, without the value that was: it may be a key."""
    if isinstance(error, click.BadParameter) and error.param is not None:
        name = str(error.param.get_error_hint(error.ctx) if error.ctx else error.param.name).strip("'")
        return f"{name}: {_wanted(error, error.param.type)}"
    if "extra argument" in error.format_message():
        return "an argument too many"
    return error.format_message()


def _wanted(error: click.BadParameter, kind: click.ParamType[Any]) -> str:
    if isinstance(error, click.MissingParameter):
        return "it is missing"
    if isinstance(kind, click.IntRange):
        return f"expected a whole number from {kind.min} to {kind.max}"
    if isinstance(kind, click.Choice):
        return f"expected one of {', '.join(kind.choices)}"
    return error.message if isinstance(kind, types.StringParamType) else "not such a value"  # a text's fault is ours


class _Commands(click.Group):
    """The commands, whatever ends them."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(USAGE)
        except Failed as failed:
            fail(failed.status, failed.error, failed.hint)
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx is not None else "knocker"
            fail(USAGE, _usage(error), f"{where} --help says how")
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="knocker %(version)s")
def main() -> None:
    """Let yourself in: a knock-knock gateway for services behind a reverse proxy.

    On the server: check, genkey, reload, health. The service itself runs under twistd:

        twistd -n --pidfile= knocker --config knocker.yaml

    Anywhere: knock, leave, grants, revoke, explain, doctor, packet. They ask the gate at $KNOCKER_URL with the key in
    $KNOCKER_KEY, else those in ~/.config/knocker/client.yaml (url, key or key_file, udp).
    """


for _command in (
    *(knocking.knock, knocking.leave, knocking.packet),
    *(remote.grants, remote.revoke, remote.explain, doctor, store),
):
    main.add_command(_command)


def _load(path: str) -> Settings:
    try:
        return load(path)
    except Faulty as faulty:
        for fault in faulty.faults:
            say("error", fault)
        sys.exit(REFUSED)


def _checked(path: str) -> Settings:
    """The settings, with every warning said, also that of a key whose time is over."""
    import time
    from datetime import UTC, datetime

    settings = _load(path)
    for warning in settings.warnings:
        say("warning", warning)
    for number, key in enumerate(settings.keys):
        if key.expires is not None and key.is_over(time.time()):
            passed = datetime.fromtimestamp(key.expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
            say("warning", f"{path}: api_keys[{number}].expires: over since {passed}: {key.name} is refused")
    return settings


def _missing_folders(settings: Settings) -> list[tuple[str, str]]:
    """Where a Knocker on this very machine could store nothing."""
    paths = {} if settings.storage.shared else {"whitelist.storage_path": settings.storage.storage_path}
    if settings.udp.enabled:
        paths["udp.state_path"] = settings.udp.state_path
    folders = {setting: os.path.dirname(os.path.abspath(path)) for setting, path in paths.items()}
    return [(setting, folder) for setting, folder in folders.items() if not os.path.isdir(folder)]


@main.command()
@click.argument("file", required=False)
def check(file: str | None) -> None:
    """Check a settings file: every fault at once, each with its place.

    FILE is $KNOCKER_CONFIG_PATH, else ./knocker.yaml, unless it is given.
    """
    path = chosen_path(file, os.environ)
    settings = _checked(path)
    for setting, folder in _missing_folders(settings):
        say(
            "warning",
            f"{setting}: {folder} is not there: right where a container or systemd makes it, else name one of yours",
        )
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
@click.option("--config", "-c", metavar="FILE", help="The settings file, instead of $KNOCKER_CONFIG_PATH.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for scripts.")
def reload(config: str | None, as_json: bool) -> None:
    """Have the running Knocker read its settings again, once they are checked."""
    import json
    import signal

    pid = owner(_checked(chosen_path(config, os.environ)).storage.storage_path)
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        raise Failed(REFUSED, f"the Knocker that runs (pid {pid}) is out of reach here", _INSIDE) from None
    except PermissionError:
        hint = "run this as the user that runs Knocker, or as root"
        raise Failed(REFUSED, f"no permission to signal Knocker (pid {pid})", hint) from None
    asked = f"asked Knocker (pid {pid}) to read its settings again; its log says what came of it"
    click.echo(json.dumps({"pid": pid}) if as_json else asked)


_INSIDE = "run this where Knocker runs, e.g. docker compose exec knocker knocker reload"
_ELSEWHERE = (
    "a relative whitelist.storage_path counts from the directory that Knocker was started in;"
    " after a change of it Knocker needs a restart"
)


def owner(storage_path: str) -> int:
    """The pid of the Knocker that holds the lock of this storage, and nobody else's; raises Failed."""
    import fcntl
    import re

    path = storage_path + ".lock"
    nobody = Failed(NO_ANSWER, f"no Knocker runs on {storage_path}", _ELSEWHERE)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise nobody from None
    except OSError as error:
        hint = "run this as the user that runs Knocker, or as root" if isinstance(error, PermissionError) else ""
        raise Failed(REFUSED, f"{path}: {error.strerror or error}", hint) from None
    with open(descriptor, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            raise nobody
        except BlockingIOError:
            text, inode = file.read(32), os.fstat(descriptor).st_ino
        except OSError as error:
            raise Failed(REFUSED, f"{path}: {error.strerror or error}") from None
    if not re.fullmatch(rb"[1-9][0-9]{0,6}\n?", text):
        raise Failed(REFUSED, f"{path} does not say which process holds it", "is Knocker just starting? Try again")
    if not _holds(int(text), inode):
        # The number may be another process's here, which a SIGHUP would end.
        raise Failed(REFUSED, f"the Knocker that runs (pid {int(text)} where it is) is out of reach here", _INSIDE)
    return int(text)


def _holds(pid: int, inode: int) -> bool:
    """Whether process `pid`, as it is numbered here, has a lock on the file; taken for granted where none can tell."""
    try:
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            rows = [line.split() for line in file]
    except OSError:
        return True
    return any(
        row[1:2] == ["FLOCK"] and row[4:5] == [str(pid)] and row[5].endswith(f":{inode}")
        for row in rows
        if len(row) > 5
    )


def _server_at(url: str) -> Server:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        parts, host, port = None, None, 0
    if parts is None or parts.scheme != "http" or not host:
        fail(USAGE, f"not an http address: {url}")
    return Server(host, port)


@main.command()
@click.option("--config", "-c", help="The settings file that names the port.")
@click.option("--url", help="Ask there instead, e.g. http://127.0.0.1:8000")
def health(config: str | None, url: str | None) -> None:
    """Ask the Knocker on this machine whether it is well; for container probes."""
    import http.client
    import socket

    server = _load(chosen_path(config, os.environ)).server if url is None else _server_at(url)
    if server.endpoint:
        fail(USAGE, f"server.listen is {server.endpoint}: name the address to ask with --url http://...")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
    connection = http.client.HTTPConnection(host, server.port, timeout=5)
    try:
        if server.unix is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(5)
            connection.sock.connect(server.unix.path)
        connection.request("GET", "/health", headers={"Host": "localhost"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        fail(NO_ANSWER, f"no answer from {server.where}: {why}", "is Knocker running?")
    finally:
        connection.close()
    if status != 200:
        fail(REFUSED, f"{server.where} answered {status}")
    click.echo("ok")
