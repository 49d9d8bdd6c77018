"""Comments that silence findings: ``{# lf: ignore[LF012] #}`` in a template, ``# lf: ignore[LF060]`` in a header."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from llmfeatures.checker.findings import Edit, Finding
from llmfeatures.checker.rules import RULES
from llmfeatures.errors import did_you_mean

FIXED: Final = frozenset(
    {"LF001", "LF002", "LF003", "LF004", "LF005", "LF008", "LF010", "LF011", "LF015", "LF019", "LF053"}
)
"""Rules that no comment silences: what they find stops a prompt from being built."""
_STOPS: Final = frozenset({"LF001", "LF002"})
"""After these, the rest of a file was not checked, and nobody knows what a comment would silence."""

_COMMENT = re.compile(r"\{#[-+]?\s*lf:(?P<said>.*?)[-+]?#\}", re.DOTALL)
_HEADER_COMMENT = re.compile(r"(?:^|(?<=\s))#\s*lf:(?P<said>.*)$", re.MULTILINE)
_RAW = re.compile(r"\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}", re.DOTALL)
_SAID = re.compile(r"\s*(?P<what>ignore-file|ignore)\b(?!-)\s*(?:\[(?P<codes>[^\]]*)\])?(?P<why>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignore:
    """One comment. ``covers`` is the line whose findings it silences, None for the whole file; ``wrong`` says what is
    wrong with the comment itself. ``alone`` is one with nothing else on its lines. Without a ``removable`` one the
    prompt has the same bytes."""

    line: int
    column: int
    end_line: int
    end_column: int
    alone: bool
    covers: int | None
    codes: tuple[str, ...] = ()
    wrong: str = ""
    removable: bool = True


def ignores_in(source: str, header_lines: int) -> list[Ignore]:
    """The comments of a file, of whose lines the first ``header_lines`` are its header, in order."""
    if "lf:" not in source:
        return []
    lines = source.split("\n")
    header, body = "\n".join(lines[:header_lines]), "\n".join(lines[header_lines:])
    return [
        *_comments(_HEADER_COMMENT, header, 0),
        *_comments(_COMMENT, _RAW.sub(_blank, body), header_lines),
    ]


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def _comments(pattern: re.Pattern[str], text: str, offset: int) -> list[Ignore]:
    """The comments of one part of a file, before which there are ``offset`` lines."""
    matches = list(pattern.finditer(text))
    without = pattern.sub(_blank, text).split("\n")
    spans = [(text.count("\n", 0, match.start()), text.count("\n", 0, match.end())) for match in matches]
    alone = [not any(without[line].strip() for line in range(start, end + 1)) for start, end in spans]
    only = {line for (start, end), one in zip(spans, alone, strict=True) if one for line in range(start, end + 1)}
    found: list[Ignore] = []
    for match, (start, end), lonely in zip(matches, spans, alone, strict=True):
        covers = start
        if lonely:
            covers = end + 1
            while covers in only:
                covers += 1
        found.append(
            _read(
                match,
                line=start + offset + 1,
                end_line=end + offset + 1,
                column=match.start() - text.rfind("\n", 0, match.start()),
                end_column=match.end() - text.rfind("\n", 0, match.end()),
                covers=covers + offset + 1,
                alone=lonely,
                removable=pattern is _HEADER_COMMENT or _is_removable(text, match, alone=lonely),
            )
        )
    return found


def _read(
    match: re.Match[str],
    *,
    line: int,
    end_line: int,
    column: int,
    end_column: int,
    covers: int,
    alone: bool,
    removable: bool,
) -> Ignore:
    said = _SAID.fullmatch(match["said"])
    written: str = (said["codes"] or "") if said else ""
    codes = tuple(one.strip() for one in written.split(",") if one.strip())
    if said is None:
        wrong = "a comment for the checker is {# lf: ignore[CODE] #} or {# lf: ignore-file[CODE] #}"
    elif not codes:
        wrong = f"{said['what']} without a code would silence everything; name the rules, like {said['what']}[LF052]"
    else:
        wrong = next((said for said in map(_wrong_code, codes) if said), "")
    return Ignore(
        line=line,
        column=column,
        end_line=end_line,
        end_column=end_column,
        alone=alone,
        covers=None if said and said["what"] == "ignore-file" else covers,
        codes=() if wrong else codes,
        wrong=wrong,
        removable=removable,
    )


def _is_removable(text: str, match: re.Match[str], *, alone: bool) -> bool:
    """Whether the text around a comment stays as it is without it.

    Jinja takes with it the blanks that begin its line, the line break that follows it, and white space where a ``-``
    says so; it takes a file's last line break, too; and of two comments on a line neither is the whole line.
    """
    above, below = text[: match.start()], text[match.end() :]
    before, after = above.rpartition("\n")[2], below.partition("\n")[0]
    if match[0].startswith("{#-") or above.rstrip().endswith(("-%}", "-}}", "-#}")):
        return False
    if match[0].endswith("-#}") or not below.strip() or below.lstrip().startswith(("{%-", "{{-", "{#-")):
        return False
    if alone:
        return not before.strip() and not after.strip() and not match[0].startswith("{#+") and match[0][-3] != "+"
    return bool(before.strip()) and (bool(after.strip()) or match[0][-3] == "+")


def _wrong_code(code: str) -> str:
    if code not in RULES:
        return f"there is no rule {code!r}{did_you_mean(code, RULES)}"
    if code in FIXED:
        return f"{code} cannot be ignored: a prompt with it cannot be built"
    return ""


def silence(
    path: str, findings: Iterable[Finding], ignores: Sequence[Ignore], *, judged: Callable[[str], bool]
) -> list[Finding]:
    """The findings of one file that no comment silences, and one for each comment that is wrong or silences nothing.

    Args:
        path: the file, as its findings have it.
        findings: those of this file.
        ignores: its comments.
        judged: whether a rule was looked at, so that a comment for it could have silenced something.
    """
    kept: list[Finding] = []
    used: set[tuple[Ignore, str]] = set()
    stopped = False
    for finding in findings:
        stopped = stopped or finding.code in _STOPS
        by = [one for one in ignores if finding.code in one.codes and one.covers in (None, finding.line)]
        used |= {(one, finding.code) for one in by}
        if not by:
            kept.append(finding)
    for one in ignores:
        if one.wrong:
            kept.append(_finding(path, one, one.wrong))
        elif not stopped:
            idle = [code for code in one.codes if (one, code) not in used and judged(code)]
            if idle:
                where = "in this file" if one.covers is None else f"on line {one.covers}"
                message = f"nothing {where} is found by {' or '.join(idle)}; remove the comment"
                whole = one.removable and len(idle) == len(one.codes)
                kept.append(_finding(path, one, message, _without(one) if whole else ()))
    return kept


def _finding(path: str, ignore: Ignore, message: str, edits: tuple[Edit, ...] = ()) -> Finding:
    return Finding(
        code="LF080",
        severity=RULES["LF080"].severity,
        path=path,
        message=message,
        line=ignore.line,
        column=ignore.column,
        end_line=ignore.end_line,
        end_column=ignore.end_column,
        edits=edits,
    )


def _without(ignore: Ignore) -> tuple[Edit, ...]:
    """The edit that removes a comment, with its line when nothing else is on it."""
    if ignore.alone:
        return (Edit(line=ignore.line, column=1, end_line=ignore.end_line + 1, end_column=1, text=""),)
    return (
        Edit(line=ignore.line, column=ignore.column, end_line=ignore.end_line, end_column=ignore.end_column, text=""),
    )
