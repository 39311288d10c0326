"""The settings as the program uses them, every text already read into what it means."""

from __future__ import annotations

from dataclasses import dataclass, field

from knocker.core.addresses import Networks
from knocker.core.keys import Key
from knocker.core.limits import Limit
from knocker.core.paths import Exclusions


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """Where a unix socket lies, and the permissions that its file gets."""

    path: str
    mode: int = 0o660

    @property
    def open_to_all(self) -> bool:
        """Whether every user of the machine may connect."""
        return bool(self.mode & 0o002)


@dataclass(frozen=True, slots=True)
class Server:
    """Where /verify and /knock are answered, and whose forwarded headers are believed.

    `unix` or `endpoint` (any other as Twisted reads it) count instead of host and port. `trusts_unix`: peers on a
    unix socket are believed.
    """

    host: str = "0.0.0.0"  # noqa: S104
    port: int = 8000
    unix: UnixSocket | None = None
    endpoint: str = ""
    trusted_proxies: Networks = Networks()
    trusts_unix: bool = False
    allow_loopback_clients: bool = False
    shared_addresses: Networks = Networks()
    max_connections: int = 1024
    fast_lane: bool = True

    @property
    def where(self) -> str:
        """Where it listens, in words."""
        if self.unix is not None:
            return f"the unix socket {self.unix.path}"
        return self.endpoint or f"{self.host} port {self.port}"

    @property
    def setting(self) -> str:
        """The setting that says so."""
        return "server.listen" if self.unix is not None or self.endpoint else "server.host and server.port"


@dataclass(frozen=True, slots=True)
class Shared:
    """An engine that several gates share. `ca`, `certificate`: what PEM files hold, the latter with its key.

    `min_replicas`: how many of its copies have to have a grant before its knock is answered.
    """

    host: str
    port: int = 6379
    database: int = 0
    prefix: str = "knocker"
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    min_replicas: int = 0

    @property
    def where(self) -> str:
        """It, in words, without a secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.tls else ''}://{host}:{self.port}/{self.database}?prefix={self.prefix}"


@dataclass(frozen=True, slots=True)
class Storage:
    """The whitelist's file, or the engine that has it instead, and its bounds; the interval is in seconds."""

    storage_path: str = "whitelist.json"
    cleanup_interval_seconds: int = 60
    max_entries: int = 10000
    shared: Shared | None = None


@dataclass(frozen=True, slots=True)
class Deny:
    """How whoever may not enter is told so. A browser sees `html`, or is explained what to do, or gets nothing."""

    status: int = 401
    explains: bool = False
    html: bytes | None = None


@dataclass(frozen=True, slots=True)
class KnockPage:
    """The page to knock on. `url` and `also` are origins, "" is none; `return_to`: names that it may lead back to."""

    enabled: bool = True
    url: str = ""
    also: tuple[str, ...] = ()
    return_to: tuple[str, ...] = ()

    @property
    def hosts(self) -> frozenset[str]:
        """The names of `url` and `also`."""
        return frozenset(
            origin.removeprefix("https://").partition(":")[0] for origin in (self.url, *self.also) if origin
        )


@dataclass(frozen=True, slots=True)
class Security:
    """Who and what needs no knock, and how everybody else is turned away."""

    always_allowed_ips: Networks = Networks()
    exclusions: Exclusions = Exclusions()
    deny: Deny = Deny()
    deny_by_host: dict[str, Deny] = field(default_factory=dict)
    limit: Limit = field(default_factory=Limit)


@dataclass(frozen=True, slots=True)
class Logging:
    """From which level on (debug, info, warn, error) the log tells, and in which format (text, json)."""

    level: str = "info"
    format: str = "text"


@dataclass(frozen=True, slots=True)
class Udp:
    """Where knocks come as single datagrams. `window`: seconds that a packet's time may differ from ours.

    `realm`: the server's name in packets, so that those for another are none here.
    """

    enabled: bool = False
    host: str = "::"
    port: int = 62201
    window: int = 120
    realm: str = ""
    state_path: str = "udp-seen.log"

    @property
    def where(self) -> str:
        """Where it listens, in words."""
        return f"UDP {self.host} port {self.port}"


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where metrics can be read, on a port of their own."""

    enabled: bool = False
    host: str = "127.0.0.1"
    port: int = 9090

    @property
    def where(self) -> str:
        """Where it listens, in words."""
        return f"{self.host} port {self.port} for metrics"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that knocker.yaml says. `warnings` are for the admin, at every start."""

    keys: tuple[Key, ...]
    server: Server = Server()
    storage: Storage = Storage()
    security: Security = Security()
    knock_page: KnockPage = KnockPage()
    cors_origin: str = "*"
    logging: Logging = Logging()
    udp: Udp = Udp()
    metrics: Metrics = Metrics()
    warnings: tuple[str, ...] = ()
