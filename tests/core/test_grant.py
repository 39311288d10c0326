"""Grants by themselves: when one lives, whose it is, and what the settings leave of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.core.addresses import Address, Network, networks
from knocker.core.grant import Grant, One, Own, Via, fitted, lost_right, objection
from knocker.core.hosts import Scope
from knocker.core.keys import Key, Keyring, digest_of
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment

NOW = Moment(wall=1_000_000.0, boot=5000.0)
PHONE = Key("phone", digest_of(b"the phone's key"), 100, 1000)
SIX = replace(PHONE, ipv6_prefix=64)
ADMIN = Key("admin", digest_of(b"the admin's key"), 100, 1000, admin=True)
HOME = Address.parse("203.0.113.9")
HOST = Address.parse("2001:db8::9")
OPENED = Grant(
    "x", *HOME.network.parts, "phone", PHONE.mark, Via.HTTP, None, NOW.wall, NOW.wall, NOW.wall + 100, NOW.boot + 100
)


def of(key: Key, network: str = "203.0.113.9", via: Via = Via.HTTP) -> Grant:
    bits, base, prefix = Network.parse(network).parts
    return replace(OPENED, bits=bits, base=base, prefix=prefix, key=key.name, mark=key.mark, via=via)


@pytest.mark.parametrize(
    ("wall", "boot", "lives"),
    [
        pytest.param(0, 0, True, id="at once"),
        pytest.param(99.9, 99.9, True, id="until then"),
        pytest.param(100, 0, False, id="the wall clock says so"),
        pytest.param(0, 100, False, id="the boot clock says so"),
        pytest.param(-5000, 99, True, id="set back"),
    ],
)
def test_a_grant_lives_until_either_clock_reaches_its_end(wall: float, boot: float, lives: bool) -> None:
    assert OPENED.lives(Moment(NOW.wall + wall, NOW.boot + boot)) is lives


@pytest.mark.parametrize(
    ("via", "own"), [(Via.HTTP, True), (Via.UDP, True), (Via.REMOTE, False), (Via.FILE, False)], ids=str
)
def test_own_is_what_a_knock_for_the_senders_address_left(via: Via, own: bool) -> None:
    assert via.own is own


@pytest.mark.parametrize(
    ("grant", "key", "address", "held"),
    [
        pytest.param(of(PHONE), PHONE, HOME, True, id="the own address"),
        pytest.param(of(PHONE, via=Via.UDP), PHONE, HOME, True, id="by a datagram"),
        pytest.param(of(PHONE), PHONE, Address.parse("203.0.113.8"), False, id="another address"),
        pytest.param(of(ADMIN), PHONE, HOME, False, id="another key's"),
        pytest.param(replace(of(PHONE, via=Via.FILE), key=None), PHONE, HOME, False, id="nobody's"),
        pytest.param(of(SIX, "2001:db8::/64"), SIX, HOST, True, id="the network around it"),
        pytest.param(of(SIX, "2001:db8::/64"), PHONE, HOST, True, id="wider than the key opens now"),
        pytest.param(of(SIX, "2001:db8::9"), SIX, HOST, True, id="the address alone, as one too near a proxy"),
        pytest.param(of(SIX, "2001:db8:0:1::/64"), SIX, HOST, False, id="the network beside it"),
        pytest.param(of(ADMIN, via=Via.REMOTE), ADMIN, HOME, True, id="an admin's for exactly this address"),
        pytest.param(of(ADMIN, "2001:db8::9", via=Via.REMOTE), ADMIN, HOST, True, id="likewise in IPv6"),
        pytest.param(of(ADMIN, "203.0.113.0/24", via=Via.REMOTE), ADMIN, HOME, False, id="an admin's network"),
        pytest.param(of(ADMIN, "2001:db8::/64", via=Via.REMOTE), ADMIN, HOST, False, id="likewise in IPv6, wide"),
        pytest.param(of(PHONE), PHONE, Address(128, HOME.value), False, id="the same number in IPv6"),
    ],
)
def test_a_caller_leaves_with_what_is_its_own(grant: Grant, key: Key, address: Address, held: bool) -> None:
    assert Own(key, address).holds(grant.key, grant.via, grant.network) is held


@pytest.mark.parametrize(
    ("one", "held"),
    [
        pytest.param(One("phone", HOME.network), True, id="this one"),
        pytest.param(One("admin", HOME.network), False, id="another owner's"),
        pytest.param(One(None, HOME.network), False, id="nobody's"),
        pytest.param(One("phone", Network.parse("203.0.113.8/31")), False, id="a network around it"),
        pytest.param(One("phone", Address(128, HOME.value).network), False, id="the same number in IPv6"),
    ],
)
def test_one_grant_is_one_owners_for_one_network_however_it_came(one: One, held: bool) -> None:
    for via in Via:
        assert one.holds("phone", via, HOME.network) is held


@pytest.mark.parametrize("text", ["203.0.113.9", "203.0.113.0/24", "2001:db8::/64", "::9"])
def test_one_grants_address_lies_inside_it(text: str) -> None:
    network = Network.parse(text)
    assert One("phone", network).address in network


@pytest.mark.parametrize(
    ("grant", "key", "words"),
    [
        pytest.param(of(PHONE), PHONE, "", id="as it was"),
        pytest.param(of(PHONE), None, "api_keys", id="the key left"),
        pytest.param(of(PHONE), replace(PHONE, digest=digest_of(b"another")), "secret", id="another secret"),
        pytest.param(of(ADMIN, via=Via.REMOTE), replace(ADMIN, admin=False), "allow_remote_whitelist", id="no admin"),
        pytest.param(of(ADMIN), replace(ADMIN, admin=False), "", id="a right that it did not use"),
        pytest.param(of(SIX, "2001:db8::/64"), PHONE, "ipv6_prefix", id="a narrower prefix"),
        pytest.param(of(SIX, "2001:db8::/64"), SIX, "", id="the same prefix"),
        pytest.param(of(PHONE, "2001:db8::9"), SIX, "", id="a wider prefix"),
        pytest.param(of(ADMIN, "2001:db8::/64", via=Via.REMOTE), ADMIN, "", id="an admin's network"),
        pytest.param(of(ADMIN, "203.0.0.0/16", via=Via.REMOTE), ADMIN, "", id="an admin's IPv4 network"),
        pytest.param(of(PHONE, "203.0.113.0/24"), PHONE, "ipv6_prefix", id="an own IPv4 network, which none opens"),
        pytest.param(replace(of(PHONE, via=Via.FILE), key=None, mark=""), None, "", id="an older file's, nobody's"),
    ],
)
def test_a_grant_that_lost_its_right_says_which(grant: Grant, key: Key | None, words: str) -> None:
    why = lost_right(grant, key)
    assert words in why
    assert bool(why) is bool(words)
    assert objection(grant, key, Forbidden()) == why
    assert objection(grant, key, Forbidden(trusted=networks("0.0.0.0/1", "128.0.0.0/1", "2000::/3"))) != ""


def test_an_older_files_entry_may_not_open_a_shared_address_either() -> None:
    grant = replace(OPENED, key=None, mark="", via=Via.FILE)
    assert "shared" in objection(grant, None, Forbidden(shared=networks("203.0.113.9")))


@pytest.mark.parametrize(
    ("key", "wall", "boot"),
    [
        pytest.param(PHONE, 100, 100, id="nothing to cut"),
        pytest.param(replace(PHONE, max_ttl=100), 100, 100, id="just enough"),
        pytest.param(replace(PHONE, max_ttl=40), 40, 40, id="a lowered max_ttl"),
        pytest.param(replace(PHONE, expires=NOW.wall + 30), 30, 30, id="an end of the key"),
        pytest.param(replace(PHONE, max_ttl=20, expires=NOW.wall + 30), 20, 20, id="the nearer of both"),
        pytest.param(replace(PHONE, expires=NOW.wall - 30), -30, -30, id="a key that is over"),
        pytest.param(replace(PHONE, expires=NOW.wall + 5000), 100, 100, id="a late end prolongs nothing"),
    ],
)
def test_a_grant_is_cut_on_both_clocks(key: Key, wall: float, boot: float) -> None:
    fit = fitted(OPENED, Keyring([key]), NOW)
    assert (fit.expires_at, fit.boot_ends_at) == (NOW.wall + wall, NOW.boot + boot)
    assert (fit is OPENED) is ((wall, boot) == (100, 100))


def test_a_cut_of_one_clock_leaves_a_nearer_end_of_the_other() -> None:
    grant = replace(OPENED, expires_at=NOW.wall + 10)
    fit = fitted(grant, Keyring([replace(PHONE, max_ttl=40)]), NOW)
    assert (fit.expires_at, fit.boot_ends_at) == (NOW.wall + 10, NOW.boot + 40)


@pytest.mark.parametrize("hosts", [None, Scope.parse(["a.example"]), Scope.parse(["*.b.example"])])
def test_hosts_are_the_keys(hosts: Scope | None) -> None:
    grant = replace(OPENED, hosts=Scope.parse(["a.example"]))
    fit = fitted(grant, Keyring([replace(PHONE, hosts=hosts)]), NOW)
    assert fit.hosts == hosts
    assert replace(fit, hosts=grant.hosts) == grant
    assert (fit is grant) is (hosts == grant.hosts)


def test_an_entry_without_a_key_is_cut_to_the_largest_max_ttl() -> None:
    grant = replace(OPENED, key=None, mark="", via=Via.FILE)
    fit = fitted(grant, Keyring([replace(PHONE, max_ttl=30), replace(ADMIN, max_ttl=50)]), NOW)
    assert (fit.expires_at, fit.boot_ends_at, fit.hosts) == (NOW.wall + 50, NOW.boot + 50, None)


@given(
    wall_end=st.integers(-500, 500),
    boot_end=st.integers(-500, 500),
    max_ttl=st.integers(1, 400),
    expires=st.none() | st.integers(-300, 500),
)
def test_fitting_never_prolongs_and_fits_at_once(
    wall_end: int, boot_end: int, max_ttl: int, expires: int | None
) -> None:
    key = replace(PHONE, max_ttl=max_ttl, expires=None if expires is None else NOW.wall + expires)
    grant = replace(OPENED, expires_at=NOW.wall + wall_end, boot_ends_at=NOW.boot + boot_end)
    fit = fitted(grant, Keyring([key]), NOW)
    most = max_ttl if expires is None else min(max_ttl, expires)
    assert fit.expires_at - NOW.wall == min(wall_end, most)
    assert fit.boot_ends_at - NOW.boot == min(boot_end, most)
    assert fitted(fit, Keyring([key]), NOW) is fit
