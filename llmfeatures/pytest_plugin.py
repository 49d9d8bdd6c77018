"""Prompt tests in pytest: each case of a project's ``prompts/NAME.cases.yaml`` is an item.

It does nothing, and loads nothing, where pytest meets no such file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llmfeatures.cases.file import Case
    from llmfeatures.cases.run import CaseResult
    from llmfeatures.project import Project

_CASES = ".cases.yaml"
_PROJECTS = pytest.StashKey[dict[Path, "Project | Exception"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--update-prompts``."""
    parser.getgroup("llmfeatures").addoption(
        "--update-prompts", action="store_true", help="write the snapshots of prompts that are new or differ"
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect files of cases below the prompts folder of a project."""
    if not file_path.name.endswith(_CASES):
        return None
    from llmfeatures.config import find_config
    from llmfeatures.config_file import find_tables
    from llmfeatures.errors import ConfigError
    from llmfeatures.prompts.file import SUFFIX

    try:
        if find_tables(file_path) is None:  # somebody else's file
            return None
        folder = find_config(file_path).prompts.resolve()
    except ConfigError:  # collecting says so: with no items, nobody would miss the cases
        beside = file_path.with_name(file_path.name.removesuffix(_CASES) + SUFFIX)
        return CasesFile.from_parent(parent, path=file_path) if beside.is_file() else None
    return CasesFile.from_parent(parent, path=file_path) if file_path.resolve().is_relative_to(folder) else None


class CasesFile(pytest.File):
    """A file of cases."""

    def collect(self) -> Iterator[pytest.Item]:
        """Its cases, each an item that is named by its id."""
        from llmfeatures.cases.file import read_cases
        from llmfeatures.errors import LLMFeaturesError

        try:
            project = _project(self.session, self.path)
            folder = project.config.prompts.resolve()
            prompt = self.path.resolve().relative_to(folder).as_posix().removesuffix(_CASES)
            cases = read_cases(folder, prompt)
        except LLMFeaturesError as error:
            raise self.CollectError(str(error)) from None
        for case in cases:
            yield CaseItem.from_parent(self, name=case.id, case=case, prompt=prompt, project=project)


class CaseItem(pytest.Item):
    """A case of a prompt."""

    def __init__(self, *, case: Case, prompt: str, project: Project, **options: Any) -> None:
        super().__init__(**options)
        self.case, self.prompt, self.project = case, prompt, project

    def runtest(self) -> None:
        """Build the case's prompt, and compare it with what the case expects."""
        from llmfeatures.cases.run import run_case
        from llmfeatures.errors import LLMFeaturesError, UnknownNameError

        try:
            plan = self.project.prompts.plan(self.prompt)
        except UnknownNameError as error:
            raise CaseFailedError(f"{self.case.path}:1: cases of a prompt that is not there: {error}") from None
        except LLMFeaturesError as error:
            raise CaseFailedError(str(error)) from None
        folder = self.project.config.prompts.resolve()
        try:
            result = run_case(plan, self.case, folder, update=bool(self.config.getoption("--update-prompts")))
        except LLMFeaturesError as error:  # the snapshot cannot be written
            raise CaseFailedError(str(error)) from None
        if not result.passed:
            raise CaseFailedError(failed_text(result))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What the command line prints, in place of a traceback."""
        if isinstance(excinfo.value, CaseFailedError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """The case's place, and its name."""
        return self.path, self.case.line - 1, f"{self.prompt}::{self.case.id}"


class CaseFailedError(Exception):
    """A case that failed; the message is all that is to be said."""


def failed_text(result: CaseResult) -> str:
    """What the command line prints for a case that failed, without colours."""
    from llmfeatures.cases.text import differing, failure_line, shown_text
    from llmfeatures.worddiff import plain

    lines: list[str] = []
    for failure in result.failures:
        lines.append(failure_line(result, failure))
        lines += [
            f"  … {one} lines" if isinstance(one, int) else f"  {plain(one)}".rstrip()
            for one in differing(failure.diff)
        ]
    return "\n".join([*lines, *shown_text(result)])


def _project(session: pytest.Session, path: Path) -> Project:
    """The project of a file, loaded once in a session.

    Raises:
        LLMFeaturesError: the registry or the configuration is wrong.
    """
    from llmfeatures.config import find_config
    from llmfeatures.project import Project

    known = session.stash.setdefault(_PROJECTS, {})
    root = find_config(path).root
    if root not in known:
        try:
            known[root] = Project.load(root)
        except Exception as error:  # noqa: BLE001  the registry is the user's code
            known[root] = error
    found = known[root]
    if isinstance(found, Exception):
        raise found
    return found
