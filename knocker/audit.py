"""The audit trail: one structured line for each thing that happens to a grant (refused knocks: listen/call)."""

from __future__ import annotations

from twisted.logger import Logger

from knocker.core.change import Change

log = Logger()


def tell(change: Change) -> None:
    """Follow the whitelist: log one change with its owner, its entry and why it came about."""
    grant = change.grant
    log.info(
        "{message}",
        message=_message(change),
        event=change.event.value,
        entry=str(grant.network),
        key=grant.key,
        via=grant.via.value,
        hosts=None if grant.hosts is None else grant.hosts.patterns,
        id=grant.id,
        expires_at=int(grant.expires_at),
        why=change.why,
    )


def _message(change: Change) -> str:
    grant = change.grant
    owner = grant.key or "nobody in particular (an older file)"
    scope = f" on {grant.hosts}" if grant.hosts is not None else ""
    reason = f": {change.why}" if change.why else ""
    until = f"until {grant.expires_at:.0f}"
    return f"{change.event.value} {grant.network} for {owner} via {grant.via.value}{scope}, {until}{reason}"
