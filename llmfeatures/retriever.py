"""Definitions of retrievers: where documents come from, whose they are, and what makes vectors of them. Frozen; they
open nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, cast

from pydantic import BeforeValidator

from llmfeatures.errors import DefinitionError, did_you_mean
from llmfeatures.schema import Definition, DTypeField, Duration, Entity, check_identifier
from llmfeatures.types import DType

Tier = Literal["exact", "filtered", "live"]
"""How true a search is to a moment: ``exact`` searches all versions of that moment one by one; ``filtered`` lets a
database's own index search under a filter of time, and may miss some; ``live`` knows no time, only what is there now.
"""
TIERS: Final = ("exact", "filtered", "live")
DOCUMENT_WORDS: Final = ("id", "metadata", "score", "text", "version")
"""What a document is in a template, beside the entities that it brings."""
FILTERED: Final = ("str", "int", "bool", "enum", "date", "timestamp", "decimal")
"""The kinds of metadata that a filter, or a join key, may name."""

VALID_TO: Final = "valid_to"
"""The column of a source that need not be there, unless another name is written."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_\-]*", re.ASCII)


class DocumentSource(Definition):
    """Documents in Parquet or JSON Lines files, a row per version of a document.

    Args:
        path: a file, a folder or a glob, relative to the project's root; ``.parquet``, or ``.jsonl`` or ``.ndjson``,
            these also compressed (``.gz``, ``.zst``).
        id: the column that names the document, text; its versions have the same. Unique within the entity.
        text: the column of its text.
        valid_from: the column that says from when on this version could be read; a naive one is UTC. None: all were
            always there, and there is one version of each.
        valid_to: the column that says when it was gone; null is never. ``valid_to`` counts where the source has such a
            column; one of another name must be there. None: no column is looked for. A later version of the same
            document ends the one before in any case. Without valid_from there is none.
        columns: renames, from the file's name to the registry's: ``{"uid": "user_id"}``.
    """

    path: str
    id: str = "id"
    text: str = "text"
    valid_from: str | None = "valid_from"
    valid_to: str | None = VALID_TO
    columns: Mapping[str, str] = {}

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        id: str = "id",  # noqa: A002
        text: str = "text",
        valid_from: str | None = "valid_from",
        valid_to: str | None = VALID_TO,
        columns: Mapping[str, str] | None = None,
        **unknown: Any,
    ) -> None:
        if valid_from is None and valid_to == VALID_TO:
            valid_to = None
        super().__init__(
            path=os.fspath(path),
            id=id,
            text=text,
            valid_from=valid_from,
            valid_to=valid_to,
            columns=columns or {},
            **unknown,
        )
        if valid_from is None and valid_to is not None:
            raise DefinitionError("DocumentSource: valid_to needs valid_from; give that column too")


class OnnxEmbedder(Definition):
    """A model in ONNX format that runs in this process. Needs the extra ``embeddings``.

    Args:
        path: a folder with ``model.onnx`` and ``tokenizer.json``, relative to the project's root. None is
            all-MiniLM-L6-v2 (int8), which the extra brings: 384 dimensions, English, no download.
        model: the name that is recorded with the vectors; another model needs another name.
        dimensions: of its vectors.
        max_tokens: so much of a text counts.
    """

    path: str | None = None
    model: str = "all-MiniLM-L6-v2-int8"
    dimensions: int = 384
    max_tokens: int = 256

    def __init__(
        self,
        path: str | None = None,
        *,
        model: str | None = None,
        dimensions: int = 384,
        max_tokens: int = 256,
        **unknown: Any,
    ) -> None:
        if (path is None) == (model is not None):
            raise DefinitionError("OnnxEmbedder: a model of your own has a path and a model, the name to record")
        named = {} if model is None else {"model": model}
        super().__init__(path=path, dimensions=dimensions, max_tokens=max_tokens, **named, **unknown)
        _check_dimensions(self)


