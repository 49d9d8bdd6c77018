"""``llmfeatures context --timeline``: the log of one prompt, the newest version first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmfeatures.cli import terminal

if TYPE_CHECKING:
    from llmfeatures.context import FeatureValue
    from llmfeatures.project import Project
    from llmfeatures.timeline import FeatureChange, Timeline, TimelineEntry

_LONGEST = 60
"""Characters of a value in a line about a feature."""


def show_timeline(
    project: Project,
    prompt: str,
    values: Mapping[str, Any],
    *,
    since: str,
    until: str | None,
    clock: str,
    as_json: bool,
) -> None:
    """Every moment at which the prompt changed, with the features and the words that did."""
    made = project.timeline(prompt, values, since=since, until=until, clock=clock)
    if as_json:
        terminal.write_json(made.as_json())
    else:
        write_timeline(made)


def write_timeline(made: Timeline) -> None:
    """A timeline as text."""
    from llmfeatures.clock import iso

    count = len(made) - 1
    changes = "no change" if not count else "1 change" if count == 1 else f"{count:,} changes"
    given = terminal.keys_text(made.given)
    named = f"{made.prompt} {given}" if given else made.prompt
    terminal.write(f"{named}: {changes} from {iso(made.since)} to {iso(made.until)} (clock {made.clock})")
    for entry in made:
        terminal.write()
        _write_entry(entry)


def _write_entry(entry: TimelineEntry) -> None:
    from llmfeatures.cli import worddiff
    from llmfeatures.clock import iso
    from llmfeatures.explain_documents import age_text

    lasted = "until the end" if entry.end is None else f"for {age_text(entry.end, entry.at)}"
    if entry.before is None:
        lasted = f"as it was then, {lasted}"
    identity = "no prompt" if entry.prompt_id is None else entry.prompt_id[:12]
    terminal.heading(f"{iso(entry.at)} {identity} ({lasted})")
    for one in entry.changed:
        terminal.write(f"   {_change(entry, one)}")
    for one in entry.documents_changed:
        terminal.write(f"   document {terminal.safe(one.id)} {one.said}")
    if entry.before is None:
        terminal.write("\n".join(f"   {line}".rstrip() for line in entry.text.split("\n")))
    for line in entry.diff():
        if terminal.coloured():
            terminal.write_styled(worddiff.styled(line, indent=3))
        else:
            terminal.write(f"   {worddiff.plain(line)}")


def _change(entry: TimelineEntry, one: FeatureChange) -> str:
    """A feature's change in words. The row is dated where it is not of this moment: it came late, or it expired."""
    from llmfeatures.clock import iso

    event = one.after.event_timestamp
    dated = "" if event is None or event == entry.at else f" (of {iso(event)})"
    return f"{one.name}: {_value(one.before)} -> {_value(one.after)}{dated}"


def _value(found: FeatureValue) -> str:
    if found.status != "present":
        return found.status
    shown = terminal.safe(terminal.value_text(found.value))
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"
