"""The settings as the program uses them, every text already read into what it means."""

from __future__ import annotations

from dataclasses import dataclass, field

from knocker.core.addresses import Networks
from knocker.core.keys import Key
from knocker.core.limits import Limit
from knocker.core.paths import Exclusions


@dataclass(frozen=True, slots=True)
class Server:
    """Where /verify and /knock are answered, and whose forwarded headers are believed."""

    host: str = "0.0.0.0"  # noqa: S104
    port: int = 8000
    trusted_proxies: Networks = Networks()
    allow_loopback_clients: bool = False
    shared_addresses: Networks = Networks()
    max_connections: int = 1024


@dataclass(frozen=True, slots=True)
class Storage:
    """The whitelist's file and bounds; the interval is in seconds."""

    storage_path: str = "whitelist.json"
    cleanup_interval_seconds: int = 60
    max_entries: int = 10000


@dataclass(frozen=True, slots=True)
class Deny:
    """The status of the deny answer: for most hosts, and by host."""

    status: int = 401
    by_host: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Security:
    """Who and what needs no knock, and how everybody else is turned away."""

    always_allowed_ips: Networks = Networks()
    exclusions: Exclusions = Exclusions()
    deny: Deny = Deny()
    limit: Limit = field(default_factory=Limit)


@dataclass(frozen=True, slots=True)
class Logging:
    """From which level on (debug, info, warn, error) the log tells, and in which format (text, json)."""

    level: str = "info"
    format: str = "text"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that knocker.yaml says. `warnings` are for the admin, at every start."""

    keys: tuple[Key, ...]
    server: Server = Server()
    storage: Storage = Storage()
    security: Security = Security()
    knock_hosts: frozenset[str] = frozenset()
    cors_origin: str = "*"
    logging: Logging = Logging()
    warnings: tuple[str, ...] = ()
