"""The assembled service where no process is needed to see what it does."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.task import Clock

from knocker.service import Knocker, _new_id
from knocker.settings import parse
from tests.wire import SETTINGS


def test_a_reload_that_fails_half_way_changes_nothing(tmp_path: Path) -> None:
    text = SETTINGS + f"whitelist: {{storage_path: '{tmp_path}/whitelist.json'}}\n"
    service = Knocker(parse(text.encode()), str(tmp_path / "knocker.yaml"), Clock())
    house, whitelist = service.house, service.whitelist
    before = (house.gate.policy, house.manners, house.limits, whitelist.keyring)

    def broken() -> None:
        raise OSError("too many open files")

    house.surroundings = broken  # type: ignore[assignment]
    changed = text.replace("ttl: 600, max_ttl: 1200", "ttl: 60").replace(
        "security: {", "security: {deny: {status: 403}, "
    )
    with pytest.raises(OSError, match="too many"):
        service._adopt(parse(changed.encode()))
    assert (house.gate.policy, house.manners, house.limits, whitelist.keyring) == before


def test_a_reload_changes_the_window_of_what_is_read_and_of_what_was_seen(tmp_path: Path) -> None:
    text = SETTINGS + (
        f"whitelist: {{storage_path: '{tmp_path}/whitelist.json'}}\n"
        f"udp: {{enabled: true, window_seconds: 60, state_path: '{tmp_path}/seen.log'}}\n"
    )
    service = Knocker(parse(text.encode()), str(tmp_path / "knocker.yaml"), Clock())
    assert service.seen is not None
    assert service.silent_door is not None
    seen = service.seen.seen
    service._adopt(parse(text.replace("window_seconds: 60", "window_seconds: 300").encode()))
    assert (service.silent_door.reader.window, seen.window) == (300, 300_000)


def test_no_id_of_a_grant_looks_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["-FqlS4ralfxiFs1uXQDwA", "--qlS4ralfxiFs1uXQDwA", "FqlS4ralfxiFs1uXQDw-A"])
    monkeypatch.setattr("secrets.token_urlsafe", lambda _: next(ids))
    assert _new_id() == "FqlS4ralfxiFs1uXQDw-A"
