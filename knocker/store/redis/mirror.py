"""This gate's copy of the shared whitelist: what the engine tells, change by change, or as a whole.

Each gate decides for itself which grants its own settings allow; one that it does not honour stays with the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from knocker.core.grant import Grant
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.core.whitelist import Whitelist
from knocker.store.entry import reason
from knocker.store.redis.closes import Batch, Closes
from knocker.store.redis.engineclock import EngineClock
from knocker.store.redis.record import NotHere, Owner, Reading, Record

ELSEWHERE = "at another gate"
AFTERWARDS = 60.0  # seconds that the engine's clock may be set back and be taken for right all the same
_REASONS = {b"room": "it made room for a newer address: its key has max_addresses"}

log = Logger()


class Mirror:
    """Keeps a whitelist as the engine has it.

    `position`, `token`: the number of the last change that it knows of, and its name; `epoch`: the engine's name for
    all that it has. `left_out`: how many grants it met that its settings do not allow; `outdated`: the settings changed
    since. `complete`: it was in step once.
    """

    apart = False  # our clock and the engine's differ, and the admin was told

    def __init__(
        self,
        whitelist: Whitelist,
        clock: EngineClock,
        now: Callable[[], Moment],
        forbidden: Callable[[], Forbidden],
    ) -> None:
        self.whitelist = whitelist
        self.clock = clock
        self.position = 0
        self.token = b""
        self.epoch = b""
        self.closes = Closes()
        self.left_out = 0
        self.complete = False
        self.outdated = False
        self.at_work = False  # what happens to the whitelist now is the engine's word, and not news for it
        self._now = now
        self._forbidden = forbidden
        self._waiting: dict[int, list[Deferred[None]]] = {}
        self.told: set[str] = set()  # what the admin was told of the engine, and need not be once more
        self._bad: set[str] = set()
        self._ended: dict[Owner, tuple[float, float]] = {}
        self._tidied = now().boot
        self._reading: Reading  # made by `begin`, before anything is read

    @property
    def may_have_more(self) -> bool:
        """Whether the engine may have grants that the settings allow by now, and that are not here."""
        return self.outdated and self.left_out > 0

    def begin(self) -> None:
        """Read what comes now by the settings and clocks of now."""
        now = self._now()
        self._reading = Reading(self.whitelist.keyring, self._forbidden(), self.clock.now(now.boot), now)

    # Change by change.

    def apply(self, number: int, fields: dict[bytes, bytes], ours: bytes) -> None:
        """Let one change count. `ours`: how the tokens of changes begin that this gate made."""
        token = fields.get(b"t", b"")
        try:
            owner = Owner.parse(fields[b"o"])
            value = fields[b"v"]
            if value:
                self._opened(owner, Record.parse(value), "" if token.startswith(ours) else ELSEWHERE)
            else:
                why = fields.get(b"w", b"")
                self.drop(owner, _REASONS.get(why) or why.decode("utf-8", "replace") or ELSEWHERE)
        except (KeyError, ValueError) as error:
            self._tell_of_bad(error)
        self.move(number, token)

    def take(self, owner: bytes, value: bytes, position: int, quiet: bool) -> bool:
        """Let a record count that was read with all others, but for one that a change after `position` will tell of.

        Nobody is told where `quiet`. Returns whether it counts.
        """
        try:
            known, record = Owner.parse(owner), Record.parse(value)
        except ValueError as error:
            self._tell_of_bad(error)
            return True
        if record.number <= position:
            self._opened(known, record, ELSEWHERE, again=True, quiet=quiet)
        return record.number <= position

    def _opened(self, owner: Owner, record: Record, why: str, again: bool = False, quiet: bool = False) -> None:
        if not self.closes.keeps_out(owner, record):
            self._keep(owner, record, why, again, quiet)

    def _keep(self, owner: Owner, record: Record, why: str, again: bool = False, quiet: bool = False) -> None:
        grant = self._honoured(owner, record)
        if grant is None:
            self.drop(owner, "it may not be granted at this gate")
            return
        held = self.whitelist.held(owner.key, owner.network, owner.host) if again else None
        if held is not None and (held.id, held.last_knock_at) == (grant.id, grant.last_knock_at):
            # The same once more: its end may be known more exactly by now, but it never becomes later.
            ends = min(held.expires_at, grant.expires_at), min(held.boot_ends_at, grant.boot_ends_at)
            grant, quiet = replace(grant, expires_at=ends[0], boot_ends_at=ends[1]), True
        with self._working():
            self.whitelist.adopt(grant, why, quiet)

    def _honoured(self, owner: Owner, record: Record) -> Grant | None:
        """The grant, unless our settings or clocks have it otherwise."""
        if not self._reading.is_by(self.whitelist.keyring):  # the settings changed among what comes now
            self.begin()
        try:
            grant = self._reading.grant(owner, record)
        except NotHere:
            self.left_out += 1
            return None
        except ValueError as error:
            self._tell_of_bad(error)
            return None
        ended = self._ended.get(owner)
        # What was seen ended here does not come back, whatever the clocks say later (contract 3.6).
        return None if grant is not None and ended is not None and grant.last_knock_at <= ended[0] else grant

    def ended(self, grant: Grant) -> None:
        """Remember a grant that was seen ended, as long as a clock that was set could make it look alive."""
        self._ended[Owner.of(grant)] = grant.last_knock_at, max(grant.boot_ends_at, self._now().boot) + AFTERWARDS

    def drop(self, owner: Owner, why: str) -> None:
        """Let a grant count no longer, if there is one."""
        held = self.whitelist.held(owner.key, owner.network, owner.host)
        if held is not None:
            with self._working():
                if not self.whitelist.expire(self._now(), [held]):
                    self.whitelist.close([held], why)

    @contextmanager
    def _working(self) -> Iterator[None]:
        self.at_work = True
        try:
            yield
        finally:
            self.at_work = False

    def _tell_of_bad(self, error: Exception) -> None:
        why = reason(error)
        if why not in self._bad and len(self._bad) < 10:
            self._bad.add(why)
            log.error("the store has an entry that no Knocker wrote, and it is not honoured: {why}", why=why)

    def forget_ended(self) -> None:
        """Forget those whose time is over on every clock; to be called every few seconds."""
        boot = self._now().boot
        if self._ended and boot >= self._tidied + AFTERWARDS:
            self._tidied = boot
            self._ended = {owner: ended for owner, ended in self._ended.items() if ended[1] > boot}

    # Those who wait for a change.

    def reached(self, number: int) -> Deferred[None]:
        """Fires once the change of that number is known here."""
        waiter: Deferred[None] = Deferred()
        if number <= self.position:
            waiter.callback(None)
        else:
            self._waiting.setdefault(number, []).append(waiter)
        return waiter

    def move(self, position: int, token: bytes) -> None:
        """All changes up to that one are known, and who waited for them is told."""
        first, self.position, self.token = self.position + 1, position, token
        self.closes.arrived(position)
        if not self._waiting:
            return
        due = range(first, position + 1) if position - first < len(self._waiting) else sorted(self._waiting)
        for number in [number for number in due if number <= position]:
            for waiter in self._waiting.pop(number, ()):
                if not waiter.called:  # its time may have been over
                    waiter.callback(None)

    def broken(self, error: Exception) -> None:
        """Nothing more is heard for now."""
        waiting, self._waiting = self._waiting, {}
        for waiters in waiting.values():
            for waiter in waiters:
                if not waiter.called:
                    waiter.errback(error)

    # Closes of ours.

    def closed(self, batch: Batch, number: int, left: dict[bytes, bytes]) -> None:
        """The engine did these, with changes up to that number, but for those that it has `left`."""
        counting = self.closes.done(batch, number, left)
        if counting:
            self.begin()
        for owner, record in counting:
            self._keep(owner, record, ELSEWHERE, again=True)
        self.closes.arrived(self.position)
