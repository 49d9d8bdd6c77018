"""Files that nothing is written over: an export put in the place of a source, or of the registry, would lose it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from llmfeatures.errors import RequestError
from llmfeatures.files import named_files
from llmfeatures.registry import Registry
from llmfeatures.schema import ParquetSource

_WRITTEN_BY_HAND = (".py", ".toml", ".yaml", ".yml", ".j2", ".ipynb", ".md")


def source_files(root: Path, registry: Registry) -> dict[Path, str]:
    """The files that views and retrievers read, and what each is."""
    found: dict[Path, str] = {}
    for retriever in registry.retrievers:
        if retriever.source is not None:
            for one in named_files(retriever.source.path, root):
                found[one.resolve()] = f"the source of retriever {retriever.name!r}"
    for view in registry.views:
        if isinstance(view.batch, ParquetSource):
            for one in named_files(view.batch.path, root):
                found[one.resolve()] = f"the source of view {view.name!r}"
    return found


def check_outputs(outputs: Iterable[tuple[Path, str]], protected: Mapping[Path, str]) -> None:
    """Refuse to write to a file that is something else, or twice to one.

    Args:
        outputs: what is to be written, and what each is for a person.
        protected: resolved paths, and what each is.

    Raises:
        RequestError: it names the file and what it is.
    """
    seen: dict[Path, str] = {}
    for path, what in outputs:
        whole = path.resolve()
        if whole in seen:
            raise RequestError(f"{path} would be both {seen[whole]} and {what}; give them two names")
        seen[whole] = what
        if whole in protected:
            raise RequestError(f"{path} is {protected[whole]}; write {what} to another file")
        if path.suffix in _WRITTEN_BY_HAND and path.exists():
            raise RequestError(f"{path} is there, and looks like one that somebody wrote; write {what} to another file")
