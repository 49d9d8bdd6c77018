"""The online store in one SQLite file, for one host: the embedded default. Many processes may use it at once.

The table ``cells`` is the Redis layout as rows of (key, field, value): the same keys, the same fields.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TypeVar

from llmfeatures.clock import stamp, system_clock
from llmfeatures.codec import FORMAT, KEY_FIELD, STAMP_LENGTH, view_field
from llmfeatures.errors import EntityMismatchError, FormatError, StoreError, StoreReadOnlyError, StoreUnavailableError
from llmfeatures.online.rows import (
    FORMAT_FIELD,
    LIFETIME_FIELD,
    beats,
    belongs,
    cells_of,
    check_format,
    completed,
    meta_of,
    newest,
    prefix_of,
    row_writes,
)
from llmfeatures.online.usage import sqlite_usage
from llmfeatures.pool import Pool
from llmfeatures.ports import Begun, Meta, Read, RowColumns, RowWrite, Usage, ViewFields, ViewMeta, Written

T = TypeVar("T")
S = TypeVar("S")

APPLICATION_ID = 0x6C6C6D66
"""What the file's header says that it is: ``llmf``."""
CONNECTIONS = 64
_WRITE_TIMEOUT = 30.0
"""Seconds that a change waits for the changes of other processes."""
_KEYS = 500
"""Entity keys changed in one transaction."""
_TABLE = "CREATE TABLE cells (key TEXT, field TEXT, value TEXT, PRIMARY KEY (key, field)) WITHOUT ROWID"
_PUT = "INSERT INTO cells VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_SMALLEST = 512
"""Bytes of the smallest database; SQLite takes a smaller file for an empty one, and would write over it."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class _File:
    """A connection, or None while there is no file; and the file that it is to."""

    connection: sqlite3.Connection | None = None
    identity: tuple[int, int] | None = None
    seconds: float = -1.0
    """How long the connection waits for a lock."""
    process: int = field(default_factory=os.getpid)

    def __del__(self) -> None:
        # a store that nobody closed; a forked child must not close its parent's connection
        if self.connection is not None and self.process == os.getpid():
            self.connection.close()

    def drop(self) -> None:
        connection, self.connection, self.identity, self.seconds = self.connection, None, None, -1.0
        if connection is not None:
            connection.close()


class SqliteStore:
    """`llmfeatures.ports.OnlineStore` in a SQLite file. Keys never expire.

    Args:
        path: the file. It and its folder are made by the first change; reading makes nothing.
        namespace: what this project's keys begin with.
        timeout: seconds that a read may wait.
    """

    def __init__(self, path: str | os.PathLike[str], namespace: str, *, timeout: float = 0.25) -> None:
        self._path = Path(path).absolute()
        self._prefix = prefix_of(namespace)
        self._meta_key = self._prefix + "@meta"
        self._timeout = timeout
        self._files: Pool[_File] = Pool(_File, limit=CONNECTIONS, keep_at_fork=True)
        self._selects: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._path)!r}, {self._prefix[:-1]!r})"

    def read(self, reads: Sequence[Read], *, timeout: float | None = None) -> list[list[str | None]]:
        """See `llmfeatures.ports.OnlineStore.read`."""
        return self._ask(timeout, self._rows, reads)

    def meta(self, *, timeout: float | None = None) -> Meta | None:
        """See `llmfeatures.ports.OnlineStore.meta`."""
        return self._ask(timeout, self._meta_now, None)

    def begin(self) -> Begun:
        """See `llmfeatures.ports.OnlineStore.begin`."""
        with self._changing() as connection:
            empty = connection.execute("SELECT 1 FROM cells LIMIT 1").fetchone() is None
            fields = [(FORMAT_FIELD, str(FORMAT)), (LIFETIME_FIELD, secrets.token_hex(16))]
            new = [(self._meta_key, *field) for field in fields]
            connection.executemany("INSERT INTO cells VALUES (?, ?, ?) ON CONFLICT DO NOTHING", new)
            meta = self._meta(connection)
            assert meta is not None
            return Begun(now=stamp(system_clock()), meta=meta, was_empty=empty)

    def write(
        self,
        rows: Sequence[RowWrite],
        *,
        replace_before: str | None = None,
        ttls: Mapping[str, timedelta] | None = None,
        timeout: float | None = None,
    ) -> Written:
        """See `llmfeatures.ports.OnlineStore.write`."""
        del ttls  # without expiry
        limit = _WRITE_TIMEOUT if timeout is None else timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        winners = iter(newest(rows).items())
        written = 0
        while batch := list(islice(winners, _KEYS)):
            with self._changing(limit, deadline) as connection:
                # A clock that was set back must not date a run's rows before its own beginning: its sweep would
                # remove them.
                now = max(stamp(system_clock()), replace_before or "")
                for key, views in batch:
                    for row in views.values():
                        written += self._put(connection, self._prefix + key, row, now, replace_before)
        return Written(written=written, skipped=len(rows) - written)

    def write_columns(
        self,
        rows: RowColumns,
        *,
        replace_before: str | None = None,
        ttls: Mapping[str, timedelta] | None = None,
    ) -> Written:
        """See `llmfeatures.ports.OnlineStore.write_columns`."""
        return self.write(row_writes(rows), replace_before=replace_before, ttls=ttls)

    def sweep(self, view: ViewFields, join_keys: tuple[str, ...], before: str) -> int:
        """See `llmfeatures.ports.OnlineStore.sweep`."""
        if not self._path.exists():
            return 0
        removed = 0
        after = f"{self._prefix}{join_keys[0]}:"
        until = after[:-1] + ";"  # the character after ':'
        while True:
            with self._changing() as connection:
                found = connection.execute(
                    "SELECT key FROM cells WHERE key > ? AND key < ? AND field = ? AND substr(value, ?) < ? "
                    "ORDER BY key LIMIT ?",
                    (after, until, view_field(view.name), -STAMP_LENGTH, before, _KEYS),
                ).fetchall()
                keys = [key for (key,) in found if belongs(key[len(self._prefix) :], join_keys)]
                for key in keys:
                    _remove(connection, key, view)
                removed += len(keys)
            if len(found) < _KEYS:
                return removed
            after = found[-1][0]

    def complete(self, view: str, meta: ViewMeta, *, lifetime: str, base: str | None) -> bool:
        """See `llmfeatures.ports.OnlineStore.complete`."""
        if not self._path.exists():
            return False
        with self._changing() as connection:
            fields = _hash(connection, self._meta_key)
            if fields.get(LIFETIME_FIELD) != lifetime:
                return False
            record = completed(fields.get(view), meta, base)
            if record is not None:
                connection.execute(_PUT, (self._meta_key, view, record))
            return True

    def usage(self, views: Mapping[ViewFields, tuple[str, ...]], *, seconds: float = 2.0) -> Usage:
        """See `llmfeatures.ports.OnlineStore.usage`."""
        return self._ask(
            max(seconds, self._timeout),
            lambda connection, _: sqlite_usage(connection, self._path, self._prefix, views, seconds),
            None,
        )

    def close(self) -> None:
        """See `llmfeatures.ports.OnlineStore.close`."""
        for file in self._files.drain():
            file.drop()

    def _rows(self, connection: sqlite3.Connection | None, reads: Sequence[Read]) -> list[list[str | None]]:
        if connection is None:
            return [[None] * len(fields) for _, fields in reads]
        return [self._row(connection, key, fields) for key, fields in reads]

    def _row(self, connection: sqlite3.Connection, key: str, fields: tuple[str, ...]) -> list[str | None]:
        select = self._selects.get(len(fields)) or self._select(len(fields))
        found: list[str | None] = list(connection.execute(select, (*fields, KEY_FIELD, self._prefix + key)).fetchone())
        owner = found.pop()
        if owner != key and (owner is not None or found.count(None) != len(found)):
            raise EntityMismatchError(
                f"a row of {self._path} is of another entity than its key: delete the file and run "
                "`llmfeatures materialize`"
            )
        return found

    def _select(self, count: int) -> str:
        # One look-up per field: faster than IN, and as fast in a hash of many more fields.
        cells = ", ".join(["(SELECT value FROM cells WHERE key = wanted AND field = ?)"] * (count + 1))
        self._selects[count] = f"SELECT {cells} FROM (SELECT ? AS wanted)"  # noqa: S608 - nothing but question marks
        return self._selects[count]

    def _put(
        self, connection: sqlite3.Connection, key: str, row: RowWrite, now: str, replace_before: str | None
    ) -> bool:
        stored: dict[str, str] = dict(connection.execute("SELECT field, value FROM cells WHERE key = ?", (key,)))
        values = [stored.get(feature) for feature in row.view.features]
        if not beats(row, stored.get(view_field(row.view.name)), values, replace_before):
            return False
        cells = [(KEY_FIELD, row.key), *cells_of(row, now)]
        connection.executemany(_PUT, [(key, *cell) for cell in cells])
        return True

    def _meta_now(self, connection: sqlite3.Connection | None, _: None) -> Meta | None:
        return None if connection is None else self._meta(connection)

    def _meta(self, connection: sqlite3.Connection) -> Meta | None:
        return meta_of(_hash(connection, self._meta_key), str(self._path))

    def _ask(self, timeout: float | None, answer: Callable[[sqlite3.Connection | None, S], T], subject: S) -> T:
        """What ``answer`` makes of a connection, or of None when there is no store yet; and of ``subject``."""
        seconds = self._timeout if timeout is None else timeout
        file = self._take(seconds)
        try:
            return answer(self._opened(file, seconds), subject)
        except (sqlite3.Error, OSError) as error:
            file.drop()
            raise _translated(error, self._path, seconds) from error
        except BaseException:
            file.drop()
            raise
        finally:
            self._files.give(file)

    @contextlib.contextmanager
    def _changing(self, limit: float | None = None, deadline: float | None = None) -> Generator[sqlite3.Connection]:
        """A transaction that no other process writes in; what is raised in it takes everything back. It waits for
        ``limit`` seconds, or until the ``deadline`` that they had for several transactions."""
        limit = _WRITE_TIMEOUT if limit is None else limit
        seconds = limit if deadline is None else max(0.0, deadline - time.monotonic())
        file = self._take(limit, seconds)
        try:
            connection = self._opened(file, seconds, writing=True) or self._made(file, seconds)
            connection.execute("BEGIN IMMEDIATE")
            check_format(_hash(connection, self._meta_key).get(FORMAT_FIELD), str(self._path))
            yield connection
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            file.drop()
            raise _translated(error, self._path, limit, writing=True) from error
        except BaseException:
            file.drop()
            raise
        finally:
            self._files.give(file)

    def _take(self, limit: float, left: float | None = None) -> _File:
        file = self._files.take(time.monotonic() + (limit if left is None else left))
        if file is None:
            raise StoreUnavailableError(f"the online store {self._path} had no free connection within {limit:g} s")
        return file

    def _opened(self, file: _File, seconds: float, *, writing: bool = False) -> sqlite3.Connection | None:
        """The connection of ``file`` to the file that is there now; None when there is no store in it yet."""
        try:
            found = os.stat(self._path)  # noqa: PTH116 - the read path: Path.stat costs as much as the SELECT
        except FileNotFoundError:
            file.drop()
            return None
        # A file that was deleted and made again is another file under the same name.
        if file.connection is None and 0 < found.st_size < _SMALLEST:
            raise StoreUnavailableError(f"the online store {self._path} {_ADVICE[sqlite3.SQLITE_NOTADB]}")
        if file.connection is None or file.identity != (found.st_dev, found.st_ino):
            file.drop()
            file.connection, file.identity = self._connect("rw", seconds), (found.st_dev, found.st_ino)
            if not self._is_ours(file, writing=writing):
                file.drop()
                return None
            file.connection.execute("PRAGMA synchronous = NORMAL")
        if file.seconds != seconds:
            file.connection.execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")
            file.seconds = seconds
        return file.connection

    def _is_ours(self, file: _File, *, writing: bool) -> bool:
        """Whether a file is an online store; False for an empty one."""
        assert file.connection is not None
        try:
            application, version, tables = _contents(file.connection)
        except sqlite3.OperationalError as error:
            if not self._is_frozen(error, writing=writing):
                raise
            file.connection.close()
            # Good for one read: a writer may come, and SQLite does not look for one then.
            file.connection, file.identity = self._connect("ro&immutable=1", 0), None
            application, version, tables = _contents(file.connection)
        if application == APPLICATION_ID:
            check_format(str(version), str(self._path))
            return True
        if application or version or tables:
            raise FormatError(f"{self._path} is a database of something else: give the online store another path")
        return False

    def _is_frozen(self, error: sqlite3.OperationalError, *, writing: bool) -> bool:
        """Whether nothing can be written beside the file (the folder forbids it, or the disk is full), and no other
        process has it open for writing."""
        log = self._path.with_name(self._path.name + "-wal")
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL):
            return not writing and not (
                log.exists() and log.stat().st_size
            )  # SQLite leaves an empty one when it runs out of room
        return not os.access(self._path.parent, os.W_OK) and not log.exists()

    def _made(self, file: _File, seconds: float) -> sqlite3.Connection:
        """The connection of ``file`` to a new store."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file.connection = connection = self._connect("rwc", seconds)
        _use_log(connection, seconds)
        connection.execute("BEGIN IMMEDIATE")
        if _header(connection) == (0, 0):  # else another process made it meanwhile
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
        opened = self._opened(file, seconds, writing=True)
        if opened is None:
            raise StoreUnavailableError(f"the online store {self._path} was deleted while it was made")
        return opened

    def _connect(self, mode: str, seconds: float) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self._path.as_uri()}?mode={mode}",
            uri=True,
            timeout=seconds,
            isolation_level=None,
            check_same_thread=False,
        )


