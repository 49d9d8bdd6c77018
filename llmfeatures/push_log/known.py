"""Which push ids a view's log has: those of its parts, and those of its segments as far as they were read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from llmfeatures.push_log.ids import PushIds
from llmfeatures.push_log.locks import sync_data, sync_folder
from llmfeatures.push_log.manifest import Part
from llmfeatures.push_log.segment import Header, frames, id_digest, read_header
from llmfeatures.push_log.snapshot import Moved, current, index


@dataclass(slots=True)
class _Read:
    """How far a segment was read, and the digests that it has up to there."""

    header: Header | None = None
    upto: int = 0
    digests: set[bytes] = field(default_factory=set[bytes])


class KnownIds:
    """Looks push ids up in a view's folder; only what is new since the last time is read. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._indexes: dict[str, PushIds] = {}
        self._segments: dict[str, _Read] = {}

    def index(self, part: Part) -> PushIds:
        """The push ids of a part.

        Raises:
            Moved: it is gone.
        """
        if part.name not in self._indexes:
            self._indexes[part.name] = index(self._folder, part)
        return self._indexes[part.name]

    def has(self, digest: bytes) -> bool:
        """Whether the log has this push id. One that it has is durable then.

        Raises:
            Moved: something was replaced meanwhile; look again.
            FormatError: a file is of another format.
        """
        manifest, names = current(self._folder)
        parts = {part.name for part in manifest.parts}
        self._indexes = {name: one for name, one in self._indexes.items() if name in parts}
        self._segments = {name: self._segments.get(name, _Read()) for name in names}
        for name, read in self._segments.items():
            self._go_on(name, read)
        for name, read in self._segments.items():
            if digest in read.digests:
                self._make_durable(name)
                return True
        return any(digest in self.index(part) for part in manifest.parts)

    def _go_on(self, name: str, read: _Read) -> None:
        try:
            with (self._folder / name).open("rb") as file:
                if read.header is None:
                    found = read_header(name, file.readline())
                    if found is None:
                        return
                    read.header, read.upto = found
                file.seek(read.upto)
                data = file.read()
        except FileNotFoundError:
            raise Moved from None
        start = read.upto
        for frame in frames(data, 0, read.header.key):
            read.upto = start + frame.end
            read.digests.add(id_digest(frame.push_id))

    def _make_durable(self, name: str) -> None:
        """Its writer may have died, or be about to, between writing and syncing."""
        try:
            handle = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Moved from None
        try:
            sync_data(handle)
        finally:
            os.close(handle)
        sync_folder(self._folder)
