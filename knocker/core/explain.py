"""What decided one verdict, step by step, in words and with the setting that mends it (contract 3.4).

`Gate.verdict` tells each step as it takes it, so an explanation cannot say anything but what /verify does.
"""

from __future__ import annotations

from dataclasses import dataclass

from knocker.core.addresses import Address, Networks
from knocker.core.grant import Grant
from knocker.core.moment import Moment
from knocker.core.paths import Exclusion, is_plain
from knocker.core.visitor import Peer, Unresolved

ALLOWS, PASSES = "allows", "goes on"


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `name`: client, list, grant, scope or path; `outcome`: ALLOWS or PASSES; `setting`: what decides it."""

    name: str
    outcome: str
    text: str
    setting: str

    def shown(self) -> dict[str, str]:
        """As JSON has it."""
        return {"step": self.name, "outcome": self.outcome, "text": self.text, "setting": self.setting}


class Told:
    """The steps of one verdict, as they are taken."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def _add(self, name: str, allows: bool, text: str, setting: str) -> None:
        self.steps.append(Step(name, ALLOWS if allows else PASSES, text, setting))

    # Who is asking; told by whoever resolves the request.

    def asked(self, peer: Peer, believed: bool, chain: list[str], found: Address | Unresolved) -> None:
        """How a request's client was found."""
        lines = ", ".join(chain) or "nothing"
        who = f"{peer} asks, which is {'' if believed else 'not '}in server.trusted_proxies"
        said = f"X-Forwarded-For says {lines}" if believed else "so its X-Forwarded-For does not count"
        found_text = f"the client is {found}" if isinstance(found, Address) else f"no client: {found.value}"
        self._add("client", False, f"{who}; {said}: {found_text}", "server.trusted_proxies")

    # The verdict's own.

    def no_client(self) -> None:
        """Nobody in particular asks."""
        self._add(
            "client",
            False,
            "the client's address is not known for sure, so no list and no grant can help",
            "server.trusted_proxies",
        )

    def always(self, client: Address, lists: Networks, allowed: bool) -> None:
        """Whether the client needs no knock."""
        entry = next((str(member) for member in lists.members if client in member), "")
        text = (
            f"{client} is in {entry}, which never needs to knock"
            if allowed
            else f"{client} is not among those who never need to knock"
        )
        self._add("list", allowed, text, "security.always_allowed_ips")

    def grant(self, grant: Grant, host: str | None, opens: bool, now: Moment) -> None:
        """One live grant of the client."""
        owner = f"of the key {grant.key}" if grant.key else "from an older file"
        what = f"the grant for {grant.network} {owner} has {grant.seconds_left(now)} s left"
        if grant.hosts is None:
            self._add("grant", opens, f"{what} and opens every host", "api_keys[].ttl")
            return
        names = str(grant.hosts)
        asked = f"{host} was asked for" if host else "it is not known for sure which host was asked for"
        verb = "and opens" if opens else "but opens only"
        self._add("scope", opens, f"{what} {verb} {names}; {asked}", "api_keys[].hosts")

    def no_grant(self, client: Address) -> None:
        """Nothing live opens anything to the client."""
        self._add("grant", False, f"nobody has knocked from {client}, or the time is over", "api_keys[].ttl")

    def path(self, path: str | None, entry: Exclusion | None) -> None:
        """Whether the path is open to everybody."""
        setting = "security.excluded_paths"
        if path is None:
            self._add("path", False, "it is not known for sure which path was asked for, so none is excluded", setting)
        elif entry is not None:
            self._add("path", True, f"{path} is open to everybody: {entry}", setting)
        elif not is_plain(path):
            self._add("path", False, f"{path} can be read in more than one way, so it is never excluded", setting)
        else:
            self._add("path", False, f"{path} is no excluded path", setting)

    def no_path(self) -> None:
        """No path is open to everybody."""
        self._add("path", False, "no path is excluded", "security.excluded_paths")
