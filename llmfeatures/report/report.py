# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""A report fed with canonical batches as they stream by, and written as one HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute

from llmfeatures.files import replacing
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.report.page import page
from llmfeatures.report.prompts import Prompts
from llmfeatures.report.tally import HOUR, Ages, Coverage, Numbers, Top, shortened

pc: Any = compute

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FeatureTally:
    """What a report knows of one feature. ``dtype`` is its registry type as text, ``limit`` the age that still counts.

    Of the three distributions the one that fits the type is filled: ``top`` of text and bool, ``numbers`` of numbers
    and of the lengths of lists and json, ``span`` the first and last of dates and timestamps.
    """

    def __init__(self, *, name: str, dtype: str, limit: timedelta | None) -> None:
        self.name, self.dtype, self.limit = name, dtype, limit
        self.coverage, self.ages = Coverage(), Ages()
        self.top, self.numbers = Top(), Numbers()
        self.span: tuple[str, str] | None = None

    @property
    def measures(self) -> str:
        """What the distribution is of: ``values``, ``items``, ``characters`` or ``span``."""
        kind = self.dtype.partition("[")[0].partition("(")[0]
        return {"list": "items", "json": "characters", "date": "span", "timestamp": "span"}.get(kind, "values")

    def add(self, hours: Any, at: Any, values: Any, statuses: Any, events: Any) -> None:
        """Count the rows of a batch; ``at`` and ``events`` timestamp[us, UTC]."""
        self.coverage.add(hours, statuses)
        self.ages.add(pc.subtract(at.view(pa.int64()), events.cast(at.type).view(pa.int64())))
        match self.measures:
            case "items":
                self.numbers.add(pc.list_value_length(values))
            case "characters":
                self.numbers.add(pc.utf8_length(values.cast(pa.string())))
            case "span":
                self._add_span(values)
            case _:
                self._add_values(values)

    def _add_values(self, values: Any) -> None:
        held = values.type
        if pa.types.is_integer(held) or pa.types.is_floating(held) or pa.types.is_decimal(held):
            self.numbers.add(values)
            return
        pairs = pc.value_counts(values)
        texts = [one if not isinstance(one, str) else shortened(one) for one in pairs.field(0).to_pylist()]
        self.top.add(zip(texts, pairs.field(1).to_pylist(), strict=True))

    def _add_span(self, values: Any) -> None:
        if values.null_count == len(values):
            return
        bounds = pc.min_max(values)
        low, high = (bounds[end].as_py().isoformat().replace("+00:00", "Z") for end in ("min", "max"))
        self.span = (low, high) if self.span is None else (min(low, self.span[0]), max(high, self.span[1]))


class DocumentTally:
    """What a report knows of the documents of prompts: how many each has, their scores, tiers and ids."""

    def __init__(self) -> None:
        self.each, self.scores = Numbers(), Numbers()
        self.tiers, self.ids = Top(), Top()

    def add(self, documents: Any) -> None:
        """Count the documents of rows that have a prompt."""
        self.each.add(pc.list_value_length(documents))
        found = pc.list_flatten(documents)
        self.scores.add(found.field("score"))
        for top, name in ((self.tiers, "tier"), (self.ids, "id")):
            pairs = pc.value_counts(found.field(name))
            top.add(
                (shortened(one), count)
                for one, count in zip(pairs.field(0).to_pylist(), pairs.field(1).to_pylist(), strict=True)
                if one is not None
            )


