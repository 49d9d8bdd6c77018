# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false, reportAttributeAccessIssue=false
"""Chat JSONL: ``{"messages": [...]}`` per line, with everything else, the ids first, in ``NAME.index.parquet``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from llmfeatures.export.parquet import parquet_writer
from llmfeatures.files import replacing


class ChatExporter:
    """Writes one JSON object per prompt. Rows without a prompt are left out of both files."""

    def write(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> int:
        """As `Exporter.write`; the index has the same rows in the same order."""
        index_schema = pa.schema([field for field in schema if field.name != "messages"], metadata=schema.metadata)
        index_path = path.with_name(f"{path.stem}.index.parquet")
        rows = 0
        with (
            replacing(index_path) as index_part,
            replacing(path) as part,
            parquet_writer(index_part, index_schema) as index,
            part.open("wb") as lines,
        ):
            for batch in batches:
                kept = batch.filter(pc.is_valid(batch.column("messages")))
                for messages in kept.column("messages").to_pylist():
                    lines.write(orjson.dumps({"messages": messages}, option=orjson.OPT_APPEND_NEWLINE))
                index.write_batch(kept.select(index_schema.names))
                rows += kept.num_rows
        return rows
