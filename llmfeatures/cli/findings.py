"""Findings of the checker on standard output, in each of its formats."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmfeatures.cli import terminal

if TYPE_CHECKING:
    from llmfeatures.checker.findings import Finding
    from llmfeatures.checker.output import Runs


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a check found. ``source`` gives a file's text by its path in findings, ``file_of`` the file itself;
    ``home`` is the file that stands for what is none, such as a view."""

    findings: Sequence[Finding]
    views: int
    prompts: int
    source: Callable[[str], str | None]
    file_of: Callable[[str], Path]
    home: Path


def write_findings(checked: Checked, shape: str) -> None:
    """Print findings in one of the checker's formats."""
    from llmfeatures.checker import output

    match shape:
        case "json":
            counts = {"views": checked.views, "prompts": checked.prompts}
            problems = [output.finding_json(one) for one in checked.findings]
            terminal.write_json({"problems": problems, "checked": counts})
        case "sarif":
            from llmfeatures.version import __version__

            terminal.write_json(
                output.sarif(checked.findings, lambda path: _relative(checked, path), version=__version__)
            )
        case "github":
            for one in checked.findings:
                terminal.write(output.github(one, _relative(checked, one.path)))
        case _:
            for one in checked.findings:
                write_finding(one, checked.source)
                terminal.write()
            terminal.write(_summary(checked))


def write_finding(finding: Finding, source: Callable[[str], str | None]) -> None:
    """Print a finding as text; in a terminal its line fits, so that the carets stand below the place."""
    from shutil import get_terminal_size

    from llmfeatures.checker.output import WIDEST, text_lines

    gutter = len(f"{finding.line} | …")
    room = get_terminal_size().columns - gutter if sys.stdout.isatty() else WIDEST
    write_lines(text_lines(finding, source, max(20, min(room, WIDEST))))


def write_lines(lines: Sequence[Runs]) -> None:
    """Lines of pieces with styles, coloured where there are colours."""
    from llmfeatures.checker.output import plain

    if not (sys.stdout.isatty() and terminal.coloured()):
        terminal.write(plain(lines))
        return
    from rich.text import Text

    for runs in lines:
        terminal.write_styled(Text.assemble(*runs))


def _relative(checked: Checked, path: str) -> str:
    """The path from where the command runs, as the services that read these formats want it."""
    file = checked.file_of(path)
    return Path(os.path.relpath(file if file.is_file() else checked.home)).as_posix()


def _summary(checked: Checked) -> str:
    severities = [one.severity for one in checked.findings]
    counts = [counted(severities.count(severity), severity) for severity in ("error", "warning")]
    if infos := severities.count("info"):
        counts.append(counted(infos, "info"))
    return f"checked {counted(checked.views, 'view')}, {counted(checked.prompts, 'prompt')}: {', '.join(counts)}"


def counted(number: int, noun: str) -> str:
    """``1 view``, ``2 views``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
