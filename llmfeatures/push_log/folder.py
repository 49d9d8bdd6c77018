"""`PushLog` in a folder, one subfolder per view. See `docs/push.md` for what lies in it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from llmfeatures.ports import Push, PushedRows, PushSize
from llmfeatures.push_log.found import find
from llmfeatures.push_log.manifest import added
from llmfeatures.push_log.mounts import transient, volatile
from llmfeatures.push_log.segment import id_digest
from llmfeatures.push_log.snapshot import count_rows, steadily, tables
from llmfeatures.push_log.tidying import Tidying
from llmfeatures.push_log.view import View

SEGMENT_BYTES = 8 * 2**20
SEGMENT_SECONDS = 60.0


class FolderPushLog:
    """Pushed rows in a folder: each process appends to segments of its own, and tidies up beside that in a thread.

    Args:
        folder: where; made by the first push.
        segment_bytes: a segment that is larger is done, and becomes Parquet.
        segment_seconds: so is one that is older.
    """

    def __init__(
        self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, segment_seconds: float = SEGMENT_SECONDS
    ) -> None:
        self.folder = Path(folder).absolute()
        self._segment_bytes, self._segment_seconds = segment_bytes, segment_seconds
        self._state = _State()
        self._close = weakref.finalize(self, _close, self._state)
        _LOGS.add(self)

    @property
    def durable(self) -> str | None:
        """As `PushLog.durable`."""
        return volatile(self.folder)

    @property
    def caution(self) -> str | None:
        """As `PushLog.caution`."""
        return transient(self.folder)

    def append(self, view: str, push: Push) -> bool:
        """As `PushLog.append`."""
        return self._view(view).append(push)

    @contextmanager
    def rows(self, view: str) -> Generator[tuple[PushedRows, ...]]:
        """As `PushLog.rows`."""
        with ExitStack() as pins:
            yield tables(self.folder / view, self._view(view).look(pins))

    def find(self, view: str, push_id: str) -> Push | None:
        """As `PushLog.find`."""
        mine = self._view(view)

        def look() -> Push | None:
            with ExitStack() as pins:
                return find(self.folder / view, mine.look(pins), mine.index, push_id)

        return steadily(look)  # what is pinned are the rows, not the indexes

    def version(self, view: str) -> str:
        """As `PushLog.version`."""
        seen = self._view(view).look(None)
        pushes, ids = 0, 0
        for part in seen.manifest.parts:
            pushes, ids = pushes + part.pushes, added(ids, part.ids)
        for frame in (frame for tail in seen.tails for frame in tail.frames):
            pushes, ids = pushes + 1, added(ids, int.from_bytes(id_digest(frame.push_id), "big"))
        return f"{pushes} {ids:032x}"

    def size(self, view: str) -> PushSize:
        """As `PushLog.size`."""
        seen = self._view(view).look(None)
        parts = seen.manifest.parts
        waiting = sum(count_rows(one) for one in seen.tails)
        return PushSize(
            rows=waiting + sum(one.rows for one in parts),
            pushes=sum(one.pushes for one in parts) + sum(len(one.frames) for one in seen.tails),
            waiting=waiting,
            bytes=sum(one.bytes for one in parts) + sum(one.bytes for one in seen.tails),
            segments=len(seen.tails),
            parts=len(parts),
        )

    def compact(self, view: str) -> None:
        """As `PushLog.compact`. The segment that this process appends to is done with, too."""
        mine = self._view(view)
        mine.rotate()
        mine.tidy()

    def close(self) -> None:
        """As `PushLog.close`."""
        _close(self._state)
        self._state = _State()
        self._close.detach()
        self._close = weakref.finalize(self, _close, self._state)

    def _view(self, name: str) -> View:
        state = self._state
        with state.lock:
            if name not in state.views:
                state.views[name] = View(
                    self.folder / name,
                    segment_bytes=self._segment_bytes,
                    segment_seconds=self._segment_seconds,
                    begun=lambda: state.tidying.soon(name),
                )
            return state.views[name]

    def _forked(self) -> None:
        """In a child process: leave the parent's segments alone, and begin anew."""
        for view in self._state.views.values():
            view.forked()
        self._close.detach()
        self._state = _State()
        self._close = weakref.finalize(self, _close, self._state)


class _State:
    """What a log has open in one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.views: dict[str, View] = {}
        self.tidying = Tidying(self.views)


def _close(state: _State) -> None:
    state.tidying.stop()
    for view in list(state.views.values()):
        view.rotate()


_LOGS: weakref.WeakSet[FolderPushLog] = weakref.WeakSet()


def _after_fork() -> None:
    for log in list(_LOGS):
        log._forked()  # pyright: ignore[reportPrivateUsage]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
