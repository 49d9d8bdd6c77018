"""What a finished prompt is made of: where each value stands in it, how old it is, and what a provider's cache shares.

Nothing of this is kept while prompts are built. The plan that rendered a context is found again by its version, renders
once more as segments, and counts only if these are the context's messages to the letter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from weakref import WeakValueDictionary

from llmfeatures.clock import iso
from llmfeatures.errors import LLMFeaturesError
from llmfeatures.explain_documents import age_text, degraded_text, document_lines, documents_json
from llmfeatures.types import json_value

if TYPE_CHECKING:
    from llmfeatures.context import FeatureValue, PromptContext


class _Features(Protocol):
    @property
    def names(self) -> Sequence[str]: ...


class _Plan(Protocol):
    """As much of a prompt's plan as is needed here."""

    @property
    def version(self) -> str: ...
    @property
    def features(self) -> _Features: ...
    @property
    def inputs(self) -> Mapping[str, Any]: ...
    def segments(
        self,
        slots: Sequence[FeatureValue],
        keys: Mapping[str, Any],
        inputs: Mapping[str, Any],
        as_of: datetime,
        documents: Any,
    ) -> Any: ...
    def found_in(self, documents: Any) -> Any: ...
    @property
    def documents(self) -> Sequence[Any]: ...


_MOST_LINES: Final = 6
"""So many lines of one value are named."""
_PLANS: WeakValueDictionary[int, _Plan] = WeakValueDictionary()
_NEWEST: deque[_Plan] = deque(maxlen=64)
"""Kept alive, so that a context of a builder that is gone already can be explained, as in a notebook."""


