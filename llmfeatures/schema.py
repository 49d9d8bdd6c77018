"""Definitions: entities, features, feature views and sources. Frozen; they hold no data and open no file."""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, SerializeAsAny, ValidationError

from llmfeatures.clock import duration_text, parse_duration
from llmfeatures.errors import ConfigError, DefinitionError, did_you_mean
from llmfeatures.types import DType, parse_dtype

OPTION_NAMES = frozenset(["as_of", "clock", "timeout", "prompt", "rows", "self", "loop", "caller", "varargs", "kwargs"])
JINJA_GLOBALS = frozenset(["range", "dict", "lipsum", "cycler", "joiner", "namespace"])
JINJA_WORDS = frozenset(
    ["and", "or", "not", "in", "is", "if", "else", "elif", "true", "false", "none", "True", "False", "None"]
)
KEY_KINDS = ("str", "int", "bool", "date", "timestamp", "enum", "decimal")

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_VIEW_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_\-]*", re.ASCII)


def check_identifier(kind: str, name: str) -> str:
    """The name, when it can be a join key, input, feature, entity or role.

    Raises:
        DefinitionError: it is no identifier, or means something else already.
    """
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(
            f"{kind} {name!r} is no identifier: use ASCII letters, digits and underscores, a letter first"
        )
    taken = (
        "an option of build_context" if name in OPTION_NAMES
        else "a global of Jinja" if name in JINJA_GLOBALS
        else "a word of Jinja" if name in JINJA_WORDS
        else "a Python keyword" if keyword.iskeyword(name)
        else None
    )  # fmt: skip
    if taken:
        raise DefinitionError(f"{kind} {name!r} is reserved: it is {taken}; choose another name")
    return name


