"""``llmfeatures check``: everything that is wrong with the project, before anything runs."""

from __future__ import annotations

import gc
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.asked import FAIL_ON, FORMATS, Asked, answered, failed, text_of
from llmfeatures.cli.findings import Checked, counted, write_findings
from llmfeatures.cli.options import HERE, JsonOption, ProjectOption

if TYPE_CHECKING:
    from llmfeatures.checker.warm import WarmRuns
    from llmfeatures.checking import ProjectCheck

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
        _explain([str(one) for one in paths or []])
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
        found = _mended(asked, project, cached=not no_cache) if fix else _checked(asked, project, cached=not no_cache)
        write_findings(found, shape)
        if failed(found, fail_on):
            raise typer.Exit(1)


def _checked(asked: Asked, project: Path, *, cached: bool) -> Checked:
    """What is found; the same as the last time, with nothing loaded, when nothing has changed."""
    from llmfeatures.checker.warm import WarmRuns

    runs = WarmRuns(project) if cached else None
    if runs is not None and (run := runs.find(asked.question())) is not None:
        return answered(run)
    with _seldom_collected():
        return _checked_anew(asked, project, runs)


def _checked_anew(asked: Asked, project: Path, runs: WarmRuns | None) -> Checked:
    """What is found; with ``runs``, it is kept there."""
    from llmfeatures.checker.warm import Inputs, Run, recording

    inputs = Inputs()
    with recording(inputs, project if runs is None else runs.root):
        loaded = _loaded(asked, project, cached=runs is not None)
    if isinstance(loaded, Checked):
        return loaded
    checks, names = loaded
    inputs.include(checks.inputs(sources=asked.sources))
    before = {} if runs is None else runs.depend(inputs)
    found = _found(checks, names, asked)
    if runs is not None:
        base = checks.config.prompts.parent
        run = Run(findings=tuple(found.findings), views=found.views, prompts=found.prompts, base=base, home=found.home)
        runs.keep(asked.question(), inputs, before, run)
    return found


@contextmanager
def _seldom_collected() -> Generator[None]:
    """A syntax tree is many objects and no garbage: looking for some at each turn is a tenth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(1_000_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _loaded(asked: Asked, project: Path, *, cached: bool) -> tuple[ProjectCheck, Sequence[str] | None] | Checked:
    """The checks of a project and the prompts that are meant; the one finding about a registry that does not load."""
    from llmfeatures.checker.options import rule_codes
    from llmfeatures.checking import ProjectCheck, combined, home_of, registry_finding
    from llmfeatures.config import find_config
    from llmfeatures.errors import DefinitionError
    from llmfeatures.registry import load_registry

    config = find_config(project)
    chosen = None if asked.select is None else rule_codes(asked.select)
    options = combined(config.check.options(), select=chosen, ignore=rule_codes(asked.ignore))
    try:
        registry = load_registry(config.project.registry, config.root)
    except DefinitionError as error:
        found = registry_finding(error, config.project.registry)
        root = config.root
        return Checked(
            findings=[found],
            views=0,
            prompts=0,
            source=lambda path: text_of(root / path),
            file_of=root.joinpath,
            home=home_of(config),
        )
    checks = ProjectCheck(config=config, registry=registry, options=options, cached=cached, processes=2)
    return checks, checks.names_in(asked.paths) if asked.paths else None


def _found(checks: ProjectCheck, names: Sequence[str] | None, asked: Asked) -> Checked:
    from llmfeatures.config import open_offline

    offline = (lambda: open_offline(checks.config)) if asked.sources else None
    return Checked(
        findings=checks.findings(names, offline=offline),
        views=len(checks.registry.views),
        prompts=len(checks.session.names() if names is None else names),
        source=checks.session.source,
        file_of=checks.session.file_of,
        home=checks.home,
    )


def _mended(asked: Asked, project: Path, *, cached: bool) -> Checked:
    """What is left to find after mending what can be mended, which is told."""
    loaded = _loaded(asked, project, cached=cached)
    if isinstance(loaded, Checked):
        return loaded
    checks, names = loaded
    found = _found(checks, names, asked)
    for _ in range(_ROUNDS):
        done = checks.session.fix(found.findings)
        for one in done:
            places = ", ".join(f"{mended.code} on line {mended.line}" for mended in one.mended)
            said = f"{one.path} stays as it is: {one.refused}" if one.refused else f"mended {one.path}: {places}"
            terminal.note(said)
        if not any(one.mended for one in done):
            break
        found = _found(checks, names, asked)
    return found


def _explain(codes: Sequence[str]) -> None:
    """Print the rules, or the pages of some."""
    from llmfeatures.checker.options import rule_codes
    from llmfeatures.checker.pages import page
    from llmfeatures.checker.rules import RULES

    if not codes:
        rows = [[rule.code, rule.severity, rule.name, rule.summary] for rule in RULES.values()]
        terminal.table(["code", "severity", "name", "what is wrong"], rows)
    rule_codes(codes)
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
