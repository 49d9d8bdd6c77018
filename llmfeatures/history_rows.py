# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""The canonical rows of a history: batches of a join as ids, prompts, features and the spine's own columns."""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa
from pyarrow import compute

from llmfeatures import columns
from llmfeatures.digests import Digester
from llmfeatures.document_rows import DOCUMENTS, DocumentRenderer, DocumentRows
from llmfeatures.errors import InvalidValueError, RequestError, SpineError, did_you_mean
from llmfeatures.export.lines import DOCUMENTS as DOCUMENTS_NAMES
from llmfeatures.historical_documents import HistoricalDocuments
from llmfeatures.ports import EVENT_TIMESTAMP, ClockName, Joined
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.file import ABSENT
from llmfeatures.rows import Column, Pairs, Renderer, computed_columns, invalid_rows, settled_columns
from llmfeatures.types import DType, text

pc: Any = compute

FORMAT = 1
"""The number of the canonical row layout, in the schema's metadata as ``llmfeatures.format``."""
_WRITTEN = ("date", "timestamp", "decimal", "list")
"""Join keys and inputs that a spine may have as text, since files of text have no other way."""
_AHEAD = 1
"""So many batches may be rendered, and as many hashed, before the caller asks for them."""
_COUNTED = ("statuses", "documents")
_NOTHING = pa.struct([("_", pa.bool_())])
"""Parquet has no struct without fields: where a prompt has none, a null struct with one unused field stands in."""


