"""What is made once in each process: models and clients do not survive a ``fork``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from llmfeatures.threads import ForkLock

T = TypeVar("T")

_OF_PARENTS: list[Any] = []
"""What was made in the process that this one was forked from: its threads are not here, so it can never be ended."""


class PerProcess(Generic[T]):
    """What a function makes, made when it is first asked for, once in each process. Thread-safe."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = ForkLock()
        self._made: tuple[int, T] | None = None

    def get(self) -> T:
        """The one of this process. Raises what the function raises, and asks it again the next time."""
        made = self._made
        if made is not None and made[0] == os.getpid():
            return made[1]
        with self._lock:
            made = self._made
            if made is None or made[0] != os.getpid():
                if made is not None:
                    _OF_PARENTS.append(made)
                    self._made = None
                made = self._made = os.getpid(), self._make()
            return made[1]
