"""The tools themselves load what is written. Each is skipped where the tool is not installed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.export.test_formats import PLAIN, written

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
PROMPTFOO = Path.home() / ".cache/llmfeatures-tests/node_modules/.bin/promptfoo"
"""Where `npm install --prefix ~/.cache/llmfeatures-tests promptfoo` puts it."""
CHATS = [
    [("system", "Be brief."), ("user", 'Dune? é\n"q"')],
    [("system", "Be brief."), ("user", "Alien?")],
    [("system", "Be brief."), ("user", 'Dune? é\n"q"')],
    [("system", "Be brief."), ("user", "Heat?")],
]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_openai_types_take_the_chats(tmp_path: Path) -> None:
    from openai.types import chat
    from pydantic import TypeAdapter

    written("chat", tmp_path / "x.jsonl", PLAIN)
    adapter = TypeAdapter(list[chat.ChatCompletionMessageParam])
    for line in lines(tmp_path / "x.jsonl"):
        assert [dict(one) for one in adapter.validate_python(line["messages"])] == line["messages"]
        with pytest.raises(ValueError, match="validation"):
            adapter.validate_python([{"role": "nobody"}])


def test_inspect_loads_samples(tmp_path: Path) -> None:
    dataset = pytest.importorskip("inspect_ai.dataset")
    written("inspect", tmp_path / "x.jsonl", PLAIN)
    samples = list(dataset.json_dataset(str(tmp_path / "x.jsonl")))
    assert [one.id for one in samples] == ["r0", "r2", "r3", "r4"]
    assert [[(message.role, message.text) for message in one.input] for one in samples] == CHATS
    assert [one.target for one in samples] == ["Dune", "", "Dune II", "Heat"]
    assert samples[0].metadata["features"]["price"] == "1.50"


def test_datasets_load_the_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    written("hf", tmp_path / "x.parquet", PLAIN)
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "x.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    answers = [[("assistant", "Dune")], [], [("assistant", "Dune II")], [("assistant", "Heat")]]
    found = [[(one["role"], one["content"]) for one in row["messages"]] for row in loaded]
    assert found == [chat + answer for chat, answer in zip(CHATS, answers, strict=True)]


def test_langfuse_takes_each_request(tmp_path: Path) -> None:
    api = pytest.importorskip("langfuse.api")
    written("langfuse", tmp_path / "x.jsonl", PLAIN)
    from langfuse.api.core.serialization import convert_and_respect_annotation_metadata as read

    kind = api.CreateDatasetItemRequest
    sent = [read(object_=line, annotation=kind, direction="read") for line in lines(tmp_path / "x.jsonl")]
    made = [kind.model_validate(line) for line in sent]
    assert [one.id for one in made] == ["r0", "r2", "r3", "r4"]
    assert [one.expected_output for one in made] == ["Dune", None, "Dune II", "Heat"]
    assert {one.dataset_name for one in made} == {"x"}


def test_mlflow_keeps_each_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    genai = pytest.importorskip("mlflow.genai.datasets")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    written("mlflow", tmp_path / "x.jsonl", PLAIN)
    dataset = genai.create_dataset(name="x")
    dataset.merge_records(lines(tmp_path / "x.jsonl"))
    frame = dataset.to_df()
    assert sorted(one["id"] for one in frame["inputs"]) == ["r0", "r2", "r3", "r4"]
    assert {one.get("expected_response") for one in frame["expectations"] if one} == {"Dune", "Dune II", "Heat"}


@pytest.mark.skipif(not PROMPTFOO.exists(), reason="promptfoo is not installed")
def test_promptfoo_sends_the_exact_messages_and_checks_the_targets(tmp_path: Path) -> None:
    written("promptfoo", tmp_path / "x.jsonl", PLAIN)
    config = "prompts: ['{{prompt}}']\nproviders: [echo]\ntests: file://x.jsonl\n"
    (tmp_path / "promptfooconfig.yaml").write_text(config)
    quiet = {"PROMPTFOO_CONFIG_DIR": str(tmp_path), "PROMPTFOO_DISABLE_TELEMETRY": "1", "PROMPTFOO_DISABLE_UPDATE": "1"}
    subprocess.run(
        [PROMPTFOO, "eval", "--no-cache", "-o", "out.json"], cwd=tmp_path, env={**os.environ, **quiet}, timeout=120,
        check=False,
    )  # fmt: skip
    results = json.loads((tmp_path / "out.json").read_text())["results"]["results"]
    found = sorted(results, key=lambda one: one["testIdx"])
    sent = [[(one["role"], one["content"]) for one in json.loads(row["response"]["output"])] for row in found]
    assert sent == CHATS
    assert [row["success"] for row in found] == [True, True, False, True]
    assert [row["testCase"]["metadata"]["id"] for row in found] == ["r0", "r2", "r3", "r4"]
