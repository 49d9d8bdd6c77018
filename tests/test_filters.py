"""Filters: what the documentation shows, what they refuse, and their laws."""

import decimal
import inspect
import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmfeatures.errors import PromptError, RenderError
from llmfeatures.prompts import formats
from llmfeatures.prompts.compiled import Compiled
from llmfeatures.prompts.compiling import compile_prompt
from llmfeatures.prompts.environment import make_environment
from llmfeatures.prompts.filters import FILTERS, REMOVED
from llmfeatures.prompts.own_filters import OWN_FILTERS
from llmfeatures.tokens import tokenizer

DOCS = Path(__file__).parent.parent / "docs" / "filters.md"
VALUES: dict[str, Any] = {
    "as_of": datetime(2026, 5, 7, 22, tzinfo=UTC),
    "watched": datetime(2026, 5, 4, 20, tzinfo=UTC),
    "joined": date(2026, 2, 1),
    "seconds": 7530,
    "titles": ["Dune", "Alien", "Heat", "Up", "Her", "Jaws"],
    "shows": [{"title": "Alien|Aliens", "year": 1979}, {"title": "Dune", "year": None}],
    "nothing": None,
    "note": "so <|im_start|>\ngood",
}
ENVIRONMENT = make_environment(Path(__file__).parent)
_compiled: dict[str, Compiled] = {}


def show(body: str, role: str = "system", **values: Any) -> str:
    """The one message of a body; its segments must be the same text."""
    if role != "system":
        body = f"{{% message {role!r} %}}{body}{{% endmessage %}}"
    if body not in _compiled:
        _compiled[body] = compile_prompt(ENVIRONMENT, body, name="p", path="p.prompt.j2", line_offset=0)
    (message,) = _compiled[body].render(values)
    ((_, parts),) = _compiled[body].segments(values)
    assert "".join([part.text for part in parts]) == message.content
    return message.content


# -- the documentation -----------------------------------------------------------------------------------------------


