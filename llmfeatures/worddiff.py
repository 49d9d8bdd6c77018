"""A difference between two prompts, line by line, with the changed words of each line marked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")
_MOST_TOKENS = 2_000
_LIKE_ENOUGH = 0.3

Sign = Literal[" ", "-", "+"]


class Part(NamedTuple):
    """A piece of a line, and whether the other side has it differently."""

    text: str
    changed: bool


class DiffLine(NamedTuple):
    """A line of a difference: in both (a space), in the old text only, or in the new text only."""

    sign: Sign
    parts: tuple[Part, ...]


def plain(line: DiffLine) -> str:
    """The line without colours: changed words as ``[-old-]`` and ``{+new+}``."""
    opening, closing = {" ": ("", ""), "-": ("[-", "-]"), "+": ("{+", "+}")}[line.sign]
    return line.sign + "".join(f"{opening}{one.text}{closing}" if one.changed else one.text for one in line.parts)


def diff_lines(old: str, new: str) -> list[DiffLine]:
    """The lines of both texts in order; where they differ, the old lines and then the new ones."""
    before, after = old.split("\n"), new.split("\n")
    lines: list[DiffLine] = []
    for tag, low, high, start, end in SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes():
        if tag == "equal":
            lines += [DiffLine(" ", (Part(line, False),)) for line in before[low:high]]
        else:
            lines += _changed(before[low:high], after[start:end])
    return lines


def _changed(before: Sequence[str], after: Sequence[str]) -> Iterator[DiffLine]:
    pairs = [_words(old, new) for old, new in zip(before, after, strict=False)]
    removed = [DiffLine("-", parts) for parts, _ in pairs]
    added = [DiffLine("+", parts) for _, parts in pairs]
    yield from removed
    yield from (DiffLine("-", (Part(line, True),)) for line in before[len(pairs) :])
    yield from added
    yield from (DiffLine("+", (Part(line, True),)) for line in after[len(pairs) :])


def _words(old: str, new: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    before, after = _TOKEN.findall(old), _TOKEN.findall(new)
    if max(len(before), len(after)) > _MOST_TOKENS or _likeness(before, after) < _LIKE_ENOUGH:
        return (Part(old, True),), (Part(new, True),)
    left: list[Part] = []
    right: list[Part] = []
    for tag, low, high, start, end in SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes():
        changed = tag != "equal"
        if low < high:
            left.append(Part("".join(before[low:high]), changed))
        if start < end:
            right.append(Part("".join(after[start:end]), changed))
    return _joined(left), _joined(right)


def _likeness(before: Sequence[str], after: Sequence[str]) -> float:
    """How much two lines have in common, the spaces apart: 0 nothing, 1 all."""
    words = [[token for token in tokens if not token.isspace()] for tokens in (before, after)]
    return SequenceMatcher(a=words[0], b=words[1], autojunk=False).ratio()


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts, with changed ones that only a space divides as one."""
    joined: list[Part] = []
    for part in parts:
        if part.changed and len(joined) > 1 and joined[-1].text.isspace() and joined[-2].changed:
            space, first = joined.pop(), joined.pop()
            joined.append(Part(first.text + space.text + part.text, True))
        else:
            joined.append(part)
    return tuple(joined)
