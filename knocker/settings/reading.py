"""A file of settings becomes Settings, or every complaint about it with its place (contract 2)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from knocker.core.addresses import Network, Networks
from knocker.core.keys import Key
from knocker.core.limits import Limit
from knocker.core.paths import Exclusions
from knocker.settings import endpoint, fields, keys, pages, shared
from knocker.settings.document import MOST_BYTES, Unreadable, read
from knocker.settings.files import OPEN_TO_OTHERS, REPLACED, Files, contents, whose
from knocker.settings.model import Deny, KnockPage, Logging, Metrics, Security, Server, Settings, Storage, Udp
from knocker.settings.place import Complaints, Place, Read, section


class Faulty(Exception):
    """Settings that cannot be used; `faults` has one line for each, with file and place."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def _section(table: Mapping[str, Read]) -> Read:
    return lambda value, place: section(value, place, table)


_RATE_LIMIT: dict[str, Read] = {
    "window_seconds": fields.integer(1, 86400),
    "successful_requests": fields.integer(0, 1_000_000),
    "failed_requests": fields.integer(0, 1_000_000),
}
# By section; of two settings with one name the last is meant where that name stands in the wrong place.
SECTIONS: dict[str, dict[str, Read]] = {
    "metrics": {"enabled": fields.boolean, "host": fields.ip_literal, "port": fields.integer(1, 65535)},
    "logging": {"level": fields.log_level, "format": fields.choice("text", "json")},
    "cors": {"allowed_origin": fields.origin},
    "knock_page": pages.KNOCK_PAGE,
    "udp": {
        "enabled": fields.boolean,
        "host": fields.ip_literal,
        "port": fields.integer(1, 65535),
        "window_seconds": fields.integer(30, 300),
        "realm": lambda value, place: fields.text(value, place) if value != "" else "",
        "state_path": fields.text,
    },
    "whitelist": {
        "storage_path": fields.text,
        "store": shared.store,
        **shared.MEMBERS,
        "cleanup_interval_seconds": fields.integer(1, 86400),
        "max_entries": fields.integer(1, 10_000_000),
        "ipv6_prefix": fields.integer(48, 128),
    },
    "security": {
        "always_allowed_ips": fields.network_list,
        "excluded_paths": fields.exclusions,
        "excluded_paths_by_host": fields.by_host(fields.exclusions),
        "knock_rate_limit": _section(_RATE_LIMIT),
        "deny": pages.deny,
        "deny_by_host": fields.by_host(pages.deny),
        "max_whitelist_entries": fields.integer(1, 10_000_000),
    },
    "server": {
        "host": fields.ip_literal,
        "port": fields.integer(1, 65535),
        "listen": endpoint.listen,
        "trusted_proxies": lambda value, place: _proxies(value, place),
        "allow_loopback_clients": fields.boolean,
        "shared_addresses": fields.network_list,
        "max_connections": fields.integer(1, 1_000_000),
        "fast_lane": fields.boolean,
    },
}
_TOP: dict[str, Read] = {
    **{name: _section(table) for name, table in SECTIONS.items()},
    "knock_page": pages.knock_page,
    "metrics": lambda value, place: Metrics(**section(value, place, SECTIONS["metrics"])),
    "api_keys": fields.anything,  # read last: its defaults come from the others
    "documentation": lambda _, place: place.warn("it has no meaning here and may be removed"),
    "firewalld": lambda value, place: _firewalld(value, place),
}
_NAMES = {
    **{name: f"api_keys[].{name}" for name in keys.NAMES},
    **{name: f"{section}.{name}" for section, table in SECTIONS.items() for name in table},
    **{name: name for name in _TOP},
}


def chosen_path(option: str | None, environ: Mapping[str, str]) -> str:
    """Which settings file it is: that of an option, else of $KNOCKER_CONFIG_PATH, else ./knocker.yaml."""
    return option or environ.get("KNOCKER_CONFIG_PATH") or "knocker.yaml"


def load(path: str) -> Settings:
    """Read the settings file at `path`, and the key files that it names; raises Faulty."""
    try:
        file = contents(path, MOST_BYTES + 1)
    except FileNotFoundError:
        raise Faulty([f"{path}: not found; copy knocker.example.yaml to it, or name another with --config"]) from None
    except OSError as error:
        raise Faulty([f"{path}: {error.strerror or error}{whose(path, error)}"]) from None
    warnings = [OPEN_TO_OTHERS] * file.is_open + [REPLACED] * file.is_replaced
    return parse(file.data, path, tuple(warnings), Files(os.path.dirname(path)))


def parse(
    data: bytes,
    path: str = "knocker.yaml",
    warnings: tuple[str, ...] = (),
    files: Files | None = None,
) -> Settings:
    """Read settings from the bytes of a file called `path`; raises Faulty with every fault."""
    complaints = Complaints(_NAMES)
    try:
        settings = _settings(read(data, _NAMES), Place("", complaints), files or Files())
    except Unreadable as error:
        raise Faulty([f"{path}: {error}"]) from None
    if complaints.faults or settings is None:
        raise Faulty([f"{path}: {fault}" for fault in complaints.faults])
    said = tuple(f"{path}: {warning}" for warning in (*warnings, *complaints.warnings))
    return Settings(**settings, warnings=said)


