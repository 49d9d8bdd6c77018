"""The thread that tidies up beside pushes: done segments become Parquet, and old ones are done."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

from llmfeatures.errors import LLMFeaturesError
from llmfeatures.push_log.view import View

_log = logging.getLogger("llmfeatures")
_BUSY, _FAILED = 1.0, 60.0
"""Seconds until it is tried again, after another process was at it, and after an error."""


class Tidying:
    """A thread for some views; it begins with the first segment that is done, and ends with `stop`."""

    def __init__(self, views: dict[str, View]) -> None:
        self._views = views
        self._wake = threading.Condition()
        self._waiting: set[str] = set()
        self._again: dict[str, float] = {}
        self._stopped = False
        self._thread: threading.Thread | None = None

    def soon(self, view: str) -> None:
        """Tidy up a view's folder when there is time. Never waits for it."""
        with self._wake:
            self._waiting.add(view)
            if self._thread is None and not self._stopped:
                thread = threading.Thread(target=self._run, name="llmfeatures-push-log", daemon=True)
                with suppress(RuntimeError):  # none is to be had, as at the end of a process: another one tidies up
                    thread.start()
                    self._thread = thread
            self._wake.notify()

    def stop(self) -> None:
        """End the thread, after what it is about."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._stopped and not self._waiting:
                    due = min([*self._again.values(), *self._ages()], default=None)
                    left = None if due is None else due - time.monotonic()
                    if left is not None and left <= 0:
                        break
                    self._wake.wait(left)
                if self._stopped:
                    return
                waiting, self._waiting = self._waiting, set()
            self._tidy_up(waiting)

    def _tidy_up(self, waiting: set[str]) -> None:
        now = time.monotonic()
        for name in [one for one, when in self._again.items() if when <= now]:
            del self._again[name]
            waiting.add(name)
        for name, view in list(self._views.items()):
            due = view.due
            if due is not None and due <= now:
                view.rotate(now=now)
                waiting.add(name)
            if name in waiting:
                pause = _tidied(name, view)
                if pause is not None:
                    self._again[name] = time.monotonic() + pause

    def _ages(self) -> list[float]:
        """When the open segments are done."""
        return [due for view in list(self._views.values()) if (due := view.due) is not None]


def _tidied(name: str, view: View) -> float | None:
    """Tidy up a view's folder; gives after how many seconds to try again, None for never: it is done."""
    try:
        return None if view.tidy() else _BUSY
    except LLMFeaturesError as error:  # the segments stay
        _log.warning("pushed rows of view %s are not compacted: %s", name, error)
    except Exception as error:  # noqa: BLE001  a thread that ends here would never tidy up again
        _log.warning("pushed rows of view %s are not compacted: %s", name, type(error).__name__)
    return _FAILED
