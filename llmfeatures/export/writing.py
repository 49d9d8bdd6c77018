# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Writing rows: the format a file's name means, and the files of a split by entity."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import compute

from llmfeatures.errors import RequestError
from llmfeatures.files import partial_folder, sync
from llmfeatures.ports import Exporter
from llmfeatures.types import text

pc: Any = compute
_FORMATS = {".jsonl": "chat", ".jsonl.gz": "chat", ".jsonl.zst": "chat", ".parquet": "parquet"}
_SHARE = "a split is name=share, as in train=0.8,test=0.2; shares are above 0 and sum to 1"


class Writing(ABC):
    """A dataset that is being written into a folder. It can be given up, and gone on with, after each batch."""

    @abstractmethod
    def add(self, batch: pa.RecordBatch) -> int:
        """Write a batch of canonical rows and return how many rows it wrote.

        Raises:
            RequestError: the format's tool would misread a row; the message says which.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Where it is after the last `add`: a few numbers and texts, as JSON takes them."""

    @abstractmethod
    def sync(self) -> None:
        """Have on disk what was added. The last `state` is then one to go on from, whatever happens later."""

    @abstractmethod
    def finish(self) -> dict[Path, Path]:
        """Complete the dataset: each file in the folder, on disk, and where it belongs."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is open; called in any case, and never raises."""


class RowExporter(ABC):
    """A format, written batch by batch."""

    @abstractmethod
    def opened(self, schema: pa.Schema, path: Path) -> AbstractContextManager[Callable[[pa.RecordBatch], int]]:
        """A function that writes a batch and returns how many rows it wrote; the file is there when the block ends
        well, and not at all when it does not."""

    def write(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> int:
        """As `Exporter.write`."""
        with self.opened(schema, path) as add:
            return sum(add(batch) for batch in batches)


class ResumableExporter(RowExporter):
    """A format whose writing can be interrupted and gone on with, to the same bytes."""

    @abstractmethod
    def begun(self, schema: pa.Schema, path: Path, folder: Path, state: Mapping[str, Any] | None) -> Writing:
        """Begin a dataset that belongs at ``path``, or go on with one.

        Args:
            schema: of the canonical rows.
            path: its name says how lines are compressed.
            folder: where to write; on the filesystem of ``path``.
            state: what `Writing.state` said, in an earlier run, before a `Writing.sync`; None begins.

        Raises:
            RequestError: the format has no form for one of the columns.
        """

    @contextmanager
    def opened(self, schema: pa.Schema, path: Path) -> Generator[Callable[[pa.RecordBatch], int], None, None]:
        """As `RowExporter.opened`."""
        with partial_folder(path) as folder:
            writing = self.begun(schema, path, folder, None)
            try:
                yield writing.add
                made = writing.finish()
            finally:
                writing.close()
            for part, place in made.items():
                part.replace(place)
            sync(path.parent)


def format_of(path: Path) -> str:
    """The format that a file's suffix means.

    Raises:
        RequestError: it means none.
    """
    for suffix, name in _FORMATS.items():
        if path.name.endswith(suffix):
            return name
    raise RequestError(f"{path.name} does not say its format; end it in .parquet or .jsonl, or give a format")


def suffixes(path: Path) -> tuple[str, str]:
    """A file's name without its suffix, and the suffix, ``.jsonl.gz`` and ``.jsonl.zst`` as one."""
    if path.suffix in {".gz", ".zst"}:
        inner = path.with_suffix("")
        return inner.stem, inner.suffix + path.suffix
    return path.stem, path.suffix


def shares(split: str | Mapping[str, float]) -> dict[str, float]:
    """The shares of a split by name, from a mapping or from text such as ``train=0.8,test=0.2``.

    Raises:
        RequestError: it names a part twice, or the shares are not above 0 with a sum of 1.
    """
    pairs = [one.partition("=")[::2] for one in split.split(",")] if isinstance(split, str) else list(split.items())
    made: dict[str, float] = {}
    for written, share in pairs:
        name = written.strip()
        try:
            number = float(share)
        except (TypeError, ValueError):
            raise RequestError(f"split: {name!r} has no number for a share; {_SHARE}") from None
        if not name.isidentifier() or name == "index" or name in made:
            raise RequestError(f"split: {name!r} is no name for a part, or is there twice; {_SHARE}")
        if not 0 < number <= 1:
            raise RequestError(f"split: the share of {name!r} is {number}; {_SHARE}")
        made[name] = number
    if not math.isclose(sum(made.values()), 1, abs_tol=1e-9):
        raise RequestError(f"split: the shares sum to {sum(made.values()):g}; {_SHARE}")
    return made


def part_paths(path: Path, names: Iterable[str]) -> dict[str, Path]:
    """Where each part of a split goes: ``out.jsonl.gz`` gives ``out.train.jsonl.gz``."""
    stem, suffix = suffixes(path)
    return {name: path.with_name(f"{stem}.{name}{suffix}") for name in names}


def index_path(path: Path) -> Path:
    """Where the index of a chat file goes: ``out.jsonl.gz`` gives ``out.index.parquet``."""
    return path.with_name(f"{suffixes(path)[0]}.index.parquet")


def write_parts(
    exporter: Exporter,
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    path: Path,
    *,
    split: Mapping[str, float],
    seed: int,
    keys: Sequence[str],
) -> int:
    """Write each row to the file of its part, and return how many rows were written.

    The part depends on ``seed`` and the row's join keys ``keys`` alone, so an entity is in the same one for any spine.

    Raises:
        RequestError: there are no join keys to split by.
    """
    parted = parts_of(split, seed, keys)
    paths = part_paths(path, split)
    with ExitStack() as files:
        adds = [files.enter_context(exporter.opened(schema, paths[name])) for name in split]
        return sum(add(part) for batch in batches for add, part in zip(adds, parted(batch), strict=True))


def parts_of(
    split: Mapping[str, float], seed: int, keys: Sequence[str]
) -> Callable[[pa.RecordBatch], list[pa.RecordBatch]]:
    """A function that gives the rows of a batch that belong to each part of a split.

    Raises:
        RequestError: there are no join keys to split by.
    """
    if not keys:
        raise RequestError("split: the prompt has no join key to split by; leave the split out")

    def parted(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        parts = _parts(batch, split, seed, keys)
        return [batch.filter(pc.equal(parts, number)) for number in range(len(split))]

    return parted


def _parts(batch: pa.RecordBatch, split: Mapping[str, float], seed: int, keys: Sequence[str]) -> Any:
    entity = batch.column("entity")
    columns = [pc.struct_field(entity, key).to_pylist() for key in keys]
    known: dict[tuple[Any, ...], int] = {}
    made: list[int] = []
    for key in zip(*columns, strict=True):
        if key not in known:
            known[key] = _part(key, list(split.values()), seed)
        made.append(known[key])
    return pa.array(made, pa.int32())


def _part(key: tuple[Any, ...], bounds: Sequence[float], seed: int) -> int:
    written = orjson.dumps([seed, *(None if one is None else text(one) for one in key)])
    point = int.from_bytes(sha256(written).digest()[:8], "big") / 2**64
    for number, share in enumerate(bounds[:-1]):
        if point < share:
            return number
        point -= share
    return len(bounds) - 1