def _settings(document: Any, top: Place, files: Files) -> dict[str, Any] | None:
    if not isinstance(document, dict):
        top.fault("the file is empty: at least api_keys is needed") if document is None else top.expected(
            "a mapping of settings", document
        )
        return None
    found = section(document, top, _TOP)
    server = found.get("server", {})
    whitelist = found.get("whitelist", {})
    security = found.get("security", {})
    page = found.get("knock_page", KnockPage())
    all_keys: Any = ()
    if "api_keys" not in document:
        top.at("api_keys").fault("missing: who may knock")
    else:
        read_keys = keys.api_keys(whitelist.get("ipv6_prefix", 128), files.key)
        all_keys = read_keys(document["api_keys"], top.at("api_keys"))
    return {
        "keys": all_keys,
        "server": _server(server, top.at("server")),
        "storage": _storage(whitelist, security, top, files),
        "security": _security(security, *pages.denials(security, page, files.page, top.at("security"))),
        "knock_page": page,
        "logging": Logging(**found.get("logging", {})),
        "udp": _udp(found.get("udp", {}), all_keys, whitelist, top.at("udp")),
        "metrics": found.get("metrics", Metrics()),
        "cors_origin": found.get("cors", {}).get("allowed_origin", "*"),
    }


def _server(found: dict[str, Any], place: Place) -> Server:
    members = {name: value for name, value in found.items() if name not in ("listen", "trusted_proxies")}
    listen = found.get("listen", {})
    if listen and not members.keys().isdisjoint(("host", "port")):
        place.at("listen").fault("it stands instead of server.host and server.port; leave those out")
    server = Server(**{**members, **listen, **found.get("trusted_proxies", {})})
    trusted, unix = place.at("trusted_proxies"), server.unix
    if unix is not None and server.trusts_unix and unix.open_to_all:
        trusted.fault(
            f'"unix" would believe every user of this machine, since {unix.path} has mode {unix.mode:o}:'
            " end server.listen with mode=660 and let the proxy be of the socket's group"
        )
    if unix is not None and not server.trusts_unix:
        trusted.warn('nobody who asks over the unix socket is believed until "unix" is named here')
    if server.trusts_unix and unix is None and not server.endpoint:
        trusted.fault('"unix" means the peers of a unix socket, and server.listen names none')
    if server.allow_loopback_clients:
        place.at("allow_loopback_clients").warn(
            "whoever reaches the proxy from this machine can be let in as loopback; only for trying things out"
        )
    return server


def _proxies(value: Any, place: Place) -> dict[str, Any]:
    """Networks, and "unix" for the peers of a unix socket."""
    found = fields.items(lambda item, at: item if item == "unix" else fields.network(item, at))(value, place)
    return {
        "trusted_proxies": Networks(item for item in found if isinstance(item, Network)),
        "trusts_unix": "unix" in found,
    }


def _storage(whitelist: dict[str, Any], security: dict[str, Any], top: Place, files: Files) -> Storage:
    older = security.get("max_whitelist_entries")
    if older is not None and whitelist.get("max_entries", older) != older:
        top.at("security").at("max_whitelist_entries").fault("whitelist.max_entries says something else")
    return Storage(
        storage_path=whitelist.get("storage_path", Storage().storage_path),
        shared=shared.shared(whitelist, top.at("whitelist"), files.key, files.pem),
        cleanup_interval_seconds=whitelist.get("cleanup_interval_seconds", Storage().cleanup_interval_seconds),
        max_entries=whitelist.get("max_entries", older if older is not None else Storage().max_entries),
    )


def _security(security: dict[str, Any], deny: Deny, by_host: dict[str, Deny]) -> Security:
    return Security(
        always_allowed_ips=security.get("always_allowed_ips", Security().always_allowed_ips),
        exclusions=Exclusions(security.get("excluded_paths", ()), security.get("excluded_paths_by_host", {})),
        deny=deny,
        deny_by_host=by_host,
        limit=_limit(security.get("knock_rate_limit", {})),
    )


def _limit(found: dict[str, int]) -> Limit:
    standard = Limit()
    return Limit(
        window=found.get("window_seconds", standard.window),
        successful=found.get("successful_requests", standard.successful),
        failed=found.get("failed_requests", standard.failed),
    )


def _udp(found: dict[str, Any], all_keys: tuple[Key, ...], whitelist: dict[str, Any], place: Place) -> Udp:
    members = {("window" if name == "window_seconds" else name): value for name, value in found.items()}
    udp = Udp(**members)
    may = any(key.udp_secret is not None for key in all_keys)
    if udp.enabled and all_keys and not may:
        place.at("enabled").warn("no key may knock over UDP: write `udp: true` beside one")
    if may and not udp.enabled:
        place.warn("a key may knock over UDP, but udp.enabled is not true")
    storage = os.path.realpath(whitelist.get("storage_path", Storage().storage_path))
    if os.path.realpath(udp.state_path) in {storage + end for end in ("", ".lock", ".tmp", ".v0")}:
        place.at("state_path").fault("it is a file of whitelist.storage_path; it needs one of its own")
    return udp


def _firewalld(value: Any, place: Place) -> None:
    if isinstance(value, dict) and value.get("enabled") is False:
        place.warn("Knocker changes no firewall; the section may be removed")
    else:
        place.fault("Knocker changes no firewall: write {enabled: false} or remove the section")
