"""A compiled prompt and its values as a finished prompt: within its budget, with its cache breaks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llmfeatures.blocks import MOST_BREAKS, CacheBreak, placed
from llmfeatures.context import Prefix, SectionTokens, prompt_id
from llmfeatures.errors import RenderError
from llmfeatures.prompts.budget import Packed, pack, too_long
from llmfeatures.prompts.compiled import Compiled, joined, settled_messages
from llmfeatures.prompts.runtime import Message
from llmfeatures.prompts.segments import Parts
from llmfeatures.tokens import Tokenizer, estimate


class Rendered(NamedTuple):
    """The messages, and what is known of them: ``tokens`` and ``sections`` with a budget, ``cache_breaks`` and
    ``prefix`` with a cache break, ``conversation`` with a place for it."""

    messages: tuple[Message, ...]
    tokens: int | None = None
    sections: tuple[SectionTokens, ...] = ()
    cache_breaks: tuple[CacheBreak, ...] = ()
    prefix: Prefix | None = None
    conversation: int | None = None


def rendered(template: Compiled, values: Mapping[str, Any], limit: int | None) -> Rendered:
    """The prompt of these values with at most ``limit`` tokens.

    Raises:
        BudgetError: it has more.
        RenderError: the prompt cannot be rendered with these values.
    """
    if limit is None and not template.breaks:
        messages, conversation = template.placed(values)
        return Rendered(messages, conversation=conversation)
    tokens: int | None = None
    sections: tuple[SectionTokens, ...] = ()
    parts: Sequence[tuple[str, Parts]] = ()
    if limit is not None and template.sections:
        (parts, tokens, sections), conversation = _packed(template, values, limit)
        messages = joined(parts)
    elif template.breaks:
        made = template.pieces(values)
        parts, conversation = settled_messages(made.messages), made.conversation
        messages = joined(parts)
    else:
        messages, conversation = template.placed(values)
    if limit is not None and tokens is None:
        tokens = _checked(template, values, messages, limit)
    breaks = _breaks(template, messages, parts)
    prefix = _prefix(messages, breaks, conversation, template.tokenizer)
    return Rendered(messages, tokens, sections, breaks, prefix, conversation)


def segments(template: Compiled, values: Mapping[str, Any], limit: int | None) -> tuple[tuple[str, Parts], ...]:
    """The messages of `rendered` as segments; one that is over its budget and has no sections is not refused."""
    if limit is not None and template.sections:
        return _packed(template, values, limit)[0].messages
    return template.segments(values)


def _packed(template: Compiled, values: Mapping[str, Any], limit: int) -> tuple[Packed, int | None]:
    assert template.tokenizer is not None
    messages, sections, conversation = template.pieces(values)
    try:
        return pack(messages, sections, limit, template.tokenizer), conversation
    except RenderError as error:
        error.args = (f"{template.path}: {error}",)
        raise


def _checked(template: Compiled, values: Mapping[str, Any], messages: Sequence[Message], limit: int) -> int:
    assert template.tokenizer is not None
    tokens = sum(template.tokenizer.count(message.content) for message in messages)
    if tokens > limit:
        error = too_long(template.segments(values), tokens, limit, template.tokenizer)
        error.args = (f"{template.path}: {error}",)
        raise error
    return tokens


def _breaks(
    template: Compiled, messages: Sequence[Message], parts: Sequence[tuple[str, Parts]]
) -> tuple[CacheBreak, ...]:
    if not template.breaks:
        return ()
    found: list[CacheBreak] = []
    for number, (_, own) in enumerate(parts):
        offset = 0
        for part in own:
            if part.kind == "cache_break":
                found.append(CacheBreak(number, offset))
            offset += len(part.text)
    if len(found) > MOST_BREAKS:
        raise RenderError(f"{template.path}: more than {MOST_BREAKS} cache breaks in one prompt")
    return placed([message.content for message in messages], found)


def _prefix(
    messages: Sequence[Message], breaks: Sequence[CacheBreak], conversation: int | None, tokenizer: Tokenizer | None
) -> Prefix | None:
    # behind the conversation a prompt is no prefix of another: turns are in between
    breaks = [one for one in breaks if conversation is None or one.message < conversation]
    if not breaks:
        return None
    last, offset = breaks[-1]
    before = [*messages[:last], Message(messages[last].role, messages[last].content[:offset])]
    count = estimate if tokenizer is None else tokenizer.count
    return Prefix(
        characters=sum(len(message.content) for message in before),
        tokens=sum(count(message.content) for message in before),
        estimated=tokenizer is None,
        sha256=prompt_id(before),
    )
