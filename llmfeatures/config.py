"""A project's configuration, and the only place that maps its names and URLs to adapters."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from llmfeatures.checker.options import CheckOptions, rule_codes
from llmfeatures.clock import Clock, as_utc, parse_duration, system_clock
from llmfeatures.config_file import FILE, STATE, find_tables
from llmfeatures.errors import ConfigError, InvalidValueError, RequestError, did_you_mean

if TYPE_CHECKING:
    from llmfeatures.embedding.cache import CachedEmbedder
    from llmfeatures.ports import (
        AsyncDocumentStore,
        AsyncOnlineStore,
        DocumentStore,
        Embedder,
        Exporter,
        OfflineStore,
        OnlineStore,
        PushLog,
        StateStore,
    )
    from llmfeatures.retriever import EmbedderDefinition, Retriever

EMBEDDED = "sqlite"
EMBEDDED_DOCUMENTS = "embedded"
PINECONE = ("pinecone", "pinecone+http")
WEAVIATE = ("weaviate", "weaviates")
POSTGRES = ("postgresql", "postgres")
QDRANT = ("qdrant", "qdrants")
_PREFIX = "LLMFEATURES_"


def _duration(value: Any) -> Any:
    if not isinstance(value, (str, timedelta)):
        raise ValueError(f"{value!r} has no unit; write a duration like 250ms")  # noqa: TRY004
    try:
        duration = parse_duration(value)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if duration <= timedelta(0):
        raise ValueError("a duration here is longer than zero")
    return duration


def _moment(value: Any) -> Any:
    if isinstance(value, (str, datetime)):
        try:
            return as_utc(value)
        except InvalidValueError as error:
            raise ValueError(str(error)) from None
    return value


def _url(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError('a URL is a text, such as "embedded" or "postgresql://HOST/DATABASE"')  # noqa: TRY004
    return value


def _urls(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(  # noqa: TRY004
            'a table of retrievers and URLs, such as {articles = "qdrant://HOST:6333"}; one for all of them is url'
        )
    for name, one in cast("Mapping[str, Any]", value).items():
        if not isinstance(one, str):
            raise ValueError(f"the URL of {name!r} is no text")  # noqa: TRY004
    return cast("Any", value)


Duration = Annotated[timedelta, BeforeValidator(_duration)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProjectSection(_Section):
    """``[project]``: what the project is called and where its parts are, relative to its root."""

    name: str
    registry: str
    prompts: str = "prompts"
    state: str = STATE
    pushes: str = "data/pushes"
    now: Annotated[datetime | None, BeforeValidator(_moment)] = None


class OnlineSection(_Section):
    """``[online]``: the online store. ``url`` is ``sqlite``, ``sqlite:PATH``, ``redis://…`` or ``rediss://…``."""

    url: str = EMBEDDED
    namespace: str | None = None
    access: Literal["read", "write"] = "write"
    timeout: Duration = timedelta(milliseconds=250)
    max_skew: Duration = timedelta(minutes=5)


class OfflineSection(_Section):
    """``[offline]``: the engine of historical reads."""

    engine: Literal["duckdb"] = "duckdb"
    memory_limit: str = "4GB"


class RetrievalSection(_Section):
    """``[retrieval]``: where documents are. ``url`` is ``embedded``, ``embedded:PATH``, ``postgresql://…``,
    ``qdrant://HOST:PORT`` (``qdrants://`` for TLS), ``qdrant:PATH``, ``pinecone://INDEX-HOST`` or ``weaviate://HOST:PORT``;
    ``urls`` has another one for some retrievers, by name. Keys are in ``QDRANT_API_KEY``, ``PINECONE_API_KEY`` and
    ``WEAVIATE_API_KEY``."""

    url: Annotated[str, BeforeValidator(_url)] = "embedded"
    urls: Annotated[Mapping[str, str], BeforeValidator(_urls)] = Field(default_factory=dict[str, str])
    namespace: str | None = None
    timeout: Duration = timedelta(seconds=1)


