"""The mock's metrics in the text format that Prometheus scrapes.

A name on the page is `stormgate_` and the metric's name with underscores, such as
`stormgate_auth_failures_unauthorized_total`. By convention a counter ends with `_total`. To scrape the page:

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

from sim.server.control import Control
from sim.server.counters import metrics, monitored
from sim.server.runtime import Runtime
from sim.server.settings import Profile
from sim.service.metric_names import MEANINGS, MONITORED, STATUS_COUNTERS, is_counter

MEDIA_TYPE = CONTENT_TYPE_LATEST
_PREFIX = "stormgate_"


def name_of(metric: str) -> str:
    """Return the name of a metric on the page."""
    plain = _PREFIX + metric.replace(".", "_")
    return f"{plain}_total" if is_counter(metric) and not plain.endswith("_total") else plain


def text(runtime: Runtime, control: Control) -> bytes:
    """Render the metrics of both profiles, those of the control service, and those that only this page has."""
    values: dict[str, float] = {**control.counters, **monitored(runtime.counters)}
    for profile in get_args(Profile):
        body = metrics(runtime.counters, runtime.streams.logs.values(), runtime.consumers, profile, 0.0, transport="")
        for table, part in body.items():
            values |= {f"{table}.{name}": value for name, value in part.items()} if isinstance(part, dict) else {}
    return generate_latest(_Page(values))


class _Page(Collector):
    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = values

    def collect(self) -> Iterable[Metric]:
        """Yield one family per metric."""
        for metric, value in self._values.items():
            kind = CounterMetricFamily if is_counter(metric) else GaugeMetricFamily
            yield kind(name_of(metric), _help(metric), value=value)


def _help(metric: str) -> str:
    where = "the control service's status" if metric in STATUS_COUNTERS else "the sync metrics endpoint"
    return MEANINGS.get(metric) or MONITORED.get(metric) or f"{metric} of {where}"
