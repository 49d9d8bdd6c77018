"""Messages as JSON, a batch at a time, beside one `orjson.dumps` per row."""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfeatures.context import prompt_id
from llmfeatures.export import messages as module
from llmfeatures.export.messages import MessageTexts, message_texts
from llmfeatures.spanned import MESSAGES

texts = st.text(st.one_of(st.sampled_from('",\\\n\x00\x7f\u2028a'), st.characters(exclude_categories=["Cs"])))
message = st.builds(
    lambda role, content: {"role": role, "content": content}, st.sampled_from(["system", "user"]), texts
)
prompts = st.lists(message, min_size=1, max_size=3)


def column(rows: list[list[dict[str, str]]]) -> Any:
    return pa.array(rows, MESSAGES)


@given(st.lists(prompts), st.integers(0, 3))
def test_messages_are_what_orjson_makes_of_each(rows: list[list[dict[str, str]]], cut: int) -> None:
    made = message_texts(column([[]] * cut + rows).slice(cut))
    assert [b"[" + one + b"]" for one in made.to_pylist()] == [orjson.dumps(one) for one in rows]


@pytest.mark.parametrize("text", ['",', '","', '\\",', '",",', ",", '"', "\\", "\\u0000"])
def test_a_text_that_looks_like_the_end_of_one_is_not(text: str) -> None:
    rows = [[{"role": "user", "content": one}] for one in ("a", text, text, "b", "")]
    assert [b"[" + one + b"]" for one in message_texts(column(rows)).to_pylist()] == [orjson.dumps(r) for r in rows]


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=8), max_size=12), st.integers(1, 6))
def test_texts_of_earlier_batches_are_taken_again_and_forgotten(batches: list[list[int]], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_PROMPTS", most)
        made = MessageTexts()
        for numbers in batches:
            rows = [[{"role": "user", "content": f"number {one}"}] for one in numbers]
            ids = [prompt_id([(one["role"], one["content"]) for one in row]) for row in rows]
            batch = pa.record_batch([column(rows), pa.array(ids)], names=["messages", "prompt_id"])
            assert [b"[" + one + b"]" for one in made.of(batch).to_pylist()] == [orjson.dumps(row) for row in rows]
            assert len(made._places) == len(made._texts) <= max(most, 13)
