# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Canonical Parquet: every column of a historical prompt."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llmfeatures.errors import RequestError
from llmfeatures.export.writing import RowExporter
from llmfeatures.files import replacing

_BEHIND = 2
"""How many batches may wait to be written."""


class ParquetExporter(RowExporter):
    """Writes the canonical rows as they are. The file's metadata carries the format number."""

    @contextmanager
    def opened(self, schema: pa.Schema, path: Path) -> Generator[Callable[[pa.RecordBatch], int], None, None]:
        """As `RowExporter.opened`."""
        with replacing(path) as part, parquet_writer(part, schema) as writer, behind(writer.write_batch) as write:

            def add(batch: pa.RecordBatch) -> int:
                write(batch)
                return batch.num_rows

            yield add


@contextmanager
def behind(write: Callable[[pa.RecordBatch], None]) -> Generator[Callable[[pa.RecordBatch], None], None, None]:
    """``write`` on a thread of its own, in order and a few batches behind: encoding Parquet needs no interpreter. What
    it raises is raised by a later call, or at the end."""
    with ThreadPoolExecutor(1, "llmfeatures-write") as pool:
        pending: deque[Future[None]] = deque()

        def add(batch: pa.RecordBatch) -> None:
            while len(pending) > _BEHIND or (pending and pending[0].done()):
                pending.popleft().result()
            pending.append(pool.submit(write, batch))

        yield add
        while pending:
            pending.popleft().result()


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
