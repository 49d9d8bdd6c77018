"""The embedded document store: an index in a folder, searched exactly, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmfeatures.errors import FormatError, RetrieverUnavailableError
from llmfeatures.ports import Document, DocumentQuery, DocumentRecord, IndexMeta
from llmfeatures.retrieval.wire import check_filled, check_fit, late, never_filled
from llmfeatures.retriever import Retriever, Tier
from llmfeatures.threads import ForkLock

if TYPE_CHECKING:
    from llmfeatures.retrieval.index_files import Manifest, Mark
    from llmfeatures.retrieval.loaded import Loaded

_ATTEMPTS = 20
_FILES = 24
"""So many files, or so great a part of rows that are gone, and the index is rewritten as one when it is complete."""
_GONE = 0.2


class EmbeddedStore:
    """An index in a folder of its own: Parquet files with vectors, loaded once into one matrix. Its tier is ``exact``.

    Thread-safe; usable after ``fork``; safe while another process writes, whose changes the next search sees.
    """

    def __init__(self, folder: Path, retriever: Retriever) -> None:
        self.folder = Path(folder).absolute()
        self._retriever = retriever
        self._lock = ForkLock()
        self._loaded: tuple[Mark, Loaded] | None = None

    @property
    def tier(self) -> Tier:
        """``exact``: every version that was there at the moment is compared."""
        return "exact"

    def search(self, queries: Sequence[DocumentQuery], *, timeout: float | None = None) -> list[list[Document]]:
        """As `DocumentStore.search`."""
        from llmfeatures.retrieval.exact import search

        tick = _ticking(self._retriever.name, timeout)
        loaded = self._current()
        tick()
        return search(loaded, queries, self._retriever.metadata, tick)

    def prepare(self) -> None:
        """As `Prepared.prepare`: load the vectors."""
        self._current()

    def boundaries(self, entity: str, after: int, until: int) -> list[int]:
        """As `DatedDocuments.boundaries`."""
        loaded = self._current()
        start, stop = loaded.blocks.get(entity, (0, 0))
        moments = {*loaded.valid_from[start:stop].tolist(), *loaded.valid_to[start:stop].tolist()}
        return sorted(one for one in moments if after < one <= until)

    def revision(self) -> str:
        """As `RevisedIndex.revision`: the names of files that are each written once."""
        return " ".join(one.file for one in self._manifest().entries)

    def meta(self) -> IndexMeta | None:
        """As `DocumentIndex.meta`."""
        from llmfeatures.retrieval.index_files import read_manifest

        found = read_manifest(self.folder)
        return None if found is None else found.meta

    def begin(self, meta: IndexMeta, *, replace: bool = False) -> None:
        """As `DocumentIndex.begin`."""
        from llmfeatures.retrieval import index_files as files

        with files.locked(self.folder):
            try:
                found = files.read_manifest(self.folder)
            except (FormatError, RetrieverUnavailableError):  # of another version, or damaged
                if not replace:
                    raise
                found = None
            if found is None or replace:
                found = files.Manifest(meta=files.marked(meta, None))
                files.write_manifest(self.folder, found)
            else:
                check_fit(self._retriever.name, found.meta, meta)
            files.tidy(self.folder, found)

    def keys(self) -> Iterator[str]:
        """As `DocumentIndex.keys`."""
        from llmfeatures.retrieval.index_files import live_keys

        for _ in range(_ATTEMPTS):
            try:
                found = list(live_keys(self.folder, self._manifest()))
            except FileNotFoundError:
                continue
            return iter(found)
        raise self._restless()

    def write(self, records: Sequence[DocumentRecord]) -> None:
        """As `DocumentIndex.write`."""
        from llmfeatures.retrieval import index_files as files

        if records:
            with files.locked(self.folder):
                manifest = self._manifest()
                entry = files.write_records(self.folder, manifest.meta, records)
                self._append(manifest, entry)

    def remove(self, keys: Sequence[str]) -> None:
        """As `DocumentIndex.remove`."""
        from llmfeatures.retrieval import index_files as files

        if keys:
            with files.locked(self.folder):
                manifest = self._manifest()
                self._append(manifest, files.write_removed(self.folder, keys))

    def complete(self, meta: IndexMeta) -> None:
        """As `DocumentIndex.complete`; what was removed gives its space back."""
        from llmfeatures.retrieval import index_files as files

        with files.locked(self.folder):
            manifest = self._manifest()
            entries = manifest.entries
            if self._is_untidy(manifest):
                entry = files.rewritten(self.folder, manifest)
                entries = () if entry is None else (entry,)
            manifest = files.Manifest(meta=files.marked(meta, meta.watermark), entries=entries)
            files.write_manifest(self.folder, manifest)
            files.tidy(self.folder, manifest)

    def close(self) -> None:
        """As `DocumentStore.close`: the memory is given back."""
        with self._lock:
            self._loaded = None

    def _append(self, manifest: Manifest, entry: object) -> None:
        from llmfeatures.retrieval import index_files as files

        assert isinstance(entry, files.Entry)
        files.write_manifest(self.folder, files.Manifest(meta=manifest.meta, entries=(*manifest.entries, entry)))

    def _is_untidy(self, manifest: Manifest) -> bool:
        rows = sum(one.rows for one in manifest.entries if not one.removed)
        gone = sum(one.rows for one in manifest.entries if one.removed)
        return len(manifest.entries) > _FILES or gone > _GONE * rows

    def _manifest(self) -> Manifest:
        from llmfeatures.retrieval.index_files import read_manifest

        found = read_manifest(self.folder)
        if found is None:
            raise never_filled(self._retriever.name)
        return found

    def _current(self) -> Loaded:
        """The index as it is now, in memory."""
        from llmfeatures.retrieval import index_files as files

        mark = files.mark_of(self.folder)
        held = self._loaded
        if held is not None and held[0] == mark:
            return held[1]
        with self._lock:
            for _ in range(_ATTEMPTS):
                mark = files.mark_of(self.folder)
                if mark is None:
                    self._loaded = None
                    raise never_filled(self._retriever.name)
                if self._loaded is not None and self._loaded[0] == mark:
                    return self._loaded[1]
                try:
                    return self._load(mark)
                except FileNotFoundError:
                    continue  # it was rewritten meanwhile
        raise self._restless()

    def _load(self, mark: Mark) -> Loaded:
        from llmfeatures.retrieval.loaded import load

        manifest = self._manifest()
        check_filled(self._retriever, manifest.meta)
        loaded = load(self.folder, manifest, None if self._loaded is None else self._loaded[1])
        self._loaded = mark, loaded  # if it changed since, the mark is another
        return loaded

    def _restless(self) -> RetrieverUnavailableError:
        return RetrieverUnavailableError(f"the index in {self.folder} changes all the time; try again")


def _ticking(name: str, timeout: float | None) -> Callable[[], None]:
    deadline = None if timeout is None else time.monotonic() + timeout

    def tick() -> None:
        if deadline is not None and time.monotonic() > deadline:
            raise late(name)

    return tick
