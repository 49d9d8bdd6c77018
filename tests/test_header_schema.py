"""The header's JSON Schema: it takes every header that the reader takes, and no other shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jsonschema_rs
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures.prompts.file import header_errors
from llmfeatures.prompts.schema import header_schema, schema_text

VALIDATOR = jsonschema_rs.Draft202012Validator(header_schema())
NAMES = st.sampled_from(["a", "watch_count_30d", "Ab1", "user.status", "as_of", "2nd", "for", "none", "x y", "ä"])
TEXTS = st.sampled_from(["", "x", "Hello: you", "{{ question }}", "no", "12:30", "none", "- a", "# b", "7d"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 5) | st.floats(0.5, 9.5) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
DTYPES = [
    "str",
    "int",
    "float",
    "bool",
    "timestamp",
    "date",
    "json",
    "decimal(10,2)",
    "enum[a,b]",
    " list[ str ] ",
    "str ",
]
NO_DTYPES = ["string", "list", "list[json]", "list[list[str]]", "enum[]", "enum", "decimal(10)", "Str", ""]


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 11).flatmap(lambda n: bad if n == 0 else good)


def options(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return mostly(
        st.fixed_dictionaries({}, optional=fields),
        st.fixed_dictionaries({}, optional={**fields, "unknown": ANYTHING}),
    )


COUNT = mostly(st.integers(1, 9), ANYTHING.filter(lambda one: not isinstance(one, float)))
DURATION = mostly(
    st.sampled_from(["7d", "1.5 h", "90s", " 3 ms"]), st.sampled_from(["7", "0d", "0.0h", "d", "7w", 7, None])
)
DTYPE = mostly(st.sampled_from(DTYPES), st.sampled_from(NO_DTYPES) | st.none() | st.integers())
NAMED = mostly(st.sampled_from(["a", "watch_count_30d", "Ab1"]), NAMES)
POLICY = options(
    default=ANYTHING,
    on_missing=mostly(st.sampled_from(["none", "error"]), ANYTHING),
    on_unavailable=mostly(st.just("error"), ANYTHING),
    max_age=DURATION,
)
# whether a default fits its dtype is nothing that a schema says
INPUT = DTYPE | options(type=DTYPE, max_chars=COUNT, default=st.none())
DOCUMENT = options(
    retriever=mostly(TEXTS, ANYTHING),
    entity=mostly(TEXTS, ANYTHING),
    filter=mostly(st.dictionaries(TEXTS, ANYTHING, max_size=2), ANYTHING),
    query=mostly(TEXTS, ANYTHING),
    top_k=COUNT,
    order=mostly(st.sampled_from(["score", "recent"]), ANYTHING),
    min_score=mostly(st.floats(0.5, 9.5) | st.integers(0, 3), ANYTHING),
    max_tokens=COUNT,
    on_unavailable=mostly(st.sampled_from(["error", "none"]), ANYTHING),
)
SECTION = st.none()
HEADERS = options(
    description=mostly(TEXTS | st.none(), ANYTHING),
    owner=mostly(TEXTS | st.none(), ANYTHING),
    entities=mostly(st.dictionaries(NAMED, mostly(TEXTS, ANYTHING), max_size=2) | SECTION, ANYTHING),
    features=mostly(st.dictionaries(NAMES, mostly(POLICY, ANYTHING), max_size=2) | SECTION, ANYTHING),
    inputs=mostly(st.dictionaries(NAMED, mostly(INPUT, ANYTHING), max_size=2) | SECTION, ANYTHING),
    documents=mostly(st.dictionaries(NAMED, mostly(DOCUMENT, ANYTHING), max_size=2) | SECTION, ANYTHING),
    budget=mostly(
        options(max_tokens=COUNT, tokenizer=mostly(st.sampled_from(["o200k_base", "cl100k_base"]), ANYTHING)) | SECTION,
        ANYTHING,
    ),
    config=mostly(st.dictionaries(TEXTS, ANYTHING, max_size=2) | SECTION, ANYTHING),
)


@given(HEADERS)
@settings(max_examples=300)
def test_reader_and_schema_agree(header: Mapping[str, Any]) -> None:
    written = yaml.safe_dump(header, allow_unicode=True)
    said = [error.message for error in header_errors(f"---\n{written}\n---\n", path="p")]
    assert VALIDATOR.is_valid(header) == (not said), (written, said)


def test_the_published_schema_is_the_generated_one() -> None:
    published = resources.files("llmfeatures.prompts").joinpath("header.schema.json").read_text("utf-8")
    assert published == schema_text(), (
        "write it anew: python -c 'from llmfeatures.prompts.schema import schema_text; print(schema_text(), end=\"\")' "
        "> llmfeatures/prompts/header.schema.json"
    )
    jsonschema_rs.Draft202012Validator(json.loads(published))
    assert jsonschema_rs.meta.is_valid(json.loads(published))
