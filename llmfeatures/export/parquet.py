# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Canonical Parquet: every column of a historical prompt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llmfeatures.errors import RequestError
from llmfeatures.files import replacing


class ParquetExporter:
    """Writes the canonical rows as they are. The file's metadata carries the format number."""

    def write(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> int:
        """As `Exporter.write`."""
        rows = 0
        with replacing(path) as part, parquet_writer(part, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
        return rows


def parquet_writer(part: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer for a schema.

    Raises:
        RequestError: Parquet has no form for one of the spine's columns.
    """
    try:
        return pq.ParquetWriter(part, schema, compression="zstd")
    except pa.ArrowException as error:
        raise RequestError(
            f"the spine has a column that Parquet cannot hold ({error}); leave it out, or give it another type"
        ) from None