def remember(plan: _Plan) -> None:
    """Let contexts that this plan renders be explained, for as long as it lives or is among the newest."""
    _PLANS[id(plan)] = plan  # by identity: several of one version may live, and one of them longest
    _NEWEST.append(plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a message. A ``value`` was interpolated: ``source`` is the expression that printed it, where it is a
    short one, and ``name`` the value that it prints, where that is known."""

    kind: Literal["literal", "value", "fence", "section", "cache_break"]
    text: str
    source: str = ""
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedMessage:
    """A message as its pieces."""

    role: str
    pieces: tuple[Piece, ...]

    @property
    def content(self) -> str:
        """The message's text."""
        return "".join(piece.text for piece in self.pieces)

    def spans(self) -> Iterator[tuple[int, int, Piece]]:
        """Each interpolated piece with its start and end in the text, in characters."""
        at = 0
        for piece in self.pieces:
            if piece.kind == "value":
                yield at, at + len(piece.text), piece
            at += len(piece.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a value stands: the number of the message and of the line in it, both from 1, and the expression."""

    message: int
    role: str
    line: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedValue:
    """A value of a prompt. ``kind`` is ``feature``, ``input`` or ``join key``; only a feature has ``found`` (as read),
    ``age`` (at the prompt's ``as_of``), ``view`` and ``policy``. ``value`` is as rendered; ``is_rendered`` is false for
    what only an on-demand feature reads. ``searches`` are the names of documents that are searched for with it."""

    name: str
    kind: Literal["feature", "input", "join key"]
    dtype: str
    value: Any
    is_rendered: bool = True
    found: FeatureValue | None = None
    age: str | None = None
    view: str | None = None
    policy: str | None = None
    places: tuple[Place, ...] = ()
    searches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that can be said about a context.

    ``is_whole`` is false where its plan is not at hand: then the messages are one piece each, and no value has a place.
    ``varies`` are the values before the last cache break, without which a provider's cache would not be shared;
    ``same`` is how many characters of all messages come before the first interpolated one.
    """

    context: PromptContext
    messages: tuple[ExplainedMessage, ...]
    values: tuple[ExplainedValue, ...]
    is_whole: bool
    varies: tuple[str, ...]
    same: int

    def where(self, places: Sequence[Place], name: str | None = None) -> str:
        """Places in words, each with its expression where that is not just the ``name``."""
        lines: dict[tuple[int, str, str], dict[int, None]] = {}
        for place in places:
            shown = "" if place.source in ("", name) else f" as {place.source}"
            lines.setdefault((place.message, place.role, shown), {})[place.line] = None
        return ", ".join(
            f"{_lines(list(numbers))}{f' of message {message} ({role})' if len(self.messages) > 1 else ''}{shown}"
            for (message, role, shown), numbers in lines.items()
        )


def _lines(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_MOST_LINES]))
    more = f" and {len(numbers) - _MOST_LINES} more" if len(numbers) > _MOST_LINES else ""
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{more}"


def explained(context: PromptContext) -> Explanation:
    """What a context is made of."""
    names = frozenset((*context.values, *context.features, "as_of"))
    segments = _segments(context)
    messages = tuple(
        ExplainedMessage(role=role, pieces=tuple(_piece(names, *segment) for segment in parts))
        for role, parts in segments or ()
    )
    if segments is None:
        messages = tuple(
            ExplainedMessage(role=one["role"], pieces=(Piece(kind="literal", text=one["content"]),))
            for one in context.messages
        )
    return Explanation(
        context=context,
        messages=messages,
        values=tuple(_values(context, _places(messages), _plan(context))),
        is_whole=segments is not None,
        varies=_varies(messages, context.manifest.conversation),
        same=_same(messages),
    )


def _plan(context: PromptContext) -> _Plan | None:
    return next((one for one in list(_PLANS.values()) if one.version == context.version), None)


def _segments(context: PromptContext) -> Any:
    plan = _plan(context)
    if plan is None:
        return None
    try:
        slots = [context.features[name] for name in plan.features.names]
        inputs = {name: context.values[name] for name in plan.inputs}
        documents = plan.found_in(context.documents)
        made = plan.segments(slots, context.manifest.keys, inputs, context.as_of, documents)
    except (LLMFeaturesError, KeyError):  # it was made by hand
        return None
    text = [(role, "".join(segment.text for segment in parts)) for role, parts in made]
    return made if text == [(one["role"], one["content"]) for one in context.messages] else None


def _piece(names: frozenset[str], kind: Any, text: str, source: str = "", *_: Any) -> Piece:
    if kind != "value":
        return Piece(kind=kind, text=text)
    start = source.partition("|")[0].partition("[")[0].split(".")
    name = next((one for one in (".".join(start[:2]), start[0]) if one in names), None)
    return Piece(kind="value", text=text, source=source, name=name)


def _places(messages: Sequence[ExplainedMessage]) -> dict[str | None, list[Place]]:
    """Where each value stands; under None those of which only the place is known."""
    places: dict[str | None, list[Place]] = {}
    for number, message in enumerate(messages, 1):
        line = 1
        for piece in message.pieces:
            if piece.kind == "value":
                place = Place(message=number, role=message.role, line=line, source=piece.source)
                places.setdefault(piece.name, []).append(place)
            line += piece.text.count("\n")
    return places


def _values(
    context: PromptContext, places: Mapping[str | None, Sequence[Place]], plan: _Plan | None
) -> Iterator[ExplainedValue]:
    def searches(name: str) -> tuple[str, ...]:
        return tuple(one.name for one in plan.documents if name in one.reads) if plan is not None else ()

    for name, found in context.features.items():
        origin = context.manifest.features[name]
        event = found.event_timestamp
        yield ExplainedValue(
            name=name,
            kind="feature",
            dtype=origin.dtype,
            value=context.values.get(name),
            is_rendered=name in context.values,
            found=found,
            age=None if event is None else age_text(context.as_of, event),
            view=origin.view,
            policy=origin.policy,
            places=tuple(places.get(name, ())),
            searches=searches(name),
        )
    for name, value in context.values.items():
        if name not in context.features:
            yield ExplainedValue(
                name=name,
                kind="join key" if name in context.manifest.keys else "input",
                dtype=context.manifest.inputs.get(name, ""),
                value=value,
                places=tuple(places.get(name, ())),
                searches=searches(name),
            )


def _varies(messages: Sequence[ExplainedMessage], conversation: int | None) -> tuple[str, ...]:
    """The values before the last cache break ahead of the conversation."""
    pieces = [piece for message in messages[:conversation] for piece in message.pieces]
    breaks = [number for number, piece in enumerate(pieces) if piece.kind == "cache_break"]
    inside = pieces[: breaks[-1]] if breaks else []
    return tuple(
        dict.fromkeys(piece.name or piece.source or "an expression" for piece in inside if piece.kind == "value")
    )


def _same(messages: Sequence[ExplainedMessage]) -> int:
    """The characters before the first interpolated one."""
    same = 0
    for message in messages:
        for piece in message.pieces:
            if piece.kind in ("value", "fence"):
                return same
            same += len(piece.text)
    return same


# -- in words --------------------------------------------------------------------------------------------------------


def explain_text(explanation: Explanation) -> str:
    """The explanation in lines, without any value."""
    context = explanation.context
    lines = [f"{context.prompt} {context.version[:12]} as of {iso(context.as_of)} ({context.manifest.source})"]
    lines += [f"  {value.name}: {_said(explanation, value)}" for value in explanation.values]
    if explanation.is_whole:
        others = _places(explanation.messages)
        for name in ("as_of", None):
            if name not in context.values and (found := others.get(name)):
                lines.append(f"  {name or 'other expressions'}: {explanation.where(found, name)}")
    lines += [f"  {line}" for line in document_lines(context)]
    if context.manifest.degraded:
        lines.append(f"  degraded: {degraded_text(context)}")
    lines += [f"  {line}" for line in size_lines(explanation)]
    if not explanation.is_whole:
        lines.append(
            "  where values stand in the text is not known here: no prompt of this version is loaded in this process"
        )
    return "\n".join(lines)


def _said(explanation: Explanation, value: ExplainedValue) -> str:
    said = value.kind
    if value.found is not None:
        age = "" if value.age is None else f", {value.age} old"
        stand_in = "" if value.found.status == "present" else f", the prompt's policy is {value.policy}"
        said = f"{value.found.status}{age}, from view {value.view}{stand_in}"
    if not explanation.is_whole:
        return said
    if value.searches:
        said += f"; in the search for {' and '.join(value.searches)}"
    if value.places:
        return f"{said}; {explanation.where(value.places, value.name)}"
    if value.searches:
        return said
    return f"{said}; {'not printed' if value.is_rendered else 'read by an on-demand feature only'}"


def size_lines(explanation: Explanation) -> Iterator[str]:
    """Tokens, sections and the prefix, a line each, as far as they are known."""
    context, prefix = explanation.context, explanation.context.prefix
    for one in context.manifest.sections:
        yield f"section {one.name}: {one.outcome}, {one.kept:,} of {one.tokens:,} tokens, priority {one.priority}"
    if context.tokens is not None:
        yield f"tokens: {context.tokens:,}"
    if (place := context.manifest.conversation) is not None:
        ends = {0: "before the first message", len(context.messages): "to the end"}
        yield f"conversation: earlier turns go {ends.get(place, f'between messages {place} and {place + 1}')}"
    if prefix is not None:
        tokens = f"about {prefix.tokens:,}" if prefix.estimated else f"{prefix.tokens:,}"
        line = f"prefix: {prefix.characters:,} characters up to the last cache_break, {tokens} tokens"
        shared = f"; {_shared(explanation)}" if explanation.is_whole else ""
        yield f"{line}, sha256 {prefix.sha256[:12]}{shared}"
    elif explanation.is_whole:
        ahead = " ahead of the conversation" if context.manifest.cache_breaks else ""
        yield f"prefix: no cache_break{ahead}; the first {explanation.same:,} characters come before any value"


def _shared(explanation: Explanation) -> str:
    if not explanation.varies:
        return "no value in it, so all prompts of this version share it unless a condition changes it"
    return f"another {' or '.join(explanation.varies)} misses the provider's cache"


# -- as data ---------------------------------------------------------------------------------------------------------


def explain_json(explanation: Explanation) -> dict[str, Any]:
    """The explanation as JSON takes it. Spans are offsets in characters of a message's content; ``whole`` false: they
    are not known."""
    context = explanation.context
    return {
        "whole": explanation.is_whole,
        "values": [_value_json(one) for one in explanation.values],
        "messages": [
            {
                "role": message.role,
                "spans": [
                    {"start": start, "end": end, "expression": piece.source, "value": piece.name}
                    for start, end, piece in message.spans()
                ],
            }
            for message in explanation.messages
        ],
        "documents": {name: [*documents_json(context, name)] for name in context.manifest.retrievals},
        "timings": dict(context.manifest.timings),
        "sections": [one.model_dump() for one in context.manifest.sections],
        "tokens": context.tokens,
        "prefix": None if context.prefix is None else context.prefix.model_dump(),
        "conversation": context.manifest.conversation,
        "varies": list(explanation.varies),
        "same": explanation.same if explanation.is_whole else None,
    }


def _value_json(one: ExplainedValue) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": one.name, "kind": one.kind, "dtype": one.dtype, "value": json_value(one.value)
    }  # fmt: skip
    if one.found is not None:
        event = one.found.event_timestamp
        made |= {
            "status": one.found.status,
            "event_timestamp": None if event is None else iso(event),
            "age": one.age,
            "view": one.view,
            "policy": one.policy,
        }
    places = [{"message": each.message, "line": each.line, "expression": each.source} for each in one.places]
    return {**made, "places": places}
