"""How many tokens prompts have: counted where a tokenizer is installed, else estimated, and labelled so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from llmfeatures import tokens
from llmfeatures.diff.edits import Message

_USUAL: Final = "o200k_base"
_CACHED: Final = 200_000


class Measure:
    """Counts the tokens of the contents of messages. Lines that come again are counted once.

    ``estimated``: no tokenizer is installed, and a quarter of the bytes stands for the tokens.
    """

    def __init__(self, name: str | None = None) -> None:
        self.estimated = name is None and not tokens.installed()
        self.name = "estimate" if self.estimated else name or _USUAL
        self._known: dict[str, int] = {}
        self._loading: Future[tokens.Tokenizer] | None = None
        if not self.estimated:  # a vocabulary takes a while to load, and the first rows come after a join
            beside = ThreadPoolExecutor(1, "llmfeatures-tokens")
            self._loading = beside.submit(tokens.tokenizer, self.name)
            beside.shutdown(wait=False)

    def count(self, messages: Sequence[Message]) -> int:
        """The tokens of a prompt."""
        return sum(self._content(one.content) for one in messages)

    def _content(self, content: str) -> int:
        if self._loading is None:
            return tokens.estimate(content)
        counted = self._loading.result()
        total = 0
        for piece in _pieces(content):
            found = self._known.get(piece)
            if found is None:
                if len(self._known) >= _CACHED:
                    self._known.clear()
                found = self._known[piece] = counted.count(piece)
            total += found
        return total


def _pieces(content: str) -> list[str]:
    """A text cut where a line ends in a letter or digit of ASCII: tokens never go on over such a place, so that its
    pieces can be counted apart."""
    pieces: list[str] = []
    pending, *lines = content.split("\n")
    for line in lines:
        last = pending[-1:]
        if last.isascii() and last.isalnum():
            pieces.append(pending)
            pending = f"\n{line}"
        else:
            pending = f"{pending}\n{line}"
    return [*pieces, pending]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens of both versions over the rows that both have a prompt for. ``estimated``: no tokenizer was there, and
    a quarter of the bytes was taken. ``mean``, ``p50`` and ``p95`` are of the differences of changed prompts, new minus
    old; None when none changed."""

    tokenizer: str
    estimated: bool
    old: int
    new: int
    mean: float | None
    p50: int | None
    p95: int | None

    @property
    def change(self) -> int:
        """New minus old."""
        return self.new - self.old

    @property
    def share(self) -> float:
        """The change as a share of the old number; 0 where there was none."""
        return self.change / self.old if self.old else 0.0


class TokenTally:
    """Adds up the tokens of rows."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self._old = self._new = 0
        self._changes: Counter[int] = Counter()

    def same(self, messages: Sequence[Message], rows: int) -> None:
        """Rows with the same prompt in both versions."""
        found = self.measure.count(messages) * rows
        self._old += found
        self._new += found

    def changed(self, old: Sequence[Message], new: Sequence[Message], rows: int) -> tuple[int, int]:
        """Rows with a prompt that changed; gives its tokens, old and new."""
        before, after = self.measure.count(old), self.measure.count(new)
        self._old += before * rows
        self._new += after * rows
        self._changes[after - before] += rows
        return before, after

    def total(self) -> Tokens:
        """What was added up."""
        rows = self._changes.total()
        mean = sum(change * count for change, count in self._changes.items()) / rows if rows else None
        return Tokens(
            tokenizer=self.measure.name,
            estimated=self.measure.estimated,
            old=self._old,
            new=self._new,
            mean=mean,
            p50=_quantile(self._changes, 50),
            p95=_quantile(self._changes, 95),
        )


def _quantile(counts: Counter[int], percent: int) -> int | None:
    """The least number that so many percent of all do not exceed."""
    left = -(-counts.total() * percent // 100)
    for number in sorted(counts):
        left -= counts[number]
        if left <= 0:
            return number
    return None
