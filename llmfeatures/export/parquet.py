# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Canonical Parquet: every column of a historical prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmfeatures.export.growing import ParquetParts
from llmfeatures.export.writing import ResumableExporter, Writing


class ParquetExporter(ResumableExporter):
    """Writes the canonical rows as they are. The file's metadata carries the format number."""

    def begun(self, schema: pa.Schema, path: Path, folder: Path, state: Mapping[str, Any] | None) -> Writing:
        """As `ResumableExporter.begun`."""
        return ParquetWriting(ParquetParts(folder, path, schema, state), path)


class ParquetWriting(Writing):
    """One Parquet file; ``form`` makes its rows of canonical ones, where they are not the same."""

    def __init__(
        self, file: ParquetParts, path: Path, form: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None
    ) -> None:
        self._file, self._path, self._form = file, path, form

    def add(self, batch: pa.RecordBatch) -> int:
        """As `Writing.add`."""
        made = batch if self._form is None else self._form(batch)
        self._file.write(made)
        return made.num_rows

    def state(self) -> dict[str, Any]:
        """As `Writing.state`."""
        return self._file.state()

    def sync(self) -> None:
        """As `Writing.sync`."""
        self._file.sync()

    def finish(self) -> dict[Path, Path]:
        """As `Writing.finish`."""
        return {self._file.finish(): self._path}

    def close(self) -> None:
        """As `Writing.close`."""
        self._file.close()
