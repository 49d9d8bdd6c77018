"""The online store in Redis 6.2 or later, or Valkey: one hash of text fields per entity key.

Commands that a user of the server needs: HMGET, HGET, HGETALL and ECHO for reading, SELECT for a database other than 0;
for writing also EVAL, EVALSHA and SCAN, and what ``newest_wins.lua`` calls: TIME, HKEYS, HSET, HSETNX, HDEL, DEL,
EXPIREAT, PERSIST and DBSIZE; for the numbers of ``status`` INFO, SCAN, MEMORY USAGE and DBSIZE. ``docs/deployment.md``
has the ACL lines.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import redis
import redis.asyncio

from llmfeatures.errors import ConfigError, FormatError, StoreError, StoreReadOnlyError, StoreUnavailableError
from llmfeatures.online.connect import timed
from llmfeatures.online.layout import (
    Call,
    Layout,
    chunks,
    matched,
    pack,
    pairs,
    row_arguments,
    script,
    ttl_arguments,
    view_arguments,
)
from llmfeatures.online.rows import belongs, check_format, meta_of, newest, refuse_format
from llmfeatures.online.usage import redis_usage
from llmfeatures.online.wire import AsyncLine, AsyncLines, Line, ReplyError, StaleError, options
from llmfeatures.pool import Pool
from llmfeatures.ports import Begun, Meta, Read, RowColumns, RowWrite, Usage, ViewFields, ViewMeta, Written

T = TypeVar("T")
S = TypeVar("S")

CONNECTIONS = 100
"""Connections that a store opens at most (per event loop, when asynchronous); further calls wait for one."""
_WRITE_TIMEOUT = 10.0
"""Seconds for one round trip of a change."""
_SCRIPT_CALLS = 16
"""Script calls in one round trip."""
_SCAN_COUNT = "1000"
_SWEEP_KEYS = 128


class _Limit(NamedTuple):
    """How long several round trips may take together: the seconds, and when they end (`time.monotonic`)."""

    seconds: float
    deadline: float


class RedisStore:
    """`llmfeatures.ports.OnlineStore` in Redis or Valkey.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py takes it.
        namespace: what this project's keys begin with.
        timeout: seconds that a read may take, waiting for a connection included.
        client: a client whose settings to use instead of the URL's. The store opens its own connections with them,
            and closes only those.
    """

    def __init__(self, url: str, namespace: str, *, timeout: float = 0.25, client: redis.Redis | None = None) -> None:
        pool = _pool(redis.ConnectionPool, url, client)
        settings = options(pool)
        make = timed(pool.connection_class, settings)
        self._layout = Layout(namespace)
        self._where = _shown(url, settings)
        self._timeout = timeout
        self._lines: Pool[Line] = Pool(lambda: Line(make(**settings)), limit=CONNECTIONS)
        self._script = script()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where!r}, {self._layout.prefix[:-1]!r})"

    def read(self, reads: Sequence[Read], *, timeout: float | None = None) -> list[list[str | None]]:
        """See `llmfeatures.ports.OnlineStore.read`."""
        if not reads:
            return []
        return self._ask(self._layout.request(reads), len(reads), timeout, matched, reads)

    def meta(self, *, timeout: float | None = None) -> Meta | None:
        """See `llmfeatures.ports.OnlineStore.meta`."""
        return self._ask(self._layout.meta_request, 1, timeout, _meta, self._where)

    def begin(self) -> Begun:
        """See `llmfeatures.ports.OnlineStore.begin`."""
        now, fields, empty = self._change([self._layout.call([], "begin", secrets.token_hex(16))])[0]
        meta = meta_of(pairs(fields), self._where)
        assert meta is not None
        return Begun(now=now, meta=meta, was_empty=empty == 1)

    def write(
        self,
        rows: Sequence[RowWrite],
        *,
        replace_before: str | None = None,
        ttls: Mapping[str, timedelta] | None = None,
        timeout: float | None = None,
    ) -> Written:
        """See `llmfeatures.ports.OnlineStore.write`."""
        limit = None if timeout is None else _Limit(timeout, time.monotonic() + timeout)
        head = ("write", replace_before or "", *ttl_arguments(ttls))
        calls = (
            self._layout.call((key for key, _ in chunk), *head, *row_arguments(chunk)) for chunk in chunks(newest(rows))
        )
        written = 0
        while batch := list(islice(calls, _SCRIPT_CALLS)):
            written += sum(self._change(batch, limit))
        return Written(written=written, skipped=len(rows) - written)

    def write_columns(
        self,
        rows: RowColumns,
        *,
        replace_before: str | None = None,
        ttls: Mapping[str, timedelta] | None = None,
    ) -> Written:
        """See `llmfeatures.ports.OnlineStore.write_columns`."""
        from llmfeatures.online.packed import row_calls

        head = ("write_columns", replace_before or "", *ttl_arguments(ttls), *view_arguments([rows.view]))
        calls = row_calls(self._layout, rows, head)
        written = 0
        while batch := list(islice(calls, _SCRIPT_CALLS)):
            written += sum(self._change(batch))
        return Written(written=written, skipped=len(rows) - written)

    def sweep(self, view: ViewFields, join_keys: tuple[str, ...], before: str) -> int:
        """See `llmfeatures.ports.OnlineStore.sweep`."""
        arguments = ("sweep", before, *view_arguments([view]))
        removed = 0
        for keys in self._scan(join_keys):
            portions = (keys[start : start + _SWEEP_KEYS] for start in range(0, len(keys), _SWEEP_KEYS))
            removed += sum(self._change([self._layout.call(portion, *arguments) for portion in portions]))
        return removed

    def complete(self, view: str, meta: ViewMeta, *, lifetime: str, base: str | None) -> bool:
        """See `llmfeatures.ports.OnlineStore.complete`."""
        arguments = ("complete", view, meta.schema_hash, meta.watermark, lifetime, base or "")
        return self._change([self._layout.call([], *arguments)])[0] == 1

    def usage(self, views: Mapping[ViewFields, tuple[str, ...]], *, seconds: float = 2.0) -> Usage:
        """See `llmfeatures.ports.OnlineStore.usage`."""

        def ask(commands: Sequence[tuple[str, ...]]) -> list[Any]:
            request = b"".join([pack(*command) for command in commands])
            return self._ask(request, len(commands), max(seconds, self._timeout), _as_they_came, None)

        return redis_usage(ask, self._layout.prefix, views, seconds)

    def close(self) -> None:
        """See `llmfeatures.ports.OnlineStore.close`."""
        for line in self._lines.drain():
            line.drop()

    def _ask(
        self, request: bytes, count: int, timeout: float | None, finish: Callable[[list[Any], S], T], subject: S
    ) -> T:
        """One exchange that may be sent twice. ``finish`` makes the answer of the replies (and of ``subject``); when it
        raises, the connection is dropped."""
        seconds = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        try:
            line = self._take(deadline)
            try:
                if not line.is_open:
                    self._open(line, deadline)
                    return finish(line.ask(request, count, deadline), subject)
                try:
                    return finish(line.ask(request, count, deadline), subject)
                except StaleError:
                    line.drop()
                    self._open(line, deadline)
                    return finish(line.ask(request, count, deadline), subject)
            except BaseException:
                line.drop()
                raise
            finally:
                self._lines.give(line)
        except StoreError:
            raise
        except Exception as error:
            raise _translated(error, self._where, seconds) from error

    def _change(self, calls: Sequence[Call], limit: _Limit | None = None) -> list[Any]:
        """Run script calls in one round trip, and again those that found the server without the script."""
        if not calls:
            return []
        answers = self._send([call.of("EVALSHA", self._script.digest) for call in calls], limit)
        unknown = [
            i for i, answer in enumerate(answers) if isinstance(answer, ReplyError) and answer.code == "NOSCRIPT"
        ]
        if unknown:
            again = self._send([calls[i].of("EVAL", self._script.text) for i in unknown], limit)
            for i, answer in zip(unknown, again, strict=True):
                answers[i] = answer
        for answer in answers:
            if isinstance(answer, ReplyError):
                raise _translated(answer, self._where, _WRITE_TIMEOUT, writing=True) from answer
        return answers

    def _send(self, commands: list[bytes], limit: _Limit | None) -> list[Any]:
        """One exchange that must not be sent twice: whether the connection still stands is found out before."""
        seconds, deadline = limit or _Limit(_WRITE_TIMEOUT, time.monotonic() + _WRITE_TIMEOUT)
        try:
            line = self._take(deadline)
            try:
                self._make_ready(line, deadline)
                return line.ask(b"".join(commands), len(commands), deadline)
            except BaseException:
                line.drop()
                raise
            finally:
                self._lines.give(line)
        except StoreError:
            raise
        except Exception as error:
            raise _translated(error, self._where, seconds, writing=True) from error

    def _take(self, deadline: float) -> Line:
        line = self._lines.take(deadline)
        if line is None:
            raise TimeoutError
        return line

    def _make_ready(self, line: Line, deadline: float) -> None:
        if line.is_open:
            try:
                line.probe(deadline)
            except StaleError:
                line.drop()
        if not line.is_open:
            self._open(line, deadline)

    def _open(self, line: Line, deadline: float) -> None:
        line.open(deadline)
        _check_format(line.ask(self._layout.format_request, 1, deadline), self._where)

    def _scan(self, join_keys: Sequence[str]) -> Iterator[list[str]]:
        """All entity keys of these join keys, some of them more than once."""
        cursor, pattern, prefix = "0", self._layout.pattern(join_keys), len(self._layout.prefix)
        while True:
            request = pack("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
            cursor, names = self._ask(request, 1, _WRITE_TIMEOUT, _scanned, None)
            yield [name[prefix:] for name in names if belongs(name[prefix:], join_keys)]
            if cursor == "0":
                return


class AsyncRedisStore:
    """`llmfeatures.ports.AsyncOnlineStore` as `RedisStore`. Each event loop has its own connections."""

    def __init__(
        self, url: str, namespace: str, *, timeout: float = 0.25, client: redis.asyncio.Redis | None = None
    ) -> None:
        pool = _pool(redis.asyncio.ConnectionPool, url, client)
        make, settings = pool.connection_class, options(pool)
        self._layout = Layout(namespace)
        self._where = _shown(url, settings)
        self._timeout = timeout
        self._lines = AsyncLines(lambda: AsyncLine(make(**settings)), limit=CONNECTIONS)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where!r}, {self._layout.prefix[:-1]!r})"

    async def read(self, reads: Sequence[Read], *, timeout: float | None = None) -> list[list[str | None]]:
        """See `llmfeatures.ports.OnlineStore.read`."""
        if not reads:
            return []
        return await self._ask(self._layout.request(reads), len(reads), timeout, matched, reads)

    async def meta(self, *, timeout: float | None = None) -> Meta | None:
        """See `llmfeatures.ports.OnlineStore.meta`."""
        return await self._ask(self._layout.meta_request, 1, timeout, _meta, self._where)

    async def aclose(self) -> None:
        """See `llmfeatures.ports.OnlineStore.close`. Closes the connections of the running event loop."""
        for line in self._lines.drain():
            await line.close()

    async def _ask(
        self, request: bytes, count: int, limit: float | None, finish: Callable[[list[Any], S], T], subject: S
    ) -> T:
        """See `RedisStore._ask`."""
        seconds = self._timeout if limit is None else limit
        try:
            async with asyncio.timeout(seconds), self._lines.line() as line:
                if not line.is_open:
                    await self._open(line, seconds)
                    return finish(await line.ask(request, count), subject)
                try:
                    return finish(await line.ask(request, count), subject)
                except StaleError:
                    line.drop()
                    await self._open(line, seconds)
                    return finish(await line.ask(request, count), subject)
        except StoreError:
            raise
        except Exception as error:
            raise _translated(error, self._where, seconds) from error

    async def _open(self, line: AsyncLine, seconds: float) -> None:
        await line.open(seconds)
        _check_format(await line.ask(self._layout.format_request, 1), self._where)


_CODE = re.compile(r"[A-Z]{2,20}")
_READ_ONLY = frozenset({"READONLY", "NOPERM"})
_ADVICE = {
    "OOM": "is out of memory: raise its maxmemory",
    "MISCONF": "cannot save to its disk, and refuses writes until it can",
    "NOREPLICAS": "has too few replicas, and refuses writes until it has them",
    "NOAUTH": "wants a password: write it into the URL, redis://USER:PASSWORD@HOST",
    "WRONGPASS": "does not know this user or password: correct the URL",
    "NOPERM": "does not allow its user what reading needs, HMGET, HGET, HGETALL and ECHO on the keys of the namespace: "
    "extend its ACL; docs/deployment.md has the lines",
    "LOADING": "is still loading its data: try again soon",
    "BUSY": "is busy with a long script: try again soon",
    "MASTERDOWN": "is a replica that lost its primary",
    "DB": "has no database of that number: correct the URL",
    "CLUSTERDOWN": "is a Redis Cluster, which this store does not support",
    "MOVED": "is a Redis Cluster, which this store does not support",
    "CROSSSLOT": "is a Redis Cluster, which this store does not support",
}


def _translated(error: Exception, where: str, seconds: float, *, writing: bool = False) -> StoreError:
    """Our error for one of redis-py, hiredis, the socket or the server. Never shows what was sent or stored."""
    if isinstance(error, ReplyError | redis.ResponseError) and "DB index is out of range" in str(error):
        return StoreUnavailableError(f"the online store {where} {_ADVICE['DB']}")
    if isinstance(error, ReplyError):
        return _refused(error, where, writing=writing)
    if isinstance(error, redis.AuthenticationError):
        return StoreUnavailableError(f"the online store {where} {_ADVICE['WRONGPASS']}")
    if isinstance(error, redis.BusyLoadingError):
        return StoreUnavailableError(f"the online store {where} {_ADVICE['LOADING']}")
    if isinstance(error, TimeoutError | redis.TimeoutError):
        return StoreUnavailableError(
            f"the online store {where} did not answer within {seconds:.3g} s: see that it runs and is not "
            "overloaded, or raise the timeout"
        )
    if isinstance(error, UnicodeDecodeError):
        return FormatError(f"the online store {where} holds bytes that are no UTF-8 text: something else wrote there")
    if isinstance(error, StaleError | OSError | redis.ConnectionError):
        reason = str(error) or "the server closed the connection"
        return StoreUnavailableError(f"cannot reach the online store {where} ({reason}): see that it runs, and the URL")
    return StoreUnavailableError(f"the online store {where} cannot be used ({type(error).__name__})")


def _refused(error: ReplyError, where: str, *, writing: bool) -> StoreError:
    code = error.code
    if code == "LLMFORMAT":
        try:
            refuse_format(str(error).partition(" ")[2], where)
        except FormatError as refused:
            return refused
    if code == "WRONGTYPE":
        return FormatError(
            f"the online store {where} holds something else under a key of this namespace: choose another namespace"
        )
    if writing and code in _READ_ONLY:
        return StoreReadOnlyError(
            f"the online store {where} may not be written from here ({code}): connect to the primary, as a user that "
            "may write (docs/deployment.md has its ACL line), or set access = 'read'"
        )
    # of a garbled reply, the first word may be a value
    advice = _ADVICE.get(code, f"answered with an error{f' ({code})' if _CODE.fullmatch(code) else ''}")
    return StoreUnavailableError(f"the online store {where} {advice}")


def _meta(answers: list[Any], where: str) -> Meta | None:
    return meta_of(pairs(answers[0]), where)


def _as_they_came(answers: list[Any], _: None) -> list[Any]:
    return answers


def _scanned(answers: list[Any], _: None) -> tuple[str, list[str]]:
    if isinstance(answers[0], ReplyError):
        raise answers[0]
    cursor, names = answers[0]
    return cursor, names


def _check_format(answers: list[Any], where: str) -> None:
    if isinstance(answers[0], ReplyError):
        raise answers[0]
    check_format(answers[0], where)


def _pool(kind: Any, url: str, client: Any) -> Any:
    """The redis-py pool that has the settings: the client's own, or one of the URL, which never opens a connection."""
    if client is not None:
        return client.connection_pool
    try:
        return kind.from_url(url)
    except ValueError as error:
        # Nothing of the URL: what makes it unreadable may be a password.
        raise ConfigError(
            "the online store's URL cannot be read; write one like redis://localhost:6379/0, and special characters of "
            "a password percent-encoded"
        ) from error


def _shown(url: str, settings: Mapping[str, Any]) -> str:
    """Where the store is, without user and password."""
    if not url:
        return str(settings.get("path") or f"redis://{settings.get('host', 'localhost')}:{settings.get('port', 6379)}")
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
