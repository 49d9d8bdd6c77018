"""The examples of docs/documents.md about history, in the project of the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmfeatures.cli.app import run
from tests.retrieval.test_online_docs import BLOCKS, PAGE, folder, ran

__all__ = ["folder"]


def test_history_as_the_page_has_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran(BLOCKS["call"])
    assert ran(BLOCKS["history"]) == BLOCKS["rows"]
    since = ["--since", "2026-05-03T00:00Z", "--until", "2026-05-08T00:00Z"]
    assert run(["context", "answer", "user_id=8a2f", "question=Is there more about space?", "--timeline", *since]) == 0
    assert "document s1 is there" in capsys.readouterr().out


def test_the_tiers_are_those_of_the_registry() -> None:
    from llmfeatures.retriever import TIERS

    table = PAGE.split("## In history")[1].split("To take what is there now")[0]
    assert [tier for tier in TIERS if f"| `{tier}` |" in table] == list(TIERS)
