"""The timeline of a prompt, against the prompt built at every microsecond that can matter."""

from __future__ import annotations

import dataclasses
import tempfile
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmfeatures import Project
from llmfeatures.errors import PromptError, RequestError
from llmfeatures.ports import DatedSources
from tests.parity.world import START, US, World, worlds
from tests.projects import NOW, at, make_project, segment, watched

HOUR = 3_600_000_000
OFFSETS = [
    *range(-2, 70),
    *(hour * HOUR + near for hour in (1, 2) for near in range(-30, 70)),
    *(hour * HOUR + near for hour in (3, 4, 5) for near in range(-2, 3)),
]
"""Microseconds after the worlds' start: every one near a moment at which a world has something."""
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


def timeless(world: World) -> World:
    """The world with a prompt and on-demand features that do not read their moment."""
    dated, own = "tests.parity.computed:written", "tests.see.computed:written"
    computed = [
        {**one, "function": own if one["function"] == dated else one["function"]} for one in world.registry["on_demand"]
    ]
    return dataclasses.replace(
        world,
        registry={**world.registry, "on_demand": computed},
        template=world.template.replace("\nas of {{ as_of }}", ""),
    )


def check(world: World, data: st.DataObject) -> None:
    """Compare a timeline with history at each offset, and with single prompts at random moments."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "p"
        root.mkdir()
        world.write(root, "sqlite")
        project = Project.load(root, now=lambda: world.at)
        try:
            compare(project, world, data)
        finally:
            project.close()


def compare(project: Project, world: World, data: st.DataObject) -> None:
    plan = project.prompts.plan("p")
    somebody = [row for row in world.entity_keys if not {None, "nobody"} & {*row.values()}]
    row = (somebody or world.entity_keys)[0]
    given = {name: value for name, value in row.items() if name in plan.parameters}
    low, high = (START + one * US for one in (OFFSETS[0], OFFSETS[-1]))
    made = project.timeline("p", given, since=low, until=high, clock=world.clock)
    # where the timeline says that it changed it did, and then only, also where the offsets do not look
    told = {moment for entry in made.entries[:-1] for moment in (entry.at - US, entry.at)}
    moments = sorted({*(START + one * US for one in OFFSETS), *told})
    constant = {name: pa.array([given[name]] * len(moments), dtype.arrow()) for name, dtype in plan.parameters.items()}
    spine = pa.table({**constant, "event_timestamp": pa.array(moments, pa.timestamp("us", "UTC"))})
    rows = project.history("p", spine, clock=world.clock).read_all().to_pylist()
    identities = [(row["prompt_id"], row["error"]) for row in rows]
    expected = [
        (moment, *identity)
        for moment, identity, before in zip(moments, identities, [None, *identities], strict=False)
        if identity != before
    ]
    in_time = list(reversed(made.entries))
    assert [(one.at, one.prompt_id, one.error) for one in in_time] == expected
    assert [one.end for one in in_time] == [*(one.at for one in in_time[1:]), None]
    builder = project.builder()
    for entry in data.draw(st.lists(st.sampled_from(in_time), max_size=3), label="entries"):
        if entry.error is not None:
            continue
        last = high if entry.end is None else entry.end - US
        offset = data.draw(st.just(0) | st.integers(0, (last - entry.at) // US), label="microseconds after the entry")
        ctx = builder.build_context("p", as_of=entry.at + offset * US, clock=world.clock, **given)
        assert (ctx.messages, ctx.prompt_id) == (list(entry.messages or ()), entry.prompt_id)
        if not offset:
            assert ctx.features == entry.features


@settings(max_examples=12, deadline=None, suppress_health_check=QUIET)
@given(world=worlds(), data=st.data())
def test_between_two_entries_the_prompt_is_the_first_one_s(world: World, data: st.DataObject) -> None:
    check(timeless(world), data)


@pytest.mark.heavy
@pytest.mark.timeout(2400)
@settings(max_examples=800, deadline=None, suppress_health_check=QUIET)
@given(world=worlds(), data=st.data())
def test_timelines_at_length(world: World, data: st.DataObject) -> None:
    check(timeless(world), data)


# -- one history, read by eye ----------------------------------------------------------------------------------------

PROMPT = """---
features:
  segment: {default: unknown, max_age: 2d}
  watched: {default: 0}
inputs:
  tone: {type: "enum[kind,brief]", default: kind}
---
Be {{ tone }}.
{{ segment }} watched {{ watched }}{% if watched > 30 %}, a lot{% endif %}.
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    make_project(
        tmp_path,
        segments=[
            segment("ada", "casual", at(day=1), at(day=1)),
            segment("ada", "power", at(day=3), at(18, day=3)),
            segment("ada", "power", at(day=4), at(day=4)),
            segment("bob", "casual", at(day=5)),
        ],
        counts=[watched("ada", 22, at(day=2)), watched("ada", 47, at(day=5)), watched("ada", 47, at(13, day=5))],
        prompts={"home": PROMPT, "dated": "{{ segment | or_else('x') }} on {{ as_of }}"},
    )
    return Project.load(tmp_path, now=lambda: NOW)


