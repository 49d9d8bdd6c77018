"""The engine: the corpus, what compiling refuses, what rendering does, every filter, and that no text makes it fail."""

from __future__ import annotations

import inspect
import json
import pickle
import random
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures.checker import engine
from llmfeatures.checker.filters import COMPARING, FILTERS, TESTS
from llmfeatures.checker.rules import RULES
from llmfeatures.checker.run import Run
from llmfeatures.compile import compile_plan
from llmfeatures.errors import FeatureNotPresentError, PromptError
from llmfeatures.prompts.file import parse_prompt
from llmfeatures.prompts.tags import TAGS

from .engine_cases import (
    HERE,
    check,
    check_text,
    drawn,
    environment,
    expected,
    names,
    read,
    registry,
    render,
    said,
    worse,
)

FAULTY, CORRECT = names("faulty"), names("correct")
ENVIRONMENTS = {kind: environment(kind) for kind in ("faulty", "correct")}
TEXTS = [
    (kind, (HERE / kind / f"{name}.prompt.j2").read_text(encoding="utf-8"))
    for kind, found in (("faulty", FAULTY), ("correct", CORRECT))
    for name in found
]


# -- the corpus ------------------------------------------------------------------------------------------------------


def test_the_corpus_is_whole():
    assert set(FAULTY) == set(expected())
    assert len(FAULTY) >= 60
    assert len(CORRECT) >= 60


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_prompt_has_its_one_finding(name: str):
    file = read("faulty", name)
    found = [said(one, file) for one in check(file, ENVIRONMENTS["faulty"]).findings if one.code != "LF041"]
    assert found == [expected()[name]]


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_prompt_has_none(name: str):
    file = read("correct", name)
    assert [said(one, file) for one in check(file, ENVIRONMENTS["correct"]).findings if one.code != "LF041"] == []


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_prompt_renders_for_every_value(name: str):
    plan = compile_plan(registry, read("correct", name), ENVIRONMENTS["correct"])
    if any(str(dtype) == "json" for dtype in _dtypes(plan)):
        pytest.skip("what is inside a json value is not judged")
    for seed in range(25):
        with suppress(FeatureNotPresentError):
            render(plan, random.Random(seed))


def _dtypes(plan) -> list:
    return [ref.dtype for ref in plan.features.outputs] + [one.dtype for one in plan.inputs.values()]


def test_each_rule_of_the_engine_has_three_faulty_prompts_or_few_ways():
    few = {"LF001", "LF002", "LF003", "LF004", "LF008", "LF018", "LF040", "LF041", "LF042", "LF043", "LF060"}
    few |= {"LF061", "LF065", "LF066", "LF071", "LF072"}  # by nature of one form or two, or tested below
    others = {"LF005", "LF006", "LF007", "LF062", "LF063", "LF067", "LF080"}  # of the project, not of a prompt
    codes = [one.split()[0] for one in expected().values()]
    assert {code: codes.count(code) for code in RULES if codes.count(code) < 3 and code not in few | others} == {}


# -- what compiling and rendering say --------------------------------------------------------------------------------


def _errors(text: str, kind: str) -> list[str]:
    file = parse_prompt(text, name="example", path="example.prompt.j2")
    run = Run(registry, file, ENVIRONMENTS[kind])
    try:
        engine._read(run)  # what it raises is not hidden here
    except RecursionError:
        return ["LF001"]
    return [one.code for one in run.findings.values() if one.severity == "error"]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from(TEXTS))
def test_what_compiling_refuses_the_checker_does(seed: int, one: tuple[str, str]):
    _compare_with_compiling(seed, one)


@pytest.mark.heavy
@settings(deadline=None, max_examples=8_000)
@given(st.integers(0, 2**32), st.sampled_from(TEXTS))
def test_what_compiling_refuses_the_checker_does_often(seed: int, one: tuple[str, str]):
    _compare_with_compiling(seed, one)


