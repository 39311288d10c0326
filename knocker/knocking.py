"""The commands that knock: over HTTP or as one silent packet, once or to stay let in (contract 4, 5)."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

from knocker.account import Account, SilentAccount, silent_account
from knocker.client import Answer, Candidate, addresses, ask, own_address, resolve
from knocker.confirming import confirm, read_page
from knocker.core import strictjson
from knocker.core.addresses import Network
from knocker.core.printable import printable
from knocker.faults import REFUSED, USAGE, Failed, say
from knocker.knockoptions import host_option, ip_option, realm_option, ttl_option, udp_option
from knocker.remote import (
    as_one,
    chosen,
    known_account,
    over_each_family,
    prompt,
    reaching,
    refusal,
    stranger,
    tell_faults,
    time_left,
)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a knock over one family opened; `left` and `expires_at` are seconds."""

    entry: str
    expires_at: int
    left: int


@dataclass(frozen=True, slots=True)
class Knocked:
    """What came of a knock: the seconds that are left at least, and what a gate refused beside that."""

    left: float
    refused: Failed | None


@dataclass(frozen=True, slots=True)
class Options:
    """What a knock shall be."""

    ttl: int | None
    network: Network | None
    only_4: bool
    only_6: bool
    confirm: str | None
    as_json: bool


@click.command()
@reaching
@click.argument("gate", metavar="[URL]", required=False)
@ttl_option
@ip_option
@click.option("-4", "only_4", is_flag=True, help="Over IPv4 only.")
@click.option("-6", "only_6", is_flag=True, help="Over IPv6 only.")
@udp_option
@host_option
@realm_option
@click.option("--confirm", "confirm_url", metavar="URL", help="Ask there until it is open, 10 seconds at most.")
@click.option("--keep", is_flag=True, help="Stay, and renew before the time is over.")
def knock(
    url: str | None,
    key_file: str | None,
    as_json: bool,
    gate: str | None,
    ttl: int | None,
    network: Network | None,
    only_4: bool,
    only_6: bool,
    udp: str | None,
    host: str | None,
    realm: str | None,
    confirm_url: str | None,
    keep: bool,
) -> None:
    """Knock: be let in from the address that you have, over IPv4 and IPv6 where the gate has both."""
    options = Options(ttl, network, only_4, only_6, confirm_url, as_json)
    if confirm_url is not None:
        read_page(confirm_url)  # before anything is opened
    if gate is not None and (url is not None or udp is not None):
        raise Failed(USAGE, f"{'--url' if url is not None else '--udp'} and URL both name a gate")
    if udp is not None and url is not None:
        raise Failed(USAGE, "--udp and --url both name a gate")
    if udp is None:
        if host is not None or realm is not None:
            raise Failed(USAGE, "--host and --realm are for packets: use --udp too")
        account = known_account(gate or url, key_file, "--url" if gate is None else "URL")
        once = _over_http(account, options)
        candidates = partial(resolve, account.where)
    else:
        if keep and ttl is None:
            raise Failed(USAGE, "--keep with --udp needs --ttl: no answer tells how long the gate opened")
        silent = _known_silent(udp or None, realm, key_file)
        once = _over_udp(silent, options, host)
        candidates = partial(addresses, silent.host, silent.port)
    if not keep:
        sys.exit(REFUSED if once().refused is not None else 0)
    _keep(once, candidates, as_json)


