"""The mock's figures as a Prometheus scrapes them, in the text format of `prometheus_client`.

A figure's name there is `stormgate_` and its own with underscores, as `stormgate_auth_failures_unauthorized_total`; a counter
that does not end with `_total` gets it, as the convention has it. How to scrape it:

    scrape_configs:
      - job_name: mock
        authorization: { credentials: mock-admin }
        static_configs: [{ targets: ["127.0.0.1:8080"] }]
"""

from collections.abc import Iterable, Mapping
from typing import get_args

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sim.protocols.spacetime.metric_names import MEANINGS, MONITORED, STATUS_COUNTERS, is_counter
from sim.server.control import Control
from sim.server.counters import metrics, monitored
from sim.server.runtime import Runtime
from sim.server.settings import Profile

MEDIA_TYPE = CONTENT_TYPE_LATEST
_PREFIX = "stormgate_"


def name_of(figure: str) -> str:
    """What a figure is called there."""
    plain = _PREFIX + figure.replace(".", "_")
    return f"{plain}_total" if is_counter(figure) and not plain.endswith("_total") else plain


def text(runtime: Runtime, control: Control) -> bytes:
    """All figures that either profile of the metrics endpoint has, the control service's, and what only this page tells."""
    figures: dict[str, float] = {**control.counters, **monitored(runtime.counters)}
    for profile in get_args(Profile):
        body = metrics(runtime.counters, runtime.streams.logs.values(), runtime.consumers, profile, now=0.0)
        for table, part in body.items():
            figures |= {f"{table}.{name}": value for name, value in part.items()} if isinstance(part, dict) else {}
    return generate_latest(_Figures(figures))


class _Figures(Collector):
    def __init__(self, figures: Mapping[str, float]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """One family a figure."""
        for figure, value in self._figures.items():
            kind = CounterMetricFamily if is_counter(figure) else GaugeMetricFamily
            yield kind(name_of(figure), _help(figure), value=value)


def _help(figure: str) -> str:
    where = "the control service's status" if figure in STATUS_COUNTERS else "the sync metrics endpoint"
    return MEANINGS.get(figure) or MONITORED.get(figure) or f"{figure} of {where}"
