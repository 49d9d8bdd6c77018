"""``llmfeatures history``: the prompts of a spine's moments, written to a file."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.check import counted
from llmfeatures.cli.options import HERE, JsonOption, ProjectOption

if TYPE_CHECKING:
    from llmfeatures.history import History, HistorySummary

SpineOption = Annotated[
    Path,
    typer.Option(
        "--spine", metavar="FILE", help="Join keys, event_timestamp and inputs: Parquet, CSV, JSONL or Arrow."
    ),
]
OutOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write; .parquet or .jsonl.")]
FormatOption = Annotated[
    str | None, typer.Option("--format", metavar="FORMAT", help="parquet or chat; the default is what --out ends in.")
]


def history(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt's name.")],
    spine: SpineOption,
    out: OutOption,
    format: FormatOption = None,
    clock: Annotated[str, typer.Option("--clock", metavar="CLOCK", help="known (the default) or event.")] = "known",
    allow_errors: Annotated[
        bool, typer.Option("--allow-errors", help="Exit code 0 also when rows have no prompt.")
    ] = False,
    project: ProjectOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Rebuild the prompts of a spine's moments, into a file.

    Each row of the spine gets the prompt as of its event_timestamp. A row whose prompt
    cannot be built keeps its place in Parquet, with the reason, and makes the exit code 1.
    """
    from llmfeatures.project import Project

    made = Project.load(project).history(prompt, spine, clock=clock)
    with _rows_done(made):
        summary = made.write(out, format)
    if as_json:
        terminal.write_json({"out": str(out), **summary_json(summary)})
    else:
        show_summary(out, summary)
    if summary.errors and not allow_errors:
        raise typer.Exit(1)


def summary_json(summary: HistorySummary) -> dict[str, Any]:
    """The counts as JSON."""
    return {**asdict(summary), "statuses": {name: dict(counts) for name, counts in summary.statuses.items()}}


def show_summary(out: Path, summary: HistorySummary) -> None:
    """The counts, as notes."""
    terminal.note(f"{counted(summary.rows - summary.errors, 'prompt')} of {counted(summary.rows, 'row')} in {out}")
    for name, counts in summary.statuses.items():
        terminal.note(f"{name}: {', '.join(f'{count:,} {status}' for status, count in counts.most_common())}")
    if summary.hidden:
        terminal.note(f"{counted(summary.hidden, 'value')} that the event clock would give had not arrived yet")
    if summary.errors:
        terminal.note(f"{counted(summary.errors, 'row')} without a prompt; the first: {summary.first_error}")


@contextmanager
def _rows_done(made: History) -> Generator[None]:
    """The rows done so far, on a terminal, until the block ends."""
    from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TimeElapsedColumn
    from rich.text import Text

    class RowsColumn(ProgressColumn):
        def render(self, task: Task) -> Text:  # noqa: ARG002
            return Text(f"{made.summary.rows:,} rows")

    err = terminal.console(stderr=True)
    columns = (SpinnerColumn(), RowsColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        bar.add_task("history", total=None)
        yield
