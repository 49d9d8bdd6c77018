# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUnknownMemberType=false
"""An embedded index in memory: one float32 matrix, and columns beside it, an entity's rows next to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from llmfeatures.clock import from_microseconds
from llmfeatures.ports import ALWAYS, FOREVER, Document
from llmfeatures.retrieval.index_files import (
    METADATA,
    PLAIN,
    Entry,
    Manifest,
    fixed_width,
    live,
    read_batches,
    schema,
)
from llmfeatures.types import DType

pc: Any = compute


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Rows by entity, id and newest version first: in this order ties are broken.

    ``matrix`` are the vectors (None without an embedder), ``norm`` the length of the longest. ``blocks`` say which rows
    an entity has.
    """

    manifest: Manifest
    table: Any
    keys: Any
    valid_from: Any
    valid_to: Any
    matrix: Any
    norm: float
    blocks: Mapping[str, tuple[int, int]]
    _coded: dict[str, tuple[Any, Mapping[str, int]]] = field(
        default_factory=dict[str, tuple[Any, Mapping[str, int]]], repr=False
    )

    def __len__(self) -> int:
        return len(self.valid_from)

    def coded(self, name: str) -> tuple[Any, Mapping[str, int]]:
        """A metadata column as numbers, and the number of each text in it; made when it is first asked for."""
        found = self._coded.get(name)
        if found is None:
            column = self.table.column(f"{METADATA}{name}").combine_chunks()
            encoded = (column.chunk(0) if isinstance(column, pa.ChunkedArray) else column).dictionary_encode()
            words = {word: number for number, word in enumerate(encoded.dictionary.to_pylist())}
            found = self._coded[name] = encoded.indices.to_numpy(zero_copy_only=False), words
        return found

    def documents(self, rows: Any, dtypes: Mapping[str, DType]) -> Callable[[int, float | None], Document]:
        """A function that makes documents of some rows, with a score."""
        table = self.table.take(pa.array(rows)) if len(rows) else self.table.slice(0, 0)
        plain = [table.column(name).to_pylist() for name in PLAIN]
        metadata = [
            [dtype.decode(one) for one in table.column(f"{METADATA}{name}").to_pylist()]
            for name, dtype in dtypes.items()
        ]
        bounds = self.valid_from[rows].tolist(), self.valid_to[rows].tolist()
        fields = {
            row: (*texts, dict(zip(dtypes, values, strict=True)), _begun(begins), _ended(ends))
            for row, texts, values, begins, ends in zip(
                rows.tolist(),
                zip(*plain, strict=True),
                zip(*metadata, strict=True) if metadata else repeat((), len(rows)),
                *bounds,
                strict=True,
            )
        }

        def made(row: int, score: float | None) -> Document:
            entity, name, version, text, values, begins, ends = fields[row]
            return Document(
                id=name,
                version=version,
                text=text,
                entity=entity,
                score=score,
                metadata=values,
                valid_from=begins,
                valid_to=ends,
            )

        return made


def _begun(count: int) -> datetime | None:
    return None if count <= ALWAYS else from_microseconds(count)


def _ended(count: int) -> datetime | None:
    return None if count >= FOREVER else from_microseconds(count)


def load(folder: Path, manifest: Manifest, before: Loaded | None = None) -> Loaded:
    """What a manifest says, in memory. Where ``before`` was of the same log, only what came since is read.

    Raises:
        FileNotFoundError: a file is gone, since the manifest was replaced.
        RetrieverUnavailableError: a file is damaged.
    """
    if before is not None:
        count = len(before.manifest.entries)
        since = manifest.entries[count:]
        if before.manifest.entries == manifest.entries[:count] and schema(before.manifest.meta) == schema(
            manifest.meta
        ):
            return _extended(folder, manifest, before, since) if since else replace(before, manifest=manifest)
    return _extended(folder, manifest, None, manifest.entries)


def _extended(folder: Path, manifest: Manifest, before: Loaded | None, entries: Sequence[Entry]) -> Loaded:
    held = schema(manifest.meta)
    plain = [one.name for one in held if one.name != "vector"]
    narrow = pa.schema([held.field(name) for name in plain])
    masks = live(folder, entries)
    parts: list[Any] = []
    old = 0
    if before is not None:
        kept = _not_in(before.keys, _keys_of(folder, entries)) if entries else np.ones(len(before), bool)
        old = int(kept.sum())
        parts.append(before.table.filter(pa.array(kept)))
    else:
        kept = None
    for mask, entry in zip(masks, (one for one in entries if not one.removed), strict=True):
        whole = pa.Table.from_batches(list(read_batches(folder, entry, plain)), narrow)
        parts.append(whole if mask.all() else whole.filter(pa.array(mask)))
    table = pa.concat_tables(parts) if parts else narrow.empty_table()
    order = pc.sort_indices(
        table,
        sort_keys=[
            ("entity", "ascending"), ("id", "ascending"), ("valid_from", "descending"), ("version", "descending"),
            ("key", "ascending"),
        ],
    ).to_numpy()  # fmt: skip
    table = table.take(pa.array(order)).combine_chunks()
    matrix, norm = None, 0.0
    if manifest.meta.dimensions is not None:
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        matrix = np.empty((len(order), manifest.meta.dimensions), np.float32)
        if before is not None:
            matrix[place[:old]] = before.matrix[kept]
        start = old
        for vectors in _vectors(folder, entries, masks):
            matrix[place[start : start + len(vectors)]] = vectors
            start += len(vectors)
        norm = _norm(matrix)
    return Loaded(
        manifest=manifest,
        table=table,
        keys=_numbers(table.column("key")),
        valid_from=table.column("valid_from").to_numpy(),
        valid_to=table.column("valid_to").to_numpy(),
        matrix=matrix,
        norm=norm,
        blocks=_blocks(table.column("entity")),
    )


def _keys_of(folder: Path, entries: Sequence[Entry]) -> Any:
    keys = [_numbers(one.column("key")) for entry in entries for one in read_batches(folder, entry, ["key"])]
    return np.concatenate(keys) if keys else np.empty((0, 2), np.uint64)


def _numbers(column: Any) -> Any:
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if not len(column):
        return np.empty((0, 2), np.uint64)
    return fixed_width(column, np.uint64, 2).copy()


def _not_in(keys: Any, others: Any) -> Any:
    """Which keys are not among the others."""
    known = {one.tobytes() for one in others}
    return np.array([one.tobytes() not in known for one in keys], bool)


def _vectors(folder: Path, entries: Sequence[Entry], masks: Sequence[Any]) -> Iterator[Any]:
    for mask, entry in zip(masks, (one for one in entries if not one.removed), strict=True):
        start = 0
        for batch in read_batches(folder, entry, ["vector"]):
            column = batch.column("vector")
            vectors = fixed_width(column, np.float32, column.type.byte_width // 4)
            yield vectors[mask[start : start + len(batch)]]
            start += len(batch)


def _norm(matrix: Any) -> float:
    longest = 0.0
    for start in range(0, len(matrix), 8_192):
        part = matrix[start : start + 8_192]
        longest = max(longest, float(np.einsum("ij,ij->i", part, part, dtype=np.float64).max()))
    return longest**0.5


def _blocks(column: Any) -> dict[str, tuple[int, int]]:
    blocks: dict[str, tuple[int, int]] = {}
    start = 0
    for chunk in column.chunks:
        runs, first = pc.run_end_encode(chunk), start
        for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            blocks[name] = blocks[name][0] if name in blocks else start, first + end
            start = first + end
    return blocks
