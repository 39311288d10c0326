"""Canaries see what /verify used of a forger's words, through both ways of answering, and change no verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.core.addresses import Address
from knocker.core.canaries import LIFE, MOST_LIVE, MOST_OTHERS, MOST_QUESTIONS, Canaries
from knocker.listen.channel import GateChannel
from knocker.listen.lane import LaneChannel
from tests.conftest import Errors
from tests.wire import ADMIN, KEY, SETTINGS, World

ME, OTHER, HOST = "198.51.100.7", "198.51.100.8", "app.example.com"


@pytest.fixture(params=[GateChannel, LaneChannel], ids=["channel", "lane"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(tmp_path, SETTINGS, channel=request.param)


def make(world: World, client: str = ME) -> Any:
    got = world.ask("/canaries", client, "POST", key=ADMIN)
    assert got.status == 200, got
    return json.loads(got.body)


def found(world: World, canary: Any) -> Any:
    got = world.ask(f"/canaries/{canary['id']}", ME, key=ADMIN)
    assert got.status == 200, got
    return json.loads(got.body)


def used(world: World, canary: Any) -> dict[str, list[str]]:
    """Which of the values were used, and from where."""
    told = found(world, canary)
    names = ("address", "path", "host")
    assert all(told[name]["used"] == bool(told[name]["headers"]) for name in names)
    return {name: told[name]["headers"] for name in names if told[name]["used"]}


def test_a_canary_is_random_and_nobodys(world: World) -> None:
    made = [make(world) for _ in range(3)]
    for name in ("id", "address", "path", "host"):
        assert len({one[name] for one in made}) == 3
    assert all(one["expires_in_seconds"] == LIFE for one in made)
    assert all(one["path"].startswith("/") and one["host"].endswith(".invalid") for one in made)
    assert not used(world, made[0])
    assert found(world, made[0])["questions"] == []


def test_what_a_question_used_is_told_with_the_header(world: World) -> None:
    canary = make(world)
    world.verdict(canary["address"])
    assert used(world, canary) == {"address": ["X-Forwarded-For"]}
    world.verdict(ME, [("X-Forwarded-Uri", canary["path"] + "/x?y=1")])
    world.verdict(ME, [("X-Forwarded-Uri", canary["path"]), ("X-Forwarded-Host", canary["host"])])
    world.ask("/verify" + canary["path"], ME)
    assert used(world, canary) == {
        "address": ["X-Forwarded-For"],
        "path": ["X-Forwarded-Uri", "the request itself"],
        "host": ["X-Forwarded-Host"],
    }


def test_what_arrived_without_being_used_is_told_as_that(world: World) -> None:
    canary = make(world)
    path = canary["path"]
    world.verdict(f"{canary['address']}, {ME}", [("X-Forwarded-Uri", "/x"), ("X-Forwarded-Host", HOST)])
    world.verdict(ME, [("X-Forwarded-Uri", "/x"), ("X-Original-URI", path)])
    world.verdict(ME, [("X-Forwarded-Uri", "/x"), ("Cookie", f"a={path}"), ("X-Forwarded-Method", path[1:].upper())])
    assert not used(world, canary)
    first, second, third = found(world, canary)["questions"]
    assert (first["client"], first["path"], first["host"]) == (ME, "/x", HOST)
    assert first["arrived"] == {"X-Forwarded-For": f"{canary['address']}, {ME}"}
    assert (second["path"], second["arrived"]) == (None, {"X-Original-Uri": path})
    assert third["arrived"] == {"Cookie": f"a={path}", "X-Forwarded-Method": path[1:].upper()}
    assert third["method"] == path[1:].upper()
    assert {"Cookie", "X-Forwarded-For", "Host"} <= set(third["headers"])


def test_what_bears_nothing_is_counted_where_it_is_the_makers(world: World) -> None:
    """By their number it shows when a proxy names no path, or always the same one."""
    canary = make(world, ME)
    world.verdict(OTHER, [("X-Forwarded-Uri", "/x")])
    for number in range(MOST_OTHERS + 3):
        world.verdict(ME, [("X-Forwarded-Uri", f"/{number}")])
    world.verdict(ME, [("X-Forwarded-Host", HOST)])
    world.verdict(ME, [("X-Forwarded-Host", HOST)])
    told = found(world, canary)
    assert told["questions"] == []
    nameless = {"host": None, "has_path": True, "count": 1}
    assert told["others"] == [*[nameless] * (MOST_OTHERS - 1), {"host": HOST, "has_path": False, "count": 2}]
    assert "/10" not in json.dumps(told), "what else a household asks for is its own"


def test_a_peer_that_is_not_believed_is_named(world: World) -> None:
    canary = make(world)
    world.ask("/verify", ME, headers=[("X-Forwarded-Uri", canary["path"])], peer="203.0.113.5")
    (question,) = found(world, canary)["questions"]
    assert (question["peer"], question["trusted"], question["client"]) == ("203.0.113.5", False, None)
    assert "server.trusted_proxies" in question["why"]
    assert not used(world, canary)


@pytest.mark.parametrize("bearing", ["address", "path", "host", "nothing"])
def test_no_verdict_changes(world: World, bearing: str) -> None:
    """An open one, an excluded path, a denial."""
    assert world.knock(ME).status == 200
    canary = make(world)
    lines = {
        "address": [("X-Real-IP", canary["address"])],
        "path": [("Cookie", canary["path"])],
        "host": [("X-Forwarded-Host", canary["host"])],
        "nothing": [],
    }[bearing]
    assert world.verdict(ME, lines) == 200
    assert world.verdict(OTHER, lines) == 401
    assert world.verdict(OTHER, [*lines, ("X-Forwarded-Uri", "/metrics")]) == 200
    assert world.verdict(canary["address"], lines) == 401
    assert world.verdict(ME, [("X-Forwarded-Uri", canary["path"]), *lines]) == 200


def test_each_address_of_its_span_is_a_canarys(world: World) -> None:
    """So that one canary tells several forgeries apart."""
    canary = make(world)
    begin = canary["address"].removesuffix("0")
    assert begin.endswith(":")
    world.verdict(begin + "2a")
    assert used(world, canary) == {"address": ["X-Forwarded-For"]}
    world.verdict(ME, [("X-Real-IP", begin + "7")])
    first, second = found(world, canary)["questions"]
    assert (first["client"], second["arrived"]) == (begin + "2a", {"X-Real-Ip": begin + "7"})


def test_what_is_told_is_bounded(world: World) -> None:
    """Whoever shares the maker's address may send what it likes."""
    canary = make(world)
    lines = [(f"X-{number:03}-{'n' * 60}", canary["path"] + "x" * 100) for number in range(100)]
    for _ in range(MOST_QUESTIONS + 1):
        world.verdict(ME, lines)
        world.verdict(ME, [("X-Forwarded-Uri", "/" + "y" * 10_000), *lines])
    got = world.ask(f"/canaries/{canary['id']}", ME, key=ADMIN)
    assert len(got.body) < 64 * (40 * 350 + 40 * 50 + 1000)


