"""Applying: what the files are now becomes the active release; and going back to one that was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from llmfeatures.errors import FormatError, ReleaseError
from llmfeatures.prompts.texts import PromptTexts
from llmfeatures.registry import Registry
from llmfeatures.releases.changes import changes
from llmfeatures.releases.content import Release
from llmfeatures.releases.kept import Releases
from llmfeatures.releases.making import Applied, made_release
from llmfeatures.releases.rebuilding import ReleasedPrompts


def apply(
    releases: Releases,
    registry: Registry,
    folder: Path,
    *,
    check: Callable[[], None],
    now: datetime,
    message: str = "",
    dry_run: bool = False,
) -> Applied:
    """Make a release of a registry and a prompts folder, and make it the active one. ``check`` raises an error when
    they are not right.

    Raises:
        ReleaseError: a prompt cannot be compiled, a file changed meanwhile, or another process applies for too long.
        PromptError: a prompt file is no text.
    """
    texts = PromptTexts.of_folder(folder) if folder.is_dir() else PromptTexts({}, {}, where="")
    check()
    if folder.is_dir() and PromptTexts.of_folder(folder) != texts:
        raise ReleaseError("prompt files changed while they were checked, and nothing was applied; apply again")
    made = made_release(registry, texts, created=now, message=message)
    if dry_run:
        return _compared(releases, made, dry_run=True)
    with releases.alone():
        applied = _compared(releases, made, dry_run=False)
        releases.add(applied.release)
        if applied.changed:
            releases.activate(made.id, now=now, message=message)
    return applied


def roll_back(releases: Releases, registry: Registry, named: str, *, now: datetime, message: str = "") -> Applied:
    """Make a release that there is the active one. ``named`` is as for `Releases.find`; ``registry`` has the functions.

    Raises:
        UnknownNameError: there is no such release.
        ReleaseError: it cannot be rebuilt here, so that it is not made the active one.
    """
    checked: Release | None = None
    while checked != (wanted := releases.find(named)):
        ReleasedPrompts(wanted, registry).compile_all()
        checked = wanted
    with releases.alone():
        applied = _compared(releases, wanted, dry_run=False)
        if applied.changed:
            releases.activate(wanted.id, now=now, message=message)
    return applied


def _compared(releases: Releases, made: Release, *, dry_run: bool) -> Applied:
    """A release beside the active one; when it is kept already, as it is kept."""
    active = releases.active_id()
    previous = _readable(releases, active)
    again = made.id in releases.ids()
    return Applied(
        release=(_readable(releases, made.id) if again else None) or replace(made, parent=active),
        previous=previous,
        changes=changes(previous, made),
        changed=made.id != active,
        again=again and made.id != active,
        dry_run=dry_run,
    )


def _readable(releases: Releases, identity: str | None) -> Release | None:
    """A release; None also when its file is damaged, so that applying can mend it."""
    try:
        return None if identity is None else releases.get(identity)
    except FormatError:
        return None
