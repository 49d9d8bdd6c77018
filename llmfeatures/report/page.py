"""The HTML of a report. Every text that comes from data passes `escape`; nothing is fetched and no script runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from html import escape
from typing import TYPE_CHECKING

from llmfeatures.clock import duration_text
from llmfeatures.report.prompts import Prompt, most_different
from llmfeatures.report.style import CSS
from llmfeatures.report.tally import STATUSES, Bucket, Coverage, Numbers, Top
from llmfeatures.version import __version__
from llmfeatures.worddiff import diff_lines

if TYPE_CHECKING:
    from llmfeatures.report.report import FeatureTally, Report

_VALUES = 12
_DIFFERENT = 10
_SIDE_BY_SIDE = 4
_CHARACTERS_PER_TOKEN = 4
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MEANS = {"items": "Items in each list", "characters": "Characters of each json value", "values": "Values"}


def page(report: Report) -> str:
    """The whole page."""
    title = escape(f"Prompt {report.plan.name}: a report of its history")
    body = [
        _summary(report),
        "<h2>Features</h2>",
        *[_feature(one) for one in report.features.values()],
        "" if report.features else "<p>This prompt reads no feature.</p>",
        _documents(report),
        _lengths(report),
        _different(report),
        _samples(report),
        f'<p class="soft">Written by llmfeatures {escape(__version__)}. All times are UTC.</p>',
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}</title>'
        f'<link rel="icon" href="data:,"><style>{CSS}</style></head>\n<body><main>\n'
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def _summary(report: Report) -> str:
    plan, span = report.plan, report.range
    distinct, exact = report.prompts.distinct()
    figures = [
        ("Rows", f"{report.rows:,}"),
        ("Rows with an error", f"{report.failed:,}"),
        ("Distinct prompts" if exact else "Distinct prompts, estimated", f"{'' if exact else 'about '}{distinct:,}"),
        ("From (UTC)", "none" if span is None else _moment(span[0])),
        ("To (UTC)", "none" if span is None else _moment(span[1])),
    ]
    known = {"known": "what was known at each moment", "event": "what was true at each moment, known or not"}
    split = f" Split: {escape(report.split)}." if report.split else ""
    origin = (
        f"Version <code>{escape(plan.version)}</code>. Rows from {escape(report.spine_name)}. "
        f"Clock <code>{escape(report.clock)}</code>: {known.get(report.clock, 'as the clock says')}.{split}"
    )
    if report.copies:
        origin += (
            f" {report.copies:,} of the rows are copies without a feature: they are prompts like the others, and the "
            "features below are counted without them."
        )
    parts = [
        f"<header><h1>Prompt {escape(plan.name)}</h1>",
        f"<p>{escape(plan.description)}</p>" if plan.description else "",
        f'<p class="soft origin">{origin}</p></header>',
        '<dl class="figures">',
        *[f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in figures],
        "</dl>",
    ]
    if report.failed:
        least = "" if report.reasons.exact else "at least "
        lines = [f"<li>{escape(one)} ({least}{count:,})</li>" for one, count in report.reasons.most_common(5)]
        parts.append(
            f'<section class="card"><h3>Most frequent errors</h3><ul class="plain">{"".join(lines)}</ul></section>'
        )
    return "\n".join(part for part in parts if part)


def _feature(tally: FeatureTally) -> str:
    limit = "no limit of age" if tally.limit is None else f"expires after {duration_text(tally.limit)}"
    return (
        f'<article class="card"><div class="head"><h3>{escape(tally.name)}</h3>'
        f'<span class="soft">{escape(tally.dtype)}, {limit}</span></div>'
        f"{_coverage(tally.name, tally.coverage)}"
        f'<div class="two">{_values(tally)}{_ages(tally)}</div></article>'
    )


def _documents(report: Report) -> str:
    tally = report.documents
    if tally is None:
        return ""
    names = ", ".join(f"{one.name} from retriever {one.retriever.name}" for one in report.plan.documents)
    head = f'<h2>Documents</h2><div class="card"><p>{escape(names)}.</p>'
    if not tally.ids.total:
        return f"{head}<p>No prompt has any.</p></div>"
    scores = _numbers(tally.scores) if tally.scores.count else "<p>The newest ones, without a score.</p>"
    return (
        f'{head}<div class="two"><div><h3>Documents of each prompt</h3>{_numbers(tally.each)}</div>'
        f"<div><h3>Their scores</h3>{scores}</div></div>"
        f'<div class="two"><div><h3>Most frequent, by id</h3>{_top(tally.ids)}</div>'
        f"<div><h3>Tiers</h3>{_top(tally.tiers)}</div></div></div>"
    )


def _coverage(name: str, coverage: Coverage) -> str:
    unit, buckets = coverage.buckets()
    rows = sum(coverage.totals)
    key = "".join(
        f'<li><i class="{status}"></i>{status} {_share(count, rows)}</li>'
        for status, count in zip(STATUSES, coverage.totals, strict=True)
    )
    if not buckets:
        return f'<ul class="key">{key}</ul>'
    label = f"Share of rows by status per {unit}: {escape(name)}, {buckets[0].label} to {buckets[-1].label}"
    return (
        f"<figure><figcaption>Status by {unit}</figcaption>{_stacks(label, buckets)}"
        f'<div class="axis"><span>{buckets[0].label}</span>'
        f"{f'<span>{buckets[-1].label}</span>' if len(buckets) > 1 else ''}</div>"
        f'<ul class="key">{key}</ul></figure>{_coverage_table(name, unit, buckets)}'
    )


def _stacks(label: str, buckets: Sequence[Bucket]) -> str:
    """Bars of full height, since it is shares that are compared; a bucket without rows stays empty."""
    bars: list[str] = []
    gap = 1 if len(buckets) <= 100 else 0
    for index, bucket in enumerate(buckets):
        total, top = sum(bucket.counts), 0.0
        if not total:
            continue
        words = ", ".join(f"{name} {_share(count, total)}" for name, count in zip(STATUSES, bucket.counts, strict=True))
        rects: list[str] = []
        for name, count in zip(reversed(STATUSES), reversed(bucket.counts), strict=True):
            height = 100 * count / total
            if count:
                rects.append(
                    f'<rect class="{name}" x="{index * 10}" y="{top:.2f}" width="{10 - gap}" height="{height:.2f}"/>'
                )
            top += height
        bars.append(f"<g><title>{bucket.label}: {total:,} rows; {words}</title>{''.join(rects)}</g>")
    width = len(buckets) * 10 - gap
    frame = f'viewBox="0 0 {width} 100" preserveAspectRatio="none" role="img" aria-label="{label}"'
    return f"<svg {frame}>{''.join(bars)}</svg>"


def _coverage_table(name: str, unit: str, buckets: Sequence[Bucket]) -> str:
    head = "".join(f'<th scope="col" class="n">{status}</th>' for status in STATUSES)
    rows = "".join(
        f'<tr><th scope="row">{one.label}</th>{"".join(f"<td class=n>{count:,}</td>" for count in one.counts)}</tr>'
        for one in buckets
        if sum(one.counts)
    )
    return (
        f'<details><summary>Rows by {unit} as a table</summary><div class="scroll" tabindex="0"><table>'
        f"<caption>Rows of {escape(name)} by status</caption>"
        f'<thead><tr><th scope="col">{unit}</th>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _values(tally: FeatureTally) -> str:
    if tally.measures == "span":
        found = "none" if tally.span is None else f"{tally.span[0]} to {tally.span[1]}"
        return f"<div><h4>First to last value</h4><p>{escape(found)}</p></div>"
    title = _MEANS[tally.measures]
    if tally.numbers.count:
        return f"<div><h4>{title}</h4>{_numbers(tally.numbers)}</div>"
    if tally.top.total:
        return f"<div><h4>{title}</h4>{_top(tally.top)}</div>"
    return f"<div><h4>{title}</h4><p>None is present.</p></div>"


def _top(top: Top) -> str:
    least = "" if top.exact else "at least "
    bars = [(one or "(empty text)", count) for one, count in top.most_common(_VALUES)]
    rest = top.total - sum(count for _, count in bars)
    if rest:
        others = f"{top.distinct - len(bars):,} others" if top.exact else "all others"
        bars.append((others, rest))
    said = "" if top.exact else " Too many different values to count each: the counts are lower bounds."
    return _bars(f"Rows with each, most frequent first.{said}", bars, top.total, least)


def _numbers(numbers: Numbers) -> str:
    bars = [(_ends(low, high), count) for low, high, count in numbers.histogram()]
    low, high = numbers.low or 0.0, numbers.high or 0.0
    said = f"Rows by number: from {_number(low)} to {_number(high)}, mean {numbers.mean:,.4g}"
    return _bars(said, bars, numbers.count) + _quantile_line(numbers, _number)


def _ends(low: float, high: float) -> str:
    return _number(low) if low == high else f"{_number(low)} to {_number(high)}"


def _ages(tally: FeatureTally) -> str:
    ages = tally.ages
    title = "Age at prompt time"
    if not ages.numbers.count:
        return f"<div><h4>{title}</h4><p>No row has a value.</p></div>"
    beyond = ""
    if tally.limit is not None:
        expired = tally.coverage.totals[STATUSES.index("expired")]
        beyond = f"<p>{expired:,} rows are beyond the limit of {duration_text(tally.limit)}.</p>"
    bars = _bars("Rows by the age of the value", ages.histogram(), ages.numbers.count)
    return f"<div><h4>{title}</h4>{bars}{_quantile_line(ages.numbers, _age)}{beyond}</div>"


def _quantile_line(numbers: Numbers, said: Callable[[float], str]) -> str:
    found = numbers.quantiles(_QUANTILES)
    about = "" if numbers.exact else ", each within 5 %"
    return f'<p class="soft">{_parts([said(value) for value in found])}{about}</p>'


def _parts(values: Sequence[str]) -> str:
    names = ("5 % up to", "25 % up to", "half up to", "75 % up to", "95 % up to")
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))


def _bars(caption: str, bars: Sequence[tuple[str, int]], total: int, least: str = "") -> str:
    most = max((count for _, count in bars), default=1) or 1
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        f'<td class="b"><div class="bar" style="width:{100 * count / most:.2f}%"></div></td>'
        f'<td class="n">{least}{count:,}</td><td class="n">{_share(count, total)}</td></tr>'
        for label, count in bars
    )
    return f"<table><caption>{escape(caption)}</caption><tbody>{rows}</tbody></table>"


def _lengths(report: Report) -> str:
    lengths = report.prompts.lengths
    if not lengths.count:
        return "<h2>Prompt length</h2><p>No row has a prompt.</p>"
    tokens = [value / _CHARACTERS_PER_TOKEN for value in lengths.quantiles(_QUANTILES)]
    mean, most = lengths.mean / _CHARACTERS_PER_TOKEN, (lengths.high or 0.0) / _CHARACTERS_PER_TOKEN
    whole = lengths.mean * lengths.count / _CHARACTERS_PER_TOKEN
    return (
        '<h2>Prompt length</h2><div class="card two"><div><h3>Characters of all messages</h3>'
        f"{_numbers(lengths)}</div>"
        "<div><h3>Tokens, an estimate</h3><p>No tokenizer was used: this is the number of characters divided by 4. "
        "A model's own count can differ by a third or more, above all for text that is not English.</p>"
        f"<p>About {mean:,.0f} tokens in a prompt, {most:,.0f} in the longest, {whole:,.0f} in all rows together.</p>"
        f'<p class="soft">{_parts([f"{value:,.0f}" for value in tokens])}</p></div></div>'
    )


def _different(report: Report) -> str:
    start = report.prompts.commonest()
    if start is None:
        return ""
    sample = report.prompts.sample()
    chosen = most_different(start, sample, _DIFFERENT)
    distinct, exact = report.prompts.distinct()
    among = "all" if exact and distinct <= len(sample) else f"a random sample of {len(sample)} of the"
    # of too many prompts, the counts are lower bounds, and the leader may be another one
    first = "The most frequent prompt" if report.prompts.counts.exact else "A frequent prompt"
    first = first if start.rows else "A prompt drawn at random"
    cards = [_prompt(first if not index else f"{index + 1}.", one, start, far, report)
             for index, (one, far) in enumerate(chosen)]  # fmt: skip
    return (
        f"<h2>The {len(chosen)} most different prompts</h2>"
        f"<p>Chosen among {among} distinct prompts: first {first[0].lower()}{first[1:]}, then always the one farthest "
        "from all before it, by the runs of three words that they share. What the first one does not have is "
        f"marked.</p><div class='two pair'>{''.join(cards)}</div>"
    )


def _prompt(title: str, prompt: Prompt, start: Prompt, far: float, report: Report) -> str:
    least = "" if report.prompts.counts.exact else "at least "
    rows = f"{least}{prompt.rows:,} {'row' if prompt.rows == 1 else 'rows'}" if prompt.rows else "rows not counted"
    said = f"{rows}, {far:.0%} different" if far else rows
    text = escape(prompt.text) if prompt.identity == start.identity else _marked(start.text, prompt.text)[1]
    return (
        f'<article class="card"><div class="head"><h3>{title}</h3><span class="soft">{said}</span></div>'
        f'<pre tabindex="0">{text}</pre></article>'
    )


def _marked(old: str, new: str) -> tuple[str, str]:
    """Both texts, with what the other does not have marked."""
    sides: tuple[list[str], list[str]] = ([], [])
    for line in diff_lines(old, new):
        made = "".join(f"<mark>{escape(one.text)}</mark>" if one.changed and one.text else escape(one.text)
                       for one in line.parts)  # fmt: skip
        if line.sign != "+":
            sides[0].append(made)
        if line.sign != "-":
            sides[1].append(made)
    return "\n".join(sides[0]), "\n".join(sides[1])


def _samples(report: Report) -> str:
    """Prompts drawn at random, two by two, each marked against the other."""
    sample = report.prompts.sample()[:_SIDE_BY_SIDE]
    if len(sample) < 2:
        return ""
    said = "Drawn at random from the distinct prompts. What the other of the pair does not have is marked."
    parts = [f"<h2>Sample prompts side by side</h2><p>{said}</p>"]
    for left, right in zip(sample[::2], sample[1::2], strict=False):
        for one, text in zip((left, right), _marked(left.text, right.text), strict=True):
            side = "<div class='two pair'>" if one is left else ""
            end = "</div>" if one is right else ""
            parts.append(
                f'{side}<article class="card"><h3>Prompt <code>{one.identity[:12]}</code></h3>'
                f'<pre tabindex="0">{text}</pre></article>{end}'
            )
    return "".join(parts)


def _share(count: int, total: int) -> str:
    """A part as percent; never 0 or 100 unless it is all or nothing."""
    if not total:
        return "0 %"
    part = 100 * count / total
    if 0 < part < 0.1:
        return "< 0.1 %"
    if 99.9 < part < 100:
        return "> 99.9 %"
    return f"{part:.0f} %" if part in (0, 100) else f"{part:.1f} %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:,.4g}"


def _age(seconds: float) -> str:
    span = timedelta(seconds=seconds)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{span.total_seconds() / length:,.1f} {unit}"
    return f"{seconds:,.0f} s"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d} {moment:%H:%M}"
