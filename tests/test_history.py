"""Historical features and prompts: one row per spine row, in order, whatever the spine is and whatever goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures import Project, history_rows
from llmfeatures.errors import RequestError, SpineError
from tests.projects import MOMENT, NOW, at, make_project, segment, watched

ASK = """---
features:
  segment: {default: unknown}
inputs:
  question: {type: str}
  limit: {type: int, default: 3}
---
{% message "system" %}{{ segment }} {{ watched }}{% endmessage %}
{% message "user" %}{{ question }} {{ limit }}{% endmessage %}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    make_project(
        tmp_path,
        segments=[
            segment("a", "casual", at(1), at(1)),
            segment("a", "power_user", at(2), at(4)),
            segment("b", None, at(1), at(1)),
        ],
        counts=[watched("a", 5, at(1)), watched("b", 1, at(1))],
        prompts={"home": "---\nfeatures:\n  segment: {default: unknown}\n---\n{{ segment }}", "ask": ASK},
    )
    return Project.load(tmp_path, now=lambda: NOW)


def spine(**more: list[Any]) -> pa.Table:
    users = ["a", "a", "zz", None, "b", "a", "a"]
    times = [at(3), at(5), at(5), at(5), at(5), None, at(0)]
    return pa.table({"user_id": pa.array(users, pa.string()), "event_timestamp": pa.array(times, MOMENT), **more})


def test_rows_in_are_rows_out_with_reasons(project: Project) -> None:
    history = project.history("home", spine(label=list(range(7))))
    rows = history.read_all().to_pylist()
    texts = [row["messages"] and row["messages"][0]["content"] for row in rows]
    assert texts == ["casual", "power_user", "unknown", "unknown", "unknown", None, "unknown"]
    assert [row["statuses"]["segment"] for row in rows] == [
        "present", "present", "missing", "missing", "null", "missing", "missing"
    ]  # fmt: skip
    assert rows[5]["error"] == "event_timestamp is null"
    assert [row["metadata"]["label"] for row in rows] == list(range(7))
    assert rows[1]["features"] == {"segment": "power_user"}
    assert rows[1]["timestamps"] == {"segment": at(2)}
    assert len({row["id"] for row in rows}) == 7
    assert (history.summary.rows, history.summary.errors, history.summary.hidden) == (7, 1, 1)
    assert history.summary.statuses["segment"] == {"present": 2, "missing": 4, "null": 1}
    assert list(rows[0]) == [
        "id", "prompt", "version", "prompt_id", "as_of", "clock", "entity", "inputs", "messages", "features",
        "statuses", "timestamps", "documents", "target", "metadata", "error",
    ]  # fmt: skip


def test_the_event_clock_sees_what_had_not_arrived(project: Project) -> None:
    rows = project.history("home", spine(), clock="event").read_all().to_pylist()
    assert rows[0]["messages"][0]["content"] == "power_user"
    assert {row["clock"] for row in rows} == {"event"}


def test_a_row_with_a_policy_error_or_a_bad_input_keeps_its_place(project: Project) -> None:
    rows = project.history("ask", spine(question=["q"] * 6 + [None], target=[1.5] * 7)).read_all().to_pylist()
    assert [row["messages"] is None for row in rows] == [False, False, True, True, False, True, True]
    assert "'watched' of prompt 'ask' is missing" in rows[2]["error"]
    assert "'question'" in rows[6]["error"] or "watched" in rows[6]["error"]
    assert rows[0]["messages"] == [
        {"role": "system", "content": "casual 5"},
        {"role": "user", "content": "q 3"},
    ]
    assert rows[0]["inputs"] == {"question": "q", "limit": 3}
    assert rows[0]["target"] == "1.5"
    messages = [[one["role"], one["content"]] for one in rows[0]["messages"]]
    compact = json.dumps(messages, ensure_ascii=False, separators=(",", ":")).encode()
    assert rows[0]["prompt_id"] == hashlib.sha256(compact).hexdigest()


