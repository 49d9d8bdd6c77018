# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""What keeps pushed rows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llmfeatures.types import DType

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """Rows of one push, to be kept all or none.

    ``columns`` has the dtype of each column of the view (join keys, then features), by name. ``rows`` has these, of
    the dtype's own Arrow type, then `PUSHED_EVENT` and `PUSHED_CREATED` as timestamp[us, UTC]; no time is null.
    ``received`` is the moment at which the push came. ``fresh``: the push id was made for this push, so nobody else can
    have used it.
    """

    push_id: str
    received: datetime
    columns: Mapping[str, DType]
    rows: pa.RecordBatch
    fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedRows:
    """Pushed rows with the same columns: Parquet ``files``, or a ``table`` in memory.

    ``columns`` has the names and dtypes that the view had when they were pushed. There are `PUSHED_EVENT`,
    `PUSHED_CREATED` and `PUSHED_RECEIVED` (timestamp[us, UTC]) and `PUSHED_ID` (text) besides.
    """

    columns: Mapping[str, DType]
    files: tuple[Path, ...] = ()
    table: pa.Table | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSize:
    """What the push log of a view takes: ``rows`` and ``pushes`` in all, ``waiting`` of the rows are not compacted
    yet; ``bytes`` on disk in ``segments`` and in compacted ``parts``."""

    rows: int
    pushes: int
    waiting: int
    bytes: int
    segments: int
    parts: int


class PushLog(Protocol):
    """Pushed rows, for ever: they are canonical data. Thread-safe, safe from many processes at once, usable after
    ``fork``.

    A push is kept whole or not at all, and is known by its id within its view: of two pushes with one id, the first
    that was kept counts, whatever the rows of the other. At no moment does a reader miss a row of a push that was
    acknowledged, or see it twice, whatever is compacted meanwhile.

    Methods raise `PushLogError` when the log cannot be read or written, and `FormatError` when what it holds has
    another format number.
    """

    @property
    def durable(self) -> str | None:
        """None when an acknowledged push survives the process and the machine; else a sentence that says why it would
        not, and what to do."""
        ...

    @property
    def caution(self) -> str | None:
        """A sentence on what an acknowledged push may not survive beyond that; None when nothing is known of it."""
        ...

    def append(self, view: str, push: Push) -> bool:
        """Keep a push. Returns once it is durable: True, or False when its id was known already (then that push, which
        is durable too, stays as it is). An error means that the push was not acknowledged: it may be sent again with
        the same id.
        """
        ...

    def rows(self, view: str) -> AbstractContextManager[tuple[PushedRows, ...]]:
        """All rows of a view, those of every acknowledged push among them, each once. Files stay for the length of the
        block. Rows that are pushed meanwhile may be there, each push whole or not at all."""
        ...

    def find(self, view: str, push_id: str) -> Push | None:
        """The push of this id; None when there is none."""
        ...

    def version(self, view: str) -> str:
        """A text that changes with every push of the view, and with nothing else."""
        ...

    def size(self, view: str) -> PushSize:
        """What the log of a view takes."""
        ...

    def compact(self, view: str) -> None:
        """Tidy up what can be: segments whose writers are done become Parquet, small files become one. Returns at once
        when somebody else is at it."""
        ...

    def close(self) -> None:
        """Give back what this log opened. It can be used again."""
        ...
