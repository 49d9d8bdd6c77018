"""Spines: every kind of table that a join takes, as one stream of record batches with its types as they came.

A spine is a path (``.parquet .csv .jsonl .ndjson .json .arrow .feather``, or a glob of one kind) or an object: a
pyarrow Table, RecordBatch, RecordBatchReader or Dataset, a pandas or polars frame or anything else with
``__arrow_c_stream__``, a DuckDB relation, a list of dicts, a dict of lists. It is read once.
"""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
from __future__ import annotations

import glob
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa
from pyarrow import types as pt

from llmfeatures import columns
from llmfeatures.clock import as_utc, microseconds
from llmfeatures.errors import InvalidValueError, SpineError, did_you_mean
from llmfeatures.offline import sql
from llmfeatures.types import DType, clean_text

KINDS = (
    "a path (.parquet, .csv, .jsonl, .ndjson, .json, .arrow, .feather), an Arrow table or reader, a pandas or polars "
    "frame, a DuckDB relation, a list of dicts or a dict of lists"
)
BATCH_ROWS = 20_000
"""Rows of a batch, as a join gives them back."""
_RESIDENT_BYTES = 32 << 20
"""A spine that streams in stays in memory up to this size; a larger one waits in a file for its answers."""
_CSV_TYPES = {"int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN"}
"""The types that a CSV file has besides text."""
_TEXT_KEYS = ("date", "timestamp", "decimal")
"""Join keys that may be text in a spine: they have an exact text form."""


@dataclass(frozen=True, slots=True)
class Spine:
    """An opened spine. ``resident``: its batches are slices of a table that is in memory anyway."""

    schema: Any
    batches: Iterable[Any]
    resident: bool = False


@contextmanager
def opened(source: object, dtypes: Mapping[str, DType]) -> Generator[Spine]:
    """Open a spine. ``dtypes`` are those of columns which a CSV file must not give as what they look like.

    Raises:
        SpineError: it cannot be read, or is no spine.
    """
    con: duckdb.DuckDBPyConnection | None = None
    try:
        if isinstance(source, (str, Path)):
            files, suffix = _files(str(source))
            if suffix in ("csv", "jsonl", "ndjson", "json"):
                con = duckdb.connect()
                for setting in ("TimeZone='UTC'", "python_enable_replacements=false"):
                    con.execute(f"SET {setting}").fetchall()
                with _readable(str(source)):
                    spine = _csv(con, files, dtypes) if suffix == "csv" else _json(con, files)
            else:
                with _readable(str(source)):
                    spine = _dataset(files, "parquet" if suffix == "parquet" else "ipc")
            yield Spine(spine.schema, _guarded(spine.batches, str(source)))
        else:
            spine = _object(source)
            yield Spine(spine.schema, _guarded(spine.batches, "the object"), spine.resident)
    finally:
        if con is not None:
            con.close()


