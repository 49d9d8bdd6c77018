"""Connections to a Redis server whose answers provably belong to what was asked.

redis-py makes a connection (TLS, login, database); after that, bytes go straight to its socket. Every exchange ends
in an ``ECHO`` of a text that no other exchange uses: when the echo comes last and nothing comes after it, no answer
of another exchange was taken for one of this. It costs half a microsecond, and no further round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import os
import re
import secrets
import ssl
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection as AsyncConnection
from redis.connection import AbstractConnection

from llmfeatures.errors import EntityMismatchError

_MORE = object()
_turns = itertools.count()
_CHUNK = 65536
_kept: list[object] = []
"""What a forked child must neither use nor close."""
_CLOSED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""What a connection raises that the other side has closed."""
_IN_SCRIPT = re.compile(r"-?\b(READONLY|OOM|NOPERM|MISCONF|NOREPLICAS|WRONGTYPE)\b")
_CHATTY = ("maint_", "maintenance_", "orig_", "oss_cluster_", "retry", "himport_", "lib_", "driver_info", "event_")


class ReplyError(Exception):
    """An error that the server answered. ``code`` is its first word, or the one inside a script's error."""

    @property
    def code(self) -> str:
        inside = _IN_SCRIPT.search(str(self))
        return inside[1] if inside else str(self).partition(" ")[0]


class StaleError(Exception):
    """The server had closed an idle connection before this exchange: it may be tried again."""


def options(pool: Any) -> dict[str, Any]:
    """What to make connections of a redis-py pool with: its own settings, without retries and announcements."""
    taken = inspect.signature(AbstractConnection.__init__).parameters
    quiet = {"driver_info": None} if "driver_info" in taken else {"lib_name": None, "lib_version": None}
    settings: Mapping[str, Any] = pool.connection_kwargs
    kept = {name: value for name, value in settings.items() if not name.startswith(_CHATTY)}
    return kept | quiet | {"protocol": 2, "health_check_interval": 0, "decode_responses": True}


def echo_of(prefix: str) -> tuple[str, bytes]:
    """A text that no other exchange uses, and the command that asks the server to echo it."""
    token = f"{prefix}{next(_turns)}"
    return token, b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(token), token.encode())


class _Answers:
    """The replies of a connection, parsed as they come."""

    __slots__ = ("_gets", "_has_data", "feed")

    def __init__(self) -> None:
        reader = hiredis.Reader(replyError=ReplyError, encoding="utf-8", errors="strict", notEnoughData=_MORE)
        self.feed: Any = reader.feed  # declared without bytearray, which it takes
        self._gets = reader.gets
        self._has_data = reader.has_data

    def collect(self, answers: list[Any], count: int) -> bool:
        """Move replies to ``answers``; True when all ``count`` have come."""
        gets = self._gets
        while len(answers) < count:
            answer = gets()
            if answer is _MORE:
                return False
            answers.append(answer)
        return True

    def check(self, answers: list[Any], token: str) -> None:
        """Take the echo off the end, and see that it is this exchange's.

        Raises:
            EntityMismatchError: it is not: the replies are out of step with the requests.
        """
        echo = answers.pop()
        if echo != token or self._has_data():
            if isinstance(echo, ReplyError):
                raise echo
            raise out_of_step()


def out_of_step() -> EntityMismatchError:
    """The error of a connection whose replies are not to what was asked."""
    return EntityMismatchError(
        "an answer of the online store belongs to another request; it was thrown away and the connection dropped. "
        "Ask again; when it happens often, look for a proxy between this process and Redis"
    )


