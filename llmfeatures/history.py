# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""History: features and finished prompts as they would have been at each moment of a spine, streamed batch by batch."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
from pyarrow import compute

from llmfeatures import columns
from llmfeatures.context import FeatureValue
from llmfeatures.digests import Digester
from llmfeatures.errors import InvalidValueError, RenderError, RequestError, SourceError, SpineError, did_you_mean
from llmfeatures.export.partial import Journal, Partial, partial
from llmfeatures.export.writing import (
    ResumableExporter,
    Writing,
    format_of,
    index_path,
    part_paths,
    parts_of,
    shares,
    write_parts,
)
from llmfeatures.files import check_place
from llmfeatures.identity import MadeSpine, made_of
from llmfeatures.plan import FeaturePlan, PromptPlan
from llmfeatures.ports import ClockName, Exporter, Joined, JoinStep, OfflineStore
from llmfeatures.prompts.file import ABSENT
from llmfeatures.protected import check_outputs
from llmfeatures.remaining import remaining
from llmfeatures.report import Report, reported
from llmfeatures.report.origin import spine_name
from llmfeatures.rows import Column, Pairs, Renderer, computed_columns, invalid_rows, settled_columns
from llmfeatures.sample import known_rows
from llmfeatures.types import DType, text

pc: Any = compute

FORMAT = 1
"""The number of the canonical row layout, in the schema's metadata as ``llmfeatures.format``."""
TIMESTAMP = pa.timestamp("us", "UTC")
EVENT_TIMESTAMP = "event_timestamp"
_DOCUMENTS = pa.list_(
    pa.struct([("id", pa.string()), ("version", pa.string()), ("score", pa.float64()), ("tier", pa.string())])
)
_WRITTEN = ("date", "timestamp", "decimal", "list")
"""Join keys and inputs that a spine may have as text, since files of text have no other way."""
_NOTHING = pa.struct([("_", pa.bool_())])
"""Parquet has no struct without fields: where a prompt has none, a null struct with one unused field stands in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRows:
    """A batch of a join as a plan's slots: one list of feature values per row, before limits, and why a row cannot be
    used."""

    slots: list[list[FeatureValue]]
    errors: dict[int, str]


def found_rows(plan: FeaturePlan, joined: Joined) -> FoundRows:
    """The slots of each row of a batch."""
    events = [columns.moments(found.event) for found in joined.found]
    per_ref: list[list[FeatureValue]] = []
    for ref, (lookup, column) in zip(plan.refs, plan.lookup_of, strict=True):
        values = columns.python_values(ref.dtype, joined.found[lookup].columns[column])
        per_ref.append([_value(value, event) for value, event in zip(values, events[lookup], strict=True)])
    errors = invalid_rows(plan, joined)
    rows = joined.spine.num_rows
    slots = [list(one) for one in zip(*per_ref, strict=True)] if per_ref else [[] for _ in range(rows)]
    return FoundRows(slots=slots, errors=errors)


def _value(value: Any, event: datetime | None) -> FeatureValue:
    if event is None:
        return FeatureValue(None, "missing", None)
    return FeatureValue(value, "null" if value is None else "present", event)


def historical_features(
    offline: OfflineStore, plan: FeaturePlan, spine: object, *, clock: ClockName, statuses: bool
) -> pa.RecordBatchReader:
    """The spine's columns and one per feature, row for row in the spine's order; null where it is not present.

    Raises:
        SpineError: the spine lacks a column, or has one named like a feature.
        SourceError: a source is not what the registry says, or a row holds an invalid value.
    """
    dtypes = {**plan.parameters, **plan.inputs} if plan.computed else None
    batches = _feature_batches(plan, offline.join(spine, plan.lookups, clock=clock, dtypes=dtypes), statuses)
    first = next(batches)
    return pa.RecordBatchReader.from_batches(first.schema, _chain(first, batches))


def _chain(first: pa.RecordBatch, rest: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _feature_batches(plan: FeaturePlan, joins: Iterable[Joined], statuses: bool) -> Iterator[pa.RecordBatch]:
    number = 0
    for joined in joins:
        yield _feature_batch(plan, joined, statuses, number)
        number += joined.spine.num_rows


def _feature_batch(plan: FeaturePlan, joined: Joined, statuses: bool, number: int) -> pa.RecordBatch:
    errors = invalid_rows(plan, joined)
    if errors:
        row, reason = min(errors.items())
        raise SourceError(f"row {number + row} of the spine: {reason}; correct the source, or leave the feature out")
    spine = joined.spine
    arrays, names = list(spine.columns), list(spine.schema.names)
    settled = settled_columns(plan, joined)
    settled += _computed(plan, settled, joined, number)
    for place in plan.asked:
        ref, column = plan.outputs[place], settled[place]
        added = {ref.column: column.values}
        if statuses:
            added[f"{ref.column}__status"] = column.statuses
            added[f"{ref.column}__event_timestamp"] = column.event
        for name, array in added.items():
            if name in names:
                raise SpineError(
                    f"the spine has a column {name!r}, as a requested feature has; rename the spine's column"
                )
            names.append(name)
            arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _computed(plan: FeaturePlan, settled: Sequence[Column], joined: Joined, number: int) -> list[Column]:
    """The columns of on-demand features with no prompt around them; their inputs are columns of the spine."""
    if not plan.computed:
        return []
    errors: dict[int, str] = {}
    given: dict[str, pa.Array[Any]] = {}
    for name, dtype in {**plan.parameters, **plan.inputs}.items():
        if name not in joined.spine.schema.names:
            raise SpineError(
                f"the spine has no column {name!r}, which an on-demand feature needs"
                f"{did_you_mean(name, joined.spine.schema.names)}"
            )
        given[name] = _canonical(name, dtype, joined.spine.column(name), errors)
        if name in plan.inputs:
            for row in pc.indices_nonzero(given[name].is_null()).to_pylist():
                errors.setdefault(row, f"input {name!r} of an on-demand feature is null")
    made = computed_columns(plan, settled, given, joined.at, errors)
    if errors:
        row, reason = min(errors.items())
        raise RenderError(f"row {number + row} of the spine: {reason}")
    return made


@dataclass(slots=True, kw_only=True)
class HistorySummary:
    """Counts of a history, complete once its rows were all read.

    ``hidden`` counts values that the clock ``event`` would give and ``known`` hides; ``statuses`` counts per feature.
    ``resumed`` of the rows were done by an earlier run that was interrupted. ``labels`` counts what became of the
    targets where a label was asked for: ``present`` have one; ``absent``, ``later``, ``invalid`` and ``undated`` are
    null, and ``note`` is a sentence about them, None when there is none. See `llmfeatures.spine.LabelCounts`.
    """

    rows: int = 0
    errors: int = 0
    hidden: int = 0
    first_error: str | None = None
    statuses: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    resumed: int = 0
    labels: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The counts as JSON takes them."""
        counts = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**counts, "statuses": {name: dict(counted) for name, counted in self.statuses.items()}}

    @classmethod
    def of_json(cls, counts: Mapping[str, Any]) -> HistorySummary:
        """What `as_json` made."""
        made = dict(counts)
        made["statuses"] = {name: Counter[str](counted) for name, counted in counts["statuses"].items()}
        return cls(**made)


