"""Any Python function as an embedder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmfeatures.errors import LLMFeaturesError, RetrieverError
from llmfeatures.retriever import FunctionEmbedder

if TYPE_CHECKING:
    from llmfeatures.ports.documents import Vector


class FunctionModel:
    """Makes vectors with a function of the registry; they are brought to unit length."""

    def __init__(self, definition: FunctionEmbedder) -> None:
        self._definition = definition

    @property
    def model(self) -> str:
        """As `Embedder.model`."""
        return self._definition.model

    @property
    def dimensions(self) -> int:
        """As `Embedder.dimensions`."""
        return self._definition.dimensions

    def embed(self, texts: Sequence[str], *, timeout: float | None = None) -> Vector:  # noqa: ARG002
        """As `Embedder.embed`; a function cannot be interrupted."""
        from llmfeatures.embedding.vectors import unit_vectors

        label = f"the function of embedder {self.model!r}"
        try:
            made: Any = self._definition.function(list(texts)) if texts else []
        except LLMFeaturesError:
            raise
        except Exception as error:
            raise RetrieverError(f"{label} raised {type(error).__name__}") from error
        return unit_vectors(label, made, len(texts), self.dimensions)
