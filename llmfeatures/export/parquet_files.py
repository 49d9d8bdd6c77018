# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownParameterType=false
"""Parquet files of canonical rows, and one put together of several, to the bytes that one writer would have written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmfeatures.errors import RequestError

_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """A schema as it is stored: dictionaries and views are ways to have values in memory, of which Parquet gives other
    ones back, so the values are stored."""
    fields = [field.with_type(_stored(field.type)) for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _stored(dtype: Any) -> Any:
    if pa.types.is_dictionary(dtype):
        return _stored(dtype.value_type)
    if dtype in _VIEWS:
        return _VIEWS[dtype]
    if pa.types.is_struct(dtype):
        return pa.struct([field.with_type(_stored(field.type)) for field in dtype])
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        make = pa.list_ if pa.types.is_list(dtype) else pa.large_list
        return make(dtype.value_field.with_type(_stored(dtype.value_type)))
    return dtype


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer for a schema; each batch becomes a row group.

    Raises:
        RequestError: Parquet has no form for one of the spine's columns.
    """
    try:
        repeating: Any = _repeating(schema)  # the stubs know only a bool
        return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repeating)
    except pa.ArrowException as error:
        raise RequestError(
            f"the spine has a column that Parquet cannot hold ({error}); leave it out, or give it another type"
        ) from None


def put_together(parts: Sequence[tuple[Path, int]], whole: Path, schema: pa.Schema) -> None:
    """Write to ``whole`` the first rows, so many of each, of files of this `stored_schema`, row group by row group.

    Each number of rows is that of whole row groups.
    """
    with parquet_writer(whole, schema) as writer:
        for path, rows in parts:
            with pq.ParquetFile(path) as file:
                number = written = 0
                while written < rows:
                    group = file.read_row_group(number).cast(schema).combine_chunks()
                    for batch in group.to_batches():
                        writer.write_batch(batch)
                    number, written = number + 1, written + group.num_rows


def _repeating(fields: Iterable[Any], within: str = "") -> list[str]:
    """The leaves whose values come again: not ids and moments, for which a dictionary costs more than it saves."""
    paths: list[str] = []
    for field in fields:
        path, dtype = within + field.name, field.type
        while pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
            path, dtype = f"{path}.list.element", dtype.value_type
        if pa.types.is_struct(dtype):
            paths += _repeating(dtype, f"{path}.")
        elif path != "id" and not pa.types.is_timestamp(dtype):
            paths.append(path)
    return paths