class ServeSection(_Section):
    """``[serve]``: the HTTP service. ``keys`` is the file of API keys; None is ``keys.json`` in the state folder.
    ``keys_needed`` asks for a key even while there is none, and on an address that only this machine reaches."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    keys: str | None = None
    keys_needed: bool = False
    max_body: Annotated[int, Field(ge=1_000)] = 1_048_576
    max_rows: Annotated[int, Field(ge=1)] = 1_000
    max_concurrency: Annotated[int, Field(ge=1)] = 1_000
    head_timeout: Duration = timedelta(seconds=10)
    body_timeout: Duration = timedelta(seconds=10)
    keep_alive: Duration = timedelta(seconds=75)
    drain: Duration = timedelta(seconds=1)
    stop_timeout: Duration = timedelta(seconds=30)
    log: Literal["json", "text", "off"] = "json"


def _codes(value: Any) -> Any:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(one, str) for one in cast("list[Any]", words)):
        raise ValueError('a list of codes, like ["LF041"]')
    try:
        return rule_codes(cast("list[str]", words))
    except RequestError as error:
        raise ValueError(str(error)) from None


RuleCodes = Annotated[frozenset[str], BeforeValidator(_codes)]


class CheckSection(_Section):
    """``[check]``: rules of the checker that are off, and those that are errors or warnings here. ``per_file`` turns
    rules off for prompts and partials whose path below the prompts folder matches a pattern."""

    ignore: RuleCodes = frozenset()
    error: RuleCodes = frozenset()
    warning: RuleCodes = frozenset()
    per_file: Mapping[str, RuleCodes] = Field(default_factory=dict[str, RuleCodes])

    def options(self) -> CheckOptions:
        """The same, as the checker takes it."""
        return CheckOptions(
            ignore=self.ignore,
            severities={**dict.fromkeys(self.warning, "warning"), **dict.fromkeys(self.error, "error")},
            per_file=dict(self.per_file),
        )


class DiffSection(_Section):
    """``[diff]``: ``price`` is that of a million input tokens, in whatever currency."""

    price: Annotated[Decimal | None, Field(ge=0, allow_inf_nan=False)] = None


class Config(_Section):
    """All of a project's configuration. ``root`` is the folder that paths are relative to."""

    root: Path
    project: ProjectSection
    online: OnlineSection = OnlineSection()
    offline: OfflineSection = OfflineSection()
    retrieval: RetrievalSection = RetrievalSection()
    serve: ServeSection = ServeSection()
    check: CheckSection = CheckSection()
    diff: DiffSection = DiffSection()

    @property
    def prompts(self) -> Path:
        """The prompts folder."""
        return self.root / self.project.prompts

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.root / self.project.state

    @property
    def keys(self) -> Path:
        """The file of API keys."""
        return self.state / "keys.json" if self.serve.keys is None else self.root / self.serve.keys

    def clock(self) -> Clock:
        """The project's clock: fixed when ``now`` is set, else the machine's."""
        fixed = self.project.now
        return system_clock if fixed is None else lambda: fixed


def find_config(path: str | Path = ".", environment: Mapping[str, str] | None = None) -> Config:
    """The configuration of the project that ``path`` lies in: the nearest one upwards, overridden by
    ``LLMFEATURES_*`` variables.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    found = find_tables(path)
    if found is not None:
        return _config(found.root, found.file, found.data, os.environ if environment is None else environment)
    start = Path(path).resolve()
    raise ConfigError(
        f"no {FILE} and no pyproject.toml with [tool.llmfeatures] in {start} or above; "
        "run llmfeatures init to make a project"
    )


def _config(root: Path, file: str, data: Mapping[str, Any], environment: Mapping[str, str]) -> Config:
    sections = {
        "project": ProjectSection,
        "online": OnlineSection,
        "offline": OfflineSection,
        "retrieval": RetrievalSection,
        "serve": ServeSection,
        "check": CheckSection,
        "diff": DiffSection,
    }
    for name in data:
        if name not in sections:
            raise ConfigError(f"{file} has no section {name!r}{did_you_mean(name, sections)}")
    made: dict[str, Any] = {}
    for name, section in sections.items():
        given = data.get(name, {})
        if not isinstance(given, dict):
            raise ConfigError(f"{file}: {name} is a section, [{name}]")
        values = {**cast("dict[str, Any]", given), **_overrides(name, section, environment)}
        made[name] = _section(file, name, section, values)
    return Config(root=root, **made)


def _overrides(name: str, section: type[_Section], environment: Mapping[str, str]) -> dict[str, str]:
    """``LLMFEATURES_ONLINE_URL`` is ``url`` in ``[online]``; of ``[project]``, the name of the section is left out
    too."""
    found: dict[str, str] = {}
    for option in section.model_fields:
        names = [f"{_PREFIX}{name}_{option}".upper()]
        if name == "project":
            names.append(f"{_PREFIX}{option}".upper())
        for variable in names:
            if environment.get(variable):
                found[option] = environment[variable]
    return found


def _section(file: str, name: str, section: type[_Section], values: dict[str, Any]) -> _Section:
    for option in values:
        if option not in section.model_fields:
            raise ConfigError(f"{file}: [{name}] has no option {option!r}{did_you_mean(option, section.model_fields)}")
    try:
        return section(**values)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{file}: [{name}] {where}: {cause or first['msg']}") from None


def namespace(config: Config) -> str:
    """The namespace of the project's keys in the online store."""
    return config.online.namespace or config.project.name


