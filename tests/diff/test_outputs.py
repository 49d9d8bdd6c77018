"""What a diff looks like: safe against the values in it, readable in 80 columns, and on a page in a real browser."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfeatures.cli import terminal
from llmfeatures.cli.app import run
from llmfeatures.diff.edits import Edit, Message
from llmfeatures.diff.markdown import inert
from llmfeatures.diff.result import PromptDiff
from llmfeatures.diff.shown import amount, near_changes, pair_lines, percent
from llmfeatures.worddiff import DiffLine, Part
from tests.browser import browser
from tests.diff.conftest import HOSTILE, OLD, Made
from tests.diff.test_diff import NEW, spine

ASKED = NEW.replace("{{ question }}", "They ask: {{ question }}")


def hostile(rows: int) -> pa.Table:
    asked = pa.array([f"{HOSTILE} {number % 3}" for number in range(rows)])
    return spine(rows).set_column(2, "question", asked)


@pytest.fixture
def diffed(made: Made) -> PromptDiff:
    """Of prompts that print a hostile value in a line that changed."""
    return made({"home": OLD}, {"home": ASKED}).diff("home", spine=hostile(120), price="2.50")


def _prose(markdown: str) -> str:
    """Markdown without its fenced code."""
    made: list[str] = []
    fence = ""
    for line in markdown.split("\n"):
        opening = re.match(r"`{3,}", line)
        if fence:
            fence = "" if line == fence else fence
        elif opening:
            fence = opening[0]
        else:
            made.append(line)
    assert not fence
    return "\n".join(made)


def test_markdown_is_safe_against_values(diffed: PromptDiff) -> None:
    written = diffed.to_markdown(pairs=50)
    assert HOSTILE in written.replace("{+", "").replace("+}", "").replace("[-", "").replace("-]", "")
    prose = _prose(written)
    assert "@" not in prose
    assert "<b>bold" not in prose
    assert prose.count("<details>") == prose.count("</details>") == prose.count("<summary>") == len(diffed.groups)
    assert max(map(len, re.findall("`+", written))) == 4  # one more than in the value
    assert len(written) < 65_536


def test_a_comment_is_never_longer_than_a_service_takes(diffed: PromptDiff) -> None:
    (one, *_) = diffed.groups
    assert one.pair is not None
    edits = tuple(Edit("system", "#" * 90 + str(number), "@" * 90) for number in range(6))
    lines = "".join(f"{number} `@somebody` <b>\n" for number in range(400))
    pair = replace(one.pair, new=(Message("system", lines),))
    wide, keyed = replace(one, edits=edits, pair=pair), replace(one, pair=replace(pair, keys={"user_id": "@" * 20_000}))
    for many in (replace(diffed, groups=(wide,) * 30), replace(diffed, groups=(keyed,) * 3)):
        for pairs in (0, 5, 30):
            written = many.to_markdown(pairs=pairs)
            assert len(written) < 65_536
            listed = written.count("<details>")
            rest = re.search(r"And (\d+) smaller groups? with", written)
            assert listed + (int(rest[1]) if rest else 0) == len(many.groups)


@given(st.text(max_size=20))
def test_inert_text_has_no_markup(text: str) -> None:
    made = inert(text).removeprefix("<code>").removesuffix("</code>")
    assert re.fullmatch(r"(?:&#\d+;|[^\W_]| )*", made)


def test_the_page_holds_no_markup_of_values(diffed: PromptDiff) -> None:
    seen: set[str] = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.add(tag)
            assert not any(name.startswith("on") for name, _ in attrs)

    written = diffed.to_html()
    Tags().feed(written)
    assert not seen & {"script", "img", "iframe", "em"}
    assert "<b>bold" not in written
    assert "http" not in written.replace("http-equiv", "")


def test_the_page_in_a_browser(diffed: PromptDiff, tmp_path: Path) -> None:
    path = tmp_path / "diff.html"
    path.write_text(diffed.to_html(), encoding="utf-8")
    with browser() as chromium:
        for scheme, width in (("light", 1200), ("dark", 360)):
            tab = chromium.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
            asked: list[str] = []
            problems: list[str] = []
            tab.on("request", lambda one, asked=asked: asked.append(one.url))
            tab.on("console", lambda one, problems=problems: problems.append(one.text))
            tab.goto(path.as_uri())
            assert [one for one in asked if not one.startswith(("file:", "data:"))] == []
            assert problems == []
            assert "120 of 120 prompts change" in tab.inner_text("h1")
            assert HOSTILE in tab.inner_text("main")
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            tab.locator("summary").first.click()
            assert tab.locator("details[open] .lines div").count() > 5
            tab.close()


def test_a_terminal_of_80_columns(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    out = io.StringIO()

    def console(*, stderr: bool = False) -> Console:
        return Console(file=out, force_terminal=not stderr, width=80, color_system="standard", highlight=False)

    project = made({"home": OLD}, {"home": ASKED})
    monkeypatch.setattr(terminal, "console", console)
    assert run(["diff", "home", "--project", str(project.config.root), "--pairs", "0", "--price-per-million", "2"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    assert "\x1b[" in out.getvalue()


def test_lines_near_changes() -> None:
    lines = [DiffLine("+" if number in (5, 12) else " ", (Part(str(number), False),)) for number in range(20)]
    shown = ["" if one is None else one.parts[0].text for one in near_changes(lines)]
    assert shown == ["", "4", "5", "6", "", "11", "12", "13", ""]
    assert list(near_changes(lines[:3])) == []


def test_a_pair_without_a_prompt_says_why(diffed: PromptDiff) -> None:
    pair = diffed.groups[0].pair
    assert pair is not None
    assert any(line.sign == "+" for line in pair_lines(pair))


def test_numbers() -> None:
    from decimal import Decimal

    assert [percent(one) for one in (0, 0.0001, 0.312, 0.9999, 1)] == ["0%", "<0.1%", "31.2%", ">99.9%", "100%"]
    shown = [amount(Decimal(one)) for one in ("0", "12.3", "-0.003412", "1234567.891", "0.5")]
    assert shown == ["0", "+12.30", "-0.0034", "+1,234,567.89", "+0.50"]
