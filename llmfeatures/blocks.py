"""A prompt's messages in blocks: cut where a cache break stands, as OpenAI and Anthropic take them.

The texts of a message's blocks, joined, are its content: a break takes no white space away and adds none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, NotRequired, cast

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from anthropic.types import MessageParam, TextBlockParam
    from openai.types.chat import ChatCompletionContentPartTextParam, ChatCompletionMessageParam
    from openai.types.responses import ResponseInputItemParam, ResponseInputTextParam

MOST_BREAKS: Final = 4
"""The most cache breaks of one prompt: Anthropic refuses a request with more, and OpenAI writes no more."""


INSTRUCTING: Final = ("system", "developer")
"""The roles whose messages Anthropic takes as its ``system``."""


class CacheBreak(NamedTuple):
    """Where a provider's cache may end: after so many characters of a message's content. Both count from 0."""

    message: int
    offset: int


class Message(TypedDict):
    """One message of a chat."""

    role: str
    content: str


class Block(TypedDict):
    """A part of a message's text; ``cache`` says that a cache break stands at its end."""

    text: str
    cache: bool


class BlockMessage(TypedDict):
    """A message of a chat, in blocks."""

    role: str
    blocks: list[Block]


class ChatArguments(TypedDict):
    """Keyword arguments for ``client.chat.completions.create``."""

    messages: list[ChatCompletionMessageParam]


class ResponsesArguments(TypedDict):
    """Keyword arguments for ``client.responses.create``."""

    input: list[ResponseInputItemParam]


class AnthropicArguments(TypedDict):
    """Keyword arguments for ``client.messages.create`` of Anthropic's client. ``system`` is absent where the prompt has
    no system or developer message."""

    system: NotRequired[list[TextBlockParam]]
    messages: list[MessageParam]


def placed(contents: Sequence[str], breaks: Sequence[CacheBreak]) -> tuple[CacheBreak, ...]:
    """The breaks as blocks take them, in order: no block is blank. One at the beginning of a message ends the message
    before it; one with nothing before it, or only white space since the break before it, is none."""
    made: dict[CacheBreak, None] = {}
    for number, offset in breaks:
        start = max((one.offset for one in made if one.message == number), default=0)
        if contents[number][start:offset].strip():
            made[CacheBreak(number, offset)] = None
        elif not start:
            before = next((at for at in range(number - 1, -1, -1) if contents[at]), None)
            if before is not None:
                made[CacheBreak(before, len(contents[before]))] = None
    return tuple(sorted(made))


def in_blocks(messages: Sequence[Message], breaks: Sequence[CacheBreak]) -> list[BlockMessage]:
    """The messages cut at the breaks."""
    made: list[BlockMessage] = []
    for number, message in enumerate(messages):
        content = message["content"]
        ends = [one.offset for one in breaks if one.message == number]
        edges = [0, *ends, *([] if ends and ends[-1] == len(content) else [len(content)])]
        blocks = [Block(text=content[start:end], cache=end in ends) for start, end in pairwise(edges)]
        made.append(BlockMessage(role=message["role"], blocks=blocks))
    return made


def chat_messages(messages: Sequence[BlockMessage]) -> list[ChatCompletionMessageParam]:
    """The messages for OpenAI's chat completions: those with a break as text parts, the others as text. OpenAI takes no
    break in an assistant message."""
    return cast("list[ChatCompletionMessageParam]", [_openai(one, _chat_part) for one in messages])


def response_items(messages: Sequence[BlockMessage]) -> list[ResponseInputItemParam]:
    """As `chat_messages`, for OpenAI's responses."""
    return cast("list[ResponseInputItemParam]", [_openai(one, _input_text) for one in messages])


def _openai(
    message: BlockMessage, part: Callable[[Block], ChatCompletionContentPartTextParam | ResponseInputTextParam]
) -> dict[str, object]:
    blocks = message["blocks"]
    if message["role"] == "assistant" or not any(one["cache"] for one in blocks):
        return {"role": message["role"], "content": "".join([one["text"] for one in blocks])}
    return {"role": message["role"], "content": [part(one) for one in blocks]}


def _chat_part(block: Block) -> ChatCompletionContentPartTextParam:
    part: ChatCompletionContentPartTextParam = {"type": "text", "text": block["text"]}
    if block["cache"]:
        part["prompt_cache_breakpoint"] = {"mode": "explicit"}
    return part


def _input_text(block: Block) -> ResponseInputTextParam:
    part: ResponseInputTextParam = {"type": "input_text", "text": block["text"]}
    if block["cache"]:
        part["prompt_cache_breakpoint"] = {"mode": "explicit"}
    return part


def anthropic_arguments(messages: Sequence[BlockMessage]) -> AnthropicArguments:
    """The messages for Anthropic's client: system and developer messages are its ``system``, in their order, the others
    stay messages. Blank texts, which Anthropic refuses, are left out, and so are messages that have no other."""
    system: list[TextBlockParam] = []
    made: list[dict[str, object]] = []
    for one in messages:
        blocks = [_text_block(block) for block in one["blocks"] if block["text"].strip()]
        if one["role"] in INSTRUCTING:
            system += blocks
        elif blocks:
            has_break = any(block["cache"] for block in one["blocks"])
            made.append({"role": one["role"], "content": blocks if has_break else blocks[0]["text"]})
    arguments: AnthropicArguments = {"messages": cast("list[MessageParam]", made)}
    if system:
        arguments["system"] = system
    return arguments


def is_anthropic_message(message: Message) -> bool:
    """Whether `anthropic_arguments` makes a message of this one."""
    return message["role"] not in INSTRUCTING and bool(message["content"].strip())


def _text_block(block: Block) -> TextBlockParam:
    made: TextBlockParam = {"type": "text", "text": block["text"]}
    if block["cache"]:
        made["cache_control"] = {"type": "ephemeral"}
    return made
