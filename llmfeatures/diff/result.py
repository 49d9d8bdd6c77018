"""What a diff over history found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from llmfeatures.clock import iso
from llmfeatures.diff.edits import Edit, Edits, Message, RoleEdit
from llmfeatures.diff.kinds import Kind
from llmfeatures.diff.measure import Tokens

FORMAT: Final = 1
_DAY: Final = timedelta(days=1)
_MONTH: Final = 30
_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One prompt in both versions. ``keys`` are its join keys. A version without a prompt has no messages and an
    error."""

    keys: Mapping[str, Any]
    as_of: datetime
    old: tuple[Message, ...] = ()
    new: tuple[Message, ...] = ()
    old_error: str | None = None
    new_error: str | None = None
    tokens: tuple[int, int] | None = None

    def as_json(self) -> dict[str, Any]:
        """The pair as JSON."""
        return {
            "keys": dict(self.keys),
            "as_of": iso(self.as_of),
            "old": _side(self.old, self.old_error, self.tokens and self.tokens[0]),
            "new": _side(self.new, self.new_error, self.tokens and self.tokens[1]),
        }


def _side(messages: tuple[Message, ...], error: str | None, tokens: int | None) -> dict[str, Any]:
    listed = [{"role": one.role, "content": one.content} for one in messages] if messages else None
    return {"messages": listed, "error": error, "tokens": tokens}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Prompts that changed in the same way.

    ``edits`` are what was removed and added, ``…`` for a text that came from a value; ``reason`` is the error of
    prompts that cannot be built in one version. ``tokens`` is the difference of all of the group's, new minus old.
    ``pair`` is one of them: of a random sample, the one of the most usual length.
    """

    kind: Kind
    edits: Edits
    reason: str | None
    prompts: int
    tokens: int
    pair: Pair | None

    def as_json(self) -> dict[str, Any]:
        """The group as JSON."""
        return {
            "kind": self.kind,
            "prompts": self.prompts,
            "tokens": self.tokens,
            "edits": [_edit(one) for one in self.edits],
            "error": self.reason,
            "pair": None if self.pair is None else self.pair.as_json(),
        }


def _edit(edit: Edit | RoleEdit) -> dict[str, Any]:
    if isinstance(edit, RoleEdit):
        return {"role_removed": edit.removed, "role_added": edit.added}
    return {"role": edit.role, "removed": edit.removed, "added": edit.added}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the difference in tokens costs at a price per million input tokens, in the price's currency, new minus old.

    ``spine`` is that of the spine's rows; ``day`` and ``month`` (30 days) are it at the spine's traffic, None where its
    rows span no time.
    """

    price: Decimal
    spine: Decimal
    day: Decimal | None
    month: Decimal | None

    def as_json(self) -> dict[str, Any]:
        """The cost as JSON; amounts are text, so that none is rounded."""
        return {
            "price_per_million": str(self.price),
            "spine": _amount(self.spine),
            "day": None if self.day is None else _amount(self.day),
            "month": None if self.month is None else _amount(self.month),
        }


def cost_of(tokens: Tokens, price: Decimal, rows_per_day: Decimal | None, rows: int) -> Cost:
    """The cost of a difference of so many rows' tokens."""
    spine = price * tokens.change / _MILLION
    day = None if rows_per_day is None or not rows else spine / rows * rows_per_day
    return Cost(price=price, spine=spine, day=day, month=None if day is None else day * _MONTH)


def _amount(amount: Decimal) -> str:
    return f"{amount.quantize(Decimal('0.000001')):f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From when to when rows are, and how much time they stand for."""

    first: datetime
    last: datetime
    time: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of the rows. ``changed`` are all whose outcome is another: ``edited`` have another prompt,
    ``errors_now`` have none any more, ``fixed_now`` have one now. ``errors_both`` have none in either version."""

    rows: int
    edited: int
    errors_now: int
    fixed_now: int
    errors_both: int

    @property
    def changed(self) -> int:
        """All whose outcome is another."""
        return self.edited + self.errors_now + self.fixed_now

    @property
    def share(self) -> float:
        """``changed`` as a share of ``rows``; 0 of no rows."""
        return self.changed / self.rows if self.rows else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffSide:
    """A version that was compared: what it is called, and its prompt version."""

    label: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptDiff:
    """Two versions of a prompt over the same historical rows.

    ``spine`` says which rows, ``span`` from when to when they are (None of no rows). ``groups`` partition the changed
    rows, the largest first. ``notes`` are what one should know to read the numbers. `to_markdown` is for a pull
    request, `to_html` a page of its own, `as_json` for programs. All of them hold values of features.
    """

    prompt: str
    old: DiffSide
    new: DiffSide
    spine: str
    clock: str
    counts: Counts
    span: Span | None
    tokens: Tokens
    cost: Cost | None
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()

    @property
    def rows_per_day(self) -> Decimal | None:
        """The spine's traffic; None where its rows span no time."""
        return rows_per_day(self.counts.rows, self.span)

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON; its shape has the number ``format``."""
        per_day = self.rows_per_day
        counts, tokens = self.counts, self.tokens
        return {
            "format": FORMAT,
            "prompt": self.prompt,
            "old": {"label": self.old.label, "version": self.old.version},
            "new": {"label": self.new.label, "version": self.new.version},
            "spine": self.spine,
            "clock": self.clock,
            "rows": counts.rows,
            "changed": counts.changed,
            "changed_share": counts.share,
            "edited": counts.edited,
            "errors_now": counts.errors_now,
            "fixed_now": counts.fixed_now,
            "errors_both": counts.errors_both,
            "first": None if self.span is None else iso(self.span.first),
            "last": None if self.span is None else iso(self.span.last),
            "rows_per_day": None if per_day is None else float(per_day),
            "tokens": {
                "tokenizer": tokens.tokenizer,
                "estimated": tokens.estimated,
                "old": tokens.old,
                "new": tokens.new,
                "change": tokens.change,
                "mean": tokens.mean,
                "p50": tokens.p50,
                "p95": tokens.p95,
            },
            "cost": None if self.cost is None else self.cost.as_json(),
            "groups": [one.as_json() for one in self.groups],
            "notes": list(self.notes),
        }

    def to_markdown(self, *, pairs: int = 5) -> str:
        """A comment for a pull request: the counts, and the largest groups with a pair each, which unfold."""
        from llmfeatures.diff.markdown import markdown

        return markdown(self, pairs=pairs)

    def to_html(self, *, pairs: int = 20) -> str:
        """A page of its own: nothing is fetched, and no script runs."""
        from llmfeatures.diff.page import page

        return page(self, pairs=pairs)


def rows_per_day(rows: int, span: Span | None) -> Decimal | None:
    """So many rows over a span of time, as rows a day; None where it is no time."""
    if span is None or not span.time:
        return None
    return Decimal(rows) * (_DAY // timedelta(microseconds=1)) / (span.time // timedelta(microseconds=1))
