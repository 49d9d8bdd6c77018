"""``llmfeatures check``: everything that is wrong with the project, before anything runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.options import HERE, JsonOption, ProjectOption

if TYPE_CHECKING:
    from llmfeatures.project import Problem


def check(project: ProjectOption = HERE, as_json: JsonOption = False) -> None:
    """Check the registry, its sources and every prompt file.

    Prints each problem as "where: error: message", or "where: warning: message". Exit code 1 when there is an error.
    """
    problems, views, prompts = _problems(project)
    if as_json:
        checked = {"views": views, "prompts": prompts}
        terminal.write_json({"problems": [asdict(one) for one in problems], "checked": checked})
    else:
        for one in problems:
            terminal.write(f"{one.where}: {one.severity}: {' '.join(one.message.split())}")
        terminal.write(_summary(problems, views, prompts))
    if any(one.severity == "error" for one in problems):
        raise typer.Exit(1)


def _problems(path: ProjectOption) -> tuple[list[Problem], int, int]:
    """The problems, and how many views and prompts were looked at. A registry that does not load is one of them."""
    from llmfeatures.errors import DefinitionError
    from llmfeatures.project import Problem, Project

    try:
        loaded = Project.load(path)
    except DefinitionError as error:
        return [Problem(severity="error", where="registry", message=str(error))], 0, 0
    return loaded.check(), len(loaded.registry.views), len(loaded.prompts.names())


def _summary(problems: list[Problem], views: int, prompts: int) -> str:
    counts = [counted(sum(one.severity == severity for one in problems), severity) for severity in ("error", "warning")]
    return f"checked {counted(views, 'view')}, {counted(prompts, 'prompt')}: {', '.join(counts)}"


def counted(number: int, noun: str) -> str:
    """``1 view``, ``2 views``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
