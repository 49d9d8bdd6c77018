"""The index of push ids beside a Parquet file: format line, then the sorted digests, each of 16 bytes."""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

from llmfeatures.errors import FormatError
from llmfeatures.push_log.segment import DIGEST

_FIRST = b"llmfeatures push ids 1\n"


def index_bytes(digests: Iterable[bytes]) -> bytes:
    """The content of an index."""
    return _FIRST + b"".join(sorted(digests))


class PushIds(Sequence[bytes]):
    """The digests of an index file, read where they are. It stays readable when the file is removed.

    Raises:
        FormatError: the file is no index of this format.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if file.read(len(_FIRST)) != _FIRST:
                raise FormatError(f"{path} is no index of push ids that this version reads; upgrade llmfeatures")
            self._held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._count = (len(self._held) - len(_FIRST)) // DIGEST

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        first = len(_FIRST) + index * DIGEST
        return self._held[first : first + DIGEST]

    def __contains__(self, digest: object) -> bool:
        assert isinstance(digest, bytes)
        place = bisect_left(self, digest)
        return place < self._count and self[place] == digest
