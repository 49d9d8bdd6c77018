"""Connections to PostgreSQL that end what they wait for at a deadline, and its errors as ours."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar, cast

import psycopg
from psycopg import errors, generators, waiting
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

from llmfeatures.errors import ConfigError, LLMFeaturesError, RetrieverError, RetrieverUnavailableError
from llmfeatures.retrieval import wire

T = TypeVar("T")
_INTERVAL = 0.1


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """Waits until ``deadline`` (`time.monotonic`); None waits for ever."""

    deadline: float | None = None

    def run(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> psycopg.Cursor[Any]:
        """Run one statement."""
        return self.execute(sql.encode(), parameters)

    def wait(self, gen: Any, interval: float = _INTERVAL, timeout: float | None = None) -> Any:  # noqa: ARG002
        """As psycopg's, which asks the server to cancel first: who is interrupted, or late, drops the connection."""
        try:
            if self.deadline is None:
                return waiting.wait(gen, self.pgconn.socket, interval=interval)
            interval = min(interval, max(self.deadline - time.monotonic(), 0.001))
            return waiting.wait(_until(gen, self.deadline), self.pgconn.socket, interval=interval)
        except psycopg.Error:
            raise
        except BaseException:
            self.pgconn.finish()
            raise


class AsyncConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """Does not ask the server to cancel when it is cancelled, and waits for nothing then: it is dropped."""

    async def wait(self, gen: Any, interval: float = _INTERVAL, timeout: float | None = None) -> Any:  # noqa: ARG002
        """As psycopg's."""
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval=interval)
        except psycopg.Error:
            raise
        except BaseException:
            self.pgconn.finish()  # else leaving pipeline mode fails, and that hides that this was cancelled
            raise


class Link:
    """A place for a connection in a pool."""

    def __init__(self) -> None:
        self.connection: Connection | None = None

    def drop(self) -> None:
        """Close the connection, if there is one."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.pgconn.finish()


def settings_of(url: str) -> str:
    """What libpq connects with.

    Raises:
        ConfigError: it is no URL of PostgreSQL.
    """
    if not psycopg.Pipeline.is_supported():
        raise ConfigError("PostgreSQL's client library is older than 14; pip install 'psycopg[binary]'")
    try:
        given = conninfo_to_dict(url)
        given.setdefault("application_name", "llmfeatures")
        return make_conninfo("", **{**given, "client_encoding": "utf8"})
    except psycopg.Error:
        raise ConfigError(
            "[retrieval] url is no URL of PostgreSQL; write postgresql://USER@HOST:PORT/DATABASE (the password in "
            "PGPASSWORD or ~/.pgpass)"
        ) from None


def connected(settings: str, seconds: float) -> Connection:
    """A new connection, made within so many seconds, of which psycopg itself takes two at least."""
    deadline = time.monotonic() + seconds
    made = waiting.wait_conn(_until(generators.connect(settings), deadline), interval=min(_INTERVAL, seconds))
    connection = Connection(made, cast("Any", tuple_row))
    connection.deadline = deadline
    connection.autocommit, connection.prepare_threshold = True, None
    return connection


async def async_connected(settings: str) -> AsyncConnection:
    """A new connection."""
    return await AsyncConnection.connect(settings, autocommit=True, prepare_threshold=None)


def translated(retriever: str, error: Exception) -> LLMFeaturesError:
    """What an error of psycopg means. What the server says of data is left out: it may quote it."""
    if isinstance(error, LLMFeaturesError):
        return error
    if isinstance(error, (TimeoutError, errors.QueryCanceled, errors.ConnectionTimeout)):
        return wire.late(retriever)
    if isinstance(error, (errors.UndefinedTable, errors.InvalidSchemaName)):
        return wire.never_filled(retriever)
    if isinstance(error, errors.InsufficientPrivilege):
        said = (error.diag.message_primary or "").strip()
        return RetrieverError(f"retriever {retriever!r}: this user of PostgreSQL may not do that: {said}")
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return RetrieverError(f"retriever {retriever!r}: PostgreSQL may only be read from here")
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        said = str(error).strip().partition("\n")[0]
        return RetrieverUnavailableError(
            f"retriever {retriever!r}: PostgreSQL cannot be reached: {said}; is [retrieval] url right?"
        )
    code = f" ({error.sqlstate})" if isinstance(error, psycopg.Error) and error.sqlstate else ""
    return RetrieverError(f"retriever {retriever!r}: PostgreSQL refused: {type(error).__name__}{code}")


def is_lost(error: Exception) -> bool:
    """Whether an error only says that a connection from before has ended meanwhile."""
    return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) and not isinstance(
        error, (errors.QueryCanceled, errors.ConnectionTimeout)
    )


def _until(gen: Generator[Any, Any, T], deadline: float) -> Generator[Any, Any, T]:
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() >= deadline:
                raise TimeoutError
            wanted = gen.send(ready)
    except StopIteration as done:
        return cast("T", done.value)


class _NoEcho(logging.Filter):
    """Leaving a pipeline whose server died, psycopg logs again what has been raised already."""

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        ours = bool(args) and isinstance(getattr(args[0], "_conn", None), (Connection, AsyncConnection))
        return not (ours and str(record.msg).startswith("error ignored terminating"))


logging.getLogger("psycopg").addFilter(_NoEcho())
