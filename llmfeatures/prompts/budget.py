"""Which sections of a prompt fit into its budget, and what is left of those that have a limit of their own. Pure.

Sections are taken by priority, the highest first, and among equals as they stand in the prompt. What is kept is the
longest beginning of that order with which the finished prompt is within the budget, counted for each candidate on its
finished text. So more room never drops more, and the limit is never passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final, Literal, NamedTuple

from llmfeatures.context import SectionTokens
from llmfeatures.errors import BudgetError, RenderError
from llmfeatures.prompts.runtime import Declared
from llmfeatures.prompts.segments import Parts, Segment, cut, defused, fence, settled, stripped, without_blank_lines
from llmfeatures.tokens import Tokenizer, sure_tokens

Messages = Sequence[tuple[str, Parts]]
_JOINERS: Final = "\u200c\u200d"  # they stay between two characters only


class Packed(NamedTuple):
    """A prompt within its budget: the segments of each message, the tokens of all contents, and what became of each
    section, in the order of the prompt."""

    messages: tuple[tuple[str, Parts], ...]
    tokens: int
    sections: tuple[SectionTokens, ...]


def pack(messages: Messages, declared: Sequence[Declared], limit: int, tokenizer: Tokenizer) -> Packed:
    """The prompt of these messages and sections (as `Compiled.pieces` gives them) with at most ``limit`` tokens.

    Raises:
        BudgetError: it has more without any section.
        RenderError: the text of a section is not in the messages as it is.
    """
    sections = [_Section(one, tokenizer) for one in declared]
    rest = iter(sections)
    made = [_Message(role, _split(parts, rest), tokenizer) for role, parts in messages]
    if (lost := next(rest, None)) is not None:
        raise _changed(lost.declared.name)
    order = [one for one in sections if one.kept]
    order.sort(key=lambda one: -one.declared.priority)
    total = 0
    for kept in _candidates(made, order, limit, tokenizer):
        total = sum([one.tokens(kept) for one in made])
        if total <= limit:
            return Packed(
                tuple([(one.role, one.parts(kept)) for one in made]),
                total,
                tuple([one.outcome(dropped=id(one) not in kept) for one in sections]),
            )
    raise too_long([(one.role, one.parts(set())) for one in made], total, limit, tokenizer, has_sections=bool(sections))


def _candidates(
    messages: Sequence[_Message], order: Sequence[_Section], limit: int, tokenizer: Tokenizer
) -> Iterator[set[int]]:
    """The beginnings of the order that may fit, the longest first; at last none of the sections."""
    if order:
        yield {id(one) for one in order}
    least = [sum(one.sure for one in messages)]
    for one in order[:-1]:
        least.append(least[-1] + sure_tokens(tokenizer, one.text))
    for count in range(len(order) - 1, -1, -1):
        if least[count] <= limit or not count:
            yield {id(one) for one in order[:count]}
    if not order:
        yield set()


def too_long(
    messages: Messages, total: int, limit: int, tokenizer: Tokenizer, *, has_sections: bool = False
) -> BudgetError:
    """The error for a prompt that has more tokens than its budget, with its largest parts."""
    sizes: dict[str, list[str]] = {}
    for _, parts in messages:
        for part in parts:
            name = "the text of the template"
            if part.kind == "value":
                name = f"{{{{ {part.source} }}}}" if part.source else "other values"
            sizes.setdefault(name, []).append(part.text)
    counted = sorted(((tokenizer.count("".join(texts)), name) for name, texts in sizes.items()), reverse=True)
    largest = ", ".join(f"{name} {size:_}" for size, name in counted[:3])
    return BudgetError(
        f"the prompt has {total:_} tokens{' without any section' if has_sections else ''}, and its budget is {limit:_} "
        f"({tokenizer.name}); the largest parts: {largest}. Shorten them, put what can be left out into a "
        "{% section %}, or raise max_tokens"
    )


def _changed(name: str) -> RenderError:
    return RenderError(f"the text of section {name!r} was changed or printed twice after its end; print it as it is")


def _text(parts: Iterable[Segment]) -> str:
    return "".join([part.text for part in parts])


# -- the parts of a message ------------------------------------------------------------------------------------------


class _Section:
    """A section of one render: its text cut to its own limit, with the white space around it."""

    def __init__(self, declared: Declared, tokenizer: Tokenizer) -> None:
        self.declared, self.tokenizer = declared, tokenizer
        self.before: Parts = ()
        self.core: Parts = ()
        self.after: Parts = ()
        self.size = self.left = 0
        self.kept = True

    def fill(self, parts: Parts) -> None:
        """Take the section's own segments."""
        whole = _text(parts)
        start, end = len(whole) - len(whole.lstrip()), max(len(whole.rstrip()), len(whole) - len(whole.lstrip()))
        self.before, self.after = cut(parts, 0, start), cut(parts, end, len(whole))
        self.core = defused(cut(parts, start, end))
        self.size = self.left = self.tokenizer.count(_text(self.core))
        most = self.declared.max_tokens
        if most is not None and self.size > most:
            self.core = shortened(self.core, most, self.tokenizer)
            self.left = self.tokenizer.count(_text(self.core))
            self.kept = self.left > 0

    @property
    def text(self) -> str:
        """The text that is left, without the white space around it."""
        return _text(self.core)

    def outcome(self, *, dropped: bool) -> SectionTokens:
        """What became of it."""
        said: Literal["kept", "cut", "dropped"] = "cut" if self.left < self.size else "kept"
        return SectionTokens(
            name=self.declared.name,
            priority=self.declared.priority,
            tokens=self.size,
            kept=0 if dropped else self.left,
            outcome="dropped" if dropped else said,
        )


