"""What became of the searches for a prompt, in words and as data. No text of a document."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmfeatures.context import ContextDocument, PromptContext, Retrieval


def degraded_text(context: PromptContext) -> str:
    """Why a prompt is degraded."""
    manifest = context.manifest
    problems = [manifest.problem, *(one.problem for one in manifest.retrievals.values())]
    return "; ".join(dict.fromkeys(one for one in problems if one)) or "the online store was never filled"


def document_lines(context: PromptContext) -> Iterator[str]:
    """What became of the documents of each name, then a line for each that is in the prompt; no text. Last the time of
    each leg."""
    for name, one in context.manifest.retrievals.items():
        yield f"documents {name}: {retrieval_text(one)}"
        for document in context.documents.get(name, ()):
            yield f"  {document.id}: {', '.join(document_facts(context, document))}"
    if context.manifest.timings:
        legs = (f"{name} {took:.1f} ms" for name, took in context.manifest.timings.items())
        yield f"timings: {', '.join(legs)}"


def retrieval_text(one: Retrieval) -> str:
    """What became of a search."""
    said = f"retriever {one.retriever}, {one.status}"
    if one.status == "unavailable":
        return f"{said}: {one.problem}" if one.problem else said
    if one.status == "skipped":
        return f"{said}: nobody is known, or there is nothing to ask for"
    parts = [said, f"tier {one.tier}", f"{one.kept} of {one.found} kept"]
    left_out = (
        (one.doubles, "double" if one.doubles == 1 else "doubles"),
        (one.below_min_score, "below min_score"),
        (one.cut, "cut to max_tokens"),
    )
    parts += [f"{count} {what}" for count, what in left_out if count]
    return ", ".join(parts)


def document_facts(context: PromptContext, document: ContextDocument) -> Iterator[str]:
    """A document's score, tier, age, and what the features that it brings are."""
    if document.score is not None:
        yield f"score {document.score:g}"
    if document.tier is not None:
        yield document.tier
    if document.valid_from is not None:
        yield f"{age_text(context.as_of, document.valid_from)} old"
    for entity, features in document.features.items():
        for name, found in features.items():
            if found.status != "present":
                yield f"{entity}.{name} {found.status}"


def documents_json(context: PromptContext, name: str) -> Iterator[dict[str, Any]]:
    """The documents of one name as JSON takes them."""
    for one in context.documents.get(name, ()):
        age = None if one.valid_from is None else age_text(context.as_of, one.valid_from)
        yield {"id": one.id, "version": one.version, "score": one.score, "tier": one.tier, "age": age}


def age_text(as_of: datetime, event: datetime) -> str:
    """The time from an event to a moment in its two largest units: ``3d 4h``, ``1h``, ``0s``."""
    left = max(0, int((as_of - event).total_seconds()))
    sizes = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
    at = next((number for number, (size, _) in enumerate(sizes) if left >= size), 3)
    parts: list[str] = []
    for size, unit in sizes[at : at + 2]:
        count, left = divmod(left, size)
        if count or not parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts)
