# numpy's kernels take and give what has no narrow type here
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
"""The vectors of texts that were embedded before, kept on disk, format 1."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np

from llmfeatures.errors import FormatError, RetrieverError
from llmfeatures.ports import Embedder

FORMAT: Final = 1
_AT_ONCE: Final = 256
"""So many texts are embedded before their vectors are kept."""
_ASKED: Final = 500


class CachedEmbedder:
    """An embedder whose vectors are kept by model, dimensions and text. Each call has a connection of its own, unless
    one is `held`: so it is thread-safe, usable after ``fork``, and several processes may share the file. ``embedded``
    counts the texts that the model itself was given."""

    def __init__(self, embedder: Embedder, path: Path) -> None:
        self._embedder, self._path = embedder, Path(path)
        self.embedded = 0
        self._held: tuple[tuple[int, int], sqlite3.Connection] | None = None

    @property
    def model(self) -> str:
        """As `Embedder.model`."""
        return self._embedder.model

    @property
    def dimensions(self) -> int:
        """As `Embedder.dimensions`."""
        return self._embedder.dimensions

    def embed(self, texts: Sequence[str], *, timeout: float | None = None) -> Any:
        """As `Embedder.embed`. What was embedded before an error is kept.

        Raises:
            FormatError: the file has another format.
            RetrieverError: it cannot be read or written.
        """
        made = np.empty((len(texts), self.dimensions), np.float32)
        places: dict[bytes, list[int]] = {}
        for place, text in enumerate(texts):
            places.setdefault(sha256(text.encode()).digest(), []).append(place)
        with self._opened() as con:
            with self._translated():
                known = self._known(con, list(places))
            for digest, vector in known.items():
                made[places[digest]] = np.frombuffer(vector, np.float32)
            absent = [digest for digest in places if digest not in known]
            for start in range(0, len(absent), _AT_ONCE):
                part = absent[start : start + _AT_ONCE]
                vectors = self._embedder.embed([texts[places[digest][0]] for digest in part], timeout=timeout)
                for digest, vector in zip(part, vectors, strict=True):
                    made[places[digest]] = vector
                with self._translated():
                    self._keep(con, part, vectors)
                self.embedded += len(part)
        return made

    @contextmanager
    def held(self) -> Generator[None]:
        """For the length of a block, this thread's calls share a connection: to close one has the disk synced."""
        with self._opened() as con:
            self._held = _here(), con
            try:
                yield
            finally:
                self._held = None

    @contextmanager
    def _opened(self) -> Generator[sqlite3.Connection]:
        if self._held is not None and self._held[0] == _here():
            yield self._held[1]
            return
        with closing(self._open()) as con:
            yield con

    def _open(self) -> sqlite3.Connection:
        with ExitStack() as held, self._translated():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            con = held.enter_context(closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)))
            con.execute("PRAGMA journal_mode=WAL")
            con.execute("PRAGMA synchronous=NORMAL")
            found = con.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                # vectors are appended; what is in the order of hashes is small
                con.execute(
                    "CREATE TABLE IF NOT EXISTS vectors (model TEXT, dimensions INTEGER, text BLOB, vector BLOB, "
                    "PRIMARY KEY (text, dimensions, model))"
                )
                con.execute(f"PRAGMA user_version={FORMAT}")
            elif found != FORMAT:
                raise FormatError(
                    f"{self._path} has format {found}, this version reads {FORMAT}; upgrade llmfeatures, or remove it: "
                    "the texts are embedded again then"
                )
            held.pop_all()
            return con

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RetrieverError(
                f"the cache of vectors {self._path} cannot be used: {error}; remove it, or correct [project] state"
            ) from None

    def _known(self, con: sqlite3.Connection, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        known: dict[bytes, bytes] = {}
        for start in range(0, len(digests), _ASKED):
            part = digests[start : start + _ASKED]
            marks = ",".join("?" * len(part))
            rows = con.execute(
                f"SELECT text, vector FROM vectors WHERE model = ? AND dimensions = ? AND text IN ({marks})",  # noqa: S608
                (self.model, self.dimensions, *part),
            )
            known.update((text, vector) for text, vector in rows if len(vector) == 4 * self.dimensions)
        return known

    def _keep(self, con: sqlite3.Connection, digests: Sequence[bytes], vectors: Any) -> None:
        con.execute("BEGIN IMMEDIATE")
        try:
            con.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)",
                [
                    (self.model, self.dimensions, digest, np.asarray(vector, np.float32).tobytes())
                    for digest, vector in zip(digests, vectors, strict=True)
                ],
            )
            con.execute("COMMIT")
        except BaseException:
            con.execute("ROLLBACK")
            raise


def _here() -> tuple[int, int]:
    """This process and thread."""
    return os.getpid(), threading.get_ident()
