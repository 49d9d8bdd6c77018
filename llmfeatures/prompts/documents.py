"""A document as a template reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmfeatures.prompts.fenced import DocumentText, FencedText
from llmfeatures.prompts.runtime import Fenced, Text


class TemplateDocument(Fenced, Mapping[str, Any]):
    """``d`` of ``{% for d in docs %}``: a mapping that cannot be changed, which prints as its text."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._parts = dict(parts)

    def __getitem__(self, name: str) -> Any:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TemplateDocument) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash((self._parts["id"], self._parts["version"]))

    def __repr__(self) -> str:
        return "a document"

    def plain(self) -> str:
        """Its text as an ordinary str."""
        return self._parts["text"].plain()

    def bare(self) -> Text:
        """Its finished text, without a fence."""
        return self._parts["text"].bare()

    def printed(self, what: str = "") -> FencedText:
        """What a template prints for it: its text."""
        return self._parts["text"].printed(what)


def template_document(
    *,
    id: str,  # noqa: A002
    version: str,
    text: str,
    score: float | None,
    metadata: Mapping[str, Any],
    entities: Mapping[str, Mapping[str, Any]],
) -> TemplateDocument:
    """What ``{% for d in docs %}`` gives: ``d.text`` is fenced wherever it is printed, and so is ``d`` itself.

    Args:
        score: None by ``order: recent``.
        metadata: canonical Python values; ordinary values for a template, which are not fenced.
        entities: the features of each entity that it brings; reading one that is not there raises what its policy says.
    """
    return TemplateDocument(
        {**entities, "id": id, "version": version, "text": DocumentText(text), "score": score, "metadata": metadata}
    )
