"""GET /grants and DELETE /grants/{id}: who sees and closes what (contract 3.4)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.task import deferLater

from knocker.core.grant import Grant, Via
from knocker.listen.channel import READ_WITHIN
from tests.wire import ADMIN, KEY, SETTINGS, Answer, Disk, World, answer, hang_up

CLIENT, OTHER = "198.51.100.7", "203.0.113.9"
SECOND = "sec-Wz7Ux3Ib9Om2Pk6Gv4Dh0SlTn5c8Qe1"
KEYS = f"""
  - {{name: tv, key: "{SECOND}", ttl: 60, hosts: [tv.example.com, "*.lab.example.com"]}}
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, SETTINGS + KEYS)


async def ask(world: World, target: str, key: str, method: str = "GET", client: str = CLIENT) -> Answer:
    """One request whose answer is written in several turns of the reactor."""
    channel, wire = world.connect()
    head = f"{method} {target} HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: {client}\r\nX-Api-Key: {key}\r\n"
    channel.dataReceived(f"{head}Connection: close\r\n\r\n".encode())
    for _ in range(2000):
        world.clock.advance(0)
        if wire.closed:
            break
        await deferLater(reactor, 0.001, lambda: None)
    hang_up(channel)
    return answer(wire.value())


def unchunked(body: bytes) -> bytes:
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        found, body = found + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return found


async def listed(world: World, key: str, query: str = "") -> list[dict[str, Any]]:
    got = await ask(world, f"/grants{query}", key)
    assert got.status == 200, got
    assert got.headers["content-type"] == "application/json"
    assert got.headers["cache-control"] == "no-store"
    body = unchunked(got.body) if got.headers.get("transfer-encoding") == "chunked" else got.body
    found: list[dict[str, Any]] = json.loads(body)["grants"]
    return found


def fill(world: World) -> None:
    world.knock(CLIENT)
    world.knock(OTHER, SECOND)
    world.knock(CLIENT, ADMIN, b'{"ip_address": "10.0.0.0/24"}')


async def test_an_admin_sees_all_by_expiry(world: World) -> None:
    fill(world)
    tv, phone, net = await listed(world, ADMIN)
    assert tv == {
        "id": tv["id"],
        "entry": OTHER,
        "key": "tv",
        "via": "http",
        "hosts": ["tv.example.com", "*.lab.example.com"],
        "created_at": int(world.wall),
        "last_knock_at": int(world.wall),
        "expires_at": int(world.wall) + 60,
        "expires_in_seconds": 60,
    }
    assert (phone["entry"], phone["key"], phone["hosts"]) == (CLIENT, "user", None)
    assert (net["entry"], net["via"]) == ("10.0.0.0/24", "remote")


async def test_any_other_key_sees_its_own(world: World) -> None:
    fill(world)
    assert [grant["key"] for grant in await listed(world, KEY)] == ["user"]
    assert await listed(world, KEY, "?key=tv") == []


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("?key=tv", ["tv"]),
        ("?key=nobody", []),
        ("?host=tv.example.com", ["tv", "user", "admin"]),
        ("?host=x.lab.example.com:443", ["tv", "user", "admin"]),
        ("?host=other.example.com", ["user", "admin"]),
        ("?host=tv.example.com&key=user", ["user"]),
    ],
)
async def test_filters_choose(world: World, query: str, keys: list[str]) -> None:
    fill(world)
    assert [grant["key"] for grant in await listed(world, ADMIN, query)] == keys


@pytest.mark.parametrize("query", ["?key=a&key=b", "?host=a/b", "?limit=5", "?host=a&host=b"])
async def test_a_query_that_means_nothing_is_refused(world: World, query: str) -> None:
    got = await ask(world, f"/grants{query}", ADMIN)
    assert (got.status, json.loads(got.body)) == (400, {"error": "Invalid request data."})


async def test_an_ended_grant_is_not_listed(world: World) -> None:
    fill(world)
    world.pass_time(60)
    assert [grant["key"] for grant in await listed(world, ADMIN)] == ["user", "admin"]


async def test_two_keys_hold_one_address_side_by_side(world: World) -> None:
    world.knock(CLIENT)
    world.knock(CLIENT, SECOND)
    tv, phone = await listed(world, ADMIN)
    assert (tv["entry"], phone["entry"]) == (CLIENT, CLIENT)
    assert world.ask(f"/grants/{phone['id']}", OTHER, "DELETE", key=ADMIN).status == 204
    assert world.verdict(CLIENT) == 401
    assert world.verdict(CLIENT, [("X-Forwarded-Host", "tv.example.com")]) == 200


async def test_an_id_stays_over_a_renewal_and_a_restart(world: World, tmp_path: Path) -> None:
    world.knock(CLIENT)
    (first,) = await listed(world, ADMIN)
    world.pass_time(5)
    world.knock(CLIENT)
    (second,) = await listed(world, ADMIN)
    assert (first["id"], second["created_at"]) == (second["id"], first["created_at"])
    assert second["last_knock_at"] == first["last_knock_at"] + 5
    again = World(tmp_path, SETTINGS + KEYS, boot=world.boot, wall=world.wall)
    again.load()
    assert [grant["id"] for grant in await listed(again, ADMIN)] == [first["id"]]


async def test_a_revoked_grant_is_closed_at_once_and_for_good(world: World) -> None:
    world.knock(CLIENT)
    (grant,) = await listed(world, ADMIN)
    got = world.ask(f"/grants/{grant['id']}", OTHER, "DELETE", key=ADMIN)
    assert (got.status, got.body) == (204, b"")
    assert world.verdict(CLIENT) == 401
    assert json.loads((world.folder / "whitelist.json").read_bytes())["grants"] == []
    assert world.ask(f"/grants/{grant['id']}", OTHER, "DELETE", key=ADMIN).status == 404


