"""This gate's closes on their way to the engine: what each keeps out until it is known to be done."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from knocker.store.redis.record import Owner, Record


@dataclass(slots=True, eq=False)
class Close:
    """One of them. `asked`: seconds of boot time; it ends what was knocked for until then, and nothing later.

    `only`: the id that it is for, empty for whatever is there. `number`: that of the last change which can be before
    it, once the engine did it; `later`: what was heard of the owner until then.
    """

    crowd: str
    asked: float
    why: str
    only: str = ""
    number: int | None = None
    later: Record | None = None


Batch = list[tuple[Owner, Close]]


class Closes:
    """All of them, by owner. What is `owed` the engine was not told of, or it is not known whether it was."""

    def __init__(self) -> None:
        self.owed: dict[Owner, Close] = {}
        self._all: dict[Owner, Close] = {}
        self._done: deque[tuple[Owner, Close]] = deque()  # by their numbers

    def add(self, owner: Owner, close: Close) -> None:
        """Close what an owner has; an earlier close of the same is forgotten for it, unless it is for more."""
        earlier = self.owed.get(owner)
        if earlier is not None and not earlier.only:
            close.only = ""
        self._all[owner] = self.owed[owner] = close

    def keeps_out(self, owner: Owner, record: Record) -> bool:
        """Whether this record does not count, or not yet, since it may have been made before a close."""
        close = self._all.get(owner)
        if close is None or (close.only and close.only != record.id):
            return False
        if close.number is None:
            close.later = record
            return True
        if record.number <= close.number:
            return True
        del self._all[owner]
        return False

    def next(self, most: int) -> Batch:
        """So many of those that are owed; from now on they are on their way."""
        batch = [(owner, self.owed[owner]) for owner, _ in zip(self.owed, range(most), strict=False)]
        for owner, _ in batch:
            del self.owed[owner]
        return batch

    def failed(self, batch: Batch) -> None:
        """It is not known whether the engine did these: they are owed again."""
        self.owed.update((owner, close) for owner, close in batch if self._all.get(owner) is close)

    def done(self, batch: Batch, number: int, left: dict[bytes, bytes]) -> list[tuple[Owner, Record]]:
        """The engine did these, with changes up to that number; what it has `left` was knocked for later.

        Returns what counts all the same.
        """
        counting: list[tuple[Owner, Record]] = []
        for owner, close in batch:
            if self._all.get(owner) is not close:  # there is another close by now
                continue
            close.number = number
            text = left.get(owner.text.encode())
            record = Record.parse(text) if text is not None else close.later
            close.later = None
            if record is not None and (text is not None or record.number > number):
                counting.append((owner, record))
                del self._all[owner]
            else:
                self._done.append((owner, close))
        return counting

    def arrived(self, position: int) -> None:
        """All changes up to there are known, so that no older one can come any more."""
        while self._done and (self._done[0][1].number or 0) <= position:
            owner, close = self._done.popleft()
            if self._all.get(owner) is close:
                del self._all[owner]

    def redo(self) -> None:
        """The engine lost changes: all that may be among them is owed again."""
        self._done.clear()
        for owner, close in self._all.items():
            close.number = close.later = None
            self.owed[owner] = close
