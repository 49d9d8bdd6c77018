"""Findings as text with the source line, as GitHub's workflow commands, as SARIF and as JSON."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from llmfeatures.checker.findings import Finding, Severity
from llmfeatures.checker.rules import RULES

Runs = list[tuple[str, str]]
"""One line as pieces of text, each with its style (as rich names them) or an empty one."""

FORMATS: Final = ("text", "json", "github", "sarif")
COLOURS: Final[dict[Severity, str]] = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}
_TAB: Final = 4
WIDEST: Final = 120
_BEFORE: Final = 40
"""Of a line that is wider, a window is shown that begins so much before the place."""


def where(finding: Finding) -> str:
    """``path:line:column``, as far as it is known."""
    return ":".join(str(part) for part in (finding.path, finding.line, finding.column) if part)


def finding_json(finding: Finding) -> dict[str, Any]:
    """A finding for a program."""
    return {
        "code": finding.code,
        "rule": RULES[finding.code].name,
        "severity": finding.severity,
        "where": where(finding),
        "message": finding.message,
        "help": finding.help,
        "path": finding.path,
        "line": finding.line,
        "column": finding.column,
        "end_line": finding.end_line,
        "end_column": finding.end_column,
        "edits": [asdict(edit) for edit in finding.edits],
    }


# -- text ------------------------------------------------------------------------------------------------------------


def text_lines(finding: Finding, source: Callable[[str], str | None], widest: int = WIDEST) -> list[Runs]:
    """A finding as people read it: severity, code and message, the place, the line with carets below, the help.

    ``source`` gives the text of a file by its path, None for what is no file. Of its line at most ``widest`` cells are
    shown.
    """
    colour = COLOURS[finding.severity]
    lines: list[Runs] = [
        [(f"{finding.severity}[{finding.code}]", colour), (f": {_one_line(finding.message)}", "bold")],
        [("  --> ", "blue"), (printable(where(finding)), "")],
    ]
    gutter = 0
    if finding.line is not None and (written := _line_of(source(finding.path), finding.line)) is not None:
        number = str(finding.line)
        gutter = len(number)
        shown, before, width = _snippet(written, finding, widest)
        lines.append([(f"{number} | ", "blue"), (shown, "")])
        if finding.column is not None:
            lines.append([(f"{' ' * gutter} | ", "blue"), (" " * before, ""), ("^" * width, colour)])
    if finding.help:
        lines.append([(f"{' ' * gutter} = ", "blue"), ("help: ", "bold"), (_one_line(finding.help), "")])
    return lines


def plain(lines: Iterable[Runs]) -> str:
    """The lines without styles."""
    return "\n".join("".join(text for text, _ in runs).rstrip() for runs in lines)


def _line_of(source: str | None, line: int) -> str | None:
    lines = [] if source is None else source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[line - 1] if 0 < line <= len(lines) else None


def _snippet(written: str, finding: Finding, widest: int) -> tuple[str, int, int]:
    """The line as it is shown, how many cells stand before the carets, and how many carets."""
    start = min(len(written), (finding.column or 1) - 1)
    within = finding.end_line in (None, finding.line) and finding.end_column is not None
    end = max(start + 1, min(len(written), (finding.end_column or 1) - 1) if within else start + 1)
    if finding.end_line is not None and finding.line is not None and finding.end_line > finding.line:
        end = max(start + 1, len(written.rstrip()))
    cells = _cells(written)
    before = sum(width for _, width in cells[:start])
    width = max(1, sum(width for _, width in cells[start:end]))
    if sum(width for _, width in cells) <= widest:
        return "".join(text for text, _ in cells), before, width
    return _window(cells, start, width, widest)


def _window(cells: Sequence[tuple[str, int]], start: int, width: int, widest: int) -> tuple[str, int, int]:
    """So much of a long line as shows the place."""
    first, room = start, min(_BEFORE, widest // 2)
    while first > 0 and cells[first - 1][1] <= room:
        first -= 1
        room -= cells[first][1]
    shown, last, used = ["…"] if first else [], first, 1 if first else 0
    while last < len(cells) and used + cells[last][1] < widest:
        used += cells[last][1]
        shown.append(cells[last][0])
        last += 1
    before = (1 if first else 0) + sum(one for _, one in cells[first:start])
    return "".join(shown) + ("…" if last < len(cells) else ""), before, max(1, min(width, used - before))


def _cells(text: str) -> list[tuple[str, int]]:
    """Each character as it is shown, and how many cells of a terminal it takes there."""
    made: list[tuple[str, int]] = []
    at = 0
    for one in text:
        if one == "\t":
            shown = " " * (_TAB - at % _TAB)
            width = len(shown)
        elif not one.isprintable():
            shown = one.encode("unicode_escape").decode()
            width = len(shown)
        else:
            shown = one
            width = 0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        made.append((shown, width))
        at += width
    return made


def printable(text: str) -> str:
    """The text with whatever is not printable as an escape, so that no text drives a terminal."""
    return text if text.isprintable() else "".join(shown for shown, _ in _cells(text))


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


# -- GitHub ----------------------------------------------------------------------------------------------------------


def github(finding: Finding, path: str) -> str:
    """A workflow command that annotates the line in a pull request. ``path`` is relative to the repository's root."""
    command = {"error": "error", "warning": "warning", "info": "notice"}[finding.severity]
    fields: dict[str, object] = {"title": f"{finding.code} {RULES[finding.code].name}"}
    if finding.line is not None:
        fields = {"file": path, "line": finding.line, "col": finding.column, **fields}
        if finding.end_line in (None, finding.line) and finding.end_column is not None:
            # the column of the last character; ours is the one after it
            fields["endColumn"] = max(finding.column or 1, finding.end_column - 1)
        elif finding.end_line is not None:
            del fields["col"]  # GitHub takes columns on one line only
            fields["endLine"] = finding.end_line
    said = finding.message if finding.line is not None else f"{finding.path}: {finding.message}"
    message = said + (f"\nhelp: {finding.help}" if finding.help else "")
    options = ",".join(f"{name}={_property(str(value))}" for name, value in fields.items() if value is not None)
    return f"::{command} {options}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


