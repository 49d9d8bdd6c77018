"""The tools themselves load what is written, plain values and hostile ones."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmfeatures.errors import RequestError
from tests.export.consumers import consumer, promptfoo
from tests.export.test_formats import AS_OF, PLAIN, rows, written

# installing promptfoo may take minutes
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

REFUSED = ["file:///etc/passwd", "package:x:y", "a {{ env.HOME }}", "{% raw %}", "{# c #}"]
"""What promptfoo would expand, read or run, so that it is refused there. All other tools take it as it is."""
AWKWARD = [
    "see file://etc/passwd", "{ { not } }", "${HOME} $HOME `id` <%= 1 %>", '["a", "b"]', '{"a": 1}', "007", "null", "",
    "true", "- a\n- b", "a\r\n\tb\u2028c", "'\"\\", "é漢😀", "https://x.invalid/a.png",
    "data:image/png;base64,AAAA", "word " * 14_000,
]  # fmt: skip
"""What every tool takes as it is."""


def with_values(values: list[str]) -> pa.RecordBatch:
    """A row per value, which has it as message, target, feature and metadata, alone and in a list."""
    batch = rows(list(values), list(values))
    inner = pa.struct([("note", pa.string()), ("tags", pa.list_(pa.string()))])
    features = pa.struct([("note", pa.string()), ("genres", pa.list_(pa.string())), ("price", pa.decimal128(9, 2))])
    made = [{"note": one, "genres": [one, one], "price": Decimal("1.50")} for one in values]
    columns = {
        "features": pa.array(made, features),
        "metadata": pa.array([{"note": one, "tags": [one, "b"]} for one in values], inner),
    }
    arrays = [columns.get(name, batch.column(name)) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


HOSTILE = with_values(REFUSED + AWKWARD)
BOTH = pytest.mark.parametrize("batch", [PLAIN, HOSTILE], ids=["plain", "hostile"])


def kept(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows with a prompt."""
    return [row for row in batch.to_pylist() if row["messages"] is not None]


def chats(batch: pa.RecordBatch) -> list[list[tuple[str, str]]]:
    return [pairs(row["messages"]) for row in kept(batch)]


def pairs(messages: Any) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in messages]


def answered(batch: pa.RecordBatch) -> list[list[tuple[str, str]]]:
    answers = [[] if row["target"] is None else [("assistant", row["target"])] for row in kept(batch)]
    return [chat + answer for chat, answer in zip(chats(batch), answers, strict=True)]


def column(batch: pa.RecordBatch, name: str) -> list[Any]:
    return [row[name] for row in kept(batch)]


def noted(batch: pa.RecordBatch, name: str) -> list[Any]:
    """Features or metadata as JSON has them."""
    return [json.loads(json.dumps(one, default=as_json)) for one in column(batch, name)]


def as_json(value: Any) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else value.isoformat().replace("+00:00", "Z")


def lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


@BOTH
def test_openai_types_take_the_chats(batch: pa.RecordBatch, tmp_path: Path) -> None:
    from openai.types import chat
    from pydantic import TypeAdapter

    written("chat", tmp_path / "x.jsonl", batch)
    adapter = TypeAdapter(list[chat.ChatCompletionMessageParam])
    found = [[dict(one) for one in adapter.validate_python(line["messages"])] for line in lines(tmp_path / "x.jsonl")]
    assert [pairs(one) for one in found] == answered(batch)
    with pytest.raises(ValueError, match="validation"):
        adapter.validate_python([{"role": "nobody"}])


@BOTH
def test_inspect_loads_samples(batch: pa.RecordBatch, tmp_path: Path) -> None:
    dataset = consumer("inspect_ai.dataset")
    written("inspect", tmp_path / "x.jsonl", batch)
    samples = list(dataset.json_dataset(str(tmp_path / "x.jsonl")))
    assert [one.id for one in samples] == column(batch, "id")
    assert [[(message.role, message.text) for message in one.input] for one in samples] == chats(batch)
    assert [one.target for one in samples] == [one or "" for one in column(batch, "target")]
    assert [one.metadata["features"] for one in samples] == noted(batch, "features")
    assert [one.metadata["metadata"] for one in samples] == noted(batch, "metadata")
    assert {one.metadata["as_of"] for one in samples} == {"2026-05-05T12:00:00Z"}


