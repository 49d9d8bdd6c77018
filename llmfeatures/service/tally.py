"""What a worker counts: plain numbers, a few additions per request. `metrics` shows them to Prometheus.

With several workers each writes its numbers to a file of a folder they share, once a second, and whoever is asked adds
them up. The file of a worker that died stays, so that no counter falls.
"""

from __future__ import annotations

import json
import os
import secrets
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from llmfeatures.context import FeatureValue

BUCKETS: Final = (
    0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01,
    0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the latency histogram in seconds; one more takes the rest."""

Labels = tuple[str, ...]


class Tally:
    """Counters and histograms of one process, or of several added up.

    ``counts`` is by name and labels; ``latency`` by route and prompt, ``searches`` by prompt and retriever: a count per
    bucket, then the sum in seconds.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[str, Labels], int] = defaultdict(int)
        self.latency: dict[Labels, list[float]] = {}
        self.searches: dict[Labels, list[float]] = {}
        self.in_flight = 0

    def request(self, route: str, prompt: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self.counts["requests", (route, prompt, str(status))] += 1
        _observe(self.latency, (route, prompt), seconds)

    def retrieval(self, prompt: str, retriever: str, status: str, seconds: float | None) -> None:
        """Documents were searched for; ``seconds`` is None where the same search is counted already."""
        self.counts["retrievals", (prompt, retriever, status)] += 1
        if seconds is not None:
            _observe(self.searches, (prompt, retriever), seconds)

    def features(self, prompt: str, features: Mapping[str, FeatureValue]) -> None:
        """Features were read, for a prompt or (``-``) for themselves."""
        counts = self.counts
        for found in features.values():
            counts["features", (prompt, found.status)] += 1

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Something happened."""
        self.counts[name, labels] += by

    def add(self, data: Mapping[str, Any]) -> None:
        """Add what another worker wrote."""
        for name, labels, value in data["counts"]:
            self.counts[name, tuple(labels)] += value
        for name, histograms in (("latency", self.latency), ("searches", self.searches)):
            for labels, values in data.get(name, ()):
                own = histograms.setdefault(tuple(labels), [0.0] * len(values))
                own[:] = [one + other for one, other in zip(own, values, strict=True)]

    def data(self) -> dict[str, Any]:
        """All that `add` takes, as JSON."""
        return {
            "counts": [[name, list(labels), value] for (name, labels), value in self.counts.items()],
            "latency": [[list(labels), values] for labels, values in self.latency.items()],
            "searches": [[list(labels), values] for labels, values in self.searches.items()],
        }


def _observe(histograms: dict[Labels, list[float]], labels: Labels, seconds: float) -> None:
    found = histograms.get(labels)
    if found is None:
        found = histograms[labels] = [0.0] * (len(BUCKETS) + 2)
    found[bisect_left(BUCKETS, seconds)] += 1
    found[-1] += seconds


class SharedTallies:
    """The folder in which workers leave their numbers for one another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = folder / f"{os.getpid()}-{secrets.token_hex(4)}.json"

    def write(self, tally: Tally) -> None:
        """Leave this worker's numbers."""
        part = self._own.with_suffix(".part")
        with suppress(OSError):  # numbers are not worth a request
            part.write_text(json.dumps(tally.data()), encoding="utf-8")
            part.replace(self._own)

    def total(self, tally: Tally) -> Tally:
        """This worker's numbers and what the others left last."""
        total = Tally()
        total.add(tally.data())
        total.in_flight = tally.in_flight
        for path in sorted(self._folder.glob("*.json")):
            if path != self._own:
                with suppress(OSError, ValueError, KeyError):
                    total.add(json.loads(path.read_text(encoding="utf-8")))
        return total