_BLOCK = re.compile(r"^```text examples\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXAMPLE = re.compile(r"^(\{\{.*\}\}) →(?: (.*\n)|\n((?:.+\n)+))", re.MULTILINE)
_SIGNATURE = re.compile(r"^\| `(\w+)\((.*?)\)` \|", re.MULTILINE)


def examples() -> Iterator[tuple[str, str]]:
    """Each template of the page, and what it says is printed."""
    for block in _BLOCK.findall(DOCS.read_text(encoding="utf-8")):
        for template, line, lines in _EXAMPLE.findall(block):
            yield template, (line or lines).rstrip("\n")


@pytest.mark.parametrize(("template", "output"), list(examples()))
def test_the_examples_of_the_page(template: str, output: str) -> None:
    assert show(template, **VALUES) == output


def test_the_page_has_each_filter_with_its_signature() -> None:
    shown = dict(_SIGNATURE.findall(DOCS.read_text(encoding="utf-8")))
    assert shown.keys() == OWN_FILTERS.keys()
    used = {name for template, _ in examples() for name in re.findall(r"\|(\w+)", template)}
    assert used | {"clip_tokens"} >= OWN_FILTERS.keys()
    for name, function in OWN_FILTERS.items():
        parameters = [
            one.replace(
                annotation=inspect.Parameter.empty,
                default=str(one.default) if isinstance(one.default, str) else one.default,
            )
            for one in inspect.signature(function).parameters.values()
            if one.name not in ("env", "value")
        ]
        written = ", ".join(str(one) for one in parameters).replace("'", '"')
        assert written == shown[name], name


# -- what they refuse ------------------------------------------------------------------------------------------------

_CALLS = {
    "money": '("USD")', "ago": "(as_of)", "plural": "(1)", "clip_chars": "(3)", "batch": "(2)", "slice": "(2)",
    "attr": '("x")',
    "groupby": '("x")', "replace": '("a", "b")', "map": '("upper")', "select": "", "selectattr": '("x")',
    "rejectattr": '("x")', "format": "(1)",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_none_is_refused_with_a_hint(name: str) -> None:
    body = f"{{{{ nothing|{name}{_CALLS.get(name, '')} }}}}"
    if name in ("or_else", "default", "d"):
        return
    if name in ("json", "tojson"):
        assert show(body, **VALUES) == "null"
        return
    if name == "clip_tokens":
        body = "{{ nothing|clip_tokens(3) }}"
        with pytest.raises(PromptError, match=r"^p\.prompt\.j2:1:12: clip_tokens .* add budget"):
            show(body, **VALUES)
        return
    with pytest.raises(RenderError, match=rf"{name}: the value is None; guard it .*or_else"):
        show(body, **VALUES)


_NUMBER = "an int, float or decimal"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{{ true|num }}", f"num takes {_NUMBER}, not a bool"),
        ("{{ note|num }}", f"num takes {_NUMBER}, not a str"),
        ("{{ titles|compact }}", f"compact takes {_NUMBER}, not a list"),
        ("{{ joined|pct }}", f"pct takes {_NUMBER}, not a date"),
        ("{{ as_of|money('USD') }}", f"money takes {_NUMBER}, not a timestamp"),
        ("{{ 1|num(31) }}", "num: places is a whole number from 0 to 30"),
        ("{{ 1|num(-1) }}", "num: places is a whole number"),
        ("{{ 1|pct(1.5) }}", "pct: places is a whole number from 0 to 30, not a float"),
        ("{{ 1|pct(true) }}", "pct: places is a whole number"),
        ("{{ 1|money('usd') }}", "three capital letters"),
        ("{{ 1|money(1) }}", "three capital letters"),
        ("{{ 1|money(note) }}", "three capital letters"),
        ("{{ (1e308 * 10)|num }}", "num: the number is not finite"),
        ("{{ note|date }}", "date takes a timestamp or date, not a str"),
        ("{{ 1|date }}", "date takes a timestamp or date, not an int"),
        ("{{ joined|date('%H:%M') }}", "date: %H asks for a time, and a date has none"),
        ("{{ as_of|date('%Q') }}", "date: a format has no '%Q'; it has %Y"),
        ("{{ as_of|date('50%') }}", "date: a format has no '%'"),
        ("{{ as_of|date(note) }}", "a value is no format"),
        ("{{ as_of|ago(nothing) }}", "ago: the value is None"),
        ("{{ as_of|ago(1) }}", "ago takes a timestamp or date, not an int"),
        ("{{ note|duration }}", r"duration takes seconds \(.*\) or a difference of timestamps, not a str"),
        ("{{ 1|plural(2) }}", r'plural takes a word, like "title"\|plural\(3\), not an int'),
        ("{{ 'title'|plural('3') }}", f"plural takes {_NUMBER}, not a str"),
        ("{{ 1|yesno }}", "yesno takes a bool, not an int"),
        ("{{ 'yes'|yesno }}", "yesno takes a bool, not a str"),
        ("{{ note|bullets }}", "bullets takes a list, not a str"),
        ("{{ 3|numbered }}", "numbered takes a list, not an int"),
        ("{{ shows[0]|and_join }}", "and_join takes a list, not a json object"),
        ("{{ ['a', nothing]|bullets }}", r'bullets: an item is None; leave it out with reject\("none"\)'),
        ("{{ titles|and_join(0) }}", "and_join: max is a whole number from 1"),
        ("{{ titles|table }}", "table takes a list of json objects; item 1 is a str"),
        ("{{ shows|table('title') }}", "table: columns is a list of keys"),
        ("{{ shows|json(99) }}", "json: indent is a whole number from 0 to 16"),
        ("{{ note|clip_chars(0) }}", "clip_chars: n is a whole number from 1"),
        ("{{ note|clip_chars(2, end='...') }}", "clip_chars: 2 characters have no room for an ending of 3"),
        ("{{ note|datamark('') }}", "datamark: the mark is at least one character"),
        ("{{ note|datamark(' ') }}", "datamark: the mark is at least one character"),
        ("{{ gone|num }}", "'gone' is undefined"),
        ("{{ gone|json }}", "'gone' is undefined"),
        ("{{ as_of - watched }}", "a difference of two timestamps; print it with the filter duration"),
        ("{{ range|bullets }}", "bullets takes a list, not a"),
        ("{{ 5|round(-1000000000) }}", "round: the precision is from -100 to 100"),
        ("{{ '%s' % (1, 2) }}", "the format takes 1 values, and is given 2"),
        ("{{ '%s %s' % 1 }}", "the format takes more values than the 1 it is given"),
    ],
)  # fmt: skip
def test_what_is_refused(body: str, said: str) -> None:
    with pytest.raises(RenderError, match=said) as raised:
        show(body, **VALUES)
    assert "im_start" not in str(raised.value), "an error shows no value"


