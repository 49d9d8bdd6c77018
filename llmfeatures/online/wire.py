"""Connections to a Redis server whose answers provably belong to what was asked.

redis-py makes a connection (TLS, login, database); after that, bytes go straight to its socket. Every exchange ends
in an ``ECHO`` of a text that no other exchange uses: when the echo comes last and nothing comes after it, no answer
of another exchange was taken for one of this. It costs half a microsecond, and no further round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import re
import secrets
import socket
import ssl
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from itertools import cycle
from time import monotonic
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection as AsyncConnection
from redis.connection import AbstractConnection
from redis.exceptions import AuthenticationError

from llmfeatures.errors import EntityMismatchError
from llmfeatures.online.connect import Timed, left, login

MORE = object()
_CHUNK = 65536
_ECHOES = 256
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


def echoes() -> Iterator[tuple[str, bytes]]:
    """Texts that end the exchanges of one connection, each with the command that asks the server to echo it.

    No other connection has the same texts, and this one only after so many exchanges that no reply can be that late.
    """
    prefix = secrets.token_hex(4)
    texts = [f"{prefix}{turn:02x}" for turn in range(_ECHOES)]
    return cycle([(text, b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(text), text.encode())) for text in texts])


class _Answers:
    """The replies of a connection, parsed as they come. ``gets`` gives the next one, or `MORE` until it is whole."""

    __slots__ = ("_has_data", "feed", "gets")

    def __init__(self) -> None:
        reader = hiredis.Reader(replyError=ReplyError, encoding="utf-8", errors="strict", notEnoughData=MORE)
        self.feed: Any = reader.feed  # declared without bytearray, which it takes
        self.gets = reader.gets
        self._has_data = reader.has_data

    def check(self, answers: list[Any], token: str, count: int) -> None:
        """Take the echo off the end, and see that it is this exchange's, and what ``count`` replies came before.

        Raises:
            EntityMismatchError: it is not: the replies are out of step with the requests.
        """
        echo = answers.pop()
        if echo != token or len(answers) != count or self._has_data():
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

    __slots__ = (
        "__weakref__",
        "_answers",
        "_buffer",
        "_connection",
        "_echoes",
        "_plain",
        "_socket",
        "_waits",
        "is_open",
    )

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._socket: Any = None
        self._buffer = bytearray(_CHUNK)
        self.is_open = False

    def open(self, deadline: float) -> None:
        """Connect, log in and choose the database."""
        connection = self._connection
        if isinstance(connection, Timed):
            connection.deadline = deadline
        else:
            connection.socket_timeout = connection.socket_connect_timeout = left(deadline)
        connection.connect()
        self._socket = connection._sock  # pyright: ignore[reportPrivateUsage]
        self._plain = type(self._socket) is socket.socket
        self._waits = 0.0
        self._answers = _Answers()
        self._echoes = echoes()
        self.is_open = True
        if isinstance(connection, Timed):
            self._log_in(login(connection), deadline)

    def _log_in(self, commands: list[bytes], deadline: float) -> None:
        if not commands:
            return
        answers: list[Any]
        try:
            answers = self.ask(b"".join(commands), len(commands), deadline)
        except ReplyError as error:  # who is not let in gets no echo either
            answers = [error]
        for answer, command in zip(answers, commands, strict=False):
            if isinstance(answer, ReplyError):
                refused = b"\r\nAUTH\r\n" in command and answer.code in ("ERR", "NOAUTH", "WRONGPASS")
                raise AuthenticationError if refused else answer

    def ask(self, request: bytes, count: int, deadline: float) -> list[Any]:
        """Send packed commands and return their ``count`` replies; an error that the server answers is one of them.

        After any exception the connection must be dropped.

        Raises:
            EntityMismatchError: the replies are not to these commands.
            StaleError: the connection was closed before it was used again.
        """
        answers: list[Any] = []
        token, echo = next(self._echoes)
        reader, buffer, receive = self._answers, self._buffer, self._socket.recv_into
        feed, gets = reader.feed, reader.gets
        started = False
        try:
            seconds = deadline - monotonic()
            if not 0 < seconds <= self._waits <= seconds * 1.01:
                self._wait_until(deadline)
            self._send(request + echo)
            while True:
                size = receive(buffer)
                if not size:
                    raise ConnectionResetError("the server closed the connection")
                started = True
                feed(buffer, 0, size)
                while (answer := gets()) is not MORE:
                    answers.append(answer)
                if len(answers) > count:
                    break
                self._wait_until(deadline)
        except _CLOSED as error:
            if started:
                raise
            raise StaleError from error
        reader.check(answers, token, count)
        return answers

    def probe(self, deadline: float) -> None:
        """See whether the connection still stands, for an exchange that must not be sent twice.

        Raises:
            EntityMismatchError: the server sent what nobody asked for.
            StaleError: the server has closed it.
        """
        if not self._plain:  # TLS has records of its own: only an exchange tells
            self.ask(b"", 0, deadline)
            return
        self._waits = 0.0
        try:
            self._socket.settimeout(0)
            ahead = self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except _CLOSED as error:
            raise StaleError from error
        if ahead:
            raise out_of_step()
        raise StaleError

    def _wait_until(self, deadline: float) -> None:
        """Have the socket wait until the deadline, or a hundredth longer: to set its timeout takes a system call."""
        seconds = deadline - monotonic()
        if not 0 < seconds <= self._waits <= seconds * 1.01:
            if seconds <= 0:
                raise TimeoutError
            self._waits = seconds * 1.005
            self._socket.settimeout(self._waits)

    def _send(self, data: bytes) -> None:
        """Send it all. Mostly one write takes it, and `sendall` would ask first whether the socket is ready."""
        if self._plain:
            try:
                sent = os.write(self._socket.fileno(), data)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self._socket.sendall(data)

    def drop(self) -> None:
        """Close the connection at once: nothing that is still to come on it will be read."""
        self.is_open, self._socket = False, None
        self._connection.disconnect()


class AsyncLine:
    """`Line` for asyncio, for one task at a time and one event loop. Deadlines are the caller's business."""

    __slots__ = ("_answers", "_connection", "_echoes")

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
        self._echoes = echoes()
        self._answers = _Answers()

    async def ask(self, request: bytes, count: int) -> list[Any]:
        """As `Line.ask`."""
        answers: list[Any] = []
        token, echo = next(self._echoes)
        reader, (stream, writer) = self._answers, self._streams()
        assert reader is not None
        started = False
        try:
            writer.write(request + echo)
            if len(request) > _CHUNK:
                await writer.drain()
            while len(answers) <= count:
                received = await stream.read(_CHUNK)
                if not received:
                    raise ConnectionResetError("the server closed the connection")
                started = True
                reader.feed(received)
                while (answer := reader.gets()) is not MORE:
                    answers.append(answer)
        except _CLOSED as error:
            if started:
                raise
            raise StaleError from error
        reader.check(answers, token, count)
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

    def abandon(self) -> None:
        """Close an idle connection whose event loop is closed, so that its transport cannot."""
        self._answers = None
        connection = self._connection
        writer: Any = connection._writer  # pyright: ignore[reportPrivateUsage]
        connection._writer = connection._reader = None  # pyright: ignore[reportPrivateUsage]
        if writer is None:
            return
        # other loops than asyncio's close everything when they end
        over: Any = writer.transport
        under = getattr(getattr(over, "_ssl_protocol", None), "_transport", over)
        if (sock := getattr(under, "_sock", None)) is not None:
            sock.close()
            under._sock, under._closing, over._closed = None, True, True

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
            self._leave_closed_loops()
            found = self._loops[loop] = _OfLoop(self._limit)
        return found

    def _leave_closed_loops(self) -> None:
        """Close the connections of loops that are closed: each `asyncio.run` has one of its own."""
        for loop in list(self._loops):
            if loop.is_closed() and (left := self._loops.pop(loop, None)) is not None:
                for line in left.idle:
                    line.abandon()


class _OfLoop:
    __slots__ = ("free", "idle")

    def __init__(self, limit: int) -> None:
        self.free = asyncio.Semaphore(limit)
        self.idle: list[AsyncLine] = []
