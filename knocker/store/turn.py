"""Work of a store's that may be long, done in this turn's share and those of the next ones."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from knocker.core.turns import Turns


async def room(turns: Turns) -> None:
    """Let the reactor serve others when this turn's share of work is used up."""
    if not turns.has_room():
        turn: Deferred[None] = Deferred()
        turns.wait(lambda: turn.callback(None), first=True)
        await turn
