"""A diff as one HTML page. Every text that comes from data passes `escape`; nothing is fetched and no script runs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from llmfeatures.clock import iso
from llmfeatures.diff.kinds import MEANS
from llmfeatures.diff.result import DiffSide, Group, PromptDiff
from llmfeatures.diff.shown import (
    amount,
    change_text,
    counted,
    edit_texts,
    errors_text,
    headline,
    near_changes,
    pair_lines,
    percent,
    signed,
    span_text,
    traffic_text,
)
from llmfeatures.report.style import CSS
from llmfeatures.version import __version__
from llmfeatures.worddiff import DiffLine

_LISTED: Final = 100
_OWN: Final = """
.old{--tone:#b3372d;--back:#fbe3e0}.new{--tone:#1f6f43;--back:#ddf2e4}
@media (prefers-color-scheme:dark){.old{--tone:#f0a49c;--back:#4a221e}.new{--tone:#8fd6aa;--back:#1d3d2a}}
.lines{font-family:ui-monospace,"SFMono-Regular",Menlo,Consolas,monospace;font-size:.84rem;line-height:1.5;
margin:10px 0 0;overflow-wrap:anywhere;white-space:pre-wrap}
.lines div{padding:0 6px}.lines .old,.lines .new{color:var(--tone)}
.lines .old mark,.lines .new mark{background:var(--back);color:inherit;font-weight:600}
.gap{color:var(--soft)}.edits{margin:6px 0 0;padding-left:18px}.edits li{overflow-wrap:anywhere}
.edits code{white-space:pre-wrap}
"""


def page(diff: PromptDiff, *, pairs: int) -> str:
    """The whole page."""
    title = escape(f"Prompt {diff.prompt}: {headline(diff)}")
    body = [
        _summary(diff),
        _kinds(diff),
        "<h2>Groups of changes</h2>" if diff.groups else "",
        *[_group(one, diff, with_pair=place < pairs) for place, one in enumerate(diff.groups[:_LISTED])],
        _rest(diff.groups[_LISTED:]),
        _foot(),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}</title>'
        f'<link rel="icon" href="data:,"><style>{CSS}{_OWN}</style></head>\n<body><main>\n'
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def _foot() -> str:
    said = f"Written by llmfeatures {escape(__version__)}. All times are UTC. The page shows values of features."
    return f'<p class="soft">{said}</p>'


def _side(what: str, side: DiffSide) -> str:
    return f"{what}: <code>{escape(side.label)}</code>, version <code>{side.version[:12]}</code>."


def _summary(diff: PromptDiff) -> str:
    counts, tokens = diff.counts, diff.tokens
    figures = [
        ("Prompts", f"{counts.rows:,}"),
        ("Changed", f"{counts.changed:,} ({percent(counts.share)})"),
        ("Errors", errors_text(diff) or "none"),
        ("Tokens, an estimate" if tokens.estimated else f"Tokens, {tokens.tokenizer}", signed(tokens.change)),
    ]
    if diff.cost is not None:
        month = diff.cost.month
        what = "Cost of these rows" if month is None else "Cost a month"
        figures.append((what, amount(diff.cost.spine if month is None else month)))
    said = [
        f"{_side('Before', diff.old)} {_side('After', diff.new)}",
        f"Rows: {escape(diff.spine)}, {span_text(diff)}, clock {diff.clock}." if diff.span else "",
        f"Tokens of all prompts: {tokens.old:,} before, {tokens.new:,} after ({signed(100 * tokens.share, 1)}%).",
        f"Tokens of a changed prompt: {change_text(diff)}." if change_text(diff) else "",
        f"The cost is {escape(traffic_text(diff))}." if diff.cost is not None else "",
        *(f"Note: {escape(one)}." for one in diff.notes),
    ]
    return (
        f"<header><h1>Prompt {escape(diff.prompt)}: {escape(headline(diff))}</h1></header>"
        '<dl class="figures">'
        + "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures)
        + "</dl>"
        + "".join(f'<p class="soft">{one}</p>' for one in said if one)
    )


def _kinds(diff: PromptDiff) -> str:
    """How many prompts changed in each way."""
    totals: dict[str, int] = {}
    for one in diff.groups:
        totals[one.kind] = totals.get(one.kind, 0) + one.prompts
    if not totals:
        return ""
    most = max(totals.values())
    rows = "".join(
        f'<tr><th scope="row">{kind}</th><td class="b"><div class="bar" style="width:{100 * count / most:.2f}%"></div>'
        f'</td><td class="n">{count:,}</td><td class="n">{percent(count / diff.counts.rows)}</td></tr>'
        for kind, count in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    )
    means = "".join(f"<li><b>{kind}</b>: {escape(said)}</li>" for kind, said in MEANS.items() if kind in totals)
    return (
        "<h2>Kinds of change</h2>"
        f'<section class="card"><table><caption>Prompts by the kind of change</caption><tbody>{rows}</tbody></table>'
        f'<ul class="plain soft">{means}</ul></section>'
    )


def _group(group: Group, diff: PromptDiff, *, with_pair: bool) -> str:
    edits = "".join(f"<li><code>{escape(one)}</code></li>" for one in edit_texts(group))
    tokens = f", {signed(group.tokens)} tokens" if group.tokens else ""
    head = (
        f'<div class="head"><h3>{counted(group.prompts, "prompt")}, {percent(group.prompts / diff.counts.rows)}</h3>'
        f'<span class="soft">{group.kind}{tokens}</span></div>'
    )
    shown = ""
    if with_pair and group.pair is not None:
        pair = group.pair
        keys = " ".join(f"{name}={value}" for name, value in pair.keys.items())
        lines = pair_lines(pair)
        near = "".join(_line(one) for one in near_changes(lines))
        whole = "".join(_line(one) for one in lines)
        shown = (
            f'<p class="soft">{escape(keys)} at {iso(pair.as_of)}</p><div class="lines">{near}</div>'
            f'<details><summary>The whole prompt</summary><div class="lines">{whole}</div></details>'
        )
    return f'<article class="card">{head}<ul class="edits">{edits}</ul>{shown}</article>'


def _line(line: DiffLine | None) -> str:
    if line is None:
        return '<div class="gap">…</div>'
    name = {" ": "", "-": ' class="old"', "+": ' class="new"'}[line.sign]
    text = "".join(f"<mark>{escape(one.text)}</mark>" if one.changed else escape(one.text) for one in line.parts)
    return f"<div{name}>{'&nbsp;' if line.sign == ' ' else line.sign}{text}</div>"


def _rest(groups: Sequence[Group]) -> str:
    if not groups:
        return ""
    total = sum(one.prompts for one in groups)
    return f"<p>And {counted(len(groups), 'smaller group')} with {counted(total, 'prompt')}.</p>"