@runtime_checkable
class LabelledSpine(MadeSpine, Protocol):
    """A made spine that counts its labels: ``labels`` of the last reading, as `HistorySummary.labels`."""

    labels: Mapping[str, Any] | None


class History:
    """Historical prompts: an iterable of record batches, exactly one row per spine row, in the spine's order.

    The columns are ``id, prompt, version, prompt_id, as_of, clock, entity, inputs, messages, features, statuses,
    timestamps, documents,
    target, metadata, error``. A row whose prompt cannot be built has null messages and the reason in ``error``.
    Nothing is read
    before it is asked for. A spine that can be read once only, such as a RecordBatchReader, gives one iteration.

    With ``without``, each row of the spine gives the row itself and then, per feature named there, the row with that
    feature read as missing. Such a row's id is ``ID-without-NAME``; ``metadata`` says the first row's id as ``pair``,
    and as ``without`` null or the name. `summary` then counts all rows and errors, but the statuses of first rows only.

    Once `write` was interrupted, ``kept`` is how many rows the next call need not do again.

    Raises:
        RequestError: ``without`` names what is no feature of the prompt, or a feature twice.
    """

    def __init__(
        self,
        plan: PromptPlan,
        spine: object,
        *,
        offline: OfflineStore,
        clock: ClockName,
        exporters: Mapping[str, Exporter],
        without: str | Sequence[str] = (),
        protected: Mapping[Path, str] | None = None,
    ) -> None:
        self.plan = plan
        self.without = _withheld(plan, (without,) if isinstance(without, str) else tuple(without))
        self.clock: ClockName = clock
        self.summary = HistorySummary()
        self.kept = 0
        self._spine, self._offline, self._exporters = spine, offline, exporters
        self._protected = dict(protected or {})
        self._spent = False
        self._schema: pa.Schema | None = None
        self._started: tuple[pa.RecordBatch, Iterator[pa.RecordBatch]] | None = None

    @property
    def schema(self) -> pa.Schema:
        """The schema of every batch; the fields of its structs follow the prompt and the spine."""
        return self._schema if self._schema is not None else self._start()[0].schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        first, rest = self._start()
        self._started = None
        for batch in chain([first], rest):
            self._count_labels()
            yield batch
        self._count_labels()

    def read_all(self) -> pa.Table:
        """All rows as one table."""
        schema = self.schema
        return pa.Table.from_batches(self, schema)

    @property
    def total(self) -> int | None:
        """How many rows there will be, where the spine tells before it is read."""
        rows = known_rows(self._spine)
        return None if rows is None else rows * (1 + len(self.without))

    def explain(self) -> tuple[JoinStep, ...]:
        """How the join behind the rows would go: its strategies, and why. See `OfflineStore.explain`.

        Raises:
            SpineError: the spine can be read once only, and this would be the one time.
        """
        if isinstance(self._spine, pa.RecordBatchReader):
            raise SpineError("to explain reads the spine, and this one can be read once only; give a table or a path")
        return self._offline.explain(
            self._spine, self.plan.features.lookups, clock=self.clock, dtypes=self._spine_dtypes()
        )

    def write(
        self,
        path: str | Path,
        format: str | None = None,  # noqa: A002
        *,
        split: str | Mapping[str, float] | None = None,
        seed: int = 0,
        report: str | Path | None = None,
        resume: bool = True,
        note: Callable[[str], None] = lambda _: None,
    ) -> HistorySummary:
        """Write all rows to a file, atomically, and return the counts.

        A run that is interrupted leaves what it did in the folder ``.NAME.partial`` beside the file, and the same call
        goes on from there, to the same bytes. If the prompt, a feature, the data, the spine or an option is another by
        then, it begins anew. So it does where that cannot be told: the spine can be read once only, a source is no
        file, or the exporter is no `ResumableExporter`; and with a ``report``, which counts every row.

        Args:
            path: where; ``.jsonl`` means the format ``chat``, ``.parquet`` the canonical one. A format of lines is
                compressed where the name ends in ``.gz`` or ``.zst``.
            format: ``parquet``, ``chat``, ``hf``, ``inspect``, ``langfuse``, ``mlflow`` or ``promptfoo``.
            split: shares by name, such as ``{"train": 0.8, "test": 0.2}`` or ``train=0.8,test=0.2``: ``out.jsonl``
                becomes ``out.train.jsonl`` and ``out.test.jsonl``. All rows of an entity, by the join keys of the
                prompt's first one, go to one file.
            seed: another seed splits the entities another way; the same one always the same way.
            report: also write a page about the rows to look at, to this HTML file. See `llmfeatures.report.Report`.
            resume: go on with what an interrupted run left; if not, begin anew.
            note: told in a sentence what becomes of an interrupted run that there was.

        Raises:
            RequestError: the format is unknown, the folder cannot be written, the split is no split, the format's
                tool would misread a row, or another run is writing the same file.
        """
        place = Path(path)
        name = format or format_of(place)
        if name not in self._exporters:
            raise RequestError(f"unknown format {name!r}{did_you_mean(name, self._exporters)}")
        parts = {} if split is None else shares(split)
        targets = part_paths(place, parts) if parts else {"": place}
        outputs = [(one, "the export") for one in targets.values()]
        if name == "chat":
            outputs += [(index_path(one), "the export's index") for one in targets.values()]
        if report is not None:
            outputs.append((Path(report), "the report"))
        for one, _ in outputs:
            check_place(one)
        check_outputs(outputs, self._protected | self._spine_file())
        if report is not None and not Path(report).parent.is_dir():
            raise RequestError(f"cannot write {report}: there is no such folder; make it, or give another")
        page = None if report is None else Report(self.plan, spine_name=self._spine_name(), clock=self.clock)
        parted = parts_of(parts, seed, self._split_keys()) if parts else None
        exporter = self._exporters[name]
        if isinstance(exporter, ResumableExporter):
            options = {"format": name, "split": parts, "seed": seed, "without": self.without, "clock": self.clock}
            known = None if page is not None else self._made_of(options)
            with partial(place, known, resume=resume) as work:
                for sentence in _beginnings(work, report=page is not None, pairs=1 + len(self.without)):
                    note(sentence)
                try:
                    self._write_on(work, exporter, targets, parted, page)
                finally:
                    self.kept = work.kept * (1 + len(self.without))
        else:
            schema = self.schema
            rows = self if page is None else reported(self, page)
            if parts:
                write_parts(exporter, rows, schema, place, split=parts, seed=seed, keys=self._split_keys())
            else:
                exporter.write(rows, schema, place)
        if page is not None and report is not None:
            page.write(report)
        return self.summary

    def _write_on(
        self,
        work: Partial,
        exporter: ResumableExporter,
        targets: Mapping[str, Path],
        parted: Callable[[pa.RecordBatch], list[pa.RecordBatch]] | None,
        page: Report | None,
    ) -> None:
        """Write the rows that are not done, and move the files to their places, which are ``targets`` by part."""
        earlier = work.earlier
        if earlier is None:
            schema = self.schema
            work.clear()
        else:
            self._go_on(earlier)
            if earlier.moves:
                work.move_the_rest()
                return
            schema = self.schema
        written = b64encode(schema.serialize()).decode()
        now = self._spine.now.isoformat() if isinstance(self._spine, MadeSpine) else None

        def progress() -> tuple[int, dict[str, Any]]:
            done = {"summary": self.summary.as_json(), "schema": written, "now": now}
            return self.summary.rows // (1 + len(self.without)), done

        def route(batch: pa.RecordBatch) -> dict[str, pa.RecordBatch]:
            return dict(zip(targets, [batch] if parted is None else parted(batch), strict=True))

        rows = self if page is None else reported(self, page)
        with ExitStack() as stack:
            if earlier is not None and earlier.progress["schema"] != written:
                work.refuse()
            writings: dict[str, Writing] = {}
            for part, target in targets.items():
                writings[part] = work.begun(exporter, schema, target, part)
                stack.callback(writings[part].close)
            # a spine that is all done gives one batch more, without rows
            work.write((one for one in rows if one.num_rows or earlier is None), writings, route, progress)

    def _go_on(self, earlier: Journal) -> None:
        """Begin after the rows that an interrupted run did, with its counts."""
        summary = HistorySummary.of_json(earlier.progress["summary"])
        summary.resumed = summary.rows
        if isinstance(self._spine, MadeSpine):
            self._spine = self._spine.at(datetime.fromisoformat(earlier.progress["now"]))
        if earlier.moves:
            self.summary = summary
            if isinstance(self._spine, LabelledSpine):  # it is not read again
                self._spine.labels = summary.labels
        else:
            self._begin(earlier.rows, summary)

    def _count_labels(self) -> None:
        """Take over the spine's counts. It is read from its start also when an interrupted run is gone on with."""
        if isinstance(self._spine, LabelledSpine):
            self.summary.labels = self._spine.labels

    def _made_of(self, options: Mapping[str, Any]) -> dict[str, str] | None:
        if self._spent:
            return None
        return made_of(self.plan, self._spine, self._offline, self._spine_dtypes(), options)

    def _split_keys(self) -> tuple[str, ...]:
        roles = self.plan.features.roles
        return roles[0].parameters if roles else ()

    def _spine_file(self) -> dict[Path, str]:
        given = self._spine.source if isinstance(self._spine, MadeSpine) else self._spine
        return {Path(given).resolve(): "the spine itself"} if isinstance(given, (str, Path)) else {}

    def _spine_name(self) -> str:
        return spine_name(self._spine.source if isinstance(self._spine, MadeSpine) else self._spine)

    def _spine_dtypes(self) -> dict[str, DType]:
        """What a file without types must be read as."""
        return {**self.plan.parameters, "id": DType("str"), "target": DType("str")}

    def _start(self) -> tuple[pa.RecordBatch, Iterator[pa.RecordBatch]]:
        if self._started is None:
            self._begin(0, HistorySummary(statuses={ref.name: Counter() for ref in self.plan.features.outputs}))
        assert self._started is not None
        return self._started

    def _begin(self, first: int, summary: HistorySummary) -> None:
        """Start the join of the spine's rows from number ``first`` on; ``summary`` counts those before."""
        if self._spent:
            raise SpineError("this spine can be read once only, and was; give a table or a path to read it again")
        self._spent = isinstance(self._spine, pa.RecordBatchReader)
        self.summary = summary
        dtypes = self._spine_dtypes()
        spine = remaining(self._offline, self._spine, first, dtypes) if first else self._spine
        joins = self._offline.join(spine, self.plan.features.lookups, clock=self.clock, dtypes=dtypes)
        batches = _Rows(self.plan, self.clock, summary, self.without, first).batches(joins)
        self._started = next(batches), batches
        self._schema = self._started[0].schema