def test_strangers_forgeries_do_not_shut_out_the_admin_on_the_proxys_machine(world: World) -> None:
    for _ in range(40):
        world.ask("/explain", "garbage", key="wrong-key-0123456789-abc")
    assert world.ask("/explain", "garbage", key=ADMIN).status == 429
    assert world.ask("/explain", key=ADMIN).status == 200
    assert world.ask("/explain", ME, key=ADMIN).status == 200


def test_a_canary_that_cannot_look_changes_no_verdict(
    world: World, monkeypatch: pytest.MonkeyPatch, errors: Errors
) -> None:
    assert world.knock(ME).status == 200
    make(world)

    def broken(*_: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(world.house.canaries, "look", broken)
    assert (world.verdict(ME), world.verdict(OTHER)) == (200, 401)
    assert len(errors.expected()) == 1, "logged once, not twice"


def test_after_a_minute_it_is_gone_and_nobody_looks(world: World) -> None:
    canary = make(world)
    world.pass_time(LIFE - 1)
    assert found(world, canary)["expires_in_seconds"] == 1
    world.pass_time(1)
    world.verdict(canary["address"])
    assert not world.house.canaries.live
    gone = world.ask(f"/canaries/{canary['id']}", ME, key=ADMIN)
    assert (gone.status, json.loads(gone.body)) == (404, {"error": "No such canary."})


def test_the_oldest_makes_room_and_each_keeps_so_many_questions(world: World) -> None:
    several = [make(world) for _ in range(MOST_LIVE + 1)]
    assert len(world.house.canaries.live) == MOST_LIVE
    assert world.ask(f"/canaries/{several[0]['id']}", ME, key=ADMIN).status == 404
    for _ in range(MOST_QUESTIONS + 5):
        world.verdict(several[1]["address"])
    assert len(found(world, several[1])["questions"]) == MOST_QUESTIONS
    world.verdict(ME, [("X-Forwarded-Uri", several[1]["path"])])
    assert used(world, several[1]) == {"address": ["X-Forwarded-For"], "path": ["X-Forwarded-Uri"]}


@pytest.mark.parametrize(("target", "method"), [("/canaries", "POST"), ("/canaries/x", "GET")])
def test_only_an_admins_key_has_canaries(world: World, target: str, method: str) -> None:
    assert world.ask(target, ME, method, key=KEY).status == 403
    assert world.ask(target, ME, method).status == 401
    assert world.ask(target, ME, "PUT", key=ADMIN).status == 405
    assert not world.house.canaries.live


def test_an_admin_may_ask_why_the_address_is_not_known(world: World) -> None:
    """Through a proxy that is not trusted, or that names itself: the way that is to be mended."""
    for client, peer in ((ME, "203.0.113.5"), ("127.0.0.1", "127.0.0.1"), ("", "127.0.0.1")):
        got = world.ask("/canaries", client, "POST", key=ADMIN, peer=peer)
        assert got.status == 200, (client, peer)
        assert world.ask(f"/canaries/{json.loads(got.body)['id']}", client, key=ADMIN, peer=peer).status == 200


def test_the_values_are_never_somebodys() -> None:
    canaries = Canaries(lambda count: b"\x07" * count)
    discard, example = Address.parse("100::8707:8707:8707:0"), Address.parse("2001:db8::8707:8707:8707:0")
    assert canaries.make(None, lambda _: False, 0).address == discard
    assert canaries.make(None, lambda address: address == discard, 0).address == example


@given(st.lists(st.sampled_from(["address", "path", "host", "both", "plain", "time"]), max_size=12))
def test_lane_and_channel_tell_the_same(tmp_path_factory: pytest.TempPathFactory, acts: list[str]) -> None:
    """Whatever comes in whatever order; only which lines were read at all may differ."""
    told = []
    for channel in (GateChannel, LaneChannel):
        world = World(tmp_path_factory.mktemp("canaries"), SETTINGS, channel=channel)
        canary = make(world)
        lines = {
            "address": [("X-Forwarded-For", canary["address"])],
            "path": [("X-Forwarded-For", ME), ("X-Forwarded-Uri", canary["path"])],
            "host": [("X-Forwarded-For", ME), ("X-Forwarded-Host", f"a.{canary['host']}:8443")],
            "both": [("X-Forwarded-For", canary["address"]), ("X-Forwarded-Uri", canary["path"] + "/x")],
            "plain": [("X-Forwarded-For", OTHER), ("X-Forwarded-Uri", "/metrics")],
        }
        statuses = []
        for act in acts:
            if act == "time":
                world.pass_time(4)
            else:
                statuses.append(world.ask("/verify", headers=lines[act]).status)
        whole = found(world, canary)
        for question in whole["questions"] + whole["others"]:
            del question["headers"]
        told.append((statuses, whole))
    assert told[0] == told[1]
