"""A view's sources as DuckDB sees them: which files or query, which column holds what, and what is wrong with them."""

from __future__ import annotations

import glob
import re
from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from pyarrow import types as pt

from llmfeatures.columns import problem, sql_type
from llmfeatures.errors import FormatError, PushLogError, SourceError, did_you_mean
from llmfeatures.offline import carried, pushed, sql
from llmfeatures.offline.carried import Slot
from llmfeatures.offline.pushed import PushedTable, Reading
from llmfeatures.ports import PUSHED_RECEIVED, Relation
from llmfeatures.schema import Aggregation, Feature, FeatureView, ParquetSource, PushSource
from llmfeatures.types import DType

_HIVE = re.compile(r"([^/=]+)=([^/]*)")
_NAMED_FILE = re.compile(r"""["']([^"']+\.\w+)["']""")
_SPILLED = re.compile(r"""["']([^"']*)[/\\]llmfeatures-\w+[/\\]spilled\b""")
_SHOWN = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.IOException)
_MICROSECOND = timedelta(microseconds=1)
_INTERRUPTED = "query interrupted"
SHORT = "not enough memory or temporary disk; raise memory_limit under [offline], or free some disk"
_FAMILIES = (
    "SELECT DISTINCT name, CASE "
    "WHEN type IN ('FLOAT', 'DOUBLE', 'BOOLEAN') THEN lower(type) "
    "WHEN logical_type IS NOT NULL THEN lower(regexp_extract(logical_type, '^(\\w+?)(Type)?\\b', 1)) "
    "WHEN converted_type IN ('UTF8', 'ENUM', 'JSON') THEN 'string' "
    "WHEN type IN ('INT32', 'INT64') THEN 'int' ELSE lower(type) END AS family "
    "FROM parquet_schema({files}) WHERE num_children IS NULL AND type IS NOT NULL"
)


