"""``llmfeatures push``: files of each kind, bad rows, and a push that is run again."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures.cli.app import run
from tests.push.test_push import make

LINES = """{"user_id": "a", "genre": "x", "score": 1.5, "count": 1}

{"user_id": "b", "genre": null, "score": null, "count": null}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    project, _ = make(tmp_path)
    project.close()
    return tmp_path


def push(root: Path, *arguments: str) -> int:
    return run(["push", *arguments, "--project", str(root)])


def rows(root: Path) -> list[dict[str, Any]]:
    from llmfeatures import Project

    project = Project.load(root)
    with project.pushes.rows("taste") as found:
        tables = [one.table.to_pylist() if one.table else pq.read_table(list(one.files)).to_pylist() for one in found]
    project.close()
    return sorted((row for table in tables for row in table), key=lambda row: row["user_id"])


def test_files_of_each_kind(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "r.jsonl").write_text(LINES)
    (root / "r.csv").write_text("user_id,genre,score,count,event_timestamp\nc,x,1.5,1,2026-05-01T00:00Z\nd,,,,\n")
    pq.write_table(pa.table({"user_id": ["e"], "genre": ["z"], "score": [2.0], "count": [3]}), root / "r.parquet")
    for name, count in (("r.jsonl", 2), ("r.csv", 2), ("r.parquet", 1)):
        assert push(root, "taste", str(root / name)) == 0
        assert f"{count:,} rows of view taste are durable" in capsys.readouterr().out
    found = [(row["user_id"], row["genre"], row["score"], row["count"]) for row in rows(root)]
    assert found == [
        ("a", "x", 1.5, 1), ("b", None, None, None), ("c", "x", 1.5, 1), ("d", None, None, None), ("e", "z", 2.0, 3)
    ]  # fmt: skip
    assert rows(root)[2]["_event_timestamp"].isoformat() == "2026-05-01T00:00:00+00:00"


def test_a_mark_before_the_text_is_no_part_of_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "r.jsonl").write_text(LINES, encoding="utf-8-sig")
    (root / "r.csv").write_text("user_id,genre,score,count\nc,x,1.5,1\n", encoding="utf-8-sig")
    for name in ("r.jsonl", "r.csv"):
        assert push(root, "taste", str(root / name)) == 0, capsys.readouterr().err
    assert [row["user_id"] for row in rows(root)] == ["a", "b", "c"]


def test_standard_input(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Input:
        buffer = io.BytesIO(LINES.encode())

    monkeypatch.setattr("sys.stdin", Input)
    assert push(root, "taste", "-", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["batches"], report["online"]) == (2, 1, True)


def test_a_push_that_is_run_again_repeats_nothing(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmfeatures.cli.push.BATCH_ROWS", 10)
    lines = [json.dumps({"user_id": f"u{n:02}", "genre": "x", "score": 1.0, "count": n}) for n in range(35)]
    bad = [*lines[:22], lines[22].replace('"x"', "3"), *lines[23:]]
    path = root / "rows.ndjson"
    path.write_text("\n".join(bad))
    assert push(root, "taste", str(path), "--push-id", "nightly") == 1
    said = capsys.readouterr().err
    assert "line 23, column 'genre': an int is no str" in said
    assert "the 20 rows before it are pushed" in said
    assert len(rows(root)) == 20
    path.write_text("\n".join(lines))
    for repeated in (20, 35):
        assert push(root, "taste", str(path), "--push-id", "nightly", "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["rows"], report["repeated"], report["batches"]) == (35, repeated, 4)
        assert [row["count"] for row in rows(root)] == list(range(35))


def test_an_error_in_the_middle_says_what_is_pushed(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmfeatures.cli.push.BATCH_ROWS", 10)
    lines = [json.dumps({"user_id": f"u{n:02}", "genre": "x", "score": 1.0, "count": n}) for n in range(15)]
    lines[12] = lines[12].replace('"x"', f'"{"x" * 3_000}"')
    (root / "rows.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr("llmfeatures.push_log.segment.LARGEST", 2_500)
    assert push(root, "taste", str(root / "rows.jsonl")) == 1
    said = capsys.readouterr().err
    assert "note: 10 rows are pushed, and nothing after them" in said
    assert "too large to be kept at once" in said
    assert len(rows(root)) == 10


def test_what_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "r.jsonl").write_text("[1]\n")
    (root / "r.csv").write_text("user_id,genre,score,count\na,x,much,1\n")
    (root / "short.csv").write_text("user_id,genre,score,count\na,x\n")
    (root / "r.txt").write_text("")
    (root / "r.parquet").write_text("")
    (root / "latin.jsonl").write_bytes(LINES.replace("x", "é").encode("latin-1"))
    (root / "latin.csv").write_bytes("user_id,genre,score,count\na,é,1,1\n".encode("latin-1"))
    (root / "long.csv").write_text(f"user_id,genre,score,count\na,{'x' * 200_000},1,1\n")
    for arguments, code, said in (
        (["taste", "r.jsonl"], 1, "line 1 is no JSON object"),
        (["taste", "r.csv"], 1, "line 2, column 'score': not a float"),
        (["taste", "short.csv"], 1, "line 2 has more or fewer columns"),
        (["taste", "latin.jsonl"], 1, "latin.jsonl is not all UTF-8 text; write it again as UTF-8"),
        (["taste", "latin.csv"], 1, "latin.csv is not all UTF-8 text"),
        (["taste", "long.csv"], 1, "cannot be read as CSV: field larger than field limit"),
        (["taste", "r.txt"], 2, "of no known kind"),
        (["taste", "gone.csv"], 2, "is not there"),
        (["taste", "r.parquet"], 2, "cannot be read as Parquet"),
        (["nope", "r.csv"], 2, "unknown view 'nope'"),
        (["still", "r.csv"], 2, "takes no pushes; the views that do are: taste"),
    ):
        view, name = arguments
        assert push(root, view, str(root / name)) == code, arguments
        assert said in capsys.readouterr().err
    assert rows(root) == []
