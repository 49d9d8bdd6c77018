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

HERE = Path(__file__).parent
FOLDERS = ("from_docs", "second")
EXPECTED: dict[str, dict[str, dict[str, Any]]] = {
    folder: tomllib.loads((HERE / folder / "expected.toml").read_text(encoding="utf-8")) for folder in FOLDERS
}
FAULTY, CORRECT = (
    [(folder, name) for folder in FOLDERS for name in prompt_names(HERE / folder / kind)]
    for kind in ("faulty", "correct")
)
ENVIRONMENTS = {folder: make_environment(HERE / folder / "correct") for folder in FOLDERS}
# What is in a json value is not judged, and an ignore comment lets through what it silences.
MAY_FAIL = (
    {"examples_as_messages", "ignores_that_are_used", "json_items", "recursive_loop", "table_of_shows"}
    | {"underscore_names", "attribute_filters", "json_tree_recursive", "loop_filter_guard", "macro_recursion"}
    | {"ignored_on_purpose"}
)


@cache
def _findings(folder: str, kind: str) -> list[dict[str, Any]]:
    return [
        {"code": one.code, "path": one.path.removeprefix(f"{kind}/"), "line": one.line}
        for one in CheckSession(registry, HERE / folder / kind).findings()
        if one.severity != "info"
    ]


def _found(folder: str, kind: str, *paths: str) -> list[dict[str, Any]]:
    return [one for one in _findings(folder, kind) if one["path"] in paths]


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_faulty_prompt_has_an_expectation(folder: str):
    assert {name for place, name in FAULTY if place == folder} == set(EXPECTED[folder])
    assert min(sum(place == folder for place, _ in names) for names in (FAULTY, CORRECT)) >= 45


@pytest.mark.parametrize(("folder", "name"), FAULTY)
def test_a_faulty_prompt_has_its_one_finding(folder: str, name: str):
    path = f"{name}.prompt.j2"
    wanted = {"path": path} | EXPECTED[folder][name]
    assert _found(folder, "faulty", path, wanted["path"]) == [wanted]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_other_partial_of_a_faulty_prompt_has_a_finding(folder: str):
    names = [name for place, name in FAULTY if place == folder]
    paths = {EXPECTED[folder][name].get("path", f"{name}.prompt.j2") for name in names}
    paths |= {f"{name}.prompt.j2" for name in names}
    assert [one for one in _findings(folder, "faulty") if one["path"] not in paths] == []


@pytest.mark.parametrize(("folder", "name"), CORRECT)
def test_a_correct_prompt_has_none(folder: str, name: str):
    assert _found(folder, "correct", f"{name}.prompt.j2") == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_partials_of_correct_prompts_have_none(folder: str):
    assert [one for one in _findings(folder, "correct") if one["path"].startswith("_shared/")] == []


@pytest.mark.parametrize(("folder", "name"), [one for one in CORRECT if one[1] not in MAY_FAIL])
def test_a_correct_prompt_renders_for_every_value(folder: str, name: str):
    plan = compile_plan(registry, read_prompt(HERE / folder / "correct", name), ENVIRONMENTS[folder])
    for seed in range(25):
        with suppress(FeatureNotPresentError):
            render(plan, random.Random(seed))
