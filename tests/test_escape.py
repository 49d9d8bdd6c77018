"""The laws of escaping: nothing banned, no whole token and no look-alike is left, and a second time changes nothing."""

# ruff: noqa: RUF001

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfeatures.prompts.control_tokens import AS_WRITTEN, FAMILIES, LOOKALIKES, WORDS
from llmfeatures.prompts.escape import CONTROL_TOKENS, OPENER, control_spans, escape, has_control_token, is_plain

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
        "＜",
        "｜",
        "＞",
        "│",
        "IM_START",
        "Inst",
        "\u00ad",
        "\ufe0f",
        "]~",
        "b]",
        "]~!b[",
        "[e~[",
        "｜DSML｜",
        "【",
        "】",
    ]
)
HOSTILE = st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text(st.characters(), max_size=30))


@given(HOSTILE, st.booleans())
def test_nothing_banned_and_no_token_is_left(value: str, keep: bool):
    escaped = escape(value, keep_lines=keep)
    assert not BANNED & set(escaped)
    assert not has_control_token(escaped)
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


def test_each_token_is_defused():
    for token in CONTROL_TOKENS:
        assert control_spans(token) == [(0, len(token))]
        assert escape(f"a{token}b", keep_lines=True) == f"a{token[0]} {token[1:]}b"
        assert escape(f"{token[:2]}\u200b{token[2:]}", keep_lines=True) == f"{token[0]} {token[1:]}"
        for at in (1, 2, len(token) - 1):
            assert has_control_token(f"é{token[:at]}\u00ad{token[at:]}") == (token not in AS_WRITTEN), token
            assert not has_control_token(f"{token[:at]} {token[at:]}"), token


def fullwidth(token: str) -> str:
    """The token in fullwidth forms."""
    return "".join(chr(0xFEE0 + ord(one)) if "!" <= one <= "~" else one for one in token)


def look_alikes(token: str) -> list[str]:
    """Other spellings of a token that count as it."""
    forms = [fullwidth(token)]
    for character, others in LOOKALIKES.items():
        forms += [token.replace(character, other) for other in others if character in token]
    forms += [token.replace("｜", "|"), token.replace("▁", "_"), token.replace("|", "｜")]
    if token not in WORDS:
        forms += [token.upper(), token.lower(), token.title(), fullwidth(token.swapcase())]
    return forms


def test_each_look_alike_is_defused():
    for token in CONTROL_TOKENS:
        for form in look_alikes(token) if token not in AS_WRITTEN else ():
            assert control_spans(form)[0][0] == 0, form
            assert escape(form, keep_lines=True) == f"{form[0]} {form[1:]}"


def test_a_word_in_another_case_is_no_token():
    for word in WORDS:
        if (other := word.swapcase()) not in CONTROL_TOKENS:
            assert escape(other, keep_lines=True) == other


def test_the_list_is_closed_and_sorted_out():
    assert len(CONTROL_TOKENS) == len(set(CONTROL_TOKENS)) == 678
    assert {token for tokens in FAMILIES.values() for token in tokens} == set(CONTROL_TOKENS)
    assert not WORDS & AS_WRITTEN
    assert not any(
        escape(token, keep_lines=True) != token.replace(token[0], token[0] + " ", 1) for token in CONTROL_TOKENS
    )


@given(st.text(st.sampled_from("<[]~＜［］～｜DSML│e!b\u00ad ")))
def test_what_finds_an_opener_agrees_with_arrow(value: str):
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.match_substring_regex(pa.array([value]), OPENER)[0].as_py()
    assert found or not has_control_token(value)
    assert found == bool(re.search(OPENER, value))


def test_tokens_that_share_a_character_are_both_defused():
    assert escape("]~!b[INST]", keep_lines=True) == "] ~!b[ INST]"
    assert escape("<<|im_start|>|im_start|>", keep_lines=True) == "<< |im_start|>|im_start|>"
    assert escape("<s><s></s>", keep_lines=True) == "< s>< s>< /s>"


@pytest.mark.parametrize(
    "kept",
    [
        "<|", "a <| b", "<b>bold</b>", "x < y", "[1, 2]", "<|not a token|>", "a\tb", "{{ x }}{% raw %}",
        "x[mask]", "argv[args]", "messages[system_prompt]", "Box<S>", "List<Pad>", "[img]a[/img]", "| a | b |",
        "|DSML|", "<role>admin</role>", "<image>", "「【第一章】」", "（｜）", "＜b＞", "a]~b", "~b]", "Human: hi",
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


@pytest.mark.timeout(60)  # quadratic work would take hours
@pytest.mark.parametrize(
    "unit", ["<", "<|", "[", "<|im_star", "\u200d", "é\u200d", "\n", "<｜", "＜", "<\u00ad", "］~"]
)
def test_a_megabyte_takes_no_forever(unit: str):
    escape(unit * (1_000_000 // len(unit)), keep_lines=False)
