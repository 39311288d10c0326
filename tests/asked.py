"""What a client asked for, known from the start."""

from __future__ import annotations

from typing import NamedTuple


class Asked(NamedTuple):
    """A host and a path; None is what is not known for sure."""

    host: str | None = None
    path: str | None = None
