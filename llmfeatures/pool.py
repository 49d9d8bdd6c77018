"""Connections that many threads share, one thread at a time each."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_pools: weakref.WeakSet[Pool[object]] = weakref.WeakSet()
_kept: list[object] = []
"""What a forked child must neither use nor close: closing a SQLite connection there would harm the parent's."""


class Pool(Generic[T]):
    """At most ``limit`` things, made when needed, the one used last first. A forked child starts with none.

    The pool never opens or closes a thing: whoever takes one does. So taking and giving back cannot fail half-way.
    """

    def __init__(self, make: Callable[[], T], *, limit: int, keep_at_fork: bool = False) -> None:
        self._make = make
        self._limit = limit
        self._keep_at_fork = keep_at_fork
        self._begin()
        _pools.add(self)  # pyright: ignore[reportArgumentType]

    def take(self, deadline: float) -> T | None:
        """A thing for this thread alone; None when none came free before ``deadline`` (`time.monotonic`)."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._wait(deadline)

    def give(self, thing: T) -> None:
        """Take a thing back."""
        self._idle.append(thing)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def drain(self) -> list[T]:
        """Remove all idle things from the pool, and return them."""
        drained: list[T] = []
        while self._idle:
            try:
                drained.append(self._idle.pop())
            except IndexError:
                break
        return drained

    def after_fork(self) -> None:
        """Forget everything: it belongs to the parent process."""
        if self._keep_at_fork:
            _kept.extend(self._made)
        self._begin()

    def _begin(self) -> None:
        self._idle: list[T] = []
        # Weak, so that a thing lost to an interrupt between take and give counts no longer.
        self._made: weakref.WeakSet[T] = weakref.WeakSet()
        self._changed = threading.Condition()
        self._waiting = 0

    def _wait(self, deadline: float) -> T | None:
        with self._changed:
            self._waiting += 1
            try:
                while True:
                    try:
                        return self._idle.pop()
                    except IndexError:
                        pass
                    if len(self._made) < self._limit:
                        thing = self._make()
                        self._made.add(thing)
                        return thing
                    if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                        return None
            finally:
                self._waiting -= 1


def _after_fork() -> None:
    for pool in list(_pools):
        pool.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
