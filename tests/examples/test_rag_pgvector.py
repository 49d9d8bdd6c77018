"""The example that answers from documents in PostgreSQL, run as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.examples.conftest import ROOT
from tests.servers import postgres_server

QUESTIONS = ("Can I watch on a train?", "What do the plans for students cost?")


@pytest.mark.heavy
def test_it_answers_from_the_viewers_documents(tmp_path: Path, llmock: Any) -> None:
    shutil.copy(ROOT / "examples" / "rag_pgvector.py", tmp_path)
    llmock.reply("Yes.").reply("Half.").reply("Yes.")
    with postgres_server() as url:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMFEATURES_")}

        def run(*arguments: str) -> str:
            done = subprocess.run(
                [sys.executable, "-W", "error", "rag_pgvector.py", *arguments],
                cwd=tmp_path, capture_output=True, text=True, check=False, timeout=250,
                env={**environment, "LLMFEATURES_RETRIEVAL_URL": url},
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout

        one, two = run("8a2f", *QUESTIONS).splitlines()
        assert one.startswith("Yes.  [help/offline ")
        assert two.startswith("Half.  [help/plans ")
        other = run("b13c", QUESTIONS[0])  # what is there is not brought again
        assert "watched/s3" in other
        assert "watched/s1" in one
        assert not {"watched/s1", "watched/s2"} & set(other.split())
        with psycopg.connect(url) as connection:
            tables = connection.execute(
                "SELECT table_name FROM information_schema.columns WHERE udt_name = 'vector'"
            ).fetchall()
            assert len(tables) == 2
    first, second, third = [request.body["messages"] for request in llmock.requests]
    assert [each["role"] for each in first] == ["system", "user"]
    assert [each["role"] for each in second] == ["system", "user", "assistant", "user"]
    assert second[1:3] == [{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": "Yes."}]
    assert "last genre: thriller" in first[0]["content"]
    assert "last genre: nothing yet" in third[0]["content"]
    asked = first[-1]["content"]
    assert asked.startswith("<data-")
    assert asked.endswith(f"\n{QUESTIONS[0]}")
    assert "watch it without a connection" in asked
