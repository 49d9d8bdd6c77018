"""The laws of escaping: nothing banned and no whole token is left, and a second time changes nothing."""

# ruff: noqa: RUF001

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfeatures.prompts.escape import CONTROL_TOKEN, CONTROL_TOKENS, escape, is_plain

BANNED = {
    *(chr(c) for c in range(0xA0) if (c < 0x20 or c >= 0x7F) and chr(c) not in "\t\n"),
    *"\u200b\u200e\u200f\ufeff",
    *(
        chr(c)
        for first, last in ((0x202A, 0x202E), (0x2060, 0x2069), (0xE0000, 0xE007F))
        for c in range(first, last + 1)
    ),
}
PIECES = st.sampled_from(
    [
        "<|",
        "|>",
        "im_start",
        "<",
        "[",
        "]",
        "INST",
        "/",
        "s",
        "<s",
        ">",
        "SYS",
        "\u200b",
        "\u200c",
        "\u200d",
        "\r",
        "\n",
        "\u2028",
        "é",
        "👩",
        "ک",
        " ",
        "\x00",
        "\x85",
        "\ud800",
        "\U000e0041",
        "<<SYS>>",
        "<|im_start|>",
        "<｜User｜>",
        "</",
    ]
)
HOSTILE = st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text(st.characters(), max_size=30))


@given(HOSTILE, st.booleans())
def test_nothing_banned_and_no_token_is_left(value: str, keep: bool):
    escaped = escape(value, keep_lines=keep)
    assert not BANNED & set(escaped)
    assert not any(token in escaped for token in CONTROL_TOKENS)
    assert not any(0xD800 <= ord(c) <= 0xDFFF for c in escaped)
    if not keep:
        assert not set("\n\u2028\u2029") & set(escaped)
    for at, one in enumerate(escaped):
        if one in "\u200c\u200d":
            assert 0 < at < len(escaped) - 1
            assert min(escaped[at - 1], escaped[at + 1]) > "\x7f"
    assert escape(escaped, keep_lines=keep) == escaped


@given(HOSTILE)
def test_the_fast_way_agrees_with_the_slow_one(value: str):
    if is_plain(value):
        assert escape(value, keep_lines=False) is value
        assert escape(value + "\n", keep_lines=True) == value + "\n"


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_each_token_is_defused(token: str):
    assert CONTROL_TOKEN.fullmatch(token)
    assert escape(f"a{token}b", keep_lines=True) == f"a{token[0]} {token[1:]}b"
    assert escape(f"{token[:2]}\u200b{token[2:]}", keep_lines=True) == f"{token[0]} {token[1:]}"


@pytest.mark.parametrize(
    "kept",
    [
        "<|", "a <| b", "<b>bold</b>", "x < y", "[1, 2]", "<|not a token|>", "a\tb", "{{ x }}{% raw %}",
        "می‌خواهم", "क्‍ष", "👨‍👩‍👧‍👦", "❤️‍🔥", "é́", "ﬁ",
    ],
)  # fmt: skip
def test_what_stays(kept: str):
    assert escape(kept, keep_lines=False) == kept


def test_lines():
    assert escape("a\r\nb\rc\n\n\u2028d", keep_lines=False) == "a b c d"
    assert escape("a\r\nb\rc\u2028", keep_lines=True) == "a\nb\nc\u2028"
    assert escape("a\u200cb \u200d é\u200d\u200dé", keep_lines=True) == "ab  éé"
    assert escape("\udc00", keep_lines=True) == "\ufffd"


@pytest.mark.parametrize("unit", ["<", "<|", "[", "<|im_star", "\u200d", "é\u200d", "\n", "<｜"])
def test_a_megabyte_is_quick(unit: str):
    began = time.perf_counter()
    escape(unit * (1_000_000 // len(unit)), keep_lines=False)
    assert time.perf_counter() - began < 2
