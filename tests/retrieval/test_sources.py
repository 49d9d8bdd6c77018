"""Sources of documents: what is read of files, when each version is valid, and what is refused."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures import DocumentSource, Entity, Retriever
from llmfeatures.clock import iso, microseconds
from llmfeatures.errors import SourceError
from llmfeatures.offline.duckdb import DuckDBStore
from llmfeatures.ports import ALWAYS, FOREVER, DocumentSources, SourceDocument
from llmfeatures.types import json_text
from tests.projects import MOMENT, at

USER = Entity("user", join_key="user_id")
PAIR = Entity("seat", join_keys={"hall": "str", "seat": "int"})
METADATA = {
    "genre": "enum[drama,noir]",
    "stars": "int",
    "weight": "float",
    "pinned": "bool",
    "seen": "timestamp",
    "day": "date",
    "price": "decimal(6,2)",
    "words": "list[str]",
    "more": "json",
}
ARROW = {
    "genre": pa.string(),
    "stars": pa.int32(),
    "weight": pa.float64(),
    "pinned": pa.bool_(),
    "seen": pa.timestamp("ns"),
    "day": pa.date32(),
    "price": pa.decimal128(6, 2),
    "words": pa.list_(pa.string()),
    "more": pa.string(),
}


def read(root: Path, retriever: Retriever) -> list[SourceDocument]:
    store = DuckDBStore(root)
    try:
        assert isinstance(store, DocumentSources)
        assert store.check_documents(retriever) == []
        with store.documents(retriever) as found:
            made = [one for batch in found.batches() for one in batch]
            assert found.versions == len(made)
            assert found.documents == len({(one.entity, one.id) for one in made})
            return made
    finally:
        store.close()


def refused(root: Path, retriever: Retriever) -> str:
    store = DuckDBStore(root)
    try:
        with pytest.raises(SourceError) as error, store.documents(retriever):
            pass
        return str(error.value)
    finally:
        store.close()


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zst":
        path.write_bytes(pa.compress(data, "zstd", asbytes=True))
    else:
        path.write_bytes(data)


ROW = {
    "id": "a",
    "text": "A text\nof lines",
    "user_id": "u1",
    "valid_from": at(1),
    "valid_to": at(3),
    "genre": "noir",
    "stars": -4,
    "weight": 0.1,
    "pinned": True,
    "seen": datetime(2026, 5, 1, 12, 30, 0, 1, tzinfo=UTC),
    "day": date(2026, 5, 1),
    "price": Decimal("12.30"),
    "words": ["x", "y"],
    "more": '{"b": 1, "a": [null]}',
}
BARE = {"id": "b", "text": "", "user_id": "u1", "valid_from": at(2)}
KEPT = {
    "genre": "noir",
    "stars": -4,
    "weight": 0.1,
    "pinned": True,
    "seen": "2026-05-01T12:30:00.000001Z",
    "day": "2026-05-01",
    "price": "12.30",
    "words": ["x", "y"],
    "more": {"a": [None], "b": 1},
}


def in_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, (date, Decimal)):
        return str(value)
    return value


def test_parquet_and_lines_give_the_same(tmp_path: Path) -> None:
    names = ["id", "text", "user_id", "valid_from", "valid_to", *METADATA]
    types = {"valid_from": MOMENT, "valid_to": pa.timestamp("ms"), **ARROW}
    table = pa.table(
        {name: pa.array([row.get(name) for row in (ROW, BARE)], types.get(name, pa.string())) for name in names}
    )
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "notes.parquet")
    lines = [{name: in_json(value) for name, value in row.items()} for row in (ROW, BARE)]
    lines[0]["more"] = json.loads(ROW["more"])  # type: ignore[arg-type]
    for name in ("notes.jsonl", "notes.ndjson", "notes.jsonl.gz", "notes.jsonl.zst"):
        write_lines(tmp_path / "data" / name, lines)
    made = [
        read(tmp_path, Retriever("notes", USER, DocumentSource(f"data/{name}", valid_to="valid_to"), metadata=METADATA))
        for name in ("notes.parquet", "notes.jsonl", "notes.ndjson", "notes.jsonl.gz", "notes.jsonl.zst")
    ]
    assert all(one == made[0] for one in made[1:])
    first, second = made[0]
    assert (first.entity, first.id, first.text, dict(first.metadata)) == ("user_id:u1", "a", ROW["text"], KEPT)
    assert (first.valid_from, first.valid_to) == (microseconds(at(1)), microseconds(at(3)))
    assert (second.text, dict(second.metadata), second.valid_to) == ("", dict.fromkeys(METADATA), FOREVER)
    assert first.version != second.version


def test_a_folder_or_a_glob_is_all_its_files(tmp_path: Path) -> None:
    for number in range(3):
        write_lines(tmp_path / "docs" / f"{number}.jsonl", [{**BARE, "id": f"{number}", "valid_from": iso(at(1))}])
    (tmp_path / "docs" / "readme.txt").write_text("no documents")
    assert [one.id for one in read(tmp_path, Retriever("n", USER, "docs"))] == ["0", "1", "2"]
    assert [one.id for one in read(tmp_path, Retriever("n", USER, "docs/[12].jsonl"))] == ["1", "2"]


def test_columns_are_renamed_and_several_join_keys_are_typed(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "d.jsonl",
        [{"name": "a", "body": "t", "h": "x:y", "seat": 7, "from": "2026-05-01", "g": "noir", "extra": 1}],
    )
    source = DocumentSource(
        "d.jsonl", id="doc", text="body", columns={"name": "doc", "h": "hall", "from": "valid_from", "g": "genre"}
    )
    (one,) = read(tmp_path, Retriever("n", PAIR, source, metadata={"genre": "str"}))
    assert (one.entity, one.id, dict(one.metadata)) == ("hall:x%3Ay:seat:7", "a", {"genre": "noir"})


def test_without_valid_from_documents_were_always_there(tmp_path: Path) -> None:
    write_lines(tmp_path / "d.jsonl", [{"id": "a", "text": "t"}, {"id": "b", "text": "t"}])
    made = read(tmp_path, Retriever("n", None, DocumentSource("d.jsonl", valid_from=None)))
    assert [(one.entity, one.valid_from, one.valid_to) for one in made] == [("", ALWAYS, FOREVER)] * 2


def test_dates_are_moments_too_and_bounds_are_those_of_json_numbers(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["a", "b"],
            "text": ["t", "t"],
            "valid_from": pa.array([date(2026, 5, 1), date(1, 1, 1)], pa.date32()),
            "valid_to": pa.array([date(9999, 1, 1), None], pa.date32()),
        }
    )
    pq.write_table(table, tmp_path / "d.parquet")
    first, second = read(tmp_path, Retriever("n", None, DocumentSource("d.parquet", valid_to="valid_to")))
    assert (first.valid_from, first.valid_to) == (microseconds(datetime(2026, 5, 1, tzinfo=UTC)), FOREVER)
    assert second.valid_from == ALWAYS


def test_of_two_rows_at_one_moment_the_greater_canonical_json_counts(tmp_path: Path) -> None:
    rows = [{**BARE, "text": text, "valid_from": iso(at(1)), "stars": stars} for text, stars in
            [("a", 9), ("b", 10), ("b", 9), ("B", 99)]]  # fmt: skip
    for order in (rows, rows[::-1]):
        write_lines(tmp_path / "d.jsonl", order)
        (one,) = read(tmp_path, Retriever("n", USER, "d.jsonl", metadata={"stars": "int"}))
        assert (one.text, one.metadata["stars"]) == ("b", 9), '"9" sorts after "10"'


MINUTES = st.integers(0, 8)


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"), st.sampled_from("xy"), MINUTES, st.none() | st.integers(1, 9), st.sampled_from("pq")
        ),
        max_size=14,
    )
)
def test_at_most_one_version_is_valid_at_any_moment(rows: list[tuple[str, str, int, int | None, str]]) -> None:
    begun = datetime(2026, 5, 1, tzinfo=UTC)
    made = [
        {
            "user_id": user,
            "id": name,
            "text": text,
            "valid_from": iso(begun + timedelta(minutes=start)),
            "valid_to": None if length is None else iso(begun + timedelta(minutes=start + length)),
        }
        for user, name, start, length, text in rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_lines(Path(folder) / "d.jsonl", made)
        retriever = Retriever("n", USER, DocumentSource("d.jsonl", valid_to="valid_to"))
        found = read(Path(folder), retriever)
    for minute in range(-1, 19):
        moment = microseconds(begun + timedelta(minutes=minute))
        expected: dict[tuple[str, str], str] = {}
        for user, name in {(row[0], row[1]) for row in rows}:
            started = [row for row in rows if row[:2] == (user, name) and row[2] <= minute]
            if started:
                newest = max(row[2] for row in started)

                def canonical(row: tuple[str, str, int, int | None, str]) -> bytes:
                    ends = FOREVER if row[3] is None else microseconds(begun + timedelta(minutes=row[2] + row[3]))
                    return json_text([row[4], {}, ends]).encode()

                row = max((row for row in started if row[2] == newest), key=canonical)
                if row[3] is None or minute < row[2] + row[3]:
                    expected[f"user_id:{user}", name] = row[4]
        visible = [one for one in found if one.valid_from <= moment < one.valid_to]
        assert {(one.entity, one.id): one.text for one in visible} == expected
        assert len(visible) == len(expected)


GOOD = {"id": "a", "text": "t", "user_id": "u", "valid_from": "2026-05-01T00:00Z", "stars": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": None}, "line 3 of d.jsonl, column 'id': null, or not there"),
        ({"text": None}, "line 3 of d.jsonl, column 'text': null"),
        ({"user_id": None}, "line 3 of d.jsonl, column 'user_id': null"),
        ({"valid_from": None}, "line 3 of d.jsonl, column 'valid_from': null is no moment"),
        ({"id": 7}, "column 'id': an int is no str"),
        ({"user_id": 7}, "column 'user_id': an int is no str"),
        ({"stars": 1.5}, "column 'stars': a float is no int"),
        ({"stars": True}, "column 'stars': a bool is no int"),
        ({"valid_from": "yesterday"}, "column 'valid_from': not an ISO 8601"),
        ({"valid_from": "2300-01-01"}, "column 'valid_from': it lies after the year 2255"),
        ({"valid_to": "2026-05-01T00:00Z"}, "column 'valid_to': it does not lie after valid_from"),
        ({"valid_to": "2026-04-01"}, "column 'valid_to': it does not lie after valid_from"),
    ],
)
def test_a_bad_row_is_named_and_shows_no_value(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_lines(tmp_path / "d.jsonl", [GOOD, {**GOOD, "id": "b"}, {**GOOD, "id": "c", **change}])
    retriever = Retriever("notes", USER, DocumentSource("d.jsonl", valid_to="valid_to"), metadata={"stars": "int"})
    message = refused(tmp_path, retriever)
    assert message.startswith("retriever 'notes' (d.jsonl): ")
    assert said in message
    assert "yesterday" not in message


def test_lines_that_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    good = json.dumps(GOOD)
    for line, said in (("{", "line 4 of d.jsonl is no JSON"), ("[1]", "line 4 of d.jsonl is no JSON object")):
        path.write_text(f"{good}\n\n{good}\n{line}\n")
        assert said in refused(tmp_path, Retriever("n", USER, "d.jsonl"))
    path.write_text(f"\n{good}\n\n  \n{json.dumps({**GOOD, 'id': None})}\n")
    assert "line 5 of d.jsonl, column 'id'" in refused(tmp_path, Retriever("n", USER, "d.jsonl"))


def test_a_bad_row_of_parquet_is_named_by_its_number(tmp_path: Path) -> None:
    count = 9_000
    table = {
        "id": [f"{number}" for number in range(count)],
        "text": ["t"] * count,
        "valid_from": pa.array([at(1)] * count, MOMENT),
        "genre": ["drama"] * (count - 1) + ["comedy"],
    }
    pq.write_table(pa.table(table), tmp_path / "d.parquet")
    message = refused(tmp_path, Retriever("n", None, "d.parquet", metadata={"genre": "enum[drama,noir]"}))
    assert "row 9000 of d.parquet, column 'genre': a word that" in message
    table["genre"] = ["drama"] * count
    table["id"][8_500] = None
    pq.write_table(pa.table(table), tmp_path / "d.parquet")
    message = refused(tmp_path, Retriever("n", None, "d.parquet", metadata={"genre": "enum[drama,noir]"}))
    assert "row 8501 of d.parquet, column 'id': null" in message


def test_what_check_finds_without_reading_rows(tmp_path: Path) -> None:
    def problems(retriever: Retriever) -> list[str]:
        store = DuckDBStore(tmp_path)
        try:
            return store.check_documents(retriever)
        finally:
            store.close()

    (tmp_path / "data").mkdir()
    pq.write_table(
        pa.table({"id": [1], "text": ["t"], "userid": ["u"], "stars": [1.5]}), tmp_path / "data" / "notes.parquet"
    )
    found = problems(
        Retriever(
            "notes", USER, DocumentSource("data/notes.parquet", columns={"uid": "user_id"}), metadata={"stars": "int"}
        )
    )
    text = "\n".join(found)
    for said in (
        "column 'id' (id): a column of type int64 is no str",
        "the rename of 'uid' names a column that is not there",
        "there is no column 'uid' (join key 'user_id')",
        "there is no column 'valid_from' (valid_from)",
        "valid_from=None where all were always there",
        "column 'stars' (metadata 'stars'): a column of type double is no int",
    ):
        assert said in text
    assert len(found) == 6 - 1
    assert "SqlSource" not in text
    assert "no such file" in problems(Retriever("n", USER, "data/note.parquet"))[0]
    assert "'notes.parquet'" in problems(Retriever("n", USER, "data/note.parquet"))[0]
    assert "no file matches" in problems(Retriever("n", USER, "data/*.jsonl"))[0]
    assert "not from URLs" in problems(Retriever("n", USER, "s3://bucket/notes.parquet"))[0]
    (tmp_path / "data" / "notes.csv").write_text("id,text\n")
    assert "is a .parquet, .jsonl or .ndjson file" in problems(Retriever("n", USER, "data/notes.csv"))[0]
    (tmp_path / "empty").mkdir()
    assert "the folder has no" in problems(Retriever("n", USER, "empty"))[0]
    (tmp_path / "data" / "bad.parquet").write_bytes(b"no parquet")
    assert "bad.parquet cannot be read" in problems(Retriever("n", USER, "data/bad.parquet"))[0]
    (tmp_path / "data" / "bad.jsonl.gz").write_bytes(b"no gzip")
    assert "bad.jsonl.gz cannot be read" in problems(Retriever("n", USER, "data/bad.jsonl.gz"))[0]
    write_lines(tmp_path / "data" / "n.jsonl", [{"id": "a", "txt": "t", "user_id": "u", "valid_from": "2026-05-01"}])
    assert "there is no column 'text' (text); did you mean 'txt'" in problems(Retriever("n", USER, "data/n.jsonl"))[0]


def test_valid_to_is_taken_where_it_is_there(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "x", "valid_from": iso(at(1)), "valid_to": iso(at(3))}]
    rows.append({"id": "b", "text": "y", "valid_from": iso(at(1))})
    write_lines(tmp_path / "some.jsonl", rows)
    write_lines(tmp_path / "none.jsonl", rows[1:])
    table = pa.table({name: [row.get(name) for row in rows] for name in rows[0]})
    for name in ("valid_from", "valid_to"):
        stamps = pa.array([None if (one := row.get(name)) is None else datetime.fromisoformat(one) for row in rows])
        table = table.set_column(table.schema.get_field_index(name), name, stamps)
    pq.write_table(table, tmp_path / "some.parquet")
    pq.write_table(table.slice(1).drop_columns(["valid_to"]), tmp_path / "none.parquet")
    for kind in ("jsonl", "parquet"):
        found = read(tmp_path, Retriever("n", None, f"some.{kind}"))
        assert [one.valid_to for one in found] == [microseconds(at(3)), FOREVER]
        found = read(tmp_path, Retriever("n", None, DocumentSource(f"some.{kind}", valid_to=None)))
        assert [one.valid_to for one in found] == [FOREVER, FOREVER]
        assert [one.valid_to for one in read(tmp_path, Retriever("n", None, f"none.{kind}"))] == [FOREVER]
        found = read(tmp_path, Retriever("n", None, DocumentSource(f"some.{kind}", valid_from=None)))
        assert [one.valid_to for one in found] == [FOREVER, FOREVER]
        named = Retriever("n", None, DocumentSource(f"some.{kind}", valid_to="gone"))
        assert "'gone' (valid_to)" in refused(tmp_path, named)
        store = DuckDBStore(tmp_path)
        assert any("'gone' (valid_to)" in one for one in store.check_documents(named))
        store.close()
        renamed = DocumentSource(f"none.{kind}", columns={"ended": "valid_to"})
        assert "'ended' (valid_to)" in refused(tmp_path, Retriever("n", None, renamed))
    assert DocumentSource("x", valid_from=None).valid_to is None


def test_valid_to_of_one_file_of_several(tmp_path: Path) -> None:
    row = {"text": "x", "valid_from": iso(at(1))}
    write_lines(tmp_path / "d" / "1.jsonl", [{"id": "a", **row}])
    write_lines(tmp_path / "d" / "2.jsonl", [{"id": "b", **row, "valid_to": iso(at(3)), "gone": iso(at(4))}])
    assert [one.valid_to for one in read(tmp_path, Retriever("n", None, "d"))] == [FOREVER, microseconds(at(3))]
    found = read(tmp_path, Retriever("n", None, DocumentSource("d", valid_to="gone")))
    assert [one.valid_to for one in found] == [FOREVER, microseconds(at(4))]


def test_lines_with_a_byte_order_mark_and_in_other_encodings(tmp_path: Path) -> None:
    line = json.dumps({"id": "é", "text": "è", "valid_from": iso(at(1))}, ensure_ascii=False)
    (tmp_path / "d.jsonl").write_text(line, encoding="utf-8-sig")
    assert [one.id for one in read(tmp_path, Retriever("n", None, "d.jsonl"))] == ["é"]
    for encoding in ("latin-1", "utf-16", "utf-16-le"):
        (tmp_path / "d.jsonl").write_text(line, encoding=encoding)
        assert "line 1 of d.jsonl is not in UTF-8" in refused(tmp_path, Retriever("n", None, "d.jsonl"))


def test_an_empty_id_is_refused_and_an_empty_join_key_is_one(tmp_path: Path) -> None:
    good = {"id": "a", "user_id": "u", "text": "", "valid_from": iso(at(1))}
    write_lines(tmp_path / "d.jsonl", [good, {**good, "id": ""}])
    assert "line 2 of d.jsonl, column 'id': an empty text, which names nothing" in refused(
        tmp_path, Retriever("n", USER, "d.jsonl")
    )
    write_lines(tmp_path / "d.jsonl", [good, {**good, "user_id": ""}])
    assert [one.entity for one in read(tmp_path, Retriever("n", USER, "d.jsonl"))] == ["user_id:", "user_id:u"]
