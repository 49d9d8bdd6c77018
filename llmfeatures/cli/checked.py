"""What a check finds: the same as the last time, or anew. Loads nothing of the command line's library."""

from __future__ import annotations

import gc
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llmfeatures.cli.asked import Asked, answered, text_of
from llmfeatures.cli.findings import Checked

if TYPE_CHECKING:
    from llmfeatures.checker.warm import WarmRuns
    from llmfeatures.checking import ProjectCheck


def checked(asked: Asked, project: Path, *, cached: bool) -> Checked:
    """What is found; the same as the last time, with nothing loaded, when nothing has changed."""
    from llmfeatures.checker.warm import WarmRuns

    runs = WarmRuns(project) if cached else None
    if runs is not None and (run := runs.find(asked.question())) is not None:
        return answered(run)
    return checked_anew(asked, project, runs)


def checked_anew(asked: Asked, project: Path, runs: WarmRuns | None) -> Checked:
    """What is found; with ``runs``, it is kept there."""
    with _seldom_collected():
        return _checked(asked, project, runs)


def _checked(asked: Asked, project: Path, runs: WarmRuns | None) -> Checked:
    from llmfeatures.checker.warm import Inputs, Run, recording

    inputs = Inputs()
    with recording(inputs, project if runs is None else runs.root):
        loaded = loaded_project(asked, project, cached=runs is not None)
    if isinstance(loaded, Checked):
        return loaded
    checks, names = loaded
    inputs.include(checks.inputs(sources=asked.sources))
    before = {} if runs is None else runs.depend(inputs)
    found = found_in(checks, names, asked)
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


def loaded_project(asked: Asked, project: Path, *, cached: bool) -> tuple[ProjectCheck, Sequence[str] | None] | Checked:
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


def found_in(checks: ProjectCheck, names: Sequence[str] | None, asked: Asked) -> Checked:
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