def _compare_with_compiling(seed: int, one: tuple[str, str]) -> None:
    kind, text = one
    text = worse(text, [other for _, other in TEXTS], random.Random(seed))
    try:
        file = parse_prompt(text, name="example", path="example.prompt.j2")
    except PromptError:
        return
    errors = _errors(text, kind)
    refused = ""
    try:
        compile_plan(registry, file, ENVIRONMENTS[kind])
    except PromptError as error:
        refused = str(error)
    assert errors or not refused, f"{refused}\n{text}"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("{% autoescape true %}x{% endautoescape %}", "LF001"),
        ("{% block a %}{% endblock %}{% block a %}x{% endblock %}", "LF001"),
        ("{% macro m(a, a) %}{{ a }}{% endmacro %}{{ m(1) }}", "LF001"),
        ("{% macro m(caller, a) %}{{ caller() }}{{ a }}{% endmacro %}x", "LF001"),
        ("{% for loop in [1] %}x{% endfor %}", "LF001"),
        ("{% for a in [1] %}x{% else %}{% break %}{% endfor %}", "LF001"),
        ("{% if true %}{% for a in [1] %}{% extends '_shared/base.j2' %}{% endfor %}{% endif %}", "LF001"),
        ("{% include ['_shared/card.j2'] %}", "LF003"),
        ("{% include 'other.prompt.j2' %}", "LF003"),
    ],
)
def test_what_only_compiling_knows(body: str, code: str):
    assert code in _errors(body, "correct")
    with pytest.raises(PromptError):
        compile_plan(registry, parse_prompt(body, name="x", path="x"), ENVIRONMENTS["correct"])


@pytest.mark.parametrize(
    ("header", "body", "code"),
    [
        ("entities: {viewer: usr}", "x", "LF002"),
        ("features: {last_gnre: {default: x}}", "x", "LF002"),
        ("features: {watch_count_30d: {default: many}}", "{{ watch_count_30d }}", "LF002"),
        ("features: {last_genre: {default: a}, user.last_genre: {default: b}}", "{{ last_genre }}", "LF002"),
        ("inputs: {last_genre: str}", "{{ last_genre }}", "LF019"),
        ("inputs: {user: str}", "{{ user }}", "LF019"),
        ("inputs: {user_id: str}", "{{ user_id }}", "LF019"),
        ("entities: {bio: user}", "{{ bio.last_genre }}", "LF019"),
        ("inputs: {budget_minutes: str}", "{{ titles_that_fit }} {{ budget_minutes }}", "LF019"),
        ("documents: {texts: {retriever: r}}", "{{ texts }}", "LF002"),
        ("documents: {user: {retriever: notes}}", "{{ user }}", "LF019"),
        ("documents: {user_id: {retriever: notes}}", "{{ user_id }}", "LF019"),
        ("inputs: {a: str}\ndocuments: {a: {retriever: notes}}", "{{ a }}", "LF019"),
        ("documents: {a: {retriever: notes, filter: {x: 1}}}", "{{ a }}", "LF002"),
        (
            'documents: {a: {retriever: reviews, filter: {language: "{{ b }}"}}, b: {retriever: notes}}',
            "{{ a }}",
            "LF010",
        ),
        ('documents: {a: {retriever: reviews, filter: {language: "{{ nme }}"}}}', "{{ a }}", "LF010"),
        ("features: {title.nme: {default: a}}\ndocuments: {a: {retriever: reviews}}", "{{ a }}", "LF002"),
        ("features: {title.year: {default: a}}\ndocuments: {a: {retriever: reviews}}", "{{ a }}", "LF002"),
        ("budget: {max_tokens: 2, tokenizer: o200k_base}", "One two three four five.", "LF071"),
    ],
)
def test_the_header_against_the_registry(header: str, body: str, code: str):
    assert code in [one.split()[0] for one in check_text(f"---\n{header}\n---\n{body}\n")]


# -- partials --------------------------------------------------------------------------------------------------------