class _Message:
    """A message as fixed parts and sections, in turn or not, and what it is with some of the sections."""

    def __init__(self, role: str, pieces: Sequence[Parts | _Section], tokenizer: Tokenizer) -> None:
        self.role, self.pieces, self.tokenizer = role, pieces, tokenizer
        self._own = frozenset(id(one) for one in pieces if isinstance(one, _Section))
        self._made: dict[frozenset[int], tuple[Parts, int]] = {}

    @cached_property
    def sure(self) -> int:
        """Tokens that the fixed parts have at least."""
        return sum(sure_tokens(self.tokenizer, _text(one)) for one in self.pieces if not isinstance(one, _Section))

    def parts(self, kept: set[int]) -> Parts:
        """The finished segments with these sections."""
        return self._with(kept)[0]

    def tokens(self, kept: set[int]) -> int:
        """The tokens of the content with these sections."""
        return self._with(kept)[1]

    def _with(self, kept: set[int]) -> tuple[Parts, int]:
        own = self._own & kept
        if own not in self._made:
            parts = settled(_joined(self.pieces, own))
            self._made = {own: (parts, self.tokenizer.count(_text(parts)))}  # the next candidate has another
        return self._made[own]


def _split(parts: Parts, sections: Iterable[_Section]) -> list[Parts | _Section]:
    """The segments of a message as fixed parts and filled sections."""
    rest = iter(sections)
    pieces: list[Parts | _Section] = []
    section: _Section | None = None
    own: list[Segment] = []
    for part in parts:
        if part.kind != "section":
            own.append(part)
            continue
        if part.source:
            pieces.append(tuple(own))
            section = next(rest, None)
        if section is None or (part.source or section.declared.name) != section.declared.name:
            raise _changed(part.source)
        if not part.source:
            section.fill(tuple(own))
            pieces.append(section)
            section = None
        own = []
    if section is not None:
        raise _changed(section.declared.name)
    return [*pieces, tuple(own)]


