# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""The moments at which a prompt may become another one for somebody: at no other does anything that it reads change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import pyarrow as pa
from pyarrow import compute

from llmfeatures import codec, columns
from llmfeatures.clock import from_microseconds, microseconds
from llmfeatures.document_plan import DocumentPlan, Name
from llmfeatures.errors import PromptError, RequestError
from llmfeatures.historical_documents import AsOfRow, HistoricalDocuments, Retrievers
from llmfeatures.plan import FeaturePlan
from llmfeatures.ports import NO_ENTITY, ClockName, DatedDocuments, DatedSources, DocumentStore, OfflineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.slots import slots_at

_pc: Any = compute
MAX_MOMENTS: Final = 1_000_000
"""The most moments that a timeline looks at."""
_LONGEST: Final = 2**60  # microseconds: an age that no two moments have
_MICROSECOND: Final = timedelta(microseconds=1)


def check_timeless(plan: PromptPlan) -> None:
    """Refuse a prompt that is another one at every moment.

    Raises:
        PromptError: it reads ``as_of``, itself, by an on-demand feature or in what it asks for documents; with the
            place.
    """
    why = "and a prompt that reads as_of is another one at every moment, so it has no timeline"
    if "as_of" in plan.template.names:
        path, line, column = plan.template.positions.get("as_of", (plan.path, None, None))
        raise PromptError(f"the template reads as_of here, {why}", path=path, line=line, column=column)
    for one in plan.features.computed:
        if any(argument.source == "as_of" for argument in one.arguments):
            path, line, column = plan.template.positions.get(one.name, (plan.path, None, None))
            raise PromptError(
                f"on-demand feature {one.name!r}, read here, takes as_of, {why}", path=path, line=line, column=column
            )
    for one in plan.documents:
        asked = set(one.query.names if one.query is not None else ())
        asked |= {value.name for value in one.filter.values() if isinstance(value, Name)}
        if "as_of" in asked:
            raise PromptError(f"documents {one.name!r} are asked for by as_of, {why}", path=plan.path)
        for brought in one.brought:
            for ref in brought.features.computed:
                if any(argument.source == "as_of" for argument in ref.arguments):
                    raise PromptError(
                        f"documents {one.name!r} bring the on-demand feature {brought.entity}.{ref.feature}, which "
                        f"takes as_of, {why}",
                        path=plan.path,
                    )


def change_moments(
    offline: OfflineStore,
    plan: PromptPlan,
    keys: Mapping[str, Any],
    inputs: Mapping[str, Any],
    *,
    since: datetime,
    until: datetime,
    clock: ClockName,
    documents: HistoricalDocuments | None = None,
    retrievers: Retrievers | None = None,
) -> pa.Array[Any]:
    """``since``, and each later moment by ``until`` at which something that the prompt reads may become another thing,
    in order: rows that come to win, ages that pass their limit, documents that begin and end, and what happens to the
    features of those that are there.

    Raises:
        RequestError: a store cannot tell when rows or documents changed, or there are more than `MAX_MOMENTS`.
        SourceError: a source is not what the registry says.
        RetrieverError: a retriever did not do what was asked.
    """
    first, last = microseconds(since), microseconds(until)
    dated = [_dated(one, None if retrievers is None else retrievers.store(one.retriever)) for one in plan.documents]
    pieces = [
        pa.array([first], pa.int64()),
        *_changes(offline, plan.features, keys, first, last, clock),
        *_of_documents(plan, keys, dated, first, last),
    ]
    moments = _checked(pieces)
    if documents is None:
        return moments
    # between two of these moments the documents are the same ones
    for brought, entities in documents.brought_keys(_rows_at(offline, plan, keys, inputs, moments, clock)):
        for one in entities:
            pieces += _changes(offline, brought.features, one, first, last, clock)
    return _checked(pieces)


