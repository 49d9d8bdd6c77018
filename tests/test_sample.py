"""The sample project: its history, its registry in both languages, its prompts."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures.registry import load_registry

ROOT = Path(__file__).parent.parent
FEATURES = ("user_segment", "watch_count_30d", "last_genre")
GENRES = {"drama", "comedy", "thriller", "documentary", "sci-fi", "romance", "crime", "animation"}
NOW = datetime(2026, 5, 7, 23, tzinfo=UTC)
NOON = datetime(2026, 5, 5, 12, tzinfo=UTC)
EVENING = datetime(2026, 5, 7, 20, tzinfo=UTC)
NIGHT = datetime(2026, 5, 7, 22, tzinfo=UTC)

Rows = list[dict[str, Any]]


def read(feature: str, folder: Path = ROOT / "data") -> pa.Table:
    return pq.read_table(folder / f"{feature}.parquet")


@pytest.fixture(scope="module")
def history() -> dict[str, Rows]:
    return {feature: read(feature).to_pylist() for feature in FEATURES}


def make(folder: Path) -> None:
    subprocess.run([sys.executable, ROOT / "data" / "make_history.py", folder], check=True)


def rows_at(rows: Rows, feature: str, at: datetime, clock: str) -> dict[str, Any]:
    """Each user's value by the point-in-time rule, the slow way; a user without a row is not in it."""
    found: dict[str, Any] = {}
    for row in sorted(rows, key=lambda row: (row["event_timestamp"], row["created_timestamp"])):
        if row["event_timestamp"] <= at and (clock == "event" or row["created_timestamp"] <= at):
            found[row["user_id"]] = row[feature]
    return found


def test_same_bytes_each_run_and_the_committed_rows(tmp_path: Path) -> None:
    make(tmp_path / "one")
    make(tmp_path / "two")
    for feature in FEATURES:
        name = f"{feature}.parquet"
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        # rows, not bytes: another pyarrow writes other bytes
        assert read(feature, tmp_path / "one").equals(read(feature))


def test_two_users_have_exactly_this_history(history: dict[str, Rows]) -> None:
    told = {
        feature: [
            (row["user_id"], row["event_timestamp"], row["created_timestamp"], row[feature])
            for row in history[feature]
            if row["user_id"] in {"8a2f", "b13c"}
        ]
        for feature in FEATURES
    }
    assert told == {
        "user_segment": [
            ("8a2f", NOON, NOON, "casual"),
            ("b13c", EVENING, EVENING, "casual"),
            ("8a2f", NIGHT, NIGHT, "power_user"),
        ],
        "watch_count_30d": [
            ("8a2f", NOON, NOON, 22),
            ("b13c", EVENING, EVENING, 5),
            ("8a2f", NIGHT, NIGHT, 47),
        ],
        "last_genre": [
            ("b13c", EVENING, EVENING, "thriller"),
            ("8a2f", NIGHT, NIGHT, "documentary"),
        ],
    }


@pytest.mark.parametrize("clock", ["event", "known"])
def test_two_users_at_their_moments(history: dict[str, Rows], clock: str) -> None:
    def values(user_id: str, at: datetime) -> list[Any]:
        return [rows_at(history[feature], feature, at, clock).get(user_id, "missing") for feature in FEATURES]

    assert values("8a2f", NOON - timedelta(microseconds=1)) == ["missing"] * 3
    assert values("8a2f", NOON) == ["casual", 22, "missing"]
    assert values("8a2f", NIGHT) == values("8a2f", NOW) == ["power_user", 47, "documentary"]
    assert values("b13c", EVENING) == values("b13c", NOW) == ["casual", 5, "thriller"]


@pytest.mark.parametrize("feature", FEATURES)
def test_shape_of_a_file(feature: str) -> None:
    table = read(feature)
    stamp = pa.timestamp("us", tz="UTC")
    assert table.schema.equals(
        pa.schema(
            {
                "user_id": pa.string(),
                feature: pa.int64() if feature == "watch_count_30d" else pa.string(),
                "event_timestamp": stamp,
                "created_timestamp": stamp,
            }
        )
    )
    compression = pq.read_metadata(ROOT / "data" / f"{feature}.parquet").row_group(0).column(0).compression
    assert compression == "ZSTD"
    rows = table.to_pylist()
    events = [row["event_timestamp"] for row in rows]
    assert events == sorted(events)
    assert events[0].date().isoformat() == "2026-04-20"
    assert all(row["event_timestamp"] <= row["created_timestamp"] < NOW for row in rows)
    assert len({(row["user_id"], row["event_timestamp"]) for row in rows}) == len(rows)
    assert all(len(row["user_id"]) == 4 and set(row["user_id"]) <= set("0123456789abcdef") for row in rows)


