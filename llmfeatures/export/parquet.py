# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Canonical Parquet: every column of a historical prompt."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llmfeatures.errors import RequestError
from llmfeatures.export.writing import RowExporter
from llmfeatures.files import replacing


class ParquetExporter(RowExporter):
    """Writes the canonical rows as they are. The file's metadata carries the format number."""

    @contextmanager
    def opened(self, schema: pa.Schema, path: Path) -> Generator[Callable[[pa.RecordBatch], int], None, None]:
        """As `RowExporter.opened`."""
        with replacing(path) as part, parquet_writer(part, schema) as writer:

            def add(batch: pa.RecordBatch) -> int:
                writer.write_batch(batch)
                return batch.num_rows

            yield add


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