class OpenAIEmbedder(Definition):
    """An endpoint of OpenAI's embeddings, or one that is compatible. Needs the extra ``openai``; the key is in
    ``OPENAI_API_KEY``.

    Args:
        model: the endpoint's name of the model, such as ``text-embedding-3-small``.
        dimensions: of its vectors. The endpoint is asked for so many unless ``shortens`` is False.
        base_url: of another endpoint than OpenAI's, or than ``OPENAI_BASE_URL``.
        shortens: whether the model takes ``dimensions``, as those of OpenAI's third generation do.
        batch: so many texts at most in one request.
    """

    model: str
    dimensions: int
    base_url: str | None = None
    shortens: bool = True
    batch: int = 256

    def __init__(
        self,
        model: str,
        *,
        dimensions: int,
        base_url: str | None = None,
        shortens: bool = True,
        batch: int = 256,
        **unknown: Any,
    ) -> None:
        super().__init__(
            model=model, dimensions=dimensions, base_url=base_url, shortens=shortens, batch=batch, **unknown
        )
        _check_dimensions(self)
        if self.batch < 1:
            raise DefinitionError("OpenAIEmbedder: batch is at least 1")


class FunctionEmbedder(Definition):
    """Any Python function that makes vectors.

    Args:
        function: takes a list of texts, and returns a vector of floats for each: lists, or a numpy array of texts by
            dimensions. In YAML ``package.module:attr``.
        model: the name that is recorded with the vectors; another function needs another name.
        dimensions: of its vectors.
    """

    function: Callable[..., Any]
    model: str
    dimensions: int

    def __init__(self, function: Callable[..., Any], *, model: str, dimensions: int, **unknown: Any) -> None:
        if not callable(function):
            raise DefinitionError("FunctionEmbedder takes a function of a list of texts")
        super().__init__(function=function, model=model, dimensions=dimensions, **unknown)
        _check_dimensions(self)


EmbedderDefinition = OnnxEmbedder | OpenAIEmbedder | FunctionEmbedder


def _check_dimensions(embedder: EmbedderDefinition) -> None:
    if not 1 <= embedder.dimensions <= 65_535:
        raise DefinitionError(f"{type(embedder).__name__}: dimensions are from 1 to 65535")
    if not embedder.model:
        raise DefinitionError(f"{type(embedder).__name__}: model is a name, to record with the vectors")