@contextmanager
def _readable(name: str) -> Generator[None]:
    """Turn the errors of readers into a `SpineError`. What they say may hold values, so it is not repeated."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError, UnicodeError) as error:
        raise SpineError(
            f"the spine {name} cannot be read ({type(error).__name__}); check that it is whole and of the kind that "
            "its name says"
        ) from None


def _guarded(batches: Iterable[Any], name: str) -> Iterator[Any]:
    with _readable(name):
        yield from batches


def _files(path: str) -> tuple[list[str], str]:
    """The files of a path or glob, sorted, and their kind."""
    if Path(path).is_file():
        files = [path]
    elif Path(path).is_dir():
        raise SpineError(f"the spine {path} is a folder; name its files with a glob, like {path}/*.parquet")
    else:
        files = sorted(one for one in glob.glob(path, recursive=True) if Path(one).is_file())
    if not files:
        raise SpineError(f"the spine {path} is not there; a path is relative to the folder you are in")
    suffixes = {Path(one.removesuffix(".gz")).suffix.lower().removeprefix(".") for one in files}
    known = {"parquet", "csv", "jsonl", "ndjson", "json", "arrow", "arrows", "feather"}
    if len(suffixes) > 1:
        raise SpineError(f"the spine {path} mixes files of several kinds; give files of one kind")
    suffix = suffixes.pop()
    if suffix not in known:
        raise SpineError(f"the spine {path} is of no known kind; a spine is {KINDS}")
    return files, suffix


def _list(files: Iterable[str]) -> str:
    return f"[{', '.join(sql.literal(sql.glob_safe(one)) for one in files)}]"


def _csv(con: duckdb.DuckDBPyConnection, files: Sequence[str], dtypes: Mapping[str, DType]) -> Spine:
    options = f"{_list(files)}, header=true, sample_size=-1, allow_quoted_nulls=false, union_by_name=true"
    there = con.sql(f"SELECT * FROM read_csv({options}) LIMIT 0").columns
    types = ", ".join(
        f"{sql.literal(name)}: {sql.literal(_CSV_TYPES.get(dtypes[name].kind, 'VARCHAR'))}"
        for name in there
        if name in dtypes
    )
    reader = con.sql(
        f"SELECT * FROM read_csv({options}, types={{{types}}})" if types else f"SELECT * FROM read_csv({options})"
    )
    return _reader(reader.to_arrow_reader(BATCH_ROWS))


def _json(con: duckdb.DuckDBPyConnection, files: Sequence[str]) -> Spine:
    if not any(Path(one).stat().st_size for one in files):
        return _table(pa.table({}))
    options = f"{_list(files)}, union_by_name=true"
    guessed = con.sql(f"SELECT * FROM read_json({options}, sample_size=-1) LIMIT 0")
    types = ", ".join(
        f"{sql.literal(name)}: {sql.literal(_as_written(kind))}"
        for name, kind in zip(guessed.columns, guessed.types, strict=True)
    )
    return _reader(con.sql(f"SELECT * FROM read_json({options}, columns={{{types}}})").to_arrow_reader(BATCH_ROWS))


def _as_written(kind: Any) -> str:
    """The type of a JSON column without DuckDB's guesses: text that looks like a date or a UUID stays text."""
    if kind.id == "struct":
        return f"STRUCT({', '.join(f'{sql.ident(name)} {_as_written(one)}' for name, one in kind.children)})"
    if kind.id == "list":
        return f"{_as_written(kind.children[0][1])}[]"
    if kind.id == "map":
        return f"MAP(VARCHAR, {_as_written(kind.children[1][1])})"
    if kind.id == "uuid" or kind.id.startswith(("date", "time", "interval", "sqlnull")):
        return "VARCHAR"
    return "JSON" if str(kind) == '"NULL"' else str(kind)


def _parquet(file: str) -> Spine:
    """One Parquet file, without pyarrow.dataset: that imports pandas where it is installed, which takes longer."""
    import pyarrow.parquet as pq

    opened = pq.ParquetFile(file)
    return Spine(opened.schema_arrow, opened.iter_batches(batch_size=BATCH_ROWS))


def _dataset(files: Sequence[str], kind: str) -> Spine:
    if kind == "parquet" and len(files) == 1:
        return _parquet(files[0])
    import pyarrow.dataset as ds

    try:
        schemas = [ds.dataset(one, format=kind).schema for one in files]
    except pa.ArrowInvalid:
        if kind != "ipc" or len(files) > 1:
            raise
        with pa.OSFile(files[0]) as file:
            return _reader(pa.ipc.open_stream(file.read_buffer()))
    schema = pa.unify_schemas(schemas, promote_options="permissive") if len(schemas) > 1 else schemas[0]
    return _scanned(ds.dataset(list(files), schema=schema, format=kind))


def _scanned(dataset: Any) -> Spine:
    scanner = dataset.scanner(batch_size=BATCH_ROWS, batch_readahead=4, fragment_readahead=1)
    return _reader(scanner.to_reader())


def _reader(reader: Any) -> Spine:
    return Spine(reader.schema, reader)


def _table(table: Any) -> Spine:
    return Spine(table.schema, table.to_batches(max_chunksize=BATCH_ROWS), resident=True)


