# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Protocols that adapters implement, and the frozen values that pass between them and the services.

Each docstring is the contract; `llmfeatures.testing` has a conformance suite per Protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from llmfeatures.schema import FeatureView, PushSource, Source
from llmfeatures.types import DType

if TYPE_CHECKING:
    import pyarrow as pa

ClockName = Literal["event", "known"]
"""Which rows count at t: what was true (``event``), or what was true and had arrived (``known``)."""


class Read(NamedTuple):
    """One entity's fields to read: ``key`` is an encoded entity key, ``fields`` are field names of its hash."""

    key: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewFields:
    """A view as an online store sees it: its name and its features in declared order."""

    name: str
    features: tuple[str, ...]


class RowWrite(NamedTuple):
    """One row of a view for one entity key. ``event`` and ``created`` are stamps (``-``: no created timestamp);
    ``values`` are the canonical JSON of the view's features in declared order."""

    key: str
    view: ViewFields
    event: str
    created: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowColumns:
    """Rows of one view, as `RowWrite`s column by column: Arrow columns of bytes (large_binary), all of one length,
    without nulls. ``moments`` holds ``EVENT|CREATED``, the two stamps of each row."""

    view: ViewFields
    keys: Any
    moments: Any
    values: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a write did: rows that are now in the store, and rows that a newer one (or the same one) kept out."""

    written: int
    skipped: int


EVENT_TIMESTAMP, TARGET = "event_timestamp", "target"
"""Columns of a spine: the moment of a row, and what is expected there."""
UNFINISHED = "!"
"""Ends the schema hash of a view whose full run has not completed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewMeta:
    """What the store says of a view that a materialize has completed: ``watermark`` is a stamp.

    While a full run replaces the rows of a view that was filled before, its schema hash ends in ``!``: readers go
    on, and the next run, should this one die, is full again.
    """

    schema_hash: str
    watermark: str

    def holds(self, schema_hash: str) -> bool:
        """Whether the view was filled under this schema hash."""
        return self.schema_hash.removesuffix(UNFINISHED) == schema_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """The store's own record of what it holds. ``lifetime`` is random, made with the record: a flush changes it."""

    format: int
    lifetime: str
    views: Mapping[str, ViewMeta]


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The start of a materialization, as the store saw it. ``now`` is a stamp of the store's own clock.

    ``was_empty``: it certainly held nothing before, so that a sweep for older rows would find none.
    """

    now: str
    meta: Meta
    was_empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewUsage:
    """How much of a view is online: entity keys with a row of it, and the bytes that it takes. None: not known."""

    keys: int | None
    bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an online store holds of some views, by name, and how full it is.

    ``exact`` is False when the keys were too many to count each: then ``keys`` and ``bytes`` are estimates. The rest
    concerns the whole server, other namespaces included, and is None where there is no such thing or it is not told:
    bytes in use, the most it may use, what it removes when it is full, and how many keys it has removed so since
    it started. ``problems`` says what could not be found out, in a sentence each.
    """

    views: Mapping[str, ViewUsage]
    exact: bool
    memory_used: int | None = None
    memory_limit: int | None = None
    eviction_policy: str | None = None
    evicted_keys: int | None = None
    problems: tuple[str, ...] = ()


