"""What `Project.check` says of retrievers: where their documents are, what they need, and their sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmfeatures import FunctionEmbedder, OnnxEmbedder, OpenAIEmbedder, Registry, Retriever
from llmfeatures.checker.options import CheckOptions
from llmfeatures.checking import ProjectCheck
from llmfeatures.config import find_config
from llmfeatures.embedding import onnx
from llmfeatures.errors import ConfigError, DefinitionError
from llmfeatures.project import Project
from tests.retrieval.online_project import USER

GOOD = {"id": "a", "text": "x", "user_id": "u", "valid_from": "2026-05-01T00:00:00Z"}


def problems(root: Path, one: Retriever, config: str = "") -> list[tuple[str, str, str]]:
    """Code, place and message of each error and warning about a registry of one retriever."""
    (root / "prompts").mkdir(exist_ok=True)
    (root / "llmfeatures.toml").write_text(f'[project]\nname = "checked"\nregistry = "features.py"\n{config}')
    project = Project(find_config(root), Registry([one]))
    return [(found.code, found.where, found.message) for found in project.check() if found.where.startswith("retr")]


def own(path: str = "docs.jsonl", **options: object) -> Retriever:
    """A retriever of users' documents by recency."""
    return Retriever("sessions", USER, path, **options)  # type: ignore[arg-type]


def embed(texts: list[str]) -> list[list[float]]:
    """Vectors."""
    return [[1.0, 0.0] for _ in texts]


def test_a_retriever_that_works_is_nothing_to_say(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text(json.dumps(GOOD))
    assert problems(tmp_path, own(embedder=FunctionEmbedder(embed, model="m", dimensions=2))) == []
    assert problems(tmp_path, Retriever("made", function=embed)) == []


def test_a_url_of_no_known_kind_is_said_at_the_retriever(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text(json.dumps(GOOD))
    ((code, where, message),) = problems(tmp_path, own(), '\n[retrieval]\nurl = "oracle://x"\n')
    assert (code, where) == ("LF005", "retriever sessions")
    assert "oracle" in message


def test_a_source_without_its_columns_is_said(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text(json.dumps({"id": "a", "body": "x", "user_id": "u"}))
    found = problems(tmp_path, own())
    assert {code for code, _, _ in found} == {"LF006"}
    assert any("text" in message for _, _, message in found)
    assert any("valid_from" in message for _, _, message in found)


def test_a_source_that_is_not_there_is_said(tmp_path: Path) -> None:
    ((code, where, message),) = problems(tmp_path, own("nothing.jsonl"))
    assert (code, where) == ("LF006", "retriever sessions")
    assert "there is no such file" in message


def test_an_extra_that_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs.jsonl").write_text(json.dumps(GOOD))
    real = onnx.find_spec
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxruntime" else real(name))
    found = problems(tmp_path, own(embedder=OnnxEmbedder()))
    assert [code for code, _, _ in found] == ["LF005"]
    assert "pip install 'llmfeatures[embeddings]'" in found[0][2]


def test_a_source_is_looked_at_again_when_it_changed(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "checked"\nregistry = "features.py"\n')
    file = tmp_path / "docs.jsonl"
    file.write_text(json.dumps({"id": "a"}))
    config = find_config(tmp_path)
    project = Project(config, Registry([own()]))

    def codes() -> set[str]:
        check = ProjectCheck(config=config, registry=project.registry, options=CheckOptions())
        return {one.code for one in check.findings(offline=lambda: project.offline) if "retriever" in one.path}

    assert codes() == {"LF006"}
    assert codes() == {"LF006"}
    file.write_text(json.dumps(GOOD))
    assert codes() == set()


def test_a_url_for_a_retriever_that_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text(json.dumps(GOOD))
    (tmp_path / "prompts").mkdir()
    text = '[project]\nname = "checked"\nregistry = "features.py"\n[retrieval]\nurls = {sesions = "embedded:x"}\n'
    (tmp_path / "llmfeatures.toml").write_text(text)
    found = [one for one in Project(find_config(tmp_path), Registry([own()])).check() if one.where == "[retrieval]"]
    assert [(one.code, one.severity) for one in found] == [("LF005", "error")]
    assert "urls names 'sesions', and the registry has no such retriever" in found[0].message
    assert "did you mean 'sessions'?" in found[0].message


def test_an_embedder_without_its_key_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs.jsonl").write_text(json.dumps(GOOD))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ((code, where, message),) = problems(tmp_path, own(embedder=OpenAIEmbedder("e", dimensions=2)))
    assert (code, where) == ("LF005", "retriever sessions")
    assert "set OPENAI_API_KEY" in message
    assert problems(tmp_path, own(embedder=OpenAIEmbedder("e", dimensions=2, base_url="http://h/v1"))) == []
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert problems(tmp_path, own(embedder=OpenAIEmbedder("e", dimensions=2))) == []


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("url = 5", "url: a URL is a text, such as"),
        ('urls = "x"', "urls: a table of retrievers and URLs, such as"),
        ("urls = {a = 5}", "urls: the URL of 'a' is no text"),
    ],
)
def test_what_is_no_url_is_said_in_our_words(tmp_path: Path, option: str, said: str) -> None:
    text = f'[project]\nname = "checked"\nregistry = "features.py"\n[retrieval]\n{option}\n'
    (tmp_path / "llmfeatures.toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"\[retrieval\] {said}"):
        find_config(tmp_path)


def test_a_definition_that_is_nearly_right_says_what_to_write() -> None:
    with pytest.raises(DefinitionError, match="entity is an Entity, or None for documents that are for all"):
        Retriever("memos", "data/memos.jsonl")  # type: ignore[arg-type]
    with pytest.raises(
        DefinitionError, match=r"retriever 'sessions': an embedder is OnnxEmbedder\(\).*in YAML \{onnx: null\}"
    ):
        own(embedder="onnx")
