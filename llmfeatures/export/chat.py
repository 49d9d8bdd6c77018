# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Chat JSONL: ``{"messages": [...]}`` per line, with everything else, the ids first, in ``NAME.index.parquet``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmfeatures.export.growing import LinesFile, ParquetParts
from llmfeatures.export.json_columns import Lines, joined
from llmfeatures.export.lines import texts_of, with_prompt
from llmfeatures.export.messages import MessageTexts
from llmfeatures.export.writing import ResumableExporter, Writing, index_path

_HEAD, _TAIL = '{"messages":[', "]}\n"


class ChatExporter(ResumableExporter):
    """Writes one JSON object per prompt, a target as the last message. Rows without a prompt are left out of both
    files."""

    def begun(self, schema: pa.Schema, path: Path, folder: Path, state: Mapping[str, Any] | None) -> Writing:
        """As `ResumableExporter.begun`; the index has the same rows in the same order."""
        return _ChatWriting(schema, path, folder, state)


class _ChatWriting(Writing):
    def __init__(self, schema: pa.Schema, path: Path, folder: Path, state: Mapping[str, Any] | None) -> None:
        known = state or {"lines": None, "index": None}
        index = pa.schema([field for field in schema if field.name != "messages"], metadata=schema.metadata)
        self._path, self._index_path = path, index_path(path)
        self._names = index.names
        self._whole, self._open = MessageTexts(_HEAD, _TAIL), MessageTexts(_HEAD, "")
        with ExitStack() as stack:
            self._index = ParquetParts(folder, self._index_path, index, known["index"])
            stack.callback(self._index.close)
            self._lines = LinesFile(folder, path, known["lines"])
            stack.callback(self._lines.close)
            self._opened = stack.pop_all()

    def add(self, batch: pa.RecordBatch) -> int:
        kept = with_prompt(batch)
        self._index.write(kept.select(self._names))
        self._lines.write(self._lines_of(kept))
        return kept.num_rows

    def _lines_of(self, batch: pa.RecordBatch) -> Lines:
        """A line per row, each of which has a prompt."""
        target = batch.column("target")
        if target.null_count == batch.num_rows:
            return self._whole.of(batch)
        answers = texts_of(target, lambda one: b',{"role":"assistant","content":' + one + b"}")
        return joined(self._open.of(batch), answers, _TAIL)

    def state(self) -> dict[str, Any]:
        return {"lines": self._lines.state(), "index": self._index.state()}

    def sync(self) -> None:
        self._lines.sync()
        self._index.sync()

    def finish(self) -> dict[Path, Path]:
        return {self._index.finish(): self._index_path, self._lines.finish(): self._path}

    def close(self) -> None:
        self._opened.close()
