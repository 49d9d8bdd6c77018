"""What was removed from a prompt and what was added, in words that do not depend on the values in it.

Two rows have the same edits when the same words of the author's went and came around values, whatever the values are.
The edits of a pair are a pure function of its two texts and the two templates, so grouping by them counts exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from llmfeatures.diff.sequences import Hunk, hunks
from llmfeatures.diff.vocabulary import Vocabulary, tokens_of

VALUE: Final = "…"
"""Stands for a text that came from a value."""
REWRITTEN: Final = "(rewritten)"
"""Stands on both sides of an edit for a long stretch of which most words are others."""
_LONG: Final = 200
_MOST_LINES, _MOST_TOKENS = 100, 80
"""Beyond so many lines or words that differ, what lies between the first and the last is one edit."""
_CACHED = 50_000
_FIRST_MASK, _MOST_VALUES = 0xE000, 6_000
"""Masks are characters for private use; there are 6,400."""


class Message(NamedTuple):
    """A message of a prompt."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Edit:
    """A stretch of a message that became another; ``role`` is the message's. What came from a value is `VALUE`."""

    role: str
    removed: str
    added: str


@dataclass(frozen=True, slots=True)
class RoleEdit:
    """A message that is there in one version only, or has another role; None where there is none."""

    removed: str | None
    added: str | None


Edits = tuple[Edit | RoleEdit, ...]
_Marked = tuple[str, bool]
"""A token, and whether an author wrote it."""
_Runs = tuple[tuple[str, str], ...]
_Sides = tuple[tuple[Hashable, ...], tuple[Hashable, ...]]


