"""The gate's three questions: may this pass, whose key is it, what may this knock leave."""

from __future__ import annotations

from dataclasses import replace

import pytest

from knocker.core.addresses import Address, Network, Networks, networks
from knocker.core.gate import Gate, Policy, Verdict
from knocker.core.grant import Via
from knocker.core.hosts import Scope
from knocker.core.keys import Key, Keyring, digest_of
from knocker.core.knock import Body
from knocker.core.moment import Moment
from knocker.core.paths import Exclusion, Exclusions
from knocker.core.refusals import Refusal, Refused
from knocker.core.whitelist import Whitelist
from tests.asked import Asked

NOW = Moment(wall=1_700_000_000.0, boot=1000.0)
PHONE = Key("phone", digest_of(b"the phone's own key"), 600, 3600)
GUEST = Key("guest", digest_of(b"the guest's own key"), 600, 3600, hosts=Scope.parse(["app.example.com"]))
ADMIN = Key("admin", digest_of(b"the admin's own key"), 600, 3600, admin=True)
SIX = Key("six", digest_of(b"the key for IPv6 ..."), 600, 3600, ipv6_prefix=64)
POLICY = Policy(
    Keyring([PHONE, GUEST, ADMIN, SIX]),
    trusted=networks("10.0.0.2"),
    shared=networks("172.20.0.1"),
    always_allowed=networks("192.168.1.0/24"),
    exclusions=Exclusions([Exclusion.parse("/metrics")], {"app.example.com": [Exclusion.parse("/health")]}),
)
NOTHING = Networks()


def make_gate(policy: Policy = POLICY) -> Gate:
    ids = iter(range(1000))
    return Gate(policy, Whitelist(policy.keyring, 10, lambda: str(next(ids))))


def knock(gate: Gate, client: str, key: Key, body: Body = Body()) -> None:  # noqa: B008 - a frozen fact
    wish = gate.knock(Address.parse(client), key, body, gate.forbidden(NOTHING, NOTHING))
    assert gate.whitelist.settle(gate.whitelist.plan(wish, NOW), NOW)


@pytest.mark.parametrize(
    ("client", "host", "path", "expected"),
    [
        pytest.param("192.168.1.7", None, None, Verdict.ALWAYS_ALLOWED, id="on the list"),
        pytest.param("203.0.113.9", None, None, Verdict.GRANT, id="a grant for every host"),
        pytest.param("203.0.113.9", "app.example.com", "/x", Verdict.GRANT, id="a grant for this host"),
        pytest.param("198.51.100.1", "app.example.com", None, Verdict.GRANT, id="a grant whose scope names the host"),
        pytest.param("198.51.100.1", "other.example.com", None, Verdict.OUT_OF_SCOPE, id="a grant for another host"),
        pytest.param("198.51.100.1", None, None, Verdict.OUT_OF_SCOPE, id="no host matches no scope"),
        pytest.param(
            "198.51.100.1", "other.example.com", "/metrics", Verdict.EXCLUDED_PATH, id="out of scope, excluded"
        ),
        pytest.param("203.0.113.10", "app.example.com", "/x", Verdict.NO_GRANT, id="nobody's address"),
        pytest.param("203.0.113.10", None, "/metrics/x", Verdict.EXCLUDED_PATH, id="an excluded path"),
        pytest.param("203.0.113.10", "app.example.com", "/health", Verdict.EXCLUDED_PATH, id="excluded on its host"),
        pytest.param("203.0.113.10", "other.example.com", "/health", Verdict.NO_GRANT, id="not on another"),
        pytest.param("203.0.113.10", None, "/health", Verdict.NO_GRANT, id="nor without a host"),
        pytest.param("203.0.113.10", None, "/metrics/../x", Verdict.NO_GRANT, id="a path that reads two ways"),
        pytest.param(None, None, "/metrics", Verdict.EXCLUDED_PATH, id="no client, an excluded path"),
        pytest.param(None, "app.example.com", "/x", Verdict.NO_CLIENT, id="no client"),
        pytest.param(None, None, None, Verdict.NO_CLIENT, id="nothing known"),
    ],
)
def test_a_verdict_says_what_decided_it(
    client: str | None, host: str | None, path: str | None, expected: Verdict
) -> None:
    gate = make_gate()
    knock(gate, "203.0.113.9", PHONE)
    knock(gate, "198.51.100.1", GUEST)
    verdict = gate.verdict(Address.parse(client) if client else None, Asked(host, path), NOW)
    assert verdict is expected
    assert verdict.allowed is (expected in (Verdict.ALWAYS_ALLOWED, Verdict.GRANT, Verdict.EXCLUDED_PATH))


def test_a_knock_opens_the_gate_until_its_time_is_over() -> None:
    gate = make_gate()
    client = Address.parse("203.0.113.9")
    assert not gate.verdict(client, Asked(), NOW).allowed
    knock(gate, "203.0.113.9", PHONE)
    assert gate.verdict(client, Asked(), Moment(NOW.wall + 599.9, NOW.boot + 599.9)).allowed
    assert not gate.verdict(client, Asked(), Moment(NOW.wall + 600, NOW.boot + 600)).allowed


