"""Apply the edits of findings to a file: all that do not overlap, at once, and only when that makes nothing worse."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmfeatures.checker.findings import Edit, Finding
from llmfeatures.errors import RequestError
from llmfeatures.files import replacing

_BREAK = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What was done to a file: the findings that were mended, or why nothing was."""

    path: str
    mended: tuple[Finding, ...] = ()
    refused: str = ""


class _ChangedError(Exception):
    """Leaves the block that would replace the file."""


def fixed_text(source: str, findings: Iterable[Finding]) -> tuple[str, tuple[Finding, ...]]:
    """The text with the edits of the findings applied, and the findings whose edits were: of those that overlap, the
    first one's. Line breaks stay as they are."""
    starts = [0, *(match.end() for match in _BREAK.finditer(source))]
    ends = [*(match.start() for match in _BREAK.finditer(source)), len(source)]
    taken: list[tuple[int, int, str]] = []
    mended: list[Finding] = []
    for finding in findings:
        spans = [span for edit in finding.edits if (span := _span(edit, starts, ends, len(source))) is not None]
        if spans and len(spans) == len(finding.edits) and not _overlap([*taken, *spans], len(taken)):
            taken += spans
            mended.append(finding)
    for start, end, text in sorted(taken, key=lambda one: one[:2], reverse=True):
        source = source[:start] + text + source[end:]
    return source, tuple(mended)


def _span(edit: Edit, starts: Sequence[int], ends: Sequence[int], length: int) -> tuple[int, int, str] | None:
    """Where in the text the edit is; None when it is nowhere there."""

    def offset(line: int, column: int) -> int | None:
        if line == len(starts) + 1 and column == 1:
            return length
        if not 1 <= line <= len(starts) or not 1 <= column <= ends[line - 1] - starts[line - 1] + 1:
            return None
        return starts[line - 1] + column - 1

    start, end = offset(edit.line, edit.column), offset(edit.end_line, edit.end_column)
    return None if start is None or end is None or end < start else (start, end, edit.text)


def _overlap(spans: Sequence[tuple[int, int, str]], old: int) -> bool:
    """Whether a span after the first ``old`` ones overlaps another, or two insert at the same place."""
    return any(
        (start < other_end and other_start < end) or (start, end) == (other_start, other_end)
        for at, (start, end, _) in enumerate(spans[old:], start=old)
        for other_start, other_end, _ in spans[:at]
    )


def fix_file(
    file: Path,
    path: str,
    checked: bytes,
    *,
    findings: Sequence[Finding],
    before: Iterable[Finding],
    recheck: Callable[[str], Iterable[Finding]],
) -> Fixed:
    """Mend a file.

    Args:
        file: where it is.
        path: what it is called in findings.
        checked: its content when it was checked; UTF-8.
        findings: those of this file that are to be mended.
        before: all that was found with this content.
        recheck: all that is found with another text in the file's place.
    """
    source = checked.decode("utf-8")
    mark = "\ufeff" if source.startswith("\ufeff") else ""
    text, mended = fixed_text(source.removeprefix("\ufeff"), findings)
    if not mended:
        return Fixed(path=path)
    worse = _errors(recheck(text)) - _errors(before)
    if worse:
        return Fixed(path=path, refused=f"mending it would have led to {', '.join(sorted(worse))}; mend it by hand")
    try:
        with replacing(file, mode=file.stat().st_mode & 0o7777) as part:
            part.write_bytes((mark + text).encode("utf-8"))
            _same(file, checked)
    except _ChangedError:
        return Fixed(path=path, refused="it has changed since it was checked; check again")
    except (OSError, RequestError) as error:
        return Fixed(path=path, refused=f"it cannot be written: {error}")
    return Fixed(path=path, mended=mended)


def _same(file: Path, checked: bytes) -> None:
    if file.read_bytes() != checked:
        raise _ChangedError


def _errors(findings: Iterable[Finding]) -> Counter[str]:
    return Counter(one.code for one in findings if one.severity == "error")
