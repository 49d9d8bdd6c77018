# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUnknownMemberType=false
"""What lies in the folder of an embedded index, format 1: Parquet files, each written once, and a manifest that says
which of them count. It is replaced as a whole, so whoever reads it finds one state or the next.

The files are a log: records, and keys of records that were removed since. Of a key the last word counts.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmfeatures.clock import as_utc, stamp
from llmfeatures.errors import FormatError, LLMFeaturesError, RequestError, RetrieverError, RetrieverUnavailableError
from llmfeatures.files import replacing
from llmfeatures.ports import INDEX_FORMAT, DocumentRecord, IndexMeta
from llmfeatures.types import parse_dtype

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT: Final = INDEX_FORMAT
MANIFEST: Final = "manifest.json"
_LOCK = "lock"
_OURS: Final = re.compile(r"[0-9a-f]{32}\.parquet|\.([0-9a-f]{32}\.parquet|manifest\.json)\..*\.part")
_PATIENCE = 60.0
_KEY = pa.binary(16)
_ROWS = 4_096
"""Rows of a group in a file, and in memory at once when files are rewritten."""
PLAIN: Final = ("entity", "id", "version", "text")
METADATA: Final = "m_"
"""Before the name of a metadata column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file of the log: records, or the keys of ``removed`` ones."""

    file: str
    rows: int
    removed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an index is, and which files count, in order."""

    meta: IndexMeta
    entries: tuple[Entry, ...] = ()


Mark = tuple[int, int, int]
"""Another one after each change of the manifest."""


