"""``llmfeatures test``: the cases of the prompts, built from given values and compared with what they expect."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.findings import counted
from llmfeatures.cli.options import HERE, JsonOption, ProjectOption

if TYPE_CHECKING:
    from llmfeatures.cases.coverage import Coverage
    from llmfeatures.cases.run import CaseResult, CasesReport
    from llmfeatures.project import Project


def cases(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="Prompts, by name or file; without one, all.")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write snapshots that are new or differ; remove unused ones.")
    ] = False,
    matching: Annotated[
        str, typer.Option("-k", metavar="TEXT", help='Only cases with this text in "prompt::id".')
    ] = "",
    branches: Annotated[
        bool, typer.Option("--coverage", help="Say which branches of the templates no case takes.")
    ] = False,
    project: ProjectOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Run the cases of the prompts, prompts/NAME.cases.yaml.

    Each case gives features and inputs, and says what the prompt is to contain. No store is opened. Exit code 1 when
    a case fails.
    """
    from llmfeatures.cases.coverage import cover
    from llmfeatures.cases.run import run_cases
    from llmfeatures.errors import RequestError
    from llmfeatures.project import Project

    loaded = Project.load(project)
    folder = loaded.config.prompts
    names = None if not prompts else [_name(one, folder) for one in prompts]
    show = None if as_json else partial(show_result, root=loaded.config.root)
    report = run_cases(loaded.prompts, folder, names, update=update, matching=matching, ran=show)
    if matching and not report.results:
        raise RequestError(f"no case has {matching!r} in its prompt::id; llmfeatures test --json lists all")
    covered = cover(loaded.registry, folder, names, matching=matching) if branches else None
    if as_json:
        terminal.write_json(_json(loaded, report, covered))
    else:
        _show_rest(loaded, report, covered)
    if not report.passed:
        raise typer.Exit(1)


def _name(written: str, folder: Path) -> str:
    """A prompt's name from its name, its file, or the file of its cases."""
    from llmfeatures.cases.file import SUFFIX as CASES
    from llmfeatures.prompts.file import SUFFIX as PROMPT

    for suffix in (CASES, PROMPT):
        if written.endswith(suffix):
            path = Path(written).resolve()
            if path.is_relative_to(folder.resolve()):
                return path.relative_to(folder.resolve()).as_posix().removesuffix(suffix)
            return written.removesuffix(suffix)
    return written


def show_result(result: CaseResult, *, root: Path) -> None:
    """What a case that failed expects, and how its prompt differs; which snapshot was written."""
    from llmfeatures.cases.text import differing, failure_line, shown_text
    from llmfeatures.cli import worddiff

    if result.snapshot is not None:
        terminal.write(f"wrote {_relative(result.snapshot, root)}")
    coloured = terminal.coloured()
    for failure in result.failures:
        terminal.write(terminal.safe(failure_line(result, failure)))
        for line in differing(failure.diff):
            if isinstance(line, int):
                terminal.write(f"  … {counted(line, 'line')}")
            elif coloured:
                terminal.write_styled(worddiff.styled(line, indent=2))
            else:
                terminal.write(f"  {worddiff.plain(line)}".rstrip())
    for line in shown_text(result):
        terminal.write(line)


def _show_rest(project: Project, report: CasesReport, covered: Coverage | None) -> None:
    root = project.config.root
    for path in report.removed:
        terminal.write(f"removed {_relative(path, root)}")
    for path in report.unused:
        terminal.note(f"no case uses {_relative(path, root)}; llmfeatures test --update removes it")
    if covered is not None:
        for one in covered.missed:
            terminal.write(f"{one.where}: no case {one.what}")
    terminal.write(summary(report))
    if covered is not None:
        terminal.write(f"{covered.taken:,} of {counted(covered.total, 'branch').replace('branchs', 'branches')} taken")
    if not report.results and not report.without_cases:
        terminal.note(f"there are no prompts in {project.config.project.prompts}")
    elif not report.results and len(report.without_cases) == len(project.prompts.names()):
        first = report.without_cases[0]
        terminal.note(
            f"write {project.config.project.prompts}/{first}.cases.yaml, like: "
            "- {id: nothing_is_known, expect: {snapshot: true}}"
        )


def summary(report: CasesReport) -> str:
    """``7 cases passed, 1 failed; 3 prompts have no cases``."""
    failed = sum(not one.passed for one in report.results)
    passed = len(report.results) - failed
    said = f"{counted(passed, 'case')} passed, {failed} failed"
    if report.without_cases:
        number = len(report.without_cases)
        shown = ", ".join(report.without_cases[:3]) + (f" and {number - 3} more" if number > 3 else "")
        said += f"; {counted(number, 'prompt')} {'has' if number == 1 else 'have'} no cases: {shown}"
    return said


def _json(project: Project, report: CasesReport, covered: Coverage | None) -> dict[str, Any]:
    root = project.config.root
    made: dict[str, Any] = {
        "cases": [_result_json(one, root) for one in report.results],
        "passed": sum(one.passed for one in report.results),
        "failed": sum(not one.passed for one in report.results),
        "without_cases": list(report.without_cases),
        "unused_snapshots": [_relative(path, root) for path in report.unused],
        "removed_snapshots": [_relative(path, root) for path in report.removed],
    }
    if covered is not None:
        missed = [
            {"path": one.path, "line": one.line, "column": one.column, "message": f"no case {one.what}"}
            for one in covered.missed
        ]
        made["coverage"] = {"branches": covered.total, "taken": covered.taken, "missed": missed}
    return made


def _result_json(result: CaseResult, root: Path) -> dict[str, Any]:
    from llmfeatures.cli import worddiff

    return {
        "prompt": result.prompt,
        "id": result.id or None,
        "path": result.path,
        "line": result.line,
        "passed": result.passed,
        "failures": [
            {
                "kind": one.kind,
                "message": one.message,
                "path": one.path,
                "line": one.line,
                "column": one.column,
                "diff": [worddiff.plain(line) for line in one.diff],
            }
            for one in result.failures
        ],
        "text": result.text,
        "tokens": result.tokens,
        "wrote_snapshot": None if result.snapshot is None else _relative(result.snapshot, root),
    }


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
