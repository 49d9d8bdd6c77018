"""The one segment that a process appends to. It is locked while its writer lives, which is how others tell."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from llmfeatures.clock import stamp, system_clock
from llmfeatures.errors import PushLogError
from llmfeatures.push_log.locks import locked, make_folder, sync_data, sync_folders, unlock, write_all
from llmfeatures.push_log.segment import SUFFIX, Header, frame_of, header_line
from llmfeatures.types import DType

NEW = ".new"
"""Ends the name of a segment that has no header yet."""


class SegmentWriter:
    """An open segment. `append` and `seal` are called by one thread at a time; `sync` by any.

    Raises:
        PushLogError: it cannot be made.
    """

    def __init__(self, folder: Path, view: str, columns: Mapping[str, DType]) -> None:
        self.columns = dict(columns)
        self.born = time.monotonic()
        self._key = secrets.token_bytes(16)
        moment = stamp(system_clock()).translate({ord(one): None for one in "-:."})
        self.name = f"{moment}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        self.path = folder / self.name
        self._sync_lock = threading.Lock()
        self._synced = 0
        self._broken: str | None = None
        self._handle = -1
        try:
            make_folder(folder)
            self._begin(header_line(Header(view=view, columns=columns, key=self._key)))
        except OSError as error:
            self.drop()
            raise _unwritable(error) from None
        except BaseException:
            self.drop()
            raise

    def _begin(self, line: bytes) -> None:
        # under its own name only once it is locked and has a header: nobody takes it for one whose writer is gone
        new = self.path.with_name(f".{self.name}{NEW}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._handle = os.open(new, flags, 0o666)
        try:
            locked(self._handle)  # nobody else knows the file
            write_all(self._handle, line)
            new.rename(self.path)
        except BaseException:
            with suppress(OSError):
                new.unlink()
            raise
        self.end = len(line)

    @property
    def usable(self) -> bool:
        """Whether more can be appended."""
        return self._handle >= 0 and self._broken is None

    def append(self, body: bytes) -> int:
        """Append a frame; gives where it ends. A frame that cannot be written whole is cut off again.

        Raises:
            PushLogError: it could not be written.
        """
        frame = frame_of(body, self._key)
        try:
            write_all(self._handle, frame)
        except OSError as error:
            try:
                os.ftruncate(self._handle, self.end)
            except OSError:
                self._broken = "its last segment could not be cut off"  # what is torn there is no push to a reader
            raise _unwritable(error) from None
        except BaseException:  # Ctrl-C between two writes: what stands there is torn
            self._broken = "a push was interrupted"
            raise
        self.end += len(frame)
        return self.end

    def sync(self, end: int) -> None:
        """Return once the bytes before ``end`` are on disk. One sync serves all who wait.

        Raises:
            PushLogError: that failed. Nobody can tell what is on disk, so nothing more is appended.
        """
        with self._sync_lock:
            if self._synced >= end:
                return
            if self._broken is None:
                target = self.end
                try:
                    sync_data(self._handle)
                    if not self._synced:
                        sync_folders(self.path.parent)
                except OSError as error:
                    self._broken = f"{error.strerror}"
                else:
                    self._synced = target
                    return
            raise PushLogError(f"the push log could not be synced to disk ({self._broken}); nothing was acknowledged")

    def seal(self) -> None:
        """Sync what is there, and let it be compacted."""
        if self._handle >= 0:
            with suppress(PushLogError):  # whoever waits for it is told in `sync`
                self.sync(self.end)
            unlock(self._handle)
            self.drop()

    def drop(self) -> None:
        """Close the file, whatever is in it. In a child process: the parent keeps its own, and the lock."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            with suppress(OSError):
                os.close(handle)


def _unwritable(error: OSError) -> PushLogError:
    return PushLogError(
        f"the push log cannot be written: {error.strerror}; nothing was acknowledged: free some disk, or correct "
        "[project] pushes, and push again"
    )
