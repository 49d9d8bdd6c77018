"""Short memory and full disks: what is said names them, and blames no file of the user's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures.errors import SourceError
from llmfeatures.offline.duckdb import DuckDBStore
from llmfeatures.ports import Lookup
from llmfeatures.schema import Entity, FeatureView, ParquetSource, SqlSource

ROWS = 1_500_000
SETUP = """
import resource, signal, sys
from pathlib import Path
import pyarrow as pa
from llmfeatures.errors import SourceError
from llmfeatures.offline.duckdb import DuckDBStore
from tests.offline.test_shortage import LOOKUP, QUERIED, spine

root = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
spilled = root / "spilled"
spilled.mkdir()

def said(memory, given, lookup=LOOKUP):
    store = DuckDBStore(root, memory_limit=memory, threads=2, temp_directory=spilled)
    try:
        print(sum(batch.spine.num_rows for batch in store.join(given, [lookup], clock="known")))
    except SourceError as error:
        print(error)
    store.close()
    assert not list(spilled.iterdir())
"""
USER = Entity("user", join_keys={"user_id": "int"})
VIEW = FeatureView("big", USER, ParquetSource("big.parquet"), {"n": "int", "w": "str"})
LOOKUP = Lookup(view=VIEW, keys={"user_id": "user_id"}, features=("n", "w"))
QUERY = "SELECT * FROM 'big.parquet'"
QUERIED = Lookup(
    view=FeatureView("big", USER, SqlSource(QUERY, event_timestamp="event_timestamp"), {"n": "int", "w": "str"}),
    keys={"user_id": "user_id"},
    features=("n", "w"),
)


def spine(rows: int) -> pa.Table:
    """Rows of many users, each at its own moment."""
    numbers = pa.array(range(rows))
    return pa.table(
        {
            "user_id": pa.array([number * 7919 % 200_003 for number in range(rows)]),
            "event_timestamp": pa.array([1_777_000_000_000_000 + number for number in range(rows)]).cast(
                pa.timestamp("us", "UTC")
            ),
            "n": numbers,
        }
    )


def history(root: Path, rows: int) -> None:
    """The file of the views."""
    words = pa.array([f"word number {number}" for number in range(rows)])
    pq.write_table(spine(rows).append_column("w", words), root / "big.parquet")


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize(
    ("rows", "statement"),
    [
        (ROWS, "said('40MB', spine(400_000))"),
        (ROWS, "said('40MB', spine(400_000), QUERIED)"),
        (9, "said('40MB', spine(1_500_000))"),
        (9, "said('2GB', spine(1_500_000).to_reader(20_000))"),
    ],
    ids=["history", "query", "spine", "spooled spine"],
)
def test_a_full_disk_is_named(tmp_path: Path, rows: int, statement: str) -> None:
    history(tmp_path, rows)
    command = [sys.executable, "-c", f"{SETUP}{statement}", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"the temporary folder {tmp_path / 'spilled'} is full" in done.stdout
    assert "big.parquet cannot" not in done.stdout


def test_short_memory_is_named_when_the_spine_is_loaded(tmp_path: Path) -> None:
    history(tmp_path, 9)
    store = DuckDBStore(tmp_path, memory_limit="6MB", threads=2)
    given = spine(500_000)
    with pytest.raises(SourceError, match="raise memory_limit"):
        list(store.join(given, [LOOKUP], clock="known"))
    with pytest.raises(SourceError, match="raise memory_limit"):
        store.explain(given, [LOOKUP], clock="known")
    store.close()
