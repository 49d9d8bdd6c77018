"""What drives a plan's reads against an online store: one reader that waits, and one for asyncio."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, cast

from llmfeatures.errors import (
    StoreUnavailableError,
)
from llmfeatures.plan import ReadMeta, ReadResult
from llmfeatures.ports import AsyncOnlineStore, OnlineStore, Read

Parts = Generator[Any, Any, ReadResult]
_new = cast("Callable[..., Any]", tuple.__new__)


class Asked(NamedTuple):
    """The first reads of a call, done already: their answers, or the error of a store that was unavailable; and when
    the whole call is to end, on the monotonic clock."""

    answers: list[list[str | None]] | None
    error: StoreUnavailableError | None
    deadline: float


class SyncReader:
    """Drives a plan's reads against an online store. The store's format is checked once, before the first read."""

    def __init__(self, store: OnlineStore, timeout: float) -> None:
        self.store, self._timeout = store, timeout
        self._checked = False

    def ask(self, reads: list[Read], timeout: float | None) -> Asked:
        """The first reads of a call whose others `run` does, if there are any."""
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        try:
            if timeout is None and self._checked:  # the store has the same timeout
                return _new(Asked, (self.store.read(reads), None, deadline))
            return Asked(self._perform(reads, deadline), None, deadline)
        except StoreUnavailableError as error:
            return Asked(None, error, deadline)

    def run(self, read: Parts, timeout: float | None, asked: Asked | None = None) -> ReadResult:
        """What the plan makes of the store's answers. ``timeout`` (seconds, None: the reader's) bounds all of them
        together. ``asked`` has the first."""
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        try:
            request = next(read)
            if asked is not None:
                deadline, request = asked.deadline, _sent(read, asked)
            while True:
                try:
                    answer = self._perform(request, deadline)
                except StoreUnavailableError as error:
                    request = read.throw(error)
                else:
                    request = read.send(answer)
        except StopIteration as done:
            return done.value

    def _perform(self, request: Any, deadline: float) -> Any:
        if not self._checked:
            self.store.meta(timeout=_left(deadline))
            self._checked = True
        if isinstance(request, ReadMeta):
            return self.store.meta(timeout=_left(deadline))
        return self.store.read(request, timeout=_left(deadline))


class AsyncReader:
    """`SyncReader` for asyncio."""

    def __init__(self, store: AsyncOnlineStore, timeout: float) -> None:
        self.store, self._timeout = store, timeout
        self._checked = False

    async def ask(self, reads: list[Read], timeout: float | None) -> Asked:
        """As `SyncReader.ask`."""
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        try:
            return Asked(await self._perform(reads, deadline), None, deadline)
        except StoreUnavailableError as error:
            return Asked(None, error, deadline)

    async def run(self, read: Parts, timeout: float | None, asked: Asked | None = None) -> ReadResult:
        """As `SyncReader.run`."""
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        try:
            request = next(read)
            if asked is not None:
                deadline, request = asked.deadline, _sent(read, asked)
            while True:
                try:
                    answer = await self._perform(request, deadline)
                except StoreUnavailableError as error:
                    request = read.throw(error)
                else:
                    request = read.send(answer)
        except StopIteration as done:
            return done.value

    async def _perform(self, request: Any, deadline: float) -> Any:
        if not self._checked:
            await self.store.meta(timeout=_left(deadline))
            self._checked = True
        if isinstance(request, ReadMeta):
            return await self.store.meta(timeout=_left(deadline))
        return await self.store.read(request, timeout=_left(deadline))


def _sent(read: Parts, asked: Asked) -> Any:
    """The plan's next request after the one that was asked for already."""
    return read.throw(asked.error) if asked.error is not None else read.send(asked.answers)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)
