"""Which findings ``llmfeatures check`` is asked for, and the answer.

`quick` reads the plain forms of the command without the command line's library, which takes longer to load than the
answer of the last time to find. Whatever else is written it leaves to the verb itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmfeatures.checker.warm import Run, WarmRuns
from llmfeatures.cli.findings import Checked, write_findings

FORMATS: Final = ("text", "json", "github", "sarif")
FAIL_ON: Final = {
    "error": ("error",),
    "warning": ("error", "warning"),
    "info": ("error", "warning", "info"),
    "never": (),
}
"""By the least severity that fails, all that do."""
_VALUES: Final = ("--project", "--format", "--select", "--ignore", "--fail-on")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which findings are wanted: of which paths, by which rules, and whether of the sources too."""

    paths: tuple[Path, ...] = ()
    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    sources: bool = True

    def question(self) -> dict[str, object]:
        """The same for `WarmRuns`."""
        select = None if self.select is None else list(self.select)
        paths = [str(path.resolve()) for path in self.paths]
        return {"paths": paths, "select": select, "ignore": list(self.ignore), "sources": self.sources}


def failed(found: Checked, fail_on: str) -> bool:
    """Whether there is a finding of a severity that fails."""
    return any(one.severity in FAIL_ON[fail_on] for one in found.findings)


def answered(run: Run) -> Checked:
    """What was found the last time."""
    return Checked(
        findings=run.findings,
        views=run.views,
        prompts=run.prompts,
        source=lambda path: text_of(run.base / path),
        file_of=run.base.joinpath,
        home=run.home,
    )


def text_of(path: Path) -> str | None:
    """The text of a file; None when it is none."""
    return path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else None


def quick(arguments: Sequence[str], *, anew: bool = False) -> int | None:
    """Answer a check that is written plainly; the exit code, or None where the verb itself has to run.

    Only an answer that is known from the last time is given, or with ``anew`` any.
    """
    words = _words(arguments)
    if words is None:
        return None
    values, paths, flags = words
    shape = (values["--format"] or ["json" if "--json" in flags else "text"])[-1]
    fail_on = (values["--fail-on"] or ["error"])[-1]
    if shape not in FORMATS or fail_on not in FAIL_ON or ("--json" in flags and shape != "json"):
        return None
    asked = Asked(
        paths=tuple(map(Path, paths)),
        select=tuple(values["--select"]) or None,
        ignore=tuple(values["--ignore"]),
        sources="--no-sources" not in flags and not paths,
    )
    project, cached = Path((values["--project"] or ["."])[-1]), "--no-cache" not in flags
    try:
        runs = WarmRuns(project) if cached else None
        run = None if runs is None else runs.find(asked.question())
    except Exception:  # noqa: BLE001  # the verb says what is wrong
        return None
    if run is None and not anew:
        return None
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        found = _found_anew(asked, project, runs) if run is None else answered(run)
        write_findings(found, shape)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001  # told as all errors are, or raised again
        from llmfeatures.cli.app import told

        return told(error)
    return int(failed(found, fail_on))


def _found_anew(asked: Asked, project: Path, runs: WarmRuns | None) -> Checked:
    from llmfeatures.cli.checked import checked_anew

    return checked_anew(asked, project, runs)


def _words(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str], set[str]] | None:
    """Values by option, paths, and flags; None for what only the verb understands."""
    if not arguments or arguments[0] != "check":
        return None
    values: dict[str, list[str]] = {name: [] for name in _VALUES}
    paths: list[str] = []
    flags: set[str] = set()
    rest = iter(arguments[1:])
    for word in rest:
        name, equals, value = word.partition("=")
        if name in values:
            given = value if equals else next(rest, None)
            if given is None or given.startswith("-"):
                return None
            values[name].append(given)
        elif word in ("--json", "--no-sources", "--no-cache"):
            flags.add(word)
        elif word.startswith("-") or not word:
            return None
        else:
            paths.append(word)
    return values, paths, flags