# -- SARIF -----------------------------------------------------------------------------------------------------------

_LEVELS: Final[dict[Severity, str]] = {"error": "error", "warning": "warning", "info": "note"}


def sarif(findings: Sequence[Finding], path_of: Callable[[str], str], *, version: str) -> dict[str, Any]:
    """A SARIF 2.1.0 log with one run. ``path_of`` gives a path relative to the repository's root, with ``/``, also for
    what is no file: a service that reads the log wants one for each result."""
    codes = list(RULES)
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "llmfeatures",
                        "semanticVersion": version,
                        "rules": [_sarif_rule(code) for code in codes],
                    }
                },
                # columns count characters, not UTF-16 units
                "columnKind": "unicodeCodePoints",
                "results": [_sarif_result(finding, codes, path_of) for finding in findings],
            }
        ],
    }


def _sarif_rule(code: str) -> dict[str, Any]:
    from llmfeatures.checker.pages import page

    rule, whole = RULES[code], page(code)
    return {
        "id": code,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.summary},
        "help": {"text": whole, "markdown": whole},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _sarif_result(finding: Finding, codes: Sequence[str], path_of: Callable[[str], str]) -> dict[str, Any]:
    said = finding.message + (f"\n{finding.help}" if finding.help else "")
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": codes.index(finding.code),
        "level": _LEVELS[finding.severity],
        "message": {"text": said if finding.line is not None else f"{finding.path}: {said}"},
    }
    artifact = {"uri": _uri(path_of(finding.path))}
    place: dict[str, Any] = {"artifactLocation": artifact}
    if finding.line is not None:
        end = {"endLine": finding.end_line, "endColumn": finding.end_column}
        region = {"startLine": finding.line, "startColumn": finding.column, **(end if finding.end_column else {})}
        place["region"] = {key: value for key, value in region.items() if value is not None}
    result["locations"] = [{"physicalLocation": place}]
    if finding.edits:
        replacements = [
            {
                "deletedRegion": {
                    "startLine": edit.line,
                    "startColumn": edit.column,
                    "endLine": edit.end_line,
                    "endColumn": edit.end_column,
                },
                "insertedContent": {"text": edit.text},
            }
            for edit in finding.edits
        ]
        change = {"artifactLocation": artifact, "replacements": replacements}
        result["fixes"] = [{"description": {"text": finding.help or "apply the fix"}, "artifactChanges": [change]}]
    return result


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path)
