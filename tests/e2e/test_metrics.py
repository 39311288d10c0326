"""The metrics port of a real Knocker."""

from __future__ import annotations

import socket

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import PHONE, Start, settings
from tests.service import ask, free_port


def test_metrics_have_a_port_of_their_own(start: Start) -> None:
    port = free_port()
    knocker = start({**settings(), "metrics": {"enabled": True, "port": port}})
    assert knocker.knock("198.51.100.7", PHONE).status == 200
    assert knocker.verify("198.51.100.7") == 200
    answer = ask(port, "/metrics")
    assert answer.status == 200
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
        if sample.labels in ({}, {"outcome": "allow", "cause": "grant"})
    }
    assert (found["knocker_verdicts_total"], found["knocker_grants"], found["knocker_ready"]) == (1, 1, 1)
    assert found["knocker_store_write_seconds_count"] >= 1
    assert ask(knocker.port, "/metrics", headers={"X-Forwarded-For": "198.51.100.7"}).status == 404
    assert ask(port, "/knock", headers={"X-Api-Key": PHONE}).status == 404
    with socket.create_connection(("127.0.0.1", port)):  # a scraper that stays does not keep it from ending
        assert knocker.terminate() == 0


def test_without_a_word_there_are_none(start: Start) -> None:
    assert "for metrics" not in start().log


def test_a_port_that_is_taken_is_named(make: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        knocker = make({**settings(), "metrics": {"enabled": True, "port": other.getsockname()[1]}})
        knocker.launch()
        assert knocker.wait() == 1
    assert "see metrics.host and metrics.port" in knocker.log
