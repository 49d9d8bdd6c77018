"""The Prometheus text of ``GET /metrics``. No label holds a value of a feature or a join key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from llmfeatures.service.tally import BUCKETS, Tally
from llmfeatures.version import __version__

if TYPE_CHECKING:
    from prometheus_client.core import Metric

COUNTERS: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "requests": ("llmfeatures_requests", "Requests answered.", ("route", "prompt", "code")),
    "features": (
        "llmfeatures_features",
        "Features read, by their status; prompt is - for features asked for by name.",
        ("prompt", "status"),
    ),
    "degraded": (
        "llmfeatures_degraded_prompts",
        "Prompts built while a feature or a retriever was unavailable.",
        ("prompt",),
    ),
    "retrievals": (
        "llmfeatures_retrievals",
        "Documents of prompts, by what became of their search.",
        ("prompt", "retriever", "status"),
    ),
    "store_errors": ("llmfeatures_store_errors", "Reads and writes that the online store failed.", ("code",)),
    "pushes": ("llmfeatures_pushes", "Pushes accepted; repeated: their push_id was known.", ("view", "repeated")),
    "pushed_rows": ("llmfeatures_pushed_rows", "Rows that accepted pushes held, repeated ones left out.", ("view",)),
}
"""What `Tally.counts` holds: the name at Prometheus, its help, its labels."""

StatusSample = tuple[str, str, Mapping[str, str], float]
"""Name, help, labels and value, as ``llmfeatures.status.status_samples`` gives them."""


def metrics_text(tally: Tally, samples: Iterable[StatusSample], accept: str | None) -> tuple[bytes, str]:
    """The body of an answer and its content type: OpenMetrics when the scraper takes it, else Prometheus text."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(tally, list(samples)))
    encode, content_type = choose_encoder(accept or "")
    return encode(registry), content_type


class _Collected:
    """What prometheus-client calls a collector."""

    def __init__(self, tally: Tally, samples: list[StatusSample]) -> None:
        self._tally, self._samples = tally, samples

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        info = GaugeMetricFamily("llmfeatures_build_info", "The version that runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        busy = GaugeMetricFamily("llmfeatures_requests_in_flight", "Requests that this worker answers now.")
        busy.add_metric([], self._tally.in_flight)
        yield busy
        for name, (shown, text, labels) in COUNTERS.items():
            family = CounterMetricFamily(shown, text, labels=labels)
            for (kind, values), count in sorted(self._tally.counts.items()):
                if kind == name:
                    family.add_metric(values, count)
            yield family
        latency = HistogramMetricFamily(
            "llmfeatures_request_seconds", "Seconds from a request's head to its answer.", labels=["route", "prompt"]
        )
        for labels, values in sorted(self._tally.latency.items()):
            latency.add_metric(labels, _cumulated(values), values[-1])
        yield latency
        searches = HistogramMetricFamily(
            "llmfeatures_retrieval_seconds",
            "Seconds that a prompt waited for a retriever.",
            labels=["prompt", "retriever"],
        )
        for labels, values in sorted(self._tally.searches.items()):
            searches.add_metric(labels, _cumulated(values), values[-1])
        yield searches
        yield from self._status()

    def _status(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        families: dict[str, Any] = {}
        for name, text, labels, value in self._samples:
            family = families.get(name)
            if family is None:
                family = families[name] = GaugeMetricFamily(name, text, labels=list(labels))
            family.add_metric(list(labels.values()), value)
        yield from families.values()


def _cumulated(values: list[float]) -> list[tuple[str, float]]:
    total, buckets = 0.0, list[tuple[str, float]]()
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), values[:-1], strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
