"""What the commands have in common that ask a gate over HTTP, and those that see and take back (contract 3.4, 5)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from knocker.account import Account, account
from knocker.client import LARGE, Answer, Candidate, ask, resolve
from knocker.core import strictjson
from knocker.core.printable import printable
from knocker.faults import NO_ANSWER, REFUSED, USAGE, Failed, say

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Result = TypeVar("_Result")

_HEADINGS = ("ID", "ENTRY", "KEY", "VIA", "HOSTS", "LEFT")


def reaching(command: _Command) -> _Command:
    """The options of every command that asks a gate."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for scripts."),
        click.option("--key-file", metavar="FILE", help="The file with the key, instead of $KNOCKER_KEY."),
        click.option("--url", metavar="URL", help="The gate, e.g. https://knock.example.com, instead of $KNOCKER_URL."),
    ):
        command = option(command)
    return command


def prompt() -> Callable[[], str] | None:
    """What asks a person for a key, without showing it; None where nobody is there to be asked."""
    if not (sys.stdin and sys.stdin.isatty()):
        return None

    def typed() -> str:
        from getpass import getpass

        try:
            return getpass("key: ").strip()
        except EOFError:
            return ""

    return typed


def known_account(url: str | None, key_file: str | None, named: str = "--url") -> Account:
    """The gate and the key, with what is to be said of them said; raises Failed. `named`: where `url` comes from."""
    found = account(url, key_file, os.environ, named, prompt())
    for warning in found.warnings:
        say("warning", warning)
    return found


def chosen(candidates: list[Candidate], host: str, only_4: bool, only_6: bool) -> list[Candidate]:
    """The addresses of the families that -4 and -6 choose; raises Failed where there is none."""
    wanted = [name for name, only in (("IPv4", only_4), ("IPv6", only_6)) if only] or ["IPv4", "IPv6"]
    found = [candidate for candidate in candidates if candidate.name in wanted]
    if not found:
        raise Failed(NO_ANSWER, f"{host} has no {' or '.join(wanted)} address")
    return found


def over_each_family(
    candidates: list[Candidate], act: Callable[[list[Candidate]], _Result]
) -> tuple[dict[str, _Result], dict[str, Failed]]:
    """Do the same over each family; what came of it, and what went wrong, by the family's name."""
    done: dict[str, _Result] = {}
    faults: dict[str, Failed] = {}
    for family in dict.fromkeys(candidate.name for candidate in candidates):
        try:
            done[family] = act([candidate for candidate in candidates if candidate.name == family])
        except Failed as failed:
            faults[family] = failed
    return done, faults


def tell_faults(faults: dict[str, Failed], done: int) -> int:
    """Say what went wrong over which family; the exit status: the worst that happened."""
    status = REFUSED if any(failed.status == REFUSED for failed in faults.values()) else 0 if done else NO_ANSWER
    for family, failed in faults.items():
        over = f"over {family}: " if done + len(faults) > 1 else ""
        say("error" if status else "warning", over + failed.error)
    for hint in dict.fromkeys(failed.hint for failed in faults.values() if failed.hint):
        say("hint", hint)
    return status


def as_one(faults: dict[str, Failed]) -> Failed:
    """What went wrong over all families, where nothing went right."""
    worst = min(faults.values(), key=lambda failed: failed.status)
    over = {family: f"over {family}: " if len(faults) > 1 else "" for family in faults}
    text = "\n".join(over[family] + failed.error for family, failed in faults.items())
    passing = all(failed.passing for failed in faults.values())
    return Failed(worst.status, text, worst.hint, passing)


