"""Gate and whitelist at once, against a list of records that is always scanned from end to end.

The steps are those of the store: knocks wait, one write plans all that wait at one moment, other things happen,
and the write ends well or badly. The model knows of networks only what Python's ipaddress says.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from knocker.core.addresses import Address, Network, Networks
from knocker.core.change import Change, Event
from knocker.core.gate import Gate, Policy, Verdict
from knocker.core.grant import Grant, One, Own, Via, Wish
from knocker.core.hosts import Scope
from knocker.core.keys import Key, Keyring, digest_of
from knocker.core.knock import Body
from knocker.core.moment import Moment
from knocker.core.refusals import Refusal, Refused
from knocker.core.whitelist import Crowded, Plan, Whitelist
from tests.asked import Asked

T = TypeVar("T")
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
Owner = tuple[str | None, Subnet]

WALL, BOOT = 1_000_000.0, 5000.0
MOST = 6
NOTHING = Networks()
CLIENTS = ("203.0.113.9", "203.0.113.8", "198.51.100.7", "2001:db8::9", "2001:db8::a", "2001:db8:1::9")
REMOTE = ("203.0.113.9", "203.0.113.8/31", "203.0.0.0/16", "2001:db8::9", "2001:db8::/64")
HOSTS = (None, "a.example", "x.b.example", "b.example")
# Scopes as settings have them, and which of HOSTS each opens, written out.
SCOPES: dict[tuple[str, ...], set[str]] = {
    ("a.example",): {"a.example"},
    ("*.b.example",): {"x.b.example"},
    ("b.example", "a.example"): {"b.example", "a.example"},
}
TRUSTED: tuple[tuple[str, ...], ...] = ((), (), (), (), ("203.0.113.8",), ("2001:db8::a",), ("198.51.0.0/16",))


@dataclass(frozen=True)
class Entry:
    """One entry of api_keys as the model reads it."""

    name: str
    secret: int = 0
    max_ttl: int = 300
    admin: bool = False
    hosts: tuple[str, ...] | None = None
    ipv6_prefix: int = 128
    max_addresses: int | None = None
    expires: float | None = None

    def key(self) -> Key:
        return Key(
            self.name,
            digest_of(f"{self.name} {self.secret}".encode()),
            min(100, self.max_ttl),
            self.max_ttl,
            self.admin,
            Scope.parse(self.hosts) if self.hosts is not None else None,
            self.ipv6_prefix,
            self.max_addresses,
            self.expires,
        )


@dataclass(frozen=True)
class Knock:
    """A request, or a datagram, as it comes in."""

    name: str
    client: str
    remote: str | None
    ttl: int | None
    udp: bool


OWN = st.builds(
    Knock,
    st.sampled_from(["phone", "tablet", "tablet", "admin"]),
    st.sampled_from([*CLIENTS, *CLIENTS[:3]]),
    st.none(),
    st.sampled_from([None, None, 5, 60, 9999]),
    st.booleans(),
)
NAMED = st.builds(replace, OWN, name=st.sampled_from(["admin", "admin", "phone"]), remote=st.sampled_from(REMOTE))
KNOCKS = OWN | OWN | NAMED

START = (
    Entry("phone", max_addresses=1),
    Entry("tablet", hosts=("a.example",), max_addresses=2),
    Entry("admin", admin=True),
)


def entries(name: str) -> st.SearchStrategy[Entry | None]:
    """How a reload may find a key; None is gone."""
    present = st.builds(
        Entry,
        name=st.just(name),
        secret=st.sampled_from([0, 0, 0, 0, 0, 1]),
        max_ttl=st.sampled_from([300, 300, 30]),
        admin=st.sampled_from([True, True, False]) if name == "admin" else st.just(False),
        hosts=st.sampled_from([None, *SCOPES]),
        ipv6_prefix=st.sampled_from([128, 64]),
        max_addresses=st.sampled_from([None, 1, 2, 2]),
        expires=st.sampled_from([None, None, WALL + 150, WALL + 400]),
    )
    return st.integers(0, 7).flatmap(lambda number: present if number else st.none())


@dataclass
class Record:
    """One grant, or one that is being stored, as the model sees it. `place`: in the order of the stored knocks."""

    id: str
    key: str | None
    net: Subnet
    via: Via
    secret: int
    knocked: float
    wall_end: float
    boot_end: float
    place: int = 0

    @property
    def owner(self) -> Owner:
        return self.key, self.net

    @property
    def own(self) -> bool:
        return self.via in (Via.HTTP, Via.UDP)

    def facts(self, entry: Entry | None) -> tuple[object, ...]:
        """What a listing shows."""
        hosts = Scope.parse(entry.hosts) if entry is not None and entry.hosts is not None else None
        return self.id, self.key, str(self.net), self.via, hosts, self.knocked, self.wall_end, self.boot_end


def shown(grant: Grant) -> tuple[object, ...]:
    net = subnet(grant.network)
    ends = grant.expires_at, grant.boot_ends_at
    return grant.id, grant.key, str(net), grant.via, grant.hosts, grant.last_knock_at, *ends


def subnet(network: Network) -> Subnet:
    if network.bits == 32:
        return ipaddress.IPv4Network((network.base, network.prefix))
    return ipaddress.IPv6Network((network.base, network.prefix))


def meets(one: Subnet, other: Subnet) -> bool:
    return one.version == other.version and one.overlaps(other)


def attempt(act: Callable[[], T]) -> T | Refusal | type[Crowded]:
    """What came of it."""
    try:
        return act()
    except Crowded:
        return Crowded
    except Refused as refused:
        return refused.refusal


@dataclass
class Open:
    """A plan whose write is under way; `record` is None once it was closed, or planned anew."""

    plan: Plan
    record: Record | None
    displaces: list[Owner]


class GateMachine(RuleBasedStateMachine):
    """Random knocks, closings, clocks and settings, each answer compared with the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.wall, self.boot = WALL, BOOT
        self.conf: dict[str, Entry] = {entry.name: entry for entry in START}
        self.trusted: tuple[str, ...] = ()
        ids, self.places = itertools.count(), itertools.count(1)
        ring = Keyring(entry.key() for entry in START)
        self.whitelist = Whitelist(ring, MOST, lambda: f"id-{next(ids)}")
        self.whitelist.followers.append(self.follow)
        self.gate = Gate(Policy(ring), self.whitelist)
        self.records: list[Record] = []
        self.waiting: list[tuple[Wish, int]] = []
        self.opened: list[Open] = []
        self.stale: list[Plan] = []
        self.told: set[Owner] = set()

    # What the model knows.

    @property
    def now(self) -> Moment:
        return Moment(self.wall, self.boot)

    def follow(self, change: Change) -> None:
        owner = (change.grant.key, subnet(change.grant.network))
        if change.event is Event.OPENED:
            assert owner not in self.told
            self.told.add(owner)
        elif change.event in (Event.EXTENDED, Event.ALTERED):
            assert owner in self.told
        else:
            self.told.discard(owner)

    def pass_time(self, seconds: int, step: int = 0) -> None:
        """Go on, and a bit more: so no two knocks have one time. What is over then is gone for good."""
        self.boot += seconds + 1 / 4096
        self.wall += seconds + 1 / 4096 + step
        self.records = [record for record in self.records if not self.over(record)]

    def over(self, record: Record) -> bool:
        return self.wall >= record.wall_end or self.boot >= record.boot_end

    def planned(self) -> list[Record]:
        return [one.record for one in self.opened if one.record is not None]

    def drop(self, record: Record) -> None:
        self.records = [other for other in self.records if other is not record]

    def ends(self, entry: Entry | None, seconds: int) -> tuple[float, float]:
        """Both clocks' readings `seconds` on, or when the key expires."""
        if entry is None or entry.expires is None:
            return self.wall + seconds, self.boot + seconds
        left = min(float(seconds), entry.expires - self.wall)
        return self.wall + left, self.boot + left

    def cut(self, record: Record) -> Record:
        """As the settings of now allow it."""
        entry = self.conf.get(record.key) if record.key is not None else None
        longest = entry.max_ttl if entry else max((other.max_ttl for other in self.conf.values()), default=0)
        wall, boot = self.ends(entry, longest)
        return replace(record, wall_end=min(record.wall_end, wall), boot_end=min(record.boot_end, boot))

    def shut(self, net: Subnet) -> bool:
        return any(meets(net, ipaddress.ip_network(text)) for text in self.trusted)

    def rightful(self, record: Record) -> bool:
        if self.shut(record.net):
            return False
        if record.key is None:
            return True
        entry = self.conf.get(record.key)
        if entry is None or entry.secret != record.secret:
            return False
        if record.own:
            return record.net.version == 4 or record.net.prefixlen >= entry.ipv6_prefix
        return entry.admin

    def crowd(self, name: str | None, version: int, records: list[Record]) -> list[Record]:
        """The grants that max_addresses counts, the longest unknocked first."""
        mine = [record for record in records if record.key == name and record.own and record.net.version == version]
        return sorted(mine, key=lambda record: record.place)

    def trim(self, name: str, version: int) -> None:
        most = self.conf[name].max_addresses if name in self.conf else None
        crowd = self.crowd(name, version, self.records)
        for record in crowd[: max(0, len(crowd) - most)] if most is not None else []:
            self.drop(record)

    # Knocks.

    @initialize(count=st.integers(0, 2), ttl=st.sampled_from([20, 200]))
    def an_older_file_is_loaded(self, count: int, ttl: int) -> None:
        for number, text in enumerate(REMOTE[:count]):
            ends = (self.wall + ttl, self.boot + ttl)
            network = Network.parse(text)
            self.whitelist.restore([Grant(f"old-{number}", *network.parts, None, "", Via.FILE, None, 0, 0, *ends)])
            self.records.append(Record(f"old-{number}", None, subnet(network), Via.FILE, 0, 0, *ends))
            self.told.add((None, subnet(network)))

    @rule(knocks=st.lists(KNOCKS, min_size=1, max_size=3))
    def knocks_arrive(self, knocks: list[Knock]) -> None:
        for knock in knocks:
            self.arrive(knock)

    @precondition(lambda self: not self.opened)
    @rule(knocks=st.lists(KNOCKS, min_size=1, max_size=4), seconds=st.sampled_from([0, 1, 20]), together=st.booleans())
    def knocks_arrive_and_are_stored(self, knocks: list[Knock], seconds: int, together: bool) -> None:
        for knock in knocks:
            self.arrive(knock)
            if not together:
                self.a_write_begins(seconds, 0, True)
        self.a_write_begins(seconds, 0, True)

    def arrive(self, knock: Knock) -> None:
        entry = self.conf.get(knock.name, Entry(knock.name))
        body = Body(Network.parse(knock.remote) if knock.remote else None, knock.ttl)
        asked = self.asked(entry, knock.client, knock.remote)
        forbidden = self.gate.forbidden(NOTHING, NOTHING)
        wish = attempt(lambda: self.gate.knock(Address.parse(knock.client), entry.key(), body, forbidden))
        if not isinstance(wish, Wish):
            assert wish is asked
            return
        seconds = min(100, entry.max_ttl) if knock.ttl is None else min(knock.ttl, entry.max_ttl)
        via = Via.REMOTE if knock.remote else Via.HTTP
        found = subnet(wish.network), wish.via, wish.ttl, wish.ttl_named
        assert found == (asked, via, seconds, knock.ttl is not None)
        self.waiting.append((replace(wish, via=Via.UDP) if knock.udp and not knock.remote else wish, entry.secret))

    def asked(self, entry: Entry, client: str, remote: str | None) -> Subnet | Refusal:
        """Which network such a knock opens, or why none."""
        if remote is not None:
            named = ipaddress.ip_network(remote)
            if self.shut(named):
                return Refusal.INVALID_ADDRESS
            return named if entry.admin else Refusal.NO_PERMISSION
        around = ipaddress.ip_network(f"{client}/{entry.ipv6_prefix if ':' in client else 32}", strict=False)
        return ipaddress.ip_network(client) if self.shut(around) else around

    @precondition(lambda self: self.waiting and not self.opened)
    @rule(seconds=st.sampled_from([0, 0, 1, 20, 150]), step=st.sampled_from([0, 0, 0, -200, 200]), well=st.booleans())
    def a_write_begins(self, seconds: int, step: int, well: bool) -> None:
        self.pass_time(seconds, step)
        waiting, self.waiting = self.waiting, []
        for wish, secret in waiting:
            self.plan(wish, secret)
        if well:
            self.end_well()

    def plan(self, wish: Wish, secret: int) -> None:
        before = [shown(grant) for grant in self.whitelist if grant.lives(self.now)]
        owner = (wish.key.name, subnet(wish.network))
        known = next((record for record in [*self.planned(), *self.records] if record.owner == owner), None)
        displaced = self.displaced(wish, owner)
        expected = self.expected(wish, secret, known, displaced)
        plan = attempt(lambda: self.whitelist.plan(wish, self.now))
        assert before == [shown(grant) for grant in self.whitelist if grant.lives(self.now)], "planning changed it"
        if plan is Crowded:
            self.waiting.append((wish, secret))
        if not isinstance(plan, Plan):
            assert plan is expected
            return
        assert expected is None
        assert displaced is not None
        record = self.renewed(wish, secret, known, plan.grant.id)
        assert known is not None or plan.grant.id not in {other.id for other in self.records}
        assert shown(plan.grant) == record.facts(self.conf[wish.key.name])
        assert {(grant.key, subnet(grant.network)) for grant in plan.displaces} == {one.owner for one in displaced}
        for one in self.opened:
            if one.record is not None and one.record.owner == owner:
                one.record = None
        self.opened.append(Open(plan, record, [one.owner for one in displaced]))

    def expected(
        self, wish: Wish, secret: int, known: Record | None, displaced: list[Record] | None
    ) -> Refusal | type[Crowded] | None:
        """What keeps this knock from being planned."""
        entry = self.conf.get(wish.key.name)
        if entry is None or entry.secret != secret or (wish.via is Via.REMOTE and not entry.admin):
            return Refusal.BAD_KEY
        if entry.expires is not None and self.wall >= entry.expires:
            return Refusal.BAD_KEY
        leaving = {owner for one in self.opened if one.record is not None for owner in one.displaces}
        if displaced is None or (entry.name, subnet(wish.network)) in leaving:
            return Crowded
        owner = entry.name, subnet(wish.network)
        others = [one for one in self.opened if one.record is not None and one.record.owner != owner]
        staying = {
            record.owner for record in [*self.records, *(one.record for one in others if one.record is not None)]
        }
        staying -= {left for one in others for left in one.displaces} | {one.owner for one in displaced}
        if owner not in {record.owner for record in self.records} and len(staying) >= MOST:
            return Refusal.FULL
        if not self.rightful(self.renewed(wish, secret, known, "")):
            return Refusal.NOT_STORED
        return None

    def displaced(self, wish: Wish, owner: Owner) -> list[Record] | None:
        """Which grants make room for this knock; None where one of them is still being stored itself."""
        entry = self.conf.get(wish.key.name)
        if entry is None or entry.max_addresses is None or wish.via is Via.REMOTE:
            return []
        gone = {owner, *(record.owner for record in self.planned())}
        others = [one for one in self.opened if one.record is not None and one.record.owner != owner]
        gone |= {left for one in others for left in one.displaces}
        version = subnet(wish.network).version
        held = self.crowd(entry.name, version, [record for record in self.records if record.owner not in gone])
        mine = [record for record in self.planned() if record.owner != owner]
        crowd = [*held, *self.crowd(entry.name, version, mine)]
        surplus = crowd[: max(0, len(crowd) - entry.max_addresses + 1)]
        return surplus if len(surplus) <= len(held) else None

    def renewed(self, wish: Wish, secret: int, known: Record | None, fresh_id: str) -> Record:
        wall, boot = self.ends(self.conf.get(wish.key.name), wish.ttl)
        via, grant_id = wish.via, fresh_id
        if known is not None:
            grant_id = known.id
            via = Via.REMOTE if known.via is Via.REMOTE else via
            if not wish.ttl_named:
                wall, boot = max(wall, known.wall_end), max(boot, known.boot_end)
        place = max((record.place for record in self.planned()), default=10**6) + 1
        record = Record(grant_id, wish.key.name, subnet(wish.network), via, secret, self.wall, wall, boot, place)
        return self.cut(record)  # it may have waited while the settings changed, or the clock was set back

    @precondition(lambda self: self.opened)
    @rule(seconds=st.sampled_from([0, 1, 20, 150]), step=st.sampled_from([0, 0, -200, 200]))
    def a_write_ends_well(self, seconds: int, step: int) -> None:
        self.pass_time(seconds, step)
        self.end_well()

    def end_well(self) -> None:
        opened, self.opened = self.opened, []
        for one in opened:
            grant = self.whitelist.settle(one.plan, self.now)
            self.stale.append(one.plan)
            if one.record is None:
                assert grant is None
                continue
            record = self.cut(replace(one.record, place=next(self.places)))
            assert grant is not None
            assert shown(grant) == record.facts(self.conf[grant.key or ""])
            self.count(record, one.displaces)

    def count(self, record: Record, displaces: list[Owner]) -> None:
        gone = {record.owner, *displaces}
        self.records = [other for other in self.records if other.owner not in gone]
        if not self.over(record):
            self.records.append(record)
        self.trim(record.key or "", record.net.version)

    @precondition(lambda self: self.opened)
    @rule()
    def a_write_fails(self) -> None:
        for one in self.opened:
            self.whitelist.abandon(one.plan)
            self.stale.append(one.plan)
        self.opened = []

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def what_was_settled_closed_or_abandoned_is_settled_again(self, data: st.DataObject) -> None:
        plan = data.draw(st.sampled_from(self.stale))
        assert self.whitelist.settle(plan, self.now) is None
        self.whitelist.abandon(plan)

    # Everything else.

    @rule(seconds=st.integers(0, 60), step=st.sampled_from([0, 0, 0, 0, 0, 0, -400, -30, -1, 1, 30, 200]))
    def time_passes_and_somebody_sets_the_clock(self, seconds: int, step: int) -> None:
        self.pass_time(seconds, step)

    @precondition(lambda self: self.records or self.waiting or self.opened)
    @rule(name=st.sampled_from(["phone", "tablet", "admin"]), client=st.sampled_from(CLIENTS))
    def somebody_leaves(self, name: str, client: str) -> None:
        if name not in self.conf:
            return
        entry, address = self.conf[name], ipaddress.ip_address(client)
        around = ipaddress.ip_network(f"{client}/{entry.ipv6_prefix if ':' in client else 32}", strict=False)
        exact = (ipaddress.ip_network(client), around)

        def mine(key: str | None, via: Via, net: Subnet) -> bool:
            return key == name and address in net and (via is not Via.REMOTE or net in exact)

        own = Own(entry.key(), Address.parse(client))
        self.close(own, [one for one in self.owners() if any(mine(*what) for what in one)])
        for wish, _ in self.waiting:
            net = subnet(wish.network)
            assert own.holds(wish.key.name, wish.via, wish.network) is mine(wish.key.name, wish.via, net)

    def owners(self) -> list[set[tuple[str | None, Via, Subnet]]]:
        """What each owner holds for one network: a grant, one being stored, or both."""
        held: dict[Owner, set[tuple[str | None, Via, Subnet]]] = {}
        for record in [*self.records, *self.planned()]:
            held.setdefault(record.owner, set()).add((record.key, record.via, record.net))
        return list(held.values())

    @precondition(lambda self: self.records or self.planned())
    @rule(data=st.data())
    def a_grant_is_revoked(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from([*self.records, *self.planned()]))
        network = Network.parse(str(record.net))
        held = self.whitelist.with_id(record.id, self.now)
        assert (held is not None) == any(other.id == record.id for other in self.records)
        self.close(One(record.key, network), [what for what in self.owners() if record.owner in owners_of(what)])

    def close(self, choice: Own | One, expected: list[set[tuple[str | None, Via, Subnet]]]) -> None:
        gone = {owner for what in expected for owner in owners_of(what)}
        chosen = self.whitelist.chosen(choice)
        assert {(grant.key, subnet(grant.network)) for grant in chosen} == gone
        assert self.whitelist.close(chosen, "asked") == len(gone)
        assert self.whitelist.close(chosen) == 0
        self.records = [record for record in self.records if record.owner not in gone]
        for one in self.opened:
            if one.record is not None and one.record.owner in gone:
                one.record = None

    @rule(
        change=st.sampled_from(["phone", "tablet", "tablet", "admin"]).flatmap(
            lambda name: st.tuples(st.just(name), entries(name))
        ),
        trusted=st.sampled_from(TRUSTED),
        seconds=st.sampled_from([0, 0, 20]),
    )
    def the_settings_are_read_again(
        self, change: tuple[str, Entry | None], trusted: tuple[str, ...], seconds: int
    ) -> None:
        self.pass_time(seconds)
        before = self.conf
        entries = {**before, change[0]: change[1]}
        self.conf = {name: entry for name, entry in entries.items() if entry is not None}
        self.trusted = trusted
        ring = Keyring(entry.key() for entry in self.conf.values())
        self.gate.policy = Policy(ring, trusted=Networks(Network.parse(text) for text in trusted))
        self.whitelist.revise(ring, self.gate.forbidden(NOTHING, NOTHING), self.now)
        self.records = [self.cut(record) for record in self.records if self.rightful(record)]
        self.records = [record for record in self.records if not self.over(record)]
        for one in self.opened:
            if one.record is not None and not self.rightful(one.record):
                one.record = None
        for name, version in itertools.product(self.conf, (4, 6)):
            self.retell(name, version, before.get(name))
            self.trim(name, version)

    def retell(self, name: str, version: int, before: Entry | None) -> None:
        """Where nobody counted the knocks so far, their times say in which order they came.

        Of several that were stored in one write any may be called the longest unknocked: the whitelist chose.
        """
        if before is None or before.max_addresses is None:
            crowd = self.crowd(name, version, self.records)
            kept = {grant.id: place for place, grant in enumerate(self.whitelist)}
            crowd.sort(key=lambda record: (record.knocked, kept.get(record.id, -1)))
            for place, record in enumerate(crowd):
                record.place = place - len(crowd)

    # What always holds.

    @invariant()
    def the_listing_is_the_models(self) -> None:
        self.whitelist.expire(self.now)
        held = sorted(map(shown, self.whitelist), key=repr)
        assert held == sorted((record.facts(self.conf.get(record.key or "")) for record in self.records), key=repr)
        assert len(held) == len(self.whitelist) <= MOST
        assert {record.owner for record in self.records} == self.told
        for record in self.records:
            found = self.whitelist.with_id(record.id, self.now)
            assert found is not None
            assert shown(found)[0] == record.id
        assert self.whitelist.with_id("nobody's", self.now) is None

    @invariant()
    def no_key_opens_more_addresses_than_it_may(self) -> None:
        for entry, version in itertools.product(self.conf.values(), (4, 6)):
            crowd = self.crowd(entry.name, version, self.records)
            assert entry.max_addresses is None or len(crowd) <= entry.max_addresses

    @invariant()
    def every_verdict_is_the_models(self) -> None:
        for client, host in itertools.product((*CLIENTS, "203.0.9.9", "::9"), HOSTS):
            address = ipaddress.ip_address(client)
            covering = [record for record in self.records if address in record.net]
            cause = Verdict.OUT_OF_SCOPE if covering else Verdict.NO_GRANT
            if any(self.opens(record, host) for record in covering):
                cause = Verdict.GRANT
            verdict = self.gate.verdict(Address.parse(client), Asked(host), self.now)
            assert verdict is cause, (client, host)
            assert self.gate.holds_grant(Address.parse(client), self.now) is bool(covering)

    def opens(self, record: Record, host: str | None) -> bool:
        entry = self.conf.get(record.key) if record.key is not None else None
        return entry is None or entry.hosts is None or host in SCOPES[entry.hosts]


def owners_of(what: set[tuple[str | None, Via, Subnet]]) -> set[Owner]:
    return {(key, net) for key, _, net in what}


TestGateMachine = pytest.mark.timeout(900)(GateMachine.TestCase)
