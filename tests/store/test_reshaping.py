"""Grants that settings end, cut or displace: memory and file say the same at every moment (contract 2, 3.6)."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from knocker.core.addresses import Address, Networks
from knocker.core.keys import Keyring
from knocker.settings import parse
from tests.conftest import LONG, Errors
from tests.wire import ADMIN, KEY, SETTINGS, Disk, World, hang_up

A, B, C, D = "198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4"


def with_key(members: str) -> str:
    return SETTINGS.replace("ttl: 600, max_ttl: 1200", members)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path, with_key("ttl: 600, max_ttl: 1200, max_addresses: 2"))
    yield found
    for channel in tuple(found.site.channels):
        hang_up(channel)


def entries(world: World) -> list[str]:
    return sorted(grant["entry"] for grant in json.loads((world.folder / "whitelist.json").read_text())["grants"])


def opened(world: World, *clients: str) -> list[str]:
    return [client for client in clients if world.verdict(client) == 200]


def knocks(
    world: World, *clients: str, key: str = KEY, method: str = "POST", body: str = "", turn: bool = True
) -> list[Any]:
    """Knocks, each on a connection of its own; without `turn` their write does not begin yet."""
    found = []
    for client in clients:
        channel, wire = world.connect()
        head = f"{method} /knock HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: {client}\r\nX-Api-Key: {key}\r\n"
        channel.dataReceived(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        found.append(wire)
    if turn:
        world.clock.advance(0)
    return found


def statuses(wires: list[Any]) -> list[int | None]:
    return [int(wire.value()[9:12]) if wire.value() else None for wire in wires]


def test_a_newer_address_takes_the_place_of_the_longest_unknocked_in_the_same_write(world: World) -> None:
    for client in (A, B, A):
        world.pass_time(1)
        world.knock(client)
    disk = Disk(world)
    (wire,) = knocks(world, C)
    assert (statuses([wire]), opened(world, A, B, C)) == ([None], [A, B]), "until it is on disk"
    disk.succeed()
    assert (statuses([wire]), opened(world, A, B, C), entries(world)) == ([200], [A, C], [A, C])
    assert disk.writes == [], "one write was enough"


def test_a_newer_address_that_cannot_be_stored_displaces_nobody(world: World, errors: Errors) -> None:
    world.knock(A)
    world.knock(B)
    disk = Disk(world)
    (wire,) = knocks(world, C)
    disk.fail(errno.ENOSPC)
    assert (statuses([wire]), opened(world, A, B, C)) == ([503], [A, B])
    assert entries(world) == [A, B]
    errors.expected()
    world.pass_time(1)
    disk.succeed()
    assert entries(world) == [A, B]


def test_each_of_many_knocks_that_displace_one_another_was_on_disk(world: World) -> None:
    disk = Disk(world)
    wires = knocks(world, A, B, C, D)
    seen = []
    while disk.writes:
        disk.succeed()
        seen.append(entries(world))
    assert statuses(wires) == [200] * 4
    assert seen[:2] == [[A, B], [C, D]]
    assert opened(world, A, B, C, D) == [C, D] == entries(world)


def test_a_displacing_knock_that_its_owner_takes_back_displaces_nobody(world: World) -> None:
    world.knock(A)
    world.knock(B)
    disk = Disk(world)
    (wire,) = knocks(world, C)
    world.whitelist.close([plan.grant for plan in world.whitelist._planned.values()])
    while disk.writes:
        disk.succeed()
    assert (statuses([wire]), opened(world, A, B, C), entries(world)) == ([503], [A, B], [A, B])


def test_families_are_counted_apart_and_an_ended_grant_does_not_count(world: World) -> None:
    for client in (A, B, "2001:db8::1", "2001:db8::2"):
        world.knock(client)
    assert len(world.whitelist) == 4
    world.pass_time(600)
    world.knock(C)
    world.knock(D)
    assert opened(world, A, B, C, D) == [C, D]


def reload(world: World, members: str) -> None:
    keyring = Keyring(parse(with_key(members).encode()).keys)
    world.house.gate.policy = replace(world.house.gate.policy, keyring=keyring)
    world.whitelist.revise(keyring, world.house.gate.forbidden(*world.surroundings()), world.now())
    world.store.start()
    world.clock.advance(0)


def again(world: World, members: str) -> World:
    found = World(world.folder, with_key(members), wall=world.wall, boot=world.boot)
    found.load()
    found.store.start()
    found.clock.advance(0)
    return found


@pytest.mark.parametrize("restarted", [False, True], ids=["at a reload", "at the start"])
def test_a_lowered_max_addresses_closes_the_longest_unknocked(world: World, restarted: bool) -> None:
    world.knock(A)
    world.pass_time(1)
    world.knock(B)
    members = "ttl: 600, max_ttl: 1200, max_addresses: 1"
    if restarted:
        world = again(world, members)
    else:
        reload(world, members)
    assert (opened(world, A, B), entries(world)) == ([B], [B])


def test_time_that_a_reload_cut_is_not_given_back_by_a_restart(world: World) -> None:
    world.knock(A)
    reload(world, "ttl: 60, max_ttl: 60")
    world.pass_time(50)
    later = again(world, "ttl: 60, max_ttl: 60")
    later.pass_time(9.5)
    assert opened(later, A) == [A]
    later.pass_time(0.5)
    assert opened(later, A) == []


def test_time_that_is_cut_while_the_grant_is_written_is_written_too(world: World) -> None:
    disk = Disk(world)
    (wire,) = knocks(world, A)
    reload(world, "ttl: 60, max_ttl: 60")
    while disk.writes:
        disk.succeed()
        world.clock.advance(0)
    assert (statuses([wire]), json.loads(wire.value().partition(b"\r\n\r\n")[2])["expires_in_seconds"]) == ([200], 60)
    (grant,) = json.loads((world.folder / "whitelist.json").read_text())["grants"]
    assert grant["expires_at"] == world.wall + 60


def test_time_that_is_cut_while_another_knock_is_written_is_written_too(world: World) -> None:
    world.knock(A)
    disk = Disk(world)
    knocks(world, B)
    reload(world, "ttl: 60, max_ttl: 60")
    while disk.writes:
        disk.succeed()
        world.clock.advance(0)
    ends = {g["expires_at"] for g in json.loads((world.folder / "whitelist.json").read_text())["grants"]}
    assert ends == {world.wall + 60}


def test_no_grant_lasts_longer_than_its_key_even_when_the_clock_is_set_back(world: World) -> None:
    reload(world, "ttl: 600, expires: 2027-01-15T08:05:00Z")  # 300 s from now
    got = json.loads(world.knock(A).body)
    assert (got["expires_in_seconds"], got["expires_at"]) == (300, int(world.wall) + 300)
    world.pass_time(200, step=-250)
    assert opened(world, A) == [A]
    world.pass_time(100)
    assert opened(world, A) == []


def test_an_expired_key_is_refused_and_the_log_says_why(world: World, errors: Errors) -> None:
    settings = parse(with_key("ttl: 600, expires: 2027-01-15T08:00:00Z").encode())  # this very second
    world.house.gate.policy = type(world.house.gate.policy)(Keyring(settings.keys), world.house.gate.policy.trusted)
    got = world.knock(A)
    assert (got.status, json.loads(got.body)) == (401, {"error": "Invalid or missing API key."})
    assert any("the key user has expired" in line for line in errors.lines)


def test_an_entry_that_only_todays_settings_forbid_ends_without_alarm(world: World) -> None:
    world.knock(A)
    text = with_key("ttl: 600, max_ttl: 1200").replace('"127.0.0.1", "::1"]', f'"127.0.0.1", "::1", "{A}"]')
    later = World(world.folder, text, wall=world.wall, boot=world.boot)
    later.load()
    assert (len(later.whitelist), later.store.complaints()) == (0, [])


def test_a_renewal_of_what_another_knock_of_the_write_displaces_waits_for_the_next(world: World) -> None:
    for client in (A, B):
        world.knock(client)
        world.pass_time(1)
    disk = Disk(world)
    wires = knocks(world, C, A, C)
    while disk.writes:
        disk.succeed()
        world.clock.advance(0)
    assert statuses(wires) == [200, 200, 200]
    assert opened(world, A, B, C) == [A, C] == entries(world)


def test_what_only_a_replaced_plan_would_have_displaced_stays_on_disk(tmp_path: Path) -> None:
    text = SETTINGS.replace("ttl: 3600, allow", "ttl: 3600, max_addresses: 1, allow")
    world = World(tmp_path, text)
    world.knock(A, ADMIN)
    disk = Disk(world)
    wires = knocks(world, D, key=ADMIN, turn=False) + knocks(world, B, key=ADMIN, body=f'{{"ip_address": "{D}"}}')
    disk.succeed()
    assert (statuses(wires), opened(world, A, D)) == ([200, 200], [A, D])
    assert entries(world) == [A, D]
    for channel in tuple(world.site.channels):
        hang_up(channel)


def test_a_knock_that_waits_through_a_reload_is_judged_by_the_new_settings(world: World) -> None:
    reload(world, "ttl: 600, ipv6_prefix: 48")
    disk = Disk(world)
    first = knocks(world, A)
    waiting = knocks(world, B, "2001:db8:7::1")
    policy = world.house.gate.policy
    world.house.gate.policy = replace(policy, shared=Networks([Address.parse(B).network]))
    reload(world, "ttl: 600, ipv6_prefix: 128")
    while disk.writes:
        disk.succeed()
        world.clock.advance(0)
    assert statuses(first + waiting) == [200, 503, 503]
    assert opened(world, A, B, "2001:db8:7::1", "2001:db8:7::2") == [A]


def test_time_that_the_start_cut_is_written_at_once(world: World) -> None:
    world.knock(A, body=b'{"ttl": 1200}')
    for _ in range(3):
        world = again(world, "ttl: 60, max_ttl: 60")
        world.pass_time(25)
    assert opened(world, A) == []


def test_the_longest_unknocked_is_told_by_the_order_of_knocks_not_by_the_clock(world: World) -> None:
    world.knock(A)
    world.pass_time(1, step=-3600)
    world.knock(B)
    reload(world, "ttl: 600, max_ttl: 1200, max_addresses: 2")
    world.knock(C)
    assert opened(world, A, B, C) == [B, C]


def test_max_addresses_that_is_lowered_while_a_knock_is_written_holds(world: World) -> None:
    world.knock(A)
    disk = Disk(world)
    wires = knocks(world, B)
    reload(world, "ttl: 600, max_ttl: 1200, max_addresses: 1")
    while disk.writes:
        disk.succeed()
        world.clock.advance(0)
    assert (statuses(wires), opened(world, A, B), entries(world)) == ([200], [B], [B])


def scenario(world: World, disk: Disk, random: Random, faults: bool) -> list[Any]:
    """Knocks of two keys for few addresses, and writes that end in between."""
    wires = []
    for _ in range(random.randrange(3, 14)):
        kind = random.random()
        client = f"198.51.100.{random.randrange(1, 5)}"
        if kind < 0.55:
            wires += knocks(world, client, key=random.choice([KEY, KEY, ADMIN]), turn=False)
        elif kind < 0.65:
            wires += knocks(world, D, key=ADMIN, body=f'{{"ip_address": "{client}"}}', turn=False)
        elif kind < 0.7 and faults:
            wires += knocks(world, client, method="DELETE", turn=False)
        elif kind < 0.9:
            world.clock.advance(0)
            if disk.writes:
                disk.fail(errno.ENOSPC) if faults and random.random() < 0.2 else disk.succeed()
        else:
            world.pass_time(random.randrange(1, 60))
    return wires


@pytest.mark.parametrize("faults", [False, True], ids=["a good disk", "a failing disk and leavers"])
def test_whatever_shares_a_write_memory_and_file_end_alike(tmp_path: Path, faults: bool, errors: Errors) -> None:
    for seed in range(1500 if LONG else 250):
        random = Random(seed)
        most = random.choice([1, 2, 3])
        text = with_key(f"ttl: 600, max_addresses: {most}")
        text = text.replace("ttl: 3600, allow", f"ttl: 3600, max_addresses: {most}, allow")
        text = text.replace("security: {excluded", "security: {knock_rate_limit: {successful_requests: 0}, excluded", 1)
        world = World(tmp_path, text)
        (tmp_path / "whitelist.json").unlink(missing_ok=True)
        disk = Disk(world)
        wires = scenario(world, disk, random, faults)
        for _ in range(60):
            world.clock.advance(0)
            if disk.writes:
                disk.succeed()
        world.pass_time(31)
        while disk.writes:
            disk.succeed()
            world.clock.advance(0)
        found = statuses(wires)
        assert None not in found, f"seed {seed}: a knock without an answer"
        assert faults or set(found) <= {200}, f"seed {seed}: {found}"
        check_alike(world, most, seed)
        errors.expected()
        for channel in tuple(world.site.channels):
            hang_up(channel)


def check_alike(world: World, most: int, seed: int) -> None:
    inside = sorted((grant.key, str(grant.network)) for grant in world.whitelist)
    path = world.folder / "whitelist.json"
    stored = json.loads(path.read_text())["grants"] if path.exists() else []
    assert sorted((grant["key"], grant["entry"]) for grant in stored) == inside, f"seed {seed}"
    assert world.whitelist._planned == {}, f"seed {seed}: a plan was left"
    own = Counter(grant.key for grant in world.whitelist if grant.via.own)
    assert all(count <= most for count in own.values()), f"seed {seed}: over max_addresses"
