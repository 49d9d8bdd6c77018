"""Check one prompt file: types every expression of every branch, and renders nothing."""

from __future__ import annotations

from dataclasses import dataclass

from llmfeatures.checker import branches, headers, statements, templates
from llmfeatures.checker.findings import Finding
from llmfeatures.checker.positions import Span
from llmfeatures.checker.run import Frame, Run, parse
from llmfeatures.prompts.environment import PromptEnvironment
from llmfeatures.prompts.file import PromptFile
from llmfeatures.registry import Registry

_READERS = branches, statements
"""Loaded for what they register: they read the statements."""
_PREFIX = 1024
"""Tokens that a text has at least, for providers to keep it as a prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptReport:
    """What the checker found out about one prompt file.

    ``features`` are ``entity.feature`` of all that the prompt reads, with what its on-demand features are computed
    from; ``partials`` the names of the partials that it uses, directly or through others; ``retrievers`` those that its
    header names.
    """

    findings: tuple[Finding, ...] = ()
    features: frozenset[str] = frozenset()
    partials: frozenset[str] = frozenset()
    inputs_read: frozenset[str] = frozenset()
    retrievers: frozenset[str] = frozenset()


def check_prompt(registry: Registry, file: PromptFile, environment: PromptEnvironment) -> PromptReport:
    """Check a prompt file, with all partials that it uses, against a registry. Never raises for any text."""
    run = Run(registry, file, environment)
    try:
        _read(run)
    except RecursionError:
        run.muted = 0
        run.report("LF001", run.source, None, "the template nests too deeply")
    except Exception as error:  # noqa: BLE001  (what the checker did not foresee must not end the check of a project)
        run.muted = 0
        run.report(
            "LF001",
            run.source,
            None,
            f"the checker failed on this file ({type(error).__name__}); the rest of it is not checked",
            severity="warning",
            help="please report it with the file",
        )
    report = PromptReport(
        findings=_sorted(run),
        features=run.names.features(),
        partials=frozenset(run.partials),
        inputs_read=frozenset(run.names.inputs_read),
        retrievers=frozenset(one.retriever for one in file.header.documents.values()),
    )
    run.close()
    return report


def _sorted(run: Run) -> tuple[Finding, ...]:
    own = run.file.path
    return tuple(
        sorted(
            run.findings.values(),
            key=lambda one: (one.path != own, one.path, one.line or 0, one.column or 0, one.code),
        )
    )


def _read(run: Run) -> None:
    parsed = parse(run.environment, run.file.name, run.source)
    if parsed.tree is None:
        run.syntax_error(run.source, parsed.problem or ("a syntax error", None, None))
        return
    frame = Frame()
    run.tops.append(frame)
    with run.scope(frame):
        templates.read_whole(run, parsed.tree)
        headers.check_documents(run)
        templates.read_uncalled(run)
        templates.check_places(run)
    run.settle_agreed()
    headers.check_brought_inputs(run)
    run.names.finish()
    _check_outside(run)
    _check_unused(run)
    _check_breaks(run)
    _check_budget(run)


def _check_outside(run: Run) -> None:
    if not run.uses_messages:
        return
    for source, place, message in run.outside:
        if isinstance(place, tuple):
            run.report("LF008", source, None, f"{message}; move it into a message", span=place)
        else:
            run.report("LF008", source, place, f"{message}; move it into a message")


def _check_unused(run: Run) -> None:
    header, names = run.file.header, run.names
    for name in header.inputs:
        if name not in names.inputs_read and name not in run.suspected:
            names.header(
                "LF061",
                f"input {name!r} is declared, and the template never reads it; remove it",
                "inputs",
                name,
            )
    for name in header.documents:
        if name not in names.uses:
            names.header(
                "LF065", f"documents {name!r} are declared, and the template never reads them", "documents", name
            )
    lacking = any(one.code in ("LF003", "LF004", "LF001") for one in run.findings.values())
    if not run.prints_text and not lacking:
        run.report(
            "LF066", run.source, None, "the prompt can never have any text",
            span=Span(run.file.body_line + 1), help="write it, or remove the file",
        )  # fmt: skip


def _check_breaks(run: Run) -> None:
    if not run.breaks or run.misplaced:
        return
    source, node, first, size = run.breaks[0]
    last = run.breaks[-1][2]
    for place, (at, printed, code) in enumerate(run.before_break):
        if place >= last or (place >= first and code != "LF042"):
            continue
        said = at.written(printed) or "a value"
        message = {
            "LF040": f"{said} is printed before the cache break: what differs from call to call belongs after it",
            "LF042": f"{said} is the moment of the call: before the cache break it makes each call miss the cache",
            "LF043": "a section before the cache break is there in one call, and cut or dropped in the next",
        }[code]
        run.report(code, at, printed, message, help="move it behind {% cache_break %}")
    estimate = size // 4
    if estimate < _PREFIX:
        run.report(
            "LF041",
            source,
            node,
            f"the text before the cache break has about {estimate} tokens; providers keep one of {_PREFIX} and more",
        )


def _check_budget(run: Run) -> None:
    budget = run.file.header.budget
    if budget is None:
        return
    try:
        from llmfeatures import tokens
    except ImportError:
        return
    try:
        tokenizer = tokens.tokenizer(budget.tokenizer)
    except Exception as error:  # noqa: BLE001
        run.names.header("LF002", f"budget: {error}", "budget", "tokenizer")
        return
    count = tokenizer.count("".join(run.literals).strip())
    if count > budget.max_tokens:
        run.names.header(
            "LF071",
            f"the text that is always there has {count} tokens, and the budget is {budget.max_tokens}",
            "budget",
            "max_tokens",
            help="raise max_tokens, shorten the text, or put parts of it into sections",
        )
