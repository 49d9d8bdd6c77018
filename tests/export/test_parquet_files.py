"""Parquet files put together are, byte for byte, the file that one writer writes."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures.export.parquet_files import parquet_writer, put_together, stored_schema

WORDS = st.one_of(st.none(), st.sampled_from(["", "a", "é", "x" * 300]))
COLUMNS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), st.one_of(st.none(), st.text(max_size=5))),
    "large": (pa.large_string(), WORDS),
    "int": (pa.int64(), st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))),
    "float": (pa.float64(), st.one_of(st.none(), st.floats())),
    "bool": (pa.bool_(), st.one_of(st.none(), st.booleans())),
    "null": (pa.null(), st.none()),
    "nanoseconds": (pa.timestamp("ns"), st.integers(0, 10**18)),
    "moment": (pa.timestamp("us", "UTC"), st.datetimes(datetime(1, 1, 1), timezones=st.just(UTC))),
    "decimal": (pa.decimal128(9, 2), st.one_of(st.none(), st.integers(0, 10**8).map(lambda n: Decimal(n).scaleb(-2)))),
    "words": (pa.list_(pa.string()), st.one_of(st.none(), st.lists(WORDS, max_size=3))),
    "messages": (
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        st.one_of(st.none(), st.lists(st.fixed_dictionaries({"role": WORDS, "content": WORDS}), max_size=2)),
    ),
    "seconds": (pa.timestamp("s"), st.integers(0, 10**9)),
    "time": (pa.time32("s"), st.integers(0, 86_399)),
    "duration": (pa.duration("s"), st.integers(0, 10**6)),
    "binary": (pa.binary(), st.one_of(st.none(), st.binary(max_size=3))),
    "fixed": (pa.binary(2), st.one_of(st.none(), st.just(b"ab"))),
    "byte": (pa.uint8(), st.integers(0, 255)),
    "view": (pa.string_view(), WORDS),
    "category": (pa.dictionary(pa.int8(), pa.large_string()), WORDS),
    "nested": (
        pa.struct([("in", pa.struct([("deep", pa.dictionary(pa.int32(), pa.large_string()))]))]),
        st.one_of(st.none(), st.fixed_dictionaries({"in": st.fixed_dictionaries({"deep": WORDS})})),
    ),
}


def _array(kind: Any, values: list[Any]) -> Any:
    if pa.types.is_struct(kind):
        inner = kind.field(0).type
        arrays = [_array(inner, [None if one is None else one[kind.field(0).name] for one in values])]
        mask = pa.array([one is None for one in values])
        return pa.StructArray.from_arrays(arrays, fields=[kind.field(0)], mask=mask)
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)


@st.composite
def batches(draw: st.DrawFn) -> list[pa.RecordBatch]:
    names = draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=6, unique=True))
    made: list[pa.RecordBatch] = []
    for rows in draw(st.lists(st.integers(1, 6), min_size=1, max_size=24)):
        columns = [
            _array(COLUMNS[name][0], draw(st.lists(COLUMNS[name][1], min_size=rows, max_size=rows))) for name in names
        ]
        made.append(pa.RecordBatch.from_arrays(columns, names=names))
    return made


def write(path: Path, parts: list[pa.RecordBatch]) -> None:
    schema = stored(parts)
    with parquet_writer(path, schema) as writer:
        for one in parts:
            writer.write_batch(one.cast(schema))


def stored(parts: list[pa.RecordBatch]) -> pa.Schema:
    return stored_schema(parts[0].schema.with_metadata({"llmfeatures.format": "1"}))


@settings(max_examples=60)
@given(batches(), st.data())
def test_files_put_together_are_the_one_that_a_writer_writes(parts: list[pa.RecordBatch], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "whole", parts)
        cuts = sorted(data.draw(st.sets(st.integers(1, len(parts)), max_size=4)) | {0, len(parts)})
        files: list[tuple[Path, int]] = []
        for first, last in pairwise(cuts):
            more = data.draw(st.integers(0, 2))  # written, and then given up
            write(folder / f"p{first}", parts[first : last + more])
            files.append((folder / f"p{first}", sum(one.num_rows for one in parts[first:last])))
        put_together(files, folder / "again", stored(parts))
        assert (folder / "again").read_bytes() == (folder / "whole").read_bytes()


def test_many_row_groups_and_large_offsets(tmp_path: Path) -> None:
    parts = [pa.RecordBatch.from_pydict({"n": [f"{one}-{n}" for n in range(900)]}) for one in range(300)]
    write(tmp_path / "whole", parts)
    files: list[tuple[Path, int]] = []
    for first in range(0, 300, 75):
        write(tmp_path / f"p{first}", parts[first : first + 75])
        files.append((tmp_path / f"p{first}", 75 * 900))
    put_together(files, tmp_path / "again", stored(parts))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()
    assert pq.read_table(tmp_path / "again").equals(pq.read_table(tmp_path / "whole"))