def run(con: duckdb.DuckDBPyConnection, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement to its end: an open result would block the connection's next one.

    Raises:
        KeyboardInterrupt: at Ctrl-C, which DuckDB says in its own way.
    """
    with interruptible():
        return con.execute(statement).fetchall()


@contextmanager
def interruptible() -> Generator[None]:
    """Have Ctrl-C be what it is elsewhere, whatever DuckDB and Arrow make of it."""
    try:
        yield
    except Exception as error:
        if _INTERRUPTED in str(error).lower():
            raise KeyboardInterrupt from None
        raise


def relations(view: FeatureView) -> list[Relation]:
    """The batch history of a view, as a list of one; none for pushed rows without one."""
    source = view.batch
    if source is None:
        return []
    held = {renamed: name for name, renamed in source.columns.items()}
    return [
        Relation(
            source=source,
            keys={name: held.get(name, name) for name in view.entity.join_keys},
            event=held.get(source.event_timestamp, source.event_timestamp),
            created=None
            if source.created_timestamp is None
            else held.get(source.created_timestamp, source.created_timestamp),
            values={
                one.name: held.get(one.column or one.name, one.column or one.name) for one in read_of(view).features
            },
        )
    ]


def read_of(view: FeatureView) -> FeatureView:
    """The view as its source must have it: a plain feature for each column that an aggregation reads as its dtype."""
    if not view.aggregates:
        return view
    plain: list[Feature] = []
    for one in view.aggregations:
        if one.function not in UNTYPED:
            dtype = one.dtype.item if one.function == "last_n" else one.dtype
            assert dtype is not None
            plain.append(Feature(one.name, dtype, column=one.column))
    return view.model_copy(update={"features": tuple(plain)})


UNTYPED = ("count", "count_distinct")
"""Functions that take a column of any type."""


def untyped(view: FeatureView) -> dict[str, str]:
    """The source's column, by feature, of each aggregation that takes any type."""
    held = {} if view.batch is None else {renamed: name for name, renamed in view.batch.columns.items()}
    return {
        one.name: held.get(one.column, one.column)
        for one in view.features
        if isinstance(one, Aggregation) and one.function in UNTYPED and one.column is not None
    }


@dataclass(frozen=True, slots=True)
class Described:
    """A relation that was looked at: its table expression and the Arrow type of each of its columns.

    ``files`` is the pattern of its Parquet files, None for a query and for pushed rows. ``held`` are the types of its
    columns as DuckDB writes them. ``landed`` is SQL for the last moment, in microseconds, at which a row may have come
    into sight, None where only its own timestamps tell.
    """

    view: FeatureView
    relation: Relation
    table: str
    types: dict[str, Any]
    empty: frozenset[str] = frozenset()
    files: str | None = None
    held: Mapping[str, str] = field(default_factory=dict[str, str])
    landed: str | None = None

    @property
    def read(self) -> Hashable:
        """Relations for which this is equal have the same rows, keys and timestamps: they differ in features only."""
        relation, dtypes = self.relation, self.view.entity.join_keys.values()
        return self.table, tuple(relation.keys.values()), tuple(dtypes), relation.event, relation.created

    def rows(self, features: Sequence[str]) -> str:
        """A SELECT of the join keys (``k0…``), the timestamps (``e``, ``c``) and the features (``v0…``) as they are."""
        return self.selected({f"v{number}": one.value for number, one in enumerate(self.slots(features))})

    def slots(self, features: Sequence[str]) -> list[Slot]:
        """What to select for these features."""
        return [self._slot(self.view.feature(name)) for name in features]

    def selected(self, values: Mapping[str, str], until: int | None = None, *, landed: bool = False) -> str:
        """As `rows`, with values by name. ``until`` leaves out rows of later events, as far as statistics of files can
        tell: those they cannot tell about may be there. ``landed``: also the moment ``r`` at which a row may have come
        into sight, below every time where nothing tells."""
        columns = [
            f"{sql.key(self._column(column), dtype, self.types[column])} AS k{number}"
            for number, (column, dtype) in enumerate(
                zip(self.relation.keys.values(), self.view.entity.join_keys.values(), strict=True)
            )
        ]
        event, created = self.relation.event, self.relation.created
        columns.append(f"{sql.micros(self._column(event), self.types[event])} AS e")
        written = (
            sql.NONE_CREATED if created is None else sql.created_micros(self._column(created), self.types[created])
        )
        columns.append(f"{written}::BIGINT AS c")
        if landed:
            columns.append(f"{self.landed or sql.NONE_CREATED}::BIGINT AS r")
        columns += [f"{value} AS {name}" for name, value in values.items()]
        selected = f"SELECT {', '.join(columns)} FROM {self.table} AS _source"
        within = None if until is None else sql.until(self._column(event), self.types[event], until)
        return selected if within is None else f"{selected} WHERE {within}"

    def _column(self, name: str) -> str:
        return f"_source.{sql.ident(name)}"

    def _slot(self, feature: Feature) -> Slot:
        column = self.relation.values[feature.name]
        if column in self.empty:
            return Slot(Slot("", None, feature.dtype).nothing, None, feature.dtype)
        return Slot(self._column(column), self.held.get(column, ""), feature.dtype)


def rows(described: Sequence[Described], features: Sequence[str], *, landed: bool = False) -> str:
    """All rows of a view's relations; see `Described.selected`."""
    return _united([(one, one.slots(features)) for one in described], None, landed=landed)


def _united(parts: Sequence[tuple[Described, Sequence[Slot]]], until: int | None, *, landed: bool = False) -> str:
    """All rows of relations, each with what it has of the same features."""
    if len(parts) == 1:
        one, slots = parts[0]
        values = {f"v{number}": slot.value for number, slot in enumerate(slots)}
        return one.selected(values, until, landed=landed)
    selected, outer = carried.named([slots for _, slots in parts])
    united = " UNION ALL BY NAME ".join(
        one.selected(values, until, landed=landed) for (one, _), values in zip(parts, selected, strict=True)
    )
    times = ["e", "c", *(["r"] if landed else [])]
    keys = sql.names("k", len(parts[0][0].relation.keys))
    return f"SELECT {sql.commas(keys, times, outer)} FROM ({united})"


def shared_rows(
    described: Sequence[Sequence[Described]], features: Sequence[Sequence[str]], until: int | None = None
) -> str:
    """All rows of several views whose relations are `Described.read` alike, read once: the features of the first view,
    then those of the next, as ``v0…``. ``until`` as in `Described.selected`."""
    parts: list[tuple[Described, Sequence[Slot]]] = []
    for alike in zip(*described, strict=True):
        slots = [slot for one, names in zip(alike, features, strict=True) for slot in one.slots(names)]
        parts.append((alike[0], slots))
    return _united(parts, until)


def describe(reading: Reading, view: FeatureView) -> list[Described]:
    """Look at a view's relations: its batch history, and its pushed rows.

    Raises:
        SourceError: a file or column is missing, or of a wrong type.
        PushLogError: pushed rows cannot be read.
    """
    found: list[Described] = []
    for relation in relations(view):
        described, problems = examine(reading.con, reading.root, view, relation)
        if problems or described is None:
            raise SourceError(problems[0])
        found.append(described)
    for one in reading.pushed(view):
        pushed.check(view, label_of(view), one.rows.columns)
        found.append(_pushed(view, one, reading))
    return found


def _pushed(view: FeatureView, one: PushedTable, reading: Reading) -> Described:
    received = f"_source.{sql.ident(PUSHED_RECEIVED)}"
    return Described(
        view,
        pushed.pushed_relation(view),
        one.table,
        pushed.arrow_types(one.rows),
        pushed.absent(view, one.rows.columns),
        held=pushed.duckdb_types(one.rows),
        landed=f"(epoch_us({received}) + {reading.skew // _MICROSECOND})",
    )


def problems_of(reading: Reading, view: FeatureView) -> list[str]:
    """All that is wrong with a view's relations."""
    found = [one for relation in relations(view) for one in examine(reading.con, reading.root, view, relation)[1]]
    try:
        for one in reading.pushed(view):
            found += [f"{label_of(view)}: {each}" for each in pushed.wrong(view, one.rows.columns)]
    except (PushLogError, FormatError) as error:
        found.append(f"view {view.name!r}: {error}")
    return found


def examine(
    con: duckdb.DuckDBPyConnection, root: Path, view: FeatureView, relation: Relation
) -> tuple[Described | None, list[str]]:
    """Look at a relation: what it is, and all that is wrong with it."""
    label, others = label_of(view), untyped(view)
    view = read_of(view)
    try:
        table, files, many = _table(con, root, view, relation)
        with translated(view, root):
            looked = con.sql(f"SELECT * FROM {table} LIMIT 0")
            held = {name: str(kind) for name, kind in zip(looked.columns, looked.types, strict=True)}
            schema = looked.to_arrow_table().schema
            mixed = _mixed(con, files) if files is not None and many else {}
    except SourceError as error:
        return None, [str(error)]
    types: dict[str, Any] = dict(zip(schema.names, schema.types, strict=True))
    problems = [f"{label}: {one}" for one in _wrong(view, relation, types)]
    problems += [
        f"{label}: {_missing(f'feature {name!r}', column, types)}"
        for name, column in others.items()
        if column not in types
    ]
    problems += [
        f"{label}: column {name!r} is of type {' in some files and '.join(families)} in others; write the files again "
        "with one type"
        for name, families in mixed.items()
        if name in {*relation.keys.values(), relation.event, relation.created, *relation.values.values()}
    ]
    empty: set[str] = set()
    with translated(view, root):
        for feature in view.features:
            column = relation.values[feature.name]
            reason = problem(feature.dtype, types[column]) if column in types else None
            if reason is None:
                continue
            if _all_null(con, table, column):
                empty.add(column)
            else:
                problems.append(f"{label}: column {column!r} of feature {feature.name!r}: {reason}")
    return Described(view, relation, table, types, frozenset(empty), files, held), problems


def label_of(view: FeatureView) -> str:
    """A view and its source, as a message begins."""
    source = view.batch
    if source is None:
        return f"view {view.name!r} (its pushed rows)"
    where = f" ({source.path})" if isinstance(source, ParquetSource) else " (its query)"
    return f"view {view.name!r}{where}"


def _wrong(view: FeatureView, relation: Relation, types: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the columns, but for types of features."""
    renames: Mapping[str, str] = {} if isinstance(relation.source, PushSource) else relation.source.columns
    for name in renames:
        if name not in types:
            yield f"the rename of {name!r} names a column that is not there{did_you_mean(name, types)}"
    if len(set(renames.values())) < len(renames):
        yield "two columns are renamed to one name; rename each to its own"
    yield from _wrong_keys(view, relation, types)
    yield from _wrong_times(relation, types)
    for feature in view.features:
        if relation.values[feature.name] not in types:
            yield _missing(f"feature {feature.name!r}", relation.values[feature.name], types)


def _wrong_keys(view: FeatureView, relation: Relation, types: dict[str, Any]) -> Iterator[str]:
    for name, dtype in view.entity.join_keys.items():
        column = relation.keys[name]
        if column not in types:
            yield _missing(f"join key {name!r}", column, types)
        elif pt.is_null(types[column]):
            yield f"column {column!r} of join key {name!r} holds only nulls; every row needs its join keys"
        elif reason := problem(dtype, types[column]):
            yield f"column {column!r} of join key {name!r}: {reason}"


def _wrong_times(relation: Relation, types: dict[str, Any]) -> Iterator[str]:
    for role, column in (("event_timestamp", relation.event), ("created_timestamp", relation.created)):
        if column is None:
            continue
        if column not in types:
            yield _missing(role, column, types)
        elif not (pt.is_timestamp(types[column]) or pt.is_date(types[column])):
            reason = problem(DType("timestamp"), types[column]) or "it holds only nulls; every row needs its timestamps"
            yield f"column {column!r}, the {role}: {reason}"


def _missing(role: str, column: str, types: dict[str, Any]) -> str:
    return f"no column {column!r} for {role}{did_you_mean(column, types)}"


def _all_null(con: duckdb.DuckDBPyConnection, table: str, column: str) -> bool:
    """Whether a column has no value at all: a file of nulls has no type of its own."""
    name = sql.ident(column)
    return not run(con, f"SELECT 1 FROM {table} AS _source WHERE _source.{name} IS NOT NULL LIMIT 1")


def _table(
    con: duckdb.DuckDBPyConnection, root: Path, view: FeatureView, relation: Relation
) -> tuple[str, str | None, bool]:
    """The table expression of a source, the pattern of its files if it has such, and whether they can be several."""
    source = relation.source
    assert not isinstance(source, PushSource)
    if not isinstance(source, ParquetSource):
        with translated(view, root):
            statements = con.extract_statements(source.query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise SourceError(f"{label_of(view)}: the query of a SqlSource is one SELECT")
        return sql.query(source.query), None, False
    if "://" in source.path:
        return sql.parquet(source.path, many=True, hive=None), source.path, True
    whole = root / source.path
    if whole.is_file():
        file = sql.glob_safe(str(whole))
        return sql.parquet(file, many=False, hive=_hive(view, relation, source.path)), file, False
    if whole.is_dir():
        pattern = sql.glob_safe(str(whole)) + "/**/*.parquet"
        first = next(whole.rglob("*.parquet"), None)
        inner = None if first is None else first.relative_to(whole).as_posix()
    else:
        pattern = source.path if Path(source.path).is_absolute() else f"{sql.glob_safe(str(root))}/{source.path}"
        inner = next(glob.iglob(source.path, root_dir=root, recursive=True), None)
    if inner is None:
        raise SourceError(_nothing_there(view, root))
    return sql.parquet(pattern, many=True, hive=_hive(view, relation, inner)), pattern, True


def _hive(view: FeatureView, relation: Relation, path: str) -> dict[str, str] | None:
    """The partition columns in a path with the types that the view gives them; None when there are none."""
    partitions = [unquote(match[1]) for match in map(_HIVE.fullmatch, Path(path).parts[:-1]) if match]
    if not partitions:
        return None
    wanted = {relation.keys[name]: dtype for name, dtype in view.entity.join_keys.items()}
    wanted |= {relation.values[one.name]: one.dtype for one in view.features if one.dtype.item is None}
    return {name: sql_type(wanted[name]) for name in partitions if name in wanted and wanted[name].kind != "json"}


def _mixed(con: duckdb.DuckDBPyConnection, files: str) -> dict[str, list[str]]:
    """The columns whose files do not agree on what they hold: DuckDB would turn an int into text without a word."""
    families: dict[str, list[str]] = {}
    for name, family in run(con, _FAMILIES.format(files=sql.literal(files))):
        families.setdefault(name, []).append(family)
    return {name: sorted(several) for name, several in families.items() if len(set(several) - {"null"}) > 1}


def _nothing_there(view: FeatureView, root: Path) -> str:
    source = view.batch
    assert isinstance(source, ParquetSource)
    whole = root / source.path
    if whole.is_dir():
        return f"{label_of(view)}: the folder has no .parquet file; write some, or point the path elsewhere"
    if glob.has_magic(source.path):
        return f"{label_of(view)}: no file matches the glob; paths are relative to the project's root, {root}"
    near = whole.parent
    beside = [one.name for one in near.glob("*.parquet")] if near.is_dir() else []
    hint = did_you_mean(whole.name, beside) if beside else ""
    return f"{label_of(view)}: there is no such file; paths are relative to the project's root, {root}{hint}"


@contextmanager
def translated(view: FeatureView, root: Path) -> Generator[None]:
    """Turn errors of DuckDB into a `SourceError` that names the view and shows no value."""
    try:
        with interruptible():
            yield
    except duckdb.Error as error:
        raise SourceError(f"{label_of(view)}: {_explained(error, view, root)}") from None
    except pa.ArrowException:
        raise SourceError(f"{label_of(view)}: it holds data that Arrow cannot take") from None


def shortage(error: Exception) -> str | None:
    """What to say of an error that is about memory or the folder for spilling, and not about data; else None."""
    if isinstance(error, duckdb.OutOfMemoryException):
        return SHORT
    spilled = _SPILLED.search(str(error)) if isinstance(error, duckdb.IOException) else None
    return None if spilled is None else full(spilled[1])


def full(folder: str | Path) -> str:
    """What to say when a file in the folder for spilling cannot be written."""
    return (
        f"the temporary folder {folder} is full, or cannot be written; free some disk there, or set TMPDIR (or the "
        "store's temp_directory) to a folder with more"
    )


def _explained(error: duckdb.Error, view: FeatureView, root: Path) -> str:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    short = shortage(error)
    if short is not None:
        return short
    if isinstance(view.batch, ParquetSource):
        if isinstance(error, duckdb.DataError):
            return (
                f"it fails on the data ({type(error).__name__}): a value or a total does not fit its type; write the "
                "column with another type, like DOUBLE"
            )
        named = _NAMED_FILE.search(said)
        name = f" {_relative(named[1], root)}" if named else ""
        if "No files found" in said:
            return _nothing_there(view, root).removeprefix(f"{label_of(view)}: ")
        return f"the file{name} cannot be read as Parquet; write it again, or remove it"
    if isinstance(error, _SHOWN):
        return f"its query fails: {said}"
    return f"its query fails on the data ({type(error).__name__}); TRY_CAST gives null where a CAST fails"


def _relative(path: str, root: Path) -> str:
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path
