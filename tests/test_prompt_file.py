"""Headers of prompt files: every key, every mistake, each at its place."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures.errors import PromptError
from llmfeatures.prompts.file import ABSENT, Budget, Header, HeaderError, header_errors, parse_prompt


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
        ("inputs: {q: {type: list[str]}}", 2, 'put it in quotes: "list\\[str\\]"'),
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
        ("documents: {s: {query: q}}", 2, "needs a retriever"),
        ("documents: {s: {retriever: r, order: score}}", 2, "give a query"),
        ("documents: {s: {retriever: r, query: q, order: recent}}", 2, "give a query"),
        ("documents: {s: {retriever: r, query: 5}}", 2, "query is text"),
        ("documents: {s: {retriever: r, query: q, min_score: high}}", 2, "min_score is a number"),
        ("documents: {s: {retriever: r, min_score: 0.5}}", 2, "min_score goes with a query"),
        ("documents: {s: {retriever: r, query: q, top_k: 0}}", 2, "top_k is a whole number from 1"),
        ("documents: {s: {retriever: r, k: 3}}", 2, "unknown key 'k'"),
        ("budget: {max_tokens: 3}", 2, "needs a tokenizer"),
        ("budget: {}", 2, "needs max_tokens"),
        ("budget: {max_tokens: true, tokenizer: o200k_base}", 2, "whole number from 1"),
        ("budget: {max_tokens: 5, tokenizer: gpt4}", 2, "tokenizer: is o200k_base or cl100k_base"),
        ("entities: {buyer: [user]}", 2, "is the name of an entity"),
        ("entities: {2nd: user}", 2, "is no identifier"),
        # what YAML 1.1 makes of words
        ("inputs: {q: {type: enum[a,b]}}", 2, 'put it in quotes: "enum\\[a,b\\]"'),
        ("inputs: {q: {type: decimal(10,2)}}", 2, 'write it in quotes: "decimal\\(10,2\\)"'),
        ("inputs: {q: {type: str, default: no}}", 2, 'YAML reads no as the truth value false; for text write "no"'),
        ("inputs: {q: {type: str, default: Off}}", 2, "YAML reads Off as the truth value false"),
        ("inputs: {q: {type: str, default: 1_000}}", 2, "YAML reads 1_000 as the number 1000"),
        ("inputs: {q: {type: str, default: 2026-05-07}}", 2, "YAML reads 2026-05-07 as a date; for text write"),
        ("inputs: {q: {type: float, default: 1e3}}", 2, "YAML reads 1e3 as text; write 1000.0 for the number"),
        ("inputs: {q: {type: int, default: 0o17}}", 2, "YAML reads 0o17 as text; write 15 for the number"),
        ("inputs: {q: {type: int, default: 017}}", 2, 'as octal digits, the number 15; write "017" for text, or 15'),
        ("inputs: {q: {type: int, default: 12:30}}", 2, 'as minutes and seconds, the number 750; write "12:30"'),
        ("features: {a: {default: 1:30:00}}", 2, "as minutes and seconds, the number 5400"),
        ("inputs: {q: {type: [str]}}", 2, 'a type is text, like "list\\[str\\]"'),
        ("inputs: {on: str}", 2, "YAML reads the name on as the truth value true; put it in quotes"),
        ("inputs: {1e3: str, 5: str}", 2, "is no identifier|YAML reads the name 5"),
        ("features: {a: {on_missing: no}}", 2, "YAML reads no as the truth value false"),
        ("description: no", 2, "YAML reads no as the truth value false"),
        ("documents:\n  s:\n    retriever: r\n    query: {{ question }}", 5, 'in quotes: "{{ question }}"'),
        ("description: Hello: you", 2, "a colon and a space in it needs quotes"),
        ("description: @home", 2, "begins with such a character in quotes"),
        ("description: *home", 2, "begins with such a character in quotes"),
        ("features:\n\ta: {default: 1}", 3, "a tab cannot indent in YAML, use spaces"),
        ("features: {a: {default: 1}, a: {default: 2}}", 2, "'a' is given twice"),
        ("config: {a: [{b: 1, b: 2}]}", 2, "'b' is given twice"),
        ("config: &a {b: *a}", 2, "in a circle|nests too deeply|too many parts"),
    ],
)
def test_mistakes_are_named_at_their_place(header: str, line: int, message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        parse_prompt(f"---\n{header}\n---\nbody", name="p", path="prompts/p.prompt.j2")
    assert caught.value.path == "prompts/p.prompt.j2"
    assert caught.value.line == line


def test_documents_and_budgets() -> None:
    file = parse_prompt(
        "---\ndocuments:\n  news: {retriever: r, query: '{{ q }}', top_k: 3, min_score: 1, max_tokens: 90}\n"
        "  last: {retriever: r, on_unavailable: none}\nbudget: {max_tokens: 300, tokenizer: o200k_base}\n---\n",
        name="p",
        path="p",
    )
    news, last = file.header.documents["news"], file.header.documents["last"]
    assert (news.query, news.top_k, news.order, news.min_score, news.max_tokens) == ("{{ q }}", 3, "score", 1.0, 90)
    assert (last.query, last.top_k, last.order, last.min_score, last.on_unavailable) == (
        None,
        5,
        "recent",
        None,
        "none",
    )
    assert file.header.budget == Budget(max_tokens=300, tokenizer="o200k_base")


def test_empty_sections_are_absent_ones() -> None:
    keys = ("description", "owner", "entities", "features", "inputs", "documents", "budget", "config")
    assert parse_prompt("---\n" + "".join(f"{key}:\n" for key in keys) + "---\n", name="p", path="p").header == Header()


@pytest.mark.parametrize("before", ["\n", "# comment\n", "\n\n"])
def test_a_header_below_the_first_line_is_not_printed(before: str) -> None:
    with pytest.raises(PromptError, match="a header begins on line 1"):
        parse_prompt(f"{before}---\nfeatures: {{}}\n---\nHi", name="p", path="p")


def test_a_header_without_an_end_is_named() -> None:
    with pytest.raises(PromptError, match="has no end"):
        parse_prompt("---\na: 1\n", name="p", path="p")


def test_all_mistakes_of_a_header_are_told_at_once() -> None:
    source = (
        "---\nownr: me\nfeatures:\n  a: {default: 1, on_missing: none}\n  b: {default: 1, maxage: 3d}\n"
        "inputs:\n  q: {type: integer}\n  as_of: str\nbudget: {max_tokens: 1}\n---\n"
    )
    errors = header_errors(source, path="p")
    assert [error.line for error in errors] == [2, 4, 5, 7, 8, 9]
    with pytest.raises(PromptError, match="'ownr'"):
        parse_prompt(source, name="p", path="p")
    assert header_errors("---\nowner: me\n---\n", path="p") == ()
    assert str(header_errors("---\na: 1\n", path="p")[0]).startswith("p:1: the header has no end")


def test_places_are_those_of_the_values() -> None:
    (wrong,) = header_errors("---\ninputs:\n  q: {type: str, default: no}\n---\n", path="p")
    assert isinstance(wrong, HeaderError)
    assert (wrong.line, wrong.column, wrong.end_line, wrong.end_column) == (3, 27, 3, 29)
    file = parse_prompt("---\nfeatures:\n  ä: {default: no}\n---\n", name="p", path="p")
    assert file.values["features", "ä", "default"] == (3, 16, 3, 18)
    assert file.positions["features", "ä", "default"] == (3, 7)
    error = file.error("wrong" + file.reading("features", "ä", "default"), "features", "ä", "default")
    assert str(error) == 'p:3:16: wrong; YAML reads no as the truth value false; for text write "no"'


def test_a_large_header_is_refused_in_time() -> None:
    bomb = "a: &a0 {x: 1}\n" + "".join(f"b{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}\n" for n in range(1, 40))
    (wrong,) = header_errors(f"---\nconfig:\n  {bomb.strip().replace(chr(10), chr(10) + '  ')}\n---\n", path="p")
    assert "too many parts" in wrong.message


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
@settings(max_examples=100)
def test_any_text_is_a_header_or_a_clear_mistake(text: str) -> None:
    for error in header_errors(f"---\n{text}\n---\n", path="p"):
        assert error.message


def test_a_block_of_text_in_the_header_has_a_place() -> None:
    text = (
        "---\ndescription: |\n  two\n  lines\ndocuments:\n  d:\n    retriever: r\n    query: |-\n      {{ a }}\n---\nx"
    )
    file = parse_prompt(text, name="p", path="p")
    assert (file.header.description, file.header.documents["d"].query) == ("two\nlines\n", "{{ a }}")
    assert file.values["documents", "d", "query"][:2] == (8, 12)
