"""Options of another type are refused by their name, before anything is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import Project
from llmfeatures.errors import RequestError
from llmfeatures.options import check_options
from tests.projects import NOW, at, make_project, segment

SPINE = {"user_id": ["u01"], "event_timestamp": [NOW]}
DRAWN = {"prompt", "seed", "every", "since", "until", "where", "inputs", "users"}
PREPARED = {"prompt", "seed", "sample", "stratify", "target", "label"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    there = [segment("u01", "casual", at(day=1), at(day=1))]
    root: Path = make_project(tmp_path_factory.mktemp("options"), segments=there)
    return Project.load(root, now=lambda: NOW)


@pytest.mark.parametrize(
    ("option", "value", "takes"),
    [
        ("every", 1, "a timedelta or text such as 1d, not int"),
        ("since", datetime(2026, 5, 1), "a timedelta or text such as 30d, not datetime"),
        ("until", 5, "a datetime or ISO 8601 text, not int"),
        ("where", 5, "one SQL expression as text, such as watch_count_30d > 20, not int"),
        ("inputs", 5, "a mapping from an input's name to its value, not int"),
        ("users", "3", "a whole number from 1 on, not str"),
        ("sample", True, "a whole number of rows, from 1 on, not bool"),
        ("stratify", ["segment"], "the name of a column, not list"),
        ("target", 5, "the name of a column, not int"),
        ("label", 5, "text such as last_genre@+7d, not int"),
        ("seed", "a", "a whole number, not str"),
        ("seed", None, "a whole number, not None"),
        ("without", 5, "a feature's name, or a list of them, not int"),
        ("prompt", 5, "a prompt's name, not int"),
    ],
)
def test_an_option_of_another_type_is_refused_by_name(project: Project, option: str, value: Any, takes: str) -> None:
    given = {"prompt": "home", option: value}
    calls: list[tuple[Callable[..., Any], dict[str, Any]]] = [(project.history, given)]
    if option in DRAWN:
        calls.append((project.spine, given))
    if option in PREPARED:
        calls += [(project.prepared_spine, {"spine": SPINE, **given}), (project.history, {"spine": SPINE, **given})]
    for method, arguments in calls:
        with pytest.raises(RequestError, match=f"^{re.escape(f'{option} is {takes}')}$"):
            method(**arguments)


def test_a_drawn_spine_needs_its_steps(project: Project) -> None:
    for option in ("every", "since"):
        given: dict[str, Any] = {option: None}
        with pytest.raises(RequestError, match=f"^{option} is .*, not None$"):
            project.spine("home", **given)
        assert project.history("home", users=1, **given).read_all().num_rows == 6


def test_names_of_inputs_are_text(project: Project) -> None:
    given: dict[str, Any] = {"inputs": {5: 1}}
    with pytest.raises(RequestError, match=r"^inputs is a mapping .*, and 5 is no name$"):
        project.history("home", **given)


def test_none_is_an_option_that_is_not_given() -> None:
    check_options({"users": None, "where": None, "without": None})
    check_options({"without": ["segment"], "seed": 3, "prompt": "home"})
