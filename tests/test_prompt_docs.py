"""The examples of docs/budgets.md and docs/caching.md run and print what the pages show."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```\w+ (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REGISTRY = """from llmfeatures import Entity, FeatureView, Registry

user = Entity("user", join_key="user_id")
registry = Registry([FeatureView("segment", user, "segment.parquet", {"user_segment": "str"})])
"""


def printed(code: str) -> str:
    """What a block of Python prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "docs", "exec"), {"__name__": "docs"})
    return out.getvalue()


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prompts folder of an empty project, in the current folder."""
    (tmp_path / "features.py").write_text(REGISTRY)
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "docs"\nregistry = "features.py"\n')
    (tmp_path / "prompts").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "prompts"


@pytest.mark.parametrize(("page", "name"), [("budgets", "answer"), ("caching", "recommender")])
def test_the_page_shows_what_is_printed(prompts: Path, page: str, name: str) -> None:
    blocks = dict(BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")))
    path = prompts / f"{name}.prompt.j2"
    path.write_text(blocks["prompt"])
    assert printed(blocks["call"]) == blocks["output"]
    if "less" in blocks:
        path.write_text(blocks["prompt"].replace("max_tokens: 60", "max_tokens: 40"))
        assert printed(blocks["call"]) == blocks["less"]
