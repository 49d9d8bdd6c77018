"""What importing the package costs, and that its public names are what it says."""

from __future__ import annotations

import subprocess
import sys

import llmfeatures

HEAVY = ("duckdb", "pyarrow", "redis", "openai", "fastapi", "pandas")


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


def test_public_names_are_all_there_and_sorted() -> None:
    names = [name for name in llmfeatures.__all__ if name != "__version__"]
    assert names == sorted(names)
    assert all(getattr(llmfeatures, name).__module__.startswith("llmfeatures.") for name in names)
