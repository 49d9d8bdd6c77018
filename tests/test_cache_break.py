"""Cache breaks: where they stand, blocks that join to the content, and what OpenAI's and Anthropic's clients take."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from llmfeatures import PromptContext
from llmfeatures.blocks import CacheBreak, in_blocks, placed
from llmfeatures.errors import PromptError, RequestError
from llmfeatures.prompts.compiling import compile_prompt
from llmfeatures.prompts.environment import make_environment
from llmfeatures.prompts.finish import rendered
from llmfeatures.tokens import tokenizer
from llmfeatures.usual import usual_of
from tests.projects import DEFAULT_PROMPT, at
from tests.test_budget import HOSTILE, project

PARTIALS = {
    "intro.j2": "You help.\n{% cache_break %}\n",
    "deep.j2": "{% include '_shared/intro.j2' %}",
    "base.j2": "Top\n{% if x %}{% block b %}{% endblock %}{% endif %}{% block c %}{% endblock %}",
}
EVERYWHERE = """\
{% message "system" %}
{% cache_break %}
{{ a }} one
{% cache_break %}
two {{ b }}

{% cache_break %}
{% endmessage %}
{% message "user" %}{% cache_break %}{{ a }}{% endmessage %}
{% message "assistant" %}{{ b }}{% endmessage %}
"""


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("prompts")
    (root / "_shared").mkdir()
    for name, source in PARTIALS.items():
        (root / "_shared" / name).write_text(source)
    env = make_environment(root)
    return lambda body: compile_prompt(env, body, name="p", path="p.prompt.j2", line_offset=0)


@settings(max_examples=50, deadline=None)
@given(a=HOSTILE, b=HOSTILE)
def test_blocks_join_to_the_content(make, a: str, b: str):
    template = make(EVERYWHERE)
    made = rendered(template, {"a": a, "b": b}, None)
    assert made.messages == template.render({"a": a, "b": b})
    messages = [{"role": role, "content": content} for role, content in made.messages]
    for message, blocks in zip(messages, in_blocks(messages, made.cache_breaks), strict=True):
        assert "".join(block["text"] for block in blocks["blocks"]) == message["content"]
        assert len(blocks["blocks"]) == 1 or all(block["text"].strip() for block in blocks["blocks"])
    assert sum(block["cache"] for one in in_blocks(messages, made.cache_breaks) for block in one["blocks"]) == len(
        made.cache_breaks
    )
    assert made.cache_breaks


@given(
    contents=st.lists(st.sampled_from(["", "ab", "a\n\nb", "abc d"]), min_size=1, max_size=4),
    raw=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=4),
)
def test_breaks_that_are_placed(contents: list[str], raw: list[tuple[int, int]]):
    breaks = sorted(
        {CacheBreak(number, min(offset, len(contents[number]))) for number, offset in raw if number < len(contents)}
    )
    made = placed(contents, breaks)
    assert set(made) >= {one for one in breaks if contents[one.message][: one.offset].strip()} - set(breaks) or made
    for one, two in pairwise(made):
        assert one < two
        if one.message == two.message:
            assert contents[one.message][one.offset : two.offset].strip()
    for one in made:
        assert contents[one.message][: one.offset].strip()
    assert placed(contents, made) == made


def test_a_break_at_the_beginning_of_a_message_ends_the_one_before():
    assert placed(["abc", "", "def"], [CacheBreak(0, 0), CacheBreak(2, 0)]) == (CacheBreak(0, 3),)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "a\n{% if x %}{% cache_break %}{% endif %}",
            "2:14: {% cache_break %} stands directly in a message, not inside a branch",
        ),
        ("{% for i in x %}{% cache_break %}{% endfor %}", "not inside a loop"),
        ("{% for i in x %}{% message 'user' %}{% cache_break %}{% endmessage %}{% endfor %}", "not inside a loop"),
        ("{% data %}{% cache_break %}{% enddata %}", "not inside a data block"),
        ("{% section 's' %}{% cache_break %}{% endsection %}", "not inside a section"),
        ("{% macro m() %}{% cache_break %}{% endmacro %}", "not inside a macro"),
        ("{% set x %}{% cache_break %}{% endset %}", "not inside a set block"),
        ("{% message 'system' %}a{% endmessage %}{% cache_break %}", "at the end of the message before it"),
        ("{% if x %}{% include '_shared/deep.j2' %}{% endif %}", "1:14: _shared/intro.j2: .*not inside a branch"),
        ("a{% cache_break %}" * 5, "at most 4 cache breaks"),
        ("a{% include '_shared/intro.j2' %}" * 5, "at most 4 cache breaks"),
        ("{% extends '_shared/base.j2' %}{% block b %}{% cache_break %}{% endblock %}", "not inside a branch"),
    ],
)
def test_breaks_that_cannot_be(make, body: str, said: str):
    with pytest.raises(PromptError, match=said.replace("{", r"\{")):
        make(body)


@pytest.mark.parametrize(
    "body",
    [
        "a{% cache_break %}" * 4,
        "{% if x %}{% message 'system' %}a{% cache_break %}{% endmessage %}{% endif %}",
        "{% with y = 1 %}a{% cache_break %}{{ y }}{% endwith %}",
        "{% include '_shared/deep.j2' %}{{ x }}",
        "{% extends '_shared/base.j2' %}{% block c %}{% cache_break %}{% endblock %}",
    ],
)
def test_breaks_that_can_be(make, body: str):
    made = rendered(make(body), {"x": True}, None)
    assert 1 <= len(made.cache_breaks) <= 4


PROMPT = """---
features:
  segment: {default: unknown}