def test_size(history: dict[str, Rows]) -> None:
    assert sum((ROOT / "data" / f"{feature}.parquet").stat().st_size for feature in FEATURES) < 200_000
    assert 5_000 < sum(len(rows) for rows in history.values()) < 7_000
    assert len({row["user_id"] for rows in history.values() for row in rows}) == 300


def test_values_make_sense(history: dict[str, Rows]) -> None:
    assert {row["user_segment"] for row in history["user_segment"]} == {"casual", "power_user", None}
    assert {row["last_genre"] for row in history["last_genre"]} == GENRES | {None}
    assert all(0 <= row["watch_count_30d"] < 100 for row in history["watch_count_30d"])

    segment = rows_at(history["user_segment"], "user_segment", NOW, "known")
    count = rows_at(history["watch_count_30d"], "watch_count_30d", NOW, "known")
    of = {kind: [count[user] for user in count if segment[user] == kind] for kind in ("casual", "power_user")}
    assert len(of["power_user"]) > 20
    assert max(of["casual"]) <= 35  # the segment is up to a day behind
    assert min(of["power_user"]) >= 25


def test_hourly_counts_are_written_only_when_they_change(history: dict[str, Rows]) -> None:
    last: dict[str, int] = {}
    for row in history["watch_count_30d"]:
        assert last.get(row["user_id"]) != row["watch_count_30d"]
        assert row["event_timestamp"].minute == 0
        last[row["user_id"]] = row["watch_count_30d"]


def test_some_users_have_nulls_and_some_are_in_few_files(history: dict[str, Rows]) -> None:
    now = {feature: rows_at(history[feature], feature, NOW, "known") for feature in FEATURES}
    assert None in now["user_segment"].values()
    assert None in now["last_genre"].values()
    files = {user: sum(user in values for values in now.values()) for values in now.values() for user in values}
    assert set(files.values()) == {1, 2, 3}


@pytest.mark.parametrize("feature", FEATURES)
def test_late_rows_make_the_clocks_differ(history: dict[str, Rows], feature: str) -> None:
    rows = history[feature]
    late = [row for row in rows if row["created_timestamp"] - row["event_timestamp"] > timedelta(hours=1)]
    assert 10 < len(late) < len(rows) / 10
    differ: set[str] = set()
    for row in late:
        own = [one for one in rows if one["user_id"] == row["user_id"]]
        at = row["created_timestamp"] - timedelta(seconds=1)
        if rows_at(own, feature, at, "event") != rows_at(own, feature, at, "known"):
            differ.add(row["user_id"])
    assert len(differ) > 5


def test_yaml_and_python_registries_are_equal() -> None:
    python = load_registry(Path("examples/streaming/features.py"), ROOT)
    yaml = load_registry(Path("examples/streaming/features.yaml"), ROOT)
    assert python == yaml
    assert [view.name for view in python.views] == ["segment", "activity", "taste"]
    for view in python.views:
        assert view.ttl is None
        assert view.owner
        assert view.description
        assert view.batch is not None
        assert read(view.features[0].name, ROOT / Path(view.batch.path).parent).num_rows


def test_recommender_is_the_prompt_of_the_design() -> None:
    assert (ROOT / "prompts" / "recommender.prompt.j2").read_text(encoding="utf-8") == (
        "---\n"
        "description: Picks tonight's titles on the home page\n"
        "features:\n"
        "  user_segment: {default: unknown}\n"
        "  watch_count_30d: {default: 0}\n"
        '  last_genre: {default: "nothing yet"}\n'
        "---\n"
        "You recommend shows for a streaming service.\n"
        "Viewer: {{ user_segment }}, watched {{ watch_count_30d }} titles in the last 30 days, "
        "last genre: {{ last_genre }}.\n"
        "Suggest 3 titles in a short, friendly message.\n"
    )
