# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""A spine without its first rows: what an interrupted export has yet to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from llmfeatures.ports import OfflineStore
from llmfeatures.types import DType

_BATCH_ROWS = 20_000


def remaining(
    offline: OfflineStore, spine: object, first: int, dtypes: Mapping[str, DType], timestamp: str = "event_timestamp"
) -> pa.RecordBatchReader:
    """The rows of a spine from number ``first`` on, with the types that a join of the whole spine would see.

    Raises:
        SpineError: the spine cannot be read.
    """
    reader = offline.read_spine(spine, {**dtypes, timestamp: DType("str")})
    if isinstance(spine, (str, Path)) and Path(spine).suffix == ".parquet" and Path(spine).is_file():
        reader.close()
        return _of_parquet(Path(spine), first)
    return pa.RecordBatchReader.from_batches(reader.schema, _after(reader, first))


def _of_parquet(path: Path, first: int) -> pa.RecordBatchReader:
    """Row groups that are done are not read."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    groups = list(range(file.num_row_groups))
    while groups and first >= (rows := file.metadata.row_group(groups[0]).num_rows):
        first -= rows
        groups.pop(0)
    batches = file.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups)
    return pa.RecordBatchReader.from_batches(file.schema_arrow, _after(batches, first))


def _after(batches: Iterable[pa.RecordBatch], first: int) -> Iterator[pa.RecordBatch]:
    left = first
    for batch in batches:
        if left < batch.num_rows:
            yield batch.slice(left)
        left = max(0, left - batch.num_rows)
