"""One event loop for the process, in a thread of its own: clients that speak asyncio live in it, whoever calls them.

So a call has a deadline whatever a client does inside it, threads and event loops share connections, and a closed
event loop takes none of them along.
"""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock, Thread
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
_SECONDS = 1.0
"""So long the end of the process waits."""


class Closable(Protocol):
    """What lives in the loop."""

    async def aclose(self) -> None:
        """Give back the connections."""
        ...


class _Background:
    def __init__(self) -> None:
        self._lock = Lock()
        self.open: set[Closable] = set()
        self._left: list[set[Closable]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``work`` in the loop."""
        with self._lock:
            loop = self._loop
            if loop is None:
                loop = self._loop = asyncio.new_event_loop()
                loop.set_exception_handler(_told)
                self._thread = Thread(target=_run, args=(loop,), name="llmfeatures-retrieval", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, loop)

    def forget(self) -> None:
        """In a forked child: the thread is not there, and the lock may be held for ever. What is open is the parent's,
        and not even closed here, where its sockets are shared."""
        self._left.append(self.open)
        self._lock, self._loop, self._thread, self.open = Lock(), None, None, set()

    def stop(self) -> None:
        """At the end of the process: clients complain of connections that nobody closed."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._close(), loop).result(_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_SECONDS)

    async def _close(self) -> None:
        await asyncio.gather(*[one.aclose() for one in self.open], return_exceptions=True)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # gRPC wakes every loop of the process, and all but one find nothing to read: no error, but told as one
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)


_background = _Background()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_background.forget)
atexit.register(_background.stop)


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, for a thread that waits. It ends by itself: ``work`` has its deadline inside."""
    future = _background.submit(work)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def arun(work: Coroutine[Any, Any, T]) -> T:
    """The same for a running event loop; cancelled with it."""
    return await asyncio.wrap_future(_background.submit(work))


def opened(one: Closable) -> None:
    """Close it at the end of the process, unless it is `closed` before."""
    _background.open.add(one)


def closed(one: Closable) -> None:
    """It is closed."""
    _background.open.discard(one)
