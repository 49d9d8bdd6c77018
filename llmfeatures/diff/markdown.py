"""A diff as Markdown for a pull request. What comes from data stands in code: it is no markup and mentions nobody."""

from __future__ import annotations

import re
from typing import Final

from llmfeatures.clock import iso
from llmfeatures.diff.result import Group, PromptDiff
from llmfeatures.diff.shown import (
    amount,
    change_text,
    counted,
    edit_texts,
    errors_text,
    group_title,
    headline,
    near_changes,
    pair_lines,
    signed,
    span_text,
    traffic_text,
    visible,
)
from llmfeatures.worddiff import plain

BEGINNING: Final = "### Prompt "
_LISTED: Final = 20
_EDITS: Final = 4
_WIDTH: Final = 100
_PAIR: Final = 4_000
_WHOLE: Final = 60_000
"""A comment on GitHub has at most 65,536 characters."""


def markdown(diff: PromptDiff, *, pairs: int) -> str:
    """The whole comment."""
    parts = [f"{BEGINNING}{inert(diff.prompt)}: {headline(diff)}", _table(diff)]
    parts += [f"Rows: {inert(diff.spine)}, {span_text(diff)}, clock {diff.clock}." if diff.span else ""]
    if diff.cost is not None:
        parts.append(f"The cost is {traffic_text(diff)}.")
    parts += [f"Note: {_escaped(one)}." for one in diff.notes]
    shown = diff.groups[:_LISTED]
    room = _WHOLE - sum(map(len, parts))
    for place, one in enumerate(shown):
        made = _group(one, diff.counts.rows, with_pair=place < pairs)
        if len(made) > room:
            made = _group(one, diff.counts.rows, with_pair=False)
        if len(made) > room:
            shown = shown[:place]
            break
        room -= len(made) + 2
        parts.append(made)
    rest = diff.groups[len(shown) :]
    if rest:
        total = sum(one.prompts for one in rest)
        parts.append(f"And {counted(len(rest), 'smaller group')} with {counted(total, 'prompt')}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(diff: PromptDiff) -> str:
    tokens = diff.tokens
    name = "tokens, an estimate" if tokens.estimated else f"tokens ({tokens.tokenizer})"
    share = f" ({signed(100 * tokens.share, 1)}%)" if tokens.old else ""
    rows = [
        ("version", inert(diff.old.label), inert(diff.new.label), ""),
        ("", inert(diff.old.version[:12]), inert(diff.new.version[:12]), ""),
        (name, f"{tokens.old:,}", f"{tokens.new:,}", f"{signed(tokens.change)}{share}"),
    ]
    if change := change_text(diff):
        rows.append(("tokens of a changed prompt", "", "", change))
    if errors := errors_text(diff):
        rows.append(("errors", "", "", errors))
    if diff.cost is not None:
        month = diff.cost.month
        what = "cost of these rows" if month is None else "cost a month"
        rows.append((what, "", "", amount(diff.cost.spine if month is None else month)))
    lines = ["| | before | after | change |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def _group(group: Group, rows: int, *, with_pair: bool) -> str:
    edits = edit_texts(group, _WIDTH)
    said = "<br>".join(inert(one) for one in edits[:_EDITS])
    more = f"<br>and {counted(len(edits) - _EDITS, 'more edit')}" if len(edits) > _EDITS else ""
    tokens = f", {signed(group.tokens)} tokens" if group.tokens else ""
    summary = f"<summary><b>{group_title(group, rows)}</b>{tokens}<br>{said}{more}</summary>"
    if not with_pair or group.pair is None:
        return f"<details>{summary}\n\nNo pair is shown.\n\n</details>"
    pair = group.pair
    keys = " ".join(f"{name}={value}" for name, value in pair.keys.items())
    lines = ["…" if line is None else plain(line) for line in near_changes(pair_lines(pair))]
    text = "\n".join(lines)
    text = text if len(text) <= _PAIR else f"{text[:_PAIR]}\n…"
    fence = "`" * (1 + max((len(one) for one in re.findall("`+", text)), default=2))
    at = iso(pair.as_of)
    return f"<details>{summary}\n\n{inert(keys)} at {at}\n\n{fence}diff\n{text}\n{fence}\n\n</details>"


def _escaped(text: str) -> str:
    """A sentence of ours, with a name in it, as text."""
    return re.sub(r"[^\w ,.;:'()%-]|_", lambda found: f"&#{ord(found[0])};", text)


def inert(text: str) -> str:
    """A text as code in which nothing is markup, in Markdown and in HTML within it."""
    one_line = visible(text)
    return "<code>" + "".join(one if one.isalnum() or one == " " else f"&#{ord(one)};" for one in one_line) + "</code>"
