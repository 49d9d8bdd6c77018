"""On-demand features and aggregations where history is drawn, narrowed, labelled, split and withheld."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmfeatures import Project
from llmfeatures.cli.users import three_examples
from llmfeatures.errors import RequestError, SpineError
from tests.projects import MOMENT, NOW, WATCHED, at, watched, write_rows

REGISTRY = """
from llmfeatures import Entity, FeatureView, Registry, on_demand
from llmfeatures.schema import Aggregation

user = Entity("user", "user_id")
seat = Entity("seat", join_keys={"hall": "int", "number": "int"})
activity = FeatureView("activity", user, "data/activity.parquet", {"watched": "int"})
events = FeatureView("events", user, "data/activity.parquet", [
    Aggregation("events_2d", "count", window="2d"),
    Aggregation("most_2d", "max", column="watched", dtype="int", window="2d"),
], cadence="1d")
taken = FeatureView("taken", seat, "data/taken.parquet", {"taken": "int"})


@on_demand(user, "str")
def initial(user_id):
    return None if user_id is None else user_id[:1]


@on_demand(user, "str", inputs={"hour": "int"})
def part_of_day(hour):
    return "morning" if hour < 12 else "evening"


@on_demand(user, "enum[light,heavy]", inputs={"hour": "int"})
def kind(watched, hour):
    if hour == 13:
        raise ValueError("secret")
    return None if watched is None else "heavy" if watched > hour else "light"


@on_demand(user, "str", inputs={"word": "str"})
def loud(word):
    if len(word) > 3:
        raise ValueError("never called with a word that the prompt refuses")
    return word.upper()


@on_demand(user, "int")
def busy(events_2d, watched):
    return (events_2d or 0) * 100 + (watched or 0)


@on_demand(seat, "str")
def row_of(hall, number):
    return f"{hall}/{number}"


