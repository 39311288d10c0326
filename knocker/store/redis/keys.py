"""What the engine's keys are called, all of one prefix. The braces keep them together where keys are spread."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """The names for one whitelist."""

    prefix: str

    def named(self, name: str) -> str:
        """A key of ours."""
        return f"{self.start}{name}"

    @property
    def start(self) -> str:
        """What all of them begin with."""
        return f"{{{self.prefix}}}:"

    @property
    def state(self) -> str:
        """A hash: the number of changes, the clock's highest time, the epoch, and the fence of UDP packets."""
        return self.named("state")

    @property
    def changes(self) -> str:
        """A stream: what happened, in order."""
        return self.named("changes")

    @property
    def all(self) -> str:
        """A sorted set: every owner, by when its grant ends."""
        return self.named("all")

    def crowd(self, crowd: str) -> str:
        """A sorted set: the owners that max_addresses counts together, by when their grants end."""
        return self.named(f"crowd:{crowd}")

    def grant(self, owner: str) -> str:
        """A grant; it ends by itself."""
        return self.named(f"grant:{owner}")

    def seen(self, owner: str, nonce: bytes) -> str:
        """A UDP packet that was taken."""
        return self.named(f"seen:{owner}:{nonce.hex()}")
