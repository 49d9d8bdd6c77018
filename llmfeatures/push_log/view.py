"""One view's part of a push log in one process: its open segment, and what it knows of the folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from llmfeatures.ports import Push
from llmfeatures.push_log.compaction import compact
from llmfeatures.push_log.ids import PushIds
from llmfeatures.push_log.known import KnownIds
from llmfeatures.push_log.locks import lock_file, make_folder
from llmfeatures.push_log.manifest import Part
from llmfeatures.push_log.segment import body_of, id_digest
from llmfeatures.push_log.snapshot import Seen, look, steadily, unreadable
from llmfeatures.push_log.writer import SegmentWriter
from llmfeatures.types import DType

LOCKS = ".ids"
_STRIPES = 64
"""So many pushes with ids of their caller's can be under way at once; more wait for one another."""


class View:
    """A view's folder, as this process writes and reads it. ``begun`` is called when a segment begins."""

    def __init__(self, folder: Path, *, segment_bytes: int, segment_seconds: float, begun: Callable[[], None]) -> None:
        self.folder = folder
        self._segment_bytes, self._segment_seconds, self._begun = segment_bytes, segment_seconds, begun
        self._lock, self._known_lock, self._tidy_lock = threading.Lock(), threading.Lock(), threading.Lock()
        self._known = KnownIds(folder)
        self._writer: SegmentWriter | None = None

    def append(self, push: Push) -> bool:
        """As `PushLog.append`."""
        body = body_of(push)
        if push.fresh:
            self._keep(push.columns, body)
            return True
        digest = id_digest(push.push_id)
        try:
            make_folder(self.folder / LOCKS)
            # one push of an id after the other: the second one waits until the first is durable, and finds it
            with lock_file(self.folder / LOCKS / f"{digest[0] % _STRIPES:02x}.lock", wait=True):
                if self._has(digest):
                    return False
                self._keep(push.columns, body)
                return True
        except OSError as error:
            raise unreadable(error) from None

    def _has(self, digest: bytes) -> bool:
        with self._known_lock:
            return steadily(lambda: self._known.has(digest))

    def _keep(self, columns: Mapping[str, DType], body: bytes) -> None:
        with self._lock:
            writer = self._writer
            if writer is None or not self._fits(writer, columns):
                self._seal()
                writer = self._writer = SegmentWriter(self.folder, self.folder.name, columns)
                self._begun()
            end = writer.append(body)
        writer.sync(end)

    def _fits(self, writer: SegmentWriter, columns: Mapping[str, DType]) -> bool:
        return (
            writer.usable
            and writer.end < self._segment_bytes
            and writer.columns == columns
            and list(writer.columns) == list(columns)
            and os.path.exists(writer.path)  # noqa: PTH110  somebody may have taken the folder away; asked per push
        )

    @property
    def due(self) -> float | None:
        """When the open segment is done by its age, on the monotonic clock; None when there is none."""
        writer = self._writer
        return None if writer is None else writer.born + self._segment_seconds

    def rotate(self, *, now: float | None = None) -> None:
        """Be done with the open segment; with ``now``, only if it is old enough by then."""
        with self._lock:
            due = self.due
            if due is not None and (now is None or due <= now):
                self._seal()

    def _seal(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.seal()

    def tidy(self) -> bool:
        """Compact the folder, after whichever thread of this process is at it; another process is not waited for, and
        what it does not see any more is left: False then."""
        with self._tidy_lock:
            return compact(self.folder)

    def look(self, pins: ExitStack | None) -> Seen:
        """The folder as it is now; see `snapshot.look`."""
        return steadily(lambda: look(self.folder, self.index, pins))

    def index(self, part: Part) -> PushIds:
        """The push ids of a part that was seen."""
        with self._known_lock:
            return self._known.index(part)

    def forked(self) -> None:
        """In a child process: the open segment is the parent's."""
        if self._writer is not None:
            self._writer.drop()