@click.command()
@reaching
@click.option("--host", metavar="NAME", help="Only those that open this host.")
@click.option("--owner", metavar="NAME", help="Only those of the key of this name.")
def grants(url: str | None, key_file: str | None, as_json: bool, host: str | None, owner: str | None) -> None:
    """List the open doors: those of this key, or everybody's with an admin key."""
    from urllib.parse import urlencode

    caller = known_account(url, key_file)
    wanted = {name: text for name, text in (("host", host), ("key", owner)) if text is not None}
    query = "?" + urlencode(wanted, errors="surrogateescape") if wanted else ""
    answer = ask(caller, "GET", f"/grants{query}", resolve(caller.where), LARGE)
    if answer.status != 200:
        raise refusal(caller, answer)
    try:
        listing = strictjson.read(answer.body)
        rows = [_row(grant) for grant in listing["grants"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise stranger(caller, answer) from None
    if as_json:
        click.echo(json.dumps(listing, indent=2))
    else:
        click.echo("\n".join(_table(rows)) if rows else "no grants")


@click.command(context_settings={"ignore_unknown_options": True})  # IDs of older grants may begin with a hyphen
@reaching
@click.argument("grant", metavar="ID")
def revoke(url: str | None, key_file: str | None, as_json: bool, grant: str) -> None:
    """End one grant, by the ID that `knocker grants` shows."""
    from urllib.parse import quote

    if grant in ("", ".", ".."):
        raise Failed(USAGE, "that is no ID of a grant", "knocker grants lists them")
    caller = known_account(url, key_file)
    path = f"/grants/{quote(grant, safe='', errors='surrogateescape')}"
    answer = ask(caller, "DELETE", path, resolve(caller.where))
    if answer.status == 404 and _error(answer) is not None:
        raise Failed(REFUSED, "no such grant", "it may have ended, or be another key's; knocker grants lists them")
    if answer.status != 204:
        raise refusal(caller, answer)
    click.echo(json.dumps({"closed": grant}) if as_json else "closed")


@click.command()
@reaching
@click.option("--ip", metavar="ADDRESS", help="Whose request; without it, the one that asks, as the gate sees it.")
@click.option("--host", metavar="NAME", help="For which host.")
@click.option("--path", metavar="PATH", help="For which path.")
def explain(
    url: str | None, key_file: str | None, as_json: bool, ip: str | None, host: str | None, path: str | None
) -> None:
    """Say whether somebody would be let in, and why: each step, with the setting that decides it."""
    from urllib.parse import urlencode

    caller = known_account(url, key_file)
    wanted = {name: text for name, text in (("ip", ip), ("host", host), ("path", path)) if text is not None}
    query = "?" + urlencode(wanted, errors="surrogateescape") if wanted else ""
    answer = ask(caller, "GET", f"/explain{query}", resolve(caller.where))
    if answer.status != 200:
        raise refusal(caller, answer)
    try:
        found = strictjson.read(answer.body)
        text = _explained(found)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise stranger(caller, answer) from None
    click.echo(json.dumps(found, indent=2) if as_json else text)


def _explained(found: dict[str, Any]) -> str:
    """The steps as lines; raises KeyError or TypeError where that is no explanation."""
    who, what = found["ip"] or "somebody", (found["host"] or "any host") + (found["path"] or "")
    outcome = "is let in" if found["allowed"] else f"is refused with {found['status']}"
    steps = [f"  {step['outcome']:<7}  {step['text']}  [{step['setting']}]" for step in found["steps"]]
    return "\n".join(printable(line) for line in [f"{who}, asking for {what}, {outcome}: {found['cause']}", *steps])


# --- What a gate answers ---------------------------------------------------------------------------------------------


def refusal(caller: Account, answer: Answer) -> Failed:
    """What an answer that is no success means."""
    if 300 <= answer.status < 400:
        return _redirect(caller, answer)
    error = _error(answer)
    if error is None:
        return stranger(caller, answer)
    hint = ""
    if answer.status == 400 and error.startswith(("Could not", "Forwarded")):
        hint = "the log of the gate says why, and which setting mends it"
    elif answer.status == 401:
        hint = f"the key came from {caller.key_source}"
    elif answer.status == 429:
        hint = f"try again in {printable(answer.headers.get('Retry-After', 'some'))} seconds"
    return Failed(REFUSED, f"the gate refused: {printable(error)}", hint, answer.status in (429, 503))


def _error(answer: Answer) -> str | None:
    """The text of an error as Knocker writes it; None where the answer is not Knocker's."""
    try:
        found = strictjson.read(answer.body)["error"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def stranger(caller: Account, answer: Answer) -> Failed:
    """What an answer means that no Knocker would give."""
    hint = f"is Knocker there? Its own address answers {'https' if caller.where.secure else 'http'}://.../health"
    if answer.status in (401, 403):
        hint = "it may be a site behind the gate, or another login in front; --url is Knocker's own address"
    words = f"{caller.where} answered {answer.status}, and not as Knocker does"
    if answer.status in (502, 503, 504):
        return Failed(NO_ANSWER, words, "a proxy is there, and cannot reach its Knocker")
    return Failed(REFUSED, words, hint, answer.status == 500)


def _redirect(caller: Account, answer: Answer) -> Failed:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(answer.headers.get("Location", ""))
        to = f"{parts.scheme or 'https'}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""
    except ValueError:
        to = ""
    hint = f"it names {printable(to)}: if you trust that, use that address as --url" if to else ""
    return Failed(REFUSED, f"{caller.where} redirects ({answer.status}), which is not followed", hint)


# --- The table -------------------------------------------------------------------------------------------------------


def time_left(seconds: int) -> str:
    """A span in its two largest units: 45s, 59m 30s, 1h 05m, 3d 4h."""
    minutes, second = divmod(max(0, seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}h"
    if hours:
        return f"{hours}h {minute:02}m"
    return f"{minutes}m {second:02}s" if minutes else f"{second}s"


def _row(grant: dict[str, Any]) -> tuple[str, ...]:
    """One grant as the table shows it; raises ValueError, KeyError or TypeError where it is none."""
    left, hosts, key = grant["expires_in_seconds"], grant["hosts"], grant["key"]
    texts = [grant["id"], grant["entry"], "-" if key is None else key, grant["via"]]
    texts.append("*" if hosts is None else ",".join(hosts))
    if (
        isinstance(hosts, str)
        or isinstance(left, bool)
        or not isinstance(left, int)
        or not all(isinstance(text, str) for text in texts)
    ):
        raise ValueError("not a grant")
    return (*(printable(text) for text in texts), time_left(left))


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    lines = [_HEADINGS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