def test_each_moment_with_what_changed(project: Project) -> None:
    made = project.timeline("home", user_id="ada", since="10d")
    assert [(one.at, one.text.splitlines()[1]) for one in made] == [
        (at(day=6) + US, "unknown watched 47, a lot."),
        (at(day=5), "power watched 47, a lot."),
        (at(18, day=3), "power watched 22."),
        (at(day=3) + US, "unknown watched 22."),
        (at(day=2), "casual watched 22."),
        (at(day=1), "casual watched 0."),
        (NOW - timedelta(days=10), "unknown watched 0."),
    ]
    assert [[(one.name, one.before.status, one.after.status) for one in entry.changed] for entry in made] == [
        [("segment", "present", "expired")],
        [("watched", "present", "present")],
        [("segment", "expired", "present")],
        [("segment", "present", "expired")],
        [("watched", "missing", "present")],
        [("segment", "missing", "present")],
        [],
    ]
    removed, added = made[1].diff()
    assert (removed.sign, added.sign) == ("-", "+")
    assert [part.text for part in added.parts if part.changed] == ["47, a lot"]
    assert made[-1].diff() == []
    assert (made.since, made.until, made.clock) == (NOW - timedelta(days=10), NOW, "known")
    assert made.given == {"user_id": "ada", "tone": "kind"}


def test_the_event_clock_sees_a_row_before_it_arrived(project: Project) -> None:
    made = project.timeline("home", user_id="ada", since=at(day=2), until="2026-05-04T00:00Z", clock="event")
    assert [one.at for one in made] == [at(day=3), at(day=2)]


def test_nobody_and_an_unknown_user_have_one_entry(project: Project) -> None:
    for user in (None, "eve"):
        made = project.timeline("home", user_id=user)
        assert [one.text for one in made] == ["Be kind.\nunknown watched 0."]
        assert made.moments == 1


def test_an_input_is_the_same_at_every_moment(project: Project) -> None:
    made = project.timeline("home", {"tone": "brief"}, user_id="bob", since="5d")
    assert [(one.at, one.text) for one in made] == [
        (at(day=7) + US, "Be brief.\nunknown watched 0."),
        (at(day=5), "Be brief.\ncasual watched 0."),
        (made.since, "Be brief.\nunknown watched 0."),
    ]


def test_a_prompt_that_reads_its_moment_has_no_timeline(project: Project) -> None:
    with pytest.raises(PromptError, match="no timeline") as caught:
        project.timeline("dated", user_id="ada")
    assert (Path(caught.value.path).name, caught.value.line, caught.value.column) == ("dated.prompt.j2", 1, 36)


def test_wrong_options_are_one_sentence(project: Project) -> None:
    for options, said in [
        ({"since": "soon"}, "since: 'soon'"),
        ({"since": 3}, "not int"),
        ({"until": "never"}, "until"),
        ({"clock": "served"}, "unknown clock 'served'"),
        ({"since": NOW, "until": at(day=1)}, "after until"),
        ({"colour": "red"}, "takes no 'colour'"),
    ]:
        with pytest.raises(RequestError, match=said):
            project.timeline("home", user_id="ada", **options)


def test_a_bad_value_is_an_entry_that_says_so(tmp_path: Path) -> None:
    make_project(
        tmp_path,
        segments=[segment("ada", "casual", at(day=1)), segment("ada", None, at(day=3)), segment("ada", "x", at(day=4))],
        prompts={"strict": "{{ segment }}"},
    )
    made = Project.load(tmp_path, now=lambda: NOW).timeline("strict", user_id="ada", since="10d")
    assert [(one.at, one.messages is None) for one in made] == [
        (at(day=4), False),
        (at(day=3), True),
        (at(day=1), False),
        (NOW - timedelta(days=10), True),
    ]
    assert "segment" in (made[1].error or "")
    assert made[1].text.startswith("no prompt: ")


def test_json_holds_all_of_it(project: Project) -> None:
    import json

    data = json.loads(json.dumps(project.timeline("home", user_id="ada", since="10d").as_json()))
    assert data["entries"][0]["at"] == "2026-05-06T12:00:00.000001Z"
    assert data["entries"][0]["changed"][0]["after"] == {
        "value": None,
        "status": "expired",
        "event_timestamp": "2026-05-04T12:00:00Z",
    }
    assert data["entries"][1]["end"] == data["entries"][0]["at"]


def test_the_duckdb_store_can_tell_when_rows_changed(project: Project) -> None:
    assert isinstance(project.offline, DatedSources)
    found = project.offline.changes(project.registry.view("segment"), ["ada"], until=at(day=3), clock="known")
    assert found.to_pylist() == [{"at": at(day=1), "event": at(day=1)}]


