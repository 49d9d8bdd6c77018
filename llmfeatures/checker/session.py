"""The prompts of a project, checked, and checked again when something changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from jinja2 import BaseLoader, TemplateNotFound

from llmfeatures.checker.cache import CheckCache
from llmfeatures.checker.engine import PromptReport, check_prompt
from llmfeatures.checker.findings import Finding
from llmfeatures.checker.fixes import Fixed, fix_file
from llmfeatures.checker.ignore import ignores_in, silence
from llmfeatures.checker.options import CheckOptions
from llmfeatures.checker.parallel import in_two
from llmfeatures.checker.rules import RULES
from llmfeatures.errors import PromptError
from llmfeatures.prompts.codegen import PARTIALS
from llmfeatures.prompts.environment import PromptEnvironment
from llmfeatures.prompts.file import SUFFIX, HeaderError, header_errors, parse_prompt, prompt_names, prompt_path
from llmfeatures.registry import Registry

_BLOCKING: Final = frozenset({"LF001", "LF002", "LF003", "LF004"})
"""After these, nobody knows what else a prompt reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """A file, as it was read. ``text`` is None when there is none, for the reason that ``problem`` says."""

    content: bytes
    digest: str
    text: str | None
    problem: str = ""

    @classmethod
    def of(cls, content: bytes) -> _Text:
        try:
            text, problem = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n"), ""
        except UnicodeDecodeError:
            text, problem = None, "the file is no UTF-8 text; save it as UTF-8"
        return cls(content=content, digest=hashlib.sha256(content).hexdigest(), text=text, problem=problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A report, and what it was made of: digests of the prompt and of the partials that it uses. ``generation`` counts
    the changes of partials, any of which matters to a report that looked for one in vain."""

    digest: str
    generation: int
    partials: Mapping[str, str]
    report: PromptReport


class _Partials(BaseLoader):
    """The partials, as they were read."""

    def __init__(self, texts: dict[str, _Text], folder: str) -> None:
        self.texts, self.folder = texts, folder

    def get_source(self, environment: Any, template: str) -> tuple[str, str, None]:  # noqa: ARG002
        found = self.texts.get(template)
        if found is None:
            raise TemplateNotFound(template)
        return found.text or "", f"{self.folder}/{template}", None

    def list_templates(self) -> list[str]:
        return sorted(self.texts)


class CheckSession:
    """Checks the prompts of a folder, as often as one likes: only what changed since the last time is done again.

    `findings` reads the files each time; a prompt whose text, partials and registry are the same is not checked again.
    ``findings(["home"])`` after one save of a prompt of 100 lines takes a few milliseconds. When the registry changed,
    make a new session. Not for several threads at once.

    Args:
        registry: what the prompts may read.
        folder: the prompts folder, with ``_shared`` in it.
        options: which rules count.
        cache: results of earlier runs; None keeps none beyond this session.
        processes: so many processes check, when there are many prompts to check. More than one forks, and is for
            programs without threads.
    """

    def __init__(
        self,
        registry: Registry,
        folder: Path,
        *,
        options: CheckOptions | None = None,
        cache: CheckCache | None = None,
        processes: int = 1,
    ) -> None:
        self.registry, self.folder, self.options = registry, folder, options or CheckOptions()
        self._cache, self._processes = cache or CheckCache(), processes
        self._partials: dict[str, _Text] = {}
        self._environment = self._environment_of(self._partials)
        self._prompts: dict[str, _Text] = {}
        self._reports: dict[str, _Kept] = {}
        self._generation = 0

    def names(self) -> list[str]:
        """The names of all prompts, sorted."""
        return prompt_names(self.folder)

    def findings(self, names: Sequence[str] | None = None) -> list[Finding]:
        """What is wrong with these prompts (None is all) and the partials that they use, by file and place.

        Only with all prompts it is known which partials and features nobody uses, and which ignore comments in partials
        silence nothing.

        Raises:
            UnknownNameError: there is no such prompt.
        """
        chosen = self.names() if names is None else list(names)
        self._read(chosen)
        reports = self._checked(chosen)
        found = dict.fromkeys(finding for name in chosen for finding in reports[name].findings)
        used = frozenset[str]().union(*(one.partials for one in reports.values()))
        whole = names is None
        broken = {name: self._partials[name] for name in sorted(used & self._partials.keys())}
        found |= dict.fromkeys(
            _unreadable(self._path_of_partial(name), one) for name, one in broken.items() if one.text is None
        )
        if whole:
            found |= dict.fromkeys(self._unused(list(reports.values()), used))
        paths = [*map(self._path, chosen), *(self._path_of_partial(name) for name in sorted(self._partials))]
        by_path: dict[str, list[Finding]] = {path: [] for path in paths}
        for finding in found:
            by_path.setdefault(finding.path, []).append(finding)
        settled: list[Finding] = []
        for path, listed in by_path.items():
            settled += self._settled(path, listed, whole=whole)
        return settled

    def report(self, name: str) -> PromptReport:
        """What one prompt reads, and its findings before any is ignored.

        Raises:
            UnknownNameError: there is no such prompt.
        """
        self._read([name])
        return self._checked([name])[name]

    def source(self, path: str) -> str | None:
        """The text of a file, as it was checked, by the path that findings have."""
        found = self._held(path)
        return None if found is None else found.text

    def file_of(self, path: str) -> Path:
        """Where the file is that findings call ``path``."""
        return self.folder.parent / path

    def fix(self, findings: Iterable[Finding]) -> list[Fixed]:
        """Apply the edits of findings to their files. Says of each file with edits what was done; check again after."""
        by_path: dict[str, list[Finding]] = {}
        for finding in findings:
            by_path.setdefault(finding.path, []).append(finding)
        done: list[Fixed] = []
        for path, listed in by_path.items():
            held = self._held(path)
            if held is None or held.text is None or not any(one.edits for one in listed):
                continue
            before = self._raw(path, held)
            done.append(
                fix_file(
                    self.file_of(path),
                    path,
                    held.content,
                    before=before,
                    findings=listed,
                    recheck=lambda text, path=path: self._raw(path, _Text.of(text.encode())),
                )
            )
        return [one for one in done if one.mended or one.refused]

    def users_of(self, partials: Iterable[str]) -> list[str]:
        """The prompts that use any of these partials, which are named like ``_shared/tone.j2``."""
        wanted, names = set(partials), self.names()
        self._read(names)
        return [name for name, report in self._checked(names).items() if wanted & report.partials]

    # reading

    def _read(self, names: Iterable[str]) -> None:
        partials = _partials_in(self.folder, self._partials)
        if partials != self._partials:
            self._partials = partials
            self._environment = self._environment_of(partials)
            self._generation += 1
        for name in names:
            self._prompts[name] = _read(prompt_path(self.folder, name), self._prompts.get(name))

    def _environment_of(self, partials: dict[str, _Text]) -> PromptEnvironment:
        return PromptEnvironment(_Partials(partials, self.folder.name))

    def _path(self, name: str) -> str:
        return f"{self.folder.name}/{name}{SUFFIX}"

    def _path_of_partial(self, name: str) -> str:
        return f"{self.folder.name}/{name}"

    def _place(self, path: str) -> str:
        """The path below the prompts folder; empty for what is not in there."""
        inside = path.removeprefix(f"{self.folder.name}/")
        return inside if inside != path else ""

    def _held(self, path: str) -> _Text | None:
        place = self._place(path)
        return self._prompts.get(place.removesuffix(SUFFIX)) or self._partials.get(place)

    # checking

    def _checked(self, names: Sequence[str]) -> dict[str, PromptReport]:
        reports = {name: report for name in names if (report := self._known(name)) is not None}
        missing = [name for name in names if name not in reports]
        checked = in_two(self._check, missing, self._processes)
        for name, report in zip(missing, checked, strict=True):
            kept = self._reports[name] = self._kept(name, report)
            self._cache.put(name, kept.digest, kept.partials, report)
        reports |= dict(zip(missing, checked, strict=True))
        return {name: reports[name] for name in names}

    def _known(self, name: str) -> PromptReport | None:
        digest, kept = self._prompts[name].digest, self._reports.get(name)
        if kept is not None and kept.digest == digest:
            if kept.generation == self._generation:
                return kept.report
            same = all(self._digest(partial) == old for partial, old in kept.partials.items())
            if same and not any(one.code in ("LF003", "LF004") for one in kept.report.findings):
                self._reports[name] = replace(kept, generation=self._generation)
                return kept.report
        report = self._cache.get(name, digest, self._digest)
        if report is not None:
            self._reports[name] = self._kept(name, report)
        return report

    def _kept(self, name: str, report: PromptReport) -> _Kept:
        partials = {partial: self._digest(partial) for partial in sorted(report.partials)}
        digest = self._prompts[name].digest
        return _Kept(digest=digest, generation=self._generation, partials=partials, report=report)

    def _digest(self, partial: str) -> str:
        found = self._partials.get(partial)
        return "" if found is None else found.digest

    def _check(self, name: str) -> PromptReport:
        return self._check_text(name, self._prompts[name], self._environment)

    def _check_text(self, name: str, held: _Text, environment: PromptEnvironment) -> PromptReport:
        path = self._path(name)
        if held.text is None:
            return PromptReport(findings=(_unreadable(path, held),))
        try:
            file = parse_prompt(held.text, name=name, path=path)
        except PromptError:
            wrong = header_errors(held.text, path=path)
            return PromptReport(findings=tuple(_header_finding(error, path) for error in wrong))
        return check_prompt(self.registry, file, environment)

    def _raw(self, path: str, held: _Text) -> list[Finding]:
        """The findings in a file if it had this text, in itself or through the prompts that use it."""
        place = self._place(path)
        name = place.removesuffix(SUFFIX)
        if place not in self._partials:
            return list(self._check_text(name, held, self._environment).findings)
        environment = self._environment_of({**self._partials, place: held})
        users = [name for name, kept in self._reports.items() if place in kept.report.partials]
        reports = [self._check_text(name, self._prompts[name], environment) for name in users if name in self._prompts]
        return list(dict.fromkeys(finding for report in reports for finding in report.findings))

    def _unused(self, reports: Sequence[PromptReport], used: frozenset[str]) -> list[Finding]:
        if any(finding.code in _BLOCKING for report in reports for finding in report.findings) or not reports:
            return []
        partials = [
            _finding("LF063", self._path_of_partial(name), f"no prompt uses the partial {name!r}; remove it, or use it")
            for name in sorted(set(self._partials) - used)
        ]
        retrievers = frozenset[str]().union(*(report.retrievers for report in reports))
        idle = [one.name for one in self.registry.retrievers if one.name not in retrievers]
        found = [_finding("LF067", f"retriever {name}", "no prompt names this retriever") for name in idle]
        return partials + self._unread(frozenset[str]().union(*(report.features for report in reports))) + found

    def _unread(self, read: frozenset[str]) -> list[Finding]:
        owners = [
            *((f"view {one.view.name}", one.view.entity.name, one.feature.name) for one in self.registry.features()),
            *(("on-demand features", one.entity.name, one.name) for one in self.registry.on_demand),
        ]
        idle: dict[str, list[str]] = {}
        for place, entity, name in owners:
            if f"{entity}.{name}" not in read:
                idle.setdefault(place, []).append(name)
        return [_finding("LF062", place, f"no prompt reads {', '.join(names)}") for place, names in idle.items()]

    def _settled(self, path: str, findings: Iterable[Finding], *, whole: bool) -> list[Finding]:
        """What is left of a file's findings after its comments and the options, in order of places."""
        place, source = self._place(path), self.source(path)
        partial = place in self._partials
        ignores = [] if source is None else ignores_in(source, 0 if partial else _header_lines(source))

        def judged(code: str) -> bool:
            return (whole or not partial) and self.options.judged(code, place)

        kept = silence(path, findings, ignores, judged=judged)
        applied = [one for finding in kept if (one := self.options.apply(finding, place)) is not None]
        return sorted(applied, key=lambda one: (one.line or 0, one.column or 0, one.code))


def _partials_in(folder: Path, held: dict[str, _Text]) -> dict[str, _Text]:
    """All files in ``_shared``, by their names as templates."""
    found: dict[str, _Text] = {}
    for path in sorted((folder / PARTIALS).rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            name = path.relative_to(folder).as_posix()
            found[name] = _read(path, held.get(name))
    return found


def _read(path: Path, held: _Text | None) -> _Text:
    try:
        content = path.read_bytes()
    except OSError as error:
        return _Text(content=b"", digest="", text=None, problem=f"the file cannot be read: {error.strerror}")
    return held if held is not None and held.digest and held.content == content else _Text.of(content)


def _header_lines(source: str) -> int:
    """How many lines the header has, with its two marks; 0 without one."""
    lines = source.split("\n")
    if lines[0].rstrip() != "---":
        return 0
    ends = (number for number, line in enumerate(lines[1:], start=2) if line.rstrip() == "---")
    return next(ends, len(lines))


def _finding(code: str, path: str, message: str) -> Finding:
    return Finding(code=code, severity=RULES[code].severity, path=path, message=message)


def _unreadable(path: str, held: _Text) -> Finding:
    return replace(_finding("LF001", path, held.problem), line=1, column=1)


def _header_finding(error: PromptError, path: str) -> Finding:
    end_line, end_column = (error.end_line, error.end_column) if isinstance(error, HeaderError) else (None, None)
    message, _, advice = error.message.partition("; ")
    return replace(
        _finding("LF002", path, message),
        line=error.line,
        column=error.column,
        end_line=end_line,
        end_column=end_column,
        help=advice,
    )
