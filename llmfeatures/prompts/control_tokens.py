"""The chat-control tokens of the common model families: a closed list of whole tokens, as their tokenizers write them.

Not in it: words that are markup of ordinary texts too, like ``<role>``, ``<image>`` and ``<tools>``, and the text roles
of completion models, like ``Human:``.
"""

# ruff: noqa: RUF001  (the fullwidth bars are the tokens)

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "ChatML, OpenAI (cl100k, o200k, harmony), Qwen, Phi-4, LFM2": (
        *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>", "<|endofprompt|>", "<|startoftext|>"),
        *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"),
        *("<|refusal|>", "<|untrusted|>", "<|endofuntrusted|>"),
        *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
        *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<|vision_bos|>"),
        *("<|vision_eos|>", "<|IMAGE|>", "<|VIDEO|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
        *("<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"),
        *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
        *("<|quad_start|>", "<|quad_end|>"),
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
        *("<|tool_list_start|>", "<|tool_list_end|>", "<|tool_call_start|>", "<|tool_call_end|>"),
        *("<|tool_response_start|>", "<|tool_response_end|>"),
        *("<|action_start|>", "<|action_end|>", "<|plugin|>", "<|interpreter|>"),
    ),
    "Llama 2, Mistral, Magistral, Voxtral": (
        *("<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
        *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
        *("[MODEL_SETTINGS]", "[/MODEL_SETTINGS]"),
        *("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[AUDIO]", "[BEGIN_AUDIO]"),
        *("[TRANSCRIBE]", "[STREAMING_PAD]", "[STREAMING_WORD]", "[NEXT_AUDIO_TEXT]", "[REPEAT_AUDIO_TEXT]"),
    ),
    "Llama 3 and 4": (
        *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        *("<|eom_id|>", "<|python_tag|>", "<|finetune_right_pad_id|>", "<|step_id|>", "<|image|>"),
        *("<|header_start|>", "<|header_end|>", "<|eot|>", "<|eom|>", "<|step|>"),
        *("<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>"),
        *("<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>"),
        *("<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>"),
        *(f"<|reserved_special_token_{number}|>" for number in range(256)),
    ),
    "Gemma 1 to 4": (
        *("<bos>", "<eos>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"),
        *("<start_function_call>", "<end_function_call>", "<start_function_response>", "<end_function_response>"),
        *("<start_function_declaration>", "<end_function_declaration>"),
        *("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>", '<|"|>'),
        *("<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>"),
        *("<|image>", "<image|>", "<|audio>", "<audio|>", "<|audio|>", "<|video|>"),
    ),
    "DeepSeek, with fullwidth bars and U+2581": (
        *(
            "<｜begin▁of▁sentence｜>",
            "<｜end▁of▁sentence｜>",
            "<｜▁pad▁｜>",
            "<｜User｜>",
            "<｜Assistant｜>",
            "<|EOT|>",
        ),
        *("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<｜tool▁sep｜>"),
        *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
        *("<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
        "｜DSML｜",
    ),
    "Phi-3, Zephyr, GLM": (
        *("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|observation|>", "<|developer|>", "<|dummy_85|>"),
        *("<|tool_call|>", "<|/tool_call|>", "<|/tool|>", "<|tool_response|>", "<sop>", "<eop>", "[gMASK]", "[sMASK]"),
        *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
        *("<|begin_of_audio|>", "<|end_of_audio|>", "<|begin_of_transcription|>", "<|end_of_transcription|>"),
        *("<|code_prefix|>", "<|code_middle|>", "<|code_suffix|>"),
        *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    ),
    "Granite, StarCoder": (
        *("<|start_of_role|>", "<|end_of_role|>", "<|start_of_cite|>", "<|end_of_cite|>"),
        *("<|start_of_plugin|>", "<|end_of_plugin|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"),
    ),
    "Kimi K2 and K3": (
        *("<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>"),
        *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
        *("<|tool_call_argument_begin|>", "<|media_begin|>", "<|media_content|>", "<|media_end|>", "<|media_pad|>"),
        *("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>", "<|kimi_image_placeholder|>"),
        *("[EOT]", "[start_header_id]", "[end_header_id]"),
    ),
    "Command R and A, Aya": (
        *("<BOS_TOKEN>", "<EOS_TOKEN>", "<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<EOP_TOKEN>"),
        *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>"),
        "<|CHATBOT_TOKEN|>",
        *(f"<|USER_{number}_TOKEN|>" for number in range(10)),
        *("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        *("<|START_ACTION|>", "<|END_ACTION|>", "<|START_TOOL_RESULT|>", "<|END_TOOL_RESULT|>"),
        *("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", "<|IMG_PATCH|>"),
    ),
    "MiniMax": (
        *("]~!b[", "]~b]", "[e~[", "]!d~[", "]!p~[", "]<]image[>[", "]<]video[>[", "]<]speech[>["),
        *(f"]<]{edge} of {kind}[>[" for edge in ("start", "end") for kind in ("image", "video", "speech")),
        *("<minimax:tool_call>", "</minimax:tool_call>", "<beginning_of_sentence>", "<end_of_sentence>"),
    ),
    "Hunyuan": (
        *(f"<|extra_{number}|>" for number in range(8)),
        *("<|bos|>", "<|eos|>", "<|pad|>"),
        *("<｜hy_begin▁of▁sentence｜>", "<｜hy_end▁of▁sentence｜>", "<｜hy_User｜>", "<｜hy_Assistant｜>"),
        *(f"<｜hy_place▁holder▁no▁{number}｜>" for number in range(20)),
    ),
    "Seed-OSS": (
        *("<seed:bos>", "<seed:eos>", "<seed:pad>", "<seed:think>", "</seed:think>", "<seed:tool_call>"),
        *("</seed:tool_call>", "<seed:cot_budget_reflect>", "</seed:cot_budget_reflect>"),
    ),
    "ERNIE, dots, OpenChat, SmolVLM, GigaChat, Megrez, Solar, Grok, Step, MiniCPM, Baichuan, OpenAssistant": (
        *("<|begin_of_sentence|>", "<|end_of_sentence|>", "<|IMAGE_START|>", "<|IMAGE_END|>"),
        *("<|userprompt|>", "<|endofuserprompt|>", "<|response|>", "<|endofresponse|>", "<|endofsystem|>"),
        *("<|end_of_turn|>", "<end_of_utterance>", "<|message_sep|>", "<|role_sep|>"),
        *("<|role_start|>", "<|role_end|>", "<|turn_start|>", "<|turn_end|>", "<|begin|>", "<|content|>"),
        *("<|separator|>", "<|BOT|>", "<用户>", "<|prompter|>", "<|prefix_begin|>", "<|prefix_end|>"),
        *(f"<reserved_{number}>" for number in range(102, 108)),
    ),
    "Nemotron": (
        *(f"<SPECIAL_{number}>" for number in range(32)),
        *(f"<extra_id_{number}>" for number in range(8)),
    ),
    "EXAONE": ("[|system|]", "[|user|]", "[|assistant|]", "[|tool|]", "[|endofturn|]", "<|endofturn|>"),
    "Apertus": (
        *("<|system_start|>", "<|system_end|>", "<|developer_start|>", "<|developer_end|>"),
        *("<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>"),
        *("<|inner_prefix|>", "<|inner_suffix|>", "<|tools_prefix|>", "<|tools_suffix|>"),
    ),
    "BERT's, that some servers add": ("[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "[BOS]", "[EOS]"),
}
"""The tokens by the families that have them."""

CONTROL_TOKENS: Final = tuple(dict.fromkeys(token for tokens in FAMILIES.values() for token in tokens))
"""The chat-control tokens that a value may not hold."""

_WORD: Final = re.compile(r"[<\[]/?[A-Za-z]+[>\]]|\[[A-Za-z_]+\]")
_ROLES: Final = frozenset({"[INST]", "[/INST]", "<think>", "</think>"})
WORDS: Final = frozenset(token for token in CONTROL_TOKENS if _WORD.fullmatch(token) and token not in _ROLES)
"""Tokens that are a word in brackets: in another case they are code (``x[mask]``) or markup, and stay."""
AS_WRITTEN: Final = frozenset({"｜DSML｜"})
"""Tokens that have no look-alikes: ``|DSML|`` is a cell of a table."""

LOOKALIKES: Final[Mapping[str, str]] = {
    "|": "\u2502\u2503\u2223\u01c0\u2758\uffe8\u23d0\u05c0",
    "<": "\u2039\u2329\u27e8\u3008\ufe64\u02c2\u276c\u276e\u1438",
    ">": "\u203a\u232a\u27e9\u3009\ufe65\u02c3\u276d\u276f\u1433",
    "[": "\u27e6\u3010\u301a\u2045\u3014",
    "]": "\u27e7\u3011\u301b\u2046\u3015",
    "/": "\u2044\u2215\u29f8",
    "_": "\u2581",
}
"""What a character of a token may be written as, with the fullwidth form that each has."""
