"""Embedders: a function, a real model in this process, and an endpoint that is not ours."""

# numpy's functions are partly typed
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llmock.scenarios import Delay, Fail
from llmock.testing import LLMockServer

from llmfeatures.config import find_config, open_embedder
from llmfeatures.embedding.cache import CachedEmbedder
from llmfeatures.embedding.function import FunctionModel
from llmfeatures.embedding.onnx import OnnxModel
from llmfeatures.embedding.openai import OpenAIModel
from llmfeatures.errors import ConfigError, FormatError, RetrieverError, RetrieverUnavailableError
from llmfeatures.retriever import FunctionEmbedder, OnnxEmbedder, OpenAIEmbedder
from llmfeatures.testing.embedder import EmbedderTests


def letters(texts: Sequence[str]) -> list[list[float]]:
    """How often each of eight letters is in a text."""
    return [[float(text.count(letter)) for letter in "abcdefgh"] for text in texts]


LETTERS = FunctionEmbedder(letters, model="letters", dimensions=8)


MINILM = OnnxModel(OnnxEmbedder(), Path())
"""Loaded when it is first used."""


class TestFunction(EmbedderTests):
    def open(self) -> FunctionModel:
        return FunctionModel(LETTERS)


@pytest.mark.heavy
class TestOnnx(EmbedderTests):
    """all-MiniLM-L6-v2 of the extra."""

    def open(self) -> OnnxModel:
        return OnnxModel(OnnxEmbedder(), Path())


class TestCached(EmbedderTests):
    @pytest.fixture(autouse=True)
    def _in_folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "state" / "embeddings.sqlite"

    def open(self) -> CachedEmbedder:
        return CachedEmbedder(FunctionModel(LETTERS), self.path)


@pytest.fixture(scope="module")
def server() -> Iterator[LLMockServer]:
    with LLMockServer() as running:
        yield running


class TestOpenAI(EmbedderTests):
    """The official client against llmock."""

    @pytest.fixture(autouse=True)
    def _at(self, server: LLMockServer) -> None:
        self.url = server.base_url("openai")

    def open(self) -> OpenAIModel:
        return OpenAIModel(OpenAIEmbedder("text-embedding-3-small", dimensions=1536, base_url=self.url, batch=4))


def test_a_model_knows_what_texts_mean() -> None:
    made = MINILM.embed(["how do I reset my password", "I forgot my login credentials", "bananas are yellow"])
    scores = made @ made.T
    assert scores[0, 1] > 0.45 > 0.25 > scores[0, 2]
    assert MINILM.dimensions == 384


def test_a_models_vectors_do_not_depend_on_their_neighbours_bytes() -> None:
    """Weights of int8 scale by the batch: the same text beside another would have another vector."""
    alone = MINILM.embed(["tiny"])[0].tobytes()
    assert MINILM.embed(["tiny", "a much longer text about everything " * 20, "x", "y", "z"])[0].tobytes() == alone


def test_texts_are_cut_to_max_tokens() -> None:
    short = OnnxModel(OnnxEmbedder(max_tokens=8), Path())
    assert np.array_equal(*short.embed(["one two three four five six seven eight nine", "one two three four five six"]))


def test_a_model_of_ones_own_is_a_folder(tmp_path: Path) -> None:
    model, words = MINILM._files  # pyright: ignore[reportPrivateUsage]
    own = OnnxEmbedder("models/mine", model="mine")
    with pytest.raises(ConfigError, match=r"no model.onnx and no tokenizer.json in .*models/mine"):
        OnnxModel(own, tmp_path)
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "model.onnx").symlink_to(model)
    (folder / "tokenizer.json").symlink_to(words)
    assert np.array_equal(OnnxModel(own, tmp_path).embed(["a b"]), MINILM.embed(["a b"]))
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").write_bytes(b"no model")
    with pytest.raises(RetrieverUnavailableError, match="cannot be loaded"):
        OnnxModel(own, tmp_path).embed(["a"])


def test_an_embedder_has_a_deadline() -> None:
    with pytest.raises(RetrieverUnavailableError, match="in time"):
        MINILM.embed(["a"], timeout=0.0)


