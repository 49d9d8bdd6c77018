"""``llmfeatures status``: how old the online store is, what it holds, and what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.options import HERE, JsonOption, ProjectOption

if TYPE_CHECKING:
    from llmfeatures.retriever_status import RetrieverStatus
    from llmfeatures.status import Status, StoreStatus, ViewStatus

DOCUMENT_COLUMNS = ("retriever", "state", "watermark", "lag", "cadence", "documents", "versions", "model", "last run")
COLUMNS = ("view", "state", "watermark", "lag", "cadence", "keys", "bytes", "last run", "rows read", "keys written")
_NUMBERS = ("keys", "bytes", "rows read", "keys written")


def status(project: ProjectOption = HERE, as_json: JsonOption = False) -> None:
    """Show how old each view and each retriever's index is against its cadence, what is online, and the last errors.

    Exit code 1 when a view or retriever is late or unavailable, or when the online store cannot be reached.
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
    if found.retrievers:
        terminal.write()
        rows = [_retriever_row(one) for one in found.retrievers]
        terminal.table(DOCUMENT_COLUMNS, rows, numbers=("documents", "versions"))
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
    failures = [failure for one in (*found.views, *found.retrievers) for failure in one.failures]
    if failures:
        terminal.write()
        rows = [(one.view, one.at[:19] + "Z", one.verb, one.message) for one in failures]
        terminal.table(("view" if not found.retrievers else "name", "failed at", "verb", "error"), rows)
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


def _retriever_row(one: RetrieverStatus) -> tuple[str, ...]:
    from llmfeatures.status import cadence_text, duration_words

    run = one.last_run
    return (
        one.retriever,
        one.state,
        "-" if one.watermark is None else terminal.moment_text(one.watermark.replace(microsecond=0)),
        duration_words(one.lag),
        cadence_text(one),
        "-" if one.documents is None else f"{one.documents:,}",
        "-" if run is None else f"{run.rows_read:,}",
        one.model or "-",
        "-" if run is None else f"{run.started[:19]}Z",
    )


def bytes_text(count: int) -> str:
    """Bytes for a person: ``812 B``, ``1.4 MB``; units of 1000."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
