"""Edits that mend what was found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from llmfeatures.checker.findings import Edit
from llmfeatures.checker.positions import Span


def replacement(span: Span, text: str) -> tuple[Edit, ...]:
    """An edit that puts other text in this place."""
    if span.line is None or span.column is None or span.end_line is None or span.end_column is None:
        return ()
    return (Edit(line=span.line, column=span.column, end_line=span.end_line, end_column=span.end_column, text=text),)


def closest(name: str, known: Iterable[str]) -> str | None:
    """The one known name that is meant, where no other is nearly as near."""
    found = difflib.get_close_matches(name, sorted(known), n=2, cutoff=0.75)
    turned = [one for one in found if sorted(one) == sorted(name)]
    if len(turned) == 1:
        return turned[0]
    if len(found) == 2 and _ratio(name, found[0]) - _ratio(name, found[1]) > 0.08:
        return found[0]
    return found[0] if len(found) == 1 else None


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, one).ratio()


def near(name: str, known: Iterable[str]) -> list[str]:
    """The known names that this may be a misspelling of."""
    return difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
