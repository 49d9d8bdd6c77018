# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Two versions of a prompt over the rows of one spine: what either needs is joined once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import tee
from typing import Any, NamedTuple

import pyarrow as pa

from llmfeatures import columns
from llmfeatures.errors import RequestError
from llmfeatures.historical_documents import DocumentsOf
from llmfeatures.history_rows import HistoryRows, HistorySummary
from llmfeatures.ports import ClockName, FoundColumns, Joined, Lookup, OfflineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.types import DType


class Sides(NamedTuple):
    """The rows of a batch, as `History` gives them, by the old and by the new version."""

    old: pa.RecordBatch
    new: pa.RecordBatch


def both(
    offline: OfflineStore,
    old: PromptPlan,
    new: PromptPlan,
    spine: object,
    *,
    clock: ClockName,
    documents: DocumentsOf,
    inputs: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
) -> Iterator[Sides]:
    """Each batch of the spine's rows by both versions.

    ``documents`` finds those of a version; ``inputs`` are constants by side: canonical values of inputs that the spine
    has no column for.

    Raises:
        SpineError: the spine cannot be read, or lacks a column.
        SourceError: a source is not what the registry says.
        RetrieverError: a retriever did not do what was asked.
    """
    lookups = union((*old.features.lookups, *new.features.lookups))
    joined = offline.join(spine, lookups, clock=clock, dtypes=spine_dtypes(old, new, {*inputs[0], *inputs[1]}))
    first, second = tee(joined)
    befores = _rows(old, clock, documents).batches(_own(one, old, lookups, inputs[0]) for one in first)
    afters = _rows(new, clock, documents).batches(_own(one, new, lookups, inputs[1]) for one in second)
    for before, after in zip(befores, afters, strict=True):
        yield Sides(before, after)


def one(
    offline: OfflineStore,
    plan: PromptPlan,
    spine: object,
    *,
    clock: ClockName,
    documents: DocumentsOf,
    inputs: Mapping[str, Any],
) -> Iterator[pa.RecordBatch]:
    """The rows of one version alone. Raises as `both`."""
    lookups = union(plan.features.lookups)
    joined = offline.join(spine, lookups, clock=clock, dtypes=plan.parameters)
    yield from _rows(plan, clock, documents).batches(_own(batch, plan, lookups, inputs) for batch in joined)


def _rows(plan: PromptPlan, clock: ClockName, documents: DocumentsOf) -> HistoryRows:
    summary = HistorySummary(statuses={ref.name: Counter() for ref in plan.features.outputs})
    return HistoryRows(plan, clock, summary, documents(plan))


def spine_dtypes(old: PromptPlan, new: PromptPlan, apart: Collection[str] = ()) -> dict[str, DType]:
    """What a file without types must be read as; the inputs ``apart`` are no columns of it.

    Raises:
        RequestError: an input has another dtype in the new version, so that no column is both.
    """
    for name, dtype in old.parameters.items():
        if name in new.parameters and new.parameters[name] != dtype and name not in apart:
            raise RequestError(
                f"{name} is {dtype} in the old version and {new.parameters[name]} in the new one, so no column of a "
                f"spine is both; leave it out of the spine, and give it as an input"
            )
    return {**old.parameters, **new.parameters, "id": DType("str"), "target": DType("str")}


def union(lookups: tuple[Lookup, ...]) -> tuple[Lookup, ...]:
    """The lookups that bring what any of them brings, one per view and keys."""
    made: dict[tuple[str, tuple[tuple[str, str], ...]], Lookup] = {}
    for one in lookups:
        key = one.view.name, tuple(one.keys.items())
        known = made.get(key)
        features = one.features if known is None else tuple(dict.fromkeys((*known.features, *one.features)))
        made[key] = replace(one, features=features)
    return tuple(made.values())


def _own(joined: Joined, plan: PromptPlan, lookups: tuple[Lookup, ...], inputs: Mapping[str, Any]) -> Joined:
    """What one version reads of the joined rows."""
    place = {(one.view.name, tuple(one.keys.items())): at for at, one in enumerate(lookups)}
    found: list[FoundColumns] = []
    for one in plan.features.lookups:
        at = place[one.view.name, tuple(one.keys.items())]
        whole, brought = joined.found[at], lookups[at].features
        found.append(replace(whole, columns=tuple(whole.columns[brought.index(name)] for name in one.features)))
    spine = joined.spine
    for name, value in inputs.items():
        if name in spine.schema.names:
            raise RequestError(f"{name} is a column of the spine and also given as an input; leave one of them out")
        made = columns.array_of(plan.inputs[name].dtype, [value])
        column = made.take(pa.repeat(pa.scalar(0, pa.int64()), spine.num_rows))
        spine = spine.append_column(name, column)
    return Joined(spine=spine, at=joined.at, found=tuple(found))
