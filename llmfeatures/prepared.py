# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""A given spine prepared for a history: its rows drawn, its target named or its labels taken, at each reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from llmfeatures.errors import RequestError, SpineError, did_you_mean
from llmfeatures.labels import Label, LabelCounts, labelled
from llmfeatures.ports import TARGET, ClockName, OfflineStore
from llmfeatures.sample import check_count, sampled
from llmfeatures.types import DType


def renamed(
    offline: OfflineStore, spine: object, column: str, *, dtypes: Mapping[str, DType] | None = None
) -> pa.RecordBatchReader:
    """The spine with the column of this name called ``target``.

    Raises:
        SpineError: there is no such column, or one named ``target`` already.
    """
    reader = offline.read_spine(spine, dtypes)
    names = list(reader.schema.names)
    if column == TARGET and TARGET in names:
        return reader
    if column not in names:
        raise SpineError(f"the spine has no column {column!r} for the target{did_you_mean(column, names)}")
    if TARGET in names:
        raise SpineError(f"the spine has a column 'target' already, so {column!r} cannot be it; rename one")
    called = [TARGET if name == column else name for name in names]
    fields = [field.with_name(name) for field, name in zip(reader.schema, called, strict=True)]
    schema = pa.schema(fields)
    return pa.RecordBatchReader.from_batches(
        schema, (pa.RecordBatch.from_arrays(list(batch.columns), schema=schema) for batch in reader)
    )


class PreparedSpine:
    """A given spine with its rows drawn, its target named or its labels taken, anew at each reading.

    It is an Arrow stream for whoever reads it, and holds nothing. ``source`` is the given spine; `counts` are the
    labels' of the last reading. ``recipe`` says what is done to the source, as JSON, and ``views`` what is read for it;
    labels past ``now`` are null.
    """

    def __init__(
        self,
        spine: object,
        read: Callable[[LabelCounts, datetime], pa.RecordBatchReader],
        label: Label | None = None,
        *,
        now: datetime,
        recipe: Mapping[str, Any],
        last: list[LabelCounts] | None = None,
    ) -> None:
        self.source = spine
        self._last = [LabelCounts()] if last is None else last
        self.now, self.recipe = now, recipe
        self.views = () if label is None else (label.ref.view,)
        self._label = label
        self._once = isinstance(spine, pa.RecordBatchReader)
        self._read = read
        self._spent = False

    def reader(self) -> pa.RecordBatchReader:
        """The rows.

        Raises:
            SpineError: the spine cannot be read, or not again, or lacks a column.
        """
        if self._spent and self._once:
            raise SpineError("this spine can be read once only, and was; give a table or a path to read it again")
        self._spent = True
        self._last[0] = LabelCounts()
        return self._read(self._last[0], self.now)

    def at(self, now: datetime) -> PreparedSpine:
        """The same as of another present moment. The two share the counts of the last reading of either."""
        return PreparedSpine(self.source, self._read, self._label, now=now, recipe=self.recipe, last=self._last)

    @property
    def counts(self) -> LabelCounts:
        """What became of the labels at the last reading, complete once it came to its end. With a sample that is drawn
        by the label, they are of the rows that it is drawn from."""
        return self._last[0]

    @property
    def labels(self) -> Mapping[str, Any] | None:
        """`counts` and `note` as JSON; None where there is no label. May be set to those of an earlier reading."""
        return None if self._label is None else {**asdict(self.counts), "note": self.note()}

    @labels.setter
    def labels(self, earlier: Mapping[str, Any] | None) -> None:
        known = earlier or {}
        self._last[0] = LabelCounts(**{one.name: known.get(one.name, 0) for one in fields(LabelCounts)})

    def note(self) -> str | None:
        """What there is to say of the labels once all was read: how many are null, and why. None when none is."""
        said = None if self._label is None else self.counts.note(self._label)
        drawn_after = self.recipe.get("sample") is not None and self.recipe.get("stratify") == TARGET
        return f"{said} (before the sample was drawn)" if said and drawn_after else said

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.reader().__arrow_c_stream__(requested_schema)


def prepared(
    offline: OfflineStore,
    spine: object,
    *,
    dtypes: Mapping[str, DType],
    now: datetime,
    clock: ClockName,
    target: str | None = None,
    label: Label | None = None,
    sample: int | None = None,
    stratify: str | None = None,
    seed: int = 0,
) -> PreparedSpine:
    """A spine with the target that is asked for and, of its rows, a sample. Nothing is read yet.

    ``stratify="target"`` means the column that ``target`` names, or the label.

    Raises:
        RequestError: options that do not go together.
    """
    if target is not None and label is not None:
        raise RequestError("target names a column and label takes a feature's value as the target; give one of them")
    if sample is not None:
        check_count("sample", sample)
    elif stratify is not None:
        raise RequestError("stratify says how a sample is drawn; give sample too")
    types = {**dtypes, **({} if target is None else {target: DType("str")})}
    last = label is not None and stratify == TARGET
    stratum = target if target is not None and stratify == TARGET else stratify

    def read(counts: LabelCounts, now: datetime) -> pa.RecordBatchReader:
        rows: Any = spine
        if sample is not None and not last:
            rows = sampled(offline, rows, rows=sample, stratify=stratum, seed=seed, dtypes=types)
        if target is not None:
            rows = renamed(offline, rows, target, dtypes=types)
        if label is not None:
            rows = labelled(offline, rows, label, now=now, clock=clock, counts=counts, dtypes=types)
        if sample is not None and last:
            rows = sampled(offline, rows, rows=sample, stratify=stratum, seed=seed, dtypes=types)
        return offline.read_spine(rows, types)

    recipe: dict[str, Any] = {"target": target, "sample": sample, "stratify": stratify, "seed": seed, "clock": clock}
    if label is not None:
        recipe["label"] = [label.ref.name, label.ref.feature, str(label.ref.limit), str(label.ahead)]
    return PreparedSpine(spine, read, label, now=now, recipe=recipe)