def _changes(
    offline: OfflineStore, features: FeaturePlan, keys: Mapping[str, Any], first: int, last: int, clock: ClockName
) -> Iterator[Any]:
    """The moments after ``first`` and by ``last`` at which a feature may become another thing: rows that come to win,
    and ages that pass their limit."""
    if not isinstance(offline, DatedSources):
        raise RequestError("this offline store cannot tell when rows changed, so there is no timeline of it")
    for lookup, limits in zip(features.lookups, _limits(features), strict=True):
        key = [keys[lookup.keys[name]] for name in lookup.view.entity.join_keys]
        if None in key:
            continue  # nobody: always missing
        found = offline.changes(lookup.view, key, until=from_microseconds(last), clock=clock)
        yield _within(found.column("at").view(pa.int64()), first, last)
        event = _pc.unique(found.column("event").view(pa.int64()))
        for limit in limits:
            # an age that is equal to its limit still counts
            late = _pc.add(event, pa.scalar(min(limit // _MICROSECOND, _LONGEST) + 1, pa.int64()))
            yield _within(late, first, last)


def _dated(plan: DocumentPlan, store: DocumentStore | None) -> DatedDocuments:
    """The store of a prompt's documents, which must know when each of them changed, and find all that there were."""
    if store is not None and store.tier == "exact" and isinstance(store, DatedDocuments):
        return store
    raise RequestError(
        f"documents {plan.name!r}: retriever {plan.retriever.name!r} does not say when its documents changed, so there "
        "is no timeline of prompts with them; the embedded index does ([retrieval] url)"
    )


def _of_documents(
    plan: PromptPlan, keys: Mapping[str, Any], stores: Sequence[DatedDocuments], first: int, last: int
) -> Iterator[Any]:
    """The moments after ``first`` and by ``last`` at which documents begin or end; of those that are for all, every
    one's."""
    for one, store in zip(plan.documents, stores, strict=True):
        entity = NO_ENTITY
        if one.role is not None:
            own = [keys[name] for name in one.role.parameters]
            if None in own:
                continue  # nobody: none
            entity = codec.entity_key(tuple(one.role.entity.join_keys), own)
        yield _within(pa.array(store.boundaries(entity, first, last), pa.int64()), first, last)


def _checked(pieces: Sequence[Any]) -> pa.Array[Any]:
    """The moments in order, each once.

    Raises:
        RequestError: there are too many.
    """
    moments = _pc.unique(pa.concat_arrays(pieces))
    if len(moments) > MAX_MOMENTS:
        raise RequestError(
            f"the prompt may have changed at {len(moments):,} moments, more than the {MAX_MOMENTS:,} that a timeline "
            "looks at; choose a later since"
        )
    return moments.take(_pc.sort_indices(moments)).view(columns.TIMESTAMP)


def _limits(features: FeaturePlan) -> list[set[timedelta]]:
    """Per lookup the limits of age that apply to its rows."""
    limits: list[set[timedelta]] = [set() for _ in features.lookups]
    for ref, (lookup, _) in zip(features.refs, features.lookup_of, strict=True):
        if ref.limit is not None:
            limits[lookup].add(ref.limit)
    for one in features.computed:
        if one.limit is not None:
            for argument in one.arguments:
                if isinstance(argument.source, int):
                    limits[features.lookup_of[argument.source][0]].add(one.limit)
    return limits


def _within(moments: Any, first: int, last: int) -> Any:
    later = _pc.greater(moments, pa.scalar(first, pa.int64()))
    return moments.filter(_pc.and_(later, _pc.less_equal(moments, pa.scalar(last, pa.int64()))))


def _rows_at(
    offline: OfflineStore,
    plan: PromptPlan,
    keys: Mapping[str, Any],
    inputs: Mapping[str, Any],
    moments: pa.Array[Any],
    clock: ClockName,
) -> list[AsOfRow]:
    """What there is to look for documents with at each moment; a moment at which there is no prompt is left out."""
    at = [from_microseconds(one) for one in moments.view(pa.int64()).to_pylist()]
    found = slots_at(offline, plan.features, [keys] * len(at), at, clock)
    return [
        AsOfRow(slots, keys, inputs, moment)
        for row, (slots, moment) in enumerate(zip(found.slots, at, strict=True))
        if row not in found.errors
    ]