class Line:
    """One connection, for one thread at a time. Not yet open when made; can be opened again after `drop`."""

    __slots__ = ("__weakref__", "_answers", "_buffer", "_connection", "_prefix", "_socket")

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._socket: Any = None
        self._buffer = bytearray(_CHUNK)

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def open(self, deadline: float) -> None:
        """Connect, log in and choose the database."""
        connection = self._connection
        connection.socket_timeout = connection.socket_connect_timeout = _left(deadline)
        connection.connect()
        self._socket = connection._sock  # pyright: ignore[reportPrivateUsage]
        self._answers = _Answers()
        self._prefix = secrets.token_hex(4)

    def ask(self, request: bytes, count: int, deadline: float) -> list[Any]:
        """Send packed commands and return their ``count`` replies; an error that the server answers is one of them.

        After any exception the connection must be dropped.

        Raises:
            EntityMismatchError: the replies are not to these commands.
            StaleError: the connection was closed before it was used again.
        """
        answers: list[Any] = []
        token, echo = echo_of(self._prefix)
        reader, socket, buffer = self._answers, self._socket, self._buffer
        started = False
        socket.settimeout(_left(deadline))
        try:
            socket.sendall(request + echo)
            while not reader.collect(answers, count + 1):
                if started:
                    socket.settimeout(_left(deadline))
                size = socket.recv_into(buffer)
                if not size:
                    raise ConnectionResetError("the server closed the connection")
                started = True
                reader.feed(buffer, 0, size)
        except _CLOSED as error:
            if started:
                raise
            raise StaleError from error
        reader.check(answers, token)
        return answers

    def drop(self) -> None:
        """Close the connection at once: nothing that is still to come on it will be read."""
        self._socket = None
        self._connection.disconnect()


class AsyncLine:
    """`Line` for asyncio, for one task at a time and one event loop. Deadlines are the caller's business."""

    __slots__ = ("_answers", "_connection", "_prefix")

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._answers: _Answers | None = None

    @property
    def is_open(self) -> bool:
        return self._answers is not None

    async def open(self, timeout: float) -> None:
        """As `Line.open`."""
        self._connection.socket_timeout = self._connection.socket_connect_timeout = timeout
        await self._connection.connect()
        self._prefix = secrets.token_hex(4)
        self._answers = _Answers()

    async def ask(self, request: bytes, count: int) -> list[Any]:
        """As `Line.ask`."""
        answers: list[Any] = []
        token, echo = echo_of(self._prefix)
        reader, (stream, writer) = self._answers, self._streams()
        assert reader is not None
        started = False
        try:
            writer.write(request + echo)
            if len(request) > _CHUNK:
                await writer.drain()
            while not reader.collect(answers, count + 1):
                received = await stream.read(_CHUNK)
                if not received:
                    raise ConnectionResetError("the server closed the connection")
                started = True
                reader.feed(received)
        except _CLOSED as error:
            if started:
                raise
            raise StaleError from error
        reader.check(answers, token)
        return answers

    def drop(self) -> None:
        """As `Line.drop`; never waits, so that a task that is being cancelled can call it."""
        self._answers = None
        connection = self._connection
        writer = connection._writer  # pyright: ignore[reportPrivateUsage]
        if writer is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                writer.transport.abort()
        # Not `disconnect`: it awaits, and a cancelled task must not.
        connection._writer = connection._reader = None  # pyright: ignore[reportPrivateUsage]

    async def close(self) -> None:
        """Close an idle connection and wait until it is closed."""
        self._answers = None
        await self._connection.disconnect()

    def _streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = self._connection._reader, self._connection._writer  # pyright: ignore[reportPrivateUsage]
        if reader is None or writer is None:
            raise ConnectionResetError("the connection is closed")
        return reader, writer


class AsyncLines:
    """The connections of one store: up to ``limit`` for each event loop that uses it. A forked child starts anew."""

    def __init__(self, make: Callable[[], AsyncLine], *, limit: int) -> None:
        self._make = make
        self._limit = limit
        self._pid = os.getpid()
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = weakref.WeakKeyDictionary()

    @contextlib.asynccontextmanager
    async def line(self) -> AsyncGenerator[AsyncLine]:
        """A connection for the length of a block; dropped when the block raises anything."""
        mine = self._of_loop()
        async with mine.free:
            line = mine.idle.pop() if mine.idle else self._make()
            try:
                yield line
            except BaseException:
                line.drop()
                raise
            finally:
                mine.idle.append(line)

    def drain(self) -> list[AsyncLine]:
        """Remove the running loop's idle connections from the pool, and return them."""
        mine = self._of_loop()
        drained, mine.idle = mine.idle, []
        return drained

    def _of_loop(self) -> _OfLoop:
        if self._pid != os.getpid():
            # Closing the parent's transports would take its sockets out of an epoll that both processes share.
            _kept.extend(self._loops.values())
            self._pid, self._loops = os.getpid(), weakref.WeakKeyDictionary()
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            found = self._loops[loop] = _OfLoop(self._limit)
        return found


class _OfLoop:
    __slots__ = ("free", "idle")

    def __init__(self, limit: int) -> None:
        self.free = asyncio.Semaphore(limit)
        self.idle: list[AsyncLine] = []


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
