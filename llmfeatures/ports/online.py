# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""What an online store does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, Protocol


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
