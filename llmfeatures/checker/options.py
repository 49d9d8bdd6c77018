"""Which rules count, and how much: a project's ``[check]`` section and a run's options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from llmfeatures.checker.findings import Finding, Severity
from llmfeatures.checker.rules import RULES
from llmfeatures.errors import RequestError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """Rules by code. ``select`` are the only ones that count, None is all; ``per_file`` are those that do not count for
    the files whose path, below the prompts folder, matches a pattern like ``support/*``."""

    select: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()
    severities: Mapping[str, Severity] = field(default_factory=dict[str, Severity])
    per_file: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    def judged(self, code: str, place: str) -> bool:
        """Whether a rule counts for a file. ``place`` is its path below the prompts folder, empty for what is no file
        there."""
        if code in self.ignore or (self.select is not None and code not in self.select):
            return False
        return not any(code in codes and _matches(place, pattern) for pattern, codes in self.per_file.items())

    def apply(self, finding: Finding, place: str) -> Finding | None:
        """The finding with the severity that it is to have, None when it does not count."""
        if not self.judged(finding.code, place):
            return None
        severity = self.severities.get(finding.code, finding.severity)
        return finding if severity == finding.severity else replace(finding, severity=severity)


def _matches(place: str, pattern: str) -> bool:
    return bool(place) and (fnmatchcase(place, pattern) or fnmatchcase(place.removesuffix(".prompt.j2"), pattern))


def rule_codes(written: Iterable[str]) -> frozenset[str]:
    """Codes from words that may hold several, separated by commas.

    Raises:
        RequestError: there is no such rule.
    """
    codes = [code.strip() for word in written for code in word.split(",") if code.strip()]
    for code in codes:
        if code not in RULES:
            raise RequestError(f"there is no rule {code!r}{did_you_mean(code, RULES)}")
    return frozenset(codes)