BUDGET---
{% message "developer" %}
You answer questions about a streaming service.
{% cache_break %}
Viewer: {{ segment }}.
{% endmessage %}
{% message "user" %}
An example: {{ segment }}{% cache_break %}
{% endmessage %}
{% message "assistant" %}Yes.{% cache_break %}{% endmessage %}
"""


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[PromptContext, PromptContext]:
    """The prompt without and with a budget."""
    made = project(
        tmp_path_factory.mktemp("breaks"),
        p=PROMPT.replace("BUDGET", ""),
        b=PROMPT.replace("BUDGET", "budget: {max_tokens: 900, tokenizer: o200k_base}\n"),
    )
    made.materialize()
    builder = made.builder()
    return builder.build_context("p", user_id="u1"), builder.build_context("b", user_id="u1")


def test_the_prefix(contexts):
    without, budgeted = contexts
    before = [[one["role"], one["content"]] for one in without.messages]
    expected = sha256(json.dumps(before, separators=(",", ":")).encode()).hexdigest()
    for context in contexts:
        assert context.manifest.cache_breaks == (CacheBreak(0, 48), CacheBreak(1, 18), CacheBreak(2, 4))
        assert context.prefix is not None
        assert context.prefix.characters == sum(len(content) for _, content in before)
        assert context.prefix.sha256 == expected
        assert PromptContext.model_validate_json(context.model_dump_json()) == context
    assert without.prefix.estimated
    assert without.tokens is None
    assert not budgeted.prefix.estimated
    assert budgeted.prefix.tokens == budgeted.tokens
    counter = tokenizer("o200k_base")
    assert budgeted.tokens == sum(counter.count(content) for _, content in before)


def test_openai(contexts):
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
    from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming

    context = contexts[0]
    mark = {"mode": "explicit"}
    head = {"text": "You answer questions about a streaming service.\n", "prompt_cache_breakpoint": mark}
    given: Any = context.chat("Now?", blocks=True)
    assert given["messages"] == [
        {"role": "developer", "content": [{"type": "text", **head}, {"type": "text", "text": "Viewer: casual."}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "An example: casual", "prompt_cache_breakpoint": mark}],
        },
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Now?"},
    ]
    TypeAdapter(CompletionCreateParamsNonStreaming).validate_python({"model": "m", **given})
    items: Any = context.responses("Now?", blocks=True)
    assert items["input"][0]["content"][0] == {"type": "input_text", **head}
    assert items["input"][2:] == [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Now?"}]
    assert set(items) == {"input"}
    assert ResponseCreateParamsNonStreaming.__annotations__["input"]
    # without blocks nothing changes
    assert context.chat("Now?")["messages"] == [*context.messages, {"role": "user", "content": "Now?"}]
    with pytest.raises(RequestError, match="already ends in a user message"):
        context.model_copy(update={"messages": context.messages[:2]}).anthropic("x")


def test_anthropic(contexts):
    given: Any = contexts[0].anthropic("Now?")
    mark = {"type": "ephemeral"}
    assert given == {
        "system": [
            {"type": "text", "text": "You answer questions about a streaming service.\n", "cache_control": mark},
            {"type": "text", "text": "Viewer: casual."},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "An example: casual", "cache_control": mark}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes.", "cache_control": mark}]},
            {"role": "user", "content": "Now?"},
        ],
    }


@pytest.mark.heavy
def test_anthropic_s_own_types(contexts):
    from anthropic.types.message_create_params import MessageCreateParamsNonStreaming

    adapter = TypeAdapter(MessageCreateParamsNonStreaming)
    adapter.validate_python({"model": "m", "max_tokens": 9, **contexts[0].anthropic("Now?")})


def test_a_prompt_without_a_break(tmp_path: Path):
    made = project(tmp_path, p=DEFAULT_PROMPT)
    made.materialize()
    builder = made.builder()
    context = builder.build_context("p", user_id="u1")
    assert context.prefix is None
    assert context.manifest.cache_breaks == ()
    assert context.blocks == [{"role": "system", "blocks": [{"text": context.text, "cache": False}]}]
    assert context.chat("x", blocks=True) == context.chat("x")
    assert context.responses("x", blocks=True) == context.responses("x")
    assert context.anthropic("x") == {
        "system": [{"type": "text", "text": context.text}],
        "messages": [{"role": "user", "content": "x"}],
    }
    plan = builder._prompts.plan("p")
    assert plan.is_plain
    assert usual_of(plan) is not None
    assert plan.template._plain_root is not None


def test_history_has_the_same_text(tmp_path: Path):
    import pyarrow as pa

    made = project(tmp_path, p=PROMPT.replace("BUDGET", ""))
    spine = pa.table({"user_id": ["u1", "u2"], "event_timestamp": [at(6), at(6)]})
    rows = made.history("p", spine).read_all().to_pylist()
    for row in rows:
        context = made.builder().build_context("p", user_id=row["entity"]["user_id"], as_of=at(6))
        assert row["messages"] == context.messages
        assert row["prompt_id"] == context.prompt_id


CALLS = """
from anthropic import Anthropic
from openai import OpenAI

from llmfeatures import PromptContext


def calls(ctx: PromptContext) -> None:
    chat = OpenAI().chat.completions.create(model="gpt-5.6", **ctx.chat("Hi?", blocks=True))
    print(chat.choices[0].message.content)
    print(OpenAI().responses.create(model="gpt-5.6", **ctx.responses("Hi?", blocks=True)).output_text)
    print(Anthropic().messages.create(model="claude", max_tokens=100, **ctx.anthropic("Hi?")).content)
    for one in ctx.blocks:
        text: str = "".join(block["text"] for block in one["blocks"])
        print(text)
    print(ctx.prefix.tokenz)  # type: ignore
    print(ctx.prefix.sha256)
"""


@pytest.mark.heavy
def test_calls_type_check(tmp_path: Path):
    (tmp_path / "calls.py").write_text(CALLS)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "calls.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    errors = re.findall(r"calls.py:(\d+):.*error: (.*)", done.stdout)
    assert [line for line, _ in errors] == [str(CALLS[: CALLS.index("ctx.prefix.sha256")].count("\n") + 1)], done.stdout
