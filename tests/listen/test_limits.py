"""Rate limits over HTTP: who is counted, what is looked at, and what a refusal says (contract 3.3)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Errors
from tests.wire import ADMIN, KEY, SETTINGS, Disk, World, hang_up

CLIENT = "198.51.100.7"
WRONG = "wrong-Tn5c8Qe1Wz7Ux3Ib9Om2"
LIMITED = "Too many knock attempts."


@pytest.fixture
def world(tmp_path: Path) -> World:
    limits = "security: {knock_rate_limit: {window_seconds: 60, successful_requests: 4, failed_requests: 3},"
    return World(tmp_path, SETTINGS.replace("security: {", limits))


def statuses(world: World, times: int, client: str = CLIENT, key: str = WRONG) -> list[int]:
    return [world.knock(client, key).status for _ in range(times)]


def test_a_flood_of_wrong_keys_stops_being_looked_at(world: World) -> None:
    assert statuses(world, 5) == [401, 401, 401, 429, 429]
    got = world.knock(CLIENT)
    assert (got.status, json.loads(got.body)["error"]) == (429, LIMITED), "the right key is not looked at either"
    assert world.verdict(CLIENT) == 401
    assert got.headers["retry-after"] == "60"
    assert world.knock("198.51.100.8").status == 200, "another address is not concerned"


def test_the_window_ends_and_says_when(world: World) -> None:
    statuses(world, 3)
    world.pass_time(59.5)
    assert world.knock(CLIENT).headers["retry-after"] == "1"
    world.pass_time(0.5)
    assert world.knock(CLIENT).status == 200


def test_a_clock_that_is_set_neither_opens_nor_prolongs_a_window(world: World) -> None:
    statuses(world, 3)
    world.pass_time(1, step=86400)
    assert statuses(world, 1) == [429]
    world.pass_time(59, step=-2 * 86400)
    assert statuses(world, 1) == [401]


def test_successful_requests_have_a_counter_of_their_own(world: World) -> None:
    assert statuses(world, 5, key=KEY) == [200, 200, 200, 200, 429]


def test_every_path_that_looks_at_a_key_counts(world: World) -> None:
    assert world.ask("/grants", CLIENT, key=WRONG).status == 401
    assert world.ask("/grants/abcdefghijklmnop", CLIENT, "DELETE", key=WRONG).status == 401
    assert world.knock(CLIENT, WRONG, method="DELETE").status == 401
    assert statuses(world, 1) == [429]
    assert world.ask("/grants", CLIENT, key=ADMIN).status == 429


def test_a_request_without_a_key_guesses_nothing_and_is_not_counted(world: World) -> None:
    assert {world.ask("/knock", CLIENT).status for _ in range(9)} == {401}
    assert world.knock(CLIENT).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"{", 400, id="no JSON"),
        pytest.param(b'{"ip_address": "1.2.3.4"}', 403, id="no permission"),
    ],
)
def test_a_right_key_whose_knock_is_refused_counts_as_failed(world: World, body: bytes, status: int) -> None:
    assert [world.knock(CLIENT, KEY, body).status for _ in range(4)] == [status, status, status, 429]


def test_ipv6_counts_by_the_household(world: World) -> None:
    assert [world.knock(f"2001:db8:1:2::{number}", WRONG).status for number in range(1, 5)] == [401, 401, 401, 429]
    assert world.knock("2001:db8:1:3::1", WRONG).status == 401


def test_an_address_that_holds_a_grant_may_fail_ten_times_as_often(world: World) -> None:
    assert world.knock(CLIENT).status == 200
    assert statuses(world, 31) == [401] * 30 + [429]


def test_verify_is_never_counted_and_never_limited(world: World) -> None:
    world.knock(CLIENT)
    statuses(world, 40)
    asked = [world.ask("/verify", CLIENT, key=WRONG).status for _ in range(50)]
    assert set(asked) == {200}


def test_a_knock_that_could_not_be_stored_counts_as_failed(world: World, errors: Errors) -> None:
    (world.folder / "whitelist.json").mkdir()
    assert statuses(world, 4, key=KEY) == [503, 503, 503, 429]
    errors.expected()


def test_the_log_names_the_setting_and_is_not_flooded(world: World, errors: Errors) -> None:
    statuses(world, 100)
    refused = [line for line in errors.lines if "refused" in line]
    assert 4 <= len(refused) <= 24
    assert any("security.knock_rate_limit" in line for line in refused)
    assert not [line for line in errors.lines if WRONG in line or KEY in line]


def test_hanging_up_before_the_answer_does_not_pass_the_limit(world: World) -> None:
    disk = Disk(world)
    for _ in range(4):
        channel, _ = world.connect()
        head = f"POST /knock HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: {CLIENT}\r\nX-Api-Key: {KEY}\r\n\r\n"
        channel.dataReceived(head.encode())
        world.clock.advance(0)
        hang_up(channel)
        while disk.writes:
            disk.succeed()
            world.clock.advance(0)
    assert world.verdict(CLIENT) == 200
    assert world.knock(CLIENT).status == 429
