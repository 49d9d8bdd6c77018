"""``llmfeatures materialize``: the newest rows, from history to the online store, and documents to their index."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.options import HERE, JsonOption, ProjectOption

if TYPE_CHECKING:
    from llmfeatures.materialize import MaterializeReport

DOCUMENT_COLUMNS = (
    "retriever", "mode", "documents", "versions", "embedded", "written", "removed", "unchanged", "seconds",
)  # fmt: skip
COLUMNS = ("view", "mode", "rows read", "keys written", "skipped", "refused", "removed", "non-finite", "seconds")


def materialize(
    views: Annotated[list[str] | None, typer.Argument(help="Names of views and retrievers; none means all.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Replace everything, not only what is new.")] = False,
    until: Annotated[
        str | None, typer.Option("--until", metavar="T", help="Take rows up to this moment; the default is now.")
    ] = None,
    due: Annotated[bool, typer.Option("--due", help="Only what is due by its cadence; for cron.")] = False,
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="N", help="Write at most so many rows, or documents, per second.")
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Write also what a view's expect, or the guard of an index, would refuse.")
    ] = False,
    project: ProjectOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Bring the newest rows of the offline store online, and documents into their index.

    A view or retriever that fails does not stop the others; exit code 1.
    """
    from llmfeatures.project import Project

    loaded = Project.load(project)
    with terminal.view_progress() as progress:
        report = loaded.materialize(
            views or None, full=full, until=until, due=due, rate=rate, accept=accept, check=False, progress=progress
        )
    if as_json:
        terminal.write_json(report_json(report))
    elif report.running_elsewhere:
        terminal.note("another run of --due is going on in this project; nothing was done")
    elif due and not (report.views or report.retrievers or report.failures):
        terminal.note("nothing is due" if loaded.registry.retrievers else "no view is due")
    else:
        show_report(report)
    for failure in report.failures:
        terminal.error(failure.message if failure.error else f"view {failure.view!r} was not run")
    if report.failures:
        raise typer.Exit(1)


def report_json(report: MaterializeReport) -> dict[str, Any]:
    """What a run did, for a program."""
    return {
        "views": [{**asdict(one), "until": terminal.moment_text(one.until)} for one in report.views],
        "retrievers": [asdict(one) for one in report.retrievers],
        "failures": [
            {"view": one.view, "error": type(one.error).__name__ if one.error else None, "message": one.message}
            for one in report.failures
        ],
        "running_elsewhere": report.running_elsewhere,
    }


def show_report(report: MaterializeReport) -> None:
    """What a run did, view by view and retriever by retriever."""
    if report.views:
        _show_views(report)
    if report.retrievers:
        if report.views:
            terminal.write()
        _show_retrievers(report)


def _show_retrievers(report: MaterializeReport) -> None:
    rows = [
        (
            one.retriever,
            "full" if one.full else "incremental",
            *(
                f"{count:,}"
                for count in (one.documents, one.versions, one.embedded, one.written, one.removed, one.unchanged)
            ),
            f"{one.seconds:.2f}",
        )
        for one in report.retrievers
    ]
    terminal.table(DOCUMENT_COLUMNS, rows, numbers=DOCUMENT_COLUMNS[2:])


def _show_views(report: MaterializeReport) -> None:
    rows = [
        (
            one.view,
            "full" if one.full else "incremental",
            *(
                f"{count:,}"
                for count in (
                    one.rows_read,
                    one.keys_written,
                    one.skipped,
                    one.refused,
                    one.removed,
                    one.non_finite,
                )
            ),
            f"{one.seconds:.2f}",
        )
        for one in report.views
    ]
    terminal.table(COLUMNS, rows, numbers=COLUMNS[2:])
