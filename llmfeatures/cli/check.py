"""``llmfeatures check``: everything that is wrong with the project, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.asked import FAIL_ON, FORMATS, Asked, failed
from llmfeatures.cli.checked import checked, found_in, loaded_project
from llmfeatures.cli.findings import Checked, counted, write_findings
from llmfeatures.cli.options import HERE, JsonOption, ProjectOption

__all__ = ["check", "counted"]

_ROUNDS = 5
"""So often is mended what was left, since edits that overlap are applied one after the other."""


def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATHS", help="Prompt files, partials or folders of them; the whole project without."),
    ] = None,
    project: ProjectOption = HERE,
    format: Annotated[  # the option's name
        str | None, typer.Option("--format", metavar="FORMAT", help="text (the default), json, github or sarif.")
    ] = None,
    as_json: JsonOption = False,
    fix: Annotated[bool, typer.Option("--fix", help="Apply the fixes that are safe, then check again.")] = False,
    select: Annotated[
        list[str] | None, typer.Option("--select", metavar="CODES", help="Only these rules: LF020,LF021.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="CODES", help="Not these rules: LF041,LF062.")
    ] = None,
    fail_on: Annotated[
        str,
        typer.Option(
            "--fail-on", metavar="SEVERITY", help="From which on the exit code is 1: error, warning, info; or never."
        ),
    ] = "error",
    sources: Annotated[
        bool, typer.Option("--sources/--no-sources", help="Look into the views' sources, when no paths are given.")
    ] = True,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Check all anew, and keep nothing.")] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Print the pages of the rules that are named: --explain LF012; or list all."),
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a prompt's header.")] = False,
    types: Annotated[
        Path | None,
        typer.Option("--types", metavar="FILE", help="Write types of the prompts, for editors: prompts.pyi, or .py."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="git:REV", help="Say what changed since a revision, and what that does to prompts."
        ),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="With --types: only say whether it is up to date.")] = False,
) -> None:
    """Check the registry, its sources and every prompt file.

    Each finding has a code, a place, the line with the place marked, and what to do; --explain CODE says more.
    Exit code 1 when there is an error.
    """
    if explain:
        _explain([str(one) for one in paths or []], as_json=as_json or format == "json")
    elif schema:
        from llmfeatures.prompts.schema import schema_text

        terminal.write(schema_text().rstrip())
    elif types is not None or verify:
        from llmfeatures.cli.types import types as write_types

        write_types(project, types, verify=verify)
    elif against is not None:
        from llmfeatures.cli.against import against as check_against

        alone = not (paths or fix or select or ignore) and format in (None, "text", "json")
        check_against(project, against, as_json=as_json or format == "json", alone=alone)
    else:
        shape = _format(format, as_json=as_json)
        _choice("--fail-on", fail_on, tuple(FAIL_ON))
        asked = Asked(
            paths=tuple(paths or ()),
            select=None if select is None else tuple(select),
            ignore=tuple(ignore or ()),
            sources=sources and not paths,
        )
        found = _mended(asked, project, cached=not no_cache) if fix else checked(asked, project, cached=not no_cache)
        write_findings(found, shape)
        if failed(found, fail_on):
            raise typer.Exit(1)


def _mended(asked: Asked, project: Path, *, cached: bool) -> Checked:
    """What is left to find after mending what can be mended, which is told."""
    loaded = loaded_project(asked, project, cached=cached)
    if isinstance(loaded, Checked):
        return loaded
    checks, names = loaded
    found = found_in(checks, names, asked)
    for _ in range(_ROUNDS):
        done = checks.session.fix(found.findings)
        for one in done:
            places = ", ".join(f"{mended.code} on line {mended.line}" for mended in one.mended)
            said = f"{one.path} stays as it is: {one.refused}" if one.refused else f"mended {one.path}: {places}"
            terminal.note(said)
        if not any(one.mended for one in done):
            break
        found = found_in(checks, names, asked)
    return found


def _explain(codes: Sequence[str], *, as_json: bool) -> None:
    """Print the rules, or the pages of some; as JSON always with the pages."""
    from dataclasses import asdict

    from llmfeatures.checker.options import rule_codes
    from llmfeatures.checker.pages import page
    from llmfeatures.checker.rules import RULES

    rule_codes(codes)
    if as_json:
        rules = [RULES[code] for code in codes or RULES]
        terminal.write_json([{**asdict(rule), "page": page(rule.code)} for rule in rules])
        return
    if not codes:
        rows = [[rule.code, rule.severity, rule.name, rule.summary] for rule in RULES.values()]
        terminal.table(["code", "severity", "name", "what is wrong"], rows)
    for number, code in enumerate(codes):
        if number:
            terminal.write()
        terminal.write(page(code).rstrip())


def _format(format: str | None, *, as_json: bool) -> str:
    from llmfeatures.errors import RequestError

    shape = format or ("json" if as_json else "text")
    _choice("--format", shape, FORMATS)
    if as_json and shape != "json":
        raise RequestError(f"--json is --format json, and --format {shape} is given; leave one of them out")
    return shape


def _choice(option: str, given: str, choices: tuple[str, ...]) -> None:
    from llmfeatures.errors import RequestError, did_you_mean

    if given not in choices:
        raise RequestError(f"{option} has no {given!r}{did_you_mean(given, choices)}")
