"""The manifest of a view's push log, format 1: which Parquet files count, and which segments they stand for.

It is replaced in one step, so a reader sees segments before it and Parquet after it, and nothing in between.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from llmfeatures.errors import FormatError
from llmfeatures.push_log.locks import sync_data, sync_folder, write_all
from llmfeatures.push_log.segment import DIGEST
from llmfeatures.types import DType, parse_dtype

FORMAT = 1
FILE = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A Parquet file ``NAME.parquet``, with its index of push ids ``NAME.ids``.

    ``ids`` is the sum of the digests of its push ids, as whole numbers: it says which pushes these are, in whatever
    files they lie.
    """

    name: str
    columns: Mapping[str, DType]
    rows: int
    pushes: int
    bytes: int
    ids: int

    @property
    def parquet(self) -> str:
        """The name of the file of its rows."""
        return f"{self.name}.parquet"

    @property
    def index(self) -> str:
        """The name of the file of its push ids."""
        return f"{self.name}.ids"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """``parts`` count. ``replaced`` are segments whose pushes are in them; their files may still be there."""

    parts: tuple[Part, ...] = ()
    replaced: frozenset[str] = field(default_factory=frozenset[str])


def added(ids: int, more: int) -> int:
    """The sum of two sums of digests."""
    return (ids + more) % 2 ** (8 * DIGEST)


def manifest_text(manifest: Manifest) -> str:
    """The file's content."""
    parts = [
        {
            "name": one.name,
            "columns": {name: str(dtype) for name, dtype in one.columns.items()},
            "rows": one.rows,
            "pushes": one.pushes,
            "bytes": one.bytes,
            "ids": f"{one.ids:032x}",
        }
        for one in manifest.parts
    ]
    return json.dumps({"format": FORMAT, "parts": parts, "replaced": sorted(manifest.replaced)}, indent=1) + "\n"


def parse_manifest(text: str, where: str) -> Manifest:
    """The manifest of a file's content.

    Raises:
        FormatError: it is of another format, or damaged.
    """
    damaged = FormatError(f"{where} is damaged; restore it from a backup: it says which pushed rows count")
    try:
        fields = cast("dict[str, Any]", json.loads(text))
        found = fields["format"]
    except (ValueError, TypeError, KeyError):
        raise damaged from None
    if found != FORMAT:
        raise FormatError(f"{where} has format {found}, this version reads {FORMAT}; upgrade llmfeatures")
    try:
        parts = tuple(
            Part(
                name=one["name"],
                columns={name: parse_dtype(dtype) for name, dtype in one["columns"].items()},
                rows=one["rows"],
                pushes=one["pushes"],
                bytes=one["bytes"],
                ids=int(one["ids"], 16),
            )
            for one in fields["parts"]
        )
        return Manifest(parts=parts, replaced=frozenset(fields["replaced"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise damaged from None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a view's folder; an empty one when there is none yet.

    Raises:
        FormatError: it is of another format, or damaged.
    """
    path = folder / FILE
    try:
        return parse_manifest(path.read_text(encoding="utf-8"), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return Manifest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest, durably. Only who holds the folder's compaction lock may."""
    write_durably(folder / FILE, manifest_text(manifest).encode())


def write_durably(path: Path, data: bytes) -> None:
    """Put a whole file in its place."""
    part = path.with_name(f".{path.name}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        write_all(handle, data)
        sync_data(handle)
    finally:
        os.close(handle)
    part.replace(path)
    sync_folder(path.parent)
