"""What a context says of itself: in words, as data, and in a notebook."""

from __future__ import annotations

import gc
import json
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures import Entity, Project, PromptContext, Registry
from llmfeatures.builder import Prompts
from llmfeatures.explain import age_text, explain_json, explained
from llmfeatures.prompts.texts import PromptTexts
from tests.browser import browser
from tests.projects import NOW, at, make_project, segment, watched

PROMPT = """---
features:
  segment: {default: unknown, max_age: 2d}
  watched: {on_missing: none}
inputs:
  question: str
---
{% macro shown(x) %}<{{ x }}>{% endmacro %}
{% message "system" %}
Be kind.
{% cache_break %}
They are {{ segment|upper }}{% if watched is not none %} and watched {{ watched }}, {{ shown(watched) }}{% endif %}.
{% endmessage %}
{% message "user" %}
{% data %}
{{ question }}
{% enddata %}
{{ segment }} {{ user_id }} {{ "at " ~ segment }}
{% endmessage %}
"""
HOSTILE = "<img src=x onerror='document.title=1'>\n\"</pre></mark><script>document.title=2</script>&amp;\u202e\u0007"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    make_project(
        tmp_path,
        segments=[segment("ada", "casual", at(day=7)), segment("old", "casual", at(day=1))],
        counts=[watched("ada", 47, at(22, day=7))],
        prompts={"home": PROMPT, "plain": "Hello {{ segment | or_else('you') }}", "fixed": "Be kind."},
    )
    project = Project.load(tmp_path, now=lambda: NOW)
    project.materialize()
    return project


def built(project: Project, user: str = "ada", question: str = "why?") -> PromptContext:
    return project.builder().build_context("home", user_id=user, question=question)


def test_each_value_says_where_it_stands(project: Project) -> None:
    lines = built(project).explain().splitlines()
    assert lines[0].endswith("as of 2026-05-07T23:00:00Z (online)")
    assert lines[1:6] == [
        "  segment: present, 11h old, from view segment; line 2 of message 1 (system) as segment|upper, "  # noqa: ISC004
        "line 4 of message 2 (user)",
        "  watched: present, 1h old, from view activity; line 2 of message 1 (system)",
        "  question: input; line 2 of message 2 (user)",
        "  user_id: join key; line 4 of message 2 (user)",
        "  other expressions: line 2 of message 1 (system) as x, line 4 of message 2 (user)",
    ]
    assert lines[6].startswith("  prefix: 9 characters up to the last cache_break, about ")


def test_what_stands_in_says_why(project: Project) -> None:
    said = built(project, "old").explain()
    assert "segment: expired, 6d 11h old, from view segment, the prompt's policy is default; line 2" in said
    assert "watched: missing, from view activity, the prompt's policy is none; not printed" in said


def test_no_value_is_in_the_words(project: Project) -> None:
    assert "casual" not in built(project).explain()
    assert "why?" not in built(project).explain()


def test_spans_are_the_values_in_the_content(project: Project) -> None:
    ctx = built(project)
    data = explain_json(explained(ctx))
    assert data["whole"]
    spans = [
        (one["value"], one["expression"], ctx.messages[number]["content"][one["start"] : one["end"]])
        for number, message in enumerate(data["messages"])
        for one in message["spans"]
    ]
    assert spans == [
        ("segment", "segment|upper", "CASUAL"),
        ("watched", "watched", "47"),
        (None, "x", "47"),
        ("question", "question", "why?"),
        ("segment", "segment", "casual"),
        ("user_id", "user_id", "ada"),
        (None, "", "casual"),
    ]
    assert ctx.prefix is not None
    assert data["prefix"] == ctx.prefix.model_dump()
    assert [one["name"] for one in data["values"]] == ["segment", "watched", "question", "user_id"]


