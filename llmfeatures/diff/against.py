# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""What a change of the registry and the prompts does to each other, and to last week's prompts."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from llmfeatures.builder import Prompts
from llmfeatures.clock import duration_text
from llmfeatures.config import Config
from llmfeatures.diff import git
from llmfeatures.diff.changes import RegistryChange, registry_changes
from llmfeatures.diff.compare import Drawing, constants, drawn_for
from llmfeatures.diff.shown import counted, percent
from llmfeatures.diff.then import described, present_findings, rendered, value_part
from llmfeatures.errors import LLMFeaturesError, RequestError
from llmfeatures.historical_documents import Retrievers
from llmfeatures.ports import OfflineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.registry import Registry
from llmfeatures.releases.definitions import registry_json

FORMAT: Final = 1
_GIT: Final = "git:"
SINCE: Final = "7d"
USERS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """How many of last week's prompts there are, and how many of them change."""

    rows: int = 0
    changed: int = 0

    @property
    def share(self) -> float:
        """The changed ones as a share; 0 of none."""
        return self.changed / self.rows if self.rows else 0.0

    def __add__(self, other: Rows) -> Rows:
        return Rows(rows=self.rows + other.rows, changed=self.changed + other.changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A change of the registry, the prompts that read what it touches, those of them that ``compare`` with a word that
    was removed, and what becomes of last week's prompts of all that read it."""

    change: RegistryChange
    prompts: tuple[str, ...]
    compare: tuple[str, ...]
    rows: Rows

    def said(self) -> str:
        """The effect in a sentence."""
        parts: list[str] = []
        if self.compare:
            parts.append(
                f"{counted(len(self.compare), 'prompt')} {_compare(self.compare)} with it: {_and(self.compare)}"
            )
        elif self.prompts:
            parts.append(f"{counted(len(self.prompts), 'prompt')} {_read(self.prompts)} it: {_and(self.prompts)}")
        elif self.change.features:
            parts.append("no prompt reads it")
        if self.rows.rows:
            parts.append(f"{percent(self.rows.share)} of last week's prompts that read it change")
        return f"{self.change.said}{': ' if parts else ''}{'; '.join(parts)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFinding:
    """What the checker says of a prompt now and would not have said under the earlier registry."""

    code: str
    severity: str
    where: str
    message: str

    def said(self) -> str:
        """The finding in a line."""
        return f"{self.where}: {self.severity}[{self.code}]: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEffect:
    """What became of a prompt: ``added``, ``removed``, ``changed``, or ``same``; ``policies`` are changes of its
    header; ``problem`` says why it cannot be compared. A ``broken`` one cannot be built now, and could be, or was not
    there."""

    prompt: str
    what: str
    policies: tuple[str, ...]
    findings: tuple[NewFinding, ...]
    rows: Rows
    problem: str | None
    broken: bool = False

    def said(self) -> str:
        """The effect in a sentence."""
        parts: list[str] = list(self.policies)
        if self.problem is not None:
            parts.append(self.problem)
        elif self.rows.rows and (self.rows.changed or self.what == "changed"):
            shares = f"{self.rows.changed:,} of {self.rows.rows:,} of last week's prompts change"
            parts.append(f"{shares} ({percent(self.rows.share)})")
        return f"prompt {self.prompt} {'' if self.what == 'same' else self.what}".rstrip() + (
            f": {'; '.join(parts)}" if parts else ""
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """The present project against an earlier revision of it. ``rows`` counts last week's prompts, ``spine`` says which;
    ``unread`` are features that prompts read then and none reads now."""

    label: str
    effects: tuple[Effect, ...]
    prompts: tuple[PromptEffect, ...]
    unread: tuple[str, ...]
    rows: Rows
    spine: str

    @property
    def breaks(self) -> bool:
        """Whether a prompt has an error that it would not have had under the earlier registry, or is broken."""
        return any(one.broken or any(found.severity == "error" for found in one.findings) for one in self.prompts)

    def lines(self) -> list[str]:
        """The report, a line per change."""
        made = [one.said() for one in self.effects]
        for one in self.prompts:
            if one.what != "same" or one.rows.changed or one.findings or one.problem:
                made.append(one.said())
                made += [f"  new: {finding.said()}" for finding in one.findings]
        made += [f"feature {name}: prompts read it at {self.label}, and none does now" for name in self.unread]
        if not made:
            return [f"nothing that decides a prompt changed since {self.label}"]
        if self.rows.rows:
            share = f"{self.rows.changed:,} of {self.rows.rows:,} ({percent(self.rows.share)})"
            made.append(f"last week's prompts that change since {self.label}: {share}; {self.spine}")
        return made

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON; its shape has the number ``format``."""
        return {
            "format": FORMAT,
            "against": self.label,
            "registry": [
                {
                    "change": one.change.said,
                    "features": list(one.change.features),
                    "prompts": list(one.prompts),
                    "compare": list(one.compare),
                    **_rows_json(one.rows),
                }
                for one in self.effects
            ],
            "prompts": [
                {
                    "prompt": one.prompt,
                    "what": one.what,
                    "policies": list(one.policies),
                    "findings": [asdict(finding) for finding in one.findings],
                    "problem": one.problem,
                    "broken": one.broken,
                    **_rows_json(one.rows),
                }
                for one in self.prompts
            ],
            "unread": list(self.unread),
            "spine": self.spine,
            **_rows_json(self.rows),
        }


def _rows_json(rows: Rows) -> dict[str, Any]:
    return {"rows": rows.rows, "changed": rows.changed, "changed_share": rows.share}


def _compare(names: Sequence[str]) -> str:
    return "compares" if len(names) == 1 else "compare"


def _read(names: Sequence[str]) -> str:
    return "reads" if len(names) == 1 else "read"


def _and(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def check_against(
    config: Config,
    registry: Registry,
    against: str,
    *,
    offline: Callable[[], OfflineStore],
    retrievers: Retrievers,
    now: datetime,
) -> Against:
    """What changed since a revision of the project, in its registry and its prompts, and what that does.

    The registry of the revision is code, and runs, in a process of its own.

    Args:
        config: the present configuration.
        registry: the present registry.
        against: ``git:REV``.
        offline: opens the history.
        retrievers: opens the retrievers.
        now: the end of last week, aware.

    Raises:
        RequestError: it is no revision, or the project was not there.
        LLMFeaturesError: the registry of the revision cannot be loaded.
    """
    if not against.startswith(_GIT):
        raise RequestError(f"check --against takes git:REV, not {against!r}; llmfeatures diff takes files and versions")
    at = git.revision(config.root, against.removeprefix(_GIT))
    prompts = Prompts(registry, config.prompts)
    views = registry_json(registry)
    with tempfile.TemporaryDirectory(prefix="llmfeatures-then-") as folder:
        spines = _Spines(registry, prompts, offline, now, Path(folder))
        tree = Path(folder, "tree")
        tree.mkdir()
        git.write_out(config.root, at, tree)
        request = {
            "tree": str(tree),
            "root": str(config.root),
            "spines": spines.request(),
            "views": {one["name"]: value_part(one) for one in views["views"]},
        }
        then = _then(Path(folder), request, at)
        return _Report(at, registry, prompts, views, then, spines, offline, retrievers).made(config.prompts)


def _then(folder: Path, request: Mapping[str, Any], at: git.Revision) -> Mapping[str, Any]:
    """The answer of the process that loads the revision."""
    asked, answered = folder / "request.json", folder / "answer.json"
    asked.write_text(json.dumps({**request, "answer": str(answered)}), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "llmfeatures.diff.then", str(asked)]
    done = subprocess.run(command, capture_output=True, check=False, text=True, cwd=request["tree"])  # noqa: S603
    if not answered.is_file():
        last = done.stderr.strip().rpartition("\n")[2]
        raise RequestError(f"the project of {at.label} could not be loaded: {last or f'exit code {done.returncode}'}")
    answer = json.loads(answered.read_text(encoding="utf-8"))
    if "error" in answer:
        raise RequestError(f"the project of {at.label} could not be loaded: {answer['error']}")
    return answer


class _Spines:
    """Last week's rows of each prompt that can be compiled, drawn once per entity."""

    def __init__(
        self, registry: Registry, prompts: Prompts, offline: Callable[[], OfflineStore], now: datetime, folder: Path
    ) -> None:
        self.plans: dict[str, PromptPlan] = {}
        self.problems: dict[str, str] = {}
        self.tables: dict[str, pa.Table] = {}
        self._paths: dict[str, str] = {}
        known: dict[tuple[str, ...], tuple[pa.Table, str]] = {}
        drawing = Drawing(until=now, users=USERS, since=SINCE)
        for name in prompts.names():
            try:
                plan = self.plans[name] = prompts.plan(name)
                keys = tuple(plan.features.parameters)
                if keys not in known:
                    table = drawn_for(offline(), registry, plan, drawing)
                    path = str(folder / f"spine-{len(known)}.arrow")
                    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                        writer.write_table(table)
                    known[keys] = table, path
                self.tables[name], self._paths[name] = known[keys]
            except LLMFeaturesError as error:
                self.problems[name] = str(error)

    def request(self) -> dict[str, Any]:
        """What the other process is told of each prompt."""
        return {name: {"path": path, "version": self.plans[name].version} for name, path in self._paths.items()}


@dataclass(frozen=True, kw_only=False)
class _Report:
    """Puts together what both processes found."""

    at: git.Revision
    registry: Registry
    prompts: Prompts
    new: Mapping[str, Any]
    then: Mapping[str, Any]
    spines: _Spines
    offline: Callable[[], OfflineStore]
    retrievers: Retrievers

    def made(self, folder: Path) -> Against:
        """The whole report."""
        now = present_findings(self.registry, folder)
        before: Mapping[str, Any] = self.then["prompts"]
        prompts = [self._prompt(name, before, now) for name in sorted({*before, *self.prompts.names()})]
        rows = {one.prompt: one.rows for one in prompts}
        changes = registry_changes(self.then["registry"], self.new)
        total = sum(rows.values(), Rows())
        spine = next((_origin(table) for table in self.spines.tables.values()), "")
        return Against(
            label=self.at.label,
            effects=tuple(self._effect(one, now, rows) for one in changes),
            prompts=tuple(prompts),
            unread=tuple(self._unread(before)),
            rows=total,
            spine=spine,
        )

    def _effect(self, change: RegistryChange, now: Mapping[str, Any], rows: Mapping[str, Rows]) -> Effect:
        under: Mapping[str, Any] = self.then["present"]
        touched = set(change.features)
        readers = [
            name
            for name in sorted({*under, *now})
            if touched & {*under.get(name, {}).get("features", ()), *now.get(name, {}).get("features", ())}
        ]
        compare = [name for name in readers if change.word is not None and _compares(now.get(name, {}), change.word)]
        total = sum((rows.get(name, Rows()) for name in readers), Rows())
        return Effect(change=change, prompts=tuple(readers), compare=tuple(compare), rows=total)

    def _prompt(self, name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> PromptEffect:
        findings = tuple(self._new_findings(name, now))
        if name not in self.prompts.names():
            return PromptEffect(prompt=name, what="removed", policies=(), findings=(), rows=Rows(), problem=None)
        plan, then = self.spines.plans.get(name), before.get(name)
        what = "added" if then is None else "same"
        policies: tuple[str, ...] = ()
        rows, problem = Rows(), self.spines.problems.get(name)
        if plan is not None and then is not None and "problem" not in then:
            what = "same" if then["version"] == plan.version else "changed"
            policies = tuple(_policies(then["features"], described(plan)["features"]))
            if name in self.spines.tables:
                rows, problem = self._rows(name, plan, then)
        elif then is not None and "problem" in then:
            what, problem = "changed", f"it could not be built at {self.at.label}: {then['problem']}"
        elif plan is None:
            what = "changed" if then is not None else "added"
        broken = plan is None and (then is None or "problem" not in then)
        return PromptEffect(
            prompt=name, what=what, policies=policies, findings=findings, rows=rows, problem=problem, broken=broken
        )

    def _rows(self, name: str, plan: PromptPlan, then: Mapping[str, Any]) -> tuple[Rows, str | None]:
        """How many of last week's prompts are others. Where nothing that decides them changed, none is rendered."""
        table = self.spines.tables[name]
        if "ids" not in then:
            return Rows(rows=table.num_rows), None
        try:
            inputs = constants(plan, {}, stand_in=True, notes=[])
            identities, _ = rendered(self.offline(), self.retrievers, plan, table, inputs)
        except LLMFeaturesError as error:
            return Rows(), str(error)
        changed = sum(old != new for old, new in zip(then["ids"], identities, strict=True))
        return Rows(rows=table.num_rows, changed=changed), None

    def _new_findings(self, name: str, now: Mapping[str, Any]) -> Iterator[NewFinding]:
        under: Mapping[str, Any] = self.then["present"]
        known = {tuple(one[:4]) for one in under.get(name, {}).get("findings", ())}
        for code, path, line, column, message, severity in now.get(name, {}).get("findings", ()):
            if (code, path, line, column) not in known:
                place = ":".join(str(part) for part in (path, line, column) if part)
                yield NewFinding(code=code, severity=severity, where=place, message=message)

    def _unread(self, before: Mapping[str, Any]) -> Iterator[str]:
        read = {name for one in before.values() for name in one.get("reads", ())}
        now = {name for plan in self.spines.plans.values() for name in described(plan)["reads"]}
        broken = set(self.prompts.names()) - self.spines.plans.keys()  # what these are to read is not known
        now |= {name for one in broken & before.keys() for name in before[one].get("reads", ())}
        there = {f"{found.view.entity.name}.{found.feature.name}" for found in self.registry.features()}
        yield from sorted((read - now) & there)


def _compares(report: Mapping[str, Any], word: str) -> bool:
    return any(one[0] == "LF030" and repr(word) in one[4] for one in report.get("findings", ()))


def _policies(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What is other in the policies of the features that both versions print."""
    for name in sorted({*old} & {*new}):
        for key in ("default", "on_missing", "on_unavailable", "max_age"):
            was, now = old[name].get(key), new[name].get(key)
            if was != now:
                yield f"{key} of {new[name]['name']}: {_policy(key, was)} -> {_policy(key, now)}"


def _policy(key: str, value: Any) -> str:
    if value is None:
        return "none"
    return duration_text(timedelta(seconds=value)) if key == "max_age" else json.dumps(value, ensure_ascii=False)


def _origin(table: pa.Table) -> str:
    from llmfeatures.report.origin import spine_name

    return spine_name(table)
