"""``llmfeatures context --watch``: the prompt again, checked and rendered, whenever a file of it is saved."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llmfeatures.cli import terminal
from llmfeatures.cli.watched import Files, Preview, Version

if TYPE_CHECKING:
    from llmfeatures.cli.context import Wanted
    from llmfeatures.context import PromptContext
    from llmfeatures.project import Project
    from llmfeatures.prompt_plan import PromptPlan

_EVERY = 0.01
"""Seconds between two looks at the files."""
_QUIT = frozenset(b"qQ\x03\x04")


def watch_prompt(
    project: Project, prompt: str, pairs: Mapping[str, str], wanted: Wanted, *, nobody: bool = False
) -> None:
    """Show the prompt now and after each save, until q or Ctrl-C.

    Args:
        project: the project.
        prompt: the prompt's name.
        pairs: join keys and inputs as they were typed; without a join key, those of a typical entity.
        wanted: the other options.
        nobody: every join key that is not given is None.
    """
    from llmfeatures.errors import UnknownNameError

    if prompt not in project.prompts.names():
        raise UnknownNameError("prompt", prompt, project.prompts.names())
    files = Files(project, prompt)
    options: dict[str, Any] = {} if wanted.as_of is None else {"as_of": wanted.as_of, "clock": wanted.clock}
    preview = Preview(project, prompt, _Values(pairs, wanted, nobody=nobody), options)
    shown = _Shown(files, wanted)
    try:
        with _keys() as quits, suppress(KeyboardInterrupt):
            shown.show(preview.version())
            while not quits(_EVERY):
                if saved := files.changed():
                    shown.show(preview.version(saved, registry=files.registry))
    finally:
        preview.close()


class _Values:
    """The join keys and inputs of each version: as they were typed, with placeholders for inputs that were not."""

    def __init__(self, pairs: Mapping[str, str], wanted: Wanted, *, nobody: bool) -> None:
        self._pairs, self._wanted, self._nobody = pairs, wanted, nobody
        self._examples: dict[tuple[str, ...], Mapping[str, Any]] = {}

    def __call__(self, project: Project, plan: PromptPlan) -> Mapping[str, Any]:
        from llmfeatures.cli.options import parse_pairs, with_keys
        from llmfeatures.prompts.file import ABSENT
        from llmfeatures.types import placeholder

        given = parse_pairs(self._pairs, plan.parameters, f"prompt {plan.name!r}")
        keys = plan.features.parameters
        if keys and not self._nobody and not any(name in given for name in keys):
            given |= self._example(project, plan)
        given = with_keys(given, keys, nobody=self._nobody)
        return given | {
            name: placeholder(name, one.dtype, one.max_chars)
            for name, one in plan.inputs.items()
            if name not in given and one.default is ABSENT
        }

    def _example(self, project: Project, plan: PromptPlan) -> Mapping[str, Any]:
        """The join keys of a typical entity, the same as long as the prompt needs the same ones."""
        from typing import cast

        from llmfeatures.cli.users import three_examples

        names = tuple(plan.features.parameters)
        if names not in self._examples:
            at = self._wanted.as_of or project.clock()
            typical = three_examples(project, plan.features, at, cast("Any", self._wanted.clock))[0]
            self._examples[names] = typical.keys or dict.fromkeys(names)
        return self._examples[names]


class _Shown:
    """What was shown last, and how the next version is shown: in its place in a terminal, else below."""

    def __init__(self, files: Files, wanted: Wanted) -> None:
        self._files, self._wanted = files, wanted
        self._good: PromptContext | None = None
        self._is_terminal = sys.stdout.isatty()

    def show(self, version: Version) -> None:
        """Print a version; one that has no prompt leaves the last good one standing."""
        if self._wanted.as_json:
            terminal.write(json.dumps(self._json(version), ensure_ascii=False))
        elif self._is_terminal:
            terminal.console().clear()
            self._write_prompt(version, version.context or self._good)
            self._write_rest(version)
        else:
            terminal.heading(self._headline(version))
            if version.context is not None:
                self._write_prompt(version, version.context)
            self._write_rest(version)
            terminal.write()
        self._good = version.context or self._good
        sys.stdout.flush()

    def _headline(self, version: Version) -> str:
        if not version.saved:
            return self._files.name(self._files.prompt)
        return f"saved {', '.join(map(self._files.name, version.saved))}"

    def _write_prompt(self, version: Version, made: PromptContext | None) -> None:
        from llmfeatures.cli.context import prompt_text
        from llmfeatures.cli.explained import write_explained, write_marked
        from llmfeatures.explain import explained

        if made is None:
            return
        if self._is_terminal:
            stale = "" if version.context is not None else ", the last one that could be built"
            terminal.heading(f"{made.prompt} {terminal.keys_text(made.manifest.keys)}{stale}")
        if self._wanted.explain:
            write_explained(made, self._wanted.user)
        elif self._is_terminal:
            write_marked(explained(made), self._wanted.user)
        else:
            terminal.write(prompt_text(made, self._wanted.user))

    def _write_rest(self, version: Version) -> None:
        """What changed since the last prompt, what is wrong, and in a terminal how to end."""
        from llmfeatures.cli.context import note_unavailable

        if version.context is not None:
            self._write_changes(version.context)
            note_unavailable(version.context)
        self._write_problems(version)
        if self._is_terminal:
            milliseconds = version.milliseconds()
            took = "" if milliseconds is None else f", {milliseconds:.0f} ms after the save"
            terminal.write()
            terminal.heading(f"{datetime.now().astimezone():%H:%M:%S} {self._headline(version)}{took}; q ends")

    def _write_changes(self, made: PromptContext) -> None:
        from llmfeatures.cli import worddiff
        from llmfeatures.cli.context import prompt_text

        if self._good is None or self._good.messages == made.messages:
            return
        lines = [one for one in worddiff.diff_lines(prompt_text(self._good), prompt_text(made)) if one.sign != " "]
        terminal.write("\nchanged:")
        for line in lines:
            if terminal.coloured():
                terminal.write_styled(worddiff.styled(line))
            else:
                terminal.write(worddiff.plain(line))

    def _write_problems(self, version: Version) -> None:
        from llmfeatures.cli.findings import write_finding

        for one in version.findings:
            terminal.write()
            write_finding(one, version.source)
        if version.problem:
            terminal.write(f"\nno prompt: {' '.join(version.problem.split())}")

    def _json(self, version: Version) -> dict[str, Any]:
        from llmfeatures.checker.output import finding_json
        from llmfeatures.cli.context import context_json

        return {
            "saved": [self._files.name(path) for path in version.saved],
            "context": None if version.context is None else context_json(version.context, self._wanted),
            "problem": version.problem or None,
            "findings": [finding_json(one) for one in version.findings],
            "milliseconds": version.milliseconds(),
        }


@contextmanager
def _keys() -> Generator[Callable[[float], bool]]:
    """A function that waits so many seconds, and says whether a key was pressed that ends it."""
    if not sys.stdin.isatty():
        yield _slept
        return
    try:
        import select
        import termios
        import tty
    except ImportError:  # Windows
        yield _pressed
        return
    stream = sys.stdin.fileno()
    before: Any = termios.tcgetattr(stream)
    tty.setcbreak(stream)

    def quits(seconds: float) -> bool:
        ready, _, _ = select.select([stream], [], [], seconds)
        return bool(ready) and bool(_QUIT.intersection(os.read(stream, 64) or b"q"))

    try:
        yield quits
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)


def _slept(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _pressed(seconds: float) -> bool:
    import msvcrt

    time.sleep(seconds)
    keys: Any = msvcrt
    return bool(keys.kbhit()) and keys.getch() in (b"q", b"Q", b"\x03", b"\x04")