registry = Registry([activity, events, taken, initial, part_of_day, kind, busy, row_of, loud])
"""
PROMPTS = {
    "initial": "---\nfeatures:\n  initial: {default: nobody}\n---\n{{ initial }}\n",
    "part": "{{ part_of_day }}\n",
    "kind": "---\nfeatures:\n  kind: {default: unknown}\n---\n{{ kind }}\n",
    "hours": (
        "---\ninputs:\n  hour: {type: int, default: 5}\nfeatures:\n  watched: {default: 0}\n"
        "  kind: {default: unknown}\n---\n{{ watched }} {{ kind }}\n"
    ),
    "busy": "---\nfeatures:\n  busy: {default: 0}\n---\n{{ busy }}\n",
    "loud": "---\ninputs:\n  word: {type: str, max_chars: 3}\n---\n{{ loud }}\n",
    "both": "{{ initial }} {{ row_of }}\n",
    "viewer": "---\nentities: {viewer: user}\n---\n{{ viewer.initial }}\n",
}
USERS = [f"{letter}{number}" for number in range(6) for letter in "ab"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("ondemand")
    rows = [watched(user, number, at(6, day=1 + number % 5)) for number, user in enumerate(USERS)]
    rows += [watched(user, number + 1, at(7, day=5)) for number, user in enumerate(USERS[::2])]
    write_rows(root / "data/activity.parquet", rows, WATCHED)
    seats = {"hall": pa.int64(), "number": pa.int64(), "taken": pa.int64(), "event_timestamp": MOMENT}
    write_rows(root / "data/taken.parquet", [{"hall": 1, "number": 2, "taken": 1, "event_timestamp": at(1)}], seats)
    (root / "registry.py").write_text(REGISTRY)
    (root / "prompts").mkdir()
    for name, body in PROMPTS.items():
        (root / f"prompts/{name}.prompt.j2").write_text(body)
    (root / "llmfeatures.toml").write_text(
        '[project]\nname = "t"\nregistry = "registry.py"\n[online]\nurl = "sqlite:o.db"\n'
    )
    loaded = Project.load(root, now=lambda: NOW)
    loaded.materialize()
    return loaded


def _texts(table: pa.Table) -> list[str | None]:
    return [one and one[0]["content"] for one in table.column("messages").to_pylist()]


@pytest.mark.parametrize("prompt", ["initial", "viewer"])
def test_a_prompt_of_on_demand_features_alone_is_about_its_entity(
    project: Project, prompt: str, tmp_path: Path
) -> None:
    """They read nothing that is stored, so only their own role says whom the prompt is about."""
    key = "viewer_user_id" if prompt == "viewer" else "user_id"
    history = project.history(prompt, users=8, every="1d", since="4d")
    table = history.read_all()
    keys = [one[key] for one in table.column("entity").to_pylist()]
    assert len(set(keys)) == 8
    assert _texts(table) == [one[0] for one in keys]
    history.write(tmp_path / "o.parquet", split={"train": 0.5, "test": 0.5}, seed=4)
    halves = [
        {one[key] for one in pa.parquet.read_table(tmp_path / f"o.{part}.parquet").column("entity").to_pylist()}
        for part in ("train", "test")
    ]
    assert all(halves)
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == set(keys)
    online = project.builder().build_contexts(prompt, [{key: one} for one in (*keys, None)] if key == "user_id" else [])
    assert [one.text for one in online] == ([*_texts(table), "nobody"] if key == "user_id" else [])


def test_a_prompt_of_two_entities_on_demand_needs_a_spine(project: Project) -> None:
    with pytest.raises(RequestError, match="user_id, hall, number and event_timestamp"):
        project.spine("both")
    spine = pa.table({"user_id": ["a"], "hall": [3], "number": [4], "event_timestamp": [at(1)]})
    assert _texts(project.history("both", spine).read_all()) == ["a 3/4"]
    assert project.builder().build_context("both", user_id="a", hall=3, number=4).text == "a 3/4"


def test_an_input_is_given_once_for_all(project: Project) -> None:
    with pytest.raises(RequestError, match="hour"):
        project.spine("part")
    table = project.history("part", users=3, every="1d", since="2d", inputs={"hour": 9}).read_all()
    assert set(_texts(table)) == {"morning"}


@pytest.mark.parametrize(
    ("prompt", "where", "inputs", "kept"),
    [
        ("hours", "kind = 'heavy'", {"hour": 7}, lambda row: row["kind"] == "heavy"),
        ("hours", "kind = 'heavy' AND watched < 9", None, lambda row: row["kind"] == "heavy" and row["watched"] < 9),
        ("hours", "\"user\".initial = 'a'", None, lambda row: row["initial"] == "a"),
        ("hours", "busy % 100 = watched AND busy >= 100", None, lambda row: row["busy"] >= 100),
        ("busy", "events_2d = 0", None, lambda row: row["events_2d"] == 0),
        ("initial", "initial = 'b'", None, lambda row: row["initial"] == "b"),
    ],
)
def test_where_sees_on_demand_features_and_aggregations(
    project: Project, prompt: str, where: str, inputs: Any, kept: Any
) -> None:
    options: dict[str, Any] = {"every": "12h", "since": "5d"}
    drawn = project.spine(prompt, **options)
    spine = drawn.append_column("hour", pa.repeat(pa.scalar((inputs or {"hour": 5})["hour"]), drawn.num_rows))
    names = ["watched", "events_2d", "kind", "busy", "initial"]
    joined = project.get_historical_features(spine, names).read_all().to_pylist()
    expected = [(row["user_id"], row["event_timestamp"]) for row in joined if kept(row)]
    found = project.spine(prompt, where=where, inputs=inputs, **options)
    assert [(row["user_id"], row["event_timestamp"]) for row in found.to_pylist()] == expected
    assert 0 < len(expected) < drawn.num_rows


@pytest.mark.parametrize(
    ("prompt", "where", "inputs", "said"),
    [
        ("busy", "kind = 'heavy'", None, "'kind' takes the input 'hour' (int), which prompt 'busy' does not take"),
        ("hours", "knd = 'heavy'", None, "did you mean 'kind'"),
        ("hours", "kind = 'heavy'", {"hour": 13}, "where: on-demand feature 'kind' failed with ValueError"),
        ("kind", "kind = 'heavy'", None, "needs the input 'hour'"),
    ],
)
def test_a_condition_that_cannot_be_is_refused(
    project: Project, prompt: str, where: str, inputs: Any, said: str
) -> None:
    with pytest.raises(RequestError) as raised:
        project.spine(prompt, where=where, inputs=inputs)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)


def test_no_label_is_on_demand_and_none_a_stratum(project: Project) -> None:
    spine = project.spine("busy", every="1d", since="2d")
    for label, said in (("busy@+1d", "(events_2d, watched)"), ("user.initial@+1d", "with target")):
        with pytest.raises(RequestError) as raised:
            project.history("busy", spine, label=label)
        assert "computed on demand" in str(raised.value)
        assert said in str(raised.value)
    with pytest.raises(SpineError, match="get_historical_features"):
        project.history("busy", spine, sample=2, stratify="busy").read_all()
    joined = project.get_historical_features(spine, ["busy"]).read_all()
    drawn = project.history("initial", joined, sample=4, stratify="busy", target="busy").read_all()
    assert drawn.num_rows == 4
    assert set(drawn.column("target").to_pylist()) <= {str(one) for one in joined.column("busy").to_pylist()}


def test_a_label_of_an_aggregation_is_its_value_on_the_grid_then(project: Project) -> None:
    spine = pa.table(
        {
            "user_id": ["a0", "b0", "a1", "zz", "a0"] * 3,
            "event_timestamp": pa.array([at(5 + number % 4, day=1 + number // 4) for number in range(15)], MOMENT),
        }
    )
    rows = pa.parquet.read_table(project.config.root / "data/activity.parquet").to_pylist()
    history = project.history("initial", spine, label="events_2d@+30h").read_all()
    expected: list[str | None] = []
    for row in spine.to_pylist():
        then = row["event_timestamp"] + timedelta(hours=30)
        point = then.replace(hour=0)
        events = [one["event_timestamp"] for one in rows if one["user_id"] == row["user_id"]]
        entered = any(event <= point for event in events)
        count = sum(point - timedelta(days=2) < event <= point for event in events)
        expected.append(str(count) if entered and then <= NOW else None)
    assert history.column("target").to_pylist() == expected
    assert {"0", "1", None} <= set(expected)
    assert history.column("error").null_count == history.num_rows


def test_what_is_withheld_is_missing_to_whatever_reads_it(project: Project) -> None:
    spine = pa.table({"user_id": ["a0", "b3"], "hour": [5, 5], "event_timestamp": pa.array([at(12)] * 2, MOMENT)})
    rows = project.history("hours", spine, without=["watched", "kind"]).read_all().to_pylist()
    texts = [one["messages"][0]["content"] for one in rows]
    # without `watched` the function gets None; without `kind` what it is computed from stays
    assert texts == ["1 light", "0 unknown", "1 unknown", "7 heavy", "0 unknown", "7 unknown"]
    assert [one["statuses"] for one in rows[:3]] == [
        {"watched": "present", "kind": "present"},
        {"watched": "missing", "kind": "null"},
        {"watched": "present", "kind": "missing"},
    ]
    assert [one["metadata"]["without"] for one in rows[:3]] == [None, "watched", "kind"]
    hidden = project.history("kind", spine, without="watched").read_all().to_pylist()
    assert [one["messages"][0]["content"] for one in hidden] == ["light", "unknown", "heavy", "unknown"]


def test_a_function_that_fails_spoils_no_row_that_is_without_it(project: Project) -> None:
    spine = pa.table({"user_id": ["a0"], "hour": [13], "event_timestamp": pa.array([at(12)], MOMENT)})
    rows = project.history("hours", spine, without="kind").read_all().to_pylist()
    assert "'kind' failed" in rows[0]["error"]
    assert rows[1]["error"] is None
    assert json.dumps(rows[1]["messages"][0]["content"]) == '"1 unknown"'


def test_examples_of_a_prompt_that_reads_nothing_stored_are_of_its_entity(project: Project) -> None:
    typical, unknown, gaps = three_examples(project, project.prompts.plan("initial").features, NOW, "known")
    assert (typical.label, typical.keys) == ("typical user", {"user_id": "a0"})
    assert unknown.keys == {"user_id": None}
    assert gaps.keys is None


def test_no_function_sees_an_input_that_the_prompt_refuses(project: Project) -> None:
    spine = pa.table({"user_id": ["a0", "a0"], "word": ["abc", "abcd"], "event_timestamp": [at(1)] * 2})
    rows = project.history("loud", spine).read_all()
    assert _texts(rows) == ["ABC", None]
    with pytest.raises(RequestError) as refused:
        project.builder().build_context("loud", user_id="a0", word="abcd")
    assert rows.column("error").to_pylist() == [None, str(refused.value)]
