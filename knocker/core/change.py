"""What happens to grants, as the followers of a whitelist are told it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from knocker.core.grant import Grant


class Event(Enum):
    """What can happen to a grant."""

    OPENED = "opened"
    EXTENDED = "extended"
    ALTERED = "altered"
    CLOSED = "closed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened to one grant, as followers are told it. `why` is for the log."""

    event: Event
    grant: Grant
    why: str = ""