class OnlineStore(Protocol):
    """The newest row of each view for each entity key, for one namespace. Thread-safe; usable after ``fork``.

    Every method raises `StoreUnavailableError` when the store cannot be reached or does not answer in time,
    `StoreReadOnlyError` when it refuses writes, `FormatError` when what it holds has another format number.
    """

    def read(self, reads: Sequence[Read], *, timeout: float | None = None) -> list[list[str | None]]:
        """Read every entity's fields in one round trip.

        Returns one list per read, in order, with one text per field, ``None`` where the field is absent. ``timeout``
        (seconds, for the whole call) overrides the store's own.

        Raises:
            EntityMismatchError: an answer belongs to another entity. The connection was dropped.
        """
        ...

    def meta(self, *, timeout: float | None = None) -> Meta | None:
        """The store's meta record; ``None`` when it was never filled, or was flushed."""
        ...

    def begin(self) -> Begun:
        """Make the meta record if there is none, and tell the store's time."""
        ...

    def write(
        self,
        rows: Sequence[RowWrite],
        *,
        replace_before: str | None = None,
        ttls: Mapping[str, timedelta] | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Write rows of one entity (all keys have the same join keys; any number of keys and views), newest wins.

        A row wins over a stored one when ``codec.order`` says so: greater event, then created, then values. An equal
        row is skipped. With ``replace_before`` (a stamp), a stored row that was WRITTEN before it loses always. Each
        key's rows are decided and written atomically; a reader never sees a value without its stamp. A row's fields
        are all replaced together.

        ``ttls`` has the ttl of every view of the entity: a key then expires at the latest event + ttl + 1 day (stores
        without expiry ignore it). ``None``: the key never expires.

        ``timeout`` (seconds) is how long the whole call waits for the store, in place of the store's own limit for
        changes. After it some of the rows may be written, or be written yet.
        """
        ...

    def write_columns(
        self,
        rows: RowColumns,
        *,
        replace_before: str | None = None,
        ttls: Mapping[str, timedelta] | None = None,
    ) -> Written:
        """As `write`, for many rows of one view: the same rows leave the same store.

        Of rows with one key, more than one may count as written.
        """
        ...

    def sweep(self, view: ViewFields, join_keys: tuple[str, ...], before: str) -> int:
        """Remove the view's rows that were WRITTEN before ``before``, for entity keys of these join keys.

        A key with no view left is removed whole. Returns how many rows were removed. Atomic per key.
        """
        ...

    def complete(self, view: str, meta: ViewMeta, *, lifetime: str, base: str | None) -> bool:
        """Record that a materialization of the view is complete.

        Returns False, and records nothing, when the store's lifetime is no longer ``lifetime`` (it was flushed since
        `begin`). ``base`` is None for a full run: the record is replaced. Else it is the watermark that the run built
        on: the watermark only moves up, and stays where it is when it has fallen below ``base``, or the schema hash
        is another (a full run came between).
        """
        ...

    def usage(self, views: Mapping[ViewFields, tuple[str, ...]], *, seconds: float = 2.0) -> Usage:
        """Count the entity keys of views, each given with its entity's join keys, and their bytes.

        Takes about ``seconds`` at most, and never keeps others waiting: of very many keys it gives estimates.
        """
        ...

    def close(self) -> None:
        """Give back what this store opened. It can be used again."""
        ...


class AsyncOnlineStore(Protocol):
    """The reading half of `OnlineStore`, for asyncio; the same contract. A cancelled read drops its connection."""

    async def read(self, reads: Sequence[Read], *, timeout: float | None = None) -> list[list[str | None]]:
        """As `OnlineStore.read`."""
        ...

    async def meta(self, *, timeout: float | None = None) -> Meta | None:
        """As `OnlineStore.meta`."""
        ...

    async def aclose(self) -> None:
        """As `OnlineStore.close`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A list of rows that a view is made of: where they are, and which columns hold what.

    ``keys`` maps each join key of the entity to a column; ``values`` each feature to a column. ``created`` is None
    when there is no such column.
    """

    source: Source | PushSource
    keys: Mapping[str, str]
    event: str
    created: str | None
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """One view to join to a spine. ``keys`` maps each join key to the spine's column; ``features`` are the names to
    bring, and all of the view's features decide ties."""

    view: FeatureView
    keys: Mapping[str, str]
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A batch of a join: ``spine`` has the spine's columns as they came (without helper columns) and ``at`` the
    moment of each row, timestamp[us, UTC]. ``found`` has one `FoundColumns` per lookup. All have the same length."""

    spine: pa.RecordBatch
    at: pa.Array[Any]
    found: tuple[FoundColumns, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundColumns:
    """The winning row of one lookup for each row of a batch, whatever its age (ttl is the reader's business).

    ``event`` is timestamp[us, UTC], null where no row was found. ``columns`` has one array per feature of the lookup,
    of the dtype's own Arrow type, null where the row holds null or there is none. ``invalid`` maps a row number
    to the reason why the winning row's value of a feature is no value of its dtype: ``(feature, reason)``.
    ``hidden`` is true where the ``event`` clock would have found another row (always false under that clock).
    """

    event: pa.Array[Any]
    columns: tuple[pa.Array[Any], ...]
    invalid: Mapping[int, tuple[str, str]] = field(default_factory=dict[int, tuple[str, str]])
    hidden: pa.Array[Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestBatch:
    """A batch of winning rows of a view: one Arrow array per join key and per feature, event and created as
    timestamp[us, UTC] (created null: none). ``non_finite`` counts the floats that became null. Values are canonical.
    """

    keys: tuple[pa.Array[Any], ...]
    event: pa.Array[Any]
    created: pa.Array[Any]
    columns: tuple[pa.Array[Any], ...]
    non_finite: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestCount:
    """How many rows of a source a `OfflineStore.latest` covers: ``eligible`` by time and with whole keys, ``refused``
    because a join key or the event timestamp is null, and an upper bound of the ``keys`` that will come."""

    eligible: int
    refused: int
    keys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """The lower bound of an incremental read: rows whose event or created timestamp is later than ``after``."""

    after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinStep:
    """How a join answers some of its views, and why.

    ``views`` are answered together. ``strategy`` is the store's name for what it does, in so many ``passes`` over
    the keys. ``reason`` is a sentence with the numbers that decided. ``rows`` of history are those of the spine's
    keys not later than their last ask; ``asks`` and ``keys`` count the spine's rows with whole keys and a moment, and
    the distinct keys among them.
    """

    views: tuple[str, ...]
    strategy: str
    passes: int
    reason: str
    rows: int
    asks: int
    keys: int


class OfflineStore(Protocol):
    """History. Implements the point-in-time rule; never applies a ttl; times are UTC, microseconds.

    A view with a `PushSource` has the rows of its batch history and those of the `PushLog` that the store was opened
    with, in every method: a push that was acknowledged is in the next answer.

    A view of aggregations has no rows of its own: at t its row is what the events by then make of each feature at the
    last multiple of the view's cadence, and its event timestamp the last of these at which an event entered or left one
    of the view's windows. `llmfeatures.testing.rule.aggregated` is that rule, for `join` and `latest` alike.

    Every method raises `SourceError` when a source is not what the registry says.
    """

    def check(self, view: FeatureView) -> list[str]:
        """Problems of a view's sources: missing files or columns, columns of a wrong type. Empty when there is none.
        Each problem is one sentence that names the view and says what to do."""
        ...

    def advice(self, view: FeatureView) -> list[str]:
        """What works, but not as one may think: what an incremental materialization cannot see, a backfill. As
        `check`."""
        ...

    def join(
        self,
        spine: object,
        lookups: Sequence[Lookup],
        *,
        clock: ClockName,
        timestamp: str = EVENT_TIMESTAMP,
        dtypes: Mapping[str, DType] | None = None,
    ) -> Iterator[Joined]:
        """The point-in-time join: rows in = rows out, in the spine's order. Bounded memory, streamed. A
        spine without rows gives one batch without rows.

        ``spine`` is a path or an object (see `llmfeatures.offline.spine`), read once. For a row at t with these keys
        the winner is the greatest by
        (event, created with null the smallest, then `codec.row_text`) among rows with equal keys, event <= t and,
        under ``known``, created <= t or null. ``dtypes`` says what further columns are, for files that have no types
        of their own. A null key or null t matches nothing.

        Raises:
            SpineError: the spine cannot be read, or lacks a column.
        """
        ...

    def explain(
        self,
        spine: object,
        lookups: Sequence[Lookup],
        *,
        clock: ClockName,
        timestamp: str = EVENT_TIMESTAMP,
        dtypes: Mapping[str, DType] | None = None,
    ) -> tuple[JoinStep, ...]:
        """What `join` with the same arguments will do, decided by the same code. Every lookup is in one step.

        Raises:
            SpineError: the spine cannot be read, or lacks a column.
        """
        ...

    def entity_keys(self, views: Sequence[FeatureView], *, until: datetime) -> Iterator[pa.RecordBatch]:
        """The distinct whole entity keys of these views, all of one entity, among rows with event <= until.

        A batch has a column per join key, canonical, and ``first``: the key's first event, timestamp[us, UTC]. Each key
        comes once, in any order; a null join key is nobody. Created timestamps play no part. Bounded memory, streamed.
        """
        ...

    def read_spine(self, spine: object, dtypes: Mapping[str, DType] | None = None) -> pa.RecordBatchReader:
        """A spine of any kind that `join` takes, as it is: its columns, rows and order. ``dtypes`` as in `join`.

        Raises:
            SpineError: the spine cannot be read.
        """
        ...

    def count_latest(self, view: FeatureView, *, until: datetime, since: Since | None = None) -> LatestCount:
        """What `latest` with the same arguments will cover."""
        ...

    def latest(
        self,
        view: FeatureView,
        *,
        until: datetime,
        since: Since | None = None,
        batch_rows: int = 10_000,
        counted: Callable[[LatestCount], None] | None = None,
    ) -> Generator[LatestBatch]:
        """The winning row of each entity key among rows with event <= until and (created <= until or null) and, with
        ``since``, event > since.after or created > since.after. Bounded memory; any order of keys; each key once.
        ``counted`` is told what `count_latest` would say, before the first batch, and also when there is none.

        Raises:
            SourceError: a winning row holds a value that is no value of its dtype; raised before its batch is given.
        """
        ...

    def close(self) -> None:
        """Give back what this store opened."""
        ...


@runtime_checkable
class VersionedSources(Protocol):
    """What an `OfflineStore` may do besides: say which data it reads, so that an interrupted export can be gone on
    with."""

    def versions(self, views: Sequence[FeatureView]) -> list[str] | None:
        """Texts that are others once the data of one of these views is; None when the store cannot tell."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """What an `OfflineStore` may do besides: give up what other threads are reading."""

    def interrupt(self) -> None:
        """Have the reads that are under way raise an error soon. A read that begins later is not concerned."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One completed materialization of a view. Times are stamps. ``known_up_to``: rows created up to then were read;
    ``keys`` counts the entity keys that the source held in all by ``until``, None when they were not counted.
    ``readable_from``: from then on the online store showed them."""

    view: str
    full: bool
    until: str
    known_up_to: str
    started: str
    readable_from: str
    schema_hash: str
    rows_read: int
    keys_written: int
    keys: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRecord:
    """Something that failed for a view. ``at`` is a stamp, ``verb`` is ``materialize`` or ``push``, ``message`` one
    sentence without values."""

    view: str
    at: str
    verb: str
    message: str


class StateStore(Protocol):
    """The project's state outside both stores: records of runs and of failures."""

    def add_run(self, record: RunRecord) -> None:
        """Keep a record, durably and atomically."""
        ...

    def runs(self, view: str | None = None, *, newest_first: bool = False) -> Iterable[RunRecord]:
        """Records, oldest first; read as they are asked for. All are kept: they say when what was online."""
        ...

    def last_runs(self) -> Mapping[str, RunRecord]:
        """The newest record of each view, by the view's name."""
        ...

    def add_failure(self, record: FailureRecord) -> None:
        """Keep a record, durably and atomically. At least the last twenty of each view are kept."""
        ...

    def failures(self, view: str | None = None) -> Iterable[FailureRecord]:
        """Records, oldest first."""
        ...

    def alone(self, what: str) -> AbstractContextManager[bool]:
        """For the length of a block, be the only one of all processes that does ``what``; False, at once, when another
        one is at it. A process that dies gives it back."""
        ...


PUSHED_EVENT, PUSHED_CREATED = "_event_timestamp", "_created_timestamp"
PUSHED_RECEIVED, PUSHED_ID = "_received_timestamp", "_push_id"
"""Columns of pushed rows beside the join keys and features: no name of a registry begins with an underscore."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """Rows of one push, to be kept all or none.

    ``columns`` has the dtype of each column of the view (join keys, then features), by name. ``rows`` has these, of
    the dtype's own Arrow type, then `PUSHED_EVENT` and `PUSHED_CREATED` as timestamp[us, UTC]; no time is null.
    ``received`` is the moment at which the push came. ``fresh``: the push id was made for this push, so nobody else can
    have used it.
    """

    push_id: str
    received: datetime
    columns: Mapping[str, DType]
    rows: pa.RecordBatch
    fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedRows:
    """Pushed rows with the same columns: Parquet ``files``, or a ``table`` in memory.

    ``columns`` has the names and dtypes that the view had when they were pushed. There are `PUSHED_EVENT`,
    `PUSHED_CREATED` and `PUSHED_RECEIVED` (timestamp[us, UTC]) and `PUSHED_ID` (text) besides.
    """

    columns: Mapping[str, DType]
    files: tuple[Path, ...] = ()
    table: pa.Table | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSize:
    """What the push log of a view takes: ``rows`` and ``pushes`` in all, ``waiting`` of the rows are not compacted
    yet; ``bytes`` on disk in ``segments`` and in compacted ``parts``."""

    rows: int
    pushes: int
    waiting: int
    bytes: int
    segments: int
    parts: int


class PushLog(Protocol):
    """Pushed rows, for ever: they are canonical data. Thread-safe, safe from many processes at once, usable after
    ``fork``.

    A push is kept whole or not at all, and is known by its id within its view: of two pushes with one id, the first
    that was kept counts, whatever the rows of the other. At no moment does a reader miss a row of a push that was
    acknowledged, or see it twice, whatever is compacted meanwhile.

    Methods raise `PushLogError` when the log cannot be read or written, and `FormatError` when what it holds has
    another format number.
    """

    @property
    def durable(self) -> str | None:
        """None when an acknowledged push survives the process and the machine; else a sentence that says why it would
        not, and what to do."""
        ...

    @property
    def caution(self) -> str | None:
        """A sentence on what an acknowledged push may not survive beyond that; None when nothing is known of it."""
        ...

    def append(self, view: str, push: Push) -> bool:
        """Keep a push. Returns once it is durable: True, or False when its id was known already (then that push, which
        is durable too, stays as it is). An error means that the push was not acknowledged: it may be sent again with
        the same id.
        """
        ...

    def rows(self, view: str) -> AbstractContextManager[tuple[PushedRows, ...]]:
        """All rows of a view, those of every acknowledged push among them, each once. Files stay for the length of the
        block. Rows that are pushed meanwhile may be there, each push whole or not at all."""
        ...

    def find(self, view: str, push_id: str) -> Push | None:
        """The push of this id; None when there is none."""
        ...

    def version(self, view: str) -> str:
        """A text that changes with every push of the view, and with nothing else."""
        ...

    def size(self, view: str) -> PushSize:
        """What the log of a view takes."""
        ...

    def compact(self, view: str) -> None:
        """Tidy up what can be: segments whose writers are done become Parquet, small files become one. Returns at once
        when somebody else is at it."""
        ...

    def close(self) -> None:
        """Give back what this log opened. It can be used again."""
        ...


class Exporter(Protocol):
    """Writes historical prompts to a file. Atomic: the file is whole, or it is not there.

    One whose interrupted export is gone on with is a `llmfeatures.export.writing.ResumableExporter`; any other begins
    anew.
    """

    def write(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> int:
        """Write all batches (canonical rows, see `llmfeatures.history`) and return how many rows were written."""
        ...

    def opened(self, schema: pa.Schema, path: Path) -> AbstractContextManager[Callable[[pa.RecordBatch], int]]:
        """A function that writes a batch and returns how many rows it wrote; the file is there once the block ended."""
        ...
