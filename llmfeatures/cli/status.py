"""``llmfeatures status``: how old the online store is, what it holds, and what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.options import HERE, JsonOption, ProjectOption

if TYPE_CHECKING:
    from llmfeatures.status import Status, StoreStatus, ViewStatus

COLUMNS = ("view", "state", "watermark", "lag", "cadence", "keys", "bytes", "last run", "rows read", "keys written")
_NUMBERS = ("keys", "bytes", "rows read", "keys written")


def status(project: ProjectOption = HERE, as_json: JsonOption = False) -> None:
    """Show how old each view is against its cadence, what is online, and the last errors.

    Exit code 1 when a view is late or its features are unavailable, or when the online store cannot be reached.
    """
    from llmfeatures.project import Project
    from llmfeatures.status import status_json

    found = Project.load(project).status()
    if as_json:
        terminal.write_json(status_json(found))
    else:
        _show(found)
    if not found.well:
        raise typer.Exit(1)


def _show(found: Status) -> None:
    terminal.write(terminal.safe(_store_line(found.store)))
    if found.views:
        terminal.write()
        exact = found.store.usage is None or found.store.usage.exact
        terminal.table(COLUMNS, [_row(view, exact=exact) for view in found.views], numbers=_NUMBERS)
    pushed = [(view.view, view.pushes) for view in found.views if view.pushes is not None]
    if pushed:
        terminal.write()
        columns = ("pushed view", "rows", "not compacted", "pushes", "segments", "parts", "bytes")
        rows = [
            (
                name,
                *(f"{count:,}" for count in (size.rows, size.waiting, size.pushes, size.segments, size.parts)),
                bytes_text(size.bytes),
            )
            for name, size in pushed
        ]
        terminal.table(columns, rows, numbers=columns[1:])
    failures = [failure for view in found.views for failure in view.failures]
    if failures:
        terminal.write()
        rows = [(one.view, one.at[:19] + "Z", one.verb, one.message) for one in failures]
        terminal.table(("view", "failed at", "verb", "error"), rows)
    for warning in found.warnings:
        terminal.note(warning)


def _store_line(store: StoreStatus) -> str:
    parts = [f"online store: {store.where} ({store.kind}), namespace {store.namespace}, access {store.access}"]
    if not store.reachable:
        return f"{parts[0]}: not readable: {store.problem}"
    parts.append("empty" if store.format is None else f"format {store.format}, lifetime {store.lifetime}")
    usage = store.usage
    if usage is not None and usage.memory_used is not None:
        limit = "" if usage.memory_limit is None else f" of {bytes_text(usage.memory_limit)}"
        parts.append(f"{bytes_text(usage.memory_used)}{limit} used")
    if usage is not None and usage.eviction_policy is not None:
        parts.append(f"{usage.eviction_policy}, {usage.evicted_keys or 0:,} keys evicted")
    return "; ".join(parts)


def _row(view: ViewStatus, *, exact: bool) -> tuple[str, ...]:
    from llmfeatures.status import cadence_text, duration_words, state_of

    about = "" if exact else "about "
    run = view.last_run
    return (
        view.view,
        state_of(view),
        "-" if view.watermark is None else terminal.moment_text(view.watermark.replace(microsecond=0)),
        duration_words(view.lag),
        cadence_text(view),
        "-" if view.keys is None else f"{about}{view.keys:,}",
        "-" if view.bytes is None else bytes_text(view.bytes),
        "-" if run is None else f"{run.started[:19]}Z",
        "-" if run is None else f"{run.rows_read:,}",
        "-" if run is None else f"{run.keys_written:,}",
    )


def bytes_text(count: int) -> str:
    """Bytes for a person: ``812 B``, ``1.4 MB``; units of 1000."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