class Editor:
    """Finds the edits between prompts of two versions; alike pairs are worked on once."""

    def __init__(self, written: Vocabulary) -> None:
        self._written = written
        self._known: dict[tuple[str, str], _Runs] = {}
        self._runs: dict[_Sides, _Runs] = {}

    def edits(self, old: Sequence[Message], new: Sequence[Message], values: Iterable[str] = ()) -> Edits:
        """The edits that turn one prompt into the other; ``values`` are texts that both were made of."""
        masks = _Masks(values, self._written)
        if len(old) == len(new) and all(one.role == other.role for one, other in zip(old, new, strict=True)):
            pairs: list[tuple[Message | None, Message | None]] = list(zip(old, new, strict=True))
        else:
            pairs = aligned(old, new)
        made: list[Edit | RoleEdit] = []
        for before, after in pairs:
            if before is None or after is None or before.role != after.role:
                made.append(RoleEdit(before and before.role, after and after.role))
            role = after.role if after is not None else before.role if before is not None else ""
            removed, added = "" if before is None else before.content, "" if after is None else after.content
            if removed != added:
                made += [Edit(role, *one) for one in self._between(removed, added, masks)]
        return tuple(made)

    def _between(self, old: str, new: str, masks: _Masks) -> _Runs:
        if not old or not new:  # no line is left to compare with
            return self._words_between(tokens_of(masks.put(old)), tokens_of(masks.put(new)))
        before, after = (one.split("\n") for one in (old, new))
        # a line ends in its line break, so that a line more is a line break more
        made: list[tuple[str, str]] = []
        for low, high, start, end in _changed_lines(before, after):
            blocks = ["".join([f"{line}\n" for line in lines]) for lines in (before[low:high], after[start:end])]
            sides = masks.put(blocks[0]), masks.put(blocks[1])
            runs = self._known.get(sides)
            if runs is None:
                if len(self._known) >= _CACHED:
                    self._known.clear()
                runs = self._known[sides] = self._words_between(tokens_of(sides[0]), tokens_of(sides[1]))
            made += runs
        return tuple(made)

    def _words_between(self, old: list[str], new: list[str]) -> _Runs:
        if min(len(old), len(new)) > _LONG:
            shared = (Counter(old) & Counter(new)).total()
            if len(old) + len(new) - 2 * shared > max(_MOST_TOKENS, len(new) // 2):
                return ((REWRITTEN, REWRITTEN),)
        removed, added = self._marked(old), self._marked(new)
        while removed and added and removed[-1] == added[-1]:
            del removed[-1], added[-1]
        first, shorter = 0, min(len(removed), len(added))
        while first < shorter and removed[first] == added[first]:
            first += 1
        sides = _numbered(removed[first:], added[first:])
        runs = self._runs.get(sides)
        if runs is None:
            if len(self._runs) >= _CACHED:
                self._runs.clear()
            runs = self._runs[sides] = _runs(*sides)
        return runs

    def _marked(self, tokens: list[str]) -> list[_Marked]:
        return list(zip(tokens, self._written.own(tokens), strict=True))


def _numbered(old: Sequence[_Marked], new: Sequence[_Marked]) -> _Sides:
    """Both sides with a number for each different text that came from a value."""
    numbers: dict[str, int] = {}
    sides: list[tuple[Hashable, ...]] = []
    for tokens in (old, new):
        side: list[Hashable] = []
        pending: list[str] = []
        for word, own in tokens:
            if not own and (pending or not word.isspace()) and word != "\n":
                pending.append(word)
                continue
            if pending:
                _close(side, pending, numbers)
            side.append(word)
        if pending:
            _close(side, pending, numbers)
        sides.append(tuple(side))
    return sides[0], sides[1]


def _changed_lines(old: Sequence[str], new: Sequence[str]) -> list[Hunk]:
    """The hunks between lines; place by place where most are the same, which costs less."""
    if len(old) == len(new):
        changed = [place for place, one in enumerate(old) if one != new[place]]
        if 2 * len(changed) <= len(old):
            made: list[Hunk] = []
            for place in changed:
                start = made.pop().low if made and made[-1].high == place else place
                made.append(Hunk(start, place + 1, start, place + 1))
            return made
    return hunks(old, new, _MOST_LINES)


class _Masks:
    """Puts one character in the place of each text that came from a value, the same one wherever it comes."""

    def __init__(self, values: Iterable[str], written: Vocabulary) -> None:
        self._said = written.says
        # by its place among the values a mask is the same in most rows, and so is a masked text
        places: dict[str, int] = {}
        for place, one in enumerate(values):
            places.setdefault(one, place)
        known = sorted((one for one in places.items() if len(one[0]) > 1), key=lambda one: (-len(one[0]), one[1]))
        # what no author wrote needs no look at what stands around it
        self._values = [
            (chr(_FIRST_MASK + place), one, written.says(one)) for one, place in known if place < _MOST_VALUES
        ]

    def put(self, written: str) -> str:
        """The text with its masks."""
        for mask, value, doubtful in self._values:
            at = written.find(value)
            while at >= 0:
                end = at + len(value)
                whole = _is_edge(written, at) and _is_edge(written, end)
                if whole and not (doubtful and any(map(self._said, _around(written, at, end)))):
                    written = f"{written[:at]}{mask}{written[end:]}"
                    end = at + 1
                at = written.find(value, end)
        return written


def _around(written: str, at: int, end: int) -> tuple[str, ...]:
    """A stretch with the word before it, and with the one after it: an author whose text it is wrote one of them."""
    before, after = written[:at].split(), written[end:].split(None, 1)
    gaps = [" " if one[:1].isspace() else "" for one in (written[max(0, at - 1) : at], written[end:])]
    made = (f"{before[-1]}{gaps[0]}{written[at:end]}",) if before else ()
    return (*made, f"{written[at:end]}{gaps[1]}{after[0]}") if after else made or (written[at:end],)


def _is_edge(written: str, at: int) -> bool:
    """Whether no word goes on over this place."""
    return at in (0, len(written)) or not (written[at - 1].isalnum() and written[at].isalnum())


def _close(side: list[Hashable], pending: list[str], numbers: dict[str, int]) -> None:
    """Put what came from a value on its side, as one number; white space at its end is not its."""
    after = pending.pop() if pending[-1].isspace() else None
    side.append(numbers.setdefault("".join(pending), len(numbers)))
    if after is not None:
        side.append(after)
    pending.clear()


def _runs(old: tuple[Hashable, ...], new: tuple[Hashable, ...]) -> _Runs:
    found = hunks(old, new, _MOST_TOKENS)
    joined: list[Hunk] = []
    for one in found:
        if joined and all(isinstance(token, str) and token.isspace() for token in old[joined[-1].high : one.low]):
            last = joined.pop()
            joined.append(Hunk(last.low, one.high, last.start, one.end))
        else:
            joined.append(one)
    return tuple(trimmed(_shown(old[one.low : one.high]), _shown(new[one.start : one.end])) for one in joined)


def trimmed(removed: str, added: str) -> tuple[str, str]:
    """Both without the white space that they begin and end with alike."""
    while removed and added and removed[-1] == added[-1] and added[-1].isspace():
        removed, added = removed[:-1], added[:-1]
    while removed and added and removed[0] == added[0] and added[0].isspace():
        removed, added = removed[1:], added[1:]
    return removed, added


def _shown(tokens: Sequence[Hashable]) -> str:
    return "".join(token if isinstance(token, str) else VALUE for token in tokens)


def aligned(old: Sequence[Message], new: Sequence[Message]) -> list[tuple[Message | None, Message | None]]:
    """Which message became which: by role, in order; one that is left over on both sides at once changed its role."""
    pairs: list[tuple[Message | None, Message | None]] = []
    at = place = 0
    for low, high, start, end in hunks([one.role for one in old], [one.role for one in new], _MOST_LINES):
        pairs += zip(old[at:low], new[place:start], strict=True)
        for number in range(max(high - low, end - start)):
            before = old[low + number] if low + number < high else None
            after = new[start + number] if start + number < end else None
            pairs.append((before, after))
        at, place = high, end
    pairs += zip(old[at:], new[place:], strict=True)
    return pairs
