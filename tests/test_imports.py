"""What importing the package costs, and that its public names are what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import llmfeatures
from tests.projects import MOMENT, at, make_project, segment, watched

HEAVY = (
    *("duckdb", "pyarrow", "redis", "openai", "fastapi", "pandas"),
    *("psycopg", "qdrant_client", "pinecone", "weaviate", "onnxruntime", "mcp", "anthropic"),
)


def _fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_import_loads_nothing_heavy() -> None:
    loaded = _fresh(f"import llmfeatures, sys; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded == "[]"


def test_definitions_and_builders_load_nothing_heavy_either() -> None:
    code = (
        "from llmfeatures import *; import sys; "
        "Registry([FeatureView('v', Entity('u', join_key='k'), 'p', {'a': 'int'})]); "
        f"print([name for name in {HEAVY} if name in sys.modules and name not in ('pyarrow',)])"
    )
    assert _fresh(code) == "[]"


def test_a_project_that_serves_does_not_load_the_checker(tmp_path: Path) -> None:
    root = make_project(tmp_path, segments=[], counts=[])
    code = (
        "import sys; from llmfeatures import ContextBuilder, Project\n"
        f"Project.load({str(root)!r})\n"
        "print('llmfeatures.checking' in sys.modules or 'llmfeatures.checker.engine' in sys.modules)"
    )
    assert _fresh(code) == "False"


def test_public_names_are_all_there_and_sorted() -> None:
    names = [name for name in llmfeatures.__all__ if name != "__version__"]
    assert names == sorted(names)
    assert all(getattr(llmfeatures, name).__module__.startswith("llmfeatures.") for name in names)


def test_a_join_does_not_load_pandas(tmp_path: Path) -> None:
    """pyarrow loads it, where it is installed, to look at Python objects; that takes as long as a join of many rows."""
    root = make_project(tmp_path, segments=[segment("a", "x", at(1))], counts=[watched("a", 1, at(1))])
    rows = pa.table({"user_id": ["a", "a"], "event_timestamp": pa.array([at(2), at(3)], MOMENT)})
    pq.write_table(rows, tmp_path / "spine.parquet")
    code = (
        "import sys; from llmfeatures import Project\n"
        f"project, spine = Project.load({str(root)!r}), {str(tmp_path / 'spine.parquet')!r}\n"
        "list(project.get_historical_features(spine, ['segment', 'watched']))\n"
        "print('pandas' in sys.modules)"
    )
    assert _fresh(code) == "False"