@click.command()
@reaching
@click.option("-4", "only_4", is_flag=True, help="Over IPv4 only.")
@click.option("-6", "only_6", is_flag=True, help="Over IPv6 only.")
@udp_option
@realm_option
def leave(
    url: str | None,
    key_file: str | None,
    as_json: bool,
    only_4: bool,
    only_6: bool,
    udp: str | None,
    realm: str | None,
) -> None:
    """Close the door behind you: end the grant of this key for your own address.

    Over IPv4 and IPv6 both, where the gate has both.
    """
    if udp is not None:
        if url is not None:
            raise Failed(USAGE, "--udp and --url both name a gate")
        options = Options(None, None, only_4, only_6, None, as_json)
        _over_udp(_known_silent(udp or None, realm, key_file), options, None, revoke=True)()
        return
    if realm is not None:
        raise Failed(USAGE, "--realm is for packets: use --udp too")
    caller = known_account(url, key_file)

    def act(candidates: list[Candidate]) -> None:
        answer = ask(caller, "DELETE", "/knock", candidates)
        if answer.status != 204:
            raise refusal(caller, answer)

    closed, faults = over_each_family(chosen(resolve(caller.where), caller.where.host, only_4, only_6), act)
    _tell_left(list(closed), faults, as_json)


def _tell_left(closed: list[str], faults: dict[str, Failed], as_json: bool) -> None:
    """Say over which families the door was closed, and end with the worst that happened."""
    refused = [family for family, failed in faults.items() if failed.status == REFUSED]
    silent = [family for family in faults if family not in refused]
    status = tell_faults(faults, len(closed))
    if as_json:
        click.echo(json.dumps({"closed": closed, "refused": refused, "no_answer": silent}))
    elif closed:
        click.echo("closed" if not status else f"closed over {closed[0]} only")
    sys.exit(status)


@click.command()
@click.option("--key-file", metavar="FILE", help="The file with the key, instead of $KNOCKER_KEY.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for scripts.")
@ttl_option
@ip_option
@host_option
@realm_option
@click.option("--bind", is_flag=True, help="Let it count only from inside --ip.")
@click.option("--revoke", is_flag=True, help="Let it close instead of open.")
def packet(
    key_file: str | None,
    as_json: bool,
    ttl: int | None,
    network: Network | None,
    host: str | None,
    realm: str | None,
    bind: bool,
    revoke: bool,
) -> None:
    """Print a silent packet in hexadecimal, made now; the gate takes it once, for udp.window_seconds."""
    from secrets import token_bytes

    from knocker.core.keys import udp_secret
    from knocker.core.packets.native import NO_SCOPE, Knock, Secrets, encode, scope_of

    account = _known_silent("localhost", realm, key_file)
    scope = scope_of(host) if host is not None else NO_SCOPE
    try:
        said = Knock(round(time.time() * 1000), token_bytes(16), network, bind, revoke, ttl or 0, scope)
        made = encode(Secrets.of(udp_secret(account.key), account.realm), said).hex()
    except ValueError as error:
        raise Failed(USAGE, f"no packet can say that: {error}") from None
    click.echo(json.dumps({"packet": made}) if as_json else made)


def _known_silent(target: str | None, realm: str | None, key_file: str | None) -> SilentAccount:
    found = silent_account(target, realm, key_file, os.environ, prompt())
    for warning in found.warnings:
        say("warning", warning)
    return found


# --- Over HTTP -------------------------------------------------------------------------------------------------------


def _over_http(account: Account, options: Options) -> Callable[[], Knocked]:
    """A function that knocks once, and tells of it."""
    wishes = {"ip_address": str(options.network) if options.network else None, "ttl": options.ttl}
    body = json.dumps({name: wish for name, wish in wishes.items() if wish is not None}).encode()

    def act(candidates: list[Candidate]) -> Opened:
        answer = ask(account, "POST", "/knock", candidates, body=body if body != b"{}" else b"")
        if answer.status != 200:
            raise refusal(account, answer)
        return _opened(account, answer)

    is_told = False  # that there is less time than was asked for

    def once() -> Knocked:
        nonlocal is_told
        found = chosen(resolve(account.where), account.where.host, options.only_4, options.only_6)
        # A network that is named is the same whichever way it is asked for.
        done = over_each_family(found, act) if options.network is None else ({"": act(found)}, {})
        knocked = _tell_opened(*done, options)
        if options.ttl is not None and knocked.left < options.ttl - 1 and not is_told:
            say("hint", f"{options.ttl} s were asked for; the key's max_ttl, or its end, allows no more than this")
            is_told = True
        return knocked

    return once


