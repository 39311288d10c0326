"""Which engine the whitelist is in, and what its words mean for the admin."""

from __future__ import annotations

from typing import Protocol

from knocker.core.printable import printable


class Engine(Protocol):
    """What the settings say of it."""

    @property
    def host(self) -> str:
        """Its name or address."""

    @property
    def port(self) -> int:
        """Its TCP port."""

    @property
    def database(self) -> int:
        """The number of its database."""

    @property
    def prefix(self) -> str:
        """What our keys begin with."""

    @property
    def user(self) -> str:
        """Who we are there, empty for nobody in particular."""

    @property
    def password(self) -> str:
        """What it is told for that, empty for nothing."""

    @property
    def tls(self) -> bool:
        """Whether it speaks TLS."""

    @property
    def ca(self) -> bytes | None:
        """Whose certificates are believed, in PEM; None for those that the system believes."""

    @property
    def certificate(self) -> bytes | None:
        """Our own with its key, in PEM."""

    @property
    def min_replicas(self) -> int:
        """Copies that a knock waits for."""

    @property
    def where(self) -> str:
        """It, in words, without a secret."""


class Away(Exception):
    """The engine did not do it; the message says why, and which setting mends it where one does."""


class Unanswered(Away):
    """It was asked, and whether it did it is not known."""


class Unfit(Away):
    """As it is set up it will never do: a start with it ends."""


_UNFIT = {
    "WRONGPASS": "refuses the user or the password: see whitelist.store and whitelist.password_file",
    "NOAUTH": "wants a password: see whitelist.store and whitelist.password_file",
    "NOPERM": "lets its user do too little: docs/cluster.md has the line for its ACL",
    "MOVED": "is a part of a Redis Cluster, which Knocker does not speak to",
    "CLUSTERDOWN": "is a part of a Redis Cluster, which Knocker does not speak to",
}
_AWAY = {
    "READONLY": "is a read-only replica: name the primary in whitelist.store",
    "OOM": "has no memory left: raise its maxmemory",
    "MISCONF": "cannot write to its own disk: its log says why",
    "NOREPLICAS": "has fewer replicas than its own min-replicas-to-write",
    "LOADING": "is still reading its own files",
    "MASTERDOWN": "is a replica that has lost its primary",
    "BUSY": "is busy with somebody's script",
    "NOSCRIPT": "forgot its scripts",
    "DENIED": "is in protected mode: see its bind and protected-mode",
}
_MAXCLIENTS = "ERR max number of clients"


def refusal(said: str) -> Away:
    """What an error of the engine's means. What a script may not do is told inside an error of the script's."""
    code = said.partition(" ")[0]
    if "executing the script can't" in said or "ACL failure in script" in said:  # 7.0, and since 7.2
        code = "NOPERM"
    for known, words in _UNFIT.items():
        if code == known or f" -{known} " in said:
            return Unfit(words)
    for known, words in _AWAY.items():
        if code == known or f"-{known} " in said:
            return Away(words)
    if _MAXCLIENTS.removeprefix("ERR ") in said:
        return Away("has as many clients as its maxclients allows")
    return Away(f"says: {printable(said[:200])}")


def not_let_in(said: str) -> Away:
    """What an error in answer to AUTH means; its own words may hold what was said to it, and are not shown."""
    code = said.partition(" ")[0]
    if said.startswith((_MAXCLIENTS, _MAXCLIENTS.removeprefix("ERR "))):
        return Away("has as many clients as its maxclients allows")
    return Away(_AWAY[code]) if code in _AWAY else Unfit(_UNFIT["WRONGPASS"])
