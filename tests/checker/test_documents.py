"""Documents in the header: what compiling refuses of retrievers, queries and filters, the checker reports."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures.compile import compile_plan
from llmfeatures.errors import PromptError
from llmfeatures.prompts.file import parse_prompt

from .engine_cases import HERE, check, environment, names, read, registry

PROMPTS = [
    (kind, (HERE / kind / f"{name}.prompt.j2").read_text(encoding="utf-8"))
    for kind in ("faulty", "correct")
    for name in names(kind)
    if "documents" in name or name.startswith(("document_", "query_"))
]
PIECES = [
    *("{{ question }}", "{{ last_genre }}", "{{ nme }}", "{{ question|upper }}", "{{ question|x }}", "{{ as_of }}"),
    *("{% if question %}a{% endif %}", "{{ found }}", "{{ found[0].text }}", "{% set a = 1 %}{{ a }}"),
    *("{{ user }}", "{{ title.year }}", "{{ user_id }}", "{{ question|clip_tokens(3) }}", "{{ question.x }}", "{{"),
    *("{% include '_shared/card.j2' %}", "{% message 'user' %}x{% endmessage %}", "{% data %}x{% enddata %}", "a"),
    *("{% cache_break %}", "{% section 'a' %}x{% endsection %}", "{% conversation %}", "{{ titles_that_fit }}"),
    *("{% macro m(a, a) %}{% endmacro %}", "{% break %}", "{{ this_year }}", "{% extends '_shared/base.j2' %}"),
    *("{{ status }}", "{% include '_shared/asking.j2' %}", "{{ user.bio }}", "}}"),
]  # fmt: skip
VALUES = [
    *("1", "en", "true", "x{{ question }}", "{{ question }}", "{{ status }}", "{{ nme }}", "{{ user.plan }}"),
    *("{{ found }}", "{{ as_of }}", "{{ title_id }}", "{{ user }}", "{{ this_year }}"),
]
METADATA = ["language", "stars", "title_id", "topic", "tags", "lang", "written", "headline"]
ENVIRONMENTS = {kind: environment(kind) for kind in ("faulty", "correct")}


def changed(text: str, chance: random.Random) -> str:
    """A prompt with another query, other retrievers and filters."""
    query = " ".join(chance.choice(PIECES) for _ in range(chance.choice((1, 1, 2, 3)))).replace("'", "''")
    text = re.sub(r'query: "[^"]*"', lambda _: f"query: '{query}'", text, count=1)
    own = f', filter: {{{chance.choice(METADATA)}: "{chance.choice(VALUES)}"}}' if "filter" not in text else ""

    def other(found: re.Match[str]) -> str:
        name = chance.choice([found[2], found[2], "reviews", "notes", "help_pages", "plots", "nope"])
        return f"{found[1]}retriever: {name}{own if found[1] and chance.random() < 0.5 else ''}"

    return re.sub(r"(\{?)retriever: (\w+)", other, text)


def _law(seed: int) -> None:
    chance = random.Random(seed)
    kind, text = chance.choice(PROMPTS)
    try:
        file = parse_prompt(changed(text, chance), name="example", path="example.prompt.j2")
    except PromptError:
        return
    report = check(file, ENVIRONMENTS[kind])
    assert not any("the checker failed" in one.message for one in report.findings), report.findings
    refused = ""
    try:
        compile_plan(registry, file, ENVIRONMENTS[kind])
    except PromptError as error:
        refused = str(error)
    assert not refused or any(one.severity == "error" for one in report.findings), f"{refused}\n{text}"


@given(st.integers(0, 2**32))
@settings(max_examples=60)
def test_what_compiling_refuses_of_documents_the_checker_reports(seed: int) -> None:
    _law(seed)


@pytest.mark.heavy
@given(st.integers(0, 2**32))
@settings(max_examples=3000)
def test_what_compiling_refuses_of_documents_the_checker_reports_often(seed: int) -> None:
    _law(seed)


def test_a_report_names_retrievers_and_the_features_that_documents_bring() -> None:
    report = check(read("correct", "documents_that_bring"), ENVIRONMENTS["correct"])
    assert report.retrievers == {"reviews"}
    assert report.features == {"title.name", "title.year", "title.score", "title.kind"}
    asked = check(read("correct", "documents_by_features"), ENVIRONMENTS["correct"])
    assert asked.retrievers == {"reviews", "help_pages"}
    assert asked.features == {"user.last_genre", "user.user_segment"}
    assert asked.inputs_read == {"question", "language", "topic"}


def test_a_misspelt_name_in_a_query_is_mended_in_its_place() -> None:
    documents = "documents:\n  found: {retriever: reviews, query: 'of {{ questoin }}'}"
    text = f"---\ninputs: {{question: str}}\n{documents}\n---\n{{{{ found }}}}"
    (found,) = check(parse_prompt(text, name="x", path="x"), ENVIRONMENTS["correct"]).findings[:1]
    (edit,) = found.edits
    line = text.split("\n")[3]
    assert (edit.line, line[edit.column - 1 : edit.end_column - 1], edit.text) == (4, "questoin", "question")
    unplaced = text.replace("'of {{ questoin }}'", '"of\\t{{ questoin }}"')
    (found,) = check(parse_prompt(unplaced, name="x", path="x"), ENVIRONMENTS["correct"]).findings[:1]
    assert (found.code, found.line, found.column, found.edits) == ("LF010", 4, line.index("'") + 1, ())


def test_an_attribute_of_several_documents_says_how_to_read_it() -> None:
    text = "---\ndocuments: {found: {retriever: notes}}\n---\n{{ found.text }}"
    (one,) = check(parse_prompt(text, name="x", path="x"), ENVIRONMENTS["correct"]).findings
    assert (one.code, one.column) == ("LF016", 10)
    assert one.help == "these are several documents: write {% for d in found %}{{ d.text }}{% endfor %}"
