"""The audit trail: one structured line for each thing that happens to a grant (refused knocks: listen/call)."""

from __future__ import annotations

from twisted.logger import Logger

from knocker.core.whitelist import Change

log = Logger()


def tell(change: Change) -> None:
    """Follow the whitelist: log one change with its owner, its entry and why it came about."""
    grant = change.grant
    log.info(
        "{event} {entry} for {owner} via {via}{scope}, until {until:.0f}{reason}",
        event=change.event.value,
        entry=str(grant.network),
        owner=grant.key or "nobody in particular (an older file)",
        scope=f" on {grant.hosts}" if grant.hosts is not None else "",
        until=grant.expires_at,
        reason=f": {change.why}" if change.why else "",
        key=grant.key,
        via=grant.via.value,
        hosts=None if grant.hosts is None else grant.hosts.patterns,
        id=grant.id,
        expires_at=int(grant.expires_at),
        why=change.why,
    )
