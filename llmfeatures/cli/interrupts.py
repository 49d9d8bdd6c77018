"""Ctrl-C, also where a library that was at work makes another error of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

_pressed = threading.Event()


@contextmanager
def watched() -> Generator[None]:
    """For the length of a block, remember that Ctrl-C was pressed. It raises KeyboardInterrupt as before."""
    _pressed.clear()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def pressed() -> bool:
    """Whether it was: an error that comes afterwards is that of what was interrupted."""
    return _pressed.is_set()


def _interrupt(*_: object) -> None:
    _pressed.set()
    raise KeyboardInterrupt
