"""`knocker store copy`: take all grants along, from a file to the engine that several gates share, or back.

None is lost on the way and none becomes longer: what a grant has left is counted on this machine's boot clock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, TypeVar

import click

from knocker.core.grant import Grant
from knocker.core.keys import Keyring
from knocker.core.knock import Forbidden
from knocker.core.whitelist import Whitelist
from knocker.faults import INTERRUPTED, NO_ANSWER, REFUSED, USAGE, Failed, say
from knocker.settings import Faulty, Settings, chosen_path, load
from knocker.settings.model import Shared
from knocker.settings.place import Complaints, Place
from knocker.settings.shared import store as read_address

_MOST = 10_000_000
_Result = TypeVar("_Result")


@click.group()
def store() -> None:
    """The whitelist's store."""


@store.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--config", "-c", metavar="FILE", help="The settings file, instead of $KNOCKER_CONFIG_PATH.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for scripts.")
def copy(source: str, target: str, config: str | None, as_json: bool) -> None:
    """Copy all grants from a whitelist.json to a store that several gates share (redis://...), or back.

    One of FROM and TO is a file that no Knocker uses at the time, the other an address as in whitelist.store. Grants
    are read by the keys of the settings, and the password for the store is the one that the settings name.
    """
    path = chosen_path(config, os.environ)
    try:
        settings = load(path)
    except Faulty as faulty:
        raise Failed(REFUSED, "\n".join(faulty.faults)) from None
    done = _copied(settings, source, target)
    if as_json:
        click.echo(json.dumps(done))
        return
    rest = {"kept": "there already", "over": "over on the way"}
    more = [f"{done[name]} {words}" for name, words in rest.items() if done[name]]
    click.echo(f"copied {done['copied']} grants from {source} to {target}" + "".join(f", {words}" for words in more))


def _copied(settings: Settings, source: str, target: str) -> dict[str, int]:
    if _is_address(source) == _is_address(target):
        raise Failed(USAGE, "one of the two has to be a file, and the other the address of a store (redis://...)")
    if _is_address(target):
        engine = _engine(settings, target)
        with _locked(source):
            return _into(engine, _from_file(settings, source), settings)
    engine = _engine(settings, source)
    with _locked(target):
        if os.path.lexists(target):
            hint = "move it away, or name another"
            raise Failed(REFUSED, f"{target} is there already, and what it holds would be lost", hint)
        return _to_file(_out_of(settings, engine), target)


def _is_address(text: str) -> bool:
    return text.startswith(("redis://", "rediss://"))


def _engine(settings: Settings, address: str) -> Shared:
    """The engine of an address; how to be let in there stands in the settings."""
    complaints = Complaints({})
    members = read_address(address, Place("the address", complaints))
    if complaints.faults:
        raise Failed(USAGE, "\n".join(complaints.faults))
    known = settings.storage.shared
    if known is None and (members["user"] or members["tls"]):
        hint = "write whitelist.store, password_file and tls_ca_file into the settings first"
        raise Failed(USAGE, "the settings do not say how to be let in there", hint)
    return replace(known, **members) if known is not None else Shared(**members)


def _forbidden(settings: Settings) -> Forbidden:
    from knocker.surroundings import read_surroundings

    server = settings.server
    return Forbidden(
        server.trusted_proxies, server.shared_addresses, *read_surroundings(), server.allow_loopback_clients
    )


# Files.


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Have the file for ourselves: a Knocker that goes on with it would change it behind our back."""
    from knocker.store.lock import Lock, Unusable

    lock = Lock(path, "that file")
    try:
        lock.take(os.getpid())
    except Unusable as unusable:
        raise Failed(REFUSED, str(unusable)) from None
    try:
        yield
    finally:
        lock.release()


def _from_file(settings: Settings, path: str) -> list[Grant]:
    from secrets import token_hex

    from knocker import clock
    from knocker.store.document import Damaged, read

    keyring, forbidden = Keyring(settings.keys), _forbidden(settings)
    try:
        with open(path, "rb") as file:
            found = read(file.read(), clock.now(), clock.boot_id(), keyring, forbidden, lambda: token_hex(16))
    except OSError as error:
        raise Failed(REFUSED, f"{path}: {error.strerror}") from None
    except Damaged as error:
        raise Failed(REFUSED, f"{path}: it is {error}") from None
    for why in dict.fromkeys(found.ended):
        say("warning", f"{found.ended.count(why)} grants are left out: {why}")
    if found.bad:
        say("warning", f"{len(found.bad)} bad entries are left out: {'; '.join(dict.fromkeys(found.bad))}")
    return found.grants


def _to_file(grants: list[Grant], path: str) -> dict[str, int]:
    from knocker import clock
    from knocker.store import atomic
    from knocker.store.document import document, pages_of

    now = clock.now()
    live = [grant for grant in grants if grant.lives(now)]
    try:
        atomic.replace(path, document(pages_of(live), now, clock.boot_id()))
    except OSError as error:
        raise Failed(REFUSED, f"{path}: {error.strerror}") from None
    return {"copied": len(live), "kept": 0, "over": len(grants) - len(live)}


# Engines.


def _into(engine: Shared, grants: list[Grant], settings: Settings) -> dict[str, int]:
    from knocker import clock
    from knocker.store.redis.copying import into

    token, most, window = os.urandom(8).hex().encode(), settings.storage.max_entries, settings.udp.window * 1000
    return asdict(_run(engine, lambda reactor: into(engine, reactor, clock.now, grants, most, token, window)))


def _out_of(settings: Settings, engine: Shared) -> list[Grant]:
    from knocker import clock
    from knocker.store.redis.copying import out_of

    whitelist, forbidden = Whitelist(Keyring(settings.keys), _MOST, str), _forbidden(settings)
    token = os.urandom(8).hex().encode()
    left = _run(engine, lambda reactor: out_of(engine, reactor, clock.now, whitelist, lambda: forbidden, token))
    if left:
        say("warning", f"{left} grants are left out: these settings do not allow them")
    return list(whitelist)


def _run(engine: Shared, work: Callable[[Any], Coroutine[Any, Any, _Result]]) -> _Result:
    """What comes of something that needs a reactor; raises Failed."""
    from twisted.internet import reactor as installed
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from knocker.store.redis.engine import Away

    reactor: Any = installed
    outcome: list[Any] = []

    def begin() -> None:
        done: Any = Deferred.fromCoroutine(work(reactor))
        done.addBoth(outcome.append).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    if not outcome:
        raise Failed(INTERRUPTED, "interrupted; what was copied so far stays")
    if isinstance(outcome[0], Failure):
        error: Any = outcome[0].value
        if isinstance(error, Away):
            raise Failed(NO_ANSWER, f"the store {engine.where} {error}")
        outcome[0].raiseException()
    found: _Result = outcome[0]
    return found
