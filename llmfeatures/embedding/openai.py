"""OpenAI's embeddings, or those of a compatible endpoint, by the official client."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from llmfeatures.embedding.process import PerProcess
from llmfeatures.errors import ConfigError, RetrieverError, RetrieverUnavailableError
from llmfeatures.retriever import OpenAIEmbedder

if TYPE_CHECKING:
    from openai import OpenAI

_CHARACTERS: Final = 250_000
"""So many at most in one request: OpenAI takes 300,000 tokens."""
_RETRIES: Final = 5
_TIMEOUT: Final = 60.0
_ALIVE: Final = 500
"""A status of a server that may be well again, at least; so is one of these."""
_AGAIN: Final = (408, 409, 429)


def check_key(definition: OpenAIEmbedder) -> None:
    """That there is a key, if one is needed.

    Raises:
        ConfigError: there is none.
    """
    if definition.base_url is None and not os.environ.get("OPENAI_API_KEY"):
        raise ConfigError(_keyless(definition))


def _keyless(definition: OpenAIEmbedder) -> str:
    return f"embedder {definition.model!r} needs a key; set OPENAI_API_KEY, or give base_url for a server without keys"


class OpenAIModel:
    """Asks an endpoint for vectors, which are brought to unit length. The client tries again what can be tried again.

    Raises:
        ConfigError: ``openai`` is not installed.
    """

    def __init__(self, definition: OpenAIEmbedder) -> None:
        if find_spec("openai") is None:
            raise ConfigError(f"embedder {definition.model!r} needs openai; run pip install 'llmfeatures[openai]'")
        self._definition = definition
        self._client = PerProcess(self._open)

    @property
    def model(self) -> str:
        """As `Embedder.model`."""
        return self._definition.model

    @property
    def dimensions(self) -> int:
        """As `Embedder.dimensions`."""
        return self._definition.dimensions

    def embed(self, texts: Sequence[str], *, timeout: float | None = None) -> Any:
        """As `Embedder.embed`. With a ``timeout`` a request is tried again once at most. An endpoint may give a text
        another vector another time, by a little: whoever needs the same one keeps it."""
        from llmfeatures.embedding.vectors import unit_vectors

        deadline = None if timeout is None else time.monotonic() + timeout
        made: list[Sequence[float]] = []
        for part in self._requests(texts):
            made += self._ask(part, deadline)
        return unit_vectors(f"embedder {self.model!r}", made, len(texts), self.dimensions)

    def _requests(self, texts: Sequence[str]) -> Iterator[list[str]]:
        part: list[str] = []
        size = 0
        for text in texts:
            if part and (len(part) == self._definition.batch or size + len(text) > _CHARACTERS):
                yield part
                part, size = [], 0
            part.append(text or " ")  # an empty text is refused
            size += len(text)
        if part:
            yield part

    def _ask(self, texts: list[str], deadline: float | None) -> list[Sequence[float]]:
        import openai

        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise self._unavailable("was not done in time")
        client = self._client.get()
        if left is not None:
            client = client.with_options(timeout=left, max_retries=1)
        wanted: dict[str, Any] = {"dimensions": self.dimensions} if self._definition.shortens else {}
        try:
            answer = client.embeddings.create(model=self.model, input=texts, encoding_format="float", **wanted)
            return [one.embedding for one in sorted(answer.data, key=lambda one: one.index)]
        except openai.APITimeoutError:
            raise self._unavailable("did not answer in time") from None
        except openai.APIConnectionError:
            raise self._unavailable("cannot be reached") from None
        except openai.APIStatusError as error:
            raise self._refused(error.status_code, error.code) from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            raise RetrieverError(f"embedder {self.model!r} gave no embeddings ({type(error).__name__})") from None

    def _refused(self, status: int, code: str | None) -> RetrieverError:
        said = f"HTTP {status}" + (f", {code}" if code else "")
        if status in (401, 403):
            return self._unavailable(f"refuses the key in OPENAI_API_KEY ({said})")
        if status in _AGAIN or status >= _ALIVE:
            return self._unavailable(f"does not answer now ({said})")
        return RetrieverError(
            f"embedder {self.model!r} refuses the request ({said}); check model, dimensions and base_url, and that no "
            "text is longer than the model takes"
        )

    def _unavailable(self, said: str) -> RetrieverUnavailableError:
        return RetrieverUnavailableError(f"embedder {self.model!r}: the endpoint {said}")

    def _open(self) -> OpenAI:
        import openai

        base_url = self._definition.base_url
        given: dict[str, Any] = {} if base_url is None else {"base_url": base_url}
        if base_url is not None and not os.environ.get("OPENAI_API_KEY"):
            given["api_key"] = "none"  # a server of one's own asks for no key
        try:
            return openai.OpenAI(max_retries=_RETRIES, timeout=_TIMEOUT, **given)
        except openai.OpenAIError:
            raise RetrieverUnavailableError(_keyless(self._definition)) from None
