"""What a case that failed looks like, line by line, in a terminal as in pytest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmfeatures.cases.run import CaseResult, Failure
from llmfeatures.worddiff import DiffLine

AROUND = 2
"""So many lines that are the same are shown before and after one that differs."""
MOST_LINES = 40
"""A prompt longer than this is shown in part."""


def failure_line(result: CaseResult, failure: Failure) -> str:
    """``file:line:column: id: what is wrong``, on one line."""
    whose = f"{result.id}: " if result.id else ""
    return f"{failure.where}: {whose}{' '.join(failure.message.split())}"


def differing(diff: Sequence[DiffLine]) -> Iterator[DiffLine | int]:
    """The lines of a difference that differ with some around them; and for those left out between, how many."""
    changed = [at for at, line in enumerate(diff) if line.sign != " "]
    kept = {at for one in changed for at in range(one - AROUND, one + AROUND + 1)}
    left_out = 0
    for at, line in enumerate(diff):
        if at not in kept:
            left_out += 1
            continue
        if left_out:
            yield left_out
            left_out = 0
        yield line
    if left_out:
        yield left_out


def shown_text(result: CaseResult) -> list[str]:
    """The prompt's lines, where a failure is about its text and no difference shows it; none else."""
    about = any(one.kind not in ("snapshot", "case", "build") for one in result.failures)
    about = about or any(one.kind == "snapshot" and not one.diff for one in result.failures)
    if result.text is None or not about or any(one.diff for one in result.failures):
        return []
    lines = [f"  | {line}".rstrip() for line in result.text.split("\n")]
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = [f"  … {len(lines) - MOST_LINES} more lines"]
    return lines
