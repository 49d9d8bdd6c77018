"""An embedder of a few words: what texts have in common decides their score, and many scores are the same."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

DIMENSIONS = 6


def counted(text: str) -> list[float]:
    """So often does each kind of word come; a text always has a vector of some length."""
    vector = [0.0] * DIMENSIONS
    for word in text.split() or [""]:
        vector[sha256(word.encode()).digest()[0] % DIMENSIONS] += 1.0
    return vector


def embed(texts: Sequence[str]) -> list[list[float]]:
    """The vectors of texts."""
    return [counted(text) for text in texts]
