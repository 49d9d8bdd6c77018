"""Functions that search, as an application has them."""

from __future__ import annotations

from typing import Any

from llmfeatures.ports import DocumentQuery


def newest_note(query: DocumentQuery) -> list[dict[str, Any]]:
    """What there is now, whatever the moment."""
    return [{"id": "now", "text": "what is there now", "score": 0.5, **query.keys}]


def broken(query: DocumentQuery) -> list[dict[str, Any]]:
    """Out of order."""
    raise ConnectionError("secret")