def _object(source: Any) -> Spine:
    """A spine from an object, by what it can do and by the module of its type: nothing is imported to look."""
    module = type(source).__module__.partition(".")[0]
    with _readable("object"):
        if isinstance(source, (pa.Table, pa.RecordBatch)):
            return _table(pa.Table.from_batches([source]) if isinstance(source, pa.RecordBatch) else source)
        if isinstance(source, pa.RecordBatchReader):
            return _reader(source)
        if module == "pyarrow" and hasattr(source, "scanner"):
            return _scanned(source)
        if module in ("duckdb", "_duckdb") and hasattr(source, "to_arrow_reader"):
            return _reader(source.to_arrow_reader(BATCH_ROWS))
        if module == "pandas" and hasattr(source, "columns"):
            return _pandas(source)
        if hasattr(source, "__arrow_c_stream__"):
            return _reader(pa.RecordBatchReader.from_stream(source))
    if isinstance(source, Mapping):
        return _table(_of_columns(cast("Mapping[Any, Any]", source)))
    if isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray)):
        return _table(_of_rows(cast("Sequence[Any]", source)))
    raise SpineError(f"a {type(source).__name__} is no spine; a spine is {KINDS}")


def _pandas(frame: Any) -> Spine:
    """A pandas frame without its index. Arrow names the column that it cannot take only in words, so each is tried."""
    try:
        return _table(pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        _each(
            zip(frame.columns, (frame.iloc[:, i] for i in range(len(frame.columns))), strict=True), pa.Array.from_pandas
        )
        raise SpineError(
            "the spine's frame cannot become an Arrow table; its column names are not distinct text"
        ) from None


def _of_columns(given: Mapping[Any, Any]) -> Any:
    arrays = _each(
        given.items(),
        lambda values: pa.array(_clean(values)) if isinstance(values, (list, tuple)) else pa.array(values),
    )
    if len({len(one) for one in arrays}) > 1:
        raise SpineError("the spine's columns differ in length; give each the same number of values")
    return pa.table(arrays, names=[str(name) for name in given])


def _of_rows(given: Sequence[Any]) -> Any:
    names: dict[str, None] = {}
    for row in given:
        if not isinstance(row, Mapping):
            raise SpineError(f"a spine as a list has a dict for each row, not a {type(row).__name__}")
        names.update(dict.fromkeys(cast("Mapping[str, Any]", row)))
    arrays = _each(
        ((name, [row.get(name) for row in given]) for name in names), lambda values: pa.array(_clean(values))
    )
    return pa.table(arrays, names=[str(name) for name in names])


def _each(given: Iterable[tuple[Any, Any]], make: Callable[[Any], Any]) -> list[Any]:
    arrays: list[Any] = []
    for name, values in given:
        try:
            arrays.append(make(values))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            raise SpineError(
                f"the spine's column {name!r} mixes types, or holds one that Arrow does not have"
            ) from None
    return arrays


def _clean(values: Sequence[Any]) -> list[Any]:
    return [clean_text(one) if isinstance(one, str) else one for one in values]


@dataclass(slots=True)
class Spool:
    """Batches of a spine that wait for their answers: in memory while they are few, then in a file."""

    schema: Any
    folder: Callable[[], Path]
    resident: bool
    _kept: list[Any] = field(default_factory=list[Any])
    _bytes: int = 0
    _path: Path | None = None
    _writer: Any = None

    def add(self, batch: Any) -> None:
        """Keep a batch."""
        if self._writer is not None:
            self._writer.write_batch(batch)
            return
        self._kept.append(batch)
        self._bytes += 0 if self.resident else batch.get_total_buffer_size()
        if self._bytes > _RESIDENT_BYTES:
            self._path = self.folder() / f"spine-{id(self)}.arrows"
            self._writer = pa.ipc.new_stream(str(self._path), self.schema)
            for one in self._kept:
                self._writer.write_batch(one)
            self._kept.clear()

    def batches(self) -> Iterator[Any]:
        """The batches in the order they were added, once."""
        if self._writer is None:
            yield from self._kept
            return
        self._writer.close()
        with pa.OSFile(str(self._path)) as file:  # a mapped file would stay in memory as far as it was read
            yield from pa.ipc.open_stream(file)

    def close(self) -> None:
        """Forget the batches."""
        self._kept.clear()
        if self._writer is not None:
            with suppress(OSError, pa.ArrowException):  # it ends the file, which may be on a full disk
                self._writer.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def rebatched(batches: Iterable[Any], rows: int) -> Iterator[Any]:
    """The same rows in batches of exactly ``rows``, the last one shorter."""
    pieces: list[Any] = []
    count = 0
    for batch in batches:
        at = 0
        while at < batch.num_rows:
            piece = batch.slice(at, rows - count)
            pieces.append(piece)
            at += piece.num_rows
            count += piece.num_rows
            if count == rows:
                yield _one(pieces)
                pieces, count = [], 0
    if pieces:
        yield _one(pieces)


def _one(pieces: Sequence[Any]) -> Any:
    return pieces[0] if len(pieces) == 1 else pa.Table.from_batches(pieces).combine_chunks().to_batches()[0]


def no_rows(schema: Any) -> Any:
    """A batch without rows."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, one) for one in schema.types], schema=schema)


def column(batch_or_schema: Any, name: str, role: str) -> int:
    """The position of a column that a join needs.

    Raises:
        SpineError: it is not there, or there twice.
    """
    found = [position for position, one in enumerate(batch_or_schema.names) if one == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise SpineError(f"the spine has {len(found)} columns named {name!r}; rename all but the {role}")
    raise SpineError(f"the spine has no column {name!r} for the {role}{did_you_mean(name, batch_or_schema.names)}")


def check_key(name: str, dtype: DType, held: Any) -> None:
    """Refuse a column that cannot be a join key of this dtype.

    Raises:
        SpineError: it is of another class; nothing is converted silently.
    """
    if dtype.kind in _TEXT_KEYS and columns.problem(DType("str"), held) is None:
        return
    reason = columns.problem(dtype, held)
    if reason is not None:
        said = reason.partition(";")[0]
        whole = (
            "; in pandas, an int column with nulls is a float one: .astype('Int64') keeps it"
            if pt.is_floating(held)
            else ""
        )
        raise SpineError(f"the spine's column {name!r}: {said}, which the join key is; give it that type{whole}")


def key(dtype: DType, array: Any) -> Any:
    """A spine's join key column as canonical values, timestamps as microseconds; what is no value becomes null."""
    if columns.problem(dtype, array.type) is None:
        made = columns.canonical(dtype, array).array
    else:
        made = columns.array_of(dtype, [_read(dtype, one) for one in columns.whole(array).to_pylist()])
    return made.view(pa.int64()) if dtype.kind == "timestamp" else made


def _read(dtype: DType, written: str | None) -> Any:
    try:
        return dtype.canonical(written)
    except InvalidValueError:
        return None


def moments(name: str, array: Any, first: int) -> Any:
    """A spine's moments as microseconds; null outside the years 1 to 9999. ``first`` is the number of its first row.

    Raises:
        SpineError: the column holds no moments.
    """
    held = columns.whole(array.slice(0, 0)).type
    if pt.is_date(held):
        days = columns.canonical(DType("date"), array).array
        return days.cast(pa.timestamp("s")).cast(pa.timestamp("us")).view(pa.int64())
    if columns.problem(DType("timestamp"), held) is None:
        return columns.canonical(DType("timestamp"), array).array.view(pa.int64())
    if columns.problem(DType("str"), held) is not None:
        raise SpineError(
            f"the spine's column {name!r} is of type {held}; moments are timestamps, dates or ISO 8601 text"
        )
    counts: list[int | None] = []
    known: dict[str | None, int | None] = {None: None}
    for row, written in enumerate(columns.whole(array).to_pylist()):
        if written not in known:
            try:
                known[written] = microseconds(as_utc(written))
            except InvalidValueError as error:
                raise SpineError(f"the spine's column {name!r}, row {first + row}: {error}") from None
        counts.append(known[written])
    return pa.array(counts, pa.int64())
