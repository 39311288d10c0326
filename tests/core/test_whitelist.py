"""The whitelist: its rules one by one; tests/core/test_model.py has all of them at once."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from knocker.core.addresses import Address, Network, networks
from knocker.core.change import Change, Event
from knocker.core.grant import Grant, One, Own, Via, Wish
from knocker.core.hosts import Scope
from knocker.core.keys import Key, Keyring, digest_of
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.core.refusals import Refusal, Refused
from knocker.core.whitelist import Crowded, Whitelist

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
ANYWHERE = Forbidden()


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
    plan = whitelist.plan(asked, now)
    grant = whitelist.settle(plan, now)
    assert grant is not None
    return grant


def found(whitelist: Whitelist, now: Moment, host: str | None = None, address: Address = HOME) -> bool:
    return any(grant.hosts is None or host in grant.hosts for grant in whitelist.live(address, now))


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
        whitelist.close(whitelist.chosen(Own(PHONE, HOME)))
    else:
        whitelist.expire(later(10))
    assert not found(whitelist, START, "c.example")
    assert found(whitelist, START, "a.example")
    assert whitelist.chosen(Own(PHONE, HOME)) == []


def test_a_planned_grant_counts_only_once_it_is_stored() -> None:
    whitelist = make()
    plan = whitelist.plan(wish(), START)
    assert not found(whitelist, START)
    assert len(whitelist) == 0
    assert whitelist.settle(plan, START) == plan.grant
    assert found(whitelist, START)
    assert whitelist.settle(plan, START) is None


def test_a_grant_that_could_not_be_stored_leaves_everything_as_it_was() -> None:
    whitelist = make(max_entries=2)
    knock(whitelist, wish(ttl=50))
    renewed, fresh = (
        whitelist.plan(wish(ttl=1000), later(10)),
        whitelist.plan(wish(network="198.51.100.1"), later(10)),
    )
    whitelist.abandon(renewed)
    whitelist.abandon(fresh)
    assert whitelist.settle(renewed, later(10)) is None
    assert whitelist.settle(fresh, later(10)) is None
    assert found(whitelist, later(49))
    assert not found(whitelist, later(50))
    knock(whitelist, wish(network="198.51.100.2"), later(50))


def test_a_renewal_under_way_outlives_the_end_of_what_it_renews() -> None:
    whitelist = make()
    knock(whitelist, wish())
    renewal = whitelist.plan(wish(), later(99))
    assert not found(whitelist, later(100))
    assert whitelist.settle(renewal, later(100)) == renewal.grant
    assert found(whitelist, later(101))


def test_closing_ends_a_grant_at_once_and_the_knock_under_way_too() -> None:
    whitelist = make()
    knock(whitelist, wish())
    renewal = whitelist.plan(wish(ttl=500), later(10))
    assert whitelist.close(whitelist.chosen(Own(PHONE, HOME))) == 1
    assert not found(whitelist, later(10))
    assert whitelist.settle(renewal, later(10)) is None
    assert not found(whitelist, later(10))
    assert whitelist.close(whitelist.chosen(Own(PHONE, HOME))) == 0


def test_closing_ends_a_first_knock_that_is_still_under_way() -> None:
    whitelist = make()
    planned = whitelist.plan(wish(), START)
    assert whitelist.close(whitelist.chosen(Own(PHONE, HOME))) == 1
    assert whitelist.settle(planned, START) is None
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
    assert found(whitelist, START, host) is opens


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
        pytest.param(wish(), [replace(PHONE, ttl=1, max_ttl=1)], True, id="a shorter max_ttl cuts and ends nothing"),
        pytest.param(wish(ADMIN, via=Via.REMOTE), [NO_ADMIN], False, id="the right that it used is lost"),
        pytest.param(wish(ADMIN), [NO_ADMIN], True, id="a right that it did not use is lost"),
        pytest.param(wish(TABLET), [OTHER_TABLET], True, id="other hosts end nothing"),
    ],
)
def test_a_grant_ends_with_its_keys_rights(asked: Wish, keys: list[Key], stays: bool) -> None:
    for under_way in (False, True):
        whitelist = make()
        plan = whitelist.plan(asked, START)
        assert under_way or whitelist.settle(plan, START)
        whitelist.revise(Keyring(keys), ANYWHERE, START)
        if under_way:
            assert (whitelist.settle(plan, START) is not None) is stays
        assert len(whitelist) == stays


def test_a_grant_for_the_own_address_needs_the_right_once_an_admin_named_it() -> None:
    whitelist = make()
    knock(whitelist, wish(ADMIN, via=Via.REMOTE))
    knock(whitelist, wish(ADMIN, via=Via.HTTP), later(1))
    whitelist.revise(Keyring([NO_ADMIN]), ANYWHERE, START)
    assert len(whitelist) == 0


def test_a_grants_hosts_are_its_keys_current_ones() -> None:
    whitelist = make()
    knock(whitelist, wish(TABLET))
    under_way = whitelist.plan(wish(TABLET, "198.51.100.1"), START)
    whitelist.revise(Keyring([OTHER_TABLET]), ANYWHERE, START)
    assert whitelist.settle(under_way, START)
    for address in (HOME, Address.parse("198.51.100.1")):
        assert found(whitelist, START, "c.example", address)
        assert not found(whitelist, START, "a.example", address)
    whitelist.revise(Keyring([OPEN_TABLET]), ANYWHERE, START)
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
    whitelist.revise(Keyring(keys), ANYWHERE, START)
    with pytest.raises(Refused) as caught:
        whitelist.plan(asked, START)
    assert caught.value.refusal is Refusal.BAD_KEY


def test_an_entry_of_an_older_file_belongs_to_no_key_and_opens_every_host() -> None:
    whitelist = make()
    network = Network.parse("203.0.113.9")
    whitelist.restore([Grant("x", *network.parts, None, "", Via.FILE, None, 0, 0, START.wall + 50, START.boot + 50)])
    whitelist.revise(Keyring([ADMIN]), ANYWHERE, START)
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
    assert bool(whitelist.chosen(Own(key, HOME))) is closed


def test_a_caller_closes_the_network_that_its_ipv6_knock_opened_whatever_the_prefix_is_now() -> None:
    whitelist = make(keyring=Keyring([replace(PHONE, ipv6_prefix=64)]))
    knock(whitelist, wish(replace(PHONE, ipv6_prefix=64), "2001:db8::/64"))
    client = Address.parse("2001:db8::7")
    assert len(whitelist.chosen(Own(replace(PHONE, ipv6_prefix=64), client))) == 1
    assert len(whitelist.chosen(Own(PHONE, client))) == 1


def test_followers_are_told_of_every_change_once() -> None:
    whitelist = make()
    told: list[Change] = []
    whitelist.followers.append(told.append)
    knock(whitelist, wish())
    knock(whitelist, wish(), later(10))
    whitelist.close(whitelist.chosen(Own(PHONE, HOME)), "the caller asked")
    knock(whitelist, wish(), later(20))
    whitelist.expire(later(120))
    whitelist.expire(later(121))
    knock(whitelist, wish(), later(130))
    whitelist.revise(Keyring(), ANYWHERE, START)
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


def test_followers_are_told_of_a_knock_that_shortened_its_grant() -> None:
    whitelist = make()
    told: list[Change] = []
    whitelist.followers.append(told.append)
    for asked in (wish(), wish(ttl=50), wish(ttl=50, named=True)):
        knock(whitelist, asked)
    assert [(change.event, change.why) for change in told] == [
        (Event.OPENED, ""),
        (Event.EXTENDED, ""),
        (Event.EXTENDED, "its knock asked for less time than was left"),
    ]


def test_no_knock_is_told_to_shorten_a_grant_when_only_a_clock_did() -> None:
    whitelist = make()
    told: list[Change] = []
    whitelist.followers.append(told.append)
    knock(whitelist, wish(named=True))
    knock(whitelist, wish(ttl=99, named=True), Moment(START.wall, START.boot + 0.5))
    knock(whitelist, wish(named=True), Moment(START.wall - 3600, START.boot))
    assert [change.why for change in told] == ["", "", ""]


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


def opened_by(key: Key, *networks: str, keyring: Keyring | None = None) -> Whitelist:
    """A whitelist in which `key` knocked from each of `networks`, a second apart."""
    whitelist = make(keyring=keyring or Keyring([key, ADMIN]))
    for second, network in enumerate(networks):
        knock(whitelist, wish(key, network), later(second))
    return whitelist


def entries(whitelist: Whitelist) -> set[str]:
    return {str(grant.network) for grant in whitelist}


# max_addresses.

TWO = replace(PHONE, max_addresses=2)
ONE, A, B, C = replace(PHONE, max_addresses=1), "198.51.100.1", "198.51.100.2", "198.51.100.3"
SIX_A, SIX_B = "2001:db8::a", "2001:db8::b"


@pytest.mark.parametrize(
    ("key", "knocks", "left"),
    [
        pytest.param(TWO, [A, B], {A, B}, id="as many as it may"),
        pytest.param(TWO, [A, B, C], {B, C}, id="the newest wins"),
        pytest.param(TWO, [A, B, A, C], {A, C}, id="the longest unknocked leaves, not the first opened"),
        pytest.param(TWO, [A, B, B, B], {A, B}, id="renewing takes nobody's place"),
        pytest.param(TWO, [A, B, SIX_A, SIX_B], {A, B, SIX_A, SIX_B}, id="each family for itself"),
        pytest.param(ONE, [A, SIX_A, B, SIX_B], {B, SIX_B}, id="one of each family"),
        pytest.param(PHONE, [A, B, C], {A, B, C}, id="without the setting"),
    ],
)
def test_a_key_opens_at_most_so_many_addresses(key: Key, knocks: list[str], left: set[str]) -> None:
    assert entries(opened_by(key, *knocks)) == left


def test_the_grant_that_makes_room_is_named_by_the_plan_and_closed_with_its_settling() -> None:
    whitelist = opened_by(ONE, A)
    told: list[Change] = []
    whitelist.followers.append(told.append)
    (displaced,) = whitelist
    plan = whitelist.plan(wish(ONE, B), later(10))
    assert plan.displaces == (displaced,)
    assert (entries(whitelist), told) == ({A}, [])
    assert whitelist.settle(plan, later(10)) == plan.grant
    assert entries(whitelist) == {B}
    assert [(change.event, str(change.grant.network)) for change in told] == [(Event.OPENED, B), (Event.CLOSED, A)]
    assert "max_addresses" in told[-1].why


def test_a_knock_that_could_not_be_stored_displaces_nobody() -> None:
    whitelist = opened_by(TWO, A, B)
    before = list(whitelist)
    whitelist.abandon(whitelist.plan(wish(TWO, C), later(10)))
    assert list(whitelist) == before
    knock(whitelist, wish(TWO, B), later(11))
    assert entries(whitelist) == {A, B}


def test_a_knock_does_not_displace_one_that_is_still_being_stored() -> None:
    whitelist = opened_by(ONE)
    first = whitelist.plan(wish(ONE, A), START)
    with pytest.raises(Crowded):
        whitelist.plan(wish(ONE, B), START)
    assert whitelist.settle(first, START)
    knock(whitelist, wish(ONE, B), later(1))
    assert entries(whitelist) == {B}


def test_a_crowded_knock_can_be_planned_once_the_other_was_abandoned() -> None:
    whitelist = opened_by(ONE)
    first = whitelist.plan(wish(ONE, A), START)
    with pytest.raises(Crowded):
        whitelist.plan(wish(ONE, B), START)
    whitelist.abandon(first)
    knock(whitelist, wish(ONE, B), START)
    assert entries(whitelist) == {B}


def test_two_knocks_of_one_batch_displace_two_grants() -> None:
    whitelist = opened_by(TWO, A, B)
    plans = [whitelist.plan(wish(TWO, network), later(10)) for network in (C, "198.51.100.4")]
    assert [[str(grant.network) for grant in plan.displaces] for plan in plans] == [[A], [B]]
    assert all(whitelist.settle(plan, later(10)) for plan in plans)
    assert entries(whitelist) == {C, "198.51.100.4"}


def test_a_knock_planned_twice_displaces_as_one() -> None:
    whitelist = opened_by(TWO, A, B)
    once, again = [whitelist.plan(wish(TWO, C), later(10)) for _ in range(2)]
    assert whitelist.settle(once, later(10)) is None
    assert whitelist.settle(again, later(10))
    assert entries(whitelist) == {B, C}


def test_a_grant_that_is_being_displaced_and_knocks_again_waits_or_stays() -> None:
    whitelist = opened_by(TWO, A, B)
    first = whitelist.plan(wish(TWO, C), later(10))
    with pytest.raises(Crowded):
        whitelist.plan(wish(TWO, A), later(10))
    assert whitelist.settle(first, later(10))
    knock(whitelist, wish(TWO, A), later(11))
    assert entries(whitelist) == {A, C}


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(wish(ADMIN, A), id="another key's"),
        pytest.param(wish(ADMIN, A, via=Via.REMOTE), id="an admin's for another address"),
    ],
)
def test_other_grants_do_not_count(other: Wish) -> None:
    whitelist = opened_by(ONE, B)
    knock(whitelist, other, later(1))
    knock(whitelist, wish(ONE, C), later(2))
    assert entries(whitelist) == {A, C}


def test_what_an_admin_opens_for_others_neither_counts_nor_displaces() -> None:
    admin = replace(ADMIN, max_addresses=1)
    whitelist = opened_by(admin, A, keyring=Keyring([admin]))
    for network in (B, C, "198.51.0.0/16"):
        knock(whitelist, wish(admin, network, via=Via.REMOTE), later(1))
    assert entries(whitelist) == {A, B, C, "198.51.0.0/16"}
    knock(whitelist, wish(admin, "198.51.100.4"), later(2))
    assert entries(whitelist) == {B, C, "198.51.0.0/16", "198.51.100.4"}


def test_datagrams_count_as_own_addresses() -> None:
    whitelist = opened_by(ONE, A)
    knock(whitelist, wish(ONE, B, via=Via.UDP), later(1))
    assert entries(whitelist) == {B}


def test_a_full_whitelist_has_room_for_a_knock_that_displaces_one() -> None:
    whitelist = make(2, Keyring([ONE, ADMIN]))
    knock(whitelist, wish(ONE, A))
    knock(whitelist, wish(ADMIN, "192.0.2.1"))
    knock(whitelist, wish(ONE, B), later(1))
    assert entries(whitelist) == {B, "192.0.2.1"}
    with pytest.raises(Refused) as caught:
        whitelist.plan(wish(ADMIN, "192.0.2.2"), later(1))
    assert caught.value.refusal is Refusal.FULL


def test_a_knock_that_no_longer_displaces_anything_needs_room_of_its_own() -> None:
    """In one write an admin knocks for itself, then opens the same address, which displaces nobody."""
    admin = replace(ADMIN, max_addresses=1)
    whitelist = make(2, Keyring([admin, PHONE]))
    knock(whitelist, wish(admin, A))
    knock(whitelist, wish(PHONE, "192.0.2.1"))
    first = whitelist.plan(wish(admin, B), later(1))
    assert [str(grant.network) for grant in first.displaces] == [A]
    with pytest.raises(Refused) as caught:
        whitelist.plan(wish(admin, B, via=Via.REMOTE), later(1))
    assert caught.value.refusal is Refusal.FULL
    assert whitelist.settle(first, later(1)) is not None, "the one before is stored all the same"
    assert entries(whitelist) == {B, "192.0.2.1"}
    roomy = make(3, Keyring([admin, PHONE]))
    knock(roomy, wish(admin, A))
    knock(roomy, wish(PHONE, "192.0.2.1"))
    roomy.plan(wish(admin, B), later(1))
    last = roomy.plan(wish(admin, B, via=Via.REMOTE), later(1))
    assert roomy.settle(last, later(1)) is not None
    assert entries(roomy) == {A, B, "192.0.2.1"}


def test_the_room_of_a_displaced_grant_is_given_away_once() -> None:
    """The grant ends on its own before the knock that displaces it is stored."""
    whitelist = make(2, Keyring([ONE, ADMIN]))
    knock(whitelist, wish(ONE, A, ttl=50))
    knock(whitelist, wish(ADMIN, "192.0.2.1"))
    plan = whitelist.plan(wish(ONE, B), later(49))
    assert whitelist.expire(later(50)) == 1
    with pytest.raises(Refused):
        whitelist.plan(wish(ADMIN, "192.0.2.2"), later(50))
    assert whitelist.settle(plan, later(50))
    assert len(whitelist) == 2


def test_what_is_over_does_not_count() -> None:
    whitelist = opened_by(TWO, A)
    knock(whitelist, wish(TWO, B, ttl=5, named=True), later(1))
    plan = whitelist.plan(wish(TWO, C), later(20))
    assert plan.displaces == ()
    assert whitelist.settle(plan, later(20))
    assert found(whitelist, later(20), address=Address.parse(A))
    assert found(whitelist, later(20), address=Address.parse(C))


def test_what_a_knock_saw_ended_stays_gone_when_the_clock_is_set_back() -> None:
    whitelist = opened_by(ONE, A)
    knock(whitelist, wish(ONE, B), later(10, step=1000))
    assert not found(whitelist, later(20), address=Address.parse(A))
    assert found(whitelist, later(20), address=Address.parse(B))


def test_lowered_max_addresses_close_the_longest_unknocked() -> None:
    whitelist = opened_by(replace(PHONE, max_addresses=3), A, B, C, A, SIX_A)
    whitelist.revise(Keyring([TWO]), ANYWHERE, later(10))
    assert entries(whitelist) == {A, C, SIX_A}
    whitelist.revise(Keyring([ONE]), ANYWHERE, later(11))
    assert entries(whitelist) == {A, SIX_A}


@pytest.mark.parametrize("before", [replace(PHONE, max_addresses=3), PHONE])
def test_a_knock_under_way_while_max_addresses_is_lowered_leaves_no_more_than_that(before: Key) -> None:
    whitelist = opened_by(before, A, B)
    plan = whitelist.plan(wish(before, C), later(10))
    whitelist.revise(Keyring([ONE]), ANYWHERE, later(10))
    assert whitelist.settle(plan, later(10))
    assert entries(whitelist) == {C}


def test_the_order_of_the_knocks_counts_and_not_what_the_clock_said() -> None:
    whitelist = opened_by(TWO)
    knock(whitelist, wish(TWO, A), later(1, step=500))
    knock(whitelist, wish(TWO, B), later(2))
    knock(whitelist, wish(TWO, C), later(3))
    assert entries(whitelist) == {B, C}


def test_trim_after_loading_keeps_the_newest() -> None:
    whitelist = make(keyring=Keyring([TWO]))
    whitelist.restore(reversed(list(opened_by(PHONE, A, B, C))))
    whitelist.trim(START)
    assert entries(whitelist) == {B, C}
    knock(whitelist, wish(TWO, SIX_A), later(5))
    assert entries(whitelist) == {B, C, SIX_A}


def test_a_closed_grant_leaves_room_for_another() -> None:
    whitelist = opened_by(TWO, A, B)
    assert whitelist.close(whitelist.chosen(Own(TWO, Address.parse(B)))) == 1
    assert whitelist.plan(wish(TWO, C), later(10)).displaces == ()


# expires.


def ending(seconds: float, key: Key = PHONE) -> Key:
    return replace(key, expires=START.wall + seconds)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_no_grant_lasts_longer_than_its_key(first: bool, named: bool) -> None:
    key = ending(60)
    whitelist = make(keyring=Keyring([key]))
    grant = knock(whitelist, wish(key, ttl=20))
    if not first:
        grant = knock(whitelist, wish(key, ttl=500, named=named), later(10))
        assert (grant.expires_at, grant.boot_ends_at) == (START.wall + 60, START.boot + 60)
    grant = knock(whitelist, wish(key, "198.51.100.1", ttl=500, named=named), later(10))
    assert (grant.expires_at, grant.boot_ends_at) == (START.wall + 60, START.boot + 60)
    assert not found(whitelist, later(60))
    assert not found(whitelist, later(60, step=-40), address=Address.parse("198.51.100.1"))


@pytest.mark.parametrize(
    ("seconds", "refused"),
    [
        pytest.param(59.9, False, id="before"),
        pytest.param(60, True, id="at that moment"),
        pytest.param(61, True, id="after it"),
    ],
)
def test_a_knock_that_waited_until_its_key_expired_is_refused(seconds: float, refused: bool) -> None:
    key = ending(60)
    whitelist = make(keyring=Keyring([key]))
    if not refused:
        assert whitelist.plan(wish(key), later(seconds)).grant.expires_at == START.wall + 60
        return
    with pytest.raises(Refused) as caught:
        whitelist.plan(wish(key), later(seconds))
    assert caught.value.refusal is Refusal.BAD_KEY
    assert "expired" in caught.value.why


def test_an_end_of_the_key_that_moved_nearer_cuts_its_grants_and_the_followers_hear_of_it() -> None:
    whitelist = opened_by(PHONE, A)
    knock(whitelist, wish(ADMIN, B))
    told: list[Change] = []
    whitelist.followers.append(told.append)
    whitelist.revise(Keyring([ending(60), ADMIN]), ANYWHERE, later(10))
    assert [(change.event, str(change.grant.network)) for change in told] == [(Event.ALTERED, A)]
    assert (told[0].grant.expires_at, told[0].grant.boot_ends_at) == (START.wall + 60, START.boot + 60)
    assert list(whitelist).count(told[0].grant) == 1
    assert found(whitelist, later(59), address=Address.parse(A))
    assert not found(whitelist, later(60, step=-500), address=Address.parse(A))


def test_an_end_of_the_key_that_moved_away_prolongs_nothing() -> None:
    whitelist = opened_by(ending(60), A)
    before = list(whitelist)
    whitelist.revise(Keyring([ending(600), ADMIN]), ANYWHERE, later(10))
    assert list(whitelist) == before


def test_a_knock_under_way_is_cut_too() -> None:
    whitelist = opened_by(PHONE)
    plan = whitelist.plan(wish(PHONE, A), START)
    whitelist.revise(Keyring([ending(60), ADMIN]), ANYWHERE, later(10))
    grant = whitelist.settle(plan, later(20))
    assert grant is not None
    assert (grant.expires_at, grant.boot_ends_at) == (START.wall + 60, START.boot + 60)
    assert grant is not plan.grant
    assert list(whitelist) == [grant]


# Other settings that change.


@pytest.mark.parametrize("under_way", [False, True])
@pytest.mark.parametrize(
    ("forbidden", "network", "stays"),
    [
        pytest.param(Forbidden(trusted=networks(A)), A, False, id="a proxy is trusted now"),
        pytest.param(Forbidden(shared=networks("198.51.100.0/24")), A, False, id="shared by many now"),
        pytest.param(Forbidden(own=networks(A)), A, False, id="this host's own now"),
        pytest.param(Forbidden(gateways=networks(A)), A, False, id="the gateway now"),
        pytest.param(Forbidden(trusted=networks(A)), "198.51.100.0/24", False, id="inside the granted network"),
        pytest.param(Forbidden(trusted=networks(A)), B, True, id="another address"),
    ],
)
def test_a_grant_ends_where_its_address_may_not_be_granted_any_more(
    forbidden: Forbidden, network: str, stays: bool, under_way: bool
) -> None:
    whitelist = make()
    told: list[Change] = []
    whitelist.followers.append(told.append)
    plan = whitelist.plan(wish(ADMIN, network, via=Via.REMOTE), START)
    assert under_way or whitelist.settle(plan, START)
    whitelist.revise(ALL, forbidden, START)
    if under_way:
        assert (whitelist.settle(plan, START) is not None) is stays
    assert len(whitelist) == stays
    assert (told[-1].event is Event.CLOSED and told[-1].why != "") is not stays


def test_an_entry_of_an_older_file_ends_where_its_address_may_not_be_granted_any_more() -> None:
    whitelist = make()
    ends = (START.wall + 50, START.boot + 50)
    whitelist.restore([Grant("x", *Network.parse(A).parts, None, "", Via.FILE, None, 0, 0, *ends)])
    whitelist.revise(ALL, Forbidden(trusted=networks(A)), START)
    assert len(whitelist) == 0


@pytest.mark.parametrize(
    ("network", "via", "prefix", "stays"),
    [
        pytest.param("2001:db8::/64", Via.HTTP, 128, False, id="wider than it would be now"),
        pytest.param("2001:db8::/64", Via.UDP, 65, False, id="by one bit, by a datagram"),
        pytest.param("2001:db8::/64", Via.HTTP, 64, True, id="as wide"),
        pytest.param("2001:db8::/64", Via.HTTP, 48, True, id="narrower"),
        pytest.param("2001:db8::/64", Via.REMOTE, 128, True, id="an admin named it"),
        pytest.param("2001:db8::9", Via.HTTP, 64, True, id="a single address"),
        pytest.param("203.0.113.9", Via.HTTP, 128, True, id="IPv4"),
    ],
)
def test_own_grants_end_that_are_wider_than_their_key_opens_now(
    network: str, via: Via, prefix: int, stays: bool
) -> None:
    key = replace(ADMIN, ipv6_prefix=64)
    whitelist = make(keyring=Keyring([key]))
    knock(whitelist, wish(key, network, via=via))
    whitelist.revise(Keyring([replace(key, ipv6_prefix=prefix)]), ANYWHERE, START)
    assert len(whitelist) == stays


@pytest.mark.parametrize(
    ("max_ttl", "left"),
    [
        pytest.param(1000, 490, id="unchanged"),
        pytest.param(490, 490, id="just enough"),
        pytest.param(100, 100, id="lowered: counted from now"),
        pytest.param(5000, 490, id="raised: nothing is prolonged"),
    ],
)
def test_a_lowered_max_ttl_cuts_the_time_left(max_ttl: int, left: int) -> None:
    whitelist = make()
    knock(whitelist, wish(ttl=500))
    told: list[Change] = []
    whitelist.followers.append(told.append)
    whitelist.revise(Keyring([replace(PHONE, max_ttl=max_ttl)]), ANYWHERE, later(10))
    (grant,) = whitelist
    ends = later(10 + left)
    assert (grant.expires_at, grant.boot_ends_at) == (ends.wall, ends.boot)
    assert [change.event for change in told] == ([Event.ALTERED] if left != 490 else [])


def test_an_entry_of_an_older_file_is_cut_to_the_most_patient_key() -> None:
    whitelist = make()
    ends = (START.wall + 900, START.boot + 900)
    whitelist.restore([Grant("x", *Network.parse(A).parts, None, "", Via.FILE, None, 0, 0, *ends)])
    whitelist.revise(Keyring([replace(PHONE, max_ttl=50), replace(ADMIN, max_ttl=70)]), ANYWHERE, START)
    assert [grant.seconds_left(START) for grant in whitelist] == [70]


def test_settings_that_did_not_change_touch_nothing() -> None:
    whitelist = opened_by(TWO, A, B, SIX_A)
    before, told = list(whitelist), list[Change]()
    whitelist.followers.append(told.append)
    whitelist.revise(Keyring([TWO, ADMIN]), ANYWHERE, later(3))
    assert (list(whitelist), told) == (before, [])


def test_what_ended_is_expired_at_a_reload_and_not_altered() -> None:
    whitelist = opened_by(PHONE, A)
    told: list[Change] = []
    whitelist.followers.append(told.append)
    whitelist.revise(Keyring([ending(60)]), ANYWHERE, later(100))
    assert [change.event for change in told] == [Event.EXPIRED]


def test_a_change_of_hosts_is_told_and_listed() -> None:
    whitelist = opened_by(TABLET, A)
    told: list[Change] = []
    whitelist.followers.append(told.append)
    whitelist.revise(Keyring([OTHER_TABLET]), ANYWHERE, START)
    assert [change.event for change in told] == [Event.ALTERED]
    assert [grant.hosts for grant in whitelist] == [OTHER_TABLET.hosts]


def test_a_right_that_only_the_knock_under_way_used_ends_that_knock_alone() -> None:
    whitelist = opened_by(ADMIN, A)
    plan = whitelist.plan(wish(ADMIN, A, via=Via.REMOTE), START)
    whitelist.revise(Keyring([NO_ADMIN]), ANYWHERE, START)
    assert whitelist.settle(plan, START) is None
    assert entries(whitelist) == {A}


def test_a_wish_that_waited_while_its_network_became_forbidden_is_not_planned() -> None:
    whitelist = make()
    whitelist.revise(ALL, Forbidden(trusted=networks(A)), START)
    with pytest.raises(Refused):
        whitelist.plan(wish(network=A), START)
    knock(whitelist, wish(network=B))


# Finding and closing one.


def test_a_grant_is_found_by_its_id_while_it_lives() -> None:
    whitelist = opened_by(PHONE, A, B)
    first = next(grant for grant in whitelist if str(grant.network) == A)
    assert whitelist.with_id(first.id, later(50)) == first
    assert whitelist.with_id("id-9", START) is None
    assert whitelist.with_id(first.id, later(100)) is None


def test_a_grant_that_was_seen_ended_by_its_id_stays_gone() -> None:
    whitelist = opened_by(PHONE, A)
    (grant,) = whitelist
    assert whitelist.with_id(grant.id, later(10, step=1000)) is None
    assert not found(whitelist, later(20), address=Address.parse(A))


def test_closing_one_grant_closes_its_owners_alone_and_its_knock_under_way() -> None:
    whitelist = make()
    for key in (PHONE, ADMIN):
        knock(whitelist, wish(key))
    knock(whitelist, wish(network=B))
    renewal = whitelist.plan(wish(), later(1))
    assert whitelist.close(whitelist.chosen(One("phone", HOME.network)), "revoked") == 1
    assert {(grant.key, str(grant.network)) for grant in whitelist} == {("admin", "203.0.113.9"), ("phone", B)}
    assert whitelist.settle(renewal, later(1)) is None


def test_one_of_an_older_file_is_closed_by_nobodys_name() -> None:
    whitelist = make()
    ends = (START.wall + 50, START.boot + 50)
    whitelist.restore([Grant("x", *HOME.network.parts, None, "", Via.FILE, None, 0, 0, *ends)])
    assert whitelist.chosen(One("phone", HOME.network)) == []
    assert whitelist.close(whitelist.chosen(One(None, HOME.network))) == 1
    assert len(whitelist) == 0


def test_an_abandoned_plan_that_was_planned_anew_abandons_nothing() -> None:
    whitelist = make()
    once, again = [whitelist.plan(wish(), later(second)) for second in (0, 1)]
    whitelist.abandon(once)
    assert whitelist.settle(again, later(1)) == again.grant
    assert again.grant.id == once.grant.id


# --- A knock for one of its key's hosts ------------------------------------------------------------------------------


def for_host(host: str | None, key: Key = TABLET, ttl: int = 100) -> Wish:
    return replace(wish(key, ttl=ttl, via=Via.UDP), host=host)


def test_a_knock_for_one_host_opens_that_one_alone() -> None:
    whitelist = make()
    grant = knock(whitelist, for_host("a.example"))
    assert grant.host == "a.example"
    assert found(whitelist, START, "a.example")
    for other in ("x.b.example", "b.example", None):
        assert not found(whitelist, START, other)


def test_knocks_for_several_hosts_stand_side_by_side_and_end_by_themselves() -> None:
    keyring = Keyring([replace(TABLET, hosts=Scope.parse(["a.example", "c.example"]))])
    whitelist = make(keyring=keyring)
    tablet = keyring.keys[0]
    first = knock(whitelist, for_host("a.example", tablet))
    second = knock(whitelist, for_host("c.example", tablet, ttl=200))
    assert len({first.id, second.id}) == 2
    assert found(whitelist, later(99), "a.example")
    assert found(whitelist, later(99), "c.example")
    again = knock(whitelist, for_host("a.example", tablet, ttl=50), later(10))
    assert (again.id, again.expires_at) == (first.id, first.expires_at), "a renewal of its own, which shortens nothing"
    assert not found(whitelist, later(150), "a.example")
    assert found(whitelist, later(150), "c.example")
    whole = knock(whitelist, for_host(None, tablet), later(160))
    assert whole.host is None
    assert found(whitelist, later(160), "a.example")
    assert whitelist.close(whitelist.chosen(One("tablet", HOME.network, "c.example"))) == 1
    assert found(whitelist, later(160), "c.example"), "the whole grant opens it still"
    assert whitelist.close(whitelist.chosen(Own(tablet, HOME))) == 1


def test_leaving_closes_what_the_key_left_for_any_host() -> None:
    whitelist = make()
    for host in ("a.example", None):
        knock(whitelist, for_host(host))
    assert whitelist.close(whitelist.chosen(Own(TABLET, HOME))) == 2
    assert len(whitelist) == 0


@pytest.mark.parametrize(
    ("key", "stays"),
    [
        pytest.param(replace(TABLET, hosts=Scope.parse(["a.example"])), True, id="its host is still named"),
        pytest.param(OPEN_TABLET, True, id="every host is"),
        pytest.param(OTHER_TABLET, False, id="its host is no longer named"),
        pytest.param(replace(TABLET, hosts=Scope.parse(["*.example"])), False, id="only a pattern is left"),
    ],
)
def test_new_hosts_of_the_key_never_widen_what_was_chosen(key: Key, stays: bool) -> None:
    whitelist = make()
    knock(whitelist, for_host("a.example"))
    whitelist.revise(Keyring([key]), ANYWHERE, START)
    assert found(whitelist, START, "a.example") is stays
    for other in ("c.example", "x.b.example", "b.example", None):
        assert not found(whitelist, START, other)


def test_a_host_that_the_key_lost_while_the_knock_waited_is_not_opened() -> None:
    whitelist = make()
    whitelist.revise(Keyring([OTHER_TABLET]), ANYWHERE, START)
    with pytest.raises(Refused) as refused:
        whitelist.plan(for_host("a.example"), START)
    assert refused.value.refusal is Refusal.NOT_STORED
    assert len(whitelist) == 0


# --- What a packet left ----------------------------------------------------------------------------------------------

SENDER = replace(PHONE, udp_secret=b"the phone's packets")
REMOTE = replace(ADMIN, udp_secret=b"the admin's packets")


@pytest.mark.parametrize(
    ("key", "changed", "stays"),
    [
        pytest.param(SENDER, SENDER, True, id="nothing changed"),
        pytest.param(SENDER, PHONE, False, id="the key may make no packets any more"),
        pytest.param(SENDER, replace(SENDER, udp_secret=b"others"), False, id="their secret is another"),
        pytest.param(REMOTE, replace(REMOTE, udp_secret=None), False, id="an admin's for another address"),
        pytest.param(REMOTE, replace(REMOTE, admin=False), False, id="the right to that is gone"),
    ],
)
def test_what_a_packet_left_needs_a_key_that_may_make_it(key: Key, changed: Key, stays: bool) -> None:
    via = Via.REMOTE if key.admin else Via.UDP
    for packet in (True, False):
        whitelist = make(keyring=Keyring([key]))
        knock(whitelist, replace(wish(key, via=via), packet=packet))
        whitelist.revise(Keyring([changed]), ANYWHERE, START)
        lost_right = key.admin and not changed.admin
        assert found(whitelist, START) is (stays if packet else not lost_right), "a knock over HTTP needs none of that"


def test_a_packet_whose_key_lost_that_while_it_waited_opens_nothing() -> None:
    for changed in (PHONE, replace(SENDER, udp_secret=b"others")):
        whitelist = make(keyring=Keyring([changed]))
        with pytest.raises(Refused) as refused:
            whitelist.plan(replace(wish(SENDER, via=Via.UDP), packet=True), START)
        assert refused.value.refusal is Refusal.BAD_KEY
