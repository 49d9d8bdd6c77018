"""A whole project, checked: its configuration, its registry's sources and its prompts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmfeatures import config as configuration
from llmfeatures.checker.cache import CheckCache
from llmfeatures.checker.findings import Finding
from llmfeatures.checker.options import CheckOptions
from llmfeatures.checker.session import CheckSession
from llmfeatures.checker.sources import SourceCache, finding, source_findings
from llmfeatures.checker.warm import Inputs
from llmfeatures.config import Config
from llmfeatures.errors import ConfigError, LLMFeaturesError, RequestError, did_you_mean
from llmfeatures.ports import DocumentSources
from llmfeatures.prompts.codegen import PARTIALS
from llmfeatures.prompts.file import SUFFIX
from llmfeatures.registry import Registry
from llmfeatures.retriever import Retriever
from llmfeatures.schema import ParquetSource, PushSource
from llmfeatures.version import __version__

if TYPE_CHECKING:
    from llmfeatures.ports import OfflineStore

_PLACE = re.compile(r"registry (?P<path>\S+):(?P<line>\d+)(?:: | )(?P<rest>.*)", re.DOTALL)
_GLOB = re.compile(r"[*?\[]|://")
FOLDER = "check"
"""In the state folder: what earlier checks found."""


@dataclass(frozen=True, kw_only=True)
class ProjectCheck:
    """The checks of one project.

    ``options`` are the rules that count, with the configuration's. ``cached`` keeps results in the state folder.
    ``processes`` is as for `CheckSession`.
    """

    config: Config
    registry: Registry
    options: CheckOptions
    cached: bool = True
    processes: int = 1

    @cached_property
    def session(self) -> CheckSession:
        """The checker of the prompts."""
        return CheckSession(
            self.registry, self.config.prompts, options=self.options, cache=self._cache, processes=self.processes
        )

    @property
    def home(self) -> Path:
        """The file that stands for what is none: the registry's, or the configuration's."""
        return home_of(self.config)

    def findings(
        self, names: Sequence[str] | None = None, *, offline: Callable[[], OfflineStore] | None = None
    ) -> list[Finding]:
        """What is wrong with the project and these prompts (None is all). With ``offline``, which opens the offline
        store, the sources are looked at too."""
        sources = SourceCache(self._file("sources"))
        found = self._configuration(sources, whole=names is None, thorough=offline is not None)
        if offline is not None:
            root, pushes = self.config.root, self.config.root / self.config.project.pushes
            found += source_findings(self.registry.views, offline, root=root, pushes=pushes, cache=sources)
            found += self._retrievers(offline, sources)
            sources.save()
        applied = [kept for one in found if (kept := self.options.apply(one, "")) is not None]
        prompts = self.session.findings(names) if self.config.prompts.is_dir() else []
        self._cache.save(self.session.names())
        return applied + prompts

    def inputs(self, *, sources: bool) -> Inputs:
        """What the findings depend on, beside the registry; with ``sources``, the views' sources too."""
        found = Inputs(folders={self.config.prompts})
        if sources:
            for view in self.registry.views:
                if isinstance(view.batch, ParquetSource) and not _GLOB.search(view.batch.path):
                    found.stats.add(self.config.root / view.batch.path)
                elif view.batch is not None:  # a query, say, may read anything
                    found.unknown = True
                if isinstance(view.source, PushSource):
                    found.stats.add(self.config.root / self.config.project.pushes / view.name)
            for retriever in self.registry.retrievers:
                if retriever.source is not None and not _GLOB.search(retriever.source.path):
                    found.stats.add(self.config.root / retriever.source.path)
                found.unknown = found.unknown or retriever.source is not None  # what is installed, and a folder's files
        return found

    def names_in(self, paths: Sequence[Path]) -> list[str]:
        """The prompts that paths name: prompt files, folders of them, and partials, which stand for their users.

        Raises:
            RequestError: a path is none of these.
        """
        folder = self.config.prompts.resolve()
        every = self.session.names()
        names: dict[str, None] = {}
        partials: list[str] = []
        for path in paths:
            whole = path.resolve()
            place = whole.relative_to(folder).as_posix() if whole.is_relative_to(folder) else None
            if whole.is_dir() and (place is not None or folder.is_relative_to(whole)):
                inside = "" if place in (None, ".") else f"{place}/"
                if f"{PARTIALS}/".startswith(inside) or inside.startswith(f"{PARTIALS}/"):
                    partials += self._partials(whole if inside else folder / PARTIALS, folder)
                names |= dict.fromkeys(name for name in every if name.startswith(inside))
            elif place is not None and place.startswith(f"{PARTIALS}/") and whole.is_file():
                partials.append(place)
            elif place is not None and place.removesuffix(SUFFIX) in every and place.endswith(SUFFIX):
                names[place.removesuffix(SUFFIX)] = None
            else:
                raise RequestError(self._no_prompt(path))
        if partials:
            names |= dict.fromkeys(self.session.users_of(partials))
        return [name for name in every if name in names]

    def _partials(self, within: Path, folder: Path) -> list[str]:
        return [path.relative_to(folder).as_posix() for path in within.rglob("*") if path.is_file()]

    def _no_prompt(self, path: Path) -> str:
        shown = self.config.project.prompts
        if not path.exists():
            return f"{path} is not there; give a prompt file, a partial or a folder of {shown}"
        return f"{path} is no prompt: prompts are files NAME{SUFFIX} in {shown}, and partials are in {shown}/{PARTIALS}"

    def _configuration(self, cache: SourceCache, *, whole: bool, thorough: bool) -> list[Finding]:
        found: list[Finding] = []
        if whole and self.config.project.now is not None:
            fixed = self.config.project.now.isoformat()
            found.append(finding("LF007", "now", f"the project's clock is fixed at {fixed}"))
        found += [finding("LF005", "[online]", message) for message in self._online(cache, thorough=thorough)]
        found += [finding("LF005", "[retrieval]", message) for message in self._unknown_urls()]
        if not self.config.prompts.is_dir():
            folder = self.config.project.prompts
            message = f"the folder {folder} is not there; make it, or correct [project] prompts"
            found.append(finding("LF005", "prompts", message))
        return found

    def _unknown_urls(self) -> Iterator[str]:
        names = [one.name for one in self.registry.retrievers]
        for name in self.config.retrieval.urls:
            if name not in names:
                yield f"urls names {name!r}, and the registry has no such retriever{did_you_mean(name, names)}"

    def _online(self, cache: SourceCache, *, thorough: bool) -> list[str]:
        """What is wrong with the online store's URL. Nothing is connected to it."""

        def look() -> list[tuple[str, str]]:
            try:
                configuration.open_online(self.config).close()
            except LLMFeaturesError as error:
                return [("LF005", str(error))]
            return []

        try:
            kind, _ = configuration.online_place(self.config)
        except ConfigError as error:
            return [str(error)]
        if not thorough or kind == configuration.EMBEDDED:
            return []
        url = hashlib.sha256(self.config.online.url.encode()).hexdigest()  # it may hold a password
        return [message for _, message in cache.said("[online]", url, look)]

    def _retrievers(self, offline: Callable[[], OfflineStore], cache: SourceCache) -> list[Finding]:
        """What is wrong with the vector databases, the embedders and the sources of documents. Nothing is connected."""
        found: list[Finding] = []
        for one in self.registry.retrievers:
            if one.source is None:
                continue
            name = f"retriever {one.name}"
            messages = [("LF005", str(error)) for error in _unopened(self.config, one)]

            def look(one: Retriever = one) -> list[tuple[str, str]]:
                sources = offline()
                wrong = sources.check_documents(one) if isinstance(sources, DocumentSources) else []
                return [("LF006", each) for each in wrong]

            messages += cache.said(name, self._documents_key(one), look)
            found += [finding(code, name, message) for code, message in messages]
        return found

    def _documents_key(self, retriever: Retriever) -> str | None:
        """What decides what is found about a file of documents; None for several: they are looked at each time."""
        assert retriever.source is not None
        path = self.config.root / retriever.source.path
        try:
            status = path.stat()
        except (OSError, ValueError):
            return None
        if not path.is_file():
            return None
        written = f"{__version__} {retriever.source!r} {retriever.entity!r} {retriever.metadata!r} {path}"
        return f"{hashlib.sha256(written.encode()).hexdigest()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"

    @cached_property
    def _cache(self) -> CheckCache:
        return CheckCache(self._file("prompts"), self.registry)

    def _file(self, name: str) -> Path | None:
        return self.config.state / FOLDER / f"{name}.json" if self.cached else None


