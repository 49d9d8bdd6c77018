"""The segments of a message: what the author wrote, values, fences, and where sections and cache breaks are. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

from llmfeatures.prompts.escape import control_spans

_MARKS: Final = ("cache_break", "section", "open", "close")  # segments without text


class Segment(NamedTuple):
    """A piece of a message, and where it came from; ``source`` is the expression that printed a value, where it is a
    short one. While a prompt with documents is rendered, ``open`` and ``close`` mark what will be in a fence."""

    kind: Literal["literal", "value", "section", "cache_break", "fence", "open", "close"]
    text: str
    source: str = ""


Parts = tuple[Segment, ...]
CACHE_BREAK = Segment("cache_break", "")
SECTION_END = Segment("section", "")
"""The beginning of a section is such a segment too, whose ``source`` is the section's name. Neither has text."""
OPEN = Segment("open", "")
OPEN_DATA = Segment("open", "", "data")
"""That of a data block, which has its fence also where it is empty."""
CLOSE = Segment("close", "")


def cut(parts: Parts, start: int, end: int) -> Parts:
    """The segments of the text from ``start`` to ``end``."""
    kept: list[Segment] = []
    at = 0
    for part in parts:
        kind, piece, source = part
        stop = at + len(piece)
        if start <= at and stop <= end:
            if piece or kind in _MARKS:
                kept.append(part)
        elif stop > start and at < end and start < end:
            kept.append(Segment(kind, piece[max(start - at, 0) : end - at], source))
        elif kind in _MARKS:
            kept.append(part)
        at = stop
    return tuple(kept)


def merged(parts: Parts) -> Parts:
    """The segments with neighbouring literals as one, and without empty ones."""
    kept: list[tuple[Any, list[str], str]] = []
    for kind, piece, source in parts:
        if kind == "literal" and kept and kept[-1][0] == "literal":
            kept[-1][1].append(piece)
        elif piece or kind in _MARKS:
            kept.append((kind, [piece], source))
    return tuple([Segment(kind, "".join(pieces), source) for kind, pieces, source in kept])


def defused(parts: Parts) -> Parts:
    """The segments, with each whole chat-control token defused that the author did not write himself.

    Values are escaped one by one, so such a token is one that values, or a value and a literal, make together.
    """
    parts = merged(parts)
    whole = "".join([part.text for part in parts])
    matches = control_spans(whole)
    if not matches:
        return parts
    made: list[Segment] = []
    at = number = 0
    for kind, piece, source in parts:
        end = at + len(piece)
        cuts: list[int] = []
        while number < len(matches) and matches[number][0] < end:
            first, last = matches[number]
            number += 1
            if kind != "literal" or last > end:
                cuts.append(first + 1 - at)
        edges = [0, *cuts, len(piece)]
        made.append(Segment(kind, " ".join([piece[one:two] for one, two in pairwise(edges)]), source))
        at = end
    return tuple(made)


def settled(parts: Parts) -> Parts:
    """The segments of a message's content: stripped, tokens defused, neighbours merged."""
    return merged(defused(stripped(parts)))


def stripped(parts: Parts) -> Parts:
    """The segments of the text without white space at both ends."""
    whole = "".join([part.text for part in parts])
    start = len(whole) - len(whole.lstrip())
    return cut(parts, start, max(len(whole.rstrip()), start))


def fence(content: str) -> tuple[str, str]:
    """The delimiters of a fence around this text: a hash that is not in it, the same whenever the text is."""
    data = content.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(data).hexdigest()[:12]
    while digest in content:
        digest = hashlib.sha256(digest.encode() + data).hexdigest()[:12]
    return f"<data-{digest}>\n", f"\n</data-{digest}>"


def with_fences(parts: Parts) -> Parts:
    """The segments with delimiters for marks; marks inside of others are dropped."""
    made: list[Segment] = []
    inner: list[Segment] = []
    depth = 0
    opening = OPEN
    for part in parts:
        if part.kind == "open":
            opening = opening if depth else part
            depth += 1
        elif part.kind == "close":
            depth -= 1
            if not depth:
                made += in_fence(inner, always=opening is OPEN_DATA)
                inner = []
        else:
            (inner if depth else made).append(part)
    return tuple(made)


def in_fence(inner: Sequence[Segment], *, always: bool = False) -> list[Segment]:
    """The segments in a fence, without blank lines at its ends; ``always``: also where nothing is left of them."""
    parts = defused(tuple(inner))
    kept = cut(parts, *without_blank_lines("".join([part.text for part in parts])))
    content = "".join([part.text for part in kept])
    if not content and not always:
        return list(kept)
    opening, closing = fence(content)
    return [Segment("fence", opening), *kept, Segment("fence", closing)]


def without_blank_lines(content: str) -> tuple[int, int]:
    """From where to where the text is what a fence holds: no blank lines at its ends."""
    body = content.strip()
    if not body:
        return 0, 0
    first = len(content) - len(content.lstrip())
    end = content.find("\n", first + len(body))
    return content.rfind("\n", 0, first) + 1, len(content) if end < 0 else end
