"""``llmfeatures materialize``: the newest rows, from history to the online store."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.options import HERE, JsonOption, ProjectOption

if TYPE_CHECKING:
    from llmfeatures.materialize import MaterializeReport

COLUMNS = ("view", "mode", "rows read", "keys written", "skipped", "refused", "removed", "non-finite", "seconds")


def materialize(
    views: Annotated[list[str] | None, typer.Argument(help="Names of views; none means all.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Replace everything, not only what is new.")] = False,
    until: Annotated[
        str | None, typer.Option("--until", metavar="T", help="Take rows up to this moment; the default is now.")
    ] = None,
    project: ProjectOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Bring the newest rows of the offline store online."""
    from llmfeatures.project import Project

    loaded = Project.load(project)
    with terminal.view_progress() as progress:
        report = loaded.materialize(views or None, full=full, until=until, progress=progress)
    if as_json:
        terminal.write_json(
            {"views": [{**asdict(one), "until": terminal.moment_text(one.until)} for one in report.views]}
        )
    else:
        show_report(report)


def show_report(report: MaterializeReport) -> None:
    """What a run did, view by view."""
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
