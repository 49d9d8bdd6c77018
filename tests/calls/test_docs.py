"""The examples of docs/calls.md run, in order, against a model's server, and print what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
BLOCK = re.compile(r"^```\w+ (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REGISTRY = """from llmfeatures import Entity, FeatureView, Registry

user = Entity("user", join_key="user_id")
registry = Registry([FeatureView("segment", user, "segment.parquet", {"user_segment": "str"})])
"""


def test_the_page_shows_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llmock: Any) -> None:
    (tmp_path / "features.py").write_text(REGISTRY)
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "docs"\nregistry = "features.py"\n')
    (tmp_path / "prompts").mkdir()
    monkeypatch.chdir(tmp_path)
    for text in ("Solaris.", "The Twilight Zone.", "Paris, Texas."):
        llmock.reply(text)
    blocks = BLOCK.findall((ROOT / "docs" / "calls.md").read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "docs"}
    printed, shown = "", 0
    for label, text in blocks:
        if label in ("prompt", "question"):
            name = "guide" if label == "prompt" else "answer"
            (tmp_path / "prompts" / f"{name}.prompt.j2").write_text(text)
        elif label == "output":
            assert f"{printed.rstrip()}\n" == text
            shown += 1
        else:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, "calls.md", "exec"), names)
            printed = out.getvalue()
    assert shown == 4
    names["builder"].close()
    names["client"].close()


def test_the_page_names_every_example() -> None:
    page = (ROOT / "docs" / "calls.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\.\./examples/(\w+\.py)", page))
    assert linked
    assert all((ROOT / "examples" / name).is_file() for name in linked)
