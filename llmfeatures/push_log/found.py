# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""One push, found again by its id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute

from llmfeatures.columns import python_values
from llmfeatures.ports import PUSHED_ID, PUSHED_RECEIVED, Push
from llmfeatures.push_log.ids import PushIds
from llmfeatures.push_log.manifest import Part
from llmfeatures.push_log.segment import id_digest, push_of, pushed_schema
from llmfeatures.push_log.snapshot import Seen
from llmfeatures.types import DType

_pc: Any = compute


def find(folder: Path, seen: Seen, index: Callable[[Part], PushIds], push_id: str) -> Push | None:
    """The push of this id among those of a folder, whose parts are pinned."""
    for tail in seen.tails:
        for frame in tail.frames:
            if frame.push_id == push_id:
                return push_of(frame, tail.header.columns)
    digest = id_digest(push_id)
    for part in seen.manifest.parts:
        if digest in index(part):
            return _in_part(folder / part.parquet, part, push_id)
    return None


def _in_part(path: Path, part: Part, push_id: str) -> Push | None:
    schema = pushed_schema(part.columns)
    with pq.ParquetFile(path) as file:  # its rows are sorted by key, so they may lie in several row groups
        parts = [
            file.read_row_group(number).filter(_pc.field(PUSHED_ID) == push_id)
            for number in range(file.num_row_groups)
            if _pc.any(_pc.equal(file.read_row_group(number, columns=[PUSHED_ID]).column(0), push_id)).as_py()
        ]
    if not parts:
        return None
    mine = pa.concat_tables(parts)
    (received,) = python_values(DType("timestamp"), mine.column(PUSHED_RECEIVED).slice(0, 1))
    rows = mine.select(schema.names).cast(schema).combine_chunks().to_batches()[0]
    return Push(push_id=push_id, received=received, columns=part.columns, rows=rows)