def test_what_is_not_installed_is_said_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "t"\nregistry = "features.py"\n')
    config = find_config(tmp_path, {})
    monkeypatch.setattr("llmfeatures.embedding.onnx.find_spec", lambda name: None)
    monkeypatch.setattr("llmfeatures.embedding.openai.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"onnxruntime, tokenizers, .*llmfeatures\[embeddings\]"):
        open_embedder(config, OnnxEmbedder())
    with pytest.raises(ConfigError, match=r"needs openai; run pip install 'llmfeatures\[openai\]'"):
        open_embedder(config, OpenAIEmbedder("m", dimensions=3))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([[1.0, 2.0]], r"2 dimensions, and the registry says 3"),
        ([[1.0, 2.0, float("nan")]], "not finite"),
        ([[1.0, 2.0, float("inf")]], "not finite"),
        ([], "for 1 texts"),
        ([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], "2x3 numbers for 1 texts"),
        ([[1.0, 2.0, 3.0], [1.0]], "no vectors of numbers"),
        ([1.0, 2.0, 3.0], "3 numbers for 1 texts"),
        (["abc"], "no vectors of numbers"),
        (7, "a number for 1 texts"),
        (None, "returned None; a list with a vector for each text is wanted"),
    ],
)
def test_wrong_vectors_are_refused(made: Any, said: str) -> None:
    embedder = FunctionModel(FunctionEmbedder(lambda texts: made, model="odd", dimensions=3))
    with pytest.raises(RetrieverError, match=said) as refused:
        embedder.embed(["a secret"])
    assert "'odd'" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_function_that_fails_is_named_without_its_words() -> None:
    def fail(texts: Sequence[str]) -> Any:
        raise RuntimeError(texts[0])

    with pytest.raises(RetrieverError, match="RuntimeError") as refused:
        FunctionModel(FunctionEmbedder(fail, model="odd", dimensions=3)).embed(["a secret"])
    assert "secret" not in str(refused.value)


def test_vectors_of_any_size_get_unit_length_and_zero_stays_zero() -> None:
    sizes = [[3e300, 4e300], [3e-300, 4e-300], [0.0, 0.0], [-3.0, 4.0], [5e-324, 0.0]]
    made = FunctionModel(FunctionEmbedder(lambda texts: np.array(sizes), model="odd", dimensions=2)).embed(["x"] * 5)
    assert np.allclose(made, [[0.6, 0.8], [0.6, 0.8], [0.0, 0.0], [-0.6, 0.8], [1.0, 0.0]])


def endpoint(server: LLMockServer, **options: Any) -> OpenAIModel:
    server.state.reset()
    url = server.base_url("openai")
    return OpenAIModel(OpenAIEmbedder("text-embedding-3-small", dimensions=1536, base_url=url, **options))


def test_an_endpoint_is_asked_in_batches(server: LLMockServer) -> None:
    made = endpoint(server, batch=4).embed([f"text {number}" for number in range(9)])
    assert made.shape == (9, 1536)
    sent = [one.body for one in server.state.journal.records()]
    assert [len(one["input"]) for one in sent] == [4, 4, 1]
    assert {(one["model"], one["dimensions"], one["encoding_format"]) for one in sent} == {
        ("text-embedding-3-small", 1536, "float")
    }
    endpoint(server, shortens=False).embed(["a", ""])
    (asked,) = [one.body for one in server.state.journal.records()]
    assert (asked["input"], "dimensions" in asked) == (["a", " "], False)


def test_long_texts_go_in_several_requests(server: LLMockServer) -> None:
    endpoint(server).embed(["a" * 100_000] * 5)
    assert [len(one.body["input"]) for one in server.state.journal.records()] == [2, 2, 1]


def test_the_client_tries_again(server: LLMockServer) -> None:
    embedder = endpoint(server)
    server.state.scenarios.add(Fail(429, retry_after=0.01, times=2), Fail(503, times=1))
    assert embedder.embed(["a"]).shape == (1, 1536)
    assert len(server.state.journal.records()) == 4