@pytest.mark.parametrize("verdict", Verdict)
def test_only_three_causes_let_anybody_pass(verdict: Verdict) -> None:
    assert verdict.allowed is (verdict.label[1] in ("always_allowed", "grant", "excluded_path"))
    assert verdict.label[0] == ("allow" if verdict.allowed else "deny")


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([], id="missing"),
        pytest.param([b"the phone's own key"] * 2, id="repeated"),
        pytest.param([b"somebody else's key"], id="unknown"),
    ],
)
def test_a_key_that_is_not_there_is_refused(lines: list[bytes]) -> None:
    with pytest.raises(Refused) as caught:
        make_gate().key(lines, NOW)
    assert caught.value.refusal is Refusal.BAD_KEY
    assert "somebody" not in str(caught.value) + caught.value.why


def test_a_key_that_is_there_is_found() -> None:
    assert make_gate().key([b"the phone's own key"], NOW) is PHONE


@pytest.mark.parametrize(
    ("seconds", "refused"),
    [
        pytest.param(-0.1, False, id="before its end"),
        pytest.param(0, True, id="at its end"),
        pytest.param(10_000, True, id="after it"),
    ],
)
def test_a_key_is_refused_from_its_end_on(seconds: float, refused: bool) -> None:
    gate = make_gate(replace(POLICY, keyring=Keyring([replace(PHONE, expires=NOW.wall)])))
    now = Moment(NOW.wall + seconds, NOW.boot)
    if not refused:
        assert gate.key([b"the phone's own key"], now).name == "phone"
        return
    with pytest.raises(Refused) as caught:
        gate.key([b"the phone's own key"], now)
    assert caught.value.refusal is Refusal.BAD_KEY
    assert "phone" in caught.value.why
    assert "expires" in caught.value.why


@pytest.mark.parametrize(
    ("client", "holds"),
    [
        pytest.param("203.0.113.9", True, id="a grant for every host"),
        pytest.param("198.51.100.1", True, id="a grant for some hosts"),
        pytest.param("203.0.113.10", False, id="none"),
        pytest.param("192.168.1.7", False, id="always allowed is no grant"),
    ],
)
def test_who_holds_a_grant_holds_it_whatever_it_opens_until_it_is_over(client: str, holds: bool) -> None:
    gate = make_gate()
    knock(gate, "203.0.113.9", PHONE)
    knock(gate, "198.51.100.1", GUEST)
    assert gate.holds_grant(Address.parse(client), NOW) is holds
    assert not gate.holds_grant(Address.parse(client), Moment(NOW.wall, NOW.boot + 600))


@pytest.mark.parametrize(
    ("client", "key", "body", "opened", "via", "ttl"),
    [
        pytest.param("203.0.113.9", PHONE, Body(), "203.0.113.9", Via.HTTP, 600, id="the own address"),
        pytest.param("203.0.113.9", PHONE, Body(ttl=60), "203.0.113.9", Via.HTTP, 60, id="a ttl of its own"),
        pytest.param("203.0.113.9", PHONE, Body(ttl=9999), "203.0.113.9", Via.HTTP, 3600, id="capped"),
        pytest.param("2001:db8::9", PHONE, Body(), "2001:db8::9", Via.HTTP, 600, id="IPv6 alone"),
        pytest.param("2001:db8::9", SIX, Body(), "2001:db8::/64", Via.HTTP, 600, id="IPv6 with its network"),
        pytest.param(
            "203.0.113.9", ADMIN, Body(Network.parse("8.8.0.0/16")), "8.8.0.0/16", Via.REMOTE, 600, id="an admin's"
        ),
        pytest.param(
            "203.0.113.9", ADMIN, Body(Network.parse("203.0.113.9")), "203.0.113.9", Via.REMOTE, 600, id="named, own"
        ),
    ],
)
def test_a_knock_becomes_a_wish(client: str, key: Key, body: Body, opened: str, via: Via, ttl: int) -> None:
    gate = make_gate()
    wish = gate.knock(Address.parse(client), key, body, gate.forbidden(NOTHING, NOTHING))
    assert (str(wish.network), wish.key, wish.via, wish.ttl) == (opened, key, via, ttl)
    assert wish.ttl_named is (body.ttl is not None)


@pytest.mark.parametrize(
    ("key", "address", "refusal"),
    [
        pytest.param(PHONE, "8.8.8.8", Refusal.NO_PERMISSION, id="without the permission"),
        pytest.param(PHONE, "203.0.113.9", Refusal.NO_PERMISSION, id="even the own address"),
        pytest.param(ADMIN, "10.0.0.2", Refusal.INVALID_ADDRESS, id="a trusted proxy"),
        pytest.param(ADMIN, "172.20.0.1", Refusal.INVALID_ADDRESS, id="a shared address"),
        pytest.param(ADMIN, "198.51.100.0/30", Refusal.INVALID_ADDRESS, id="this host's own"),
        pytest.param(ADMIN, "198.51.100.254", Refusal.INVALID_ADDRESS, id="the gateway"),
        pytest.param(ADMIN, "8.0.0.0/8", Refusal.TOO_BROAD, id="too wide"),
    ],
)
def test_a_knock_for_another_address_needs_the_permission_and_a_good_address(
    key: Key, address: str, refusal: Refusal
) -> None:
    gate = make_gate()
    forbidden = gate.forbidden(networks("198.51.100.1"), networks("198.51.100.254"))
    with pytest.raises(Refused) as caught:
        gate.knock(Address.parse("203.0.113.9"), key, Body(Network.parse(address)), forbidden)
    assert caught.value.refusal is refusal


def test_deciding_changes_neither_policy_nor_whitelist() -> None:
    gate = make_gate()
    gate.knock(Address.parse("203.0.113.9"), PHONE, Body(), gate.forbidden(NOTHING, NOTHING))
    assert len(gate.whitelist) == 0
    assert gate.policy is POLICY
