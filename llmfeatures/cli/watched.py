"""What ``--watch`` looks at: the files of one prompt, and each version that they make."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmfeatures.errors import LLMFeaturesError, PromptError

if TYPE_CHECKING:
    from llmfeatures.builder import ContextBuilder
    from llmfeatures.checker.findings import Finding
    from llmfeatures.checker.session import CheckSession
    from llmfeatures.context import PromptContext
    from llmfeatures.project import Project
    from llmfeatures.prompt_plan import PromptPlan

SETTLE = 0.008
"""Seconds for which files must stay as they are before they are read: an editor writes more than once."""
_MISSING = 0.5
"""Seconds for which a file may be gone, or empty, before that is what was saved."""
Seen = Mapping[Path, tuple[int, int, int] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What one save made: a context, unless there is a ``problem``; and the checker's findings.

    ``problem`` is empty where the findings say it already.
    """

    context: PromptContext | None
    problem: str
    findings: Sequence[Finding]
    source: Callable[[str], str | None]
    saved: tuple[Path, ...] = ()

    def milliseconds(self) -> float | None:
        """How long ago the newest of the saved files was written; None for the first version."""
        written = [status[0] for path in self.saved if (status := _status(path)) is not None]
        return (time.time_ns() - max(written)) / 1e6 if written else None


class Files:
    """The files that decide a prompt's text: its own, all partials, and the registry's where it is a file."""

    def __init__(self, project: Project, prompt: str) -> None:
        from llmfeatures.prompts.file import prompt_path

        self.root, self._shared = project.config.root, project.config.prompts / "_shared"
        self.registry = project.config.root / project.config.project.registry
        self.prompt = prompt_path(project.config.prompts, prompt)
        self._known = self.look()

    def look(self) -> Seen:
        """Each file as it is now: when it was written, its size and its identity; None where it is not there."""
        partials = self._shared.rglob("*") if self._shared.is_dir() else ()
        return {path: _status(path) for path in (self.prompt, self.registry, *partials)}

    def changed(self) -> list[Path]:
        """The files that were saved since the last time, read again once they stay as they are; mostly none."""
        seen = self.look()
        if seen == self._known:
            return []
        since = time.monotonic()
        while True:
            time.sleep(SETTLE)
            latest = self.look()
            waited = time.monotonic() - since
            if latest == seen and (waited > _MISSING or not self._is_half_saved(latest)):
                break
            seen = latest
        before, self._known = self._known, seen
        return [path for path in {**before, **seen} if before.get(path) != seen.get(path)]

    def _is_half_saved(self, seen: Seen) -> bool:
        """Whether an editor seems to be between two steps of saving: a file is empty, or one that was there is gone."""
        for path in (self.prompt, self.registry):
            status = seen.get(path)
            if (status is None and self._known.get(path) is not None) or (status is not None and not status[1]):
                return True
        return False

    def name(self, path: Path) -> str:
        """A path as it is shown."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


def _status(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Preview:
    """Makes versions of one prompt for one entity.

    Online features are read again for each version; as of a moment they are read once, since the past stays as it is.
    """

    def __init__(
        self,
        project: Project,
        prompt: str,
        values: Callable[[Project, PromptPlan], Mapping[str, Any]],
        options: Mapping[str, Any],
    ) -> None:
        self.prompt, self._values, self._options = prompt, values, options
        self._root = project.config.root
        self._begin(project)

    def version(self, saved: Sequence[Path] = (), *, registry: Path | None = None) -> Version:
        """The version that the files make now. ``registry`` is one of the ``saved`` files when it is to load anew."""
        if registry is not None and registry in saved:
            try:
                self._reload()
            except LLMFeaturesError as error:
                return _broken_registry(error, registry, self._project.config.project.registry, saved)
        findings = self._findings()
        problem, made = "", None
        try:
            plan = self._builder.plan(self.prompt)
            made = self._builder.build_context(self.prompt, **self._options, **self._values(self._project, plan))
        except PromptError as error:
            problem = "" if any(one.severity == "error" for one in findings) else str(error)
        except LLMFeaturesError as error:
            problem = str(error)
        return Version(
            context=made,
            problem=problem,
            findings=findings,
            source=self._session.source,
            saved=tuple(saved),
        )

    def close(self) -> None:
        """Give back what the project opened."""
        self._project.close()

    def _begin(self, project: Project) -> None:
        from llmfeatures.builder import ContextBuilder, Prompts
        from llmfeatures.checker.session import CheckSession

        self._project = project
        config, past = project.config, _Past(project)
        self._session: CheckSession = CheckSession(project.registry, config.prompts, options=config.check.options())
        self._builder: ContextBuilder = ContextBuilder(
            Prompts(project.registry, config.prompts, reload=True),
            project.online,
            lambda: past,  # pyright: ignore[reportArgumentType]  only its join is used
            project.clock,
            config.online.timeout.total_seconds(),
        )

    def _reload(self) -> None:
        from llmfeatures.project import Project

        fresh = Project.load(self._root, now=self._project.clock)
        self._project.close()
        self._begin(fresh)

    def _findings(self) -> Sequence[Finding]:
        try:
            return self._session.findings([self.prompt])
        except LLMFeaturesError:  # the prompt is gone, as whoever renders it says
            return ()


def _broken_registry(error: LLMFeaturesError, file: Path, written: str, saved: Sequence[Path]) -> Version:
    from llmfeatures.checking import registry_finding

    finding = registry_finding(error, written)

    def source(path: str) -> str | None:
        try:
            return file.read_text(encoding="utf-8", errors="replace") if path == finding.path else None
        except OSError:
            return None

    return Version(context=None, problem="", findings=(finding,), source=source, saved=tuple(saved))


class _Past:
    """The offline store, whose joins are remembered."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._known: dict[Any, list[Any]] = {}

    def join(self, spine: Any, lookups: Sequence[Any], *, clock: Any) -> list[Any]:
        """As `OfflineStore.join`; the same question has the same answer."""
        key = (repr(spine.to_pydict()), repr(lookups), clock)
        if key not in self._known:
            self._known[key] = list(self._project.offline.join(spine, lookups, clock=clock))
        return self._known[key]
