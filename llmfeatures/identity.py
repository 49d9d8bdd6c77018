# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""What decides the bytes of an export, as hashes by name: two runs with equal ones write the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, Self, cast, runtime_checkable

import orjson
import pyarrow as pa

from llmfeatures.files import named_files
from llmfeatures.historical_documents import Retrievers
from llmfeatures.ports import IndexMeta, OfflineStore, RevisedIndex, VersionedSources
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.refs import ComputedRef
from llmfeatures.retriever import Retriever, Tier
from llmfeatures.schema import FeatureView
from llmfeatures.types import DType
from llmfeatures.version import __version__


@runtime_checkable
class MadeSpine(Protocol):
    """A spine made of another one, ``source``. ``recipe`` says how, as JSON; ``views`` are those that it reads.

    Its rows may depend on ``now``; `at` gives the spine that another moment would make.
    """

    source: object
    recipe: Mapping[str, Any]
    views: Sequence[FeatureView]
    now: datetime

    def at(self, now: datetime) -> Self: ...


@runtime_checkable
class MarkedIndex(Protocol):
    """The part of a `DocumentIndex` that says what it holds."""

    @property
    def tier(self) -> Tier: ...
    def meta(self) -> IndexMeta | None: ...


def made_of(
    plan: PromptPlan,
    spine: object,
    offline: OfflineStore,
    dtypes: Mapping[str, DType],
    options: Mapping[str, Any],
    retrievers: Retrievers | None = None,
) -> dict[str, str] | None:
    """A hash of each thing that decides the bytes of an export, by a name that a user knows it by.

    None when nobody can tell whether another run would write the same: the spine can be read once only, the store
    does not say which version of a source it reads, or documents come from a function or know no time.

    Raises:
        RetrieverUnavailableError: an index of documents cannot say what it holds.
    """
    given = _spine(spine, offline, dtypes)
    brought = [one.features for document in plan.documents for one in document.brought]
    views = {lookup.view.name: lookup.view for features in (plan.features, *brought) for lookup in features.lookups}
    views |= {view.name: view for view in spine.views} if isinstance(spine, MadeSpine) else {}
    sources = offline.versions(tuple(views.values())) if isinstance(offline, VersionedSources) else None
    if given is None or sources is None:
        return None
    documents = [_documents(one.retriever, retrievers) for one in plan.documents]
    if None in documents:
        return None
    things: dict[str, Any] = {
        "version of llmfeatures": [__version__, pa.__version__],
        "prompt": [plan.name, plan.version],
        "registry": [
            *(one.model_dump(mode="json") for one in views.values()),
            *(_function(one) for features in (plan.features, *brought) for one in features.computed),
        ],
        "data": sources,
        "spine": given,
        "options": dict(options),
        **({"documents": documents} if documents else {}),
    }
    return {name: _hash(thing) for name, thing in things.items()}


def _hash(thing: Any) -> str:
    return sha256(orjson.dumps(thing, option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()


def _function(ref: ComputedRef) -> list[Any]:
    """An on-demand feature: its function, and the file that has it and whatever it uses there."""
    file = Path(cast("Any", ref.on_demand.function).__code__.co_filename)
    source = sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    return [ref.name, str(ref.dtype), ref.on_demand.vectorized, ref.on_demand.code_hash(), source]


def _documents(retriever: Retriever, retrievers: Retrievers | None) -> list[Any] | None:
    """What an index of documents holds, as JSON; None where it cannot be told."""
    store = None if retrievers is None else retrievers.store(retriever)
    if not isinstance(store, MarkedIndex) or store.tier == "live":
        return None
    meta = store.meta()
    if meta is None or meta.watermark is None:
        return None
    held = store.revision() if isinstance(store, RevisedIndex) else meta.watermark.isoformat()
    return [retriever.name, meta.format, meta.model, meta.dimensions, dict(meta.metadata), held]


def _spine(spine: object, offline: OfflineStore, dtypes: Mapping[str, DType]) -> Any:
    """What a spine is, as JSON; None where it cannot be told, or not be read again."""
    if isinstance(spine, (str, Path)):
        return [file_version(one) for one in named_files(str(spine))] or None
    if isinstance(spine, MadeSpine):
        source = _spine(spine.source, offline, dtypes)
        return None if source is None else [source, spine.recipe]
    if _stays(spine):
        return _content(offline.read_spine(spine, dtypes))
    return None


def file_version(file: Path) -> list[Any]:
    """A file's whole path, its size and when it was written, in nanoseconds."""
    there = file.stat()
    return [str(file.absolute()), there.st_size, there.st_mtime_ns]


def _stays(spine: object) -> bool:
    """Whether a spine is in memory, so that its content can be hashed and read again."""
    if isinstance(spine, (pa.Table, pa.RecordBatch, Mapping)):
        return True
    if isinstance(spine, Sequence):
        return not isinstance(spine, (bytes, bytearray))
    return type(spine).__module__.partition(".")[0] in ("pandas", "polars") and hasattr(spine, "columns")


class _Digest:
    """A file that is only hashed."""

    closed = False

    def __init__(self) -> None:
        self.hash = sha256()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)

    def flush(self) -> None: ...
    def close(self) -> None: ...


def _content(reader: pa.RecordBatchReader) -> str:
    digest = _Digest()
    with pa.ipc.new_stream(pa.PythonFile(cast("Any", digest), "w"), reader.schema) as stream:
        for batch in reader:
            stream.write_batch(batch)
    return digest.hash.hexdigest()