@dataclass(slots=True, kw_only=True)
class HistorySummary:
    """Counts of a history, complete once its rows were all read.

    ``hidden`` counts values that the clock ``event`` would give and ``known`` hides; ``statuses`` counts per feature.
    ``resumed`` of the rows were done by an earlier run that was interrupted. ``labels`` counts what became of the
    targets where a label was asked for: ``present`` have one; ``absent``, ``later``, ``invalid`` and ``undated`` are
    null, and ``note`` is a sentence about them, None when there is none. See `llmfeatures.spine.LabelCounts`.
    ``documents`` counts, per name of documents, those in prompts by tier, and the prompts ``without`` any.
    """

    rows: int = 0
    errors: int = 0
    hidden: int = 0
    first_error: str | None = None
    statuses: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    resumed: int = 0
    labels: Mapping[str, Any] | None = None
    documents: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])

    def as_json(self) -> dict[str, Any]:
        """The counts as JSON takes them."""
        counts = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**counts, **{kind: {name: dict(one) for name, one in counts[kind].items()} for kind in _COUNTED}}

    @classmethod
    def of_json(cls, counts: Mapping[str, Any]) -> HistorySummary:
        """What `as_json` made."""
        made = dict(counts)
        for kind in _COUNTED:
            made[kind] = {name: Counter[str](one) for name, one in made.get(kind, {}).items()}
        return cls(**made)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """A batch whose ids are being made: the numbers of its rows, canonical join keys and inputs, and which rows
    have no prompt."""

    joined: Joined
    numbers: Sequence[int]
    given: Mapping[str, pa.Array[Any]]
    bad: Mapping[int, str]
    ids: Future[pa.Array[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    """A batch of rows, not counted yet; ``settled`` are the columns of its features, ``documents`` counts."""

    batch: pa.RecordBatch
    settled: Sequence[Column]
    begun: _Begun
    documents: Mapping[str, Counter[str]]


class HistoryRows:
    """Turns batches of a join into canonical rows. A prompt with documents needs what finds them."""

    def __init__(
        self,
        plan: PromptPlan,
        clock: ClockName,
        summary: HistorySummary,
        documents: HistoricalDocuments | None,
        without: tuple[str, ...] = (),
        first: int = 0,
    ) -> None:
        self.plan, self.clock, self.summary, self.without = plan, clock, summary, without
        self._number = first
        self._renderer = Renderer(plan) if documents is None else DocumentRenderer(plan, documents)
        self._digester = Digester()
        self._beside = ThreadPoolExecutor(1, "llmfeatures-ids")
        self._renders = ThreadPoolExecutor(1, "llmfeatures-render")
        self._optional = [name for name, one in plan.inputs.items() if one.default is None]
        self._metadata = {"llmfeatures.format": str(FORMAT)}
        if plan.documents:
            self._metadata[DOCUMENTS_NAMES] = ",".join(one.name for one in plan.documents)
        self._own = (*plan.parameters, EVENT_TIMESTAMP, "id", "target")

    def batches(self, joins: Iterable[Joined]) -> Iterator[pa.RecordBatch]:
        """A batch of rows per batch of the join.

        While one is used, the next ones are rendered, and the ids of those after them are hashed: much of both needs no
        interpreter. Functions of on-demand features and of retrievers are called in the caller's thread.
        """
        begun: deque[_Begun] = deque()
        rendering: deque[Future[_Finished]] = deque()
        for joined in joins:
            begun.append(self._begin(joined))
            if len(begun) > _AHEAD:
                rendering.append(self._rendering(begun.popleft()))
            if len(rendering) > _AHEAD:
                yield self._counted(rendering.popleft().result())
        rendering.extend(map(self._rendering, begun))
        for one in rendering:
            yield self._counted(one.result())

    def _rendering(self, begun: _Begun) -> Future[_Finished]:
        if not self.plan.features.computed and not self.plan.documents:
            return self._renders.submit(self._finish, begun)
        done: Future[_Finished] = Future()
        done.set_result(self._finish(begun))
        return done

    def batch(self, joined: Joined, numbers: Sequence[int], refused: str | None) -> pa.RecordBatch:
        """A batch of rows of these numbers; with ``refused``, why none of them has a prompt."""
        return self._counted(self._finish(self._begin(joined, numbers, refused)))

    def _begin(self, joined: Joined, numbers: Sequence[int] | None = None, refused: str | None = None) -> _Begun:
        spine, at = joined.spine, joined.at
        if numbers is None:
            numbers = range(self._number, self._number + spine.num_rows)
            self._number += spine.num_rows
        _check_names(spine.schema.names, ("pair", "without") if self.without else ())
        bad: dict[int, str] = {}
        given = self._given(spine, bad)
        for row in pc.indices_nonzero(at.is_null()).to_pylist():
            bad.setdefault(row, "event_timestamp is null")
        if refused is not None:
            bad = dict.fromkeys(range(spine.num_rows), refused) | bad
        if self.plan.features.computed:  # no function sees an input that the prompt refuses
            bad.update({row: reason for row, reason in _refused(self.plan, given).items() if row not in bad})
        ids = self._beside.submit(self._ids, spine, given, at, numbers)
        return _Begun(joined=joined, numbers=numbers, given=given, bad=bad, ids=ids)

    def _finish(self, begun: _Begun) -> _Finished:
        plan, joined, given, bad = self.plan, begun.joined, begun.given, begun.bad
        spine, at = joined.spine, joined.at
        settled = settled_columns(plan.features, joined)
        errors = {**bad, **invalid_rows(plan.features, joined)}
        paired: Pairs | None = None
        metadata = {name: spine.column(name) for name in spine.schema.names if name not in self._own}
        target = _target(spine)
        if self.without:
            paired = Pairs(plan.features, joined, self.without)
            settled, errors = paired.columns(settled), paired.errors(bad)
            given = {name: paired.repeated(column) for name, column in given.items()}
            metadata = {name: paired.repeated(column) for name, column in metadata.items()}
            metadata |= {"pair": paired.repeated(begun.ids.result()), "without": paired.names}
            at, target = paired.repeated(at), paired.repeated(target)
        withheld = None if paired is None else paired.withheld_rows
        settled += computed_columns(plan.features, settled, given, at, errors, self._optional, withheld)
        rows = len(at)
        made = self._rendered(settled, given, at, errors)
        rendered = made.rendered
        refs = [ref.column for ref in plan.features.outputs]
        arrays = {
            "id": begun.ids.result() if paired is None else paired.ids(begun.ids.result()),
            "prompt": pa.repeat(pa.scalar(plan.name, pa.string()), rows),
            "version": pa.repeat(pa.scalar(plan.version, pa.string()), rows),
            "prompt_id": rendered.prompt_id,
            "as_of": at.cast(columns.TIMESTAMP),
            "clock": pa.repeat(pa.scalar(self.clock, pa.string()), rows),
            "entity": _struct({name: given[name] for name in plan.features.parameters}, rows),
            "inputs": _struct({name: given[name] for name in plan.inputs}, rows),
            "messages": rendered.messages,
            "features": _struct({name: one.values for name, one in zip(refs, settled, strict=True)}, rows),
            "statuses": _struct({name: one.statuses for name, one in zip(refs, settled, strict=True)}, rows),
            "timestamps": _struct({name: one.event for name, one in zip(refs, settled, strict=True)}, rows),
            "documents": made.documents,
            "target": target,
            "metadata": _struct(metadata, rows),
            "error": rendered.error,
        }
        schema = pa.schema(
            [pa.field(name, array.type) for name, array in arrays.items()],
            metadata=self._metadata,
        )
        batch = pa.RecordBatch.from_arrays(list(arrays.values()), schema=schema)
        return _Finished(batch=batch, settled=settled, begun=begun, documents=made.counts)

    def _rendered(
        self, settled: Sequence[Column], given: Mapping[str, pa.Array[Any]], at: Any, errors: Mapping[int, str]
    ) -> DocumentRows:
        if isinstance(self._renderer, DocumentRenderer):
            return self._renderer.render(settled, given, at, errors, every=1 + len(self.without))
        rendered = self._renderer.render(settled, given, at, errors)
        return DocumentRows(rendered=rendered, documents=pa.array([[]] * len(at), DOCUMENTS), counts={})

    def _given(self, spine: pa.RecordBatch, errors: dict[int, str]) -> dict[str, pa.Array[Any]]:
        """The join keys and inputs of each row, canonical columns."""
        plan = self.plan
        given: dict[str, pa.Array[Any]] = {}
        for name, dtype in plan.parameters.items():
            if name not in spine.schema.names:
                default = plan.inputs[name].default if name in plan.inputs else ABSENT
                if default is ABSENT:
                    raise SpineError(
                        f"the spine has no column {name!r}, which prompt {plan.name!r} needs"
                        f"{did_you_mean(name, spine.schema.names)}"
                    )
                given[name] = columns.array_of(dtype, [default] * spine.num_rows)
                continue
            given[name] = canonical_column(name, dtype, spine.column(name), errors)
        return given

    def _counted(self, finished: _Finished) -> pa.RecordBatch:
        """The batch, now that it is handed out and counts."""
        summary, begun, errors = self.summary, finished.begun, finished.batch.column("error")
        summary.rows += len(errors)
        failed = len(errors) - errors.null_count
        summary.errors += failed
        if failed and summary.first_error is None:
            row = pc.index(errors.is_valid(), pa.scalar(value=True)).as_py()
            number = begun.numbers[row // (1 + len(self.without))]
            summary.first_error = f"row {number}: {errors[row].as_py()}"
        for name, counts in finished.documents.items():
            summary.documents.setdefault(name, Counter()).update(counts)
        for index, (ref, column) in enumerate(zip(self.plan.features.outputs, finished.settled, strict=True)):
            summary.statuses[ref.name].update(column.counts(every=1 + len(self.without)))
            if index >= len(self.plan.features.refs):
                continue  # hidden values are counted where they are stored
            hidden = begun.joined.found[self.plan.features.lookup_of[index][0]].hidden
            summary.hidden += 0 if hidden is None else hidden.true_count
        return finished.batch

    def _ids(
        self, spine: pa.RecordBatch, given: Mapping[str, pa.Array[Any]], at: pa.Array[Any], numbers: Sequence[int]
    ) -> pa.Array[Any]:
        """The spine's ids, and where it has none the hash of prompt, entity, as_of and row number."""
        own = _as_text("id", spine.column("id")) if "id" in spine.schema.names else None
        if own is not None and not own.null_count:
            return own
        parameters = self.plan.features.parameters
        keys = [_json_texts(dtype, given[name]) for name, dtype in parameters.items()]
        entity = pc.binary_join_element_wise(*keys, ", ") if keys else pa.repeat(pa.scalar("", pa.string()), len(at))
        counted = pa.array(numbers, pa.int64()).cast(pa.string())
        head = f"[{json.dumps(self.plan.name)}, ["
        written = pc.binary_join_element_wise(head, entity, "], ", _moment_texts(at), ", ", counted, "]", "")
        hashed = self._digester.sha256(written, 32)
        return hashed if own is None else pc.coalesce(own, hashed)


def _refused(plan: PromptPlan, given: Mapping[str, pa.Array[Any]]) -> dict[int, str]:
    """The rows with an input that is too long, and why."""
    errors: dict[int, str] = {}
    for name, one in plan.inputs.items():
        if one.max_chars is None:
            continue
        for row, value in enumerate(columns.python_values(one.dtype, given[name])):
            if value is not None and len(value) > one.max_chars:
                values = {name: given[name][row].as_py() for name in plan.inputs if name != one.name}
                try:
                    plan.bind_inputs({**values, name: value})
                except RequestError as error:
                    errors.setdefault(row, str(error))
    return errors


def _json_texts(dtype: DType, array: pa.Array[Any]) -> pa.Array[Any]:
    """The canonical text of each value as JSON, ``null`` for none; distinct values once."""
    if dtype.kind in ("str", "enum") and not pc.any(pc.match_substring_regex(array, r"[^ !#-\[\]-~]")).as_py():
        return pc.coalesce(pc.binary_join_element_wise('"', array, '"', ""), pa.scalar("null"))
    encoded = array.dictionary_encode(null_encoding="encode")
    values = columns.python_values(dtype, encoded.dictionary)
    texts = ["null" if value is None else json.dumps(text(value)) for value in values]
    return pa.array(texts, pa.string()).take(encoded.indices)


def _moment_texts(at: pa.Array[Any]) -> pa.Array[Any]:
    """The canonical text of each moment as JSON, ``null`` for none."""
    seconds = at.cast(pa.timestamp("s"), safe=False)
    if pc.all(pc.equal(seconds.cast(pa.timestamp("us")), at.cast(pa.timestamp("us")))).as_py():
        written = pc.replace_substring(seconds.cast(pa.string()), " ", "T")
        return pc.coalesce(pc.binary_join_element_wise('"', written, 'Z"', ""), pa.scalar("null"))
    whole = pc.replace_substring(columns.stamp_texts(at), ".000000Z", "Z")
    return pc.coalesce(pc.binary_join_element_wise('"', whole, '"', ""), pa.scalar("null"))


def canonical_column(name: str, dtype: DType, array: pa.Array[Any], errors: dict[int, str]) -> pa.Array[Any]:
    """A join key or input of a spine as a canonical column; why a row has none goes to ``errors``.

    Raises:
        SpineError: the column has a type of another class.
    """
    problem = None if pa.types.is_null(array.type) else columns.problem(dtype, array.type)
    if problem is not None and dtype.kind in _WRITTEN and columns.problem(DType("str"), array.type) is None:
        return columns.array_of(
            dtype, [_parsed(name, dtype, one, row, errors) for row, one in enumerate(array.to_pylist())]
        )
    if problem is not None:
        raise SpineError(f"the spine's column {name!r}: {problem.partition(';')[0]}; give it that type")
    made = columns.canonical(dtype, array)
    for row, reason in made.invalid.items():
        errors.setdefault(row, f"{name}: {reason}")
    return made.array


def _parsed(name: str, dtype: DType, written: str | None, row: int, errors: dict[int, str]) -> Any:
    try:
        return None if written is None else dtype.parse(written)
    except InvalidValueError as error:
        errors.setdefault(row, f"{name}: {error}")
        return None


def _struct(fields: Mapping[str, pa.Array[Any]], rows: int) -> pa.Array[Any]:
    if not fields:
        return pa.nulls(rows, _NOTHING)
    return pa.StructArray.from_arrays(list(fields.values()), names=list(fields))


def _target(spine: pa.RecordBatch) -> pa.Array[Any]:
    """The spine's ``target`` as text: canonical text of a value, so that an eval compares what a prompt would print."""
    if "target" not in spine.schema.names:
        return pa.nulls(spine.num_rows, pa.string())
    return _as_text("target", spine.column("target"))


def _as_text(name: str, column: pa.Array[Any]) -> pa.Array[Any]:
    """A column of the spine as canonical text: what a prompt would print."""
    if pa.types.is_string(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    try:
        return pa.array([None if _is_no_value(one) else text(one) for one in column.to_pylist()], pa.string())
    except InvalidValueError as error:
        raise SpineError(f"the spine's column {name!r} has no text form ({error}); cast it to text") from None


def _is_no_value(value: Any) -> bool:
    """Null, and a number that is not finite, which is null everywhere."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _check_names(names: Sequence[str], added: Sequence[str] = ()) -> None:
    for name in added:
        if name in names:
            raise SpineError(f"the spine has a column {name!r}, which paired rows add; rename the spine's column")
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise SpineError(f"the spine has more than one column {doubled[0]!r}; rename one")