def test_partials_in_a_circle_and_broken_ones(tmp_path: Path):
    from llmfeatures.prompts.environment import make_environment

    shared = tmp_path / "_shared"
    shared.mkdir()
    (shared / "a.j2").write_text("A {% include '_shared/b.j2' %}")
    (shared / "b.j2").write_text("B {% include '_shared/a.j2' %}")
    (shared / "broken.j2").write_text("one\n{{ two")
    env = make_environment(tmp_path)
    file = parse_prompt("{% include '_shared/a.j2' %}{% include '_shared/broken.j2' %}", name="x", path="x.prompt.j2")
    report = check(file, env)
    assert [(one.code, Path(one.path).name, one.line) for one in report.findings] == [
        ("LF004", "b.j2", 1),
        ("LF001", "broken.j2", 2),
    ]
    assert report.partials == {"_shared/a.j2", "_shared/b.j2", "_shared/broken.j2"}
    (shared / "broken.j2").write_text("mended")
    assert [one.code for one in check(file, env).findings] == ["LF004"]


def test_blocks_that_nobody_prints(tmp_path: Path):
    from llmfeatures.prompts.environment import make_environment

    (tmp_path / "_shared").mkdir()
    (tmp_path / "_shared" / "base.j2").write_text("A {% block one %}{{ nothing_here }}{% endblock %}")
    text = "{% extends '_shared/base.j2' %}{% block one %}x{% endblock %}{% block oen %}{{ neither }}{% endblock %}"
    file = parse_prompt(text, name="x", path="x.prompt.j2")
    found = [(one.code, Path(one.path).name) for one in check(file, make_environment(tmp_path)).findings]
    assert found == [("LF064", "x.prompt.j2"), ("LF010", "x.prompt.j2"), ("LF010", "base.j2")]


def test_a_report_says_what_is_read_and_travels():
    file = read("correct", "on_demand")
    report = check(file, ENVIRONMENTS["correct"])
    assert report.features == {
        "user.minutes_per_title",
        "user.titles_that_fit",
        "user.age_years",
        "user.minutes_30d",
        "user.watch_count_30d",
        "user.birthday",
    }
    assert report.inputs_read == {"budget_minutes"}
    assert pickle.loads(pickle.dumps(report)) == report
    faulty = check(read("faulty", "unknown_in_dead_branch"), ENVIRONMENTS["faulty"])
    assert json.loads(json.dumps([asdict(one) for one in faulty.findings]))[0]["code"] == "LF010"


# -- every filter and test -------------------------------------------------------------------------------------------


def test_every_filter_and_test_has_a_signature():
    env = ENVIRONMENTS["correct"]
    assert set(env.filters) - TAGS == set(FILTERS)
    assert set(env.tests) == set(TESTS) | set(COMPARING)


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_a_signature_has_the_filters_own_arguments(name: str):
    signature, function = FILTERS[name], ENVIRONMENTS["correct"].filters[name]
    parameters = list(inspect.signature(function).parameters.values())
    skipped = 1 + hasattr(function, "jinja_pass_arg")
    if signature.rest:
        assert any(one.kind is one.VAR_POSITIONAL for one in parameters)
        return
    assert [one.name for one in signature.args] == [one.name for one in parameters[skipped:]]
    assert [one.required for one in signature.args] == [one.default is one.empty for one in parameters[skipped:]]


# -- positions, edits, cascades --------------------------------------------------------------------------------------

HEAD = "---\nfeatures: {watch_count_30d: {default: 0}, last_genre: {on_missing: none}, genres: {default: []}}\n---\n"


@pytest.mark.parametrize(
    ("body", "marked"),
    [
        ("{{ genres|join(', ') }}{% if watch_count_30d >= '20' %}a{% endif %}", "watch_count_30d >= '20'"),
        ("{{ genres|map('uper')|join }}", "'uper'"),
        ("{{ (last_genre)  |  upper }}", "upper"),
        ("ä\t日本 {{ watch_count_30d.nme }}", "nme"),
        ("{{ last_genre ~ '!' }}", "last_genre"),
        ("{{ genres | truncate( lenght = 3 ) }}", "lenght = 3"),
        ("{{ watch_count_30d is evn }}", "evn"),
        ("{{ watch_count_30d is not evn }}", "evn"),
        ("{{ 3 // watch_count_30d }}", "watch_count_30d"),
        ("{{ ('a' + watch_count_30d) }}", "'a' + watch_count_30d"),
        ("{{ range(1,\n  'x')|list }}", "'x'"),
        ('{{ genres["x"] }}', '"x"'),
        ("{{ watch_count_30d(genres[0], 'a)') }}", "watch_count_30d(genres[0], 'a)')"),
    ],
)
def test_a_finding_marks_its_expression(body: str, marked: str):
    file = parse_prompt(HEAD + body, name="x", path="x")
    (finding,) = [one for one in check(file, ENVIRONMENTS["correct"]).findings if one.code not in ("LF060", "LF027")]
    lines = (HEAD + body).split("\n")
    assert finding.line == finding.end_line
    assert lines[finding.line - 1][finding.column - 1 : finding.end_column - 1] == marked


