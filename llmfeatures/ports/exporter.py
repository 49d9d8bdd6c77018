# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""What writes the rows of a history."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


class Exporter(Protocol):
    """Writes historical prompts to a file. Atomic: the file is whole, or it is not there.

    One whose interrupted export is gone on with is a `llmfeatures.export.writing.ResumableExporter`; any other begins
    anew.
    """

    def write(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> int:
        """Write all batches (canonical rows, see `llmfeatures.history`) and return how many rows were written."""
        ...

    def opened(self, schema: pa.Schema, path: Path) -> AbstractContextManager[Callable[[pa.RecordBatch], int]]:
        """A function that writes a batch and returns how many rows it wrote; the file is there once the block ended."""
        ...