def _joined(pieces: Sequence[Parts | _Section], kept: frozenset[int]) -> Parts:
    """The segments of a message with some of its sections. A section that is left out leaves no hole: of the white
    space before and after it, only that with more line breaks stays; where there is none, its own keeps words apart."""
    made: list[Segment] = []
    skip = 0
    for at, piece in enumerate(pieces):
        if not isinstance(piece, _Section):
            made += cut(piece, skip, len(_text(piece))) if skip else piece
            skip = 0
        elif id(piece) in kept:
            name = piece.declared.name
            made += [Segment("section", "", name), *piece.before, *piece.core, *piece.after, Segment("section", "")]
        else:
            following = pieces[at + 1] if at + 1 < len(pieces) else ()
            after = "" if isinstance(following, _Section) else _leading(_text(following))
            skip = len(after)
            fixed, before = _take_trailing(made)
            line_start = "\n" in fixed + before or not any(part.text for part in made)
            end = _text(piece.after)
            right = "\n" * end.count("\n") + after if line_start else after
            right = right.replace("\n", "", fixed.count("\n"))
            space = max(before, right, key=_breadth)
            if not space and not fixed:
                space = min(_text(piece.before), end, key=_breadth)
            if space:
                made.append(Segment("literal", space))
    return tuple(made)


def _breadth(space: str) -> tuple[int, int]:
    return space.count("\n"), len(space)


def _leading(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _take_trailing(made: list[Segment]) -> tuple[str, str]:
    """The white space at the end: that before a cache break, which stays, since it is part of what a cache keeps; and
    that after it, which is removed."""
    fixed = taken = ""
    is_fixed = False
    for at in range(len(made) - 1, -1, -1):
        kind, text, source = made[at]
        kept = text.rstrip()
        if is_fixed or kind == "cache_break":
            is_fixed = True
            fixed = text[len(kept) :] + fixed
        elif text:
            taken = text[len(kept) :] + taken
            made[at : at + 1] = [Segment(kind, kept, source)] if kept else []
        if kept:
            break
    return fixed, taken


# -- cutting ---------------------------------------------------------------------------------------------------------


def shortened(parts: Parts, most: int, tokenizer: Tokenizer) -> Parts:
    """The beginning of a text with at most so many tokens: whole lines; where these fill less than half, the next line
    in part. A fence that is cut is closed again, under the hash of what is left in it."""
    whole = "".join([part.text for part in parts if part.kind != "fence"])

    def fits(length: int) -> bool:
        return tokenizer.count(_text(_beginning(parts, length))) <= most

    size = 8 * most
    while size < len(whole) and sure_tokens(tokenizer, whole[:size]) <= most:
        size *= 2
    ends = [at for at, character in enumerate(whole[:size]) if character == "\n"] + [min(size, len(whole))]
    at = _last(fits, ends)
    length = ends[at] if at >= 0 else 0
    if at + 1 < len(ends) and 2 * tokenizer.count(_text(_beginning(parts, length))) < most:
        inside = range(length + 1, ends[at + 1])
        if (found := _last(fits, inside)) >= 0:
            length = inside[found]
    return _beginning(parts, length)


def _last(fits: Callable[[int], bool], lengths: Sequence[int]) -> int:
    """The place of a length that fits, before one that does not; -1 when the first does not."""
    low, high = -1, len(lengths)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(lengths[middle]) else (low, middle)
    return low


def _beginning(parts: Parts, length: int) -> Parts:
    """So many characters of a text, those of fences' delimiters not counted."""
    made: list[Segment] = []
    inner: list[Segment] | None = None
    for part in parts:
        if part.kind == "fence":
            if inner is None:
                inner = []
            else:
                made += _fenced(inner)
                inner = None
            continue
        text = part.text if length >= len(part.text) else part.text[:length].rstrip(_JOINERS)
        (made if inner is None else inner).append(part._replace(text=text))
        length -= len(part.text)
        if length <= 0:
            break
    return stripped(tuple(made + _fenced(inner or [])))


def _fenced(inner: Sequence[Segment]) -> list[Segment]:
    kept = cut(tuple(inner), *without_blank_lines(_text(inner)))
    if not kept:
        return []
    opening, closing = fence(_text(kept))
    return [Segment("fence", opening), *kept, Segment("fence", closing)]
