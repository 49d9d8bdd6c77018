"""Prompts written from the docs alone: faulty ones with the one finding that the docs promise, and correct ones."""

from __future__ import annotations

import random
import tomllib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llmfeatures.checker.session import CheckSession
from llmfeatures.compile import compile_plan
from llmfeatures.errors import FeatureNotPresentError
from llmfeatures.prompts.environment import make_environment
from llmfeatures.prompts.file import prompt_names, read_prompt

from .engine_cases import registry, render

HERE = Path(__file__).parent / "from_docs"
EXPECTED: dict[str, dict[str, Any]] = tomllib.loads((HERE / "expected.toml").read_text(encoding="utf-8"))
NAMES = {kind: prompt_names(HERE / kind) for kind in ("faulty", "correct")}
ENVIRONMENTS = {kind: make_environment(HERE / kind) for kind in NAMES}
# What is in a json value is not judged, and an ignore comment lets through what it silences.
MAY_FAIL = {"examples_as_messages", "ignores_that_are_used", "json_items", "recursive_loop", "table_of_shows"}
MAY_FAIL |= {"underscore_names"}


@cache
def _findings(kind: str) -> list[dict[str, Any]]:
    return [
        {"code": one.code, "path": one.path.removeprefix(f"{kind}/"), "line": one.line}
        for one in CheckSession(registry, HERE / kind).findings()
        if one.severity != "info"
    ]


def _found(kind: str, *paths: str) -> list[dict[str, Any]]:
    return [one for one in _findings(kind) if one["path"] in paths]


def test_each_faulty_prompt_has_an_expectation():
    assert set(NAMES["faulty"]) == set(EXPECTED)
    assert min(len(NAMES["faulty"]), len(NAMES["correct"])) >= 45


@pytest.mark.parametrize("name", NAMES["faulty"])
def test_a_faulty_prompt_has_its_one_finding(name: str):
    path = f"{name}.prompt.j2"
    wanted = {"path": path} | EXPECTED[name]
    assert _found("faulty", path, wanted["path"]) == [wanted]


def test_no_other_partial_of_a_faulty_prompt_has_a_finding():
    paths = {EXPECTED[name].get("path", f"{name}.prompt.j2") for name in NAMES["faulty"]}
    paths |= {f"{name}.prompt.j2" for name in NAMES["faulty"]}
    assert [one for one in _findings("faulty") if one["path"] not in paths] == []


@pytest.mark.parametrize("name", NAMES["correct"])
def test_a_correct_prompt_has_none(name: str):
    assert _found("correct", f"{name}.prompt.j2") == []


def test_the_partials_of_correct_prompts_have_none():
    assert [one for one in _findings("correct") if one["path"].startswith("_shared/")] == []


@pytest.mark.parametrize("name", [name for name in NAMES["correct"] if name not in MAY_FAIL])
def test_a_correct_prompt_renders_for_every_value(name: str):
    plan = compile_plan(registry, read_prompt(HERE / "correct", name), ENVIRONMENTS["correct"])
    for seed in range(25):
        with suppress(FeatureNotPresentError):
            render(plan, random.Random(seed))
