"""``llmfeatures check --types FILE``: types of the prompts for the application's editor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmfeatures.cli import terminal

if TYPE_CHECKING:
    from llmfeatures.project import Project
    from llmfeatures.prompt_plan import PromptPlan


def types(project: Path, file: Path | None, *, verify: bool = False) -> None:
    """Write the types of all prompts to a file; with ``verify`` only say whether it is up to date.

    Raises:
        Exit: with code 1: a prompt cannot be compiled, or the file is not up to date.
        RequestError: there is no file, or it is no stub or module, or cannot be written.
    """
    from llmfeatures.cli.findings import counted
    from llmfeatures.errors import RequestError
    from llmfeatures.project import Project
    from llmfeatures.stubs import types_are_current, write_types

    if file is None:
        raise RequestError("--verify goes with --types FILE: it says whether the file is up to date")
    plans = _plans(Project.load(project))
    if verify:
        if not types_are_current(plans, file):
            terminal.error(f"{file} is not up to date; llmfeatures check --types {file} writes it again")
            raise typer.Exit(1)
        terminal.write(f"{file} is up to date")
    elif write_types(plans, file):
        terminal.write(f"wrote {file}: the types of {counted(len(plans), 'prompt')}")
    else:
        terminal.write(f"{file} is up to date")


def _plans(project: Project) -> list[PromptPlan]:
    from llmfeatures.errors import LLMFeaturesError

    plans: list[PromptPlan] = []
    names = project.prompts.names()
    for name in names:
        try:
            plans.append(project.prompts.plan(name))
        except LLMFeaturesError as error:
            terminal.error(str(error))
    if len(plans) < len(names):
        raise typer.Exit(1)
    return plans
