"""The report: what it counts is what the rows hold, however they are cut; and a real browser shows it, offline."""

from __future__ import annotations

import random
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfeatures import Project
from llmfeatures.errors import RequestError
from llmfeatures.report import Report, reported
from llmfeatures.report.origin import spine_name, users_drawn
from llmfeatures.report.prompts import Prompt, Prompts, most_different
from llmfeatures.report.tally import DAY, HOUR, STATUSES, Ages, Coverage, Numbers, Top
from tests.browser import browser
from tests.projects import MOMENT, NOW, at, make_project, segment, watched

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&amp;"
PROMPT = """---
description: What <b>we</b> know
features:
  segment: {default: unknown, max_age: 2d}
  watched: {on_missing: none}
---
{% message "system" %}You help a viewer of the segment {{ segment }}.{% endmessage %}
{% message "user" %}
{{ user_id }} watched {{ watched }} titles{% if watched == 13 %} {{ 1 // 0 }}{% endif %}
{% endmessage %}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    users = [f"u{number}" for number in range(12)]
    segments = [segment(one, HOSTILE if index < 4 else "casual", at(1, day=2)) for index, one in enumerate(users[:9])]
    counts = [watched(one, index + 3, at(hour, day=3)) for index, one in enumerate(users) for hour in (1, 9)]
    make_project(tmp_path, segments=segments, counts=counts, prompts={"home": PROMPT})
    return Project.load(tmp_path, now=lambda: NOW)


def spine(rows: int = 400) -> pa.Table:
    chance = random.Random(7)
    start = datetime(2026, 5, 1, tzinfo=UTC)
    return pa.table(
        {
            "user_id": [f"u{chance.randrange(14)}" for _ in range(rows)],
            "event_timestamp": pa.array(
                [start + timedelta(minutes=chance.randrange(9 * 1440)) for _ in range(rows)], MOMENT
            ),
        }
    )


def report_of(project: Project, batches: list[pa.RecordBatch]) -> Report:
    report = Report(project.history("home", spine()).plan, spine_name="visits <1>", clock="known")
    assert list(reported(batches, report)) == batches
    return report


def table_of(project: Project) -> pa.Table:
    return project.history("home", spine()).read_all()


def test_the_counts_are_those_of_the_rows(project: Project) -> None:
    table = table_of(project)
    report = report_of(project, table.to_batches())
    rows = table.to_pylist()
    assert report.rows == 400
    assert report.failed == sum(row["error"] is not None for row in rows) > 0
    assert report.range == (min(row["as_of"] for row in rows), max(row["as_of"] for row in rows))
    assert report.prompts.distinct() == (len({row["prompt_id"] for row in rows} - {None}), True)
    for name, tally in report.features.items():
        statuses = Counter(row["statuses"][name] for row in rows)
        assert dict(zip(STATUSES, tally.coverage.totals, strict=True)) == {one: statuses[one] for one in STATUSES}
        days = Counter((f"{row['as_of']:%Y-%m-%d}", row["statuses"][name]) for row in rows)
        unit, buckets = tally.coverage.buckets()
        assert unit == "day"
        found = {
            (one.label, status): count
            for one in buckets
            for status, count in zip(STATUSES, one.counts, strict=True)
            if count
        }
        assert found == dict(days)
        ages = [row["as_of"] - row["timestamps"][name] for row in rows if row["timestamps"][name]]
        assert sum(count for _, count in tally.ages.histogram()) == tally.ages.numbers.count == len(ages)
        over_a_week = sum(age >= timedelta(days=7) for age in ages)
        assert sum(count for label, count in tally.ages.histogram() if label == "7 d to 14 d") == over_a_week
    values = Counter(row["features"]["segment"] for row in rows) - Counter({None: 10**6})
    assert dict(report.features["segment"].top.most_common(9)) == dict(values)
    counts = Counter(row["features"]["watched"] for row in rows)
    assert report.features["watched"].numbers.points() == sorted((k, v) for k, v in counts.items() if k is not None)
    texts = [sum(len(one["content"]) for one in row["messages"]) for row in rows if row["messages"]]
    assert report.prompts.lengths.points() == sorted(Counter(texts).items())
    prompts = Counter(row["prompt_id"] for row in rows if row["prompt_id"])
    commonest = report.prompts.commonest()
    assert commonest is not None
    assert commonest.rows == max(prompts.values())


def test_the_same_rows_give_the_same_bytes_however_they_are_cut(project: Project) -> None:
    table = table_of(project).combine_chunks()
    pages = {report_of(project, table.to_batches(max_chunksize=size)).html() for size in (1, 7, 64, 400)}
    assert len(pages) == 1


def test_values_show_as_text(project: Project) -> None:
    page = report_of(project, table_of(project).to_batches()).html()
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>we" not in page
    assert "visits &lt;1&gt;" in page
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert not tags.open
    assert HOSTILE in tags.text  # parsed again, it is the value


def test_a_report_of_nothing_is_a_page(project: Project, tmp_path: Path) -> None:
    report = report_of(project, [])
    report.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No row has a prompt" in text
    with pytest.raises(RequestError, match="folder that exists"):
        report.write(tmp_path / "nowhere" / "report.html")


def test_a_written_history_brings_its_report(project: Project, tmp_path: Path) -> None:
    summary = project.history("home", spine()).write(tmp_path / "out.parquet", report=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"<dt>Rows</dt><dd>{summary.rows}</dd>" in page
    assert f"<dt>Rows with an error</dt><dd>{summary.errors}</dd>" in page


def test_copies_without_a_feature_count_as_prompts_alone(project: Project, tmp_path: Path) -> None:
    plain, paired = tmp_path / "plain.html", tmp_path / "paired.html"
    project.history("home", spine()).write(tmp_path / "plain.parquet", report=plain)
    made = project.history("home", spine(), without=["segment", "watched"])
    summary = made.write(tmp_path / "paired.parquet", report=paired)

    def features(page: Path) -> str:
        return page.read_text(encoding="utf-8").partition("<h2>Features</h2>")[2].partition("<h2>Prompt length")[0]

    assert features(paired) == features(plain)
    assert "<dt>Rows</dt><dd>1,200</dd>" in paired.read_text(encoding="utf-8")
    assert "800 of the rows are copies without a feature" in paired.read_text(encoding="utf-8")
    assert "copies" not in plain.read_text(encoding="utf-8")
    report = report_of(project, list(project.history("home", spine(), without="segment")))
    totals = dict(zip(STATUSES, report.features["segment"].coverage.totals, strict=True))
    assert {name: count for name, count in totals.items() if count} == dict(summary.statuses["segment"])


def test_columns_of_the_spine_named_like_those_of_copies_are_no_copies(project: Project) -> None:
    columns = {"pair": pa.array(["x"] * 400), "without": pa.array(["segment", None] * 200)}
    for added in (columns, {**columns, "pair": pa.nulls(400), "without": pa.array(range(400))}):
        table = spine()
        for name, column in added.items():
            table = table.append_column(name, column)
        report = report_of(project, list(project.history("home", table)))
        assert (report.copies, sum(report.features["segment"].coverage.totals)) == (0, 400)


def test_a_spine_says_where_it_is_from(project: Project) -> None:
    names = {
        "all 12 users drawn from history, a moment every 1d over 30d, seed 0": project.spine("home"),
        "5 users drawn from history, a moment every 12h over 2d, seed 3": project.spine(
            "home", users=5, every="12h", since=timedelta(days=2), seed=3
        ),
        "3 users drawn from history, a moment every 1d over 30d where watched > 11, seed 0": project.spine(
            "home", users=99, where="watched\n > 11"
        ),
        "visits.parquet": Path("data/visits.parquet"),
        "rows in memory": spine(),
    }
    assert {spine_name(one): one for one in names.values()}.keys() == names.keys()
    assert [users_drawn(one) for one in names.values()] == [12, 5, 3, None, None]


def test_the_page_says_where_the_rows_are_from(project: Project, tmp_path: Path) -> None:
    said = "Rows from 2 users drawn from history, a moment every 1d over 30d, seed 0."
    for options in ({"users": 2}, {"users": 2, "sample": 3, "label": "segment@+1d"}):
        project.history("home", None, **options).write(tmp_path / "out.parquet", report=tmp_path / "report.html")
        assert said in (tmp_path / "report.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Checks that every element is closed, and collects the text."""

    VOID = frozenset({"meta", "link", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.lists(st.lists(st.floats(-1e9, 1e9), max_size=30), max_size=6))
def test_numbers_keep_their_order_and_count(batches: list[list[float]]) -> None:
    numbers, whole = Numbers(), [one for batch in batches for one in batch]
    for batch in batches:
        numbers.add(pa.array(batch, pa.float64()))
    assert numbers.points() == sorted(Counter(whole).items())
    assert sum(count for _, _, count in numbers.histogram()) == len(whole)
    if whole:
        median = sorted(whole)[(len(whole) + 1) // 2 - 1]
        assert numbers.quantiles([0.5]) == [median]


def test_many_numbers_are_counted_within_five_percent_however_they_are_cut() -> None:
    chance = random.Random(3)
    values = [chance.lognormvariate(3, 4) * chance.choice((1, -1)) for _ in range(30_000)] + [0.0] * 100
    made: list[Numbers] = []
    for size in (30_100, 999, 4_000):
        numbers = Numbers()
        for first in range(0, len(values), size):
            numbers.add(pa.array(values[first : first + size], pa.float64()))
        made.append(numbers)
    assert made[0].points() == made[1].points() == made[2].points()
    assert not made[0].exact
    assert sum(count for _, _, count in made[0].histogram()) == len(values)
    for part in (0.05, 0.25, 0.75, 0.95):
        true = sorted(values)[round(part * len(values)) - 1]
        assert abs(made[0].quantiles([part])[0] - true) <= 0.05 * abs(true)


@given(st.lists(st.tuples(st.integers(-5_000, 5_000), st.sampled_from(STATUSES)), max_size=50))
def test_coverage_loses_no_row(rows: list[tuple[int, str]]) -> None:
    coverage = Coverage()
    coverage.add(pa.array([hour for hour, _ in rows], pa.int64()), pa.array([one for _, one in rows], pa.string()))
    _, buckets = coverage.buckets()
    assert sum(sum(one.counts) for one in buckets) == sum(coverage.totals) == len(rows)
    assert len(buckets) <= 120
    assert [one.label for one in buckets] == sorted({one.label for one in buckets})


def test_long_histories_are_kept_by_the_day() -> None:
    coverage = Coverage()
    for first in range(0, 40_000, 500):
        coverage.add(pa.array(range(first, first + 500), pa.int64()), pa.array(["null"] * 500))
    unit, buckets = coverage.buckets()
    assert unit == "month"
    assert buckets[0].counts == (0, 31 * 24, 0, 0)
    assert coverage._unit == DAY > HOUR
    coverage.add(pa.array([-1, -24, -25], pa.int64()), pa.array(["present"] * 3))  # before 1970
    days = {place: counts for place, counts in coverage._counts.items() if counts[0]}
    assert days == {-1: [2, 0, 0, 0], -2: [1, 0, 0, 0]}


def test_counts_of_too_many_values_are_lower_bounds() -> None:
    top = Top(50)
    for first in range(0, 2_000, 40):
        top.add([("often", 30), *((f"v{number}", 1) for number in range(first, first + 40))])
    assert not top.exact
    name, count = top.most_common(1)[0]
    assert name == "often"
    assert 0 < count <= 50 * 30


def test_ages_fall_into_their_bins() -> None:
    ages = Ages()
    ages.add(pa.array([59_999_999, 60_000_000, None, 3 * DAY, 400 * DAY], pa.int64()))
    assert {label: count for label, count in ages.histogram() if count} == {
        "under 1 min": 1,
        "1 min to 5 min": 1,
        "3 d to 7 d": 1,
        "1 y or more": 1,
    }


def test_distinct_prompts_beyond_the_sketch_are_an_estimate() -> None:
    from hashlib import sha256

    prompts, messages = Prompts(), [[{"role": "user", "content": "hello"}]] * 10_000
    for first in range(0, 60_000, 10_000):
        ids = [sha256(str(number).encode()).hexdigest() for number in range(first, first + 10_000)]
        prompts.add(pa.array(ids), pa.array(messages))
    found, exact = prompts.distinct()
    assert not exact
    assert abs(found - 60_000) < 0.05 * 60_000


def test_the_most_different_prompts_are_the_farthest_first() -> None:
    def prompt(identity: str, text: str) -> Prompt:
        return Prompt(identity=identity, text=text, rows=1)

    start = prompt("a", "one two three four five six")
    near, far = prompt("b", "one two three four five seven"), prompt("c", "quite another text this is")
    chosen = most_different(start, [near, far, start, prompt("d", start.text)], 10)
    assert [one.identity for one, _ in chosen] == ["a", "c", "b"]
    assert chosen[1][1] == 1.0


def test_a_browser_shows_it_offline(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report_of(project, table_of(project).to_batches()).write(path)
    with browser() as started:
        for width, scheme in ((1280, "light"), (360, "light"), (360, "dark")):
            context = started.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
            page, said, asked = context.new_page(), [], []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(path.as_uri())
            assert said == []
            assert [one for one in asked if not one.startswith(("data:", path.as_uri()))] == []
            assert page.title() == "Prompt home: a report of its history"
            assert page.evaluate("document.documentElement.scrollWidth") == width
            headings = page.locator("h2").all_inner_texts()
            assert headings[:2] == ["Features", "Prompt length"]
            assert re.fullmatch(r"The \d+ most different prompts", headings[2])
            charts = page.get_by_role("img", name=re.compile("Share of rows by status per day"))
            assert charts.count() == 2
            for index in range(2):
                box = charts.nth(index).bounding_box()
                assert box is not None
                assert box["width"] > 200
                assert box["height"] > 50
            assert page.locator(".bar").first.bounding_box()["width"] > 20
            assert page.locator("th", has_text="<script>document.title").first.is_visible()
            assert page.locator("script, img").count() == 0
            assert page.evaluate(LOWEST_CONTRAST) >= 4.5
            context.close()


LOWEST_CONTRAST = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  let lowest = 21;
  for (const one of document.querySelectorAll("main *")) {
    if (![...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || one.closest("svg")) continue;
    let behind = one, back = [0, 0, 0, 0];
    while (behind && back[3] === 0) {
      const found = parse(getComputedStyle(behind).backgroundColor);
      back = found.length === 4 ? found : [...found, 1];
      behind = behind.parentElement;
    }
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(back)].sort((x, y) => y - x);
    lowest = Math.min(lowest, (a + 0.05) / (b + 0.05));
  }
  return lowest;
}"""
