# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Segments whose writers are done become Parquet, and small Parquet files become one.

A file is written whole and synced, then the manifest is replaced: that is the one step in which it begins to count and
what it stands for ends to. Files that no longer count are removed afterwards, those that a reader holds by a later run.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmfeatures.ports import PUSHED_EVENT, PUSHED_ID, PUSHED_RECEIVED
from llmfeatures.push_log.ids import PushIds, index_bytes
from llmfeatures.push_log.locks import lock_file, locked, sync_file, unlock
from llmfeatures.push_log.manifest import Manifest, Part, added, read_manifest, write_durably, write_manifest
from llmfeatures.push_log.segment import Frame, id_digest, kept_schema
from llmfeatures.push_log.snapshot import (
    Moved,
    Tail,
    by_columns,
    gone,
    index,
    read_tail,
    segment_names,
    table_of,
    unreadable,
)
from llmfeatures.push_log.writer import NEW

LOCK = ".compaction.lock"
AT_ONCE = 256 * 2**20
"""Bytes of segments that become one file."""
TOGETHER = 8
"""So many files of about one size become one."""
_SETTLED = 20_000_000
"""Rows of a file that is large enough."""
_ROW_GROUP = 100_000
_ABANDONED = 60


def compact(folder: Path, *, at_once: int = AT_ONCE, together: int = TOGETHER) -> bool:
    """Tidy up a view's folder; False when somebody else is at it.

    Raises:
        PushLogError: something could not be written. Nothing is lost: the segments stay.
        FormatError: a file is of another format.
    """
    if not folder.is_dir():
        return True
    try:
        with lock_file(folder / LOCK, wait=False) as mine:
            if not mine:
                return False
            _remove_leftovers(folder, read_manifest(folder))
            while _segments_to_parts(folder, at_once):
                pass
            while _merge(folder, together):
                pass
            _remove_leftovers(folder, read_manifest(folder))
    except (Moved, FileNotFoundError):  # only who holds the lock moves files
        raise gone() from None
    except OSError as error:
        raise unreadable(error) from None
    return True


def _segments_to_parts(folder: Path, at_once: int) -> bool:
    """One round; whether there may be more."""
    manifest = read_manifest(folder)
    done: list[str] = []
    tails: list[Tail] = []
    size = 0
    for name in segment_names(folder):
        if name not in manifest.replaced and _abandoned(folder / name):
            done.append(name)
            tail = read_tail(folder, name)
            if tail is not None:
                tails.append(tail)
                size += tail.bytes
            if size >= at_once:
                break
    if not done:
        return False
    known = [index(folder, part) for part in manifest.parts]
    seen: set[bytes] = set()
    made: list[Part] = []
    for columns, held in by_columns(tails):
        frames = [one for one in held if _is_new(id_digest(one.push_id), seen, known)]
        if frames:
            made.append(_part_of(folder, columns, frames))
    there = set(segment_names(folder))
    replaced = frozenset(one for one in manifest.replaced if one in there) | frozenset(done)
    write_manifest(folder, Manifest(parts=(*manifest.parts, *made), replaced=replaced))
    _remove_segments(folder, done)
    return size >= at_once


def _is_new(digest: bytes, seen: set[bytes], known: Iterable[PushIds]) -> bool:
    if digest in seen or any(digest in one for one in known):
        return False
    seen.add(digest)
    return True