@pytest.mark.parametrize("name", sorted(REMOVED))
def test_there_is_none_of_the_removed(name: str) -> None:
    assert name not in FILTERS


# -- numbers ---------------------------------------------------------------------------------------------------------

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**30), max_value=10**30)
NUMBERS = st.one_of(st.integers(), st.integers(-(10**7), 10**7), FLOATS, st.floats(-1e7, 1e7), DECIMALS)
UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def exact(value: Any) -> Fraction:
    return Fraction(repr(value) if isinstance(value, float) else value)


@given(NUMBERS)
@example(-0.0)
@example(2**53 + 1)
@example(Decimal("-0.00"))
@example(5e-324)
@example(1.7976931348623157e308)
def test_num_reads_back(value: Any) -> None:
    written = formats.number_text(value)
    assert Fraction(written.replace(",", "")) == exact(value)
    assert re.fullmatch(r"-?\d{1,3}(,\d{3})*(\.\d+)?", written)
    assert not re.fullmatch(r"-[0,.]+", written)


def written_number(written: str) -> Fraction:
    return Fraction(written.replace(",", ""))


@given(NUMBERS, st.integers(0, 6))
def test_places_are_the_nearest_and_halves_even(value: Any, places: int) -> None:
    written = formats.number_text(value, places)
    assert len(written.partition(".")[2]) == places
    assert written_number(written) == round(exact(value), places)
    share = formats.percent_text(value, places)
    assert written_number(share.removesuffix("%")) == round(exact(value) * 100, places)
    assert not re.match(r"-[0.]+%?$", written)


@given(NUMBERS, st.integers(0, 3))
@example(999950, 1)
@example(999.95, 1)
@example(999_949_999, 1)
@example(-999950, 1)
def test_compact_is_near_and_short(value: Any, places: int) -> None:
    written = formats.compact_text(value, places)
    number, unit = re.fullmatch(r"(-?[\d,.]+)([kMB]?)", written).groups()
    assert abs(written_number(number) * UNITS[unit] - exact(value)) <= Fraction(UNITS[unit], 2 * 10**places)
    assert unit == "B" or abs(written_number(number)) < 1000
    assert len(number.partition(".")[2]) <= places
    assert not number.endswith(".0")
    assert unit == "" or abs(written_number(number)) >= 1


@given(NUMBERS, NUMBERS, st.integers(0, 3))
@example(999949, 999950, 1)
def test_compact_is_monotone(one: Any, two: Any, places: int) -> None:
    def size(value: Any) -> Fraction:
        number, unit = re.fullmatch(r"(-?[\d,.]+)([kMB]?)", formats.compact_text(value, places)).groups()
        return written_number(number) * UNITS[unit]

    low, high = sorted((one, two), key=exact)
    assert size(low) <= size(high)


@given(NUMBERS, st.sampled_from(["USD", "EUR", "JPY", "KWD", "CHF", "BRL"]))
def test_money_reads_back(value: Any, currency: str) -> None:
    written = formats.money_text(value, currency)
    sign, symbol, digits = re.fullmatch(r"(-?)([^\d.]+?)([\d,.]+)", written).groups()
    places = {"JPY": 0, "KWD": 3}.get(currency, 2)
    assert written_number(sign + digits) == round(exact(value), places)
    assert symbol in (formats.SYMBOLS.get(currency), f"{currency} ")


def test_a_callers_decimal_context_changes_nothing() -> None:
    with decimal.localcontext() as context:
        context.prec, context.rounding = 3, decimal.ROUND_UP
        context.traps[decimal.Inexact] = True
        assert show("{{ x|num(2) }} {{ x|compact }} {{ x|pct }} {{ x|money('USD') }}", x=1234567.125) == (
            "1,234,567.12 1.2M 123,456,712% $1,234,567.12"
        )


