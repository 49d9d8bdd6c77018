"""What an interpolated value may put into a prompt: pure functions over text.

Invisible and control characters are removed, chat-control tokens are defused, and outside messages that keep
their lines, line breaks become one space. Nothing is normalised, and nothing else is touched: F#'s ``<|`` and
HTML's ``<b>`` stay.
"""

# ruff: noqa: RUF001  (the fullwidth bars are the tokens)

from __future__ import annotations

import re
from collections.abc import Iterable

CONTROL_TOKENS: tuple[str, ...] = (
    # ChatML, OpenAI (cl100k, o200k, harmony), Qwen
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>", "<|endofprompt|>", "<|startoftext|>"),
    *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>", "<|refusal|>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    # Llama 2 and Mistral
    *("<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
    *("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[AUDIO]", "[BEGIN_AUDIO]"),
    # Llama 3 and 4
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|python_tag|>", "<|finetune_right_pad_id|>", "<|step_id|>", "<|image|>"),
    *("<|header_start|>", "<|header_end|>", "<|eot|>", "<|eom|>", "<|step|>"),
    *("<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>"),
    *("<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>"),
    *(f"<|reserved_special_token_{number}|>" for number in range(256)),
    # Gemma
    *("<bos>", "<eos>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"),
    # DeepSeek: fullwidth bars and U+2581
    *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜User｜>", "<｜Assistant｜>", "<|EOT|>"),
    *("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<｜tool▁sep｜>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
    *("<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
    # Phi, Zephyr, GLM, Granite, Kimi
    *("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|observation|>", "<|developer|>", "<|dummy_85|>"),
    *("<|tool_call|>", "<|/tool_call|>", "<|/tool|>", "<|tool_response|>", "<sop>", "<eop>", "[gMASK]", "[sMASK]"),
    *("<|start_of_role|>", "<|end_of_role|>", "<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>"),
    # Command-R
    *("<BOS_TOKEN>", "<EOS_TOKEN>", "<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<EOP_TOKEN>"),
    *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    *("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    *("<|START_ACTION|>", "<|END_ACTION|>", "<|START_TOOL_RESULT|>", "<|END_TOOL_RESULT|>"),
    # BERT's, that some servers add
    *("[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "[BOS]", "[EOS]"),
)
"""The chat-control tokens that a value may not hold: whole tokens, as their tokenizers write them."""

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


CONTROL_TOKEN = re.compile(_alternatives(CONTROL_TOKENS))
"""Matches each of `CONTROL_TOKENS`, and nothing else."""


def is_plain(value: str) -> bool:
    """Whether `escape` has nothing to do, found out cheaply: printable ASCII without ``<`` and ``[``."""
    return value.isascii() and value.isprintable() and "<" not in value and "[" not in value


def has_control_token(value: str) -> bool:
    """Whether a whole chat-control token is in the text."""
    return ("<" in value or "[" in value) and CONTROL_TOKEN.search(value) is not None


def escape(value: str, *, keep_lines: bool) -> str:
    """The text as a prompt may hold it: no invisible or control character, no whole chat-control token.

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
        value = _STRAY_JOINER.sub("", value)
    if has_control_token(value):
        value = CONTROL_TOKEN.sub(_defused, value)
    return value if keep_lines else _LINE_BREAKS.sub(" ", value)


def _defused(match: re.Match[str]) -> str:
    token = match[0]
    return f"{token[0]} {token[1:]}"
