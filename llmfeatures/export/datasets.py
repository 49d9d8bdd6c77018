# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""JSONL for eval tools: promptfoo, Inspect, Langfuse and MLflow. Rows without a prompt are left out."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import compute

from llmfeatures.errors import RequestError
from llmfeatures.export.lines import (
    Lines,
    UniqueIds,
    joined,
    messages_of,
    records_of,
    text_file,
    texts_of,
    with_prompt,
)
from llmfeatures.export.writing import RowExporter, suffixes
from llmfeatures.files import replacing

pc: Any = compute
_ABOUT = (
    "prompt", "version", "prompt_id", "as_of", "clock", "entity", "inputs", "features", "statuses", "metadata",
)  # fmt: skip
_HOSTILE = ("{{", "{%", "{#", '"file://', '"package:')
"""What promptfoo would expand, read or run. JSON itself has none of them outside of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesExporter(RowExporter):
    """Writes one JSON object per prompt.

    ``lines`` makes them of a batch, its first row's number and the dataset's name; ``unique`` makes the check of ids.
    """

    lines: Callable[[pa.RecordBatch, int, str], Lines]
    unique: Callable[[], UniqueIds] | None = None

    @contextmanager
    def opened(self, schema: pa.Schema, path: Path) -> Generator[Callable[[pa.RecordBatch], int], None, None]:  # noqa: ARG002
        """As `RowExporter.opened`. Rows are numbered as they come to this file.

        Raises:
            RequestError: the tool would misread a row, or has no room for it; the message says which row.
        """
        ids = self.unique() if self.unique is not None else None
        name, number = suffixes(path)[0], 0
        with replacing(path) as part, text_file(part, path) as write:

            def add(batch: pa.RecordBatch) -> int:
                nonlocal number
                # one run of rows with prompts at a time, so that an error counts the rows left out too
                runs = _runs(batch) if batch.column("messages").null_count else [(0, batch)]
                for start, run in runs:
                    if ids is not None:
                        ids.check(run.column("id"), number + start)
                    write(self.lines(run, number + start, name))
                number += batch.num_rows
                return sum(run.num_rows for _, run in runs)

            yield add


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


def promptfoo_lines(batch: pa.RecordBatch, number: int, name: str) -> Lines:  # noqa: ARG001
    """Test cases for ``prompts: ['{{prompt}}']``; a target must be contained in the answer.

    Raises:
        RequestError: a text has what promptfoo would expand, read or run.
    """
    lines = joined(
        '{"vars":{"prompt":',
        messages_of(batch, lambda one: orjson.dumps(orjson.dumps(one).decode())),
        "}",
        texts_of(batch.column("target"), lambda one: b',"assert":[{"type":"contains","value":' + one + b"}]"),
        ',"metadata":',
        records_of(batch, ("id", *_ABOUT), number),
        ',"options":{"disableVarExpansion":true}}\n',
    )
    for mark in _HOSTILE:
        found = pc.index(pc.match_substring(lines, mark), pa.scalar(value=True)).as_py()
        if found >= 0:
            raise RequestError(
                f"row {number + found}: a text has {mark.strip(chr(34))!r}, which promptfoo would expand, read or run; "
                "leave the row out, or write another format"
            )
    return lines


def inspect_lines(batch: pa.RecordBatch, number: int, name: str) -> Lines:  # noqa: ARG001
    """Samples for ``json_dataset``."""
    return joined(
        '{"id":', texts_of(batch.column("id")), ',"input":', messages_of(batch),
        texts_of(batch.column("target"), lambda one: b',"target":' + one),
        ',"metadata":', records_of(batch, _ABOUT, number), "}\n",
    )  # fmt: skip


def langfuse_lines(batch: pa.RecordBatch, number: int, name: str) -> Lines:
    """Bodies for ``POST /api/public/dataset-items``; the dataset has the file's name."""
    return joined(
        f'{{"datasetName":{orjson.dumps(name).decode()},"id":', texts_of(batch.column("id")),
        ',"input":{"messages":', messages_of(batch), "}",
        texts_of(batch.column("target"), lambda one: b',"expectedOutput":' + one),
        ',"metadata":', records_of(batch, _ABOUT, number), ',"status":"ACTIVE"}\n',
    )  # fmt: skip


def mlflow_lines(batch: pa.RecordBatch, number: int, name: str) -> Lines:  # noqa: ARG001
    """Records for ``merge_records``. The id is an input, for MLflow makes one record of equal inputs."""
    about = records_of(batch, _ABOUT, number)
    return joined(
        '{"inputs":{"id":', texts_of(batch.column("id")), ',"messages":', messages_of(batch), "}",
        texts_of(batch.column("target"), lambda one: b',"expectations":{"expected_response":' + one + b"}"),
        ',"tags":{"id":', texts_of(batch.column("id")),
        ',"prompt_id":', texts_of(batch.column("prompt_id")),
        ',"about":', pa.array([orjson.dumps(one.decode()) for one in about.to_pylist()], pa.large_binary()), "}}\n",
    )  # fmt: skip


def line_exporters() -> dict[str, LinesExporter]:
    """The formats of lines, by name."""
    return {
        "inspect": LinesExporter(lines=inspect_lines, unique=lambda: UniqueIds("Inspect")),
        "langfuse": LinesExporter(lines=langfuse_lines, unique=lambda: UniqueIds("Langfuse", 255)),
        "mlflow": LinesExporter(lines=mlflow_lines, unique=lambda: UniqueIds("MLflow")),
        "promptfoo": LinesExporter(lines=promptfoo_lines),
    }
