"""``llmfeatures push``: rows from a file, or from standard input, into the push log and online."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.options import HERE, JsonOption, ProjectOption

if TYPE_CHECKING:
    from llmfeatures.cli.pushed_file import Batch
    from llmfeatures.errors import PushedRowsError
    from llmfeatures.project import Project

BATCH_ROWS = 1_000
FOUND_PROBLEMS = 1


def push(
    view: Annotated[str, typer.Argument(help="The view; it has a PushSource.")],
    file: Annotated[str, typer.Argument(help="Parquet, JSONL, NDJSON or CSV by its suffix; - reads JSONL.")],
    push_id: Annotated[
        str | None,
        typer.Option(
            "--push-id",
            metavar="ID",
            help="Names this push: run again with the same one after an interruption, and nothing is pushed twice.",
        ),
    ] = None,
    project: ProjectOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Push rows to a view: durable in the push log, then online."""
    from llmfeatures.cli.pushed_file import batches
    from llmfeatures.project import Project

    loaded = Project.load(project)
    with closing(loaded):
        source = batches(file, loaded.registry.view(view), BATCH_ROWS)
        report = _push_all(loaded, view, source, push_id)
    if as_json:
        terminal.write_json(report)
    else:
        said = f"{report['rows']:,} rows of view {view} are durable"
        if report["repeated"]:
            said += f"; {report['repeated']:,} of them were already, under {push_id}"
        terminal.write(said)
        if report["problem"] is not None:
            terminal.note(f"some are not online yet, the next materialize does it: {report['problem']}")


def _push_all(project: Project, view: str, source: Iterator[Batch], push_id: str | None) -> dict[str, Any]:
    """Push batch after batch; a batch with a bad row ends it, and what came before it stays."""
    from llmfeatures.errors import LLMFeaturesError, PushedRowsError

    rows = repeated = number = 0
    problem: str | None = None
    batch: Batch | None = None
    try:
        with terminal.counting(f"push {view}") as progress:
            for number, batch in enumerate(source, start=1):
                name = None if push_id is None else f"{push_id}/{number:06}"
                done = project.push(view, batch.rows, push_id=name)
                rows += done.rows
                repeated += done.rows if done.repeated else 0
                problem = done.problem or problem
                progress(rows)
    except PushedRowsError as error:
        _tell(error, batch, rows)
        raise typer.Exit(FOUND_PROBLEMS) from None
    except (LLMFeaturesError, KeyboardInterrupt):
        if rows:
            terminal.note(f"{rows:,} rows are pushed, and nothing after them")
        raise
    return {
        "view": view,
        "push_id": push_id,
        "batches": number,
        "rows": rows,
        "repeated": repeated,
        "online": problem is None,
        "problem": problem,
    }


def _tell(error: PushedRowsError, batch: Batch | None, rows: int) -> None:
    """Name each bad row by its place in the file."""
    if batch is None or not error.problems:
        terminal.error(str(error))
    else:
        for row, column, reason in error.problems:
            terminal.error(f"{batch.place(row)}, column {column!r}: {reason}")
    if error.total > len(error.problems):
        terminal.error(f"and {error.total - len(error.problems):,} more")
    before = f"the {rows:,} rows before it are pushed, " if rows else ""
    terminal.note(f"{before}nothing of this batch and after it; mend the rows, and push again")
