# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Chat JSONL: ``{"messages": [...]}`` per line, with everything else, the ids first, in ``NAME.index.parquet``."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pyarrow as pa

from llmfeatures.export.lines import Lines, joined, messages_of, text_file, texts_of, with_prompt
from llmfeatures.export.parquet import behind, parquet_writer
from llmfeatures.export.writing import RowExporter, suffixes
from llmfeatures.files import replacing


class ChatExporter(RowExporter):
    """Writes one JSON object per prompt, a target as the last message. Rows without a prompt are left out of both
    files."""

    @contextmanager
    def opened(self, schema: pa.Schema, path: Path) -> Generator[Callable[[pa.RecordBatch], int], None, None]:
        """As `RowExporter.opened`; the index has the same rows in the same order."""
        index_schema = pa.schema([field for field in schema if field.name != "messages"], metadata=schema.metadata)
        index_path = path.with_name(f"{suffixes(path)[0]}.index.parquet")
        with (
            replacing(index_path) as index_part,
            replacing(path) as part,
            parquet_writer(index_part, index_schema) as index,
            behind(index.write_batch) as write_index,
            text_file(part, path) as write,
        ):

            def add(batch: pa.RecordBatch) -> int:
                kept = with_prompt(batch)
                write_index(kept.select(index_schema.names))
                write(chat_lines(kept))
                return kept.num_rows

            yield add


def chat_lines(batch: pa.RecordBatch) -> Lines:
    """A line per row, each of which has a prompt."""
    if batch.column("target").null_count == batch.num_rows:
        return messages_of(batch, lambda one: _line(one) + b"]}\n")
    answers = texts_of(batch.column("target"), lambda one: b',{"role":"assistant","content":' + one + b"}")
    return joined(messages_of(batch, _line), answers, "]}\n")


def _line(messages: list[dict[str, str]]) -> bytes:
    return b'{"messages":' + orjson.dumps(messages)[:-1]