def mark_of(folder: Path) -> Mark | None:
    """The mark of the manifest there is; it costs one system call. None: there is none."""
    try:
        status = os.stat(folder / MANIFEST)  # noqa: PTH116  a third of what Path.stat takes
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(folder, error) from None
    return status.st_ino, status.st_mtime_ns, status.st_size


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest; None when there is none.

    Raises:
        FormatError: it is of another format.
        RetrieverUnavailableError: it is damaged.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(folder, error) from None
    found: Any = None
    try:
        held = json.loads(text)
        found = held["format"]
        if found == FORMAT:
            watermark = held["watermark"]
            meta = IndexMeta(
                format=FORMAT,
                model=held["model"],
                dimensions=held["dimensions"],
                metadata=dict(held["metadata"]),
                watermark=None if watermark is None else as_utc(watermark),
            )
            return Manifest(meta=meta, entries=tuple(Entry(**one) for one in held["entries"]))
    except (ValueError, KeyError, TypeError, AttributeError, LLMFeaturesError):
        raise _damaged(folder, f"{folder / MANIFEST} is damaged") from None
    raise FormatError(
        f"the index in {folder} has format {found}, this version reads {FORMAT}; upgrade llmfeatures, or run "
        f"llmfeatures materialize {folder.name} --full with this one"
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest, durably."""
    meta = manifest.meta
    held = {
        "format": FORMAT,
        "model": meta.model,
        "dimensions": meta.dimensions,
        "metadata": dict(meta.metadata),
        "watermark": None if meta.watermark is None else stamp(meta.watermark),
        "entries": [asdict(one) for one in manifest.entries],
    }
    with _kept(folder / MANIFEST) as part:
        part.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Be the only one that writes to the folder, which is made.

    Raises:
        RetrieverError: it cannot be made or written.
        RetrieverUnavailableError: somebody has been writing for a minute.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        _wait(handle, folder)
        yield
    finally:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)  # a child process has the file open too
        os.close(handle)


def _wait(handle: int, folder: Path) -> None:
    deadline, pause = time.monotonic() + _PATIENCE, 0.001
    while fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RetrieverUnavailableError(
                    f"another process has been writing to {folder} for too long; is it stopped?"
                ) from None
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        except OSError as error:
            raise _unwritable(folder, error) from None
        else:
            return


def tidy(folder: Path, manifest: Manifest) -> None:
    """Remove files of ours that no manifest names: of those who died. Only whoever writes may do this."""
    kept = {one.file for one in manifest.entries}
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name not in kept and _OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)


def schema(meta: IndexMeta) -> Any:
    """The columns of a file of records. Metadata are canonical JSON texts; a vector is its float32 bytes."""
    fields = [pa.field("key", _KEY)]
    fields += [pa.field(name, pa.large_string()) for name in PLAIN]
    fields += [pa.field("valid_from", pa.int64()), pa.field("valid_to", pa.int64())]
    fields += [pa.field(f"{METADATA}{name}", pa.large_string()) for name in meta.metadata]
    if meta.dimensions is not None:
        fields.append(pa.field("vector", pa.binary(4 * meta.dimensions)))
    return pa.schema(fields)


def write_records(folder: Path, meta: IndexMeta, records: Sequence[DocumentRecord]) -> Entry:
    """A new file of records.

    Raises:
        RetrieverError: a record is not one of this index, or the folder cannot be written.
    """
    columns: dict[str, Any] = {"key": [bytes.fromhex(one.key) for one in records]}
    for name in (*PLAIN, "valid_from", "valid_to"):
        columns[name] = [getattr(one, name) for one in records]
    dtypes = {name: parse_dtype(written) for name, written in meta.metadata.items()}
    for name, dtype in dtypes.items():
        columns[f"{METADATA}{name}"] = [dtype.encode(dtype.from_json(one.metadata.get(name))) for one in records]
    if meta.dimensions is not None:
        columns["vector"] = [_vector_bytes(one, meta.dimensions) for one in records]
    held = schema(meta)
    made = pa.table([pa.array(columns[field.name], field.type) for field in held], schema=held)
    return _write(folder, held, iter([made]), len(records))


def write_removed(folder: Path, keys: Sequence[str]) -> Entry:
    """A new file of removed keys."""
    held = pa.schema([pa.field("key", _KEY)])
    made = pa.table([pa.array([bytes.fromhex(one) for one in keys], _KEY)], schema=held)
    entry = _write(folder, held, iter([made]), len(keys))
    return Entry(file=entry.file, rows=entry.rows, removed=True)


def rewritten(folder: Path, manifest: Manifest) -> Entry | None:
    """A new file of all records that count, sorted as little as they were; None where none counts."""
    alive = live(folder, manifest.entries)
    rows = int(sum(int(one.sum()) for one in alive))
    if not rows:
        return None
    return _write(folder, schema(manifest.meta), _alive_rows(folder, manifest, alive), rows)


def _alive_rows(folder: Path, manifest: Manifest, alive: Iterable[Any]) -> Iterator[Any]:
    counting = iter(alive)
    names = schema(manifest.meta).names  # metadata may have had another order
    for entry in manifest.entries:
        if entry.removed:
            continue
        mask, start = next(counting), 0
        for batch in read_batches(folder, entry, names):
            chosen = mask[start : start + len(batch)]
            start += len(batch)
            if chosen.any():
                yield pa.Table.from_batches([batch.filter(pa.array(chosen))])


def read_batches(folder: Path, entry: Entry, columns: Sequence[str] | None) -> Iterator[Any]:
    """A file's rows, batch by batch.

    Raises:
        FileNotFoundError: it is gone, since the manifest was replaced.
        RetrieverUnavailableError: it is damaged.
    """
    path = folder / entry.file
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(_ROWS, columns=None if columns is None else list(columns))
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException):
        raise _damaged(folder, f"{path} cannot be read") from None


def live(folder: Path, entries: Sequence[Entry]) -> list[Any]:
    """Which rows count, a mask for each file of records."""
    keys: list[Any] = []
    for entry in entries:
        keys += [_keys_of(one.column("key")) for one in read_batches(folder, entry, ["key"])]
    records = [one for one in entries if not one.removed]
    total = sum(one.rows for one in entries)
    alive = np.zeros(total, bool)
    if total:
        held = np.concatenate(keys)
        order = np.lexsort((np.arange(total), held[:, 1], held[:, 0]))
        ordered = held[order]
        last = np.ones(total, bool)
        last[:-1] = (ordered[1:] != ordered[:-1]).any(axis=1)
        alive[order[last]] = True
    masks: list[Any] = []
    start = 0
    for entry in entries:
        if not entry.removed:
            masks.append(alive[start : start + entry.rows])
        start += entry.rows
    assert len(masks) == len(records)
    return masks


def live_keys(folder: Path, manifest: Manifest) -> Iterator[str]:
    """The keys of the records that count."""
    masks = iter(live(folder, manifest.entries))
    for entry in manifest.entries:
        if entry.removed:
            continue
        mask, start = next(masks), 0
        for batch in read_batches(folder, entry, ["key"]):
            chosen = mask[start : start + len(batch)]
            start += len(batch)
            yield from [key.hex() for key in batch.column("key").filter(pa.array(chosen)).to_pylist()]


def fixed_width(array: Any, dtype: Any, width: int) -> Any:
    """The bytes of a column of fixed size as numbers, a row each; no copy."""
    size = array.type.byte_width
    held = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * size : (array.offset + len(array)) * size]
    return held.view(dtype).reshape(len(array), width)


def _keys_of(array: Any) -> Any:
    return fixed_width(array, np.uint64, 2).copy()


def _vector_bytes(record: DocumentRecord, dimensions: int) -> bytes:
    vector = record.vector
    made = np.asarray([] if vector is None else vector, np.float32)
    if made.shape != (dimensions,) or not np.isfinite(made).all():
        raise RetrieverError(f"a record's vector is no {dimensions} finite numbers; materialize with --full")
    return made.tobytes()


def _write(folder: Path, held: Any, tables: Iterator[Any], rows: int) -> Entry:
    name = f"{uuid.uuid4().hex}.parquet"
    texts = [field.name for field in held if field.name not in ("key", "vector", "id", "version")]
    opened: Any = pq.ParquetWriter  # its stubs are too narrow
    with (
        _kept(folder / name) as part,
        opened(
            part,
            held,
            compression={field.name: "zstd" if field.name in texts else "none" for field in held},
            use_dictionary=[one for one in texts if one not in ("text", "valid_from", "valid_to")],
            write_statistics=False,
        ) as writer,
    ):
        for table in tables:
            writer.write_table(table, row_group_size=_ROWS)
    return Entry(file=name, rows=rows)


@contextmanager
def _kept(path: Path) -> Generator[Path]:
    try:
        with replacing(path) as part:
            yield part
    except (RequestError, OSError) as error:
        raise _unwritable(path.parent, error) from None


def _unwritable(folder: Path, error: Exception) -> RetrieverError:
    said = error.strerror if isinstance(error, OSError) else str(error)
    return RetrieverError(f"the index in {folder} cannot be written: {said}; correct [retrieval] url")


def _damaged(folder: Path, said: str) -> RetrieverUnavailableError:
    return RetrieverUnavailableError(f"{said}; run llmfeatures materialize {folder.name} --full")


def _unreadable(folder: Path, error: OSError) -> RetrieverUnavailableError:
    return RetrieverUnavailableError(f"the index in {folder} cannot be read: {error.strerror}; correct [retrieval] url")


def marked(meta: IndexMeta, watermark: datetime | None) -> IndexMeta:
    """The same with another watermark."""
    return IndexMeta(
        format=FORMAT, model=meta.model, dimensions=meta.dimensions, metadata=meta.metadata, watermark=watermark
    )
