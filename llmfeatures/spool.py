# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Batches of winning rows set aside on disk, so that all of them can be looked at before the first is used."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmfeatures.ports import LatestBatch


class Spool:
    """The batches, in a file; ``rows`` of them in all, and ``nulls`` of each column of features."""

    def __init__(self, path: Path, batches: Iterable[LatestBatch]) -> None:
        self._path = path
        self._keys = 0
        self._non_finite: list[int] = []
        self.rows = 0
        self.nulls: list[int] = []
        writer: Any = None
        try:
            for batch in batches:
                arrays = [*batch.keys, batch.event, batch.created, *batch.columns]
                made: Any = pa.RecordBatch.from_arrays(arrays, [str(number) for number in range(len(arrays))])
                if writer is None:
                    writer = pa.ipc.new_stream(str(path), made.schema)
                    self._keys, self.nulls = len(batch.keys), [0] * len(batch.columns)
                writer.write_batch(made)
                self._non_finite.append(batch.non_finite)
                self.rows += made.num_rows
                self.nulls = [
                    count + column.null_count for count, column in zip(self.nulls, batch.columns, strict=True)
                ]
        finally:
            if writer is not None:
                writer.close()

    def batches(self) -> Iterator[LatestBatch]:
        """All of them, in their order."""
        if not self._non_finite:
            return
        with pa.ipc.open_stream(str(self._path)) as reader:
            for made, non_finite in zip(reader, self._non_finite, strict=True):
                columns: Any = made.columns
                yield LatestBatch(
                    keys=tuple(columns[: self._keys]),
                    event=columns[self._keys],
                    created=columns[self._keys + 1],
                    columns=tuple(columns[self._keys + 2 :]),
                    non_finite=non_finite,
                )


@contextmanager
def spooled(batches: Iterable[LatestBatch]) -> Generator[Spool]:
    """The batches, set aside for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="llmfeatures-") as folder:
        yield Spool(Path(folder) / "batches.arrow", batches)
