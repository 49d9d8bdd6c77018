"""``llmfeatures history``: the prompts of many moments, written to a file."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from llmfeatures.cli import interrupts, terminal
from llmfeatures.cli.check import counted
from llmfeatures.cli.options import (
    HERE,
    JsonOption,
    LiveDocumentsOption,
    ProjectOption,
    ReleaseOption,
    at_release,
    parse_pairs,
    split_pairs,
)

if TYPE_CHECKING:
    from llmfeatures.history import History, HistorySummary
    from llmfeatures.ports import JoinStep
    from llmfeatures.project import Project

SpineOption = Annotated[
    Path | None,
    typer.Option(
        "--spine",
        metavar="FILE",
        help="Join keys, event_timestamp and inputs: Parquet, CSV, JSONL or Arrow.",
    ),
]
UsersOption = Annotated[
    int | None,
    typer.Option(
        "--users",
        metavar="N",
        help="Instead of a spine: draw N users from history, each at many moments.",
    ),
]
EveryOption = Annotated[
    str | None, typer.Option("--every", metavar="DURATION", help="Drawn users: the time between two moments (1d).")
]
SinceOption = Annotated[
    str | None, typer.Option("--since", metavar="DURATION", help="Drawn users: how far back moments go (30d).")
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="T", help="Drawn users: the last moment (now).")]
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="SQL",
        help="Drawn users: a condition on join keys, event_timestamp and features as they were then.",
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME=VALUE", help="Drawn users: an input of the prompt; repeatable."),
]
TargetOption = Annotated[
    str | None, typer.Option("--target", metavar="COLUMN", help="The spine's column that holds the label.")
]
LabelOption = Annotated[
    str | None,
    typer.Option(
        "--label", metavar="FEATURE@+TIME", help="The label: a feature's value so long after, like last_genre@+7d."
    ),
]
SampleOption = Annotated[int | None, typer.Option("--sample", metavar="N", help="Take N of the spine's rows.")]
StratifyOption = Annotated[
    str | None,
    typer.Option("--stratify", metavar="COLUMN", help="With --sample: each value of a column in its share."),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split", metavar="NAME=SHARE,…", help="A file per part, no user in two of them: train=0.8,test=0.2."
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", help="Of every random choice.")]
WithoutOption = Annotated[
    list[str] | None,
    typer.Option(
        "--without", metavar="FEATURE", help="Each prompt a second time as if the feature were missing; repeatable."
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Where to write; .parquet, .jsonl, .jsonl.gz, .jsonl.zst.")
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="parquet, chat, promptfoo, inspect, hf, langfuse or mlflow; the default is what --out ends in.",
    ),
]
ReportOption = Annotated[
    Path | None, typer.Option("--report", metavar="FILE.html", help="A page about the prompts, to look at.")
]

_PARQUET = ("parquet", "hf")
_LINES = ("chat", "promptfoo", "inspect", "langfuse", "mlflow")


def history(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt's name.")],
    spine: SpineOption = None,
    users: UsersOption = None,
    every: EveryOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    where: WhereOption = None,
    inputs: InputOption = None,
    target: TargetOption = None,
    label: LabelOption = None,
    sample: SampleOption = None,
    stratify: StratifyOption = None,
    split: SplitOption = None,
    seed: SeedOption = 0,
    without: WithoutOption = None,
    out: OutOption = None,
    format: FormatOption = None,
    report: ReportOption = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Continue an interrupted run of the same, or begin anew."),
    ] = True,
    clock: Annotated[str, typer.Option("--clock", metavar="CLOCK", help="known (the default) or event.")] = "known",
    explain: Annotated[
        bool, typer.Option("--explain", help="Show how the join would be done, and write nothing.")
    ] = False,
    release: ReleaseOption = None,
    live_documents: LiveDocumentsOption = False,
    allow_errors: Annotated[
        bool, typer.Option("--allow-errors", help="Exit code 0 also when rows have no prompt.")
    ] = False,
    project: ProjectOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Rebuild the prompts of many moments, into a file.

    Each row of the spine, or each drawn user and moment, gets the prompt as of its
    event_timestamp. A row whose prompt cannot be built keeps its place in Parquet, with
    the reason, and makes the exit code 1. A run that was interrupted continues when
    the same command is run again.
    """
    from llmfeatures.errors import RequestError
    from llmfeatures.export.writing import part_paths, shares
    from llmfeatures.project import Project

    loaded = Project.load(project)
    then = "then" if release == "then" else None
    loaded = at_release(loaded, None if then else release, None)
    if spine is None and users is None and where is None:
        raise RequestError("whose prompts? give --spine FILE, or --users N for users and moments from history")
    if out is None and not explain:
        raise RequestError("give --out FILE for where to write, or --explain to see how the join would be done")
    for option, path in (("--out", out), ("--report", report)):
        if path == Path("-"):
            raise RequestError(f"{option} is the name of a file, and nothing is written to standard output")
    if out is not None and not explain:
        _check_name(out, format)
    given: dict[str, Any] = {"users": users, "every": every, "since": since, "until": until, "where": where}
    given["inputs"] = _inputs(loaded, prompt, inputs) if inputs else None
    given = {name: value for name, value in given.items() if value is not None}
    drawn = _drawn(loaded, prompt, {**given, "seed": seed, "clock": clock}) if spine is None else None
    made = loaded.history(
        prompt,
        drawn if spine is None else spine,
        clock=clock,
        **({} if spine is None else given),
        sample=sample,
        stratify=stratify,
        target=target,
        label=label,
        seed=seed,
        without=without or None,
        release=then,
        live_documents=live_documents,
    )
    if out is None or explain:
        _explain(made.explain(), as_json=as_json)
        return
    with _kept(made), _rows_done(made):
        summary = made.write(out, format, split=split, seed=seed, report=report, resume=resume, note=terminal.note)
    files = {name: str(path) for name, path in part_paths(out, shares(split)).items()} if split else {}
    if not summary.rows:
        terminal.note(f"no rows were found: {_no_rows(spine, where)}")
    if as_json:
        terminal.write_json({**({"parts": files} if files else {"out": str(out)}), **summary_json(summary)})
    else:
        show_summary(", ".join(files.values()) or str(out), summary)
        if report is not None:
            terminal.note(f"a page about them in {report}")
    if summary.errors and not allow_errors:
        raise typer.Exit(1)


