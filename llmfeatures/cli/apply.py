"""``llmfeatures apply``: the files become the active release; or an earlier release does."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.findings import counted
from llmfeatures.cli.options import HERE, JsonOption, ProjectOption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmfeatures.project import Project
    from llmfeatures.releases import Release, Releases
    from llmfeatures.releases.changes import Changes, PromptChange
    from llmfeatures.releases.making import Applied


def apply(
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="What changed and why, for people.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and keep nothing.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the releases instead, the newest first.")] = False,
    show: Annotated[
        str | None, typer.Option("--show", metavar="ID", help="Show a release instead: an id, active or previous.")
    ] = None,
    rollback: Annotated[
        str | None,
        typer.Option("--rollback", metavar="ID", help="Make an earlier release the active one: an id, or previous."),
    ] = None,
    project: ProjectOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Check everything, and make the registry and the prompts the active release.

    A release is kept for ever, with the whole text of its prompts. A running service goes
    over to it by itself. Exit code 1 when something is wrong; nothing is applied then.
    """
    from llmfeatures.errors import RequestError
    from llmfeatures.project import Project

    asked = [name for name, given in (("--list", listed), ("--show", show), ("--rollback", rollback)) if given]
    if len(asked) > 1:
        raise RequestError(f"{asked[0]} and {asked[1]} are two things to do; give one of them")
    if dry_run and asked:
        raise RequestError(f"--dry-run goes with applying the files, not with {asked[0]}")
    if message and asked and asked != ["--rollback"]:
        raise RequestError(f"--message goes with applying or --rollback, not with {asked[0]}")
    loaded = Project.load(project)
    if listed:
        list_releases(loaded.releases, as_json=as_json)
    elif show is not None:
        show_release(loaded.releases.find(show), as_json=as_json)
    elif rollback is not None:
        show_applied(loaded.roll_back(rollback, message), as_json=as_json, verb="rolled back to")
    else:
        show_applied(_applied(loaded, message, dry_run=dry_run, as_json=as_json), as_json=as_json, verb="applied")


def _applied(loaded: Project, message: str, *, dry_run: bool, as_json: bool) -> Applied:
    from llmfeatures.errors import ReleaseError

    try:
        return loaded.apply(message, dry_run=dry_run)
    except ReleaseError as error:
        if not error.problems:
            raise
        if as_json:
            terminal.write_json({"release": None, "changed": False, "problems": list(error.problems)})
        else:
            for line in error.problems:
                terminal.write(" ".join(line.split()))
        terminal.error(f"nothing was applied: {counted(len(error.problems), 'error')}; correct them and apply again")
        raise typer.Exit(1) from None


def show_applied(done: Applied, *, as_json: bool, verb: str) -> None:
    """What was applied, and what is other by that."""
    if as_json:
        terminal.write_json(done.as_json())
        return
    release = done.release
    if not done.changed:
        terminal.write(f"nothing changed: release {release.short} is active")
        return
    for line in change_lines(done.changes, first=done.previous is None):
        terminal.write(line)
    prompts = counted(len(release.prompts), "prompt")
    if done.dry_run:
        terminal.write(f"would apply release {release.short} ({prompts}); nothing was kept")
        return
    again = f", which is active again; it is of {_day(release.created)}" if done.again else ""
    terminal.write(f"{verb} release {release.short} ({prompts}){again}")


def change_lines(found: Changes, *, first: bool) -> list[str]:
    """A line for each thing that is other."""
    lines = [_prompt_line(one) for one in found.prompts]
    if first:
        lines += [f"{'added':8} {one.removesuffix(' added')}" for one in found.registry]
    else:
        lines += [f"{'registry':8} {terminal.safe(one)}" for one in found.registry]
    if found.library is not None:
        lines.append(f"{'library':8} llmfeatures {found.library[0]} → {found.library[1]}")
    return lines


def _prompt_line(one: PromptChange) -> str:
    old, new = (version and version[:12] for version in (one.old, one.new))
    match one.kind:
        case "added":
            return f"{'added':8} prompt {one.prompt} {new}"
        case "removed":
            return f"{'removed':8} prompt {one.prompt} {old}"
        case "changed":
            return f"{'changed':8} prompt {one.prompt} {old} → {new}"
        case "text":
            return f"{'changed':8} prompt {one.prompt} {new}: its file, not what it renders"


def list_releases(releases: Releases, *, as_json: bool) -> None:
    """Every release, the newest first, and when it was active."""
    records, found = releases.activations(), releases.newest_first()
    active = records[-1].release if records else None
    if as_json:
        terminal.write_json(
            {
                "active": active,
                "releases": [_summary(one) for one in found],
                "activations": [asdict(one) for one in records],
            }
        )
        return
    if not found:
        terminal.note("there is no release; llmfeatures apply makes one of the files")
        return
    activated = {one.release: one.at for one in records}
    rows = [
        (
            one.short,
            _day(one.created),
            "active" if one.id == active else f"until {_day(_until(one.id, records))}" if one.id in activated else "-",
            str(len(one.prompts)),
            one.library,
            one.message,
        )
        for one in found
    ]
    terminal.table(("release", "created", "active", "prompts", "library", "message"), rows, numbers=("prompts",))


def _until(identity: str, records: Any) -> str:
    """When a release stopped being the active one, the last time."""
    last = max(at for at, one in enumerate(records) if one.release == identity)
    return records[last + 1].at


def show_release(release: Release, *, as_json: bool) -> None:
    """A release with all that it holds."""
    if as_json:
        terminal.write_json({**_summary(release), **release.content()})
        return
    terminal.heading(f"release {release.id}")
    terminal.write(f"created {_day(release.created)} by llmfeatures {release.library}")
    if release.message:
        terminal.write(f"message {terminal.safe(release.message)}")
    if release.parent is not None:
        terminal.write(f"after release {release.parent[:12]}")
    for name, one in sorted(release.prompts.items()):
        terminal.write()
        terminal.heading(f"prompt {name}, version {one.version[:12]}")
        terminal.write(_lines(one.source))
    for name, source in sorted(release.partials.items()):
        terminal.write()
        terminal.heading(f"partial {name}")
        terminal.write(_lines(source))
    for one in release.registry["views"]:
        terminal.write()
        terminal.heading(f"view {one['name']} of {one['entity']}")
        terminal.write("\n".join(f"{feature['name']}: {feature['dtype']}" for feature in one["features"]))
    for one in release.registry["on_demand"]:
        terminal.write()
        terminal.heading(f"on-demand feature {one['entity']}.{one['name']}: {one['dtype']}")
        terminal.write(_lines(one["source"]))
    for one in release.registry.get("retrievers", ()):
        terminal.write()
        terminal.heading(f"retriever {one['name']} {'for all' if one['entity'] is None else 'of ' + one['entity']}")
        parts: list[Mapping[str, Any]] = [one] if one["embedder"] is None else [one, one["embedder"]]
        for part in parts:
            if "function_source" in part:
                terminal.write(_lines(part["function_source"]))


def _summary(one: Release) -> dict[str, Any]:
    return {
        "id": one.id,
        "created": one.created,
        "message": one.message,
        "parent": one.parent,
        "library": one.library,
        "versions": {name: prompt.version for name, prompt in sorted(one.prompts.items())},
    }


def _lines(text: str) -> str:
    return "\n".join(terminal.safe(line) for line in text.rstrip("\n").split("\n"))


def _day(stamp: str) -> str:
    return f"{stamp[:19]}Z"
