# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUnknownMemberType=false
"""The files of a retriever's source: Parquet and JSON Lines, read row by row into canonical columns."""

from __future__ import annotations

import codecs
import glob
import gzip
import io
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types as pt

from llmfeatures import columns
from llmfeatures.columns import pc
from llmfeatures.errors import InvalidValueError, SourceError, did_you_mean
from llmfeatures.retriever import VALID_TO, Retriever
from llmfeatures.types import DType, json_text

_LINES: Final = (".jsonl", ".ndjson")
_PACKED: Final = (".gz", ".zst")
_BATCH: Final = 8_192
_LOOKED_AT: Final = 100
"""So many lines are looked at for the names of columns."""
_STR, _TIMESTAMP = DType("str"), DType("timestamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a source: what it is for, its name in the files, its dtype, whether null is no value for it, and
    whether files need not have it."""

    role: str
    name: str
    dtype: DType
    needed: bool
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of a file in canonical columns, by the role of the column. ``first`` is the number of the first, from 1."""

    file: Path
    first: int
    count: int
    values: Mapping[str, Any]


def columns_of(retriever: Retriever) -> list[Column]:
    """The columns that a retriever's source must have."""
    source = retriever.source
    assert source is not None
    held = {renamed: name for name, renamed in source.columns.items()}
    found = [
        Column(role="id", name=held.get(source.id, source.id), dtype=_STR, needed=True),
        Column(role="text", name=held.get(source.text, source.text), dtype=_STR, needed=True),
    ]
    if retriever.entity is not None:
        found += [
            Column(role=f"key {name}", name=held.get(name, name), dtype=dtype, needed=True)
            for name, dtype in retriever.entity.join_keys.items()
        ]
    for role, name in (("valid_from", source.valid_from), ("valid_to", source.valid_to)):
        if name is not None:
            needed, optional = role == "valid_from", role == name == VALID_TO and name not in held
            column = Column(role=role, name=held.get(name, name), dtype=_TIMESTAMP, needed=needed, optional=optional)
            found.append(column)
    found += [
        Column(role=f"metadata {name}", name=held.get(name, name), dtype=dtype, needed=False)
        for name, dtype in retriever.metadata.items()
    ]
    return found


def label_of(retriever: Retriever) -> str:
    """A retriever and its source, as a message begins."""
    assert retriever.source is not None
    return f"retriever {retriever.name!r} ({retriever.source.path})"


def files_of(root: Path, retriever: Retriever) -> list[Path]:
    """The files of a source, sorted.

    Raises:
        SourceError: there is none, or one of another kind.
    """
    source = retriever.source
    assert source is not None
    label, path = label_of(retriever), source.path
    if "://" in path:
        raise SourceError(f"{label}: documents are read from files, not from URLs; copy them to a folder")
    whole = root / path
    if whole.is_file():
        found = [whole]
        if _kind(whole) is None:
            raise SourceError(
                f"{label}: a source of documents is a .parquet, .jsonl or .ndjson file (the latter also .gz or .zst)"
            )
    elif whole.is_dir():
        found = [one for one in whole.rglob("*") if one.is_file() and _kind(one) is not None]
    else:
        found = [root / one for one in glob.iglob(path, root_dir=root, recursive=True)]
        found = [one for one in found if one.is_file() and _kind(one) is not None]
    if found:
        return sorted(found)
    if whole.is_dir():
        raise SourceError(f"{label}: the folder has no .parquet, .jsonl or .ndjson file; write some")
    if glob.has_magic(path):
        raise SourceError(f"{label}: no file matches the glob; paths are relative to the project's root, {root}")
    beside = [one.name for one in whole.parent.glob("*.*") if _kind(one)] if whole.parent.is_dir() else []
    hint = did_you_mean(whole.name, beside) if beside else ""
    raise SourceError(f"{label}: there is no such file; paths are relative to the project's root, {root}{hint}")


def problems_of(root: Path, retriever: Retriever) -> list[str]:
    """What is wrong with the files and columns of a source. Rows are not read."""
    try:
        files = files_of(root, retriever)
    except SourceError as error:
        return [str(error)]
    assert retriever.source is not None
    found: list[str] = []
    for file in files:
        try:
            types, whole = _types(file, label_of(retriever))
        except SourceError as error:
            found.append(str(error))
            continue
        where = _where(retriever, file, len(files))
        found += [
            f"{where}: the rename of {name!r} names a column that is not there"
            for name in retriever.source.columns
            if name not in types and (types or _kind(file) != "lines")
        ]
        every = whole and len(files) == 1
        lines = _kind(file) == "lines"
        found += [f"{where}: {one}" for one in _wrong(columns_of(retriever), types, lines=lines, whole=every)]
    return found


def rows_of(root: Path, retriever: Retriever) -> Iterator[Rows]:
    """All rows of a source, file by file, each value canonical.

    Raises:
        SourceError: a file, a column or a row is not what the registry says.
    """
    label, wanted = label_of(retriever), columns_of(retriever)
    unseen = {one.name for one in wanted if one.role == "valid_to" and not one.optional}
    files, count = files_of(root, retriever), 0
    for file in files:
        parquet = _kind(file) == "parquet"
        for rows in _parquet(file, label, wanted) if parquet else _lines(file, label, wanted, unseen):
            for column in wanted:
                if column.needed:
                    _check_needed(label, rows, column)
            count += rows.count
            yield rows
        if parquet:
            unseen.clear()  # it had all columns
    if count and unseen:
        raise SourceError(f"{label}: no line has the column {min(unseen)!r} (valid_to); correct the name, or drop it")


def _check_needed(label: str, rows: Rows, column: Column) -> None:
    values = rows.values[column.role]
    if values.null_count:
        number = pc.index(values.is_null(), True).as_py()
        raise _bad(label, rows.file, rows.first + number, column, _absent(column))
    if column.role == "id":  # an empty join key is one, as in a view
        number = pc.index(values, pa.scalar("", values.type)).as_py()
        if number >= 0:
            raise _bad(label, rows.file, rows.first + number, column, "an empty text, which names nothing")


def wrong_row(retriever: Retriever, rows: Rows, number: int, role: str, reason: str) -> SourceError:
    """What is wrong with a row (from 0) of some."""
    column = next(one for one in columns_of(retriever) if one.role == role)
    return _bad(label_of(retriever), rows.file, rows.first + number, column, reason)


def _absent(column: Column) -> str:
    if column.role == "valid_from":
        return "null is no moment; say when it could be read first, or valid_from=None where all were always there"
    return "null, or not there; every document has one"


def _bad(label: str, file: Path, number: int, column: Column, reason: str) -> SourceError:
    row = "line" if _kind(file) == "lines" else "row"
    return SourceError(f"{label}: {row} {number} of {file.name}, column {column.name!r}: {reason}")


def _kind(file: Path) -> str | None:
    name = file.name.lower()
    for packed in _PACKED:
        if name.endswith(packed):
            return "lines" if name.removesuffix(packed).endswith(_LINES) else None
    return "parquet" if name.endswith(".parquet") else "lines" if name.endswith(_LINES) else None


def _where(retriever: Retriever, file: Path, files: int) -> str:
    return label_of(retriever) if files == 1 else f"{label_of(retriever)}, {file.name}"


def _types(file: Path, label: str) -> tuple[dict[str, Any], bool]:
    """The columns of a file and their Arrow types, None for those of lines; and whether these are all columns."""
    if _kind(file) == "parquet":
        with _translated(file, label):
            held = pq.read_schema(file)
        return dict(zip(held.names, held.types, strict=True)), True
    names: dict[str, Any] = {}
    for number, line in enumerate(_read_lines(file, label), 1):
        if line.strip():
            names.update(dict.fromkeys(_parsed(line, label, file, number)))
        if number >= _LOOKED_AT:
            return names, False
    return names, True


def _wrong(
    wanted: Sequence[Column], types: Mapping[str, Any], *, lines: bool = False, whole: bool = True
) -> Iterator[str]:
    for column in wanted:
        if column.name not in types:
            named = column.role == "valid_to" and whole
            if column.optional or (lines and not ((column.needed or named) and types)):
                continue  # null in each row
            hint = "; write valid_from=None where all were always there" if column.role == "valid_from" else ""
            yield f"there is no column {column.name!r} ({_role(column)}){did_you_mean(column.name, types)}{hint}"
        elif (held := types[column.name]) is not None:
            reason = _problem(column, held)
            if reason is not None and column.optional:
                reason += ", or say valid_to=None if it is something else"
            if reason is not None:
                yield f"column {column.name!r} ({_role(column)}): {reason}"


def _role(column: Column) -> str:
    kind, _, name = column.role.partition(" ")
    return {"key": f"join key {name!r}", "metadata": f"metadata {name!r}"}.get(kind, kind)


def _problem(column: Column, held: Any) -> str | None:
    if column.dtype.kind == "timestamp" and pt.is_date(held):
        return None
    reason = columns.problem(column.dtype, held)
    return None if reason is None else f"{reason.partition(';')[0]}; write the file with another type"


def _parquet(file: Path, label: str, wanted: Sequence[Column]) -> Iterator[Rows]:
    with _translated(file, label), pq.ParquetFile(file) as opened:
        names = opened.schema_arrow.names
        types = dict(zip(names, opened.schema_arrow.types, strict=True))
        for problem in _wrong(wanted, types):
            raise SourceError(f"{label}: {problem}")
        wanted = [one for one in wanted if one.name in types]
        first = 1
        for batch in opened.iter_batches(_BATCH, columns=list(dict.fromkeys(one.name for one in wanted))):
            values: dict[str, Any] = {}
            for column in wanted:
                held = batch.column(column.name)
                if column.dtype.kind == "timestamp" and pt.is_date(held.type):
                    held = held.cast(pa.timestamp("s"))
                made = columns.canonical(column.dtype, held)
                for number, reason in sorted(made.invalid.items()):
                    raise _bad(label, file, first + number, column, reason)
                values[column.role] = made.array
            yield Rows(file=file, first=first, count=len(batch), values=values)
            first += len(batch)


def _lines(file: Path, label: str, wanted: Sequence[Column], unseen: set[str]) -> Iterator[Rows]:
    """Of ``unseen`` columns, those that a line has are taken out."""
    held: dict[str, list[Any]] = {one.role: [] for one in wanted}
    numbers: list[int] = []

    def made() -> Rows:
        # lines without anything are no rows, so the numbers may have gaps
        values = {one.role: pa.array(held[one.role], one.dtype.arrow()) for one in wanted}
        return Rows(file=file, first=numbers[0], count=len(numbers), values=values)

    for number, line in enumerate(_read_lines(file, label), 1):
        if not line.strip():
            if numbers:
                yield made()
                numbers = []
                held = {one.role: [] for one in wanted}
            continue
        row = _parsed(line, label, file, number)
        if unseen:
            unseen.difference_update(row)
        for column in wanted:
            try:
                value = column.dtype.canonical(row.get(column.name))
            except InvalidValueError as error:
                raise _bad(label, file, number, column, str(error)) from None
            if value is not None and column.dtype.kind == "json":
                value = json_text(value)
            held[column.role].append(value)
        numbers.append(number)
        if len(numbers) == _BATCH:
            yield made()
            numbers = []
            held = {one.role: [] for one in wanted}
    if numbers:
        yield made()


def _parsed(line: bytes, label: str, file: Path, number: int) -> Mapping[str, Any]:
    try:
        row = orjson.loads(line)
    except ValueError:
        said = "is no JSON" if _is_utf8(line) else "is not in UTF-8; write the file in UTF-8"
        raise SourceError(f"{label}: line {number} of {file.name} {said}") from None
    if not isinstance(row, dict):
        raise SourceError(f"{label}: line {number} of {file.name} is no JSON object")
    return cast("dict[str, Any]", row)


def _is_utf8(line: bytes) -> bool:
    try:
        return "\0" not in line.decode()  # UTF-16 has them
    except UnicodeDecodeError:
        return False


def _read_lines(file: Path, label: str) -> Iterator[bytes]:
    lines = iter(_raw_lines(file, label))
    for first in lines:
        yield first.removeprefix(codecs.BOM_UTF8)
        yield from lines


def _raw_lines(file: Path, label: str) -> Iterable[bytes]:
    with _translated(file, label):
        if file.suffix.lower() == ".gz":
            with gzip.open(file) as opened:
                yield from opened
        elif file.suffix.lower() == ".zst":
            with pa.input_stream(str(file), compression="zstd") as packed, io.BufferedReader(packed) as opened:
                yield from opened
        else:
            with file.open("rb") as opened:
                yield from opened


@contextmanager
def _translated(file: Path, label: str) -> Generator[None]:
    try:
        yield
    except (OSError, EOFError, pa.ArrowException):
        raise SourceError(f"{label}: the file {file.name} cannot be read; write it again, or remove it") from None