def test_a_spine_without_what_the_prompt_needs_is_named(project: Project) -> None:
    with pytest.raises(SpineError, match="'question'"):
        project.history("ask", spine()).read_all()
    with pytest.raises(SpineError, match="user_id"):
        project.history("home", pa.table({"event_timestamp": pa.array([at(1)], MOMENT)})).read_all()
    with pytest.raises(SpineError, match="event_timestamp"):
        project.history("home", pa.table({"user_id": ["a"]})).read_all()
    with pytest.raises(SpineError, match="user_id"):
        project.history("home", pa.table({"user_id": [1], "event_timestamp": pa.array([at(1)], MOMENT)})).read_all()


def test_canonical_parquet_and_chat_jsonl(project: Project, tmp_path: Path) -> None:
    table = spine()
    path = tmp_path / "out.parquet"
    summary = project.history("home", table).write(path)
    assert (summary.rows, summary.errors) == (7, 1)
    written = pq.read_table(path)
    assert written.num_rows == 7
    assert written.schema.metadata[b"llmfeatures.format"] == b"1"
    assert duckdb.sql(f"SELECT count(messages), count(DISTINCT id) FROM '{path}'").fetchall() == [(6, 7)]

    project.history("home", table).write(tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[0] == {"messages": [{"role": "system", "content": "casual"}]}
    index = pq.read_table(tmp_path / "out.index.parquet")
    assert index.num_rows == len(lines) == 6
    assert index.column("id").to_pylist() == [
        one for one, error in zip(written["id"].to_pylist(), written["error"].to_pylist(), strict=True) if not error
    ]
    assert sorted(one.name for one in tmp_path.iterdir() if one.name.startswith(".") and one.suffix == ".part") == []
    with pytest.raises(RequestError, match=r"end it in \.parquet or \.jsonl"):
        project.history("home", table).write(tmp_path / "out.csv")
    with pytest.raises(RequestError, match="unknown format 'promptfo'"):
        project.history("home", table).write(tmp_path / "out.json", "promptfo")
    with pytest.raises(RequestError, match="cannot write"):
        project.history("home", table).write(tmp_path / "absent" / "out.parquet")


def test_a_write_that_is_interrupted_leaves_what_was_there(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.parquet"
    path.write_text("what was there")
    batches = 0
    inner = history_rows.HistoryRows._finish

    def finish(self: Any, begun: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches > 1:
            raise KeyboardInterrupt
        return inner(self, begun)

    monkeypatch.setattr(history_rows.HistoryRows, "_finish", finish)
    many = pa.concat_tables([spine()] * 10_000)
    for name in ("out.parquet", "out.jsonl"):
        batches = 0
        with pytest.raises(KeyboardInterrupt):
            project.history("home", many).write(tmp_path / name)
    assert path.read_text() == "what was there"
    kept = [".out.jsonl.partial", ".out.parquet.partial"]
    assert sorted(one.name for one in tmp_path.glob("*out*")) == [*kept, "out.parquet"]
    assert [one.name for one in tmp_path.iterdir() if one.name.endswith(".part")] == []


def test_every_kind_of_spine_gives_the_same(project: Project, tmp_path: Path) -> None:
    table = spine().slice(0, 3)
    pq.write_table(table, tmp_path / "s.parquet")
    frame = table.to_pandas()
    frame.to_csv(tmp_path / "s.csv", index=False)
    frame.to_json(tmp_path / "s.jsonl", orient="records", lines=True, date_format="iso", date_unit="us")
    with pa.OSFile(str(tmp_path / "s.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    kinds = {
        "parquet": tmp_path / "s.parquet",
        "text path": str(tmp_path / "s.parquet"),
        "csv": tmp_path / "s.csv",
        "jsonl": tmp_path / "s.jsonl",
        "arrow file": tmp_path / "s.arrow",
        "table": table,
        "reader": table.to_reader(),
        "pandas": frame,
        "pandas with an index": frame.set_index(pd.Index([7, 8, 9])),
        "polars": pl.from_arrow(table),
        "relation": duckdb.from_arrow(table),
    }
    expected = project.history("home", table).read_all().select(["prompt_id", "as_of", "error"]).to_pylist()
    for kind, one in kinds.items():
        made = project.history("home", one).read_all().select(["prompt_id", "as_of", "error"]).to_pylist()
        assert made == expected, kind


def test_an_empty_spine_has_a_schema_and_no_rows(project: Project, tmp_path: Path) -> None:
    history = project.history("home", spine().slice(0, 0))
    assert history.schema.field("messages").type == pa.list_(
        pa.struct([("role", pa.string()), ("content", pa.string())])
    )
    history.write(tmp_path / "empty.parquet")
    assert pq.read_table(tmp_path / "empty.parquet").num_rows == 0


def test_historical_features(project: Project) -> None:
    table = project.get_historical_features(
        spine(note=list("abcdefg")), ["segment", "user.watched"], statuses=True
    ).read_all()
    assert table.column_names == [
        "user_id", "event_timestamp", "note", "segment", "segment__status", "segment__event_timestamp",
        "user__watched", "user__watched__status", "user__watched__event_timestamp",
    ]  # fmt: skip
    assert table["segment"].to_pylist() == ["casual", "power_user", None, None, None, None, None]
    assert table["user__watched"].type == pa.int64()
    assert table["user__watched"].to_pylist() == [5, 5, None, None, 1, None, None]
    assert table["segment__event_timestamp"].to_pylist()[:2] == [at(1), at(2)]
    with pytest.raises(SpineError, match="'segment'"):
        project.get_historical_features(spine(segment=["x"] * 7), ["segment"]).read_all()


def test_each_view_has_its_own_ttl(tmp_path: Path) -> None:
    make_project(tmp_path, segments=[segment("a", "x", at(1))], counts=[watched("a", 1, at(2))], ttl="1h")
    project = Project.load(tmp_path, now=lambda: NOW)
    moments = [at(2) - timedelta(microseconds=1), at(2), at(2) + timedelta(microseconds=1), at(3), at(3, 1)]
    table = project.get_historical_features(
        pa.table({"user_id": ["a"] * 5, "event_timestamp": pa.array(moments, MOMENT)}),
        ["segment", "watched"],
        statuses=True,
    ).read_all()
    assert table["segment__status"].to_pylist() == ["present", "present", "expired", "expired", "expired"]
    assert table["watched__status"].to_pylist() == ["missing", "present", "present", "present", "expired"]
    assert table["watched"].to_pylist() == [None, 1, 1, 1, None]


def test_memory_is_bounded_whatever_the_spine(tmp_path: Path) -> None:
    """A spine ten times as long takes about the same memory: nothing holds all prompts at once."""
    make_project(tmp_path, segments=[segment(f"u{n}", "x" * 50, at(1)) for n in range(1_000)])
    program = (
        "import sys, resource, pyarrow as pa, datetime as d\n"
        "from llmfeatures import Project\n"
        "n = int(sys.argv[2])\n"
        "t = pa.table({'user_id': [f'u{i % 1000}' for i in range(n)],\n"
        "  'event_timestamp': pa.array([d.datetime(2026, 5, 7, 3, tzinfo=d.UTC)] * n, pa.timestamp('us', 'UTC'))})\n"
        "pa.parquet.write_table(t, sys.argv[1] + '/s.parquet') if hasattr(pa, 'parquet') else None\n"
        "import pyarrow.parquet as pq; pq.write_table(t, sys.argv[1] + f'/s{n}.parquet'); del t\n"
        "p = Project.load(sys.argv[1])\n"
        "seen = sum(b.num_rows for b in p.history('home', sys.argv[1] + f'/s{n}.parquet'))\n"
        "assert seen == n, seen\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )

    def peak(rows: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), str(rows)],
            capture_output=True, text=True, check=True, env={**os.environ, "LLMFEATURES_OFFLINE_MEMORY_LIMIT": "200MB"},
        )  # fmt: skip
        return int(done.stdout)

    assert peak(200_000) < peak(20_000) + 250


def test_csv_and_json_lines_keep_what_their_columns_are_declared_as(project: Project, tmp_path: Path) -> None:
    text = "---\nfeatures:\n  segment: {default: unknown}\ninputs:\n  zip: {type: str}\n  day: {type: date}\n---\n"
    (tmp_path / "prompts" / "zip.prompt.j2").write_text(f"{text}{{{{ segment }}}} {{{{ zip }}}} {{{{ day }}}}")
    csv = tmp_path / "z.csv"
    csv.write_text("id,user_id,event_timestamp,zip,day\n007,a,2026-05-07T03:00:00Z,01234,2026-05-07\n")
    lines = tmp_path / "z.jsonl"
    row = {"id": "007", "user_id": "a", "event_timestamp": "2026-05-07T03:00:00Z", "zip": "01234", "day": "2026-05-07"}
    lines.write_text(json.dumps(row) + "\n")
    for spine_file in (csv, lines):
        (made,) = Project.load(tmp_path, now=lambda: NOW).history("zip", spine_file).read_all().to_pylist()
        assert made["messages"] == [{"role": "system", "content": "casual 01234 2026-05-07"}], made["error"]
        assert made["id"] == "007"
    csv.write_text("id,user_id,event_timestamp,zip,day\n")
    assert Project.load(tmp_path).history("zip", csv).read_all().num_rows == 0


def test_a_spine_is_never_overwritten(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(spine(), path)
    with pytest.raises(RequestError, match="is the spine itself"):
        project.history("home", path).write(path)
    assert pq.read_table(path).num_rows == 7


def test_a_spine_that_can_be_read_once_says_so_when_it_was(project: Project) -> None:
    history = project.history("home", spine().to_reader())
    assert history.read_all().num_rows == 7
    with pytest.raises(SpineError, match="once only"):
        history.read_all()


@pytest.mark.parametrize("kind", ["table", "list", "columns", "parquet", "csv", "reader"])
def test_the_total_is_known_where_the_spine_tells_it(project: Project, tmp_path: Path, kind: str) -> None:
    table = spine()
    pq.write_table(table, tmp_path / "s.parquet")
    (tmp_path / "s.csv").write_text("user_id,event_timestamp\na,2026-05-01T00:00Z\n")
    spines: dict[str, Any] = {
        "table": table,
        "list": table.to_pylist(),
        "columns": table.to_pydict(),
        "parquet": tmp_path / "s.parquet",
        "csv": tmp_path / "s.csv",
        "reader": table.to_reader(),
    }
    history = project.history("home", spines[kind], without="segment")
    assert history.total == (None if kind in ("csv", "reader") else 14)
    if history.total is not None:
        assert history.read_all().num_rows == history.total


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl"])
def test_a_write_that_fails_behind_is_raised_and_leaves_nothing(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
    before = set(tmp_path.iterdir())
    with pytest.raises((OSError, RequestError), match="No space left"):
        project.history("home", spine()).write(tmp_path / name)
    assert {one for one in tmp_path.iterdir() if one.suffix in (".parquet", ".jsonl", ".part")} <= before


def test_the_schema_stays_known_and_reads_nothing_again(project: Project) -> None:
    history = project.history("home", spine())
    batches = list(history)
    summary = history.summary
    assert pa.Table.from_batches(batches, history.schema).num_rows == summary.rows == spine().num_rows
    assert history.summary is summary
    once = project.history("home", spine().to_reader())
    assert pa.Table.from_batches(list(once), once.schema).num_rows == spine().num_rows


def test_explaining_does_not_use_up_a_spine_that_can_be_read_once(project: Project) -> None:
    history = project.history("home", spine().to_reader())
    with pytest.raises(SpineError, match="read once only"):
        history.explain()
    assert history.read_all().num_rows == spine().num_rows


def test_a_target_or_id_that_is_no_finite_number_is_null(project: Project) -> None:
    given = [1.5, float("nan"), float("inf"), None, None, None, 2.0]
    rows = project.history("home", spine(target=given, id=given)).read_all().to_pylist()
    assert [row["target"] for row in rows] == ["1.5", None, None, None, None, None, "2.0"]
    assert len({row["id"] for row in rows}) == 7
    assert rows[0]["id"] == "1.5"
