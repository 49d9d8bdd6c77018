"""Threads for calls that may never return: whoever waits for one can leave it, and so can the end of the process."""

from __future__ import annotations

import atexit
import os
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, Final, Self, TypeVar
from weakref import WeakSet

_T = TypeVar("_T")
_AT_ONCE: Final = 32
_IDLE: Final = 10.0
"""Seconds after which a thread without work ends."""
_GRACE: Final = 0.3
"""Seconds that the end of the process waits for calls that are under way: a native library that is killed in the middle
may take the process with it."""


class _Call:
    """A call, and where its result goes."""

    __slots__ = ("context", "function", "future", "key")

    def __init__(self, key: Hashable, function: Callable[[], Any]) -> None:
        self.key, self.function = key, function
        self.future: Future[Any] = Future()
        self.context: Context = copy_context()

    def run(self) -> None:
        future = self.future
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = self.context.run(self.function)
        except BaseException as error:  # noqa: BLE001  it is raised where the call is waited for
            future.set_exception(error)
        else:
            future.set_result(result)


class _Lane:
    """The calls of one key."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: deque[_Call] = deque()


class DaemonThreads:
    """Runs calls in threads that nobody has to wait for. Thread-safe; usable after ``fork``, where no call goes on.

    Of one key at most ``at_once`` calls run at the same time, and others wait for them: what hangs holds up its own
    kind only. A call runs in a copy of its caller's context variables.
    """

    def __init__(self, *, at_once: int = _AT_ONCE, idle: float = _IDLE) -> None:
        self._at_once, self._seconds = at_once, idle
        self._lock = ForkLock()
        self._begin(os.getpid())

    def submit(self, key: Hashable, function: Callable[[], _T]) -> Future[_T]:
        """The future of a call. Cancelled before it runs, it never does."""
        call = _Call(key, function)
        with self._lock:
            if self._pid != (pid := os.getpid()):
                self._begin(pid)
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = _Lane()
            if lane.running >= self._at_once:
                while lane.waiting and lane.waiting[0].future.cancelled():
                    lane.waiting.popleft()  # else they pile up behind what hangs for ever
                lane.waiting.append(call)
                return call.future
            lane.running += 1
            worker = self._idle.pop() if self._idle else None
        if worker is not None:
            worker.inbox.put(call)
            return call.future
        try:
            _Worker(self, call, self._pid).start()
        except BaseException:  # the system has no thread left
            with self._lock:
                self._leave_lane(key, lane)
            raise
        return call.future

    @property
    def running(self) -> int:
        """How many calls run now."""
        with self._lock:
            return sum(lane.running for lane in self._lanes.values()) if self._pid == os.getpid() else 0

    def _begin(self, pid: int) -> None:
        self._pid = pid
        self._idle: list[_Worker] = []
        self._lanes: dict[Hashable, _Lane] = {}

    def after(self, done: _Call, worker: _Worker) -> _Call | None:
        """What a worker does next; None: it is idle."""
        with self._lock:
            lane = self._lanes[done.key]
            if lane.waiting:
                return lane.waiting.popleft()
            self._leave_lane(done.key, lane)
            self._idle.append(worker)
            return None

    def _leave_lane(self, key: Hashable, lane: _Lane) -> None:
        lane.running -= 1
        if not lane.running:
            del self._lanes[key]

    def leave(self, worker: _Worker) -> bool:
        """Whether an idle worker may end; not when a call is on its way to it."""
        with self._lock:
            try:
                self._idle.remove(worker)
            except ValueError:
                return False
            return True

    @property
    def seconds(self) -> float:
        """How long a thread waits for work."""
        return self._seconds


class _Worker(Thread):
    """A thread that runs one call after the other."""

    def __init__(self, threads: DaemonThreads, call: _Call, pid: int) -> None:
        super().__init__(name=f"llmfeatures-search-{pid}", daemon=True)
        self.inbox: SimpleQueue[_Call] = SimpleQueue()
        self._threads = threads
        self.inbox.put(call)

    def run(self) -> None:
        while True:
            try:
                call = self.inbox.get(timeout=self._threads.seconds)
            except Empty:
                if self._threads.leave(self):
                    return
                continue
            while call is not None:
                call.run()
                done, call = call, None
                call = self._threads.after(done, self)
                del done


class ForkLock:
    """A lock that is free in a forked child, whoever had it in the parent."""

    def __init__(self) -> None:
        self._lock = Lock()
        _locks.add(self)

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def after_fork(self) -> None:
        """Be free."""
        self._lock = Lock()


_locks: WeakSet[ForkLock] = WeakSet()


def _after_fork() -> None:
    for lock in list(_locks):
        lock.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

SEARCHES: Final = DaemonThreads()
"""The threads of all searches of this process."""


@atexit.register
def _wait_a_little() -> None:
    end = time.monotonic() + _GRACE
    while SEARCHES.running and time.monotonic() < end:
        time.sleep(0.005)