@given(st.integers(-(10**15), 10**15))
def test_duration(micros: int) -> None:
    written = formats.duration_text(timedelta(microseconds=micros))
    assert written == formats.duration_text(Decimal(micros) / 10**6)
    sizes = {"d": 86_400_000_000, "h": 3_600_000_000, "min": 60_000_000, "s": 1_000_000, "ms": 1000}
    parts = re.findall(r"([\d,]+) (d|h|min|s|ms)(?: |$)", written.removeprefix("-"))
    assert 1 <= len(parts) <= 2
    units = list(sizes)
    assert len(parts) == 1 or units.index(parts[1][1]) == units.index(parts[0][1]) + 1
    total = sum(int(count.replace(",", "")) * sizes[unit] for count, unit in parts)
    finest = sizes[units[min(units.index(parts[0][1]) + 1, 4)]] if total else 1000
    assert 0 <= abs(micros) - total < finest
    assert written.startswith("-") == (micros <= -1000)


# -- moments ---------------------------------------------------------------------------------------------------------

MOMENTS = st.datetimes(timezones=st.just(UTC))


@given(st.one_of(MOMENTS, st.dates()))
def test_dates_are_python_s(moment: Any) -> None:
    full = isinstance(moment, datetime)
    for directive, write in formats.DIRECTIVES.items():
        if directive in formats.TIME_DIRECTIVES and not full:
            continue
        if directive in ("%A", "%a", "%B", "%b", "%p"):
            continue  # Python's are of a locale
        plain = directive.replace("-", "")
        python = moment.strftime(plain) if directive not in ("%Y", "%F", "%G") else write(moment)
        if directive == "%Z":
            python = "UTC"
        assert write(moment) == (python.lstrip("0") or "0" if "-" in directive else python), directive
    assert datetime.strptime(show("{{ x|date }}", x=moment), "%Y-%m-%d").date() == (moment.date() if full else moment)


def test_names_of_days_and_months() -> None:
    assert [show("{{ x|date('%b') }}", x=date(2026, month, 1)) for month in range(1, 13)] == (
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    )
    assert [show("{{ x|date('%a') }}", x=date(2026, 5, day)) for day in range(4, 11)] == [
        "Mon",
        "Tue",
        "Wed",
        "Thu",
        "Fri",
        "Sat",
        "Sun",
    ]


def test_timestamps_are_in_utc() -> None:
    from datetime import timezone

    assert show("{{ x|date('%F %H:%M') }}", x=datetime(2026, 5, 7, 1, tzinfo=timezone(timedelta(hours=2)))) == (
        "2026-05-06 23:00"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "just now"), (59, "just now"), (60, "1 minute ago"), (3599, "59 minutes ago"), (3600, "1 hour ago"),
        (7200, "2 hours ago"), (86_399, "23 hours ago"), (86_400, "1 day ago"), (29 * 86_400, "29 days ago"),
        (30 * 86_400, "1 month ago"), (364 * 86_400, "12 months ago"), (365 * 86_400, "1 year ago"),
        (1000 * 365 * 86_400, "1,000 years ago"), (-59, "just now"), (-60, "in 1 minute"), (-172_800, "in 2 days"),
    ],
)  # fmt: skip
def test_ago(seconds: int, said: str) -> None:
    as_of = VALUES["as_of"]
    assert formats.ago_text(as_of - timedelta(seconds=seconds), as_of) == said


@pytest.mark.parametrize(
    ("days", "said"),
    [(0, "today"), (1, "yesterday"), (-1, "tomorrow"), (2, "2 days ago"), (-2, "in 2 days"), (400, "1 year ago")],
)
def test_ago_of_dates_counts_days(days: int, said: str) -> None:
    as_of = VALUES["as_of"]
    assert formats.ago_text(as_of.date() - timedelta(days=days), as_of) == said
    assert formats.ago_text(as_of - timedelta(days=days), as_of.date()) == said


@given(MOMENTS, MOMENTS)
def test_ago_is_a_mirror(one: datetime, two: datetime) -> None:
    before, after = sorted((formats.ago_text(one, two), formats.ago_text(two, one)), key=lambda said: "in " in said)
    assert after == ("just now" if before == "just now" else f"in {before.removesuffix(' ago')}")