async def test_nobody_closes_what_is_not_theirs(world: World) -> None:
    fill(world)
    ids = {grant["key"]: grant["id"] for grant in await listed(world, ADMIN)}
    assert world.ask(f"/grants/{ids['tv']}", OTHER, "DELETE", key=KEY).status == 404
    assert world.verdict(OTHER, [("X-Forwarded-Host", "tv.example.com")]) == 200
    assert world.ask(f"/grants/{ids['user']}", OTHER, "DELETE", key=KEY).status == 204, "its own, from anywhere"
    assert world.ask("/grants/nothing-like-an-id", OTHER, "DELETE", key=ADMIN).status == 404


async def test_revoking_takes_back_a_knock_that_still_waits(world: World) -> None:
    world.knock(CLIENT)
    (grant,) = await listed(world, ADMIN)
    disk = Disk(world)
    knocking, wire = world.connect()
    knock = f"POST /knock HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: {CLIENT}\r\nX-Api-Key: {KEY}\r\n\r\n"
    knocking.dataReceived(knock.encode())
    revoking, other = world.connect()
    revoke = (
        f"DELETE /grants/{grant['id']} HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: {OTHER}\r\nX-Api-Key: {ADMIN}\r\n\r\n"
    )
    revoking.dataReceived(revoke.encode())
    world.clock.advance(0)
    assert world.verdict(CLIENT) == 401
    while disk.writes:
        disk.succeed()
        world.clock.advance(0)
    assert (answer(wire.value()).status, answer(other.value()).status) == (503, 204)
    assert world.verdict(CLIENT) == 401
    hang_up(knocking)
    hang_up(revoking)


@pytest.mark.parametrize(
    ("target", "method", "allowed"),
    [
        ("/grants", "POST", "GET, HEAD, OPTIONS"),
        ("/grants", "DELETE", "GET, HEAD, OPTIONS"),
        ("/grants/abcdefgh", "GET", "DELETE, OPTIONS"),
    ],
)
def test_other_methods_are_refused(world: World, target: str, method: str, allowed: str) -> None:
    got = world.ask(target, CLIENT, method, key=ADMIN)
    assert (got.status, got.headers["allow"]) == (405, allowed)


def test_an_admin_on_the_proxys_own_machine_may_ask_without_the_proxy(world: World) -> None:
    got = world.ask("/grants/abcdefgh", None, "DELETE", key=ADMIN)
    assert got.status == 404
    assert world.ask("/knock", None, "POST", key=ADMIN).status == 400


@pytest.mark.parametrize(
    ("headers", "peer"),
    [
        pytest.param([("X-Forwarded-For", "198.51.100.1")], "203.0.113.200", id="a forger"),
        pytest.param([("X-Forwarded-For", "garbage")], "127.0.0.1", id="an unreadable chain"),
    ],
)
def test_who_cannot_be_told_sees_nothing(world: World, headers: list[tuple[str, str]], peer: str) -> None:
    assert world.ask("/grants", None, headers=headers, peer=peer, key=ADMIN).status == 400


def many(world: World, count: int) -> None:
    wall, boot = world.wall, world.boot
    world.whitelist.restore(
        Grant(
            f"grant-{number:016d}",
            32,
            (10 << 24) + number,
            32,
            "user",
            "",
            Via.HTTP,
            None,
            wall,
            wall,
            wall + 100 + number * 7919 % 1000,
            boot + 2000,
        )
        for number in range(count)
    )


async def test_a_long_list_comes_whole_and_in_order(world: World) -> None:
    many(world, 5001)
    found = await listed(world, ADMIN)
    assert len({grant["id"] for grant in found}) == 5001
    ends = [grant["expires_at"] for grant in found]
    assert ends == sorted(ends)


async def test_a_client_that_leaves_during_a_long_list_leaves_nothing_behind(world: World) -> None:
    many(world, 20000)
    channel, wire = world.connect()
    head = f"GET /grants HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: {CLIENT}\r\nX-Api-Key: {ADMIN}\r\n\r\n"
    channel.dataReceived(head.encode())
    await deferLater(reactor, 0.001, lambda: None)
    assert not wire.closed
    hang_up(channel)
    written = len(wire.value())
    await deferLater(reactor, 0.02, lambda: None)
    assert len(wire.value()) == written


async def test_a_client_that_does_not_read_a_long_list_is_cut_off(world: World) -> None:
    many(world, 5000)
    channel, wire = world.connect()
    try:
        head = f"GET /grants HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: {CLIENT}\r\nX-Api-Key: {ADMIN}\r\n\r\n"
        channel.dataReceived(head.encode())
        channel.pauseProducing()  # as the transport says when its buffer is full
        written = len(wire.value())
        world.clock.advance(READ_WITHIN - 1)
        channel.resumeProducing()
        for _ in range(2000):
            if len(wire.value()) > written:
                break
            await deferLater(reactor, 0.001, lambda: None)
        assert len(wire.value()) > written, "it read on in time"
        channel.pauseProducing()
        world.clock.advance(READ_WITHIN - 1)
        assert not wire.disconnected
        world.clock.advance(1)
        assert wire.disconnected
    finally:
        hang_up(channel)


async def test_the_order_is_that_of_the_ends_that_are_shown_whatever_the_clock_did(world: World) -> None:
    world.knock(CLIENT)
    world.pass_time(1, step=-3600)
    world.knock(OTHER)
    found = await listed(world, ADMIN)
    assert [(grant["entry"], grant["expires_in_seconds"]) for grant in found] == [(CLIENT, 599), (OTHER, 600)]