def _unopened(config: Config, retriever: Retriever) -> Iterator[LLMFeaturesError]:
    """Why the vector database of a retriever, or its embedder, cannot be opened."""
    try:
        configuration.open_documents(config, retriever).close()
    except LLMFeaturesError as error:
        yield error
    if retriever.embedder is not None:
        try:
            configuration.check_embedder(config, retriever.embedder)
        except LLMFeaturesError as error:
            yield error


def home_of(config: Config) -> Path:
    """The file that stands for what is none: the registry's, or the configuration's."""
    files = [config.root / name for name in (config.project.registry, configuration.FILE, "pyproject.toml")]
    return next((file for file in files if file.is_file()), files[1])


def registry_finding(error: LLMFeaturesError, registry: str) -> Finding:
    """A registry that does not load, with the line where that is known."""
    message = str(error)
    if (said := _PLACE.match(message)) and said["path"] == registry:
        return replace(finding("LF005", registry, said["rest"]), line=int(said["line"]))
    return finding("LF005", registry, message.removeprefix(f"registry {registry}: "))


def combined(base: CheckOptions, *, select: frozenset[str] | None, ignore: frozenset[str]) -> CheckOptions:
    """A project's options, with what one run says beside them."""
    return replace(base, select=select, ignore=base.ignore | ignore)
