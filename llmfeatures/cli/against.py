"""``llmfeatures check --against``: what changed since a revision, and what that does."""

from __future__ import annotations

from pathlib import Path

import typer

from llmfeatures.cli import terminal


def against(project: Path, written: str, *, as_json: bool, alone: bool = True) -> None:
    """Print what changed. Exit code 1 when a prompt has an error that it would not have had before. ``alone``: no
    other option of `check` is given."""
    from llmfeatures.errors import RequestError
    from llmfeatures.project import Project

    if not alone:
        raise RequestError("--against looks at the whole project; of the other options it takes --json and --project")
    found = Project.load(project).check_against(written)
    if as_json:
        terminal.write_json(found.as_json())
    else:
        for line in found.lines():
            terminal.write(terminal.safe(line))
    if found.breaks:
        raise typer.Exit(1)
