"""The whitelist: the rules one by one, then all of them at once against a list of records."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from knocker.core.addresses import Address, Network
from knocker.core.grant import Grant, Own, Via, Wish
from knocker.core.hosts import Scope
from knocker.core.keys import Key, Keyring, digest_of
from knocker.core.moment import Moment
from knocker.core.refusals import Refusal, Refused
from knocker.core.whitelist import Change, Event, Whitelist

PHONE = Key("phone", digest_of(b"the phone's key"), 100, 1000)
OTHER_PHONE = replace(PHONE, digest=digest_of(b"the phone's new key"))
TABLET = Key("tablet", digest_of(b"the tablet's key"), 100, 1000, hosts=Scope.parse(["a.example", "*.b.example"]))
OTHER_TABLET = replace(TABLET, hosts=Scope.parse(["c.example"]))
OPEN_TABLET = replace(TABLET, hosts=None)
ADMIN = Key("admin", digest_of(b"the admin's key"), 100, 1000, admin=True)
NO_ADMIN = replace(ADMIN, admin=False)
ALL = Keyring([PHONE, TABLET, ADMIN])

HOME = Address.parse("203.0.113.9")
START = Moment(wall=1_000_000.0, boot=5000.0)


def later(boot: float, step: float = 0.0, since: Moment = START) -> Moment:
    """`boot` seconds on, during which somebody set the wall clock `step` seconds forward."""
    return Moment(since.wall + boot + step, since.boot + boot)


def make(max_entries: int = 100, keyring: Keyring = ALL) -> Whitelist:
    ids = itertools.count()
    return Whitelist(keyring, max_entries, lambda: f"id-{next(ids)}")


def wish(
    key: Key = PHONE, network: str = "203.0.113.9", ttl: int = 100, named: bool = False, via: Via = Via.HTTP
) -> Wish:
    return Wish(Network.parse(network), key, via, ttl, named)


def knock(whitelist: Whitelist, asked: Wish, now: Moment = START) -> Grant:
    grant = whitelist.plan(asked, now)
    assert whitelist.settle(grant)
    return grant


def found(whitelist: Whitelist, now: Moment, host: str | None = None, address: Address = HOME) -> bool:
    return whitelist.find(address, host, now)[0] is not None


@pytest.mark.parametrize(
    ("now", "lives"),
    [
        pytest.param(later(0), True, id="at once"),
        pytest.param(later(99.9), True, id="until its time is over"),
        pytest.param(later(100), False, id="not when it is over"),
        pytest.param(later(10, step=80), True, id="the clock was set forward a little"),
        pytest.param(later(10, step=90), False, id="the clock was set forward past its end"),
        pytest.param(later(99, step=-5000), True, id="the clock was set back"),
        pytest.param(later(100, step=-5000), False, id="a clock set back prolongs nothing"),
        pytest.param(later(10_000, step=-10_000), False, id="a clock that stands still neither"),
    ],
)
def test_a_grant_ends_on_whichever_clock_says_so_first(now: Moment, lives: bool) -> None:
    whitelist = make()
    knock(whitelist, wish())
    assert found(whitelist, now) is lives


@pytest.mark.parametrize("look", ["find", "expire", "plan", "full"])
def test_a_grant_seen_expired_stays_gone_when_the_clock_is_set_back(look: str) -> None:
    whitelist = make(max_entries=1)
    knock(whitelist, wish())
    forward = later(10, step=1000)
    if look == "find":
        assert not found(whitelist, forward)
    elif look == "expire":
        assert whitelist.expire(forward) == 1
    elif look == "plan":
        whitelist.abandon(whitelist.plan(wish(), forward))
    else:
        whitelist.abandon(whitelist.plan(wish(network="198.51.100.1"), forward))
    assert not found(whitelist, later(20))
    assert len(whitelist) == 0


def test_a_knock_never_shortens_its_keys_own_grant() -> None:
    whitelist = make()
    first = knock(whitelist, wish(ttl=1000))
    second = knock(whitelist, wish(ttl=100), later(10))
    assert (second.expires_at, second.boot_ends_at) == (first.expires_at, first.boot_ends_at)
    assert (second.id, second.created_at, second.last_knock_at) == (first.id, first.created_at, START.wall + 10)
    assert found(whitelist, later(999))


def test_a_knock_that_names_a_smaller_ttl_shortens_its_grant() -> None:
    whitelist = make()
    knock(whitelist, wish(ttl=1000))
    knock(whitelist, wish(ttl=50, named=True), later(10))
    assert found(whitelist, later(59))
    assert not found(whitelist, later(60))


def test_a_knock_prolongs_its_grant() -> None:
    whitelist = make()
    knock(whitelist, wish())
    knock(whitelist, wish(), later(50))
    assert found(whitelist, later(149))
    assert not found(whitelist, later(150))
    assert len(whitelist) == 0


def test_a_knock_after_the_end_is_a_new_grant() -> None:
    whitelist = make()
    first = knock(whitelist, wish(ttl=1000))
    second = knock(whitelist, wish(ttl=10), later(1000))
    assert second.id != first.id
    assert second.created_at == START.wall + 1000
    assert not found(whitelist, later(1010))


@pytest.mark.parametrize("step", [-100_000.0, -50.0, 50.0, 100_000.0])
def test_no_step_of_the_clock_makes_a_knock_outlive_its_ttl_of_boot_time(step: float) -> None:
    whitelist = make()
    knock(whitelist, wish(ttl=100))
    knock(whitelist, wish(ttl=100), later(50, step=step))
    for after in (-100_000.0, 0.0, step, step - 99):
        assert not found(make_copy(whitelist), later(150, step=after))


def make_copy(whitelist: Whitelist) -> Whitelist:
    copy = make()
    copy.restore(whitelist)
    return copy


def test_a_knock_never_touches_another_keys_grant() -> None:
    whitelist = make()
    knock(whitelist, wish(PHONE, ttl=1000))
    knock(whitelist, wish(ADMIN, ttl=10, named=True))
    assert len(whitelist) == 2
    whitelist.close([grant for grant in whitelist if grant.key == "admin"])
    assert found(whitelist, later(999))


@pytest.mark.parametrize("how", ["close", "expire"])
def test_the_end_of_one_grant_leaves_nothing_of_it_beside_another_keys(how: str) -> None:
    whitelist = make()
    knock(whitelist, wish(TABLET, ttl=1000))
    knock(whitelist, wish(PHONE, ttl=10))
    if how == "close":
        whitelist.close(whitelist.own(Own(PHONE, HOME)))
    else:
        whitelist.expire(later(10))
    assert not found(whitelist, START, "c.example")
    assert found(whitelist, START, "a.example")
    assert whitelist.own(Own(PHONE, HOME)) == []


def test_a_planned_grant_counts_only_once_it_is_stored() -> None:
    whitelist = make()
    grant = whitelist.plan(wish(), START)
    assert not found(whitelist, START)
    assert len(whitelist) == 0
    assert whitelist.settle(grant)
    assert found(whitelist, START)
    assert not whitelist.settle(grant)


def test_a_grant_that_could_not_be_stored_leaves_everything_as_it_was() -> None:
    whitelist = make(max_entries=2)
    knock(whitelist, wish(ttl=50))
    renewed, fresh = (
        whitelist.plan(wish(ttl=1000), later(10)),
        whitelist.plan(wish(network="198.51.100.1"), later(10)),
    )
    whitelist.abandon(renewed)
    whitelist.abandon(fresh)
    assert not whitelist.settle(renewed)
    assert not whitelist.settle(fresh)
    assert found(whitelist, later(49))
    assert not found(whitelist, later(50))
    knock(whitelist, wish(network="198.51.100.2"), later(50))


def test_a_renewal_under_way_outlives_the_end_of_what_it_renews() -> None:
    whitelist = make()
    knock(whitelist, wish())
    renewal = whitelist.plan(wish(), later(99))
    assert not found(whitelist, later(100))
    assert whitelist.settle(renewal)
    assert found(whitelist, later(101))


def test_closing_ends_a_grant_at_once_and_the_knock_under_way_too() -> None:
    whitelist = make()
    knock(whitelist, wish())
    renewal = whitelist.plan(wish(ttl=500), later(10))
    assert whitelist.close(whitelist.own(Own(PHONE, HOME))) == 1
    assert not found(whitelist, later(10))
    assert not whitelist.settle(renewal)
    assert not found(whitelist, later(10))
    assert whitelist.close(whitelist.own(Own(PHONE, HOME))) == 0


def test_closing_ends_a_first_knock_that_is_still_under_way() -> None:
    whitelist = make()
    planned = whitelist.plan(wish(), START)
    assert whitelist.close(whitelist.own(Own(PHONE, HOME))) == 1
    assert not whitelist.settle(planned)
    assert len(whitelist) == 0


def test_a_full_whitelist_refuses_and_evicts_nothing() -> None:
    whitelist = make(max_entries=2)
    knock(whitelist, wish())
    whitelist.plan(wish(network="198.51.100.1"), START)  # one that is still being stored counts
    with pytest.raises(Refused) as caught:
        whitelist.plan(wish(network="198.51.100.2"), START)
    assert caught.value.refusal is Refusal.FULL
    assert "max_entries" in caught.value.why
    assert found(whitelist, START)
    knock(whitelist, wish(ttl=500), later(10))  # renewing needs no room


def test_expired_grants_make_room() -> None:
    whitelist = make(max_entries=1)
    knock(whitelist, wish())
    with pytest.raises(Refused):
        whitelist.plan(wish(network="198.51.100.1"), later(99))
    knock(whitelist, wish(network="198.51.100.1"), later(100))
    assert len(whitelist) == 1


@pytest.mark.parametrize(
    ("host", "opens"),
    [
        pytest.param("a.example", True, id="named"),
        pytest.param("x.b.example", True, id="below a starred domain"),
        pytest.param("b.example", False, id="the bare domain"),
        pytest.param("c.example", False, id="another host"),
        pytest.param(None, False, id="no host"),
    ],
)
def test_a_grant_opens_only_the_hosts_of_its_key(host: str | None, opens: bool) -> None:
    whitelist = make()
    knock(whitelist, wish(TABLET))
    opening, other = whitelist.find(HOME, host, START)
    assert (opening is not None) is opens
    assert (other is not None) is not opens


def test_a_wider_grant_helps_where_a_narrow_one_lacks_the_host() -> None:
    whitelist = make()
    knock(whitelist, wish(TABLET))
    knock(whitelist, wish(ADMIN, "203.0.113.0/24", via=Via.REMOTE))
    assert found(whitelist, START, "c.example")
    assert whitelist.close([grant for grant in whitelist if grant.key == "admin"]) == 1
    assert not found(whitelist, START, "c.example")


@pytest.mark.parametrize(
    ("asked", "keys", "stays"),
    [
        pytest.param(wish(), [PHONE], True, id="nothing changed"),
        pytest.param(wish(), [], False, id="the key is gone"),
        pytest.param(wish(), [OTHER_PHONE], False, id="the key has another secret"),
        pytest.param(wish(), [replace(PHONE, name="renamed")], False, id="the key has another name"),
        pytest.param(wish(), [replace(PHONE, ttl=1, max_ttl=1)], True, id="a shorter ttl is for the next knock"),
        pytest.param(wish(ADMIN, via=Via.REMOTE), [NO_ADMIN], False, id="the right that it used is lost"),
        pytest.param(wish(ADMIN), [NO_ADMIN], True, id="a right that it did not use is lost"),
        pytest.param(wish(TABLET), [OTHER_TABLET], True, id="other hosts end nothing"),
    ],
)
def test_a_grant_ends_with_its_keys_rights(asked: Wish, keys: list[Key], stays: bool) -> None:
    for under_way in (False, True):
        whitelist = make()
        grant = whitelist.plan(asked, START)
        assert under_way or whitelist.settle(grant)
        whitelist.rekey(Keyring(keys))
        if under_way:
            assert whitelist.settle(grant) is stays
        assert len(whitelist) == stays


def test_a_grant_for_the_own_address_needs_the_right_once_an_admin_named_it() -> None:
    whitelist = make()
    knock(whitelist, wish(ADMIN, via=Via.REMOTE))
    knock(whitelist, wish(ADMIN, via=Via.HTTP), later(1))
    whitelist.rekey(Keyring([NO_ADMIN]))
    assert len(whitelist) == 0


def test_a_grants_hosts_are_its_keys_current_ones() -> None:
    whitelist = make()
    knock(whitelist, wish(TABLET))
    under_way = whitelist.plan(wish(TABLET, "198.51.100.1"), START)
    whitelist.rekey(Keyring([OTHER_TABLET]))
    assert whitelist.settle(under_way)
    for address in (HOME, Address.parse("198.51.100.1")):
        assert found(whitelist, START, "c.example", address)
        assert not found(whitelist, START, "a.example", address)
    whitelist.rekey(Keyring([OPEN_TABLET]))
    assert found(whitelist, START, None)


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        pytest.param(wish(), [], id="gone"),
        pytest.param(wish(), [OTHER_PHONE], id="another secret"),
        pytest.param(wish(ADMIN, via=Via.REMOTE), [NO_ADMIN], id="lost the right"),
    ],
)
def test_a_knock_that_waited_while_its_key_changed_is_refused(asked: Wish, keys: list[Key]) -> None:
    whitelist = make()
    whitelist.rekey(Keyring(keys))
    with pytest.raises(Refused) as caught:
        whitelist.plan(asked, START)
    assert caught.value.refusal is Refusal.BAD_KEY


def test_an_entry_of_an_older_file_belongs_to_no_key_and_opens_every_host() -> None:
    whitelist = make()
    network = Network.parse("203.0.113.9")
    whitelist.restore([Grant("x", network, None, "", Via.FILE, None, 0, 0, START.wall + 50, START.boot + 50)])
    whitelist.rekey(Keyring())
    assert found(whitelist, later(49), "a.example")
    assert not found(whitelist, later(50), "a.example")


@pytest.mark.parametrize(
    ("granted", "key", "closed"),
    [
        pytest.param(wish(), PHONE, True, id="the own address"),
        pytest.param(wish(via=Via.UDP), PHONE, True, id="knocked by a datagram"),
        pytest.param(wish(), ADMIN, False, id="another key's"),
        pytest.param(wish(network="198.51.100.1"), PHONE, False, id="another address"),
        pytest.param(wish(ADMIN, "203.0.113.0/24", via=Via.REMOTE), ADMIN, False, id="a network that an admin opened"),
        pytest.param(wish(ADMIN, via=Via.REMOTE), ADMIN, True, id="exactly the own address, though named"),
    ],
)
def test_a_caller_closes_what_its_own_knocks_left(granted: Wish, key: Key, closed: bool) -> None:
    whitelist = make()
    knock(whitelist, granted)
    assert bool(whitelist.own(Own(key, HOME))) is closed


def test_a_caller_closes_the_network_that_its_ipv6_knock_opened_whatever_the_prefix_is_now() -> None:
    whitelist = make()
    knock(whitelist, wish(replace(PHONE, ipv6_prefix=64), "2001:db8::/64"))
    client = Address.parse("2001:db8::7")
    assert len(whitelist.own(Own(replace(PHONE, ipv6_prefix=64), client))) == 1
    assert len(whitelist.own(Own(PHONE, client))) == 1


def test_followers_are_told_of_every_change_once() -> None:
    whitelist = make()
    told: list[Change] = []
    whitelist.followers.append(told.append)
    knock(whitelist, wish())
    knock(whitelist, wish(), later(10))
    whitelist.close(whitelist.own(Own(PHONE, HOME)), "the caller asked")
    knock(whitelist, wish(), later(20))
    whitelist.expire(later(120))
    whitelist.expire(later(121))
    knock(whitelist, wish(), later(130))
    whitelist.rekey(Keyring())
    events = [change.event for change in told]
    assert events == [
        Event.OPENED,
        Event.EXTENDED,
        Event.CLOSED,
        Event.OPENED,
        Event.EXPIRED,
        Event.OPENED,
        Event.CLOSED,
    ]
    assert told[2].why == "the caller asked"
    assert "api_keys" in told[-1].why


def test_what_was_restored_is_not_told() -> None:
    source, whitelist = make(), make()
    knock(source, wish())
    told: list[Change] = []
    whitelist.followers.append(told.append)
    whitelist.restore(source)
    assert told == []
    assert found(whitelist, START)


@pytest.mark.parametrize(
    ("now", "left"),
    [
        pytest.param(later(0), 100, id="all of it"),
        pytest.param(later(0.4), 100, id="rounded to the nearest"),
        pytest.param(later(10, step=50), 40, id="the wall clock's end is nearer"),
        pytest.param(later(10, step=-50), 90, id="the boot clock's end is nearer"),
        pytest.param(later(500), 0, id="never less than nothing"),
    ],
)
def test_the_time_left_is_that_of_the_nearer_end(now: Moment, left: int) -> None:
    assert knock(make(), wish()).seconds_left(now) == left


# Everything at once. The model is a list of records that is always scanned from end to end.

RINGS = (
    ALL,
    Keyring([PHONE, ADMIN]),
    Keyring([OTHER_PHONE, TABLET, ADMIN]),
    Keyring([PHONE, OTHER_TABLET, NO_ADMIN]),
    Keyring([PHONE, OPEN_TABLET, ADMIN]),
)
KEYS = st.sampled_from([PHONE, OTHER_PHONE, TABLET, OTHER_TABLET, ADMIN, NO_ADMIN])
NETWORKS = tuple(map(Network.parse, ("203.0.113.9", "203.0.113.8/31", "203.0.0.0/16", "2001:db8::9", "2001:db8::/64")))
ADDRESSES = tuple(map(Address.parse, ("203.0.113.9", "203.0.113.8", "203.0.9.9", "2001:db8::9", "2001:db8::a", "::9")))
# What each scope opens, written out; by the key whose scope it is.
HOSTS = (None, "a.example", "x.b.example", "b.example", "c.example")
OPENS = {TABLET: {"a.example", "x.b.example"}, OTHER_TABLET: {"c.example"}}
MOST = 4


@dataclass
class Record:
    """One grant as the model sees it; `over` is set once any look at it found its time over."""

    id: str
    key: str | None
    network: Network
    secret: bytes
    via: Via
    wall_end: float
    boot_end: float
    over: bool = False

    def ended(self, wall: float, boot: float) -> bool:
        return wall >= self.wall_end or boot >= self.boot_end

    def is_that(self, grant: Grant) -> bool:
        return (grant.id, grant.key, grant.network, grant.expires_at, grant.boot_ends_at) == (
            self.id,
            self.key,
            self.network,
            self.wall_end,
            self.boot_end,
        )


class WhitelistMachine(RuleBasedStateMachine):
    """Random knocks, closings, clocks and settings, each answer compared with the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.wall, self.boot = START.wall, START.boot
        self.ring = ALL
        self.ids = itertools.count()
        self.whitelist = Whitelist(ALL, MOST, lambda: f"id-{next(self.ids)}")
        self.whitelist.followers.append(self.follow)
        self.records: list[Record] = []
        self.planned: list[tuple[Grant, Record]] = []
        self.stale: list[Grant] = []
        self.told: set[tuple[str | None, Network]] = set()

    # What the model knows.

    def now(self) -> Moment:
        for record in self.records:
            record.over = record.over or record.ended(self.wall, self.boot)
        return Moment(self.wall, self.boot)

    def follow(self, change: Change) -> None:
        owner = (change.grant.key, change.grant.network)
        if change.event is Event.OPENED:
            assert owner not in self.told
            self.told.add(owner)
        elif change.event is Event.EXTENDED:
            assert owner in self.told
        else:
            self.told.discard(owner)

    def key_of(self, record: Record) -> Key | None:
        return next((key for key in self.ring.keys if key.name == record.key), None)

    def opens(self, record: Record, host: str | None) -> bool:
        key = self.key_of(record)
        return key not in OPENS or host in OPENS[key]

    def rightful(self, record: Record) -> bool:
        if record.key is None:
            return True
        key = self.key_of(record)
        return key is not None and key.digest == record.secret and (key.admin or record.via is not Via.REMOTE)

    def drop(self, owner: tuple[str | None, Network], also_planned: bool) -> None:
        self.records = [record for record in self.records if (record.key, record.network) != owner]
        if also_planned:
            self.stale += [grant for grant, record in self.planned if (record.key, record.network) == owner]
            self.planned = [pair for pair in self.planned if (pair[1].key, pair[1].network) != owner]

    def attempt(self, wish: Wish, now: Moment) -> Grant | Refusal:
        try:
            return self.whitelist.plan(wish, now)
        except Refused as refused:
            return refused.refusal

    # What can happen.

    @initialize(count=st.integers(0, 2), ttl=st.sampled_from([20, 300]))
    def an_older_file_is_loaded(self, count: int, ttl: int) -> None:
        for network in NETWORKS[:count]:
            ends = (self.wall + ttl, self.boot + ttl)
            self.whitelist.restore([Grant(f"old-{network}", network, None, "", Via.FILE, None, 0, 0, *ends)])
            self.records.append(Record(f"old-{network}", None, network, b"", Via.FILE, *ends))
            self.told.add((None, network))

    @rule(seconds=st.integers(0, 60))
    def time_passes(self, seconds: int) -> None:
        self.wall += seconds
        self.boot += seconds

    @rule(step=st.sampled_from([-400.0, -30.0, -1.0, 1.0, 30.0, 400.0]))
    def somebody_sets_the_clock(self, step: float) -> None:
        self.wall += step

    @rule(
        key=KEYS,
        network=st.sampled_from(NETWORKS),
        via=st.sampled_from([Via.HTTP, Via.HTTP, Via.REMOTE, Via.UDP]),
        ttl=st.sampled_from([5, 40, 300]),
        named=st.booleans(),
        stored=st.booleans(),
    )
    def a_knock_is_planned(self, key: Key, network: Network, via: Via, ttl: int, named: bool, stored: bool) -> None:
        now = self.now()
        owner = (key.name, network)
        for grant, record in [*self.planned]:  # the store never plans twice while a write takes longer than a ttl
            if (record.key, record.network) == owner and record.ended(self.wall, self.boot):
                self.whitelist.abandon(grant)
                self.planned.remove((grant, record))
                self.stale.append(grant)
        current = next((other for other in self.ring.keys if other.name == key.name), None)
        refused = current is None or current.digest != key.digest or (via is Via.REMOTE and not current.admin)
        live = [record for record in self.records if not record.ended(self.wall, self.boot)]
        bases = [
            record for record in [record for _, record in self.planned] + live if (record.key, record.network) == owner
        ]
        owners = {(record.key, record.network) for record in [*live, *(record for _, record in self.planned)]}
        outcome = self.attempt(Wish(network, key, via, ttl, named), now)
        full = not bases and len(owners) >= MOST
        if refused or full:
            assert outcome is (Refusal.BAD_KEY if refused else Refusal.FULL)
            return
        assert isinstance(outcome, Grant)
        grant = outcome
        wall_end, boot_end = self.wall + ttl, self.boot + ttl
        if bases and not named:
            wall_end, boot_end = max(wall_end, bases[0].wall_end), max(boot_end, bases[0].boot_end)
        if bases and bases[0].via is Via.REMOTE:
            via = Via.REMOTE
        record = Record(bases[0].id if bases else grant.id, key.name, network, key.digest, via, wall_end, boot_end)
        assert record.is_that(grant)
        assert grant.via is via
        assert bases or grant.id not in {other.id for other in self.records}
        self.stale += [other for other, beside in self.planned if (beside.key, beside.network) == owner]
        self.planned = [pair for pair in self.planned if (pair[1].key, pair[1].network) != owner]
        self.planned.append((grant, record))
        if stored:
            self.settle(-1)

    @precondition(lambda self: self.planned)
    @rule(data=st.data())
    def a_knock_is_stored(self, data: st.DataObject) -> None:
        self.settle(data.draw(st.integers(0, len(self.planned) - 1)))

    def settle(self, index: int) -> None:
        grant, record = self.planned.pop(index)
        assert self.whitelist.settle(grant)
        self.drop((record.key, record.network), also_planned=False)
        self.records.append(record)
        self.stale.append(grant)

    @precondition(lambda self: self.planned)
    @rule(data=st.data())
    def a_knock_cannot_be_stored(self, data: st.DataObject) -> None:
        grant, _ = self.planned.pop(data.draw(st.integers(0, len(self.planned) - 1)))
        self.whitelist.abandon(grant)
        self.stale.append(grant)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def what_was_settled_closed_or_abandoned_is_settled_again(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from(self.stale))
        assert not self.whitelist.settle(grant)
        self.whitelist.abandon(grant)

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def a_grant_is_closed(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(self.records))
        grants = [grant for grant in self.whitelist if record.is_that(grant)]
        assert self.whitelist.close(grants) == 1
        assert self.whitelist.close(grants) == 0
        self.drop((record.key, record.network), also_planned=True)

    @rule()
    def the_reaper_comes(self) -> None:
        now = self.now()
        ended = [record for record in self.records if record.ended(self.wall, self.boot)]
        assert self.whitelist.expire(now) == len(ended)
        self.records = [record for record in self.records if record not in ended]

    @rule(ring=st.sampled_from(RINGS))
    def the_settings_are_read_again(self, ring: Keyring) -> None:
        self.whitelist.rekey(ring)
        self.ring = ring
        for record in [*self.records, *(record for _, record in self.planned)]:
            if not self.rightful(record):
                self.drop((record.key, record.network), also_planned=True)

    @rule(address=st.sampled_from(ADDRESSES), host=st.sampled_from(HOSTS))
    def somebody_asks(self, address: Address, host: str | None) -> None:
        now = self.now()
        covering = [record for record in self.records if address in record.network]
        live = [record for record in covering if not record.ended(self.wall, self.boot)]
        opening, other = self.whitelist.find(address, host, now)
        may_open = [record for record in live if self.opens(record, host)]
        assert (opening is not None) == bool(may_open)
        assert opening is None or any(record.is_that(opening) for record in may_open)
        assert (other is not None) == (not may_open and bool(live))
        assert other is None or any(record.is_that(other) for record in live)
        if opening is None:  # then every grant around was looked at, and those that are over are gone for good
            self.records = [record for record in self.records if record not in covering or record in live]

    # What always holds.

    @invariant()
    def the_whitelist_holds_what_the_model_holds(self) -> None:
        held = list(self.whitelist)
        gone = [record for record in self.records if not any(record.is_that(grant) for grant in held)]
        assert all(record.over for record in gone), "a grant is gone before its time"
        self.records = [record for record in self.records if record not in gone]
        assert len(held) == len(self.records), "a grant came back, or was never granted"
        assert {(grant.key, grant.network) for grant in held} == self.told
        assert len(held) == len(self.whitelist) <= MOST


TestWhitelistMachine = pytest.mark.timeout(600)(WhitelistMachine.TestCase)