def _beginnings(work: Partial, *, report: bool, pairs: int) -> Iterator[str]:
    """What there is to say when an interrupted run left something."""
    if work.earlier is not None:
        yield f"continuing after {work.earlier.rows * pairs:,} rows of an interrupted run"
    elif work.changed:
        why = "a report counts every row" if report else f"{' and '.join(work.changed)} changed"
        yield f"beginning anew, and not where an interrupted run left off: {why}"


def _withheld(plan: PromptPlan, without: tuple[str, ...]) -> tuple[str, ...]:
    known = [ref.name for ref in plan.features.outputs]
    for name in without:
        if name not in known:
            raise RequestError(
                f"without: prompt {plan.name!r} reads no feature {name!r}{did_you_mean(str(name), known)}"
            )
        if without.count(name) > 1:
            raise RequestError(f"without: {name!r} is given twice; name it once")
    return without


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """A batch whose ids are being made: the number of its first row, canonical join keys and inputs, and which rows
    have no prompt."""

    joined: Joined
    first: int
    given: Mapping[str, pa.Array[Any]]
    bad: Mapping[int, str]
    ids: Future[pa.Array[Any]]


class _Rows:
    """Turns batches of a join into canonical rows."""

    def __init__(
        self, plan: PromptPlan, clock: ClockName, summary: HistorySummary, without: tuple[str, ...] = (), first: int = 0
    ) -> None:
        self.plan, self.clock, self.summary, self.without = plan, clock, summary, without
        self._number = first
        self._renderer = Renderer(plan)
        self._digester = Digester()
        self._beside = ThreadPoolExecutor(1, "llmfeatures-ids")
        self._optional = [name for name, one in plan.inputs.items() if one.default is None]
        self._own = (*plan.parameters, EVENT_TIMESTAMP, "id", "target")

    def batches(self, joins: Iterable[Joined]) -> Iterator[pa.RecordBatch]:
        """A batch of rows per batch of the join. The ids of the next one are hashed while one is finished and used."""
        begun: _Begun | None = None
        for joined in joins:
            following = self._begin(joined)
            if begun is not None:
                yield self._finish(begun)
            begun = following
        if begun is not None:
            yield self._finish(begun)

    def _begin(self, joined: Joined) -> _Begun:
        spine, at, first = joined.spine, joined.at, self._number
        _check_names(spine.schema.names, ("pair", "without") if self.without else ())
        bad: dict[int, str] = {}
        given = self._given(spine, bad)
        for row in pc.indices_nonzero(at.is_null()).to_pylist():
            bad.setdefault(row, "event_timestamp is null")
        if self.plan.features.computed:  # no function sees an input that the prompt refuses
            bad.update({row: reason for row, reason in _refused(self.plan, given).items() if row not in bad})
        self._number += spine.num_rows
        ids = self._beside.submit(self._ids, spine, given, at, first)
        return _Begun(joined=joined, first=first, given=given, bad=bad, ids=ids)

    def _finish(self, begun: _Begun) -> pa.RecordBatch:
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
        rendered = self._renderer.render(settled, given, at, errors)
        self._count(settled, rendered.error, begun)
        rows = len(at)
        refs = [ref.column for ref in plan.features.outputs]
        arrays = {
            "id": begun.ids.result() if paired is None else paired.ids(begun.ids.result()),
            "prompt": pa.repeat(pa.scalar(plan.name, pa.string()), rows),
            "version": pa.repeat(pa.scalar(plan.version, pa.string()), rows),
            "prompt_id": rendered.prompt_id,
            "as_of": at.cast(TIMESTAMP),
            "clock": pa.repeat(pa.scalar(self.clock, pa.string()), rows),
            "entity": _struct({name: given[name] for name in plan.features.parameters}, rows),
            "inputs": _struct({name: given[name] for name in plan.inputs}, rows),
            "messages": rendered.messages,
            "features": _struct({name: one.values for name, one in zip(refs, settled, strict=True)}, rows),
            "statuses": _struct({name: one.statuses for name, one in zip(refs, settled, strict=True)}, rows),
            "timestamps": _struct({name: one.event for name, one in zip(refs, settled, strict=True)}, rows),
            "documents": pa.array([[]] * rows, _DOCUMENTS),
            "target": target,
            "metadata": _struct(metadata, rows),
            "error": rendered.error,
        }
        schema = pa.schema(
            [pa.field(name, array.type) for name, array in arrays.items()],
            metadata={"llmfeatures.format": str(FORMAT)},
        )
        return pa.RecordBatch.from_arrays(list(arrays.values()), schema=schema)

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
            given[name] = _canonical(name, dtype, spine.column(name), errors)
        return given

    def _count(self, settled: Sequence[Column], errors: pa.Array[Any], begun: _Begun) -> None:
        summary = self.summary
        summary.rows += len(errors)
        failed = len(errors) - errors.null_count
        summary.errors += failed
        if failed and summary.first_error is None:
            row = pc.index(errors.is_valid(), pa.scalar(value=True)).as_py()
            number = begun.first + row // (1 + len(self.without))
            summary.first_error = f"row {number}: {errors[row].as_py()}"
        for index, (ref, column) in enumerate(zip(self.plan.features.outputs, settled, strict=True)):
            summary.statuses[ref.name].update(column.counts(every=1 + len(self.without)))
            if index >= len(self.plan.features.refs):
                continue  # hidden values are counted where they are stored
            hidden = begun.joined.found[self.plan.features.lookup_of[index][0]].hidden
            summary.hidden += 0 if hidden is None else hidden.true_count

    def _ids(
        self, spine: pa.RecordBatch, given: Mapping[str, pa.Array[Any]], at: pa.Array[Any], first: int
    ) -> pa.Array[Any]:
        """The spine's ids, and where it has none the hash of prompt, entity, as_of and row number."""
        own = _as_text("id", spine.column("id")) if "id" in spine.schema.names else None
        if own is not None and not own.null_count:
            return own
        parameters = self.plan.features.parameters
        keys = [_json_texts(dtype, given[name]) for name, dtype in parameters.items()]
        entity = pc.binary_join_element_wise(*keys, ", ") if keys else pa.repeat(pa.scalar("", pa.string()), len(at))
        numbers = pa.array(range(first, first + len(at)), pa.int64()).cast(pa.string())
        head = f"[{json.dumps(self.plan.name)}, ["
        written = pc.binary_join_element_wise(head, entity, "], ", _moment_texts(at), ", ", numbers, "]", "")
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
    whole = pc.replace_substring(columns.stamp_texts(at), ".000000Z", "Z")
    return pc.coalesce(pc.binary_join_element_wise('"', whole, '"', ""), pa.scalar("null"))


def _canonical(name: str, dtype: DType, array: pa.Array[Any], errors: dict[int, str]) -> pa.Array[Any]:
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


def as_of_slots(
    offline: OfflineStore, plan: FeaturePlan, rows: Sequence[Mapping[str, Any]], as_of: datetime, clock: ClockName
) -> FoundRows:
    """The slots of a few rows of join keys at one moment, as `found_rows` of a spine of them."""
    arrays = {name: columns.array_of(dtype, [row[name] for row in rows]) for name, dtype in plan.parameters.items()}
    spine = pa.table({**arrays, EVENT_TIMESTAMP: pa.array([as_of] * len(rows), TIMESTAMP)})
    slots: list[list[FeatureValue]] = []
    errors: dict[int, str] = {}
    for joined in offline.join(spine, plan.lookups, clock=clock):
        found = found_rows(plan, joined)
        errors.update({len(slots) + row: reason for row, reason in found.errors.items()})
        slots.extend(found.slots)
    return FoundRows(slots=slots, errors=errors)