class AsyncSqliteStore:
    """`llmfeatures.ports.AsyncOnlineStore` in a SQLite file; see `SqliteStore`. It reads in threads."""

    def __init__(self, path: str | os.PathLike[str], namespace: str, *, timeout: float = 0.25) -> None:
        self._store = SqliteStore(path, namespace, timeout=timeout)
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"Async{self._store!r}"

    async def read(self, reads: Sequence[Read], *, timeout: float | None = None) -> list[list[str | None]]:
        """See `llmfeatures.ports.OnlineStore.read`."""
        return await self._in_thread(lambda: self._store.read(reads, timeout=timeout), timeout)

    async def meta(self, *, timeout: float | None = None) -> Meta | None:
        """See `llmfeatures.ports.OnlineStore.meta`."""
        return await self._in_thread(lambda: self._store.meta(timeout=timeout), timeout)

    async def aclose(self) -> None:
        """See `llmfeatures.ports.OnlineStore.close`."""
        self._store.close()

    async def _in_thread(self, call: Callable[[], T], limit: float | None) -> T:
        """A call that goes on in its thread, and gives its connection back there, when the task is cancelled."""
        seconds = self._timeout if limit is None else limit
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.to_thread(call)
        except TimeoutError as error:
            raise StoreUnavailableError(f"{self._store!r} did not answer within {seconds:g} s") from error