def _abandoned(path: Path) -> bool:
    """Whether nobody appends to a segment any more."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return locked(handle)
    finally:
        unlock(handle)
        os.close(handle)


def _part_of(folder: Path, columns: Mapping[str, Any], frames: Sequence[Frame]) -> Part:
    table = table_of(columns, frames)
    keys = [name for name in table.column_names if not name.startswith("_")][:1]
    sorted_ = table.sort_by([*((name, "ascending") for name in keys), (PUSHED_EVENT, "ascending")])
    digests = {id_digest(one.push_id) for one in frames}
    return _written(folder, columns, sorted_.to_batches(max_chunksize=_ROW_GROUP), digests)


def _written(folder: Path, columns: Mapping[str, Any], batches: Iterable[Any], digests: Iterable[bytes]) -> Part:
    """A part, on disk; it counts once the manifest names it."""
    name = f"part-{secrets.token_hex(8)}"
    unfinished = folder / f".{name}.parquet.part"
    rows = 0
    schema = kept_schema(columns)
    coded: Any = [*(one for one, dtype in columns.items() if dtype.kind in ("str", "enum")), PUSHED_ID, PUSHED_RECEIVED]
    with pq.ParquetWriter(unfinished, schema, compression="zstd", use_dictionary=coded) as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=_ROW_GROUP)
            rows += batch.num_rows
    sync_file(unfinished)
    kept = sorted(digests)
    part = Part(
        name=name,
        columns=columns,
        rows=rows,
        pushes=len(kept),
        bytes=unfinished.stat().st_size,
        ids=_sum(kept),
    )
    unfinished.rename(folder / part.parquet)
    write_durably(folder / part.index, index_bytes(kept))  # has both names on disk, before a manifest can be there
    return part


def _sum(digests: Iterable[bytes]) -> int:
    total = 0
    for one in digests:
        total = added(total, int.from_bytes(one, "big"))
    return total


def _merge(folder: Path, together: int) -> bool:
    """Make one file of some of about one size; whether there may be more to do."""
    manifest = read_manifest(folder)
    sizes: dict[tuple[Any, ...], list[Part]] = {}
    for part in manifest.parts:
        if part.rows < _SETTLED:
            sizes.setdefault((tuple(part.columns.items()), _tier(part.rows, together)), []).append(part)
    some = next((parts[:together] for parts in sizes.values() if len(parts) >= together), None)
    if some is None:
        return False
    digests: list[bytes] = []
    for part in some:
        digests += index(folder, part)
    merged = _written(folder, some[0].columns, _batches(folder, some), digests)
    kept = tuple(one for one in manifest.parts if one not in some)
    write_manifest(folder, replace(manifest, parts=(*kept, merged)))
    return True


def _tier(rows: int, together: int) -> int:
    """Files of one tier have about the same size: within a factor of ``together``."""
    tier, most = 0, 1_000
    while rows > most:
        tier, most = tier + 1, most * together
    return tier


def _batches(folder: Path, parts: Sequence[Part]) -> Iterator[Any]:
    """The rows of parts, those of small ones gathered into whole row groups."""
    pending: list[Any] = []
    rows = 0
    for part in parts:
        with pq.ParquetFile(folder / part.parquet, pre_buffer=False) as file:
            schema = kept_schema(part.columns)
            for batch in file.iter_batches(_ROW_GROUP):
                pending.append(batch.cast(schema) if batch.schema != schema else batch)
                rows += batch.num_rows
                if rows >= _ROW_GROUP:
                    yield from _gathered(pending)
                    pending, rows = [], 0
    yield from _gathered(pending)


def _gathered(pending: Sequence[Any]) -> list[Any]:
    return pa.Table.from_batches(pending).combine_chunks().to_batches() if pending else []


def _remove_segments(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        with suppress(OSError):  # the manifest says that it does not count; a later run removes it
            (folder / name).unlink()


def _remove_leftovers(folder: Path, manifest: Manifest) -> None:
    """Remove what does not count: replaced segments, parts that were merged or never published, unfinished files."""
    named = {name for part in manifest.parts for name in (part.parquet, part.index)}
    for name in os.listdir(folder):  # noqa: PTH208  names are enough
        path = folder / name
        if name in manifest.replaced or name.endswith(".part"):
            _remove_segments(folder, [name])
        elif name.startswith("part-") and name not in named:
            _remove_unheld(path)
        elif name.endswith(NEW) and _old(path) and _abandoned(path):
            _remove_segments(folder, [name])


def _old(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - _ABANDONED
    except OSError:
        return False


def _remove_unheld(path: Path) -> None:
    """Remove a file unless a reader holds it."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if locked(handle):
                path.unlink()
        finally:
            unlock(handle)
            os.close(handle)
