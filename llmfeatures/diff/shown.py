"""The numbers and edits of a diff in words, the same in the terminal, in Markdown and on the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_EVEN, Decimal

from llmfeatures.clock import iso
from llmfeatures.diff.edits import REWRITTEN, Edit, Message, RoleEdit
from llmfeatures.diff.result import Cost, Group, Pair, PromptDiff
from llmfeatures.worddiff import DiffLine, diff_lines

_LONGEST = 20_000
_LINES = 400


def percent(share: float) -> str:
    """A share: ``31.2%``, ``<0.1%``, ``100%``."""
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def signed(number: float, digits: int = 0) -> str:
    """A change: ``+1,234``, ``-2.6``, ``0``."""
    return f"{number:+,.{digits}f}" if round(number, digits) else "0"


def amount(value: Decimal) -> str:
    """An amount of money, with at least two digits after the point, and two that matter: ``+12.30``, ``-0.0034``."""
    if not value:
        return "0"
    places = 2 if abs(value) >= 1 else min(12, 1 - value.adjusted())
    return f"{value.quantize(Decimal(1).scaleb(-max(2, places)), ROUND_HALF_EVEN):+,f}"


def counted(number: int, noun: str) -> str:
    """``1 prompt``, ``2 prompts``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def headline(diff: PromptDiff) -> str:
    """How many prompts change: the one sentence to read."""
    counts = diff.counts
    if not counts.rows:
        return "no rows to compare"
    return f"{counts.changed:,} of {counted(counts.rows, 'prompt')} {_verb(counts.changed)} ({percent(counts.share)})"


def _verb(number: int) -> str:
    return "changes" if number == 1 else "change"


def errors_text(diff: PromptDiff) -> str:
    """What became of prompts that cannot be built; empty where all can in both versions."""
    counts = diff.counts
    said = [
        f"{number:,} {what}"
        for number, what in (
            (counts.errors_now, "now"),
            (counts.fixed_now, "fixed now"),
            (counts.errors_both, "in both"),
        )
        if number
    ]
    return ", ".join(said)


def tokens_text(diff: PromptDiff) -> str:
    """The tokens of all prompts, old and new."""
    tokens = diff.tokens
    name = "an estimate" if tokens.estimated else tokens.tokenizer
    change = signed(tokens.change)
    share = f", {signed(100 * tokens.share, 1)}%" if tokens.change and tokens.old else ""
    return f"{tokens.old:,} -> {tokens.new:,} ({change}{share}; {name})"


def change_text(diff: PromptDiff) -> str:
    """The tokens of a changed prompt; empty where there is none."""
    tokens = diff.tokens
    if tokens.mean is None or tokens.p50 is None or tokens.p95 is None:
        return ""
    return f"mean {signed(tokens.mean, 1)}, half up to {signed(tokens.p50)}, 95% up to {signed(tokens.p95)}"


def cost_text(cost: Cost) -> str:
    """What the change costs."""
    if cost.month is None or cost.day is None:
        return f"{amount(cost.spine)} for these rows"
    return f"{amount(cost.month)} a month of 30 days, {amount(cost.day)} a day"


def traffic_text(diff: PromptDiff) -> str:
    """What a day's traffic was taken to be."""
    per_day, cost = diff.rows_per_day, diff.cost
    price = "" if cost is None else f"at {cost.price} per million input tokens"
    if per_day is None:
        return f"{price}; the rows span no time, so there is no rate"
    return f"{price} and {per_day:,.4g} prompts a day, which is the spine's rows over its time"


def span_text(diff: PromptDiff) -> str:
    """From when to when the rows are."""
    return "" if diff.span is None else f"{iso(diff.span.first)} to {iso(diff.span.last)}"


def group_title(group: Group, rows: int) -> str:
    """How large a group is, and its kind."""
    return f"{counted(group.prompts, 'prompt')} ({percent(group.prompts / rows)}), {group.kind}"


def edit_texts(group: Group, width: int | None = None) -> list[str]:
    """What was removed and added in the prompts of a group, a line each, none wider than ``width``."""
    if group.reason is not None:
        return [clipped(f"the error: {group.reason}", width)]
    return [clipped(_edit(one), width) for one in group.edits]


def _edit(edit: Edit | RoleEdit) -> str:
    if isinstance(edit, RoleEdit):
        if edit.removed is None or edit.added is None:
            return f"{'added' if edit.removed is None else 'removed'} a message: {edit.added or edit.removed}"
        return f"a {edit.removed} message is now one of {edit.added}"
    if edit.removed == edit.added == REWRITTEN:
        return f"most words of a {edit.role} message are others"
    if edit.removed and edit.added:
        return f'"{visible(edit.removed)}" -> "{visible(edit.added)}"'
    return f'added "{visible(edit.added)}"' if edit.added else f'removed "{visible(edit.removed)}"'


def visible(text: str) -> str:
    """A text on one line, its line breaks as signs."""
    return text.replace("\n", "⏎").replace("\t", "⇥")


def clipped(text: str, width: int | None) -> str:
    """A text no wider than that."""
    return text if width is None or len(text) <= width else f"{text[: max(1, width - 2)]} …"


def pair_lines(pair: Pair) -> list[DiffLine]:
    """A pair line by line, with the changed words."""
    return diff_lines(_text(pair.old, pair.old_error), _text(pair.new, pair.new_error))


def _text(messages: Sequence[Message], error: str | None) -> str:
    if error is not None:
        return f"(no prompt: {error})"
    whole = "\n\n".join(f"[{one.role}]\n{one.content}" for one in messages)
    return whole if len(whole) <= _LONGEST else f"{whole[:_LONGEST]}\n… (cut; {len(whole):,} characters in all)"


def near_changes(lines: Sequence[DiffLine], around: int = 1, most: int = _LINES) -> Iterator[DiffLine | None]:
    """The lines that changed, with so many before and after; None where others are left out."""
    kept = {
        place + offset
        for place, line in enumerate(lines)
        if line.sign != " "
        for offset in range(-around, around + 1)
        if 0 <= place + offset < len(lines)
    }
    last = -1
    for number, place in enumerate(sorted(kept)):
        if number == most:
            yield None
            return
        if place != last + 1:
            yield None
        yield lines[place]
        last = place
    if kept and last != len(lines) - 1:
        yield None
