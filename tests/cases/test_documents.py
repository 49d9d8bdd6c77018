"""Cases with documents: what a retriever would answer is given, and all else is as in a call."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest

from llmfeatures import Entity, FeatureView, Registry, Retriever, on_demand
from llmfeatures.cases.build import build_case
from llmfeatures.cases.coverage import cover
from llmfeatures.cases.file import parse_cases
from llmfeatures.cases.run import run_cases
from llmfeatures.compile import compile_plan
from llmfeatures.context import PromptContext
from llmfeatures.errors import PromptError
from llmfeatures.ports import DocumentQuery
from llmfeatures.project import Project
from llmfeatures.prompts.environment import make_environment
from llmfeatures.prompts.file import parse_prompt, read_prompt
from tests.projects import make_project

user = Entity("user", join_key="user_id")
title = Entity("title", join_keys={"title_id": "int"})


def search(query: DocumentQuery) -> Sequence[dict[str, object]]:
    """No case asks it."""
    raise AssertionError(query)


@on_demand(title, "float", inputs={"scale": "int"})
def stars(avg_rating: float | None, scale: int) -> float | None:
    """The rating on another scale."""
    return None if avg_rating is None else avg_rating * scale


REGISTRY = Registry(
    [
        FeatureView("taste", user, "data/taste.parquet", {"last_genre": "str"}),
        FeatureView("catalogue", title, "data/titles.parquet", {"avg_rating": "float", "name": "str"}),
        stars,
        Retriever("reviews", user, function=search, metadata={"title_id": "int", "written": "date"}),
    ]
)
PROMPT = """---
features:
  last_genre: {default: any}
  title.name: {default: a title}
  avg_rating: {on_missing: none}
  stars: {default: 0}
inputs: {question: str, scale: {type: int, default: 2}}
documents:
  found: {retriever: reviews, query: "{{ question }}", top_k: 2, min_score: 0.5, on_unavailable: none}
  recent: {retriever: reviews, top_k: 1}
---
{% for d in found %}
{% set title = d.title %}
{% set rating %}{% if title.avg_rating is not none %} ({{ title.avg_rating }}, {{ title.stars }}){% endif %}{% endset %}
{% set day %}{% if d.metadata.written %}, {{ d.metadata.written }}{% endif %}{% endset %}
{{ loop.index }}. {{ title.name }}{{ rating }}, {{ d.score }}{{ day }}: {{ d.text }}
{% else %}
Nothing about {{ last_genre }}.
{% endfor %}
{% for d in recent %}
Recent: {{ d.text }}
{% endfor %}
"""


def built(tmp_path: Path, case: str, prompt: str = PROMPT) -> PromptContext:
    file = parse_prompt(prompt, name="home", path="prompts/home.prompt.j2")
    (one,) = parse_cases(f"- id: a\n  inputs: {{question: q}}\n{case}", path="prompts/home.cases.yaml")
    return build_case(compile_plan(REGISTRY, file, make_environment(tmp_path)), one)


def test_given_documents_go_the_way_of_found_ones(tmp_path: Path) -> None:
    made = built(
        tmp_path,
        """
  documents:
    found:
      - {text: far, score: 0.4}
      - {text: good, id: r1, score: 0.9, version: v7, metadata: {written: 2026-05-07, title_id: 7},
         features: {title: {avg_rating: 4.5, name: Up}}}
      - {text: good}
      - {text: bad, features: {title: {avg_rating: null}}}
      - {text: a fourth}
    recent: [{text: good}, {text: newest}, {text: older}]
""",
    )
    assert [one.partition("<")[0] for one in made.text.splitlines() if not one.startswith("</data")] == [
        "1. Up (4.5, 9.0), 0.9, 2026-05-07: ", "good", "2. a title, 1.0: ", "bad", "Recent: ", "newest",
    ]  # fmt: skip
    first, second = made.documents["found"]
    assert (first.id, first.version, first.score, first.tier) == ("r1", "v7", 0.9, "exact")
    assert first.metadata == {"title_id": 7, "written": date(2026, 5, 7)}
    assert (second.id, second.metadata) == ("d4", {"title_id": None, "written": None})
    assert {name: one.status for name, one in second.features["title"].items()} == {
        "avg_rating": "null", "name": "missing", "stars": "null",
    }  # fmt: skip
    kept = made.manifest.retrievals["found"]
    assert (kept.status, kept.found, kept.kept, kept.doubles, kept.below_min_score) == ("found", 5, 2, 1, 1)


def test_documents_that_are_not_given_are_none_and_a_retriever_can_fail(tmp_path: Path) -> None:
    assert built(tmp_path, "").text == "Nothing about any."
    made = built(tmp_path, "  documents: {found: unavailable}")
    assert (made.text, made.manifest.degraded) == ("Nothing about any.", True)
    assert made.manifest.retrievals["found"].status == "unavailable"


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("  documents: {fuond: []}", r"yaml:3:15: the prompt has no documents 'fuond'; did you mean 'found'"),
        (
            "  documents: {found: [{text: a, metadata: {tilte_id: 1}}]}",
            "yaml:3:54: retriever 'reviews' has no metadata",
        ),
        ("  documents: {found: [{text: a, metadata: {title_id: x}}]}", "yaml:3:54: title_id: a str is no int"),
        ("  documents: {found: [{text: a, score: high}]}", "yaml:3:40: score: a str is no float"),
        ("  documents: {recent: [{text: a, score: 1}]}", "found by order: recent, and have no score"),
        ("  documents: {found: [{text: a, features: {film: {}}}]}", "reads no features of 'film'"),
        ("  documents: {found: [{text: a, features: {title: {nme: x}}}]}", "reads no feature title.nme"),
        ("  documents: {found: [{text: a, features: {title: {avg_rating: x}}}]}", "avg_rating: a str is no float"),
    ],
)
def test_mistakes_have_their_place(tmp_path: Path, case: str, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        built(tmp_path, case)


def test_a_project_s_cases_with_documents_pass_and_count_branches(tmp_path: Path) -> None:
    prompt = (
        "---\ndocuments: {notes: {retriever: notes}}\n---\n"
        "{% for n in notes %}\n- {{ n.text }}{% if 'x' in n.text %}!{% endif %}\n\n{% else %}\nnone\n{% endfor %}\n"
    )
    root = make_project(
        tmp_path,
        prompts={"home": prompt},
        extra="retrievers:\n  - {name: notes, entity: user, source: data/notes.jsonl}\n",
    )
    (root / "prompts" / "home.cases.yaml").write_text(
        "- id: two\n  documents: {notes: [{text: one}, {text: two}]}\n  expect: {contains: [one, two]}\n"
        "- id: none\n  expect: {contains: none}\n"
        "- id: fails\n  documents: {notes: unavailable}\n  expect: {error: the policy is an error}\n"
    )
    project = Project.load(root)
    report = run_cases(project.prompts, project.config.prompts)
    assert [(one.id, one.passed) for one in report.results] == [("two", True), ("none", True), ("fails", True)]
    found = cover(project.registry, project.config.prompts)
    assert (found.total, [one.what for one in found.missed]) == (4, ["makes this true: 'x' in n.text"])
    assert read_prompt(root / "prompts", "home").header.documents["notes"].order == "recent"
