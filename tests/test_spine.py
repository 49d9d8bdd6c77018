"""Spines that nobody wrote: who and when is drawn from the history, the same for the same options everywhere."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures import Project
from llmfeatures.cli.app import run
from llmfeatures.errors import LLMFeaturesError, RequestError, SourceError, SpineError, UnknownNameError
from llmfeatures.history import History, HistorySummary
from llmfeatures.labels import parse_label
from llmfeatures.plan import plan_references
from llmfeatures.sample import allotted, sampled
from llmfeatures.where import parse_where
from tests.projects import MOMENT, NOW, at, make_project, segment, watched

ASK = """---
features:
  segment: {default: unknown}
inputs:
  question: {type: str}
  limit: {type: int, default: 3}
---
{{ segment }} {{ question }} {{ limit }}"""
HOME = "---\nfeatures:\n  segment: {default: unknown}\n---\n{{ segment }}"


def users(count: int) -> list[str]:
    return [f"u{number:02}" for number in range(count)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("spines")
    segments = [
        segment(
            user, "power_user" if number % 3 == 0 else "casual", at(12, day=1 + number % 6), at(12, day=2 + number % 6)
        )
        for number, user in enumerate(users(20))
    ]
    segments += [segment(user, "gone", at(1, day=6), at(1, day=6)) for user in users(3)]
    counts = [watched(user, number, at(6, day=number % 7 + 1)) for number, user in enumerate(users(30))]
    counts += [watched("late", 9, at(22))]
    make_project(
        root,
        segments=segments,
        counts=counts,
        prompts={"home": HOME, "ask": ASK, "bare": "Hi"},
        ttl="3d",
    )
    return Project.load(root, now=lambda: NOW)


def rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(one.values()) for one in table.to_pylist()]


def first_events(project: Project) -> dict[str, datetime]:
    """Computed from the files, without the library."""
    first: dict[str, datetime] = {}
    for name in ("segment", "watched"):
        for row in pq.read_table(project.config.root / "data" / f"{name}.parquet").to_pylist():
            user, event = row["user_id"], row["event_timestamp"]
            first[user] = min(event, first.get(user, event))
    return first


def test_the_drawn_spine_is_what_plain_python_draws(project: Project) -> None:
    first = first_events(project)
    moments = [at(0, day=day) for day in range(3, 8)]
    there = [user for user, event in first.items() if event <= moments[-1]]
    there.sort(key=lambda user: hashlib.sha256(f"7:user_id:{user}".encode()).digest())
    expected = [(user, when) for when in moments for user in sorted(there[:5]) if first[user] <= when]
    table = project.spine("home", users=5, every="1d", since="5d", seed=7)
    assert rows(table) == expected
    assert table.schema == pa.schema([("user_id", pa.string()), ("event_timestamp", MOMENT)])


def test_golden(project: Project) -> None:
    """The same rows on every machine and with every version of DuckDB."""
    table = project.spine("home", users=4, every="12h", since="2d", seed=1)
    written = [f"{user} {when.isoformat()}" for user, when in rows(table)]
    assert written == [
        "u08 2026-05-06T00:00:00+00:00",
        "u12 2026-05-06T00:00:00+00:00",
        "u08 2026-05-06T12:00:00+00:00",
        "u12 2026-05-06T12:00:00+00:00",
        "u26 2026-05-06T12:00:00+00:00",
        "u08 2026-05-07T00:00:00+00:00",
        "u12 2026-05-07T00:00:00+00:00",
        "u26 2026-05-07T00:00:00+00:00",
        "u08 2026-05-07T12:00:00+00:00",
        "u12 2026-05-07T12:00:00+00:00",
        "u26 2026-05-07T12:00:00+00:00",
        "u27 2026-05-07T12:00:00+00:00",
    ]


@settings(max_examples=25)
@given(st.integers(1, 33), st.integers(0, 5), st.sampled_from(["7h", "1d", "2d"]), st.sampled_from(["1d", "5d", "40d"]))
def test_more_users_contain_the_fewer_and_all_existed(
    project: Project, count: int, seed: int, every: str, since: str
) -> None:
    options: dict[str, Any] = {"every": every, "since": since, "seed": seed}
    fewer = rows(project.spine("home", users=count, **options))
    more = rows(project.spine("home", users=count + 1, **options))
    assert set(fewer) <= set(more)
    assert fewer == sorted(fewer, key=lambda row: (row[1], row[0]))
    assert len(set(fewer)) == len(fewer)
    first = first_events(project)
    assert all(first[user] <= when <= NOW for user, when in more)
    assert len({user for user, _ in fewer}) <= count


def test_runs_within_one_step_agree(project: Project) -> None:
    for since in ("5d", "30h", "1h"):
        tables = [
            project.spine("home", every="1d", since=since, until=until)
            for until in ("2026-05-07T00:00:00Z", at(9), at(23, 59))
        ]
        assert tables[0].num_rows
        assert tables[0].equals(tables[1])
        assert tables[0].equals(tables[2])


def test_all_users(project: Project) -> None:
    table = project.spine("home", every="1h", since="1h")
    assert set(table.column("user_id").to_pylist()) == set(first_events(project))


CONDITIONS = [
    "segment = 'power_user'",
    "segment IS NULL",
    "watched > 10 OR user_id = 'u03'",
    "\"user\".watched % 2 = 0 AND event_timestamp >= '2026-05-04'",
    "user_id IN ('u01', 'u02') -- a comment",
]


@pytest.mark.parametrize("clock", ["known", "event"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_where_keeps_what_a_plain_join_says(project: Project, condition: str, clock: str) -> None:
    """All rows, with their features from the ordinary join, filtered by DuckDB in the test."""
    import duckdb

    options: dict[str, Any] = {"every": "12h", "since": "5d", "seed": 3}
    everything = project.spine("home", **options)
    joined = project.get_historical_features(everything, ["segment", "watched"], clock=clock).read_all()
    con = duckdb.connect()
    con.execute("SET TimeZone='UTC'").fetchall()
    con.register("joined", joined)
    expected = con.sql(
        f'SELECT user_id, event_timestamp FROM joined AS "user" WHERE ({condition}\n) ORDER BY 2, 1'
    ).to_arrow_table()
    found = project.spine("home", where=condition, clock=clock, **options)
    assert rows(found) == rows(expected)
    assert found.num_rows
    drawn = sorted(
        set(expected.column(0).to_pylist()), key=lambda one: hashlib.sha256(f"3:user_id:{one}".encode()).digest()
    )
    for count in (1, 2, len(drawn)):
        some = project.spine("home", users=count, where=condition, clock=clock, **options)
        assert rows(some) == [row for row in rows(expected) if row[0] in drawn[:count]]


def test_where_looks_on_until_there_are_enough(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    import llmfeatures.spine as module

    options: dict[str, Any] = {"users": 4, "every": "1d", "since": "3d", "where": "watched >= 20"}
    whole = project.spine("home", **options)
    monkeypatch.setattr(module, "_BLOCK_ROWS", 7)
    assert project.spine("home", **options).equals(whole)
    assert len(set(whole.column("user_id").to_pylist())) == 4


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("watchd > 3", "did you mean 'watched'"),
        ("watched >", "syntax error"),
        ("watched > 3; DROP TABLE x", "syntax error"),
        ("", "empty"),
        ("user_id IN (SELECT 'a')", "take the query inside it out"),
        ("user_id IN (SELECT user_id FROM 'data/segment.parquet')", "take the query inside it out"),
        ("true) FROM read_parquet('data/segment.parquet') WHERE (true", "not a whole query"),
        ("true) UNION ALL SELECT (true", "not a whole query"),
        ("count(*) > 1", "aggregates"),
        ("row_number() OVER () > 1", "window"),
        ("random() < 0.5", "another answer"),
        ("event_timestamp < now()", "another answer"),
        ("event_timestamp < current_date", "unknown name 'current_date'"),
        ("event_timestamp < current_localtimestamp()", "another answer"),
        ("event_timestamp > ago(INTERVAL 1 DAY)", "ago() may give another answer"),
        ("event_timestamp > pg_conf_load_time()", "another answer"),
        ("current_setting('TimeZone') = 'UTC'", "another answer"),
        ("getvariable('x') IS NULL", "another answer"),
        ("segment = CURRENT_QUERY()", "another answer"),
        ("sleep_ms(1) IS NULL", "another answer"),
        ("age(event_timestamp) > INTERVAL 1 DAY", "age() of one moment counts from today"),
        ("event_timestamp.age() > INTERVAL 1 DAY", "age() of one moment counts from today"),
        ("age(TIMESTAMPTZ '2026-05-07', event_timestamp) >= INTERVAL 0 DAY", None),
        ("list_filter([watched], x -> x > 1) = [2]", "list_contains"),
        ("len(list_transform([watched], lambda x: x + 1)) = 1", "list_contains"),
        ("[x for x in [watched] if x > 1] = [2]", "lambdas and list comprehensions"),
        ("list_contains([1, 2, 3], watched)", None),
        ("coalesce(('{\"a\": ' || watched || '}')::JSON -> '$.a', '2') IS NOT NULL", None),
        ("no_such(watched)", "no_such"),
        ("COLUMNS(*) = 1", "names the columns"),
        ("watched", None),
    ],
)
def test_a_bad_condition_is_refused(project: Project, condition: str, said: str | None) -> None:
    if said is None:
        assert project.spine("home", where=condition).num_rows
        return
    with pytest.raises(RequestError) as raised:
        project.spine("home", where=condition)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_condition_that_fails_on_the_data_shows_no_value(project: Project) -> None:
    with pytest.raises(RequestError) as raised:
        project.spine("home", where="CAST(segment AS INTEGER) = 1", every="1d")
    assert "TRY_CAST" in str(raised.value)
    assert "casual" not in str(raised.value)
    assert "power" not in str(raised.value)


def test_every_function_that_duckdb_calls_changing_is_refused() -> None:
    import duckdb

    found = duckdb.connect().execute(
        "SELECT DISTINCT function_name, stability FROM duckdb_functions() "
        "WHERE function_type = 'scalar' AND regexp_full_match(function_name, '[a-z_0-9]+')"
    )
    changing = 0
    for name, stability in found.fetchall():
        if stability == "CONSISTENT" or name == "error":
            continue
        changing += 1
        with pytest.raises(RequestError, match="another answer"):
            parse_where(f"{name}() IS NULL")
    assert changing > 15
    for name in ("upper", "strftime", "list_contains", "hash"):
        assert parse_where(f"{name}(a) IS NULL").names == (("a",),)


def test_conditions_name_their_columns() -> None:
    assert set(parse_where("a > 1 AND \"user\".b = 'c' OR list_contains(d, e)").names) == {
        ("a",), ("user", "b"), ("d",), ("e",)
    }  # fmt: skip


def test_inputs_are_the_same_in_every_row(project: Project) -> None:
    table = project.spine("ask", users=2, since="2d", inputs={"question": "What now?"})
    assert table.column_names == ["user_id", "event_timestamp", "question"]
    assert set(table.column("question").to_pylist()) == {"What now?"}
    texts = project.history("ask", users=2, since="2d", inputs={"question": "What now?"}).read_all()
    assert texts.num_rows == table.num_rows
    assert texts.column("error").null_count == texts.num_rows
    assert all(one[0]["content"].endswith("What now? 3") for one in texts.column("messages").to_pylist())


@pytest.mark.parametrize(
    ("prompt", "options", "said"),
    [
        ("ask", {}, "question"),
        ("ask", {"inputs": {"question": "x", "limt": 1}}, "did you mean 'limit'"),
        ("ask", {"inputs": {"question": 3}}, "question"),
        ("home", {"users": 0}, "users"),
        ("home", {"users": True}, "users"),
        ("home", {"every": "0d"}, "every"),
        ("home", {"every": "1w"}, "every"),
        ("home", {"since": "-1d"}, "since"),
        ("home", {"every": "1us"}, "choose a longer every"),
        ("home", {"until": "2020-01-01"}, "choose a later until"),
        ("home", {"until": "soon"}, "until"),
        ("bare", {}, "give a spine"),
    ],
)
def test_wrong_options_are_refused(project: Project, prompt: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as raised:
        project.spine(prompt, **options)
    assert said in str(raised.value)


def test_several_roles_need_a_spine(tmp_path: Path) -> None:
    text = "---\nentities: {buyer: user, seller: user}\n---\n{{ buyer.segment }} {{ seller.segment }}"
    make_project(tmp_path, segments=[segment("a", "x", at(1))], prompts={"deal": text})
    with pytest.raises(RequestError, match="buyer_user_id, seller_user_id and event_timestamp"):
        Project.load(tmp_path, now=lambda: NOW).spine("deal")


def test_a_spine_that_would_not_fit_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    import llmfeatures.spine as module

    monkeypatch.setattr(module, "MAX_ROWS", 50)
    with pytest.raises(RequestError, match="more than 50 rows"):
        project.spine("home", every="1h", since="2d")


def spine_rows(project: Project) -> pa.Table:
    table = project.spine("home", every="12h", since="6d")
    return table.append_column("wanted", pa.array([f"w{n % 4}" for n in range(table.num_rows)]))


def targets(history: History) -> list[str | None]:
    return history.read_all().column("target").to_pylist()


@settings(max_examples=15)
@given(
    st.integers(1, 200), st.sampled_from(["segment", "watched", "user.watched"]), st.sampled_from(["known", "event"])
)
def test_a_label_is_the_plain_join_that_much_later(project: Project, hours: int, feature: str, clock: str) -> None:
    table = spine_rows(project)
    history = project.history("home", table, label=f"{feature}@+{hours}h", clock=clock)
    got = targets(history)
    ahead = [when + timedelta(hours=hours) for when in table.column("event_timestamp").to_pylist()]
    later = table.set_column(1, "event_timestamp", pa.array(ahead, MOMENT))
    joined = project.get_historical_features(later, [feature], clock=clock).read_all()
    expected = [
        None if when > NOW or value is None else str(value)
        for when, value in zip(ahead, joined.column(joined.num_columns - 1).to_pylist(), strict=True)
    ]
    assert got == expected


def test_the_prompt_never_sees_its_label(project: Project) -> None:
    table = spine_rows(project)
    plain = project.history("home", table).read_all()
    labelled = project.history("home", table, label="segment@+1d").read_all()
    assert labelled.drop_columns(["target"]).equals(plain.drop_columns(["target"]))
    assert plain.column("target").null_count == plain.num_rows
    assert labelled.column("target").null_count < plain.num_rows


def test_unknown_labels_are_counted(project: Project) -> None:
    prepared = project.prepared_spine("home", spine_rows(project), label="watched@+1d")
    for _ in range(2):
        read = prepared.reader().read_all()
        ahead = [when + timedelta(days=1) for when in read.column("event_timestamp").to_pylist()]
        counts = prepared.counts
        assert counts.later == sum(when > NOW for when in ahead) > 0
        assert counts.present == read.num_rows - read.column("target").null_count > 0
        assert counts.later + counts.present + counts.absent == read.num_rows
        assert counts.absent > 0
        assert "within 1d of now" in str(prepared.note())


def undated_rows(project: Project) -> pa.Table:
    """Every fifth row has no moment."""
    table = spine_rows(project)
    moments = table.column("event_timestamp").to_pylist()
    return table.set_column(
        1, "event_timestamp", pa.array([None if n % 5 == 0 else one for n, one in enumerate(moments)], MOMENT)
    )


def test_every_row_that_was_asked_is_counted_once(project: Project) -> None:
    table = undated_rows(project)
    history = project.history("home", table, label="watched@+1d")
    got = history.read_all()
    labels = dict(history.summary.labels or {})
    note = labels.pop("note")
    moments = [one for one in table.column("event_timestamp").to_pylist() if one is not None]
    assert labels["undated"] == table.num_rows - len(moments) > 0
    assert labels["later"] == sum(one + timedelta(days=1) > NOW for one in moments) > 0
    assert labels["present"] == table.num_rows - got.column("target").null_count > 0
    assert sum(labels.values()) == table.num_rows
    null = got.column("target").null_count
    assert note.startswith(f"target is null in {null} of {table.num_rows} rows: ")
    assert f"{labels['undated']} have no event_timestamp" in note
    assert HistorySummary.of_json(history.summary.as_json()) == history.summary


def test_a_summary_has_labels_only_where_they_were_asked_for(project: Project) -> None:
    table = spine_rows(project)
    for options in ({}, {"target": "wanted"}, {"sample": 5}):
        history = project.history("home", table, **options)
        history.read_all()
        assert history.summary.labels is None
    known = project.history("home", table.slice(0, 20), label="segment@+1us")
    targets(known)
    assert known.summary.labels is not None
    assert (known.summary.labels["note"] is None) == (known.summary.labels["present"] == 20)
    whole = project.history("home", table, label="watched@+1d", sample=5, stratify="target")
    targets(whole)
    assert whole.summary.labels is not None
    assert f"of {table.num_rows} rows" in whole.summary.labels["note"]
    assert whole.summary.labels["note"].endswith("(before the sample was drawn)")


def test_the_command_says_that_labels_are_null(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = undated_rows(project)
    path = tmp_path / "spine.parquet"
    pq.write_table(table, path)
    root = tmp_path / "project"
    shutil.copytree(project.config.root, root)
    config = root / "llmfeatures.toml"
    config.write_text(config.read_text().replace("[project]", f'[project]\nnow = "{NOW.isoformat()}"'))
    out = tmp_path / "out.parquet"
    line = ["history", "home", "--spine", str(path), "--label", "segment@+15d", "--out", str(out), "--allow-errors"]
    line += ["--project", str(root)]
    assert run(line) == 0
    undated = -(-table.num_rows // 5)
    said = f"target is null in {table.num_rows} of {table.num_rows} rows: {table.num_rows - undated} lie within 15d of"
    assert said in " ".join(capsys.readouterr().err.split())
    assert run([*line, "--json"]) == 0
    labels = json.loads(capsys.readouterr().out)["labels"]
    assert labels["note"].startswith(said)
    assert (labels["later"], labels["undated"], labels["present"]) == (table.num_rows - undated, undated, 0)


@pytest.mark.parametrize(
    "written", ["segment", "segment@7d", "segment@-7d", "segment@+0d", "@+7d", "segment@+7w", "@", ""]
)
def test_a_label_looks_ahead(project: Project, written: str) -> None:
    with pytest.raises(RequestError):
        parse_label(written)
    with pytest.raises(RequestError):
        project.history("home", spine_rows(project), label=written)


def test_parse_label() -> None:
    assert parse_label("last_genre@+7d") == ("last_genre", timedelta(days=7))
    assert parse_label("user.last_genre@+90m") == ("user.last_genre", timedelta(minutes=90))


def test_a_column_becomes_the_target(project: Project, tmp_path: Path) -> None:
    table = spine_rows(project)
    expected = table.column("wanted").to_pylist()
    path = tmp_path / "spine.parquet"
    pq.write_table(table, path)
    for spine in (table, path, table.to_pandas(), table.to_reader()):
        history = project.history("home", spine, target="wanted")
        found = history.read_all()
        assert found.column("target").to_pylist() == expected
        assert "wanted" not in [one.name for one in found.schema.field("metadata").type]
    again = project.history("home", path, target="wanted")
    assert targets(again) == targets(again) == expected
    csv = tmp_path / "spine.csv"
    csv.write_text("user_id,event_timestamp,wanted\nu01,2026-05-07T01:00:00Z,007\n")
    assert targets(project.history("home", csv, target="wanted")) == ["007"]


def test_a_stream_is_prepared_once(project: Project) -> None:
    history = project.history("home", spine_rows(project).to_reader(), target="wanted")
    history.read_all()
    with pytest.raises(SpineError, match="once"):
        history.read_all()


def test_what_is_wrong_is_said_in_its_own_words(project: Project) -> None:
    table = spine_rows(project)
    taken = table.append_column("target", table.column("wanted"))
    cases: list[tuple[Any, dict[str, Any], type[LLMFeaturesError], str]] = [
        (table, {"target": "wantd"}, SpineError, "did you mean 'wanted'"),
        (taken, {"target": "wanted"}, SpineError, "already"),
        (taken, {"label": "segment@+1d"}, SpineError, "already"),
        (table, {"label": "segmnt@+1d"}, UnknownNameError, "did you mean 'segment'"),
        (table, {"label": "segment@+1d", "target": "wanted"}, RequestError, "one of them"),
        (table, {"users": 3}, RequestError, "leave one of them out"),
        (table, {"inputs": {"x": 1}}, RequestError, "columns of the spine"),
        (table, {"sample": 0}, RequestError, "sample"),
        (table, {"stratify": "wanted"}, RequestError, "sample"),
        (table, {"sample": 3, "stratify": "wantd"}, SpineError, "did you mean 'wanted'"),
        (table.drop_columns(["event_timestamp"]), {"label": "segment@+1d"}, SpineError, "event_timestamp"),
        ("nowhere.parquet", {"target": "wanted"}, SpineError, "nowhere.parquet"),
    ]
    for spine, options, kind, said in cases:
        with pytest.raises(kind) as raised:
            project.history("home", spine, **options).read_all()
        assert said in str(raised.value)


def test_a_label_that_is_no_value_is_null_and_counted(tmp_path: Path) -> None:
    make_project(
        tmp_path,
        segments=[segment("a", "odd", at(1)), segment("b", "casual", at(1))],
        prompts={"home": "{{ user_id }} {{ watched }}"},
    )
    written = (tmp_path / "features.yaml").read_text()
    (tmp_path / "features.yaml").write_text(written.replace("segment: str", "segment: 'enum[casual]'"))
    project = Project.load(tmp_path, now=lambda: NOW)
    spine = [{"user_id": user, "event_timestamp": at(2)} for user in "abc"]
    prepared = project.prepared_spine("home", spine, label="segment@+1h")
    assert prepared.reader().read_all().column("target").to_pylist() == [None, "casual", None]
    assert (prepared.counts.present, prepared.counts.invalid, prepared.counts.absent) == (1, 1, 1)
    with pytest.raises(SourceError, match="segment") as raised:
        project.spine("home", where="segment = 'casual'", every="1h")
    assert "odd" not in str(raised.value)


STRATA = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=60)


@settings(max_examples=40)
@given(STRATA, st.integers(1, 70), st.integers(0, 3))
def test_a_sample_is_in_proportion_and_in_order(
    project: Project, strata: list[str | None], count: int, seed: int
) -> None:
    table = pa.table({"n": range(len(strata)), "s": pa.array(strata, pa.string())})
    found = sampled(project.offline, table, rows=count, stratify="s", seed=seed)
    numbers = found.column("n").to_pylist()
    assert numbers == sorted(set(numbers))
    assert found.equals(table.take(pa.array(numbers, pa.int64())).combine_chunks())
    assert len(numbers) == min(count, len(strata))
    sizes, shares = Counter(strata), Counter(found.column("s").to_pylist())
    if count >= len(sizes):
        assert all(shares[one] for one in sizes)
    order = list(dict.fromkeys(strata))
    assert [shares[one] for one in order] == allotted([sizes[one] for one in order], count)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 400))
def test_allotted(sizes: list[int], count: int) -> None:
    shares = allotted(sizes, count)
    total = sum(sizes)
    assert sum(shares) == min(count, total)
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    if count >= len(sizes):
        assert min(shares) >= 1
    exact = [count * size / total for size in sizes]
    if count <= total and all(one >= 1 for one in exact):
        assert all(abs(share - one) < 1 for share, one in zip(shares, exact, strict=True))


def test_a_larger_sample_contains_a_smaller_one_and_every_kind_of_spine_gives_it(
    project: Project, tmp_path: Path
) -> None:
    table = pa.table({"n": range(1_000), "x": [float("nan")] * 1_000})
    path = tmp_path / "spine.parquet"
    pq.write_table(table, path)
    last: set[int] = set()
    for count in (1, 2, 50, 51, 999, 1_000, 5_000):
        found = set(sampled(project.offline, table, rows=count).column("n").to_pylist())
        assert last <= found
        assert len(found) == min(count, 1_000)
        last = found
        for spine in (path, table.to_reader(), table.to_pandas(), table.to_pydict()):
            assert set(sampled(project.offline, spine, rows=count).column("n").to_pylist()) == found
    assert sampled(project.offline, table, rows=7, seed=1).column("n").to_pylist() == [
        509,
        661,
        691,
        819,
        932,
        947,
        989,
    ]
    assert sampled(project.offline, table, rows=7, stratify="x").num_rows == 7
    assert sampled(project.offline, table.slice(0, 0), rows=7).schema == table.schema


def test_a_long_spine_is_sampled_in_little(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    import llmfeatures.sample as module

    table = pa.table({"n": range(100_000), "s": [number % 3 for number in range(100_000)]})
    expected = sampled(project.offline, table, rows=300, stratify="s")
    monkeypatch.setattr(module, "_SPARE_ROWS", 10)
    assert sampled(project.offline, table, rows=300, stratify="s").equals(expected)
    assert Counter(expected.column("s").to_pylist()) == {0: 100, 1: 100, 2: 100}


def test_history_samples_and_stratifies_by_its_target(project: Project) -> None:
    table = spine_rows(project)
    found = project.history("home", table, target="wanted", sample=8, stratify="target").read_all()
    assert Counter(found.column("target").to_pylist()) == {"w0": 2, "w1": 2, "w2": 2, "w3": 2}
    by_label = project.history("home", table, label="segment@+1d", sample=12, stratify="target").read_all()
    whole = project.history("home", table, label="segment@+1d").read_all()
    assert set(by_label.column("target").to_pylist()) == set(whole.column("target").to_pylist())
    assert by_label.num_rows == 12


def test_labels_bring_no_lookup_into_the_prompt(project: Project) -> None:
    plan = plan_references(project.registry, ["segment"])
    assert [ref.name for ref in project.prompts.plan("home").features.refs] == [ref.name for ref in plan.refs]


def test_composite_keys_of_every_kind(tmp_path: Path) -> None:
    """Join keys of several dtypes, one of them named as a column of `entity_keys`."""
    make_project(tmp_path, prompts={"home": "{{ status }}"})
    keys = [(number % 3, at(1, day=1 + number % 2), f"k|{number % 2}") for number in range(12)]
    pq.write_table(
        pa.table(
            {
                "tenant": pa.array([one[0] for one in keys], pa.int32()),
                "first": pa.array([one[1] for one in keys], MOMENT),
                "name": [one[2] for one in keys],
                "status": ["new"] * 12,
                "event_timestamp": pa.array([at(1, day=1 + number % 7) for number in range(12)], MOMENT),
            }
        ),
        tmp_path / "data" / "seats.parquet",
    )
    (tmp_path / "features.yaml").write_text(
        "entities: [{name: seat, join_keys: {tenant: int, first: timestamp, name: str}}]\n"
        "views: [{name: seats, entity: seat, source: data/seats.parquet, features: {status: str}}]\n"
    )
    project = Project.load(tmp_path, now=lambda: NOW)
    table = project.spine("home", every="1d", since="1d")
    assert table.num_rows == len(set(keys)) == 6
    assert {(one["tenant"], one["first"], one["name"]) for one in table.to_pylist()} == set(keys)
    some = project.spine("home", users=3, every="1d", since="7d", where="tenant > 0 AND status = 'new'")
    assert len({(one["tenant"], one["first"], one["name"]) for one in some.to_pylist()}) == 3
    made = project.history("home", some).read_all()
    assert [one[0]["content"] for one in made.column("messages").to_pylist()] == ["new"] * some.num_rows


def test_a_feature_with_lists_can_be_a_condition_and_a_label(tmp_path: Path) -> None:
    make_project(tmp_path, prompts={"home": "{{ user_id }} {{ watched or 'x' }}"}, counts=[watched("a", 1, at(1))])
    pq.write_table(
        pa.table(
            {
                "user_id": ["a", "a", "b"],
                "genres": [["x"], ["x", "y"], []],
                "event_timestamp": pa.array([at(1, day=1), at(1, day=5), at(1, day=5)], MOMENT),
            }
        ),
        tmp_path / "data" / "genres.parquet",
    )
    with (tmp_path / "features.yaml").open("a") as file:
        file.write(
            "  - {name: genres, entity: user, source: data/genres.parquet, features: {genres: 'list[str]'}, ttl: 2d}\n"
        )
    project = Project.load(tmp_path, now=lambda: NOW)
    table = project.spine("home", every="1d", since="8d", where="list_contains(genres, 'y')")
    assert rows(table) == [("a", at(0, day=6)), ("a", at(0, day=7))]
    read = project.prepared_spine("home", table, label="genres@+12h").reader().read_all()
    assert read.column("target").to_pylist() == ['["x","y"]', None]


def test_events_that_are_aggregated_say_who_is_there(project: Project) -> None:
    """An aggregation's source need not have a column for each feature."""
    from datetime import UTC

    from llmfeatures.schema import Aggregation, FeatureView

    user = project.registry.entity("user")
    view = FeatureView(
        "counts", user, "data/watched.parquet", [Aggregation("watch_count_2d", "count", window="2d")], cadence="1d"
    )
    found = [one for batch in project.offline.entity_keys([view], until=NOW) for one in batch.to_pylist()]
    expected = pq.read_table(project.config.root / "data" / "watched.parquet").to_pylist()
    assert {one["user_id"]: one["first"].astimezone(UTC) for one in found} == {
        one["user_id"]: one["event_timestamp"] for one in expected
    }
