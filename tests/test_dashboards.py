"""The dashboard and the alert rules use series that there are, with labels that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.address import IPv4Address

from knocker.core.gate import Verdict
from knocker.core.refusals import Refusal
from knocker.listen.metrics import Metrics
from knocker.listen.site import GateSite
from tests.service import PROJECT
from tests.wire import Wire, World, answer, hang_up

EXAMPLES = PROJECT / "examples"
VALUES = {
    "cause": {verdict.label[1] for verdict in Verdict},
    "outcome": {refusal.name.lower() for refusal in Refusal} | {"granted"},
    "reason": {"wrong_address"},
    "job": {"knocker"},
}


def expressions() -> list[str]:
    board: Any = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
    rules: Any = yaml.safe_load((EXAMPLES / "prometheus-alerts.yml").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return shown + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What a scrape has after one of everything: each name with its labels."""
    world = World(Path(tmp_path_factory.mktemp("scraped")))
    world.knock("198.51.100.7")
    world.send(b"nonsense\r\n\r\n")
    world.house.tally.drop("udp_replay")
    site = GateSite(Metrics(world.house, lambda: 0.0), world.house, 8, world.clock)
    wire = Wire(peerAddress=IPv4Address("TCP", "127.0.0.1", 40000))
    channel = site.buildProtocol(wire.getPeer())
    channel.makeConnection(wire)
    channel.dataReceived(b"GET /metrics HTTP/1.1\r\nHost: k\r\n\r\n")
    hang_up(channel)
    found: dict[str, set[str]] = {"up": {"job"}}
    for family in text_string_to_metric_families(answer(wire.value()).body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_there_are_expressions() -> None:
    assert len(expressions()) > 12


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_is_there(expression: str, series: dict[str, set[str]]) -> None:
    used = re.findall(r"\b(knocker_\w+|up)\b(?:\{([^}]*)\})?", expression)
    assert used
    for name, selector in used:
        assert name in series
        for label, value in re.findall(r'(\w+)="([^"]*)"', selector):
            assert label in series[name]
            assert value in VALUES[label]
    for labels in re.findall(r"by \(([^)]*)\)", expression):
        known = set().union(*(series[name] for name, _ in used)) | {"instance"}
        assert set(labels.replace(" ", "").split(",")) <= known


def test_every_series_is_looked_at_by_something(series: dict[str, set[str]]) -> None:
    text = " ".join(expressions())
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in series}
    assert {name for name in families if name not in text} == set()
