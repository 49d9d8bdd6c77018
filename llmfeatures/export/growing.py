# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Files that grow batch by batch, and go on after an interruption with the same bytes as if there had been none.

Each has a ``state`` after a batch, a few numbers as JSON. Opened again with a state that was true at a `sync`, it is as
it was then: what came later is cut off.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from llmfeatures.export.parquet_files import parquet_writer, put_together, stored_schema
from llmfeatures.files import sync

_BEHIND = 2
"""How many batches of a Parquet file may wait to be written."""


class Appended:
    """A file that bytes are appended to. ``size`` is what it has of them; what is there beyond it is cut off.

    Raises:
        ValueError: there are not so many.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path, self.size = path, size
        if size and path.stat().st_size < size:
            raise ValueError(f"{path.name} has fewer bytes than it had")
        self._file = path.open("r+b" if size else "wb")
        self._file.truncate(size)
        self._file.seek(size)

    def write(self, data: Any) -> None:
        """Append bytes, or a buffer of them."""
        self._file.write(data)
        self.size += memoryview(data).nbytes

    def sync(self) -> None:
        """Have it all on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close it; what cannot be written any more is lost."""
        with suppress(OSError):
            self._file.close()


class _Codec(Protocol):
    """How lines become the bytes of a file, a batch at a time: what a batch becomes depends on that batch alone."""

    def head(self) -> bytes: ...
    def block(self, pieces: Sequence[Any]) -> Any: ...
    def tail(self, *, empty: bool) -> bytes: ...
    def state(self) -> Any: ...


class _Plain:
    def head(self) -> bytes:
        return b""

    def block(self, pieces: Sequence[Any]) -> Any:
        return _one(pieces)

    def tail(self, *, empty: bool) -> bytes:  # noqa: ARG002
        return b""

    def state(self) -> Any:
        return None


class _Zstd(_Plain):
    """A frame per batch: a Zstandard file is any number of them."""

    def block(self, pieces: Sequence[Any]) -> Any:
        return pa.compress(_one(pieces), codec="zstd")

    def tail(self, *, empty: bool) -> bytes:
        return pa.compress(b"", codec="zstd", asbytes=True) if empty else b""


class _Gzip:
    """One member, for readers that know no more, with the blocks of each batch compressed on their own."""

    def __init__(self, state: Sequence[int] | None) -> None:
        self._check, self._length = state or (0, 0)

    def head(self) -> bytes:
        return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"

    def block(self, pieces: Sequence[Any]) -> Any:
        compress = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        made: list[bytes] = []
        for one in pieces:
            made.append(compress.compress(one))
            self._check = zlib.crc32(one, self._check)
            self._length += memoryview(one).nbytes
        return b"".join([*made, compress.flush(zlib.Z_SYNC_FLUSH)])

    def tail(self, *, empty: bool) -> bytes:  # noqa: ARG002
        last = b"\x03\x00"  # a block of nothing that says it is the last one
        return last + self._check.to_bytes(4, "little") + (self._length % 2**32).to_bytes(4, "little")

    def state(self) -> Any:
        return [self._check, self._length]


def _one(pieces: Sequence[Any]) -> Any:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _codec(path: Path, state: Any) -> _Codec:
    return {".gz": lambda: _Gzip(state), ".zst": _Zstd}.get(path.suffix, _Plain)()


class LinesFile:
    """A file of lines in ``folder``, compressed as the name of ``path`` says."""

    def __init__(self, folder: Path, path: Path, state: Mapping[str, Any] | None) -> None:
        self._file = Appended(folder / path.name, state["size"] if state else 0)
        self._codec = _codec(path, state["codec"] if state else None)

    def write(self, *columns: Any) -> None:
        """Append the lines of a batch, in one column of bytes or several."""
        pieces = [_bytes_of(one) for one in columns if len(one)]
        if pieces:
            self._begin()
            self._file.write(self._codec.block(pieces))

    def state(self) -> dict[str, Any]:
        """Where it is."""
        return {"size": self._file.size, "codec": self._codec.state()}

    def sync(self) -> None:
        """Have it all on disk."""
        self._file.sync()

    def finish(self) -> Path:
        """Complete the file; it is on disk."""
        self._begin()
        self._file.write(self._codec.tail(empty=not self._file.size))
        self._file.sync()
        return self._file.path

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _begin(self) -> None:
        if not self._file.size:
            self._file.write(self._codec.head())


def _bytes_of(lines: Any) -> Any:
    """The bytes of a column of lines, without copying them."""
    _, offsets, data = lines.buffers()
    ends = memoryview(offsets).cast("q")
    start, end = ends[lines.offset], ends[lines.offset + len(lines)]
    return data.slice(start, end - start)


class ParquetParts:
    """A Parquet file in ``folder``, a row group per batch, encoded on a thread of its own: that needs no interpreter.

    Nobody can go on with a Parquet file, so `sync` ends one and what follows goes to another. They are put together at
    the end, to the bytes that one file would have had.

    Raises:
        RequestError: Parquet has no form for one of the columns.
        ValueError: what ``state`` says is there is not.
    """

    def __init__(self, folder: Path, path: Path, schema: pa.Schema, state: Mapping[str, Any] | None) -> None:
        self._folder, self._name, self._schema = folder, path.name, stored_schema(schema)
        self._ended: list[tuple[str, int]] = [(name, rows) for name, rows in state["parts"]] if state else []
        self._rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._pool = ThreadPoolExecutor(1, "llmfeatures-write")
        self._pending: deque[Future[None]] = deque()
        for name, rows in self._ended:
            if pq.read_metadata(folder / name).num_rows < rows:
                raise ValueError(f"{name} has fewer rows than it had")
        if not self._ended:
            self._writer = parquet_writer(folder / self._part, self._schema)

    @property
    def _part(self) -> str:
        return f"{self._name}.{len(self._ended)}"

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch, a few batches behind; what goes wrong is raised by a later call."""
        if not batch.num_rows:
            return
        if self._writer is None:
            self._writer = parquet_writer(self._folder / self._part, self._schema)
        while len(self._pending) > _BEHIND or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        stored = batch if batch.schema.equals(self._schema) else batch.cast(self._schema)
        self._pending.append(self._pool.submit(self._writer.write_batch, stored))
        self._rows += batch.num_rows

    def state(self) -> dict[str, Any]:
        """Where it is: the files so far, and how many of their rows count."""
        return {"parts": [*self._ended, (self._part, self._rows)] if self._rows else list(self._ended)}

    def sync(self) -> None:
        """Have it all on disk."""
        self._drain()
        if self._rows:
            self._end()

    def finish(self) -> Path:
        """Complete the file; it is on disk."""
        self._drain()
        if self._writer is not None:
            self._end()
        name, rows = self._ended[0]
        whole = self._folder / name
        if len(self._ended) > 1 or pq.read_metadata(whole).num_rows != rows:
            whole = self._folder / f"{self._name}.whole"
            put_together([(self._folder / part, rows) for part, rows in self._ended], whole, self._schema)
            sync(whole)
        return whole

    def close(self) -> None:
        """Give back what is open."""
        with suppress(Exception):
            self._drain()
        self._pool.shutdown(cancel_futures=True)
        if self._writer is not None:
            with suppress(Exception):
                self._writer.close()

    def _drain(self) -> None:
        while self._pending:
            self._pending.popleft().result()

    def _end(self) -> None:
        assert self._writer is not None
        self._writer.close()
        sync(self._folder / self._part)
        ended = (self._part, self._rows)
        self._writer, self._rows = None, 0
        self._ended.append(ended)
