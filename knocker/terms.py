"""What the settings mean to those who run by them, and what of them only a restart can change."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from knocker.core.gate import Policy
from knocker.core.keys import Keyring
from knocker.core.packets.native import Secrets
from knocker.core.packets.reader import Reader
from knocker.listen.denial import Denial
from knocker.listen.house import Manners
from knocker.listen.knockpage import KnockPage
from knocker.settings import Settings
from knocker.settings.model import Deny

log = Logger()


def policy(settings: Settings, keyring: Keyring) -> Policy:
    """What the gate decides by."""
    server, security = settings.server, settings.security
    return Policy(
        keyring=keyring,
        trusted=server.trusted_proxies,
        shared=server.shared_addresses,
        always_allowed=security.always_allowed_ips,
        exclusions=security.exclusions,
        allow_loopback=server.allow_loopback_clients,
        trusts_unix=server.trusts_unix,
    )


def manners(settings: Settings) -> Manners:
    """How requests are answered beyond yes and no."""
    page, security = settings.knock_page, settings.security
    return Manners(
        denial=_denial(security.deny, page.url),
        denial_by_host={host: _denial(deny, page.url) for host, deny in security.deny_by_host.items()},
        cors_origin=settings.cors_origin,
        knock_page=KnockPage.of(page.url, page.also, page.return_to) if page.enabled else None,
        page_origin=page.url,
        knock_hosts=page.hosts,
    )


def _denial(deny: Deny, page_url: str) -> Denial:
    return Denial(deny.status, deny.html, page_url if deny.explains else "")


def reader(settings: Settings) -> Reader:
    """What tells whose a datagram is."""
    secrets = {key.name: key.udp_secret for key in settings.keys if key.udp_secret is not None}
    known = {name: Secrets.of(secret, settings.udp.realm) for name, secret in secrets.items()}
    return Reader(known, settings.udp.window)


def fixed_changes(old: Settings, new: Settings) -> list[str]:
    """The settings that only a restart can change, and that did change."""
    fixed: dict[str, Callable[[Settings], object]] = {
        "server.host": lambda settings: settings.server.host,
        "server.port": lambda settings: settings.server.port,
        "server.listen": lambda settings: (settings.server.unix, settings.server.endpoint),
        "server.fast_lane": lambda settings: settings.server.fast_lane,
        "server.max_connections": lambda settings: settings.server.max_connections,
        "udp.enabled": lambda settings: settings.udp.enabled,
        "udp.host": lambda settings: settings.udp.host,
        "udp.port": lambda settings: settings.udp.port,
        "udp.state_path": lambda settings: settings.udp.state_path,
        "metrics": lambda settings: settings.metrics,
        "whitelist.store": lambda settings: settings.storage.shared,
        "whitelist.storage_path": lambda settings: settings.storage.storage_path,
        "whitelist.cleanup_interval_seconds": lambda settings: settings.storage.cleanup_interval_seconds,
    }
    return [name for name, value in fixed.items() if value(old) != value(new)]


def announce(settings: Settings, wall: float) -> None:
    """Tell the admin at a start or a reload what is open, and what may not be meant. `wall`: the Unix second."""
    for warning in settings.warnings:
        log.warn("{warning}", warning=warning)
    exclusions = settings.security.exclusions
    for entry in exclusions.everywhere:
        log.info("open to everybody: {entry}", entry=str(entry))
    for host, entries in exclusions.by_host.items():
        for entry in entries:
            log.info("open to everybody on {host}: {entry}", host=host, entry=str(entry))
    for key in settings.keys:
        if key.is_over(wall):
            log.warn("the key {key} has expired: its knocks are refused; see its `expires`", key=key.name)
    if not settings.server.trusted_proxies.members and not settings.server.trusts_unix:
        log.warn("server.trusted_proxies is empty: behind a proxy nobody can be let in until it is named there")