class Report:
    """What one history holds, counted batch by batch in bounded memory.

    ``rows`` counts all, also the ``copies`` without a feature that ``without`` asks for; features are those of the
    others, as in `HistorySummary`.

    The same batches give the same bytes. So do other cuts of the same rows, as long as the page says "at least"
    nowhere.

    Args:
        plan: the prompt's plan.
        spine_name: what the rows came from, as a reader would know it: a file's name, or how users were sampled.
        clock: ``known`` or ``event``.
        split: how the rows were split, in words, if they were.
    """

    def __init__(self, plan: PromptPlan, *, spine_name: str, clock: str, split: str | None = None) -> None:
        self.plan, self.spine_name, self.clock, self.split = plan, spine_name, clock, split
        self.rows = self.failed = self.copies = 0
        self.reasons = Top(1_000)
        self.prompts = Prompts()
        self.features: dict[str, FeatureTally] = {}
        self.documents = DocumentTally() if plan.documents else None
        self._first: int | None = None
        self._last: int | None = None

    @property
    def range(self) -> tuple[datetime, datetime] | None:
        """The first and the last moment of the rows, UTC; None where no row has one."""
        if self._first is None or self._last is None:
            return None
        first, last = (_EPOCH + timedelta(microseconds=one) for one in (self._first, self._last))
        return first, last

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a canonical batch."""
        if not batch.num_rows:
            return
        at: Any = batch.column("as_of")
        micros = at.view(pa.int64())
        errors: Any = batch.column("error")
        self.rows += batch.num_rows
        if errors.null_count < len(errors):
            self.failed += len(errors) - errors.null_count
            pairs = pc.value_counts(errors.drop_null())
            self.reasons.add(zip(pairs.field(0).to_pylist(), pairs.field(1).to_pylist(), strict=True))
        bounds = pc.min_max(micros)
        low, high = bounds["min"].as_py(), bounds["max"].as_py()
        if low is not None:
            self._first = low if self._first is None else min(low, self._first)
            self._last = high if self._last is None else max(high, self._last)
        # the parts of an hour before 1970 belong to the hour that they are in: the division rounds to zero
        hours = pc.divide(pc.subtract(micros, pc.if_else(pc.less(micros, 0), HOUR - 1, 0)), HOUR)
        self._add_features(batch, hours, at)
        self.prompts.add(batch.column("prompt_id"), batch.column("messages"))

    def _add_features(self, batch: pa.RecordBatch, hours: Any, at: Any) -> None:
        first = _first_rows(batch)
        if first is not None:
            self.copies += batch.num_rows - first.true_count
            batch, hours, at = batch.filter(first), hours.filter(first), at.filter(first)
        values, statuses, events = (batch.column(name) for name in ("features", "statuses", "timestamps"))
        names = [field.name for field in statuses.type]
        for name in names:
            if name == "_":  # the prompt reads no feature
                continue
            tally = self.features.get(name)
            if tally is None:
                tally = self.features[name] = self._tally(name, values.type.field(name).type)
            tally.add(hours, at, values.field(name), statuses.field(name), events.field(name))
        if self.documents is not None:
            self.documents.add(batch.filter(batch.column("messages").is_valid()).column("documents"))

    def _tally(self, column: str, held: Any) -> FeatureTally:
        for ref in self.plan.features.outputs:
            if ref.column == column:
                return FeatureTally(name=ref.name, dtype=str(ref.dtype), limit=ref.limit)
        kinds = ((pa.types.is_list, "list"), (pa.types.is_date, "date"), (pa.types.is_timestamp, "timestamp"))
        dtype = next((kind for fits, kind in kinds if fits(held)), str(held))
        return FeatureTally(name=column.replace("__", "."), dtype=dtype, limit=None)

    def html(self) -> str:
        """The page."""
        return page(self)

    def write(self, path: str | Path) -> None:
        """Write the page, atomically.

        Raises:
            RequestError: the folder cannot be written.
        """
        with replacing(Path(path)) as part:
            part.write_text(self.html(), encoding="utf-8", newline="\n")


def _first_rows(batch: pa.RecordBatch) -> Any:
    """Which rows are no copy without a feature, as bool; None where there are no copies.

    A copy says so in its ``metadata``, ``pair`` and ``without``, and in its id; a spine's own columns of these names
    are no copies.
    """
    metadata: Any = batch.column("metadata")
    names = [field.name for field in metadata.type]
    if "pair" not in names or "without" not in names:
        return None
    pair, without = metadata.field("pair"), metadata.field("without")
    if not pa.types.is_string(pair.type) or not pa.types.is_string(without.type):
        return None
    copied = pc.equal(batch.column("id"), pc.binary_join_element_wise(pair, without, "-without-"))
    return pc.invert(pc.fill_null(copied, fill_value=False))


def reported(batches: Iterable[pa.RecordBatch], report: Report) -> Iterator[pa.RecordBatch]:
    """The batches as they come, each counted by the report on its way."""
    for batch in batches:
        report.add(batch)
        yield batch
