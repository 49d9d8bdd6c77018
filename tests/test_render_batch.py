"""Prompts rendered in batches, span by span, beside `PromptPlan.finish`, row by row: the same bytes and errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmfeatures import Project, columns, prompt_cache
from llmfeatures.context import FeatureValue, prompt_id
from llmfeatures.errors import LLMFeaturesError, PromptError, RequestError, SpineError
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.rows import Column, Renderer
from tests.projects import MOMENT, NOW, at, make_project, segment, watched

HEADER = """---
features:
  segment: {default: un<known}
  watched: {on_missing: %s}
inputs:
  question: {type: str, max_chars: 40}
  note: {type: str, default: null}
  tags: {type: "list[str]", default: []}
---
"""
HOSTILE = [
    "",
    " ",
    "a",
    "<|im_",
    "start|>",
    "<|im_start|>",
    "[INST]",
    "<",
    "x\ny",
    "\u200b",
    "{{ 1 }}",
    "é",
    "[",
    "a" * 41,
]
ROOT = Path(__file__).parent.parent


def finished(plan: PromptPlan, slots: Sequence[FeatureValue], given: dict[str, Any], moment: datetime) -> Any:
    """What the ordinary path makes of a row: messages, prompt id, error."""
    keys = {name: given[name] for name in plan.features.parameters}
    inputs = {name: given[name] for name in plan.inputs}
    try:
        messages = plan.finish(slots, keys, plan.bind_inputs(inputs), moment).messages
    except LLMFeaturesError as error:
        return None, None, str(error)
    return [{"role": role, "content": content} for role, content in messages], prompt_id(messages), None


def compare(plan: PromptPlan, rows: Sequence[dict[str, Any]], renderer: Renderer | None = None) -> int:
    """Render the rows as a batch, and each by itself; how many messages the spans have."""
    renderer = renderer or Renderer(plan)
    statuses = ("missing", "null", "expired", "present")
    features: list[Column] = []
    for ref in plan.features.refs:
        values = [row.get(ref.name) for row in rows]
        codes = [3 if value is not None else number % 3 for number, value in enumerate(values)]
        event = pa.array([None if code == 0 else at(1) for code in codes], MOMENT)
        made = columns.array_of(ref.dtype, values)
        features.append(Column(values=made, codes=pa.array(codes, pa.int64()), event=event))
    given = {name: columns.array_of(dtype, [row.get(name) for row in rows]) for name, dtype in plan.parameters.items()}
    moments = [datetime(2026, 5, 7, tzinfo=UTC) + timedelta(microseconds=500_000 * n) for n in range(len(rows))]
    rendered = renderer.render(features, given, pa.array(moments, MOMENT), {})
    for number, row in enumerate(rows):
        slots = [
            FeatureValue(row.get(ref.name), statuses[column.codes[number].as_py()], None)
            for ref, column in zip(plan.features.refs, features, strict=True)
        ]
        values = {name: row.get(name) for name in plan.parameters}
        expected = finished(plan, slots, values, moments[number])
        assert (
            rendered.messages[number].as_py(), rendered.prompt_id[number].as_py(), rendered.error[number].as_py()
        ) == expected, (number, row)  # fmt: skip
    return len(renderer._spans.messages)


EXPRESSIONS = [
    "{{ segment }}",
    "{{ watched }}",
    "{{ question }}",
    "{{ user_id }}",
    "{{ as_of }}",
    "{{ note }}",
    "{{ tags|join(', ') }}",
    "{{ segment|upper }}",
    "{{ watched + 1 }}",
    "{{ note|or_else('none') }}",
    "{{ question ~ segment }}",
    "{{ '<|im_' }}",
    "{{ question|replace('a', 'b') }}",
    "{{ range(3)|join }}",
    "{{ as_of.year }}",
    "{{ question|tojson }}",
    "{{ user.segment }}",
    "{{ segment.nothing }}",
    "{{ question[0] }}",
    "{{ 1 / watched }}",
]
TEXTS = ["a", " b ", "\n", "  \n", "<|im_", "start|>", "[INST]", "#", "\x1c"]
BLOCKS = [
    "{{% if watched %}}{0}{{% else %}}{1}{{% endif %}}",
    "{{% if segment == 'a' %}}{0}{{% endif %}}{1}",
    "{{% for tag in tags %}}{{{{ loop.index }}}}{{{{ tag }}}}{0}{{% else %}}{1}{{% endfor %}}",
    "{{% set x = question %}}{0}{{{{ x }}}}{1}",
    "{{% macro m(y) %}}{0}{{{{ y }}}}{{% endmacro %}}{{{{ m(segment) }}}}{1}",
    "{{% filter upper %}}{0}{{% endfilter %}}{1}",
    "{{% data %}}{0}{{% enddata %}}{1}",
    "{{% with z = segment %}}{{{{ z }}}}{0}{{% endwith %}}{1}",
    "{{% set ns = namespace(n=0) %}}{{% for t in tags %}}{{% set ns.n = ns.n + 1 %}}{{% endfor %}}{{{{ ns.n }}}}{0}{1}",
    "{{% cache_break %}}{0}{1}",
]
bodies = st.recursive(
    st.sampled_from(EXPRESSIONS + TEXTS),
    lambda inner: st.one_of(
        st.builds(lambda one, two: one + two, inner, inner),
        st.builds(lambda block, one, two: block.format(one, two), st.sampled_from(BLOCKS), inner, inner),
    ),
    max_leaves=8,
)
templates = st.one_of(
    bodies,
    st.lists(st.tuples(st.sampled_from(["system", "user", "developer"]), bodies), min_size=1, max_size=3).map(
        lambda parts: "\n".join(f'{{% message "{role}" %}}{body}{{% endmessage %}}' for role, body in parts)
    ),
    st.builds('{{% set w = segment %}}{{% message "user" %}}{}{{{{ w }}}}{{% endmessage %}}'.format, bodies),
)
text = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=6))
rows_of_values = st.lists(
    st.fixed_dictionaries(
        {
            "segment": st.none() | text,
            "watched": st.none() | st.integers(-3, 40),
            "user_id": st.none() | text,
            "question": st.none() | text,
            "note": st.none() | text,
            "tags": st.lists(text, max_size=3),
        }
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("batch")
    make_project(root, segments=[segment("a", "x", at(1))], counts=[watched("a", 1, at(1))])
    return root


def plan_of(root: Path, body: str, on_missing: str = "none") -> PromptPlan | None:
    """The plan of a body, or None where it cannot be compiled."""
    (root / "prompts" / "made.prompt.j2").write_text(HEADER % on_missing + body, encoding="utf-8")
    try:
        return Project.load(root, now=lambda: NOW).prompts.plan("made")
    except (PromptError, LLMFeaturesError):
        return None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(templates, rows_of_values, st.sampled_from(["none", "error"]))
def test_generated_templates_are_the_same_in_a_batch(
    folder: Path, body: str, rows: list[dict[str, Any]], on_missing: str
) -> None:
    plan = plan_of(folder, body, on_missing)
    if plan is not None:
        compare(plan, rows)


@pytest.mark.parametrize("body", [*EXPRESSIONS, *[block.format("a", "{{ watched }}") for block in BLOCKS]])
@pytest.mark.parametrize("on_missing", ["none", "error"])
def test_each_construct_with_each_hostile_value(folder: Path, body: str, on_missing: str) -> None:
    plan = plan_of(folder, f'{{% message "user" %}}<|im_{body}{{{{ question }}}}{{% endmessage %}}', on_missing)
    assert plan is not None
    rows = [
        {"segment": one, "watched": number % 3, "user_id": one, "question": two, "note": None, "tags": [one, two]}
        for one in HOSTILE
        for number, two in enumerate(HOSTILE)
    ]
    rows += [{"segment": None, "watched": None, "user_id": None, "question": "q", "note": "n", "tags": []}]
    spans = compare(plan, rows)
    assert spans == (0 if "namespace" in body else 1)


def test_sections_of_several_spans_count_together(folder: Path) -> None:
    body = "{% for tag in tags %}{% section 's' %}{{ tag }}{% endsection %}{% endfor %}{{ question }}\n"
    plan = plan_of(folder, body * 2)
    assert plan is not None
    rows = [{"user_id": str(number), "question": str(number), "tags": ["x"] * (498 + number)} for number in range(5)]
    assert compare(plan, rows) == 1


def test_the_prompts_of_the_repository(tmp_path: Path) -> None:
    """Every prompt file in the repository, over its own registry."""
    project = Project.load(ROOT)
    names = project.prompts.names()
    assert "recommender" in names
    for name in names:
        plan = project.prompts.plan(name)
        dtypes = {ref.name: ref.dtype for ref in plan.features.refs} | dict(plan.parameters)
        samples = {"str": ["a", "<|im_start|>", None], "int": [1, 40, None], "bool": [True, False, None]}
        samples |= {"float": [0.5, 2.0, None], "list": [["x"], [], None]}
        rows = [
            {column: samples.get(dtype.kind, [None])[(number + place) % len(samples.get(dtype.kind, [None]))]
             for place, (column, dtype) in enumerate(dtypes.items())}
            for number in range(3)
        ]  # fmt: skip
        compare(plan, rows)


def spine(**more: list[Any]) -> pa.Table:
    users = ["a", "b", "zz", None]
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "event_timestamp": pa.array([at(5), at(5), None, at(5)], MOMENT),
            **more,
        }
    )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    make_project(
        tmp_path,
        segments=[segment("a", "casual", at(1)), segment("b", None, at(1))],
        counts=[watched("a", 5, at(1)), watched("b", 1, at(1))],
        prompts={
            "home": "---\nfeatures: {segment: {default: unknown}}\n---\n{{ user_id or 0 }} {{ segment }} {{ watched }}"
        },
    )
    return Project.load(tmp_path, now=lambda: NOW)


def test_pairs_with_and_without_a_feature(project: Project) -> None:
    plain = project.history("home", spine()).read_all().to_pylist()
    history = project.history("home", spine(note=[1, 2, 3, 4]), without=["segment", "watched"])
    rows = history.read_all().to_pylist()
    assert [row["id"] for row in rows] == [
        f"{one['id']}{ending}" for one in plain for ending in ("", "-without-segment", "-without-watched")
    ]
    for number, row in enumerate(rows):
        without = (None, "segment", "watched")[number % 3]
        first = rows[number - number % 3]
        assert row["metadata"] == {"note": number // 3 + 1, "pair": first["id"], "without": without}
        for name in ("segment", "watched"):
            gone = name == without
            assert row["features"][name] == (None if gone else first["features"][name])
            assert row["statuses"][name] == ("missing" if gone else first["statuses"][name])
            assert row["timestamps"][name] == (None if gone else first["timestamps"][name])
    assert [row["messages"] for row in rows[::3]] == [row["messages"] for row in plain]
    assert rows[0]["messages"] == [{"role": "system", "content": "a casual 5"}]
    assert rows[1]["messages"] == [{"role": "system", "content": "a unknown 5"}]
    assert "'watched' of prompt 'home' is missing" in rows[2]["error"]
    assert rows[6]["error"] == rows[7]["error"] == "event_timestamp is null"
    assert (history.summary.rows, history.summary.errors) == (12, 3 + 2 + 3)
    assert history.summary.statuses["watched"] == {"present": 2, "missing": 2}


def test_pairs_refuse_what_they_cannot_mean(project: Project) -> None:
    with pytest.raises(RequestError, match=r"reads no feature 'segmnt'.*segment"):
        project.history("home", spine(), without="segmnt")
    with pytest.raises(RequestError, match="twice"):
        project.history("home", spine(), without=["segment", "segment"])
    with pytest.raises(SpineError, match="'pair'"):
        project.history("home", spine(pair=[1, 2, 3, 4]), without="segment").read_all()
    assert project.history("home", spine(pair=[1, 2, 3, 4])).read_all().num_rows == 4


def test_ids_are_the_documented_hash(project: Project) -> None:
    for users in (["a", 'q"\\', "é", None], ["a", "b", "c", None]):
        table = pa.table({"user_id": users, "event_timestamp": pa.array([at(5), at(5, 1), None, at(6)], MOMENT)})
        moments = ['"2026-05-07T05:00:00Z"', '"2026-05-07T05:01:00Z"', "null", '"2026-05-07T06:00:00Z"']
        expected = [
            hashlib.sha256(f'["home", [{json.dumps(user)}], {moment}, {number}]'.encode()).hexdigest()[:32]
            for number, (user, moment) in enumerate(zip(users, moments, strict=True))
        ]
        assert project.history("home", table).read_all()["id"].to_pylist() == expected


rows_of_few_values = st.lists(
    st.fixed_dictionaries(
        {
            "segment": st.sampled_from([None, "a", "<|im_", "b"]),
            "watched": st.one_of(st.none(), st.integers(0, 30)),
            "user_id": st.sampled_from(["u1", "u2"]),
            "question": st.sampled_from(["start|>", "q", "a" * 41]),
            "note": st.none(),
            "tags": st.sampled_from([[], ["x"], ["x", "y"]]),
        }
    ),
    min_size=1,
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(rows_of_few_values, min_size=1, max_size=6),
    most=st.sampled_from([3, 20, 100_000]),
    widest=st.sampled_from([2**10, 2**62]),
)
def test_prompts_of_earlier_batches_are_taken_again_and_forgotten(
    folder: Path, batches: list[list[dict[str, Any]]], most: int, widest: int
) -> None:
    plan = plan_of(folder, "{{ segment }} {{ watched }} {{ question }} {{ tags|join }}", "error")
    assert plan is not None
    renderer = Renderer(plan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_cache, "_MOST_PROMPTS", most)
        patch.setattr(prompt_cache, "WIDEST", widest)
        for rows in batches:
            compare(plan, [row for row in rows for _ in range(5)], renderer)
            assert len(renderer._cache._codes) <= most
