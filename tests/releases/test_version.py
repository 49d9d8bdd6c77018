"""The version of a prompt: another one with all that decides its bytes, the same with all that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmfeatures.compile import compile_plan
from llmfeatures.prompts.texts import PromptTexts
from llmfeatures.registry import load_registry

REGISTRY = """
from llmfeatures import Aggregation, Entity, FeatureView, Registry, on_demand

user = Entity("user", join_key="user_id")
seat = Entity("seat", join_keys={"tenant_id": "int", "number": "int"})


@on_demand(user, "float", inputs={"factor": "float"})
def scaled(watched, factor):
    return None if watched is None else watched * factor


registry = Registry([
    FeatureView("activity", user, "data/a.parquet", {"watched": "int", "genre": "str"}, ttl="7d"),
    FeatureView("counts", user, "data/c.parquet", [Aggregation("n", "count", window="7d")], cadence="1d"),
    FeatureView("seats", seat, "data/s.parquet", {"status": "str"}),
    scaled,
])
"""
PROMPT = """---
description: Says things
owner: growth
entities: {viewer: user, place: seat}
features:
  viewer.watched: {default: 0, max_age: 3d}
  viewer.genre: {on_missing: none, on_unavailable: error}
  viewer.scaled: {default: 0.5}
  viewer.n: {default: 0}
  place.status: {default: free}
inputs:
  tone: {type: str, max_chars: 20, default: warm}
config: {model: one}
---
{% include '_shared/sign.j2' %}
{{ viewer.watched }} {{ viewer.genre | or_else('-') }} {{ viewer.scaled }} {{ viewer.n }} {{ tone }} {{ place.status }}
"""
PARTIAL = "The team"


def version(root: Path, registry: str = REGISTRY, prompt: str = PROMPT, partial: str = PARTIAL) -> str:
    (root / "features.py").write_text(registry)
    texts = PromptTexts({"p": prompt}, {"_shared/sign.j2": partial, "_shared/other.j2": "x"}, where="")
    return compile_plan(load_registry("features.py", root), texts.read("p"), texts.environment()).version


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_age: 3d", "max_age: 4d"),
        ("default: 0,", "default: 1,"),
        ("{on_missing: none, on_unavailable: error}", "{on_missing: none}"),
        ("{on_missing: none, on_unavailable: error}", "{default: none yet, on_unavailable: error}"),
        ("type: str, max_chars: 20", "type: str, max_chars: 21"),
        ("default: warm", "default: dry"),
        ("type: str, max_chars: 20, default: warm", "type: int, default: 1"),
        ("model: one", "model: two"),
        ("{{ tone }}", "{{  tone }}"),
        ("entities: {viewer: user, place: seat}", "entities: {viewer: user, place: seat, other: user}"),
        ('"watched": "int"', '"watched": "float"'),
        ('"watched": "int"', '"watched": "decimal(9,0)"'),
        ('ttl="7d"', 'ttl="8d"'),
        ('window="7d"', 'window="8d"'),
        ('cadence="1d"', 'cadence="2d"'),
        ('"count", window', '"count_distinct", column="watched", window'),
        ("watched * factor", "factor * watched"),
        ("The team", "A team"),
    ],
)
def test_it_is_another_when_the_bytes_may_be(tmp_path: Path, old: str, new: str) -> None:
    written = (REGISTRY, PROMPT, PARTIAL)
    assert sum(old in one for one in written) == 1
    assert version(tmp_path, *(one.replace(old, new) for one in written)) != version(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("description: Says things", "description: Says other things"),
        ("owner: growth", "owner: core"),
        ("data/a.parquet", "data/b.parquet"),
        ('"genre": "str"}', '"genre": "str", "more": "int"}'),
        ("    return None", "    # why\n    return None"),
        ('{"status": "str"})', '{"status": "str"}, owner="me", lateness="1h")'),
    ],
)
def test_it_is_the_same_when_they_are(tmp_path: Path, old: str, new: str) -> None:
    written = (REGISTRY, PROMPT, PARTIAL)
    assert sum(old in one for one in written) == 1
    assert version(tmp_path, *(one.replace(old, new) for one in written)) == version(tmp_path)
