"""Each format's exact bytes, what a hostile value does, and that the work per distinct prompt is not visible."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures import Project
from llmfeatures.config import exporters
from llmfeatures.errors import RequestError
from tests.projects import MOMENT, at, make_project, segment

GOLDEN = Path(__file__).parent / "golden"
AS_OF = datetime(2026, 5, 5, 12, tzinfo=UTC)
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
FEATURES = pa.struct(
    [("price", pa.decimal128(9, 2)), ("genres", pa.list_(pa.string())), ("seen", pa.timestamp("us", "UTC"))]
)
CODECS = {".gz": "gzip", ".zst": "zstd"}
NOTHING = pa.struct([("_", pa.bool_())])
LINES = ("chat", "inspect", "langfuse", "mlflow", "promptfoo")


def rows(texts: list[str | None], targets: list[str | None], ids: list[str] | None = None) -> pa.RecordBatch:
    """Canonical rows with these user messages; None is a row without a prompt."""
    count = len(texts)
    messages = [
        None if one is None else [{"role": "system", "content": "Be brief."}, {"role": "user", "content": one}]
        for one in texts
    ]
    return pa.RecordBatch.from_pydict(
        {
            "id": pa.array(ids or [f"r{row}" for row in range(count)]),
            "prompt": pa.array(["home"] * count),
            "version": pa.array(["v1"] * count),
            "prompt_id": pa.array([None if one is None else f"p-{one}" for one in texts], pa.string()),
            "as_of": pa.array([AS_OF] * count, pa.timestamp("us", "UTC")),
            "clock": pa.array(["known"] * count),
            "entity": pa.array([{"user_id": f"u{row}"} for row in range(count)]),
            "inputs": pa.nulls(count, NOTHING),
            "messages": pa.array(messages, MESSAGES),
            "features": pa.array(
                [{"price": Decimal("1.50"), "genres": ["a", "b"], "seen": AS_OF}] * count,
                FEATURES,
            ),
            "statuses": pa.array([{"price": "present", "genres": "present", "seen": "present"}] * count),
            "timestamps": pa.array([{"price": AS_OF, "genres": AS_OF, "seen": AS_OF}] * count),
            "documents": pa.array([[]] * count, pa.list_(pa.string())),
            "target": pa.array(targets, pa.string()),
            "metadata": pa.array([{"label": row} for row in range(count)]),
            "error": pa.array(["no segment" if one is None else None for one in texts], pa.string()),
        }
    )


def written(name: str, path: Path, *batches: pa.RecordBatch) -> int:
    return exporters()[name].write(batches, batches[0].schema, path)


PLAIN = rows(['Dune? é\n"q"', None, "Alien?", 'Dune? é\n"q"', "Heat?"], ["Dune", "x", None, "Dune II", "Heat"])


@pytest.mark.parametrize("name", LINES)
def test_the_exact_bytes(name: str, tmp_path: Path) -> None:
    out = tmp_path / "evals.jsonl"
    assert written(name, out, PLAIN) == 4
    assert out.read_bytes() == (GOLDEN / f"{name}.jsonl").read_bytes()
    assert [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("name", LINES)
def test_how_rows_are_batched_does_not_show(name: str, tmp_path: Path) -> None:
    parts = [PLAIN.slice(0, 2), PLAIN.slice(2, 0), PLAIN.slice(2, 1), PLAIN.slice(3)]
    assert written(name, tmp_path / "evals.jsonl", *parts) == 4
    assert (tmp_path / "evals.jsonl").read_bytes() == (GOLDEN / f"{name}.jsonl").read_bytes()


def test_a_line_has_its_own_rows_prompt_and_target(tmp_path: Path) -> None:
    written("chat", tmp_path / "x.jsonl", PLAIN)
    lines = [json.loads(line)["messages"] for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [[one["content"] for one in line[1:]] for line in lines] == [
        ['Dune? é\n"q"', "Dune"], ["Alien?"], ['Dune? é\n"q"', "Dune II"], ["Heat?", "Heat"],
    ]  # fmt: skip
    assert pq.read_table(tmp_path / "x.index.parquet").column("id").to_pylist() == ["r0", "r2", "r3", "r4"]


def test_compressed_lines_are_the_same_lines(tmp_path: Path) -> None:
    for suffix in (".gz", ".zst"):
        written("chat", tmp_path / f"x.jsonl{suffix}", PLAIN)
        assert sorted(one.name for one in tmp_path.iterdir()) == ["x.index.parquet", f"x.jsonl{suffix}"]
        with pa.input_stream(str(tmp_path / f"x.jsonl{suffix}"), compression=CODECS[suffix]) as one:
            assert one.read() == (GOLDEN / "chat.jsonl").read_bytes()
        if suffix == ".gz":
            assert gzip.decompress((tmp_path / "x.jsonl.gz").read_bytes()) == (GOLDEN / "chat.jsonl").read_bytes()
        (tmp_path / f"x.jsonl{suffix}").unlink()


def test_hf_has_the_chat_lines_messages_and_no_empty_struct(tmp_path: Path) -> None:
    assert written("hf", tmp_path / "x.parquet", PLAIN) == 4
    table = pq.read_table(tmp_path / "x.parquet")
    chat = [json.loads(line)["messages"] for line in (GOLDEN / "chat.jsonl").read_text().splitlines()]
    assert table.column("messages").to_pylist() == chat
    assert not {"inputs", "prompt", "error"} & set(table.schema.names)


@pytest.mark.parametrize("hostile", ["file:///etc/passwd", "package:x", "a {{ env.KEY }}", "{% raw %}", "{# c #}"])
@pytest.mark.parametrize("place", ["prompt", "target"])
def test_promptfoo_refuses_what_it_would_expand(hostile: str, place: str, tmp_path: Path) -> None:
    texts: list[Any] = ["fine", None, hostile if place == "prompt" else "fine too"]
    bad = rows(texts, [None, None, hostile if place == "target" else "t"])
    with pytest.raises(RequestError, match=r"row 2: a text has .* promptfoo") as caught:
        written("promptfoo", tmp_path / "x.jsonl", bad)
    assert hostile not in str(caught.value)
    assert not list(tmp_path.iterdir())
    for other in ("chat", "inspect", "langfuse", "mlflow"):
        written(other, tmp_path / f"{other}.jsonl", bad)
        last = json.loads((tmp_path / f"{other}.jsonl").read_text().splitlines()[-1])
        assert hostile in json.dumps(last, ensure_ascii=False)


def test_an_empty_target_is_no_assertion_of_promptfoo(tmp_path: Path) -> None:
    written("promptfoo", tmp_path / "x.jsonl", rows(["a", "b", "c"], ["", None, " "]))
    asked = [json.loads(line).get("assert") for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert asked == [None, None, [{"type": "contains", "value": " "}]]


@pytest.mark.parametrize("name", ["inspect", "langfuse", "mlflow"])
def test_an_id_twice_is_refused_by_row(name: str, tmp_path: Path) -> None:
    first, second = rows(["a", "b"], [None, None], ["x", "y"]), rows(["c", "d"], [None, None], ["z", "x"])
    with pytest.raises(RequestError, match="row 3: its id is another row's too"):
        written(name, tmp_path / "x.jsonl", first, second)
    assert not list(tmp_path.iterdir())


def test_langfuse_refuses_an_id_it_has_no_room_for(tmp_path: Path) -> None:
    assert written("langfuse", tmp_path / "x.jsonl", rows(["a"], [None], ["i" * 255])) == 1
    with pytest.raises(RequestError, match="row 0: its id has 256 characters"):
        written("langfuse", tmp_path / "x.jsonl", rows(["a"], [None], ["i" * 256]))


def test_equal_prompts_stay_two_mlflow_records(tmp_path: Path) -> None:
    written("mlflow", tmp_path / "x.jsonl", rows(["a", "a"], ["t", "t"]))
    inputs = [json.loads(line)["inputs"] for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert inputs[0] != inputs[1]
    assert inputs[0]["messages"] == inputs[1]["messages"]


@pytest.mark.parametrize("format_", ["parquet", "chat", "hf", "inspect", "promptfoo", "langfuse", "mlflow"])
def test_views_of_text_and_of_bytes_are_written_in_more_than_one_batch(format_: str, tmp_path: Path) -> None:
    """Polars gives text so, and Parquet cannot write a piece of it."""
    root = make_project(tmp_path, segments=[segment("a", "x", at(1))])
    rows = 45_000
    spine = pa.table(
        {
            "user_id": pa.array(["a"] * rows, pa.string_view()),
            "event_timestamp": pa.array([at(2)] * rows, MOMENT),
            "note": pa.array([f"a note that is longer than twelve bytes {n}" for n in range(rows)], pa.string_view()),
        }
    )
    out = tmp_path / ("o.parquet" if format_ in ("parquet", "hf") else "o.jsonl")
    assert Project.load(root).history("home", spine).write(out, format_).rows == rows
    place = tmp_path / "o.index.parquet" if format_ == "chat" else out
    if place.suffix == ".parquet":
        made = pq.read_table(place).to_pylist()
        notes = [row["metadata"]["note"] if "metadata" in row else row["note"] for row in made]
        assert notes == spine.column("note").to_pylist()
