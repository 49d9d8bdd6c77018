"""Headers of prompt files: every key, every mistake, each at its place."""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmfeatures.errors import NotAvailableYetError, PromptError
from llmfeatures.prompts.file import ABSENT, parse_prompt


def test_a_file_without_a_header_is_all_body() -> None:
    file = parse_prompt("Hello\n---\n", name="p", path="p")
    assert (file.body, file.body_line) == ("Hello\n---\n", 0)


def test_a_whole_header() -> None:
    file = parse_prompt(
        "---\r\ndescription: d\r\nfeatures:\r\n  a: {default: no thanks}\r\n  b: {on_missing: none, max_age: 7d}\r\n"
        "  c: {default: 'none', on_unavailable: error}\r\nentities: {buyer: user}\r\n"
        "inputs:\r\n  question: {type: str, max_chars: 500}\r\n  n: {type: int, default: 3}\r\n  t: float\r\n"
        "config: {model: x}\r\n---\r\nbody\r\n",
        name="p",
        path="p",
    )
    header = file.header
    assert header.features["a"].default == "no thanks"
    assert header.features["b"].max_age == timedelta(days=7)
    assert header.features["b"].default is ABSENT
    assert header.features["c"].default == "none"
    assert header.inputs["question"].max_chars == 500
    assert header.inputs["n"].default == 3
    assert str(header.inputs["t"].dtype) == "float"
    assert header.config == {"model": "x"}
    assert (file.body, file.body_line) == ("body\n", 13)


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ("a: 1", 2, "unknown key 'a'"),
        ("config: {}\nfeature: {}", 3, "did you mean 'features'"),
        ("features: {a: {default: none}}", 2, "on_missing: none"),
        ("features: {a: {default: null}}", 2, "on_missing: none"),
        ("features:\n  a: {default: }", 3, "on_missing: none"),
        ("features: {a: {default: 1, on_missing: none}}", 2, "not both"),
        ("features: {a: {on_missing: null}}", 2, "write the word none"),
        ("features: {a: {on_missing: skip}}", 2, "is none or error"),
        ("features: {a: {on_unavailable: default}}", 2, "on_unavailable: is error"),
        ("features: {a: {max_age: 7}}", 2, "is no duration"),
        ("features: {a: {max_age: 0d}}", 2, "longer than zero"),
        ("features: [a]", 2, "is a mapping of names"),
        ("features: {a: 3}", 2, "is a mapping, like"),
        ("inputs: {q: {type: list[str]}}", 2, "quote text with brackets"),
        ("inputs: {q: {type: integer}}", 2, "the dtypes are"),
        ("inputs: {q: {max_chars: 3}}", 2, "needs a type"),
        ("inputs: {q: {type: int, max_chars: 3}}", 2, "goes with type str"),
        ("inputs: {q: {type: str, max_chars: 0}}", 2, "whole number from 1"),
        ("inputs: {q: {type: str, default: no}}", 2, "a bool is no str"),
        ("inputs: {as_of: {type: str}}", 2, "an option of build_context"),
        ("inputs: {yes: {type: str}}", 2, "put it in quotes"),
        ("description: [a]", 2, "is text"),
        ("description: a\ndescription: b", 3, "given twice"),
        ("features: {a: {default: Null}}", 2, "on_missing: none"),
        ('features: {a: {default: !!null ""}}', 2, "on_missing: none"),
        ("inputs: {q: {type: str, max_chars: 2, default: abc}}", 2, "longer than max_chars"),
        ("config: {a: !!binary aGk=}", 2, "config"),
        ("- a", 2, "a header has keys"),
        ("a: [", 2, "no YAML"),
    ],
)
def test_mistakes_are_named_at_their_place(header: str, line: int, message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        parse_prompt(f"---\n{header}\n---\nbody", name="p", path="prompts/p.prompt.j2")
    assert caught.value.path == "prompts/p.prompt.j2"
    assert caught.value.line == line


@pytest.mark.parametrize("header", ["documents: {s: {retriever: r}}", "budget: {max_tokens: 3}"])
def test_later_parts_are_known_and_not_available_yet(header: str) -> None:
    with pytest.raises(NotAvailableYetError, match="not available yet"):
        parse_prompt(f"---\n{header}\n---\nbody", name="p", path="p")


@pytest.mark.parametrize("before", ["\n", "# comment\n", "\n\n"])
def test_a_header_below_the_first_line_is_not_printed(before: str) -> None:
    with pytest.raises(PromptError, match="a header begins on line 1"):
        parse_prompt(f"{before}---\nfeatures: {{}}\n---\nHi", name="p", path="p")


def test_a_header_without_an_end_is_named() -> None:
    with pytest.raises(PromptError, match="has no end"):
        parse_prompt("---\na: 1\n", name="p", path="p")
