"""On-demand features of the titles that documents bring."""

from __future__ import annotations


def label(stars: int | None, question: str) -> str | None:
    """What is known of a title, and the question."""
    return None if stars is None else f"{stars} for {question}"