def _dtype(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return parse_dtype(value)
        except DefinitionError as error:
            raise ValueError(str(error)) from None
    return value


def _duration(value: Any) -> Any:
    if isinstance(value, (int, float)):
        raise ValueError(f"{value} has no unit; write one of us, ms, s, m, h, d, like 30d")  # noqa: TRY004
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
    return value


DTypeField = Annotated[DType, BeforeValidator(_dtype), PlainSerializer(str, return_type=str)]
Duration = Annotated[
    timedelta | None,
    BeforeValidator(_duration),
    PlainSerializer(lambda value: None if value is None else duration_text(value), return_type=str | None),
]


class Definition(BaseModel):
    """Base of all definitions: frozen, no unknown keys, and errors of our own that name the definition."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            first = error.errors()[0]
            cause = first.get("ctx", {}).get("error")
            where = ".".join(str(part) for part in first["loc"])
            label = " ".join([type(self).__name__, *([repr(data["name"])] if data.get("name") else [])])
            if first["type"] == "extra_forbidden":
                known = ", ".join(type(self).model_fields)
                raise DefinitionError(f"{label} has no option {where!r}; its options are: {known}") from None
            raise DefinitionError(f"{label}: {where}: {cause or first['msg']}") from None


class ParquetSource(Definition):
    """Rows in Parquet files.

    Args:
        path: a file, a folder or a glob, relative to the project's root; hive partitions
            (``day=2026-05-07/``) are columns.
        event_timestamp: the column that says when a row became true; a naive one is UTC.
        created_timestamp: the column that says when a row was written, if there is one.
        columns: renames, from the file's name to the registry's: ``{"uid": "user_id"}``.
    """

    path: str
    event_timestamp: str = "event_timestamp"
    created_timestamp: str | None = None
    columns: Mapping[str, str] = {}

    def __init__(
        self,
        path: str,
        *,
        event_timestamp: str = "event_timestamp",
        created_timestamp: str | None = None,
        columns: Mapping[str, str] | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__(
            path=path,
            event_timestamp=event_timestamp,
            created_timestamp=created_timestamp,
            columns=columns or {},
            **unknown,
        )


class SqlSource(Definition):
    """Rows of a DuckDB query; file functions such as ``read_csv`` take paths relative to the project's root.

    Args:
        query: one SELECT.
        event_timestamp: the column that says when a row became true; a naive one is UTC.
        created_timestamp: the column that says when a row was written, if there is one.
        columns: renames, from the query's name to the registry's.
    """

    query: str
    event_timestamp: str = "event_timestamp"
    created_timestamp: str | None = None
    columns: Mapping[str, str] = {}

    def __init__(
        self,
        query: str,
        *,
        event_timestamp: str = "event_timestamp",
        created_timestamp: str | None = None,
        columns: Mapping[str, str] | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__(
            query=query,
            event_timestamp=event_timestamp,
            created_timestamp=created_timestamp,
            columns=columns or {},
            **unknown,
        )


class PushSource(Definition):
    """Rows that an application pushes, and optionally the batch history that they continue.

    A view of aggregations takes no pushes yet: with this source it has its batch history alone.

    Args:
        batch: the history so far: a path, a source, or None.
    """

    batch: ParquetSource | SqlSource | None = None

    def __init__(
        self,
        batch: str | os.PathLike[str] | ParquetSource | SqlSource | Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__(batch=None if batch is None else _source(batch), **unknown)


Source = ParquetSource | SqlSource
AnySource = ParquetSource | SqlSource | PushSource


def _source(value: Any) -> Any:
    """A source from what a registry may write for one: a path, a mapping, or a source."""
    if isinstance(value, (str, os.PathLike)):
        return ParquetSource(os.fspath(cast("str | os.PathLike[str]", value)))
    if isinstance(value, Mapping):
        options = cast("Mapping[str, Any]", value)
        kinds = {"path": ParquetSource, "query": SqlSource, "batch": PushSource}
        found = [kind for name, kind in kinds.items() if name in options]
        if len(found) != 1:
            raise DefinitionError(
                "a source has exactly one of: path (Parquet files), query (SQL), "
                "batch (pushed rows; null for no history)"
            )
        return found[0](**options)
    return value


class Entity(Definition):
    """What features describe: a user, a title, a pair of them.

    Args:
        name: an identifier, unique in the registry.
        join_key: the one join key, of dtype str.
        join_keys: or several, or one of another dtype: ``{"tenant_id": "str", "user_id": "int"}``, in their order.
    """

    name: str
    join_keys: Mapping[str, DTypeField]
    description: str = ""

    def __init__(
        self,
        name: str,
        join_key: str | None = None,
        *,
        join_keys: Mapping[str, str | DType] | Sequence[str] | None = None,
        description: str = "",
        **unknown: Any,
    ) -> None:
        check_identifier("entity", name)
        if (join_key is None) == (join_keys is None):
            raise DefinitionError(f"Entity {name!r} takes either join_key or join_keys")
        if join_keys is None:
            keys: Mapping[str, str | DType] = {str(join_key): "str"}
        elif isinstance(join_keys, Mapping):
            keys = join_keys
        else:
            keys = dict.fromkeys(join_keys, "str")
        if not keys:
            raise DefinitionError(f"Entity {name!r} needs at least one join key")
        for key in keys:
            check_identifier("join key", key)
        super().__init__(name=name, join_keys=dict(keys), description=description, **unknown)
        for key, dtype in self.join_keys.items():
            if dtype.kind not in KEY_KINDS:
                raise DefinitionError(
                    f"join key {key!r} of entity {name!r} cannot be {dtype}; "
                    f"a join key is one of: {', '.join(KEY_KINDS)}"
                )


class Feature(Definition):
    """One typed fact about an entity.

    Args:
        name: an identifier, unique within the entity.
        dtype: see the table of dtypes: ``str int float bool timestamp date decimal(p,s) json list[T] enum[a,b]``.
        column: the source's column, where it has another name.
    """

    name: str
    dtype: DTypeField
    column: str | None = None
    description: str = ""
    tags: Mapping[str, str] = {}

    def __init__(
        self,
        name: str,
        dtype: str | DType,
        *,
        column: str | None = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        **unknown: Any,
    ) -> None:
        check_identifier("feature", name)
        super().__init__(name=name, dtype=dtype, column=column, description=description, tags=tags or {}, **unknown)


_ANY = ("str", "int", "float", "bool", "timestamp", "date", "json", "decimal", "enum", "list")
_TAKEN: Mapping[str, tuple[str, ...]] = {
    "count": ("int",),
    "sum": ("int", "float", "decimal"),
    "mean": ("float",),
    "min": ("int", "float", "decimal", "str", "date", "timestamp"),
    "max": ("int", "float", "decimal", "str", "date", "timestamp"),
    "count_distinct": ("int",),
    "last": _ANY,
    "last_n": ("list",),
}
_IMPLIED = {"count": "int", "count_distinct": "int", "mean": "float"}


class Aggregation(Feature):
    """A feature that is computed from the raw events of an entity.

    At each multiple of the view's ``cadence`` since 1970 (UTC) it counts the events of ``window`` before that moment,
    that moment included. Nulls are ignored, but by ``last`` and by a ``count`` without column.

    Args:
        name: an identifier, unique within the entity.
        function: ``count sum mean min max count_distinct last last_n``.
        column: the source's column; only ``count`` can go without, and counts events then.
        dtype: of the result; ``count``, ``count_distinct`` (int) and ``mean`` (float) have their own.
        window: how long an event counts; None means for ever.
        n: how many values ``last_n`` keeps, newest first.

    Raises:
        DefinitionError: the function is unknown, or an option is missing or does not go with it.
    """

    function: str
    window: Duration = None
    n: int | None = None

    def __init__(
        self,
        name: str,
        function: str,
        *,
        column: str | None = None,
        dtype: str | DType | None = None,
        window: timedelta | str | None = None,
        n: int | None = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        **unknown: Any,
    ) -> None:
        label = f"Aggregation {name!r}"
        if function not in _TAKEN:
            raise DefinitionError(f"{label}: there is no function {function!r}{did_you_mean(str(function), _TAKEN)}")
        if dtype is None and function not in _IMPLIED:
            wanted = "list[T]" if function == "last_n" else "one of " + ", ".join(_TAKEN[function])
            raise DefinitionError(f"{label}: {function} needs a dtype, {wanted}")
        if column is None and function != "count":
            raise DefinitionError(f"{label}: {function} needs a column; a feature's name is not taken for one")
        if (n is None) == (function == "last_n") or (n is not None and (isinstance(n, bool) or n < 1)):
            raise DefinitionError(f"{label}: last_n takes n, a number of at least 1, and no other function does")
        super().__init__(
            name,
            _IMPLIED[function] if dtype is None else dtype,
            column=column,
            description=description,
            tags=tags,
            function=function,
            window=window,
            n=n,
            **unknown,
        )
        if self.dtype.kind not in _TAKEN[function]:
            raise DefinitionError(f"{label}: {function} gives no {self.dtype}; it gives {', '.join(_TAKEN[function])}")
        if self.window is not None and self.window <= timedelta(0):
            raise DefinitionError(f"{label}: a window is longer than zero; leave it out for all of history")

    @property
    def code(self) -> str:
        """What it computes, in a few words: ``count of 30d``, ``sum of watched over 7d``."""
        number = "" if self.n is None else f" {self.n}"
        of = "" if self.column is None else f" of {self.column}"
        if self.window is None:
            return f"{self.function}{number}{of}"
        return f"{self.function}{number}{of}{' over' if of else ' of'} {duration_text(self.window)}"


def _feature(one: Mapping[str, Any]) -> Feature:
    return Aggregation(**one) if "function" in one else Feature(**one)


class Expect(Definition):
    """What must hold of a view's rows before a materialize writes any of them. What is left out is not checked.

    Args:
        min_rows: the least number of entity keys that have a row in the source by the run's ``until``.
        max_nulls: the largest share (0 to 1) of nulls among the rows that the run would write: one for every feature,
            or a mapping of features to shares. NaN and infinity count as null.
        max_drop: the largest share (0 to 1) of the entity keys of the last complete run that may be gone.

    Raises:
        DefinitionError: nothing is expected, or a number is out of range.
    """

    min_rows: int | None = None
    max_nulls: float | Mapping[str, float] | None = None
    max_drop: float | None = None

    def __init__(
        self,
        *,
        min_rows: int | None = None,
        max_nulls: float | Mapping[str, float] | None = None,
        max_drop: float | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__(min_rows=min_rows, max_nulls=max_nulls, max_drop=max_drop, **unknown)
        if min_rows is None and max_nulls is None and max_drop is None:
            raise DefinitionError("Expect expects nothing; give min_rows, max_nulls or max_drop")
        if isinstance(min_rows, bool) or (self.min_rows is not None and self.min_rows < 0):
            raise DefinitionError("Expect: min_rows is a whole number of at least 0")
        nulls = self.max_nulls
        shares = nulls if isinstance(nulls, Mapping) else {"": nulls}
        named = {f"max_nulls of {name}" if name else "max_nulls": share for name, share in shares.items()}
        for name, share in {**named, "max_drop": self.max_drop}.items():
            if share is not None and not 0 <= share <= 1:
                raise DefinitionError(f"Expect: {name} is a share from 0 to 1, like 0.05 for one in twenty")

    def most_nulls(self, feature: str) -> float | None:
        """The largest share of nulls of a feature, None for any."""
        return self.max_nulls.get(feature) if isinstance(self.max_nulls, Mapping) else self.max_nulls


def _expect(value: Any) -> Any:
    return Expect(**cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value


class FeatureView(Definition):
    """Features of one entity that come from one source, row by row.

    Args:
        name: letters, digits, ``_`` and ``-``; unique in the registry.
        entity: the entity (in YAML, its name).
        source: a path, a `ParquetSource`, a `SqlSource` or a `PushSource`.
        features: a mapping of names to dtypes, or a list of `Feature`; or a list of `Aggregation` only.
        ttl: how old a value may be and still count, online and in history; None means for ever.
        cadence: how often it should be refreshed. It drives schedules, never a value; but aggregations need one, and
            change at its multiples only.
        lateness: how long after its timestamps a row may land in the source and still be found by an incremental run.
        expect: an `Expect`, or its options as a mapping: what must hold before a materialize writes.
    """

    name: str
    entity: Entity
    source: Annotated[AnySource, BeforeValidator(_source)]
    features: tuple[SerializeAsAny[Feature], ...]
    ttl: Duration = None
    cadence: Duration = None
    lateness: Duration = None
    expect: Annotated[Expect | None, BeforeValidator(_expect)] = None
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = {}

    def __init__(
        self,
        name: str,
        entity: Entity,
        source: str | os.PathLike[str] | AnySource | Mapping[str, Any],
        features: Mapping[str, str | DType] | Sequence[Feature | Mapping[str, Any]],
        *,
        ttl: timedelta | str | None = None,
        cadence: timedelta | str | None = None,
        lateness: timedelta | str | None = None,
        expect: Expect | Mapping[str, Any] | None = None,
        description: str = "",
        owner: str = "",
        tags: Mapping[str, str] | None = None,
        **unknown: Any,
    ) -> None:
        if not isinstance(name, str) or not _VIEW_NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"view {name!r}: a view's name has ASCII letters, digits, _ and -, a letter first")
        if name == KEY_VIEW_NAME:
            raise DefinitionError(f"view {name!r} is reserved: the online store keeps the entity key under it")
        if isinstance(features, Mapping):
            listed: list[Any] = [Feature(feature, dtype) for feature, dtype in features.items()]
        elif isinstance(features, (list, tuple)):
            listed = [_feature(one) if isinstance(one, Mapping) else one for one in features]
        else:
            raise DefinitionError(f"view {name!r}: features is a mapping of names to dtypes, or a list of Feature")
        super().__init__(
            name=name,
            entity=entity,
            source=source,
            features=tuple(listed),
            ttl=ttl,
            cadence=cadence,
            lateness=lateness,
            expect=expect or None,
            description=description,
            owner=owner,
            tags=tags or {},
            **unknown,
        )
        self._check()

    def _check(self) -> None:
        if not self.features:
            raise DefinitionError(f"view {self.name!r} has no features; list at least one")
        seen: set[str] = set()
        for feature in self.features:
            if feature.name in seen:
                raise DefinitionError(f"view {self.name!r} lists feature {feature.name!r} twice; remove one")
            if feature.name in self.entity.join_keys:
                raise DefinitionError(
                    f"feature {feature.name!r} of view {self.name!r} is a join key of entity "
                    f"{self.entity.name!r}; join keys can be printed as they are, so drop the feature"
                )
            seen.add(feature.name)
        for option, value, least in (
            ("ttl", self.ttl, "leave it out for no limit"),
            ("cadence", self.cadence, "leave it out for none"),
        ):
            if value is not None and value <= timedelta(0):
                raise DefinitionError(f"view {self.name!r}: a {option} is longer than zero; {least}")
        if self.lateness is not None and self.lateness < timedelta(0):
            raise DefinitionError(f"view {self.name!r}: lateness is not negative")
        limits = self.expect.max_nulls if self.expect is not None else None
        for name in limits if isinstance(limits, Mapping) else ():
            if name not in seen:
                raise DefinitionError(f"view {self.name!r}: expect: unknown feature {name!r}{did_you_mean(name, seen)}")
        self._check_aggregates()

    def _check_aggregates(self) -> None:
        found = [one.name for one in self.features if isinstance(one, Aggregation)]
        if not found:
            return
        if not self.aggregates:
            raise DefinitionError(
                f"view {self.name!r} has aggregations ({', '.join(found)}) and plain features; make two views of it"
            )
        if self.cadence is None:
            raise DefinitionError(f"view {self.name!r} aggregates, so it needs a cadence, like 1d: values change then")
        if self.ttl is not None:
            raise DefinitionError(
                f"view {self.name!r} aggregates, so it takes no ttl; a window says how long an event counts"
            )

    @property
    def aggregates(self) -> bool:
        """Whether its features are aggregations: all of them are, or none."""
        return all(isinstance(one, Aggregation) for one in self.features) and bool(self.features)

    @property
    def aggregations(self) -> tuple[Aggregation, ...]:
        """Its features that are aggregations, in their order."""
        return tuple(one for one in self.features if isinstance(one, Aggregation))

    @property
    def batch(self) -> Source | None:
        """The source of the view's history, None for a `PushSource` without one."""
        return self.source.batch if isinstance(self.source, PushSource) else self.source

    def feature(self, name: str) -> Feature:
        """The feature of this name, which the view must have."""
        return next(one for one in self.features if one.name == name)


KEY_VIEW_NAME = "key"
