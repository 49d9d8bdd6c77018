"""Which files a view is read from: those that its source reads, and nothing else that it mentions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import Entity, FeatureView, ParquetSource, SqlSource
from llmfeatures.offline.versions import versions

USER = Entity("user", join_key="user_id")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project's folder with a few files; what is in them does not matter."""
    for name in ("data/a.parquet", "data/b.parquet", "data/it's.csv", "data/deep/c.parquet", "out.jsonl", "segment"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path


def found(root: Path, source: Any) -> list[str] | None:
    """The files, relative to the project, by name."""
    told = versions(root, FeatureView("x", USER, source, {"v": "str"}), None)
    return None if told is None else [str(Path(one.rsplit(" ", 2)[0]).relative_to(root)) for one in told]


@pytest.mark.parametrize(
    ("query", "files"),
    [
        ("SELECT * FROM 'data/a.parquet'", ["data/a.parquet"]),
        ("FROM \"data/a.parquet\" AS x JOIN 'data/b.parquet' USING (user_id)", ["data/a.parquet", "data/b.parquet"]),
        ("FROM 'data/a.parquet', 'data/b.parquet'", ["data/a.parquet", "data/b.parquet"]),
        ("FROM 'data/*.parquet'", ["data/a.parquet", "data/b.parquet"]),
        ("FROM read_parquet(['data/a.parquet', 'data/b.parquet'])", ["data/a.parquet", "data/b.parquet"]),
        ("FROM parquet_scan('data/**/c.parquet', filename=true)", ["data/deep/c.parquet"]),
        ("FROM read_csv('data/it''s.csv', delim='/', columns={'out.jsonl': 'VARCHAR'})", ["data/it's.csv"]),
        ("WITH t AS (FROM 'data/a.parquet') SELECT 'segment' AS v FROM t", ["data/a.parquet"]),
        ("FROM 'data/a.parquet' WHERE v IN (SELECT v FROM 'data/b.parquet')", ["data/a.parquet", "data/b.parquet"]),
        ("FROM (UNPIVOT 'data/a.parquet' ON a, b), range(3)", ["data/a.parquet"]),
        # what is only mentioned is not read
        ("SELECT split_part(v, '/', 1), replace(v, '*', '.') FROM 'data/a.parquet'", ["data/a.parquet"]),
        ("SELECT 'out.jsonl' AS v, '..' AS w FROM 'data/a.parquet' -- FROM 'data/b.parquet'", ["data/a.parquet"]),
        ("SELECT segment, \"segment\" FROM 'data/a.parquet'", ["data/a.parquet"]),
        # nobody can tell what these read
        ("SELECT 1 AS v", None),
        ("FROM elsewhere", None),
        ("FROM 'data/a.parquet' JOIN elsewhere USING (user_id)", None),
        ("FROM main.segment", None),
        ("FROM 'data/a.parquet' JOIN read_parquet('data/' || 'b.parquet') USING (user_id)", None),
        ("FROM read_parquet(getvariable('path'))", None),
        ("FROM query('FROM ''data/a.parquet''')", None),
        ("FROM glob('data/*')", None),
        ("FROM 's3://bucket/a.parquet'", None),
        ("FROM 'data/a.parquet' JOIN 'data/none.parquet' USING (user_id)", None),
        ("PIVOT 'data/a.parquet' ON a", None),
        ("FROM iceberg_scan('data')", None),
        ("this is no query", None),
        *((f"FROM read_csv('{path}')", None) for path in ("/", ".", "..", "*", "**", "./*", "/*", "../..")),
    ],
)
def test_the_files_of_a_query(root: Path, query: str, files: list[str] | None) -> None:
    assert found(root, SqlSource(query)) == files


def test_the_files_of_a_path(root: Path) -> None:
    assert found(root, ParquetSource("data")) == ["data/a.parquet", "data/b.parquet", "data/deep/c.parquet"]
    assert found(root, ParquetSource("data/[ab].parquet")) == ["data/a.parquet", "data/b.parquet"]
    assert found(root, ParquetSource("data/none.parquet")) is None
    assert found(root, ParquetSource("s3://bucket/a.parquet")) is None


def test_a_file_that_is_written_again_is_another_version(root: Path) -> None:
    view = FeatureView("x", USER, SqlSource("FROM 'data/a.parquet'"), {"v": "str"})
    before = versions(root, view, None)
    (root / "out.jsonl").write_text("an output of the last run")
    assert versions(root, view, None) == before
    os.utime(root / "data/a.parquet", ns=(1, 1))
    assert versions(root, view, None) != before


def test_a_file_that_cannot_be_looked_at_is_not_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it goes between the moment it is found and the moment it is looked at."""
    inner = Path.stat
    looked = 0

    def stat(self: Path, **options: Any) -> os.stat_result:
        nonlocal looked
        if self.name == "a.parquet":
            looked += 1
            if looked > 2:
                raise FileNotFoundError(self)
        return inner(self, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert found(root, SqlSource("FROM 'data/a.parquet'")) is None
