"""Staying let in: a knock that is renewed before its time is over, and at once when the own address changes."""

from __future__ import annotations

from collections.abc import Callable

from knocker.faults import Failed

SHARE = 0.9  # of a grant's time, after which it is renewed
POLL = 5.0  # seconds between looks at the own address
LONGEST = 300.0  # seconds between attempts while the gate does not answer


class Keeper:
    """Knocks again and again. Times are seconds of a clock that runs on while the machine sleeps.

    `knock` gives the seconds that are left, `own` what is known of the own addresses, `chance` 0 to 1; `told` hears
    of a knock that failed and of the seconds until the next.
    """

    def __init__(
        self,
        knock: Callable[[], float],
        own: Callable[[], object],
        told: Callable[[Failed, float], None],
        now: Callable[[], float],
        sleep: Callable[[float], None],
        chance: Callable[[], float],
    ) -> None:
        self._knock = knock
        self._own = own
        self._told = told
        self._now = now
        self._sleep = sleep
        self._chance = chance
        self._failures = 0

    def run(self) -> None:
        """Keep on; raises the Failed of a refusal that no waiting mends."""
        while True:
            own = self._own()
            self._wait(self._once(), own)

    def _once(self) -> float:
        """Knock; the seconds until the next time."""
        try:
            left = self._knock()
        except Failed as failed:
            if not failed.passing:
                raise
            self._failures += 1
            # Many clients lose the same gate at the same moment; they shall not all come back in one.
            wait = float(min(LONGEST, 2.0 ** min(self._failures, 20))) * (0.5 + self._chance() / 2)
            self._told(failed, wait)
            return wait
        self._failures = 0
        return max(1.0, left * SHARE)

    def _wait(self, seconds: float, own: object) -> None:
        end = self._now() + seconds
        while (left := end - self._now()) > 0:
            self._sleep(min(POLL, left))
            if self._own() != own:
                return
