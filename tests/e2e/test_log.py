"""What a running Knocker says: JSON from its first line on, an audit trail, and no secret (docs: The log)."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.conftest import PHONE, Start, settings
from tests.service import Knocker, ask, eventually, twistd

HOSTILE = "x\x1b[2J\x7f"


def lines(knocker: Knocker) -> list[dict[str, object]]:
    return [json.loads(line) for line in knocker.log.splitlines()]


def with_log(**log: str) -> dict[str, object]:
    return {**settings(), "logging": log}


def test_every_line_is_json_and_a_grants_life_can_be_read_from_them(start: Start) -> None:
    knocker = start(with_log(format="json"))
    knocker.knock("203.0.113.7", PHONE)
    knocker.knock("203.0.113.7", PHONE, "DELETE")
    knocker.knock("203.0.113.8", "wrong-key-wrong-key")
    ask(knocker.port, "/knock", "POST", {"X-Forwarded-For": "1.2.3.4" + HOSTILE, "X-Api-Key": PHONE})
    assert knocker.terminate() == 0
    found = lines(knocker)
    assert str(found[0]["message"]).startswith("twistd")
    assert all({"time", "level", "logger", "message"} <= set(line) for line in found)
    trail = [(line["event"], line["key"], line["entry"]) for line in found if "event" in line]
    assert trail == [
        ("opened", "phone", "203.0.113.7"),
        ("closed", "phone", "203.0.113.7"),
        ("refused", None, "203.0.113.8"),
        ("refused", None, None),
    ]
    assert "wrong-key" not in knocker.log


def test_format_and_level_follow_a_reload(start: Start) -> None:
    knocker = start(with_log(format="json", level="INFO"))
    knocker.configure(with_log(level="warn"))
    knocker.hup()
    eventually(lambda: knocker.verify("203.0.113.7") == 401, "it answers")
    knocker.configure(with_log(format="json", level="info"))
    knocker.hup()
    eventually(lambda: "settings were reloaded" in knocker.log, "the second reload")
    knocker.knock("203.0.113.7", PHONE)
    eventually(lambda: '"event":"opened"' in knocker.log, "the audit line")


def test_a_logfile_that_twistd_was_given_is_written_our_way(make: Start, tmp_path: Path) -> None:
    knocker = make(with_log(format="json"))
    knocker.command = [*twistd()[:3], "--logfile", str(tmp_path / "k.log"), "knocker", "--config", str(knocker.config)]
    knocker.start()
    assert knocker.terminate() == 0
    rows = (tmp_path / "k.log").read_text().splitlines()
    assert str(json.loads(rows[0])["message"]).startswith("twistd")
    assert "stopped" in (tmp_path / "k.log").read_text()


def test_a_faulty_start_says_its_faults_and_nothing_else_whatever_the_format(make: Start) -> None:
    knocker = make(with_log(format="xml"))
    knocker.launch()
    assert knocker.wait() == 1
    assert knocker.log.splitlines() == [f"{knocker.config}: logging.format: expected text or json, got 'xml'"]
