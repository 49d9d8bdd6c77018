"""The sample project with a copy of an example in it, and a model's server, as a user would have them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import Project, PromptContext

ROOT = Path(__file__).parent.parent.parent
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample project, online."""
    root = tmp_path_factory.mktemp("sample")
    shutil.copytree(ROOT / "prompts", root / "prompts")
    (root / "data").mkdir()
    for path in (ROOT / "data").glob("*.parquet"):
        shutil.copy(path, root / "data")
    shutil.copy(ROOT / "examples" / "streaming" / "features.py", root / "features.py")
    (root / "llmfeatures.toml").write_text(
        '[project]\nname = "sample"\nregistry = "features.py"\nnow = "2026-05-07T23:00:00Z"\n[online]\ntimeout = "5s"\n'
    )
    project = Project.load(root)
    project.materialize()
    project.close()
    return root


@pytest.fixture
def sample(sample_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the present folder."""
    for name in [name for name in os.environ if name.startswith("LLMFEATURES_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(sample_folder)
    return sample_folder


@pytest.fixture
def context(sample: Path) -> PromptContext:
    """The recommender's context of the viewer whom the examples take."""
    builder = Project.load(sample).builder()
    made = builder.build_context("recommender", user_id="8a2f")
    builder.close()
    return made


@pytest.fixture
def run(sample: Path) -> Run:
    """Runs an example, copied into the project."""

    def start(name: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        shutil.copy(ROOT / "examples" / name, sample / name)
        return subprocess.run(
            [sys.executable, "-W", "error", name, *arguments],
            cwd=sample, capture_output=True, text=True, check=False, timeout=500, **options,
        )  # fmt: skip

    return start