@pytest.mark.parametrize(
    ("body", "mended"),
    [
        ("{{ watch_cuont_30d }}", "{{ watch_count_30d }}"),
        ("{{ user.watch_cuont_30d }}", "{{ user.watch_count_30d }}"),
        ("{{ genres|jion(', ') }}", "{{ genres|join(', ') }}"),
        ("{{ last_genre|default('x') }}", "{{ last_genre|or_else('x') }}"),
        ("{% if watch_count_30d > '20' %}a{% endif %}", "{% if watch_count_30d > 20 %}a{% endif %}"),
    ],
)
def test_an_edit_mends(body: str, mended: str):
    file = parse_prompt(HEAD + body, name="x", path="x")
    edits = [edit for one in check(file, ENVIRONMENTS["correct"]).findings for edit in one.edits]
    assert len(edits) == 1
    (edit,) = edits
    line = (HEAD + body).split("\n")[edit.line - 1]
    assert line[: edit.column - 1] + edit.text + line[edit.end_column - 1 :] == mended
    again = parse_prompt(HEAD + mended, name="x", path="x")
    assert not [one for one in check(again, ENVIRONMENTS["correct"]).findings if one.code != "LF060"]


def test_a_misspelling_is_one_mistake():
    assert check_text("---\nfeatures: {last_genre: {default: x}}\n---\n{{ last_gnre }}\n") == ["LF010 4:4"]
    assert check_text("---\ninputs: {question: str}\n---\n{{ qestion }}\n") == ["LF010 4:4"]
    assert check_text("---\nfeatures: {last_gnre: {default: x}}\n---\n{{ last_genre }}\n") == ["LF002 2:12"]
    assert check_text("{% set total = 3 %}{{ totl + 1 }}\n") == ["LF010 1:23"]


def test_what_holds_for_one_call_of_a_macro():
    macro = "{% macro level(x) %}{% if x == 'drama' %}d{% elif x > 3 %}m{% endif %}{% endmacro %}"
    head = "---\nfeatures: {last_genre: {default: x}, watch_count_30d: {default: 0}}\n---\n"
    assert check_text(f"{head}{macro}{{{{ level(watch_count_30d) }}}} {{{{ level(last_genre) }}}}\n") == ["LF012 4:51"]
    ratio = "{% macro ratio(a, b) %}{{ a / b if b else 0 }}{% endmacro %}{{ ratio(watch_count_30d, 30) }}"
    assert check_text(f"---\nfeatures: {{watch_count_30d: {{default: 0}}}}\n---\n{ratio}\n") == []


def test_all_mistakes_are_told_at_once():
    found = check_text("{{ one }} {{ two|nofilter }}\n{% if as_of > 3 %}{{ three.four() }}{% endif %}\n")
    assert found == ["LF010 1:4", "LF010 1:14", "LF011 1:18", "LF012 2:7", "LF010 2:22"]


@settings(deadline=None, max_examples=40)
@given(
    st.text(max_size=60),
    st.sampled_from(["{{ %s }}", "{%% if %s %%}x{%% endif %%}", "%s", "{%% set a = %s %%}{{ a }}"]),
)
def test_no_text_makes_it_fail(text: str, around: str):
    try:
        file = parse_prompt(around % text, name="x", path="x")
    except PromptError:
        return
    _errors(file.body, "correct")


def test_values_are_drawn_for_every_dtype():
    for found in registry.features():
        value = drawn(found.feature.dtype, random.Random(1))
        assert found.feature.dtype.canonical(value) == value
