# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""JSONL for eval tools: promptfoo, Inspect, Langfuse and MLflow. Rows without a prompt are left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import compute

from llmfeatures.errors import RequestError
from llmfeatures.export.growing import Appended, LinesFile
from llmfeatures.export.json_columns import Lines, bytes_of, joined
from llmfeatures.export.lines import (
    UniqueIds,
    has_documents,
    messages_of,
    records_of,
    texts_of,
    with_prompt,
)
from llmfeatures.export.writing import ResumableExporter, Writing, suffixes

pc: Any = compute
_ABOUT = (
    "prompt", "version", "prompt_id", "as_of", "clock", "entity", "inputs", "features", "statuses", "metadata",
)  # fmt: skip
_HOSTILE = ("{{", "{%", "{#", '"file://', '"package:')
"""What promptfoo would expand, read or run. JSON itself has none of them outside of a text."""
_ANY_HOSTILE = (re.compile(rb"\{[{%#]"), re.compile(b'"file://'), re.compile(b'"package:'))
"""Finds any of them in all lines at once, which takes a fraction of the time that row by row does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesExporter(ResumableExporter):
    """Writes one JSON object per prompt.

    ``lines`` makes them of a batch, its first row's number and the dataset's name; ``unique`` makes the check of ids.
    """

    lines: Callable[[pa.RecordBatch, int, str], Lines]
    unique: Callable[[], UniqueIds] | None = None

    def begun(self, schema: pa.Schema, path: Path, folder: Path, state: Mapping[str, Any] | None) -> Writing:  # noqa: ARG002
        """As `ResumableExporter.begun`. Rows are numbered as they come to this file.

        Raises:
            RequestError: the tool would misread a row, or has no room for it; the message says which row.
        """
        return _LinesWriting(self, path, folder, state)


class _LinesWriting(Writing):
    def __init__(self, format_: LinesExporter, path: Path, folder: Path, state: Mapping[str, Any] | None) -> None:
        self._format, self._path, self._name = format_, path, suffixes(path)[0]
        self._number: int = state["rows"] if state else 0
        self._ids = None if format_.unique is None else format_.unique()
        with ExitStack() as stack:
            seen = folder / f"{path.name}.ids"
            self._seen = Appended(seen, state["ids"] if state else 0)
            stack.callback(self._seen.close)
            if self._ids is not None:
                self._ids.restore(seen.read_bytes())
            self._file = LinesFile(folder, path, state["lines"] if state else None)
            stack.callback(self._file.close)
            self._opened = stack.pop_all()

    def add(self, batch: pa.RecordBatch) -> int:
        # one run of rows with prompts at a time, so that an error counts the rows left out too
        runs = _runs(batch) if batch.column("messages").null_count else [(0, batch)]
        made: list[Lines] = []
        for start, run in runs:
            if self._ids is not None:
                self._seen.write(self._ids.check(run.column("id"), self._number + start))
            made.append(self._format.lines(run, self._number + start, self._name))
        self._file.write(*made)
        self._number += batch.num_rows
        return sum(run.num_rows for _, run in runs)

    def state(self) -> dict[str, Any]:
        return {"rows": self._number, "ids": self._seen.size, "lines": self._file.state()}

    def sync(self) -> None:
        self._seen.sync()
        self._file.sync()

    def finish(self) -> dict[Path, Path]:
        return {self._file.finish(): self._path}

    def close(self) -> None:
        self._opened.close()


def _runs(batch: pa.RecordBatch) -> list[tuple[int, pa.RecordBatch]]:
    valid = batch.column("messages").is_valid().to_pylist()
    runs: list[tuple[int, pa.RecordBatch]] = []
    start: int | None = None
    for row, one in enumerate([*valid, False]):
        if one and start is None:
            start = row
        elif not one and start is not None:
            runs.append((start, with_prompt(batch.slice(start, row - start))))
            start = None
    return runs


def _about(batch: pa.RecordBatch) -> tuple[str, ...]:
    return (*_ABOUT, "documents") if has_documents(batch.schema) else _ABOUT


def promptfoo_lines(batch: pa.RecordBatch, number: int, _name: str) -> Lines:
    """Test cases for ``prompts: ['{{prompt}}']``; a target must be contained in the answer, an empty one asks nothing.

    Raises:
        RequestError: a text has what promptfoo would expand, read or run.
    """
    lines = joined(
        '{"vars":{"prompt":"',
        messages_of(batch, inside=True),
        '"}',
        texts_of(batch.column("target"), _contained),
        ',"metadata":',
        records_of(batch, ("id", *_about(batch)), number),
        ',"options":{"disableVarExpansion":true}}\n',
    )
    _refuse_hostile(lines, number)
    return lines


def _contained(target: bytes) -> bytes:
    # every answer contains an empty text, and promptfoo takes its assertion for an error
    return b"" if target == b'""' else b',"assert":[{"type":"contains","value":' + target + b"}]"


def _refuse_hostile(lines: Lines, number: int) -> None:
    written = bytes_of(lines)
    if not any(one.search(written) for one in _ANY_HOSTILE):
        return
    for mark in _HOSTILE:
        found = pc.index(pc.match_substring(lines, mark), pa.scalar(value=True)).as_py()
        if found >= 0:
            raise RequestError(
                f"row {number + found}: a text has {mark.strip(chr(34))!r}, which promptfoo would expand, read or run; "
                "leave the row out, or write another format"
            )


def inspect_lines(batch: pa.RecordBatch, number: int, _name: str) -> Lines:
    """Samples for ``json_dataset``."""
    return joined(
        '{"id":', texts_of(batch.column("id")), ',"input":', messages_of(batch),
        texts_of(batch.column("target"), lambda one: b',"target":' + one),
        ',"metadata":', records_of(batch, _about(batch), number), "}\n",
    )  # fmt: skip


def langfuse_lines(batch: pa.RecordBatch, number: int, name: str) -> Lines:
    """Bodies for ``POST /api/public/dataset-items``; the dataset has the file's name."""
    return joined(
        f'{{"datasetName":{orjson.dumps(name).decode()},"id":', texts_of(batch.column("id")),
        ',"input":{"messages":', messages_of(batch), "}",
        texts_of(batch.column("target"), lambda one: b',"expectedOutput":' + one),
        ',"metadata":', records_of(batch, _about(batch), number), ',"status":"ACTIVE"}\n',
    )  # fmt: skip


def mlflow_lines(batch: pa.RecordBatch, number: int, _name: str) -> Lines:
    """Records for ``merge_records``. The id is an input, for MLflow makes one record of equal inputs."""
    ids = texts_of(batch.column("id"))
    return joined(
        '{"inputs":{"id":', ids, ',"messages":', messages_of(batch), "}",
        texts_of(batch.column("target"), lambda one: b',"expectations":{"expected_response":' + one + b"}"),
        ',"tags":{"id":', ids,
        ',"prompt_id":', texts_of(batch.column("prompt_id")),
        ',"about":"', records_of(batch, _about(batch), number, inside=True), '"}}\n',
    )  # fmt: skip


def line_exporters() -> dict[str, LinesExporter]:
    """The formats of lines, by name."""
    return {
        "inspect": LinesExporter(lines=inspect_lines, unique=lambda: UniqueIds("Inspect")),
        "langfuse": LinesExporter(lines=langfuse_lines, unique=lambda: UniqueIds("Langfuse", 255)),
        "mlflow": LinesExporter(lines=mlflow_lines, unique=lambda: UniqueIds("MLflow")),
        "promptfoo": LinesExporter(lines=promptfoo_lines),
    }