def open_online(config: Config) -> OnlineStore:
    """The online store that the configuration names.

    Raises:
        ConfigError: the URL is of no known kind.
    """
    kind, path = _online_kind(config)
    timeout = config.online.timeout.total_seconds()
    if kind == EMBEDDED:
        from llmfeatures.online.sqlite import SqliteStore

        return SqliteStore(path, namespace(config), timeout=timeout)
    from llmfeatures.online.redis import RedisStore

    return RedisStore(config.online.url, namespace(config), timeout=timeout)


def open_async_online(config: Config) -> AsyncOnlineStore:
    """As `open_online`, for asyncio."""
    kind, path = _online_kind(config)
    timeout = config.online.timeout.total_seconds()
    if kind == EMBEDDED:
        from llmfeatures.online.sqlite import AsyncSqliteStore

        return AsyncSqliteStore(path, namespace(config), timeout=timeout)
    from llmfeatures.online.redis import AsyncRedisStore

    return AsyncRedisStore(config.online.url, namespace(config), timeout=timeout)


def _online_kind(config: Config) -> tuple[str, Path]:
    url = config.online.url
    scheme, _, rest = url.partition(":")
    if scheme == EMBEDDED:
        place = rest.removeprefix("//")
        return EMBEDDED, config.root / place if place else config.state / "online.sqlite"
    if scheme in ("redis", "rediss", "unix"):
        return "redis", Path()
    raise ConfigError(
        f"[online] url is of no known kind ({scheme}); write sqlite, sqlite:PATH, redis://HOST:PORT/DB or rediss://…"
    )


def online_place(config: Config) -> tuple[str, str]:
    """The kind of the online store, and where it is: a path, or a URL without user, password and options.

    Raises:
        ConfigError: the URL is of no known kind.
    """
    kind, path = _online_kind(config)
    if kind == EMBEDDED:
        return kind, str(path)
    parts = urlsplit(config.online.url)
    return kind, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def open_documents(config: Config, retriever: Retriever) -> DocumentStore:
    """The document store of a retriever; a `DocumentIndex`, unless it is a function.

    Raises:
        ConfigError: the URL is of no known kind.
    """
    if retriever.function is not None:
        from llmfeatures.retrieval.function import FunctionStore

        return FunctionStore(retriever)
    url = config.retrieval.urls.get(retriever.name, config.retrieval.url)
    scheme, _, rest = url.partition(":")
    if scheme == EMBEDDED_DOCUMENTS:
        from llmfeatures.retrieval.embedded import EmbeddedStore

        if find_spec("numpy") is None:
            raise ConfigError("the embedded index of documents needs numpy, which is not installed; pip install numpy")
        return EmbeddedStore(_documents_folder(config, rest) / retriever.name, retriever)
    if scheme in PINECONE:
        with _extra("pinecone"):
            from llmfeatures.retrieval.pinecone import open_pinecone
        return open_pinecone(url, documents_namespace(config), retriever, timeout=_search_seconds(config))
    if scheme in WEAVIATE:
        with _extra("weaviate"):
            from llmfeatures.retrieval.weaviate import open_weaviate
        return open_weaviate(url, documents_namespace(config), retriever, timeout=_search_seconds(config))
    if scheme in POSTGRES:
        with _extra("pgvector"):
            from llmfeatures.retrieval.pgvector import PgvectorStore
        return PgvectorStore(url, documents_namespace(config), retriever, timeout=_search_seconds(config))
    if scheme in QDRANT:
        with _extra("qdrant"):
            from llmfeatures.retrieval.qdrant import open_qdrant
        return open_qdrant(url, config.root, documents_namespace(config), retriever, timeout=_search_seconds(config))
    raise ConfigError(
        f"[retrieval] url is of no known kind ({scheme}); write embedded, embedded:PATH, postgresql://…, "
        "qdrant://HOST:PORT, qdrant:PATH, pinecone://INDEX-HOST or weaviate://HOST:PORT"
    )


def documents_namespace(config: Config) -> str:
    """What the names of this project's tables and collections in a vector database begin with."""
    return config.retrieval.namespace or namespace(config)


def _search_seconds(config: Config) -> float:
    return config.retrieval.timeout.total_seconds()


@contextmanager
def _extra(name: str) -> Generator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("llmfeatures"):
            raise
        raise ConfigError(
            f"this needs {error.name}, which is not installed; pip install 'llmfeatures[{name}]' brings it"
        ) from None