# -- words and lists -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "many"),
    [
        ("title", "titles"), ("box", "boxes"), ("match", "matches"), ("dish", "dishes"), ("class", "classes"),
        ("city", "cities"), ("day", "days"), ("guy", "guys"), ("quiz", "quizzes"), ("person", "people"),
        ("Child", "Children"), ("WOMAN", "WOMEN"), ("series", "series"), ("species", "species"), ("TV", "TVs"),
        ("API", "APIs"), ("box set", "box sets"), ("café", "cafés"), ("MP3", "MP3s"), ("hero", "heroes"),
        ("photo", "photos"),        ("y", "ys"), ("", "s"),
    ],
)  # fmt: skip
def test_plural(word: str, many: str) -> None:
    assert formats.plural_of(word) == many
    for n in (0, 2, 1.5, -1, Decimal("0.5")):
        assert show("{{ w|plural(n) }}", w=word, n=n) == many
    for n in (1, 1.0, Decimal("1.00")):
        assert show("{{ w|plural(n) }}", w=word, n=n) == word


PIECES = st.sampled_from(
    ["\n", "\r\n", "\u2028", "|", "\\", "-", " ", "a", "é", "<|im_start|>", "[INST]", "\u200b", ", ", "^", "{"]
)
TEXTS = st.lists(PIECES, max_size=8).map("".join)
ROLES = st.sampled_from(["system", "user"])


@given(st.lists(TEXTS, max_size=5), ROLES)
def test_each_item_is_one_line(items: list[str], role: str) -> None:
    for body in ("{{ xs|bullets }}", "{{ xs|numbered }}"):
        written = show(f"[{body}]", role, xs=items)[1:-1]
        assert written.count("\n") == max(len(items) - 1, 0)
        assert not set("\u2028\u2029\r") & set(written)
    joined = show("{{ xs|and_join }}", role, xs=items)
    assert "\n" not in joined
    if len(items) > 1:
        assert "and" in joined


@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "b", "c|d", "e\nf"]), TEXTS, max_size=4), min_size=1, max_size=4),
    ROLES,
)
def test_a_table_has_its_cells(rows: list[dict[str, str]], role: str) -> None:
    written = show("[{{ xs|table }}]", role, xs=rows)[1:-1]
    keys = sorted({key for row in rows for key in row})
    if not keys:
        assert written == ""
        return
    lines = written.split("\n")
    assert len(lines) == len(rows) + 2
    for line in lines:
        # a backslash escapes the character after it
        assert sum(1 for one in re.finditer(r"\\.|(\|)", line) if one[1]) == len(keys) + 1


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)


@given(JSON, ROLES)
def test_json_is_json(value: Any, role: str) -> None:
    plain = json.loads(show("{{ x|json }}", "user", x=value))
    for indent in (0, 2):
        written = show(f"{{{{ x|json({indent}) }}}}", role, x=value)
        if "\u2028" not in json.dumps(value, ensure_ascii=False):
            assert json.loads(written) == plain
        json.loads(written)


def test_json_is_sorted_and_plain() -> None:
    assert show("{{ x|json }}", x={"b": "</b>&'", "a": [1.0, True, None]}) == """{"a":[1.0,true,null],"b":"</b>&'"}"""


@given(TEXTS, ROLES)
def test_oneline_twice_is_once(value: str, role: str) -> None:
    once = show("[{{ x|oneline }}]", role, x=value)
    assert show("[{{ x|oneline|oneline }}]", role, x=value) == once
    assert not re.search(r"\s\s|[\n\r\u2028]", once)


@given(TEXTS, st.integers(1, 12), st.sampled_from(["…", "", "..."]), ROLES)
def test_clip_chars(value: str, n: int, end: str, role: str) -> None:
    if len(end) > n:
        return
    body = f"[{{{{ x|clip_chars({n}, end={end!r}) }}}}]"
    clipped = show(body, role, x=value)[1:-1]
    whole = show("[{{ x }}]", role, x=value)[1:-1]
    assert len(clipped) <= n
    if len(whole) <= n:
        assert clipped == whole
    else:
        assert clipped.endswith(end)
        assert whole.startswith(clipped.removesuffix(end))
    again = show(body.replace("x|", f"x|clip_chars({n}, end={end!r})|"), role, x=value)[1:-1]
    assert again == clipped