def _hash(connection: sqlite3.Connection, key: str) -> dict[str, str]:
    return dict(connection.execute("SELECT field, value FROM cells WHERE key = ?", (key,)).fetchall())


def _remove(connection: sqlite3.Connection, key: str, view: ViewFields) -> None:
    """Remove a view's cells, and the whole key when no view is left in it."""
    cells = [(key, field) for field in (view_field(view.name), *view.features)]
    connection.executemany("DELETE FROM cells WHERE key = ? AND field = ?", cells)
    if not any(field.startswith("@") and field != KEY_FIELD for field in _hash(connection, key)):
        connection.execute("DELETE FROM cells WHERE key = ?", (key,))


def _header(connection: sqlite3.Connection) -> tuple[int, int]:
    """The application id and the format number in the file's header."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    return application, connection.execute("PRAGMA user_version").fetchone()[0]


def _contents(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """The header and the number of tables, of one moment: another process may be making the store."""
    connection.execute("BEGIN")
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    application, version = _header(connection)
    connection.execute("COMMIT")
    return application, version, tables


def _use_log(connection: sqlite3.Connection, seconds: float) -> None:
    """Turn on write-ahead logging. SQLite does not wait by itself when several processes do so at once."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


_ADVICE = {
    sqlite3.SQLITE_NOTADB: "is no database: delete it, or give the online store another path",
    sqlite3.SQLITE_CORRUPT: "is damaged: delete it and run `llmfeatures materialize`",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: see that it is a file, and who may read it and its folder",
    sqlite3.SQLITE_IOERR: "cannot be read or written: see whether its disk is full, or damaged",
}


def _translated(error: sqlite3.Error | OSError, path: Path, seconds: float, *, writing: bool = False) -> StoreError:
    """Our error for one of SQLite or the file system."""
    code = getattr(error, "sqlite_errorcode", -1) & 0xFF
    folder = next((folder for folder in path.parents if folder.exists()), path.parent)
    shut = isinstance(error, PermissionError) or (code == sqlite3.SQLITE_CANTOPEN and not os.access(folder, os.W_OK))
    if writing and (shut or code == sqlite3.SQLITE_READONLY):
        return StoreReadOnlyError(
            f"the online store {path} may not be written from here: change who may write the file and its folder, or "
            "set access = 'read'"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreUnavailableError(
            f"the online store {path} was locked by another process for more than {seconds:g} s: try again"
        )
    advice = _ADVICE.get(code, f"cannot be used ({error})")
    return StoreUnavailableError(f"the online store {path} {advice}")
