# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""History: finished prompts as they would have been at each moment of a spine, streamed batch by batch."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from llmfeatures.errors import RequestError, SpineError, did_you_mean
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
from llmfeatures.historical_documents import HistoricalDocuments, Retrievers, documents_of
from llmfeatures.history_rows import HistoryRows, HistorySummary
from llmfeatures.identity import MadeSpine, made_of
from llmfeatures.ports import ClockName, Exporter, JoinStep, OfflineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.protected import check_outputs
from llmfeatures.remaining import remaining
from llmfeatures.report import Report, reported
from llmfeatures.report.origin import spine_name
from llmfeatures.sample import known_rows
from llmfeatures.types import DType


@runtime_checkable
class LabelledSpine(MadeSpine, Protocol):
    """A made spine that counts its labels: ``labels`` of the last reading, as `HistorySummary.labels`."""

    labels: Mapping[str, Any] | None


class History:
    """Historical prompts: an iterable of record batches, exactly one row per spine row, in the spine's order.

    The columns are ``id, prompt, version, prompt_id, as_of, clock, entity, inputs, messages, features, statuses,
    timestamps, documents,
    target, metadata, error``. A row whose prompt cannot be built has null messages and the reason in ``error``; a
    retriever that fails ends the iteration with its `RetrieverError`, whatever the prompt's policy. Nothing is read
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
        retrievers: Retrievers | None = None,
        live_documents: bool = False,
    ) -> None:
        self.plan = plan
        self.without = _withheld(plan, (without,) if isinstance(without, str) else tuple(without))
        self.clock: ClockName = clock
        self.summary = HistorySummary()
        self.kept = 0
        self._spine, self._offline, self._exporters = spine, offline, exporters
        self._protected = dict(protected or {})
        self._retrievers, self._live = retrievers, live_documents
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
            options |= {"live_documents": True} if self._live else {}
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
        return made_of(self.plan, self._spine, self._offline, self._spine_dtypes(), options, self._retrievers)

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
        documents = self._documents(self.plan)
        batches = HistoryRows(self.plan, self.clock, summary, documents, self.without, first).batches(joins)
        self._started = next(batches), batches
        self._schema = self._started[0].schema

    def _documents(self, plan: PromptPlan) -> HistoricalDocuments | None:
        return documents_of(plan, self._offline, self._retrievers, self.clock, live=self._live)


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
