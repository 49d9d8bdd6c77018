"""A context, and a timeline, as a notebook shows them: small HTML without scripts, in which every value is escaped.

Colours are those of the page with a tint, so that it is readable on a light and on a dark one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

from llmfeatures.clock import iso
from llmfeatures.errors import InvalidValueError
from llmfeatures.explain import ExplainedMessage, ExplainedValue, Explanation, explained, size_lines
from llmfeatures.explain_documents import age_text, degraded_text, retrieval_text
from llmfeatures.types import text

if TYPE_CHECKING:
    from llmfeatures.context import ContextDocument, FeatureValue, PromptContext
    from llmfeatures.timeline import Timeline, TimelineEntry
    from llmfeatures.worddiff import DiffLine

_LONGEST: Final = 200
"""Characters of a value that a table shows."""
_MOST_ENTRIES: Final = 200
"""Entries of a timeline that are shown, the newest."""
_WIDE: Final = ("value", "where", "features", "words")
"""Columns whose text may be wrapped."""
_CSS: Final = (
    ".llmf{max-width:60rem}.llmf pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:2px 0 10px;padding:8px 10px;"
    "border:1px solid rgba(128,128,128,.35);border-radius:6px;background:rgba(128,128,128,.07);color:inherit}"
    ".llmf mark{background:rgba(240,170,30,.3);color:inherit;border-radius:3px;padding:0 1px}"
    ".llmf .fence{opacity:.55}.llmf .break{border-left:2px solid #3b82c4;margin:0 2px}"
    ".llmf .soft,.llmf th{opacity:.75;font-size:.9em}"
    ".llmf table{border-collapse:collapse;margin:4px 0 8px;color:inherit;font:inherit}"
    ".llmf td,.llmf th{text-align:left;vertical-align:top;padding:2px 12px 2px 0;white-space:nowrap}"
    ".llmf td.w{white-space:normal;overflow-wrap:anywhere;min-width:6em}"
    ".llmf del{background:rgba(220,60,60,.28);text-decoration:none}"
    ".llmf ins{background:rgba(40,160,90,.28);text-decoration:none}"
)


def context_html(context: PromptContext) -> str:
    """A context: its messages with what was interpolated marked, its values, and its size."""
    explanation = explained(context)
    head = f"{context.prompt} {context.version[:12]} as of {iso(context.as_of)} ({context.manifest.source})"
    parts = [f"<div><b>{_shown(head)}</b></div>"]
    if context.manifest.degraded:
        parts.append(f"<div>degraded: {_shown(degraded_text(context))}</div>")
    parts += [
        f"<div class=soft>{_shown(one.role)}</div><pre>{_message(explanation, one)}</pre>"
        for one in explanation.messages
    ]
    if explanation.values:
        rows = (_value_cells(explanation, one) for one in explanation.values)
        parts.append(_table(("name", "value", "status", "age", "view", "policy", "where"), rows))
    for name, one in context.manifest.retrievals.items():
        parts.append(f"<div class=soft>documents {_shown(name)}: {_shown(retrieval_text(one))}</div>")
        if found := context.documents.get(name):
            names = ("document", "score", "tier", "age", "version")
            parts.append(_table(names, (_document_cells(context, document) for document in found)))
    parts += [f"<div class=soft>{_shown(line)}</div>" for line in size_lines(explanation)]
    return _page(parts)


def timeline_html(timeline: Timeline) -> str:
    """A timeline: a row per entry with what changed, the newest first."""
    given = ", ".join(f"{name}={_value(value)}" for name, value in timeline.given.items())
    head = f"{timeline.prompt} for {given}" if given else timeline.prompt
    span = f"{iso(timeline.since)} to {iso(timeline.until)}, clock {timeline.clock}"
    parts = [f"<div><b>{_shown(head)}</b></div><div class=soft>{_shown(span)}</div>"]
    parts.append(_table(("from", "features", "words"), map(_entry_cells, timeline[:_MOST_ENTRIES])))
    if len(timeline) > _MOST_ENTRIES:
        parts.append(f"<div class=soft>and {len(timeline) - _MOST_ENTRIES:,} earlier ones</div>")
    return _page(parts)


def _page(parts: Iterable[str]) -> str:
    return f"<div class=llmf><style>{_CSS}</style>{''.join(parts)}</div>"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    tags = ["<td class=w>" if name in _WIDE else "<td>" for name in names]
    body = "".join(
        f"<tr>{''.join(f'{tag}{cell}</td>' for tag, cell in zip(tags, row, strict=True))}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _message(explanation: Explanation, message: ExplainedMessage) -> str:
    said = {one.name: one for one in explanation.values}
    made: list[str] = []
    for piece in message.pieces:
        shown = escape(piece.text)
        match piece.kind:
            case "value":
                title = _title(said.get(piece.name or ""), piece.source or piece.name or "an expression")
                made.append(f'<mark title="{title}">{shown}</mark>')
            case "fence":
                made.append(f"<span class=fence>{shown}</span>")
            case "cache_break":
                made.append('<span class=break title="cache_break"></span>')
            case _:
                made.append(shown)
    return "".join(made)


def _title(value: ExplainedValue | None, source: str) -> str:
    if value is None or value.found is None:
        return _shown(source)
    age = "" if value.age is None else f", {value.age} old"
    return _shown(f"{source}: {value.found.status}{age}")


def _value_cells(explanation: Explanation, one: ExplainedValue) -> list[str]:
    where = explanation.where(one.places, one.name)
    shown = one.value if one.found is None or one.is_rendered else one.found.value
    status = one.kind if one.found is None else one.found.status
    cells = (_value(shown), status, one.age or "", one.view or "", one.policy or "", where)
    return [f"<code>{_shown(one.name)}</code>", *(f"<bdi>{_shown(cell)}</bdi>" if cell else "" for cell in cells)]


def _document_cells(context: PromptContext, one: ContextDocument) -> list[str]:
    score = "" if one.score is None else f"{one.score:g}"
    age = "" if one.valid_from is None else age_text(context.as_of, one.valid_from)
    cells = (score, one.tier or "", age, one.version)
    return [f"<code>{_shown(one.id)}</code>", *(f"<bdi>{_shown(cell)}</bdi>" if cell else "" for cell in cells)]


def _entry_cells(entry: TimelineEntry) -> list[str]:
    lasted = "" if entry.end is None else f"<div class=soft>for {age_text(entry.end, entry.at)}</div>"
    features = (
        f"<code>{_shown(one.name)}</code>: <bdi>{_feature(one.before)}</bdi> → <bdi>{_feature(one.after)}</bdi>"
        for one in entry.changed
    )
    documents = (f"document <code>{_shown(one.id)}</code> {one.said}" for one in entry.documents_changed)
    changed = "<br>".join([*features, *documents])
    if entry.before is None:
        return [f"{iso(entry.at)}{lasted}", "", f"<pre>{escape(entry.text)}</pre>"]
    return [f"{iso(entry.at)}{lasted}", changed, f"<pre>{_diff(entry.diff())}</pre>"]


def _diff(lines: Sequence[DiffLine]) -> str:
    tags = {"-": "del", "+": "ins", " ": "span"}
    return "\n".join(
        line.sign
        + "".join(
            f"<{tags[line.sign]}>{escape(part.text)}</{tags[line.sign]}>" if part.changed else escape(part.text)
            for part in line.parts
        )
        for line in lines
    )


def _feature(found: FeatureValue) -> str:
    return _shown(_value(found.value) if found.status == "present" else found.status)


def _value(value: Any) -> str:
    if value is None:
        return "None"
    try:
        shown = text(value)
    except InvalidValueError:
        shown = str(value)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}… ({len(shown):,} characters)"


def _shown(written: str) -> str:
    """A text as HTML: escaped, and what cannot be seen as its code, so that no value hides anything."""
    return escape("".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in written))
