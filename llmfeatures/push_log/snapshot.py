# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""What a view's folder holds at one moment, read without keeping anybody waiting.

Segments are listed before the manifest is read: one that was replaced since is in the manifest, with the Parquet that
stands for it, and one that was removed since makes the reader begin again. Parquet files are held by a shared lock,
which keeps whoever tidies up from removing them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from llmfeatures.errors import PushLogError
from llmfeatures.ports import PushedRows
from llmfeatures.push_log.ids import PushIds
from llmfeatures.push_log.locks import locked, unlock
from llmfeatures.push_log.manifest import Manifest, Part, read_manifest
from llmfeatures.push_log.segment import (
    SUFFIX,
    Frame,
    Header,
    frames,
    id_digest,
    kept_rows,
    kept_schema,
    pushed_schema,
    read_header,
    rows_of,
)

_PATIENCE = 30.0
T = TypeVar("T")


class Moved(Exception):  # noqa: N818  no error: begin again
    """A file was replaced while the folder was looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """A segment that is not compacted: its name, its size, and its whole pushes."""

    name: str
    bytes: int
    header: Header
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A view's folder: the manifest, and the pushes that are in no part of it, each once."""

    manifest: Manifest
    tails: tuple[Tail, ...]


def steadily(look: Callable[[], T]) -> T:
    """Look again until nothing moved meanwhile.

    Raises:
        PushLogError: it never came to rest, or files cannot be read.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return look()
        except Moved:
            if time.monotonic() > deadline:
                raise gone() from None
            time.sleep(0.001)
        except OSError as error:
            raise unreadable(error) from None


def gone() -> PushLogError:
    """What to say when a file is not there that should be."""
    return PushLogError("the push log's files are gone that its manifest names; restore them")


def unreadable(error: OSError) -> PushLogError:
    """What to say when a file of the log cannot be read."""
    return PushLogError(f"the push log cannot be read: {error.strerror}: {error.filename}; give this process access")


def segment_names(folder: Path) -> list[str]:
    """The segments in a folder, oldest first; none when it is not there."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX))  # noqa: PTH208  names are enough
    except (FileNotFoundError, NotADirectoryError):
        return []


def current(folder: Path) -> tuple[Manifest, list[str]]:
    """The manifest, and the names of the segments that it does not stand for."""
    names = segment_names(folder)
    manifest = read_manifest(folder)
    return manifest, [name for name in names if name not in manifest.replaced]


def read_bytes(path: Path) -> bytes:
    """A segment as it is now.

    Raises:
        Moved: it is gone.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Moved from None


def index(folder: Path, part: Part) -> PushIds:
    """The push ids of a part.

    Raises:
        Moved: it is gone.
    """
    try:
        return PushIds(folder / part.index)
    except FileNotFoundError:
        raise Moved from None


def look(folder: Path, indexes: Callable[[Part], PushIds], pins: ExitStack | None) -> Seen:
    """Look at a folder. With ``pins``, the files of its parts stay until that is closed.

    Raises:
        Moved: something was replaced meanwhile; look again.
        FormatError: a file is of another format.
    """
    manifest, names = current(folder)
    if pins is not None:
        with ExitStack() as held:
            for part in manifest.parts:
                _pin(folder / part.parquet, held)
            pins.push(held.pop_all())
    compacted = [indexes(part) for part in manifest.parts] if names else []
    tails: list[Tail] = []
    known: set[bytes] = set()
    for name in names:
        tail = read_tail(folder, name)
        if tail is not None:
            kept: list[Frame] = []
            for frame in tail.frames:
                digest = id_digest(frame.push_id)
                if digest not in known and not any(digest in one for one in compacted):
                    known.add(digest)
                    kept.append(frame)
            tails.append(Tail(name=name, bytes=tail.bytes, header=tail.header, frames=tuple(kept)))
    return Seen(manifest=manifest, tails=tuple(tails))


def read_tail(folder: Path, name: str) -> Tail | None:
    """A segment; None when it was cut before its header ended.

    Raises:
        Moved: it is gone.
        FormatError: it is of another format.
    """
    data = read_bytes(folder / name)
    found = read_header(name, data)
    if found is None:
        return None
    header, start = found
    return Tail(name=name, bytes=len(data), header=header, frames=tuple(frames(data, start, header.key)))


def _pin(path: Path, held: ExitStack) -> None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Moved from None
    held.callback(os.close, handle)
    held.callback(unlock, handle)
    if not locked(handle, shared=True):
        raise Moved  # it is being removed
    try:
        if not os.path.samestat(os.fstat(handle), path.stat()):
            raise Moved
    except FileNotFoundError:
        raise Moved from None


def tables(folder: Path, seen: Seen) -> tuple[PushedRows, ...]:
    """The rows of a folder: those with the same columns together."""
    files: dict[tuple[Any, ...], list[Part]] = {}
    for part in seen.manifest.parts:
        files.setdefault(tuple(part.columns.items()), []).append(part)
    found = [
        PushedRows(columns=parts[0].columns, files=tuple(folder / one.parquet for one in parts))
        for parts in files.values()
    ]
    for columns, held in by_columns(seen.tails):
        table = table_of(columns, held)
        if table.num_rows:
            found.append(PushedRows(columns=columns, table=table))
    return tuple(found)


def count_rows(tail: Tail) -> int:
    """How many rows the pushes of a segment have."""
    schema = pushed_schema(tail.header.columns)
    return sum(rows_of(one, schema).num_rows for one in tail.frames)


def by_columns(tails: Sequence[Tail]) -> Iterator[tuple[Mapping[str, Any], list[Frame]]]:
    """The pushes of segments, those with the same columns together."""
    grouped: dict[tuple[Any, ...], tuple[Mapping[str, Any], list[Frame]]] = {}
    for tail in tails:
        columns = tail.header.columns
        grouped.setdefault(tuple(columns.items()), (columns, []))[1].extend(tail.frames)
    yield from grouped.values()


def table_of(columns: Mapping[str, Any], held: Sequence[Frame]) -> Any:
    """The rows of pushes with these columns."""
    schema = pushed_schema(columns)
    return pa.Table.from_batches([kept_rows(one, schema) for one in held], kept_schema(columns))
