"""Running cases: each one's prompt against what it expects, and its snapshot."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llmfeatures.builder import Prompts
from llmfeatures.cases.build import WrongCaseError, build_case
from llmfeatures.cases.file import Case, Texts, prompts_with_cases, read_cases
from llmfeatures.cases.snapshots import (
    prompts_with_snapshots,
    read_snapshot,
    snapshot_path,
    snapshot_text,
    unused_snapshots,
    write_snapshot,
)
from llmfeatures.context import PromptContext
from llmfeatures.errors import ConfigError, LLMFeaturesError, PromptError, RequestError, UnknownNameError, did_you_mean
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.worddiff import DiffLine, diff_lines

Kind = Literal[
    "contains", "not_contains", "matches", "messages", "sections", "max_tokens", "snapshot", "error", "build", "case"
]
TOKENIZER = "o200k_base"
"""What ``max_tokens`` counts with, where the prompt has no budget."""


class Failure(NamedTuple):
    """What a case expects and does not get. The place (from 1) is that of the expectation, or of the case.

    ``diff`` is the difference from the snapshot, and empty for other kinds.
    """

    kind: Kind
    message: str
    path: str
    line: int | None
    column: int | None
    diff: tuple[DiffLine, ...] = ()

    @property
    def where(self) -> str:
        """``file:line:column``."""
        return ":".join(str(part) for part in (self.path, self.line, self.column) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """A case that was run. ``case`` is None, and ``id`` empty, where the prompt or its file of cases is wrong.

    ``text`` is the prompt as a snapshot has it; None when it could not be built. ``snapshot`` is the snapshot's file
    when it was written.
    """

    prompt: str
    id: str
    path: str
    line: int
    failures: tuple[Failure, ...] = ()
    text: str | None = None
    tokens: int | None = None
    snapshot: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether it got all that it expects."""
        return not self.failures

    @property
    def name(self) -> str:
        """``recommender::heavy_viewer``, by which a case is chosen."""
        return f"{self.prompt}::{self.id}" if self.id else self.prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class CasesReport:
    """All cases that were run. ``without_cases`` are prompts that have none; ``unused`` and ``removed`` are files of
    snapshots that no case has, which are there still, or no longer."""

    results: tuple[CaseResult, ...]
    without_cases: tuple[str, ...] = ()
    unused: tuple[Path, ...] = ()
    removed: tuple[Path, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all cases passed."""
        return all(one.passed for one in self.results)


def run_cases(
    prompts: Prompts,
    folder: Path,
    names: Sequence[str] | None = None,
    *,
    update: bool = False,
    matching: str = "",
    ran: Callable[[CaseResult], None] | None = None,
) -> CasesReport:
    """Run the cases of prompts. No store is opened and no source is read.

    Args:
        prompts: the project's prompts.
        folder: the prompts folder, which has the cases.
        names: of the prompts; None is all.
        update: write the snapshots that are not there or differ, and remove those that no case has.
        matching: run only cases of which ``prompt::id`` contains this text; none is removed then.
        ran: is told each result at once.

    Raises:
        UnknownNameError: there is no prompt of a name.
    """
    known = prompts.names()
    for name in names or ():
        if name not in known:
            raise UnknownNameError("prompt", name, known)
    with_cases = prompts_with_cases(folder)
    chosen = sorted({*known, *with_cases}) if names is None else list(dict.fromkeys(names))
    results: list[CaseResult] = []
    without: list[str] = []
    unused: list[Path] = []
    for name in chosen:
        cases: tuple[Case, ...] | None = ()
        if name in with_cases:
            cases, made = _of_prompt(prompts, folder, name, update=update, matching=matching, ran=ran)
            results += made
        else:
            without.append(name)
        if cases is not None:  # of a file that cannot be read no snapshot is known to be unused
            unused += unused_snapshots(folder, name, [one.id for one in cases if one.expect.snapshot])
    if names is None:
        for name in prompts_with_snapshots(folder):
            if name not in chosen:
                unused += unused_snapshots(folder, name, ())
    removed = unused if update and not matching else []
    for path in removed:
        _remove(path)
    return CasesReport(
        results=tuple(results),
        without_cases=tuple(without),
        unused=() if removed else tuple(unused),
        removed=tuple(removed),
    )


def _of_prompt(
    prompts: Prompts,
    folder: Path,
    name: str,
    *,
    update: bool,
    matching: str,
    ran: Callable[[CaseResult], None] | None,
) -> tuple[tuple[Case, ...] | None, list[CaseResult]]:
    """A prompt's cases (None when they cannot be read), and the results of those that match."""
    results: list[CaseResult] = []

    def note(result: CaseResult) -> None:
        results.append(result)
        if ran is not None:
            ran(result)

    try:
        cases = read_cases(folder, name)
    except PromptError as error:
        note(_broken(name, error))
        return None, results
    wanted = [one for one in cases if matching in f"{name}::{one.id}"]
    if not wanted:
        return cases, results
    try:
        plan = prompts.plan(name)
    except UnknownNameError as error:
        missing = PromptError(f"cases of a prompt that is not there: {error}", path=wanted[0].path, line=1)
        note(_broken(name, missing))
        return cases, results
    except LLMFeaturesError as error:
        note(_broken(name, error, wanted[0].path))
        return cases, results
    for case in wanted:
        note(run_case(plan, case, folder, update=update))
    return cases, results


def run_case(plan: PromptPlan, case: Case, folder: Path, *, update: bool = False) -> CaseResult:
    """Run one case. ``folder`` is the prompts folder; with ``update`` the case's snapshot is written where it is not
    there or differs."""
    failures: list[Failure] = []
    made: PromptContext | None = None
    wanted = case.expect.error
    try:
        made = build_case(plan, case)
    except WrongCaseError as error:
        failures += [Failure("case", one.message, one.path, one.line, one.column) for one in error.problems]
    except LLMFeaturesError as error:
        if wanted is None:
            said = f"the prompt cannot be built: {error}"
            failures.append(Failure("build", said, case.path, case.line, case.column))
        elif wanted.text not in str(error):
            said = f"the error does not contain {wanted.text!r}: {error}"
            failures.append(Failure("error", said, case.path, wanted.line, wanted.column))
    text = written = None
    tokens: int | None = None
    if made is not None:
        text = snapshot_text(made.messages)
        if wanted is not None:
            said = f"the prompt was built; an error that contains {wanted.text!r} was expected"
            failures.append(Failure("error", said, case.path, wanted.line, wanted.column))
        tokens = made.tokens
        failures += _compared(case, made)
        if case.expect.max_tokens is not None:
            tokens, found = _counted(plan, case, made)
            failures += found
        if case.expect.snapshot is not None:
            written, found = _snapshot(plan, case, text, folder, update=update)
            failures += found
    return CaseResult(
        prompt=plan.name,
        id=case.id,
        path=case.path,
        line=case.line,
        failures=tuple(failures),
        text=text,
        tokens=tokens,
        snapshot=written,
    )


# -- expectations ----------------------------------------------------------------------------------------------------


def _compared(case: Case, made: PromptContext) -> Iterable[Failure]:
    expect = case.expect
    yield from _texts(case, expect.texts, made.text, "the prompt")
    yield from _sections(case, made)
    if expect.messages is None or expect.messages_at is None:
        return
    roles = [one["role"] for one in made.messages]
    wanted = [one.role.text for one in expect.messages]
    if roles != wanted:
        said = f"the messages are {', '.join(roles)}, not {', '.join(wanted) or 'none'}"
        yield Failure("messages", said, case.path, expect.messages_at.line, expect.messages_at.column)
        return
    for number, (message, one) in enumerate(zip(made.messages, expect.messages, strict=True), start=1):
        yield from _texts(case, one.texts, message["content"], f"message {number} ({message['role']})")


def _texts(case: Case, texts: Texts, content: str, what: str) -> Iterable[Failure]:
    for one in texts.contains:
        if one.text not in content:
            yield Failure("contains", f"{what} does not contain {one.text!r}", case.path, one.line, one.column)
    for one in texts.not_contains:
        if one.text in content:
            yield Failure("not_contains", f"{what} contains {one.text!r}", case.path, one.line, one.column)
    for one in texts.matches:
        if re.search(one.text, content) is None:
            yield Failure("matches", f"{what} does not match {one.text!r}", case.path, one.line, one.column)


def _sections(case: Case, made: PromptContext) -> Iterable[Failure]:
    """A section in a loop is there several times: all of them have the outcome."""
    for name, one in case.expect.sections.items():
        outcomes = [section.outcome for section in made.manifest.sections if section.name == name]
        if not outcomes:
            known = {section.name for section in made.manifest.sections}
            said = f"no section {name!r} was packed into a budget{did_you_mean(name, known)}"
        elif set(outcomes) != {one.text}:
            said = f"section {name!r} is {' and '.join(dict.fromkeys(outcomes))}, not {one.text}"
        else:
            continue
        yield Failure("sections", said, case.path, one.line, one.column)


def _counted(plan: PromptPlan, case: Case, made: PromptContext) -> tuple[int | None, list[Failure]]:
    """The tokens of the contents of all messages, and whether they are too many."""
    from llmfeatures.tokens import tokenizer

    most: Any = case.expect.max_tokens
    name = TOKENIZER
    tokens = made.tokens
    if tokens is None:
        try:
            count = tokenizer(name).count
        except ConfigError as error:
            return None, [Failure("max_tokens", f"max_tokens: {error}", case.path, most.line, most.column)]
        tokens = sum(count(one["content"]) for one in made.messages)
    if tokens <= most.value:
        return tokens, []
    said = f"prompt {plan.name!r} has {tokens} tokens; max_tokens is {most.value}"
    return tokens, [Failure("max_tokens", said, case.path, most.line, most.column)]


def _snapshot(
    plan: PromptPlan, case: Case, text: str, folder: Path, *, update: bool
) -> tuple[Path | None, list[Failure]]:
    """The snapshot's file when it was written, and what differs when it was not."""
    path = snapshot_path(folder, plan.name, case.id)
    shown = path.relative_to(folder.parent).as_posix()
    at: Any = case.expect.snapshot
    try:
        present = read_snapshot(path)
    except RequestError as error:
        if not update:
            return None, [Failure("snapshot", str(error), case.path, at.line, at.column)]
        present = None
    if present == text:
        return None, []
    if update:
        write_snapshot(path, text)
        return path, []
    if present is None:
        said = f"there is no snapshot {shown} yet; llmfeatures test --update writes it"
        return None, [Failure("snapshot", said, case.path, at.line, at.column)]
    said = f"the prompt differs from {shown}; llmfeatures test --update replaces it"
    return None, [Failure("snapshot", said, case.path, at.line, at.column, tuple(diff_lines(present, text)))]


def _broken(prompt: str, error: LLMFeaturesError, path: str = "") -> CaseResult:
    """The result of a prompt whose cases cannot be run at all."""
    place = (error.path, error.line, error.column) if isinstance(error, PromptError) else (path, None, None)
    said = error.message if isinstance(error, PromptError) else str(error)
    return CaseResult(
        prompt=prompt, id="", path=place[0], line=place[1] or 1, failures=(Failure("case", said, *place),)
    )


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    except OSError as error:
        raise RequestError(f"cannot remove {path}: {error.strerror}") from None