def test_pushed_rows_count_from_when_they_came(tmp_path: Path) -> None:
    make_project(
        tmp_path,
        extra="  - {name: taste, entity: user, source: {batch: null}, features: {genre: str}}\n",
        prompts={"p": "---\nfeatures: {genre: {default: none it is}}\n---\n{{ genre }}"},
    )
    now = [at(day=3)]
    project = Project.load(tmp_path, now=lambda: now[0])
    for day, genre in ((3, "drama"), (5, "noir")):
        now[0] = at(day=day)
        project.push("taste", [{"user_id": "ada", "genre": genre}])
    now[0] = NOW
    made = project.timeline("p", user_id="ada")
    assert [(one.at, one.text) for one in made] == [
        (at(day=5), "noir"),
        (at(day=3), "drama"),
        (made.since, "none it is"),
    ]


def test_a_prompt_that_reads_no_feature_never_changes(tmp_path: Path) -> None:
    make_project(tmp_path, prompts={"fixed": "Be kind.", "keyed": "Hello {{ user_id }}."})
    project = Project.load(tmp_path, now=lambda: NOW)
    assert [one.text for one in project.timeline("fixed")] == ["Be kind."]
    assert [one.text for one in project.timeline("keyed", user_id="ada")] == ["Hello ada."]


def test_windows_that_empty_are_moments(tmp_path: Path) -> None:
    make_project(
        tmp_path,
        counts=[watched("ada", 1, at(1, 30, day=3)), watched("ada", 2, at(7, day=3)), watched("ada", 3, at(1, day=4))],
        prompts={"home": "---\nfeatures: {number: {default: -1}}\n---\n{{ number }}"},
        extra="  - {name: events, entity: user, cadence: 1h, source: data/watched.parquet, features: "
        "[{name: number, function: count, dtype: int, window: 6h}]}\n",
    )
    made = Project.load(tmp_path, now=lambda: NOW).timeline("home", user_id="ada")
    assert [(one.at, one.text) for one in made] == [
        (at(7, day=4), "0"),
        (at(1, day=4), "1"),
        (at(13, day=3), "0"),
        (at(8, day=3), "1"),  # the first leaves at half past seven, and counts until the grid's next point
        (at(7, day=3), "2"),
        (at(2, day=3), "1"),
        (made.since, "-1"),
    ]


def test_a_budget_is_kept_at_every_moment(tmp_path: Path) -> None:
    body = (
        "---\nfeatures: {segment: {default: unknown}}\nbudget: {max_tokens: 12, tokenizer: o200k_base}\n---\n"
        '{{ segment }}\n{% section "long" %}This does not fit when the segment is long.{% endsection %}\n'
    )
    make_project(
        tmp_path,
        segments=[segment("ada", "a", at(day=1)), segment("ada", "a long name of a segment", at(day=3))],
        prompts={"home": body},
    )
    made = Project.load(tmp_path, now=lambda: NOW).timeline("home", user_id="ada")
    assert [one.text for one in made] == [
        "a long name of a segment",
        "a\nThis does not fit when the segment is long.",
        "unknown\nThis does not fit when the segment is long.",
    ]


def test_an_on_demand_feature_expires_by_its_oldest_part(tmp_path: Path) -> None:
    extra = "".join(
        f"  - {{name: {name}, entity: user, dtype: str, function: 'tests.see.computed:{name}'}}\n"
        for name in ("kind", "dated")
    )
    make_project(
        tmp_path,
        counts=[watched("ada", 22, at(day=2)), watched("ada", 47, at(day=3)), watched("ada", 48, at(day=4))],
        prompts={
            "home": "---\nfeatures: {kind: {default: unknown, max_age: 1d}}\n---\n{{ kind }}",
            "dated": "{% if dated %}x{% endif %}",
        },
        extra=f"on_demand:\n{extra}",
    )
    project = Project.load(tmp_path, now=lambda: NOW)
    made = project.timeline("home", user_id="ada")
    assert [(one.at, one.text) for one in made] == [
        (at(day=5) + US, "unknown"),
        (at(day=3), "heavy"),
        (at(day=2), "light"),
        (made.since, "unknown"),
    ]
    assert [one.name for one in made[1].changed] == ["watched", "kind"]
    with pytest.raises(PromptError, match="on-demand feature 'dated', read here, takes as_of") as caught:
        project.timeline("dated", user_id="ada")
    assert (caught.value.line, caught.value.column) == (1, 7)


def test_a_long_timeline_shows_its_newest_entries_in_a_notebook(tmp_path: Path) -> None:
    make_project(tmp_path, counts=[watched("ada", number, NOW - timedelta(hours=number)) for number in range(300)])
    made = Project.load(tmp_path, now=lambda: NOW).timeline("home", user_id="ada")
    assert len(made) == 301
    html = made._repr_html_()
    assert html.count("<tr>") == 201
    assert "and 101 earlier ones" in html