def _source(value: Any) -> Any:
    if isinstance(value, (str, os.PathLike)):
        return DocumentSource(cast("str | os.PathLike[str]", value))
    return DocumentSource(**cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value


def _embedder(value: Any) -> Any:
    if value is None or isinstance(value, (OnnxEmbedder, OpenAIEmbedder, FunctionEmbedder)):
        return value
    if not isinstance(value, Mapping):
        raise DefinitionError(
            "an embedder is OnnxEmbedder(), OpenAIEmbedder(model, dimensions=) or FunctionEmbedder(function, model=, "
            "dimensions=); in YAML {onnx: null}, {openai: MODEL, dimensions: N} or {function: package.module:attr, "
            "model: NAME, dimensions: N}"
        )
    options = dict(cast("Mapping[str, Any]", value))
    kinds: dict[str, Any] = {"onnx": OnnxEmbedder, "openai": OpenAIEmbedder, "function": FunctionEmbedder}
    found = [name for name in kinds if name in options]
    if len(found) != 1:
        raise DefinitionError(
            "an embedder has exactly one of: onnx (a folder, or null for the model that comes with the extra), openai "
            "(a model), function"
        )
    return kinds[found[0]](options.pop(found[0]), **options)


class Retriever(Definition):
    """Texts that are searched for a prompt: an entity's own, or texts for all.

    Args:
        name: letters, digits, ``_`` and ``-``; unique in the registry. The header of a prompt file names it.
        entity: whose documents they are. They are found for an entity of its kind only by its key, which the source
            has as columns. None: they are for all.
        source: a path or a `DocumentSource`; `materialize` brings it into the vector database that the configuration
            names.
        embedder: what makes vectors of texts and queries. None: documents are found by ``order: recent`` only.
        metadata: further columns and their dtypes. Where they hold the join keys of another entity, a
            document brings that entity's features: ``{{ d.title.avg_rating }}``.
        function: instead of a source, a Python function that searches: it takes a
            `llmfeatures.ports.DocumentQuery` and returns the documents, as mappings. In YAML ``package.module:attr``.
        tier: of a function, how true it is to the moment it is asked for: ``exact``, ``filtered`` or ``live``.
        cadence: how often the source should be brought in again; for schedules.

    Raises:
        DefinitionError: the name is of no use, or options do not go together.
    """

    name: str
    entity: Entity | None
    source: Annotated[DocumentSource | None, BeforeValidator(_source)] = None
    embedder: Annotated[EmbedderDefinition | None, BeforeValidator(_embedder)] = None
    metadata: Mapping[str, DTypeField] = {}
    function: Callable[..., Any] | None = None
    tier: str | None = None
    cadence: Duration = None
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = {}

    def __init__(
        self,
        name: str,
        entity: Entity | None = None,
        source: str | os.PathLike[str] | DocumentSource | Mapping[str, Any] | None = None,
        *,
        embedder: EmbedderDefinition | Mapping[str, Any] | None = None,
        metadata: Mapping[str, str | DType] | None = None,
        function: Callable[..., Any] | None = None,
        tier: Tier | None = None,
        cadence: timedelta | str | None = None,
        description: str = "",
        owner: str = "",
        tags: Mapping[str, str] | None = None,
        **unknown: Any,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(
                f"retriever {name!r}: a retriever's name has ASCII letters, digits, _ and -, a letter first"
            )
        if entity is not None and not isinstance(entity, Entity):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(
                f"retriever {name!r}: entity is an Entity, or None for documents that are for all: "
                f"Retriever({name!r}, None, source)"
            )
        try:
            embedder = cast("EmbedderDefinition | None", _embedder(embedder))
        except DefinitionError as error:
            raise DefinitionError(f"retriever {name!r}: {error}") from None
        super().__init__(
            name=name,
            entity=entity,
            source=source,
            embedder=embedder,
            metadata=dict(metadata or {}),
            function=function,
            tier=tier,
            cadence=cadence,
            description=description,
            owner=owner,
            tags=tags or {},
            **unknown,
        )
        self._check()

    def _check(self) -> None:
        label = f"retriever {self.name!r}"
        if (self.source is None) == (self.function is None):
            raise DefinitionError(f"{label} takes either a source, which is indexed, or a function, which searches")
        if self.function is not None and not callable(self.function):
            raise DefinitionError(f"{label}: function is a Python function")
        if self.function is None and self.tier is not None:
            raise DefinitionError(f"{label}: a tier is for a function; that of a database is known")
        if self.tier is not None and self.tier not in TIERS:
            raise DefinitionError(f"{label}: unknown tier {self.tier!r}{did_you_mean(self.tier, TIERS)}")
        for one in self.metadata:
            check_identifier("metadata", one)
            if self.entity is not None and one in self.entity.join_keys:
                raise DefinitionError(
                    f"{label}: metadata {one!r} is a join key of its entity, which every document has; drop it"
                )
        if self.cadence is not None and self.cadence <= timedelta(0):
            raise DefinitionError(f"{label}: a cadence is longer than zero; leave it out for none")

    @property
    def declared_tier(self) -> Tier:
        """The tier of a function; of what is indexed, the database says it."""
        return cast("Tier", self.tier or "live")

    def brings(self, entity: Entity) -> bool:
        """Whether its documents carry this entity's join keys as metadata, and so bring its features."""
        own = self.metadata
        return entity != self.entity and all(own.get(key) == dtype for key, dtype in entity.join_keys.items())
