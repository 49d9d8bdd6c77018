# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""What an offline store does: joins, and what a materialization reads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from llmfeatures.schema import FeatureView, PushSource, Source
from llmfeatures.types import DType

if TYPE_CHECKING:
    import pyarrow as pa

ClockName = Literal["event", "known"]
"""Which rows count at t: what was true (``event``), or what was true and had arrived (``known``)."""
EVENT_TIMESTAMP, TARGET = "event_timestamp", "target"
"""Columns of a spine: the moment of a row, and what is expected there."""


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
class DatedSources(Protocol):
    """What an `OfflineStore` may do besides: say when the row of an entity may have become another one, so that nobody
    has to try every moment."""

    def changes(self, view: FeatureView, keys: Sequence[Any], *, until: datetime, clock: ClockName) -> pa.RecordBatch:
        """The moments by ``until`` at which another row of the view may begin to win for one entity key: at no other
        moment by then does `OfflineStore.join` find another row than just before.

        ``keys`` are canonical, in the order of the entity's join keys. The columns are ``at``, the moment, and
        ``event``, the event timestamp of the row that may win then: timestamp[us, UTC], no nulls, any order. Every row
        that ever wins by ``until`` is there.
        """
        ...


@runtime_checkable
class Interruptible(Protocol):
    """What an `OfflineStore` may do besides: give up what other threads are reading."""

    def interrupt(self) -> None:
        """Have the reads that are under way raise an error soon. A read that begins later is not concerned."""
        ...
