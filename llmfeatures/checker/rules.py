"""The rules of the checker: a stable code, a name and a severity each. Codes are never used again for another rule; of
those that are no more, LF009 was ``not-available``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmfeatures.checker.findings import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. ``summary`` is a line; its page, with a bad and a good example, is `pages.page`."""

    code: str
    name: str
    severity: Severity
    summary: str


def _rules(*rows: tuple[str, str, Severity, str]) -> dict[str, Rule]:
    return {
        code: Rule(code=code, name=name, severity=severity, summary=summary) for code, name, severity, summary in rows
    }


RULES: Final = _rules(
    # files
    ("LF001", "syntax-error", "error", "the template cannot be parsed"),
    ("LF002", "header-error", "error", "the header is wrong"),
    ("LF003", "missing-partial", "error", "an include, import or extends names no partial"),
    ("LF004", "circular-partial", "error", "partials include each other in a circle"),
    ("LF005", "registry-error", "error", "the registry, or the project around it, cannot be loaded or used"),
    ("LF006", "source-error", "error", "a view's source is not what the registry says"),
    ("LF007", "source-advice", "warning", "something about a view's source deserves a look"),
    ("LF008", "outside-text", "error", "text outside of messages"),
    # names
    ("LF010", "unknown-name", "error", "nothing has this name here"),
    ("LF011", "unknown-filter", "error", "there is no filter or test of this name"),
    ("LF015", "unknown-attribute", "error", "the entity, document, macro module or loop has no such attribute"),
    ("LF019", "name-conflict", "error", "a name has two meanings, or an entity stands where a feature belongs"),
    # types
    ("LF012", "compare-type", "error", "values of types that cannot be equal, or cannot be ordered, are compared"),
    ("LF013", "arithmetic-type", "error", "an operator does not go with the types of its operands"),
    ("LF014", "filter-type", "error", "a filter or test does not take this value, or these arguments"),
    ("LF016", "attribute-on-value", "error", "a value of this type has no such attribute, method or item"),
    ("LF017", "call-type", "error", "a call of what is no function or macro, or with arguments that it does not take"),
    ("LF018", "loop-type", "error", "a loop over what is no list, or an unpacking that does not fit"),
    (
        "LF034",
        "print-callable",
        "error",
        "what has no text is printed: a method, macro, loop, namespace or unfinished series",
    ),
    # values that may be absent
    ("LF020", "none-printed", "error", "a value that may be None is printed without a guard"),
    ("LF021", "none-compared", "error", "a value that may be None is ordered against another without a guard"),
    (
        "LF022",
        "none-computed",
        "error",
        "a value that may be None is used in arithmetic, a loop, a filter, or for an attribute",
    ),
    ("LF023", "no-policy", "warning", "a feature has no policy, so that an entity without it gets an error"),
    ("LF024", "default-ignores-none", "warning", "the filter default does not replace None"),
    (
        "LF025",
        "truth-of-zero",
        "warning",
        "a truth test of a number that may be None treats 0 like None",
    ),
    (
        "LF026",
        "maybe-undefined",
        "error",
        "what may be undefined is read: a name that only some branches set, an if without else",
    ),
    ("LF027", "maybe-empty", "warning", "the first, last or n-th item is taken of a list that may have none"),
    # logic
    ("LF030", "enum-word-unknown", "warning", "an enum is compared with a word that it never is"),
    ("LF031", "constant-condition", "warning", "a condition is always true, or never"),
    ("LF032", "silent-conversion", "warning", "the filter int or float turns text that is no number into 0"),
    ("LF033", "loop-over-text", "warning", "a loop over text goes through its characters"),
    ("LF052", "zero-division", "warning", "a division by a value that may be 0"),
    ("LF053", "not-repeatable", "error", "the clock, chance or the machine would decide the prompt"),
    # provider caches
    ("LF040", "value-before-break", "warning", "a value is printed before {% cache_break %}"),
    ("LF041", "short-prefix", "info", "the text before {% cache_break %} is too short for a provider to cache it"),
    ("LF042", "time-before-break", "warning", "a moment is printed before {% cache_break %}, and changes at each call"),
    ("LF043", "section-before-break", "warning", "a section before {% cache_break %} may be dropped or cut"),
    # people's text
    ("LF050", "unfenced-text", "warning", "free text of a feature keeps its line breaks and stands outside a fence"),
    ("LF051", "computed-in-template", "warning", "features are combined in the template; that is an on-demand feature"),
    # what is not used
    ("LF060", "unused-policy", "warning", "the header has a policy for a feature that the template never reads"),
    ("LF061", "unused-input", "warning", "the header declares an input that the template never reads"),
    ("LF062", "unused-feature", "info", "no prompt reads this feature"),
    ("LF063", "unused-partial", "warning", "no prompt uses this partial"),
    ("LF064", "unused-variable", "warning", "a variable or macro is set and never read"),
    ("LF065", "unused-documents", "warning", "the header declares documents that the template never reads"),
    ("LF066", "empty-prompt", "warning", "the prompt, or a query, can never have any text"),
    ("LF067", "unused-retriever", "info", "no prompt names this retriever"),
    # budgets
    ("LF071", "budget-too-small", "error", "the text that is always there is longer than the budget alone"),
    ("LF072", "section-without-budget", "warning", "a section has a priority or a limit, and the header has no budget"),
    # the checker itself
    ("LF080", "unused-ignore", "warning", "an ignore comment names no rule, or silences nothing"),
)
"""Each rule by its code."""