def _documents_folder(config: Config, path: str) -> Path:
    folder = config.root / path if path else config.state / "documents"
    named = documents_namespace(config) if path else config.retrieval.namespace  # the state is nobody else's
    return folder if named is None else folder / quote(named, safe="")


def open_async_documents(config: Config, retriever: Retriever) -> AsyncDocumentStore | None:
    """As `open_documents`, for asyncio; None where a store is only there for threads."""
    if retriever.function is not None:
        import inspect

        from llmfeatures.retrieval.function import AsyncFunctionStore

        return AsyncFunctionStore(retriever) if inspect.iscoroutinefunction(retriever.function) else None
    url = config.retrieval.urls.get(retriever.name, config.retrieval.url)
    scheme, _, _ = url.partition(":")
    if scheme in PINECONE:
        with _extra("pinecone"):
            from llmfeatures.retrieval.pinecone import open_async_pinecone
        return open_async_pinecone(url, documents_namespace(config), retriever, timeout=_search_seconds(config))
    if scheme in WEAVIATE:
        with _extra("weaviate"):
            from llmfeatures.retrieval.weaviate import open_async_weaviate
        return open_async_weaviate(url, documents_namespace(config), retriever, timeout=_search_seconds(config))
    if scheme in POSTGRES:
        with _extra("pgvector"):
            from llmfeatures.retrieval.pgvector_async import AsyncPgvectorStore
        return AsyncPgvectorStore(url, documents_namespace(config), retriever, timeout=_search_seconds(config))
    if scheme in QDRANT and "//" in url:
        with _extra("qdrant"):
            from llmfeatures.retrieval.qdrant_async import open_async_qdrant
        return open_async_qdrant(url, documents_namespace(config), retriever, timeout=_search_seconds(config))
    return None


def open_embedder(config: Config, definition: EmbedderDefinition) -> Embedder:
    """The embedder of a definition.

    Raises:
        ConfigError: what it needs is not installed, or is not there.
    """
    from llmfeatures.retriever import FunctionEmbedder, OnnxEmbedder

    match definition:
        case FunctionEmbedder():
            from llmfeatures.embedding.function import FunctionModel

            return FunctionModel(definition)
        case OnnxEmbedder():
            from llmfeatures.embedding.onnx import OnnxModel

            return OnnxModel(definition, config.root)
        case _:
            from llmfeatures.embedding.openai import OpenAIModel

            return OpenAIModel(definition)


def check_embedder(config: Config, definition: EmbedderDefinition) -> None:
    """That an embedder has what it needs. Nothing is loaded or asked.

    Raises:
        ConfigError: it has not.
    """
    from llmfeatures.retriever import OpenAIEmbedder

    open_embedder(config, definition)
    if isinstance(definition, OpenAIEmbedder):
        from llmfeatures.embedding.openai import check_key

        check_key(definition)


def open_embedding_cache(config: Config, embedder: Embedder) -> CachedEmbedder:
    """The embedder with the vectors that were made before, which are in the state folder."""
    from llmfeatures.embedding.cache import CachedEmbedder

    return CachedEmbedder(embedder, config.state / "embeddings.sqlite")


def open_offline(config: Config, pushes: PushLog | None = None) -> OfflineStore:
    """The offline store that the configuration names, with the pushed rows of ``pushes`` (a log of its own unless
    told)."""
    from llmfeatures.offline.duckdb import DuckDBStore

    return DuckDBStore(
        config.root,
        memory_limit=config.offline.memory_limit,
        pushes=pushes or open_pushes(config),
        skew=config.online.max_skew,
    )


def open_pushes(config: Config) -> PushLog:
    """The log of pushed rows.

    Raises:
        ConfigError: it is no folder.
    """
    from llmfeatures.push_log.folder import FolderPushLog

    if "://" in config.project.pushes:
        raise ConfigError("[project] pushes is a folder; URLs are not supported")
    return FolderPushLog(config.root / config.project.pushes)


def open_state(config: Config) -> StateStore:
    """The project's state."""
    from llmfeatures.state import FolderState

    return FolderState(config.state)


def exporters() -> dict[str, Exporter]:
    """The formats that historical prompts can be written in, by name."""
    from llmfeatures.export.chat import ChatExporter
    from llmfeatures.export.datasets import line_exporters
    from llmfeatures.export.hf import HfExporter
    from llmfeatures.export.parquet import ParquetExporter

    return {"chat": ChatExporter(), "hf": HfExporter(), "parquet": ParquetExporter(), **line_exporters()}
