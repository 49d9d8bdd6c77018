"""What an interpolated value may put into a prompt: pure functions over text.

Invisible and control characters are removed, chat-control tokens and what looks like one are defused, and outside
messages that keep their lines, line breaks become one space. Nothing is normalised, and nothing else is touched: F#'s
``<|`` and HTML's ``<b>`` stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Final

from llmfeatures.prompts.control_tokens import AS_WRITTEN, CONTROL_TOKENS, LOOKALIKES, WORDS

__all__ = [
    "CONTROL_TOKENS",
    "OPENER",
    "control_spans",
    "escape",
    "has_control_token",
    "is_plain",
    "without_stray_joiners",
]

_JOINERS = "\u200c\u200d"
_LINES = "\n\u2028\u2029"
_RETURN = re.compile("\r\n?")
_BANNED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_STRAY_JOINER = re.compile(
    f"(?<![^\x00-\x7f{_JOINERS}{_LINES}])[{_JOINERS}]|[{_JOINERS}](?![^\x00-\x7f{_JOINERS}{_LINES}])"
)
_LINE_BREAKS = re.compile(f"[{_LINES}]+")


def _alternatives(words: Iterable[str]) -> str:
    """A pattern of the words as a tree by first character: no input makes it try the words one by one."""
    branches: dict[str, list[str]] = {}
    for word in words:
        if word:
            branches.setdefault(word[0], []).append(word[1:])
    tails = [re.escape(first) + (_alternatives(rest) if any(rest) else "") for first, rest in sorted(branches.items())]
    pattern = tails[0] if len(tails) == 1 else f"(?:{'|'.join(tails)})"
    return f"(?:{pattern})?" if "" in words else pattern


_FOLD: Final = {
    **{0xFEE0 + code: code for code in range(0x21, 0x7F)},
    **{ord(written): ord(meant) for meant, forms in LOOKALIKES.items() for written in forms},
}
"""From what looks like a character of a token to that character; one for one, so that places stay."""
_IGNORED: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Characters without a shape, of which `escape` removes some and keeps others: a token with them in it looks whole."""
_IGNORABLE: Final = re.compile(f"[{_IGNORED}]")


def _forms(character: str) -> str:
    """The characters that count as this one, for a pattern."""
    return f"{re.escape(character)}{chr(0xFEE0 + ord(character))}{LOOKALIKES.get(character, '')}"


OPENER: Final = f"[{_forms('<')}{_forms('[')}]|[{_forms(']')}][{_IGNORED}]*[~\uff5e]|{'|'.join(AS_WRITTEN)}"
"""A pattern of which something is in every text with a token, for Python and RE2."""
_OPENER: Final = re.compile(OPENER)


@cache
def _token() -> re.Pattern[str]:
    """A pattern of all tokens in folded text; in any case where a token is no ordinary word. Made when it is needed."""
    folded = {token.translate(_FOLD) for token in CONTROL_TOKENS if token not in AS_WRITTEN | WORDS}
    return re.compile(f"{_alternatives(sorted(WORDS))}|(?i:{_alternatives(sorted({one.lower() for one in folded}))})")


_AS_WRITTEN: Final = re.compile("|".join(map(re.escape, AS_WRITTEN)))


def is_plain(value: str) -> bool:
    """Whether `escape` has nothing to do, found out cheaply: printable ASCII without ``<``, ``[`` and ``]~``."""
    return value.isascii() and value.isprintable() and "<" not in value and "[" not in value and "]~" not in value


def control_spans(value: str) -> list[tuple[int, int]]:
    """Where chat-control tokens, and what looks like one, begin and end in the text, in order; they may overlap.

    A look-alike has fullwidth characters, other bars, brackets and slashes, characters without a shape in it, or
    another case, `WORDS` excepted.
    """
    if not _may_hold_token(value):
        return []
    if value.isascii():
        return _matches(_token(), value)
    folded, places = value.translate(_FOLD), None
    if _IGNORABLE.search(folded):
        places = [place for place, one in enumerate(folded) if not _IGNORABLE.match(one)]
        folded = "".join([folded[place] for place in places])
    spans = _matches(_token(), folded)
    if places is not None:
        spans = [(places[start], places[end - 1] + 1) for start, end in spans]
    return sorted([*spans, *_matches(_AS_WRITTEN, value)])


def _matches(pattern: re.Pattern[str], value: str) -> list[tuple[int, int]]:
    """Where the pattern matches; from each place at most once, also inside of a match."""
    spans: list[tuple[int, int]] = []
    match = pattern.search(value)
    while match is not None:
        spans.append(match.span())
        match = pattern.search(value, match.start() + 1)
    return spans


def has_control_token(value: str) -> bool:
    """Whether a chat-control token, or what looks like one, is in the text."""
    return _may_hold_token(value) and bool(control_spans(value))


def _may_hold_token(value: str) -> bool:
    if value.isascii():
        return "<" in value or "[" in value or "]~" in value
    return _OPENER.search(value) is not None


def escape(value: str, *, keep_lines: bool) -> str:
    """The text as a prompt may hold it: no invisible or control character, no whole chat-control token
    and nothing that looks like one.

    Line breaks stay with ``keep_lines``; otherwise each run of them becomes one space. Applied to its own
    result it changes nothing.
    """
    if is_plain(value):
        return value
    if "\r" in value:
        value = _RETURN.sub("\n", value)
    value = _BANNED.sub("", value)
    if not value.isascii():
        value = _SURROGATE.sub("\ufffd", value)
        value = without_stray_joiners(value)
    if spans := control_spans(value):
        value = _defused(value, spans)
    return value if keep_lines else _LINE_BREAKS.sub(" ", value)


def without_stray_joiners(value: str) -> str:
    """The text without a joiner that does not stand between two non-ASCII characters."""
    return value if value.isascii() else _STRAY_JOINER.sub("", value)


def _defused(value: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with a space after the first character of each span."""
    pieces: list[str] = []
    at = 0
    for start, _ in spans:
        pieces += [value[at : start + 1], " "]
        at = start + 1
    return "".join([*pieces, value[at:]])