def _inputs(loaded: Project, prompt: str, written: Sequence[str]) -> Mapping[str, Any]:
    plan = loaded.prompts.plan(prompt)
    dtypes = {name: one.dtype for name, one in plan.inputs.items()}
    words, pairs = split_pairs(written)
    return parse_pairs(pairs | dict.fromkeys(words, ""), dtypes, f"prompt {prompt!r}")


def _explain(steps: Sequence[JoinStep], *, as_json: bool) -> None:
    """How the join would go: a line per group of views that are read together."""
    if as_json:
        terminal.write_json([asdict(step) for step in steps])
        return
    rows = [[", ".join(step.views), step.strategy, str(step.passes), step.reason] for step in steps]
    terminal.table(["views", "strategy", "passes", "why"], rows, numbers=["passes"])


def _drawn(loaded: Project, prompt: str, options: Mapping[str, Any]) -> object:
    """The drawn spine; it is told when it has fewer users than were asked for."""
    from llmfeatures.report.origin import users_drawn

    table: object = cast("Any", loaded).spine(prompt, **options)
    asked, found = options.get("users"), users_drawn(table)
    if asked is not None and found and found < asked:  # of no users at all, the rows tell
        users = f"{counted(found, 'user')} {'is' if found == 1 else 'are'} known"
        terminal.note(f"{users}{' for whom --where is ever true' if 'where' in options else ''}, not {asked:,}")
    return table