@settings(max_examples=25, deadline=None)
@given(question=st.text(max_size=40))
def test_the_pieces_are_the_messages(question: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    project = _shared(tmp_path_factory)
    ctx = built(project, question=question)
    made = explained(ctx)
    assert made.is_whole
    assert [(one.role, one.content) for one in made.messages] == [(one["role"], one["content"]) for one in ctx.messages]


_made: list[Project] = []


def _shared(factory: pytest.TempPathFactory) -> Project:
    if not _made:
        root = make_project(factory.mktemp("p"), segments=[segment("ada", "casual", at())], prompts={"home": PROMPT})
        _made.append(Project.load(root, now=lambda: NOW))
    return _made[0]


def test_a_builder_that_is_gone_leaves_contexts_that_can_be_explained(project: Project) -> None:
    ctx = Project.load(project.config.root, now=lambda: NOW).builder().build_context("plain", user_id="ada")
    gc.collect()
    assert explained(ctx).is_whole


def test_a_builder_that_lives_explains_whatever_was_compiled_since(project: Project) -> None:
    ctx = project.builder().build_context("plain", user_id="ada")
    said = ctx.explain()
    Project.load(project.config.root, now=lambda: NOW).prompts.plan("plain")
    others = Registry([Entity("user", join_key="user_id")])
    texts = PromptTexts({f"p{number}": str(number) for number in range(70)}, {}, where="")
    for plan in [Prompts(others, texts).plan(name) for name in texts.names()]:
        assert plan.version != ctx.version
    gc.collect()
    assert ctx.explain() == said


def test_a_context_of_another_process_says_what_it_can(project: Project) -> None:
    ctx = built(project)
    other = ctx.model_copy(update={"version": "0" * 64})
    assert not explained(other).is_whole
    assert "segment: present, 11h old, from view segment\n" in other.explain()
    assert "where values stand in the text is not known here" in other.explain()
    assert "casual" in other._repr_html_()
    back = PromptContext.model_validate_json(ctx.model_dump_json())
    assert back.explain() == ctx.explain()
    sorted_ = json.dumps(ctx.model_dump(mode="json"), sort_keys=True)  # as a database may keep it
    assert explained(PromptContext.model_validate_json(sorted_)).is_whole


def test_a_changed_context_is_not_explained_as_what_it_was(project: Project) -> None:
    ctx = built(project)
    changed = ctx.model_copy(update={"messages": [{"role": "system", "content": "Else."}]})
    assert not explained(changed).is_whole


def test_a_prompt_without_values_has_a_prefix_for_all(project: Project) -> None:
    ctx = project.builder().build_context("fixed")
    assert "prefix: no cache_break; the first 8 characters come before any value" in ctx.explain()


@pytest.mark.parametrize(
    ("age", "said"),
    [
        (timedelta(), "0s"),
        (timedelta(seconds=59), "59s"),
        (timedelta(minutes=61), "1h 1m"),
        (timedelta(hours=1), "1h"),
        (timedelta(days=3, minutes=5), "3d"),
        (timedelta(days=3, hours=4, minutes=5), "3d 4h"),
        (timedelta(microseconds=-5), "0s"),
    ],
)
def test_ages(age: timedelta, said: str) -> None:
    assert age_text(NOW, NOW - age) == said


# -- in a notebook ---------------------------------------------------------------------------------------------------


LOOK = """() => ({
    title: document.title,
    marks: [...document.querySelectorAll('mark')].map(one => one.textContent),
    text: [...document.querySelectorAll('pre')].map(one => one.textContent),
    cells: [...document.querySelectorAll('td')].map(one => one.textContent),
    colours: [...document.querySelectorAll('mark,td,pre,th,b')].map(one => getComputedStyle(one).color),
    active: document.scripts.length + document.images.length,
})"""


def looked_at(chromium: Any, html: str, style: str) -> dict[str, Any]:
    """What Chromium makes of the HTML on a page of these colours, which loads and runs nothing."""
    wrong: list[str] = []
    page = chromium.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url))
    page.set_content(f"<!doctype html><title>quiet</title><body style='{style}'>{html}</body>")
    found = page.evaluate(LOOK)
    page.close()
    assert (wrong, found["title"], found["active"]) == ([], "quiet", 0)
    return found


def test_hostile_values_are_text_in_a_notebook(project: Project) -> None:
    ctx = built(project, question=HOSTILE)
    made = project.timeline("home", user_id="ada", question=HOSTILE, since="3d")
    with browser() as chromium:
        for style, colour in (("color:#eee;background:#111", 238), ("color:#111;background:#fff", 17)):
            found = looked_at(chromium, ctx._repr_html_(), style)
            assert found["text"] == [one["content"] for one in ctx.messages]
            assert found["marks"][3] == ctx.messages[1]["content"].split("\n", 1)[1].rsplit("\n</data", 1)[0]
            assert any("\\u202e" in cell and "\\x07" in cell for cell in found["cells"])
            assert set(found["colours"]) == {f"rgb({colour}, {colour}, {colour})"}
        found = looked_at(chromium, made._repr_html_(), "color:#111")
        assert len(found["text"]) == len(made) == 3
        assert found["text"][-1] == made[-1].text


def test_a_notebook_page_is_small(project: Project) -> None:
    html = built(project)._repr_html_()
    assert len(html) < 5_000
    assert "http" not in html
    assert "11h" in unescape(html)