def _opened(account: Account, answer: Answer) -> Opened:
    try:
        told = strictjson.read(answer.body)
        entry, expires_at, left = told["whitelisted_entry"], told["expires_at"], told["expires_in_seconds"]
    except (ValueError, KeyError, TypeError):
        raise stranger(account, answer) from None
    sane = all(type(number) is int and 0 <= number < 10**11 for number in (expires_at, left))
    if not isinstance(entry, str) or not sane:
        raise stranger(account, answer)
    return Opened(entry, expires_at, left)


def _tell_opened(opened: dict[str, Opened], faults: dict[str, Failed], options: Options) -> Knocked:
    if not opened:
        raise as_one(faults)
    tell_faults(faults, len(opened))
    refused = {family: failed for family, failed in faults.items() if failed.status == REFUSED}
    if options.as_json:
        rows = [
            {"whitelisted_entry": found.entry, "expires_at": found.expires_at, "expires_in_seconds": found.left}
            for found in opened.values()
        ]
        silent = [family for family in faults if family not in refused]
        click.echo(json.dumps({"opened": rows, "refused": list(refused), "no_answer": silent}))
    else:
        for found in opened.values():
            click.echo(f"open: {printable(found.entry)}, {time_left(found.left)} left")
    left = min(found.left for found in opened.values())
    _confirm(options, opened)
    return Knocked(float(left), as_one(refused) if refused else None)


# --- By packet -------------------------------------------------------------------------------------------------------


def _over_udp(
    account: SilentAccount, options: Options, host: str | None, revoke: bool = False
) -> Callable[[], Knocked]:
    from knocker.core.packets.native import NO_SCOPE, scope_of
    from knocker.sending import Sent, Wanted, send

    wanted = Wanted(options.network, options.ttl or 0, scope_of(host) if host is not None else NO_SCOPE, revoke)

    def act(candidates: list[Candidate]) -> Sent:
        return send(candidates[0], account.key, account.realm, wanted)

    def once() -> Knocked:
        found = chosen(addresses(account.host, account.port), account.host, options.only_4, options.only_6)
        sent, faults = over_each_family(found, act)
        if not sent:
            raise as_one(faults)
        tell_faults(faults, len(sent))
        if options.as_json:
            rows = [{"family": family, "to": one.to, "for": one.entry} for family, one in sent.items()]
            click.echo(json.dumps({"sent": rows, "no_answer": list(faults)}))
        else:
            for family, one in sent.items():
                click.echo(f"sent over {family} to {one.to}, for {one.entry}; a gate never answers")
        _confirm(options, sent)
        return Knocked(float(options.ttl or 0), None)

    return once


def _confirm(options: Options, families: Iterable[str]) -> None:
    if options.confirm is not None:
        confirm(options.confirm, list(families))
        if not options.as_json:
            click.echo(f"confirmed: {printable(options.confirm)} is open")


# --- Staying ---------------------------------------------------------------------------------------------------------


def _keep(once: Callable[[], Knocked], candidates: Callable[[], list[Candidate]], as_json: bool) -> None:
    import random

    from knocker.keeping import Keeper

    known: list[Candidate] = []  # where the gate was when it was last looked up

    def renew() -> float:
        known[:] = candidates()
        knocked = once()
        sys.stdout.flush()
        if knocked.refused is not None:
            words, hint = "the gate refused one of the two address families", "-4 or -6 keeps the other family alone"
            raise Failed(REFUSED, words, hint, knocked.refused.passing)
        return knocked.left

    def told(failed: Failed, wait: float) -> None:
        say("warning", f"{failed.error.rstrip('.')}; trying again in {time_left(round(wait))}")

    def own() -> Any:
        try:
            known[:] = known or candidates()
        except Failed:
            return None
        return {str(own_address(candidate)) for candidate in known}

    def now() -> float:
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    if sys.stderr.isatty() and not as_json:
        say("hint", "staying; Ctrl-C ends it, and what is open stays open for its time")
    Keeper(renew, own, told, now, time.sleep, random.random).run()
