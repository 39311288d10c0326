"""GET /metrics, on a listener of its own: what Prometheus and its like read (contract 3.5).

Everything is counted in plain numbers where it happens and put into words only here, when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.web.http import Request
from twisted.web.resource import Resource

from knocker.core.gate import Verdict
from knocker.core.tally import WRITE_BUCKETS, Tally
from knocker.listen import answers
from knocker.listen.house import House

UDP = "udp_"  # what the names of dropped packets begin with


class Metrics(Resource):
    """The root of the metrics port."""

    isLeaf = True

    def __init__(self, house: House, lag: Callable[[], float]) -> None:
        """`lag`: how late the reactor has been lately, in seconds."""
        super().__init__()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collected(house, lag))

    def render(self, request: Request) -> bytes:
        """Answer a scrape; anything else is not here."""
        if request.path != b"/metrics":
            return answers.nothing(request)
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD")
            return answers.answer(request, 405, {"error": "Method not allowed."})
        return answers.sized(request, 200, generate_latest(self._registry), CONTENT_TYPE_LATEST.encode())


class _Collected(Collector):
    def __init__(self, house: House, lag: Callable[[], float]) -> None:
        self._house = house
        self._lag = lag

    def collect(self) -> Iterable[Metric]:
        house, tally = self._house, self._house.tally
        yield from _counted(tally)
        yield from _written(tally)
        yield _gauge(
            "knocker_grants", "Grants in memory, until the reaper removes those that ended.", len(house.gate.whitelist)
        )
        ready = not (house.store.complaints() + house.complaints())
        yield _gauge("knocker_ready", "Whether /ready says so.", ready)
        yield _gauge(
            "knocker_reactor_lag_seconds", "The most by which a timer was late in the last minute.", self._lag()
        )


def _counted(tally: Tally) -> Iterator[Metric]:
    verdicts = CounterMetricFamily("knocker_verdicts", "Answers of /verify.", labels=["outcome", "cause"])
    for verdict in Verdict:
        verdicts.add_metric(verdict.label, tally.verdicts[verdict.label])
    yield verdicts
    knocks = CounterMetricFamily("knocker_knocks", "Knocks, and other requests with a key.", labels=["via", "outcome"])
    for label, count in sorted(tally.knocks.items()):
        knocks.add_metric(label, count)
    yield knocks
    packets = CounterMetricFamily("knocker_packets_dropped", "Datagrams that opened nothing.", labels=["reason"])
    requests = CounterMetricFamily("knocker_requests_dropped", "Requests that were none.", labels=["reason"])
    for reason, count in sorted(tally.drops.items()):
        family = packets if reason.startswith(UDP) else requests
        family.add_metric([reason.removeprefix(UDP)], count)
    yield packets
    yield requests


def _written(tally: Tally) -> Iterator[Metric]:
    histogram = HistogramMetricFamily("knocker_store_write_seconds", "How long a write of the whitelist took.")
    buckets, total = [], 0
    for bound, count in zip((*map(str, WRITE_BUCKETS), "+Inf"), tally.writes, strict=True):
        total += count
        buckets.append((bound, float(total)))
    histogram.add_metric([], buckets, tally.write_seconds)
    yield histogram
    failures = CounterMetricFamily("knocker_store_failures", "Writes of the whitelist that failed.")
    failures.add_metric([], tally.failed_writes)
    yield failures


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
