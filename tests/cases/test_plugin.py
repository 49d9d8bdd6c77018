"""The pytest plugin, in fresh projects."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.projects import make_project

ROOT = Path(__file__).parents[2]
PROMPTS = {"home": "{{ segment }}\n", "support/answer": "---\nfeatures: {watched: {default: 0}}\n---\n{{ watched }}\n"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_project(tmp_path, prompts=PROMPTS)
    (root / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    return root


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")


def ran(root: Path, *options: str) -> tuple[int, str]:
    """A run of pytest with this plugin alone: others take seconds to load."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "llmfeatures.pytest_plugin", *options]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env=alone)
    return done.returncode, done.stdout + done.stderr


def test_cases_are_items_beside_tests(root: Path) -> None:
    write(root, "prompts/home.cases.yaml", "- id: good\n  features: {segment: x}\n- id: bad\n")
    write(root, "prompts/support/answer.cases.yaml", "- {id: zero, expect: {contains: '0'}}\n")
    write(root, "tests/test_it.py", "def test_it(): ...\n")
    code, out = ran(root, "-v")
    assert code == 1
    for line in (
        "prompts/home.cases.yaml::good PASSED",
        "prompts/home.cases.yaml::bad FAILED",
        "prompts/support/answer.cases.yaml::zero PASSED",
        "tests/test_it.py::test_it PASSED",
    ):
        assert line in out
    assert "prompts/home.cases.yaml:3:3: bad: the prompt cannot be built: feature 'segment' of prompt 'home'" in out
    assert "Traceback" not in out
    assert "1 passed" in ran(root, "-q", "prompts/home.cases.yaml::good")[1]


def test_a_broken_configuration_is_an_error_and_no_missing_test(root: Path) -> None:
    write(root, "prompts/home.cases.yaml", "- id: good\n  features: {segment: x}\n")
    write(root, "tests/other.cases.yaml", "somebody else's\n")
    write(root, "tests/test_it.py", "def test_it(): ...\n")
    with (root / "llmfeatures.toml").open("a", encoding="utf-8") as file:
        file.write("\nx = [\n")
    code, out = ran(root)
    assert code == 2
    assert "llmfeatures.toml cannot be read" in out
    assert "1 error" in out


def test_a_failure_shows_what_the_command_line_shows(root: Path) -> None:
    write(root, "prompts/home.cases.yaml", "- id: a\n  features: {segment: a word}\n  expect: {snapshot: true}\n")
    assert "there is no snapshot prompts/home.snapshots/a.txt yet" in ran(root)[1]
    assert ran(root, "--update-prompts")[0] == 0
    assert (root / "prompts/home.snapshots/a.txt").read_text() == "a word\n"
    write(root, "prompts/home.snapshots/a.txt", "a work\n")
    code, out = ran(root)
    assert code == 1
    assert "prompts/home.cases.yaml:3:22: a: the prompt differs from prompts/home.snapshots/a.txt" in out
    assert "  -a [-work-]\n  +a {+word+}\n" in out


def test_a_file_that_is_wrong_is_an_error_of_collection(root: Path) -> None:
    write(root, "prompts/home.cases.yaml", "- id: a\n  expct: {}\n")
    write(root, "prompts/gone.cases.yaml", "- id: a\n")
    code, out = ran(root, "--continue-on-collection-errors")
    assert code == 1
    assert "prompts/home.cases.yaml:2:3: unknown key 'expct'; did you mean 'expect'?" in out
    assert "cases of a prompt that is not there: unknown prompt 'gone'" in out
    assert "Traceback" not in out


def test_a_registry_that_is_wrong_is_an_error_of_collection(root: Path) -> None:
    write(root, "prompts/home.cases.yaml", "- id: a\n")
    write(root, "features.yaml", "views: 5\n")
    code, out = ran(root)
    assert code == 2
    assert "ERROR prompts/home.cases.yaml" in out
    assert "Traceback" not in out


def test_other_peoples_files_are_left_alone(root: Path, tmp_path: Path) -> None:
    write(root, "other/x.cases.yaml", "this: is\nno: [case\n")
    write(root, "prompts/home.cases.yaml", "- id: good\n  features: {segment: x}\n")
    assert "1 passed" in ran(root, "-q")[1]
    (root / "llmfeatures.toml").unlink()
    assert ran(root, "-q")[0] == 5


def test_without_such_a_file_nothing_of_the_package_is_loaded(tmp_path: Path) -> None:
    write(
        tmp_path,
        "test_it.py",
        "import sys\ndef test_it():\n    assert {one for one in sys.modules if one.startswith('llmfeatures')} <= "
        "{'llmfeatures', 'llmfeatures.version', 'llmfeatures.pytest_plugin'}\n",
    )
    write(tmp_path, "pytest.ini", "[pytest]\nfilterwarnings = error\n")
    code, out = ran(tmp_path, "-q")
    assert code == 0, out


def test_the_package_brings_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"llmfeatures": "llmfeatures.pytest_plugin"}
