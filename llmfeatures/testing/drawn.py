"""Random histories for the conformance suite of offline stores, the same for a seed."""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any

import pyarrow as pa

from llmfeatures.schema import Aggregation, FeatureView, ParquetSource
from llmfeatures.testing.rule import (
    CREATED,
    KEY,
    USER,
    Ask,
    Asks,
    Events,
    History,
    Row,
    history_of,
)


def seeded(seed: int) -> Random:
    """Numbers that are the same for a seed."""
    return Random(seed)  # noqa: S311


@dataclass
class Drawn:
    """Random histories, the same for a seed: few keys and few times, so that all that can meet does."""

    random: Random
    keys: list[str | None] = field(default_factory=lambda: ["a", "b", "", "ä|", None])

    def histories(self) -> list[History]:
        """Three, each with a feature of another dtype."""
        return [
            history_of(self.rows(40, lambda: (self.random.choice([0, 1, 2, None]),)), "numbers"),
            history_of(self.rows(30, lambda: (self.random.choice(["x", "", "y", None, "zz"]),)), "words", "enum[x,y]"),
            history_of(self.rows(30, lambda: (self.random.choice([[1], [], None, [1, 2]]),)), "lists", "list[int]"),
        ]

    def rows(self, count: int, values: Any) -> list[Row]:
        """So many rows, whose values a call of ``values`` gives."""
        return [
            Row(
                (self.random.choice(self.keys),),
                self.random.choice([*range(8), None]),
                self.random.choice([None, *range(12)]),
                values(),
            )
            for _ in range(count)
        ]

    def asks(self) -> Asks:
        """Asks of them, some of a key that has no row."""
        rows = [
            Ask((self.random.choice([*self.keys, "nobody"]),), self.random.choice([*range(-1, 13), None]), str(number))
            for number in range(40)
        ]
        return Asks({KEY: pa.string()}, rows)


COLUMNS: dict[str, Any] = {"n": pa.int64(), "x": pa.float32(), "s": pa.string(), "d": pa.decimal128(6, 2)}
AGGREGATIONS: tuple[tuple[str, str | None, str], ...] = (
    ("count", None, "int"),
    ("count", "x", "int"),
    ("count_distinct", "s", "int"),
    ("sum", "n", "int"),
    ("sum", "x", "float"),
    ("sum", "d", "decimal(8,2)"),
    ("mean", "n", "float"),
    ("mean", "x", "float"),
    ("min", "s", "str"),
    ("max", "d", "decimal(6,2)"),
    ("last", "s", "str"),
    ("last_n", "n", "list[int]"),
)


def random_events(random: Random, *, cadence: str, windows: Sequence[str | None], created: bool) -> Events:
    """A view with every function, each over one of these windows, and random events: many late, many at one time."""
    features = [
        Aggregation(
            f"{function}{number}",
            function,
            column=column,
            dtype=dtype,
            window=windows[number % len(windows)],
            n=2 if function == "last_n" else None,
        )
        for number, (function, column, dtype) in enumerate(AGGREGATIONS)
    ]
    source = ParquetSource("events.parquet", created_timestamp=CREATED if created else None)
    rows = [
        Row(
            (random.choice(["a", "b", "ä|", None]),),
            random.choice([*range(25), None]),
            random.choice([None, *range(40)]),
            (
                random.choice([0, 7, -1, 2**53 + 1, None]),
                random.choice([0.1, 0.3, 2.5, -0.7, float("nan"), None]),
                random.choice(["a", "b", "a!", "é", "", None]),
                random.choice([Decimal("1.50"), Decimal("-0.01"), None]),
            ),
        )
        for _ in range(40)
    ]
    return Events(FeatureView("events", USER, source, features, cadence=cadence), COLUMNS, rows)
