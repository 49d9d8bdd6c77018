# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Canonical Parquet: every column of a historical prompt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llmfeatures.files import replacing


class ParquetExporter:
    """Writes the canonical rows as they are. The file's metadata carries the format number."""

    def write(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> int:
        """As `Exporter.write`."""
        rows = 0
        with replacing(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
        return rows
