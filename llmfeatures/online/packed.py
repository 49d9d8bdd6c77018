# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Rows in columns as script calls: whole columns are packed at once, without a Python object per row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from llmfeatures.export.json_columns import BYTES, bytes_of, joined, pc
from llmfeatures.online.layout import SCRIPT_BYTES, SCRIPT_KEYS, Call, Layout, bulks
from llmfeatures.ports import RowColumns


def row_calls(layout: Layout, rows: RowColumns, head: Sequence[str]) -> Iterator[Call]:
    """Calls of the script's ``write_columns`` on portions of rows. ``head`` are the arguments before the rows' own."""
    prefix = layout.prefix.encode()
    names = joined(*_bulk(joined(layout.prefix, rows.keys)))
    cells = joined(*(part for column in (rows.moments, *rows.values) for part in _bulk(column)))
    before = bulks(*head, str(len(prefix)))
    meta = bulks(layout.meta_key)
    width = 1 + len(rows.values)
    for start, end in _portions(cells):
        count = end - start
        packed = [
            bulks(str(count + 1)),
            meta,
            bytes_of(names.slice(start, count)),
            before,
            bytes_of(cells.slice(start, count)),
        ]
        yield Call(2 + count + len(head) + 1 + count * width, b"".join(packed))


def _bulk(column: Any) -> tuple[Any, ...]:
    """The parts of a word as Redis reads it: how long it is, and the word."""
    return "$", pc.binary_length(column).cast(pa.large_string()).cast(BYTES), "\r\n", column, "\r\n"


def _portions(cells: Any) -> Iterator[tuple[int, int]]:
    """Where the portions of one script call begin and end."""
    ends = memoryview(cells.buffers()[1]).cast("q")[cells.offset : cells.offset + len(cells) + 1]
    start = 0
    while start < len(cells):
        end = min(start + SCRIPT_KEYS, len(cells))
        while end - start > 1 and ends[end] - ends[start] > SCRIPT_BYTES:
            end = start + (end - start) // 2
        yield start, end
        start = end