def _check_name(out: Path, format: str | None) -> None:
    """Say it when a file's name says another form than the format has.

    Raises:
        RequestError: it says that Parquet is compressed from outside.
    """
    from llmfeatures.errors import RequestError
    from llmfeatures.export.writing import suffixes

    suffix = suffixes(out)[1]
    if format in _PARQUET:
        if suffix.endswith((".gz", ".zst")):
            raise RequestError(f"{out.name}: {format} is a Parquet file, compressed inside; end --out in .parquet")
        if suffix in {".jsonl", ".ndjson", ".json", ".csv"}:
            terminal.note(f"{out.name} is a Parquet file, as the format {format} is; end --out in .parquet to say so")
    elif format in _LINES and ".parquet" in suffix:
        terminal.note(f"{out.name} is lines of JSON, as the format {format} is; end --out in .jsonl to say so")


def _no_rows(spine: Path | None, where: str | None) -> str:
    """What to check when there is no row."""
    if spine is not None:
        return f"{spine} is empty; check how it was made"
    if where is None:
        return "check --since and --until"
    return "--where is true for nobody at any of the moments; check its values, --since and --until"


def summary_json(summary: HistorySummary) -> dict[str, Any]:
    """The counts as JSON."""
    return summary.as_json()


def show_summary(out: str, summary: HistorySummary) -> None:
    """The counts, as notes."""
    terminal.note(f"{counted(summary.rows - summary.errors, 'prompt')} of {counted(summary.rows, 'row')} in {out}")
    for name, counts in summary.statuses.items():
        if not counts:
            continue
        terminal.note(f"{name}: {', '.join(f'{count:,} {status}' for status, count in counts.most_common())}")
    for name, counts in summary.documents.items():
        terminal.note(f"{name}: {documents_text(counts)}")
    if summary.hidden:
        terminal.note(f"{counted(summary.hidden, 'value')} that the event clock would give had not arrived yet")
    if summary.labels is not None and summary.labels["note"]:
        terminal.note(summary.labels["note"])
    if summary.errors:
        terminal.note(f"{counted(summary.errors, 'row')} without a prompt; the first: {summary.first_error}")


def documents_text(counts: Mapping[str, int]) -> str:
    """The documents in prompts by tier, and the prompts without any."""
    from llmfeatures.document_rows import WITHOUT

    found = [f"{counted(count, 'document')} ({tier})" for tier, count in counts.items() if tier != WITHOUT]
    without = counts.get(WITHOUT, 0)
    return ", ".join([*found, *([f"{counted(without, 'prompt')} without any"] if without else [])]) or "no prompts"


@contextmanager
def _kept(made: History) -> Generator[None]:
    """When the block is left without an end, say what is kept of it. To be terminated is to be interrupted."""
    try:
        with _terminated():
            yield
    except BaseException as error:
        if made.kept:
            terminal.note(f"kept {counted(made.kept, 'row')}; run the same command again to continue")
        elif isinstance(error, KeyboardInterrupt) or interrupts.pressed():
            terminal.note("nothing is written, and nothing kept")
        raise


@contextmanager
def _terminated() -> Generator[None]:
    """Have SIGTERM, with which a container is stopped, end the block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _rows_done(made: History) -> Generator[None]:
    """The rows done so far, their rate and the time left, on a terminal, until the block ends."""
    from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TimeElapsedColumn
    from rich.text import Text

    total = made.total

    class RowsColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(progress_text(made.summary.rows, total, task.elapsed or 0.0, made.summary.resumed))

    err = terminal.console(stderr=True)
    columns = (SpinnerColumn(), RowsColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        bar.add_task("history", total=None)
        yield


def progress_text(rows: int, total: int | None, seconds: float, before: int = 0) -> str:
    """How far a history is: rows, of how many, how fast, and the time left where both are known. ``before`` of the rows
    were done by an earlier run, and none of its time counts."""
    if rows <= before or not seconds:
        return "joining" if total is None else f"joining {total - before:,} rows"
    rate = (rows - before) / seconds
    done = f"{rows:,} rows" if total is None else f"{rows:,} of {total:,} rows"
    left = "" if total is None else f", {timedelta(seconds=round(max(0, total - rows) / rate))} left"
    return f"{done}, {rate:,.0f} rows/s{left}"