@pytest.mark.parametrize(
    ("status", "code", "kind", "said"),
    [
        (401, "invalid_api_key", RetrieverUnavailableError, r"refuses the key in OPENAI_API_KEY \(HTTP 401"),
        (403, None, RetrieverUnavailableError, "refuses the key"),
        (429, "insufficient_quota", RetrieverUnavailableError, "does not answer now"),
        (503, None, RetrieverUnavailableError, "does not answer now"),
        (400, "context_length_exceeded", RetrieverError, "refuses the request.*context_length_exceeded"),
        (404, "model_not_found", RetrieverError, "refuses the request.*model_not_found"),
    ],
)
def test_an_endpoints_errors(
    server: LLMockServer, status: int, code: str | None, kind: type[RetrieverError], said: str
) -> None:
    embedder = endpoint(server)
    server.state.scenarios.add(Fail(status, code=code, message="no: a secret", retry_after=0.01, times=None))
    with pytest.raises(RetrieverError, match=said) as refused:
        embedder.embed(["a secret"], timeout=5)
    assert type(refused.value) is kind
    assert "secret" not in str(refused.value)
    assert "text-embedding-3-small" in str(refused.value)


def test_an_endpoint_that_is_late_or_gone(server: LLMockServer) -> None:
    embedder = endpoint(server)
    server.state.scenarios.add(Delay(1, times=None))
    with pytest.raises(RetrieverUnavailableError, match="in time"):
        embedder.embed(["a"], timeout=0.1)
    server.state.reset()
    with pytest.raises(RetrieverUnavailableError, match="in time"):
        embedder.embed(["a"], timeout=0.0)
    gone = OpenAIModel(OpenAIEmbedder("m", dimensions=3, base_url="http://127.0.0.1:9/v1"))
    with pytest.raises(RetrieverUnavailableError, match="cannot be reached"):
        gone.embed(["a"], timeout=5)


def test_an_endpoint_with_other_dimensions(server: LLMockServer) -> None:
    server.state.reset()
    embedder = OpenAIModel(OpenAIEmbedder("m", dimensions=16, base_url=server.base_url("openai")))
    with pytest.raises(RetrieverError, match="1536 dimensions, and the registry says 16"):
        embedder.embed(["a"])


def test_an_endpoint_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(RetrieverUnavailableError, match="set OPENAI_API_KEY"):
        OpenAIModel(OpenAIEmbedder("m", dimensions=3)).embed(["a"])


def test_a_cache_asks_for_each_text_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def count(texts: Sequence[str]) -> list[list[float]]:
        asked.extend(texts)
        return letters(texts)

    def open_cache(model: str = "letters", dimensions: int = 8) -> CachedEmbedder:
        definition = FunctionEmbedder(
            lambda texts: [one[:dimensions] for one in count(texts)], model=model, dimensions=dimensions
        )
        return CachedEmbedder(FunctionModel(definition), tmp_path / "cache.sqlite")

    first = open_cache()
    texts = ["abc", "b", "abc", "", "c\x00c"]
    made = first.embed(texts)
    assert sorted(asked) == sorted(set(texts))
    assert first.embedded == 4
    again = open_cache()
    assert np.array_equal(again.embed([*texts, "new"])[:5], made)
    assert (again.embedded, asked[4:]) == (1, ["new"])
    assert open_cache("other").embed(texts).shape == (5, 8)
    assert open_cache(dimensions=4).embed(texts).shape == (5, 4)
    assert len(asked) == 5 + 4 + 4
    held = sqlite3.connect(tmp_path / "cache.sqlite")
    rows = held.execute("SELECT text FROM vectors WHERE model = 'letters' AND dimensions = 8").fetchall()
    held.close()
    assert (sha256(b"abc").digest(),) in rows, "texts are kept as hashes"


def test_what_was_embedded_before_an_error_is_kept(tmp_path: Path) -> None:
    def fail_late(texts: Sequence[str]) -> list[list[float]]:
        if any(text == "bad" for text in texts):
            raise RuntimeError
        return letters(texts)

    embedder = CachedEmbedder(
        FunctionModel(FunctionEmbedder(fail_late, model="m", dimensions=8)), tmp_path / "cache.sqlite"
    )
    texts = [f"text {number}" for number in range(400)]
    with pytest.raises(RetrieverError):
        embedder.embed([*texts, "bad"])
    assert embedder.embedded == 256
    embedder.embed(texts)
    assert embedder.embedded == 400


def test_a_cache_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    with sqlite3.connect(path) as con:
        con.execute("PRAGMA user_version=2")
    con.close()
    with pytest.raises(FormatError, match="format 2"):
        CachedEmbedder(FunctionModel(LETTERS), path).embed(["a"])
    path.write_bytes(b"no database at all, of some length" * 9)
    with pytest.raises(RetrieverError, match="cannot be used"):
        CachedEmbedder(FunctionModel(LETTERS), path).embed(["a"])