@BOTH
def test_datasets_load_conversations_for_training(
    batch: pa.RecordBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = consumer("datasets")
    written("hf", tmp_path / "x.parquet", batch)
    written("chat", tmp_path / "x.jsonl", batch)
    message = {"role": datasets.Value("string"), "content": datasets.Value("string")}
    for kind, name in (("parquet", "x.parquet"), ("json", "x.jsonl")):
        loaded = datasets.load_dataset(
            kind, data_files=str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert loaded.features["messages"] == datasets.List(message)
        # of the columns by which TRL knows a dataset's type there is this one only, and the first message has a role
        # and a content: a conversational dataset for language modelling
        assert {"prompt", "completion", "chosen", "rejected", "label", "messages"} & set(loaded.features) == {
            "messages"
        }
        assert [pairs(row["messages"]) for row in loaded] == answered(batch)
        assert {one["role"] for row in loaded for one in row["messages"]} <= {"system", "user", "assistant"}
    known = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "x.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert known.features["target"] == datasets.Value("string")
    assert known["target"][:] == column(batch, "target")
    assert known["features"][:] == column(batch, "features")
    assert set(known["as_of"][:]) == {AS_OF}


@BOTH
def test_langfuse_takes_each_request(batch: pa.RecordBatch, tmp_path: Path) -> None:
    api = consumer("langfuse.api")
    written("langfuse", tmp_path / "x.jsonl", batch)
    from langfuse.api.core.serialization import convert_and_respect_annotation_metadata as read

    kind = api.CreateDatasetItemRequest
    sent = [read(object_=line, annotation=kind, direction="read") for line in lines(tmp_path / "x.jsonl")]
    made = [kind.model_validate(line) for line in sent]
    assert [one.id for one in made] == column(batch, "id")
    assert [pairs(one.input["messages"]) for one in made] == chats(batch)
    assert [one.expected_output for one in made] == column(batch, "target")
    assert [one.metadata["features"] for one in made] == noted(batch, "features")
    assert [one.metadata["metadata"] for one in made] == noted(batch, "metadata")
    assert {(one.dataset_name, one.status) for one in made} == {("x", api.DatasetStatus.ACTIVE)}


@BOTH
def test_mlflow_keeps_each_record(batch: pa.RecordBatch, tmp_path: Path) -> None:
    mlflow = consumer("mlflow")
    genai = consumer("mlflow.genai.datasets")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    written("mlflow", tmp_path / "x.jsonl", batch)
    dataset = genai.create_dataset(name="x")
    dataset.merge_records(lines(tmp_path / "x.jsonl"))
    dataset.merge_records(lines(tmp_path / "x.jsonl"))  # again: the same records
    frame = dataset.to_df()
    found = {one["id"]: row for row, one in enumerate(frame["inputs"])}
    assert len(frame) == len(found)
    order = [found[one] for one in column(batch, "id")]
    assert [pairs(frame["inputs"][row]["messages"]) for row in order] == chats(batch)
    expected = [(frame["expectations"][row] or {}).get("expected_response") for row in order]
    assert expected == column(batch, "target")
    about = [json.loads(frame["tags"][row]["about"]) for row in order]
    assert [one["features"] for one in about] == noted(batch, "features")
    assert [one["metadata"] for one in about] == noted(batch, "metadata")


def evaluated(folder: Path) -> list[dict[str, Any]]:
    """What promptfoo's own provider ``echo`` got and answered, by test case."""
    config = "prompts: ['{{prompt}}']\nproviders: [echo]\ntests: file://x.jsonl\n"
    (folder / "promptfooconfig.yaml").write_text(config)
    done = promptfoo("eval", "--no-cache", "--no-table", "--output", "out.json", folder=folder)
    assert (folder / "out.json").exists(), done.stdout + done.stderr
    results = json.loads((folder / "out.json").read_text(encoding="utf-8"))["results"]["results"]
    return sorted(results, key=lambda one: one["testIdx"])


def test_promptfoo_sends_the_exact_messages_and_checks_the_targets(tmp_path: Path) -> None:
    written("promptfoo", tmp_path / "x.jsonl", PLAIN)
    sent = [line["vars"]["prompt"] for line in lines(tmp_path / "x.jsonl")]
    found = evaluated(tmp_path)
    assert [row["response"]["output"] for row in found] == sent
    assert [pairs(json.loads(one)) for one in sent] == chats(PLAIN)
    assert [row["success"] for row in found] == [True, True, False, True]
    assert [row["testCase"]["metadata"]["id"] for row in found] == ["r0", "r2", "r3", "r4"]


def recorded(value: Any) -> Any:
    """A value without the white space that promptfoo drops, in its record of a run only, from texts that are JSON."""
    if isinstance(value, dict):
        return {name: recorded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [recorded(one) for one in value]
    if isinstance(value, str) and value[:1] in {"[", "{"}:
        try:
            return json.dumps(json.loads(value), separators=(",", ":"))
        except ValueError:
            pass
    return value


def test_promptfoo_takes_awkward_values_as_they_are(tmp_path: Path) -> None:
    batch = with_values(AWKWARD)
    written("promptfoo", tmp_path / "x.jsonl", batch)
    sent = [line["vars"]["prompt"] for line in lines(tmp_path / "x.jsonl")]
    found = evaluated(tmp_path)
    assert [row["response"]["output"] for row in found] == sent
    assert [pairs(json.loads(one)) for one in sent] == chats(batch)
    metadata = [recorded(row["testCase"]["metadata"]) for row in found]
    assert [one["features"] for one in metadata] == recorded(noted(batch, "features"))
    assert [one["metadata"] for one in metadata] == recorded(noted(batch, "metadata"))
    targets = [[one["value"] for one in row["testCase"].get("assert", [])] for row in found]
    assert targets == recorded([[value] if value else [] for value in AWKWARD])


def test_promptfoo_would_misread_what_is_refused(tmp_path: Path) -> None:
    for row, value in enumerate(REFUSED):
        with pytest.raises(RequestError, match=f"row {row}: a text has .* promptfoo"):
            written("promptfoo", tmp_path / "x.jsonl", with_values(["fine"] * row + [value]))
    # the same texts as variables, had they been written
    cases = [{"vars": {"prompt": value}, "options": {"disableVarExpansion": True}} for value in REFUSED]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(one) + "\n" for one in cases))
    outputs = [(row.get("response") or {}).get("output") for row in evaluated(tmp_path)]
    assert all(output != value for output, value in zip(outputs, REFUSED, strict=True))