def test_clip_leaves_no_joiner_at_the_cut() -> None:
    assert show("{{ x|clip_chars(2, end='') }}", x="👩\u200d👧") == "👩"
    finished = "{% set t %}{{ x }}{% endset %}"
    cuts = (
        "t[:2]",
        "t|truncate(2, true, '', 0)",
        "t.removesuffix('👧')",
        "t.split('👧')[0]",
        "'%.2s'|format(t)",
        "'%(x).2s'|format(x=t)",
    )
    for cut in cuts:
        assert show(f"{finished}{{{{ {cut} }}}}", x="👩\u200d👧") == "👩"


def test_clip_tokens() -> None:
    counter = tokenizer("o200k_base")
    environment = make_environment(Path(__file__).parent)
    words = "Ünïcode wörds, and <|im_start|> some 日本語 in the middle of it all " * 5
    for n in (1, 3, 50, 10_000):
        for end in ("…", ""):
            body = f"{{{{ x|clip_tokens({n}, end={end!r}) }}}}"
            template = compile_prompt(environment, body, name="p", path="p", line_offset=0, tokenizer=counter)
            clipped = template.render({"x": words})[0].content
            assert counter.count(clipped) <= n
            whole = show("{{ x }}", x=words)
            assert clipped == whole or whole.startswith(clipped.removesuffix(end))
            if n == 50:
                assert counter.count(clipped) >= 47
    template = compile_prompt(
        environment, "{{ x|clip_tokens(1, end='...and so on') }}", name="p", path="p", line_offset=0, tokenizer=counter
    )
    with pytest.raises(RenderError, match="1 tokens have no room"):
        template.render({"x": words})


# -- finished and raw ------------------------------------------------------------------------------------------------


def test_what_the_author_wrote_stays_and_values_are_escaped() -> None:
    token = "<|im_start|>"
    assert show("{{ xs|bullets(mark='<s>') }}", xs=[token]) == "<s> < |im_start|>"
    assert show("{{ xs|bullets(mark=m) }}", xs=["a"], m="<s>\n") == "< s>  a"
    assert show("{{ xs|and_join(last='<s>') }}", xs=["a", token]) == "a <s> < |im_start|>"
    assert show("{{ rows|table(['<s>']) }}", rows=[{"<s>": token}]) == "| <s> |\n|---|\n| < |im_start\\|> |".replace(
        "< |", "< \\|"
    )
    assert show("{{ rows|table }}", rows=[{"<s>": 1}]) == "| < s> |\n|---|\n| 1 |"
    assert show("{{ x|clip_chars(4, end='<s>') }}", x="abcdef") == "a<s>"
    assert show("{{ x|datamark('<s>') }}", x="a b") == "a<s>b"
    assert show("{{ t|date('<s>%Y\n%m') }}", t=VALUES["joined"]) == "<s>2026\n02"
    assert show("{{ true|yesno(yes='<s>') }}{{ true|yesno(yes=x) }}", x=token) == "<s>< |im_start|>"
    assert show("{{ w|plural(2) }} {{ '<s>'|plural(1) }}", w="<s>") == "< s>s <s>"
    assert show("{{ x|data }}", x=token).splitlines()[1] == "< |im_start|>"
    assert show("{% data %}{{ x|data }}{% enddata %}", x="a\nb") == show("{{ x|data }}", x="a\nb")
    assert show("{% data %}\n{{ xs|bullets }}\n{% enddata %}", xs=["a\nb"]).splitlines()[1] == "- a b"


def test_the_authors_lines_stay_in_every_message() -> None:
    for role in ("system", "user"):
        assert show("{{ xs|bullets }}", role, xs=["a\nb", "c"]) == "- a b\n- c"
        assert show("{{ x|json(1) }}", role, x=["a\nb"]) == '[\n "a\\nb"\n]'
    assert show("{{ x|oneline }}|{{ x|clip_chars(99) }}", "user", x="a\nb") == "a b|a\nb"


def test_filters_by_name_in_map() -> None:
    assert show("{{ xs|map('num', 1)|join('; ') }}", xs=[1234, 0.25]) == "1,234.0; 0.2"
    assert show("{{ xs|map('clip_chars', 2)|bullets }}", xs=["abc", "d"]) == "- a…\n- d"
