"""How long checking takes: 200 generated prompt files of 100 lines, by the engine in one process.

Run as ``python -m tests.benchmarks.check``; ``--json`` for figures alone, ``--write FOLDER`` to leave a project with
these files for `llmfeatures check`. Times are of the processor, since other work on a machine says nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llmfeatures.checker.engine import check_prompt
from llmfeatures.checker.positions import Source
from llmfeatures.checker.run import parse
from llmfeatures.prompts.environment import make_environment
from llmfeatures.prompts.file import parse_prompt, read_prompt
from llmfeatures.registry import load_registry

FILES, LINES = 200, 100
REGISTRY = """\
from llmfeatures import Entity, FeatureView, Registry

user = Entity("user", join_key="user_id")
features = {
    "user_segment": "enum[casual,power_user]",
    "watch_count_30d": "int",
    "last_genre": "str",
    "genres": "list[str]",
    "last_titles": "list[str]",
}
registry = Registry([FeatureView("profile", user, "data/profile.parquet", features)])
"""
_HEAD = """\
---
description: Prompt {number}
features:
  user_segment: {{default: unknown}}
  watch_count_30d: {{on_missing: none}}
  last_genre: {{on_missing: none}}
  genres: {{default: []}}
  last_titles: {{default: []}}
inputs:
  question: {{type: str, max_chars: 500}}
---
{{% from "_shared/lists.j2" import line %}}
{{% message "system" %}}
"""
_PART = """\
Rule {part} of prompt {number}: answer in at most {part} sentences, and be kind to whoever asks.
Say nothing that the viewer did not ask for, and never make up a title.
{{% if watch_count_30d is not none and watch_count_30d >= {part} %}}
A heavy viewer: {{{{ watch_count_30d }}}} titles in the last 30 days.
{{% elif user_segment == "casual" %}}
Prefer {{{{ genres | map("title") | join(", ") }}}}.
{{% else %}}
- {{{{ line("Genre", last_genre) }}}}
{{% endif %}}
{{% for one in last_titles %}}{{{{ loop.index }}}}. {{{{ one | truncate(40) }}}}
{{% endfor %}}
"""
_END = '{{% endmessage %}}\n{{% message "user" %}}\n{{{{ question }}}}\n{{% endmessage %}}\n'
_LISTS = "{% macro line(label, value) %}{% if value is not none %}{{ label }}: {{ value }}{% endif %}{% endmacro %}\n"


def prompt(number: int) -> str:
    """A prompt file of `LINES` lines."""
    lines = _HEAD.format(number=number).split("\n")[:-1]
    part = 0
    while len(lines) + 11 <= LINES - 4:
        part += 1
        lines += _PART.format(number=number, part=part).split("\n")[:-1]
    while len(lines) < LINES - 4:
        lines.append("Text without an expression in it, for the model to read and to follow.")
    return "\n".join(lines + _END.format().split("\n"))


def write(root: Path) -> None:
    """A project with the generated files."""
    (root / "prompts" / "_shared").mkdir(parents=True)
    (root / "llmfeatures.toml").write_text('[project]\nname = "bench"\nregistry = "features.py"\n')
    (root / "features.py").write_text(REGISTRY)
    (root / "prompts" / "_shared" / "lists.j2").write_text(_LISTS)
    for number in range(FILES):
        (root / "prompts" / f"p{number:03}.prompt.j2").write_text(prompt(number))


def measure(root: Path) -> dict[str, Any]:
    """Milliseconds of the processor."""
    registry, env = load_registry("features.py", root), make_environment(root / "prompts")
    names = [f"p{number:03}" for number in range(FILES)]
    start = time.process_time()
    files = [read_prompt(root / "prompts", name) for name in names]
    read = time.process_time()
    findings = sum(len(check_prompt(registry, file, env).findings) for file in files)
    checked = time.process_time()
    for file in files:
        parse(env, file.name, Source(file.path, file.body, file.body_line))
    parsed = time.process_time()
    again: list[float] = []
    for file in files[:50]:
        before = time.process_time()
        text = (root / "prompts" / f"{file.name}.prompt.j2").read_text()
        check_prompt(registry, parse_prompt(text, name=file.name, path=file.path), env)
        again.append(time.process_time() - before)
    return {
        "files": FILES,
        "lines": LINES,
        "findings": findings,
        "headers_ms": round(1000 * (read - start), 1),
        "check_ms": round(1000 * (checked - read), 1),
        "of_that_parsing_ms": round(1000 * (parsed - checked), 1),
        "a_file_ms": round(1000 * (checked - start) / FILES, 2),
        "one_file_again_ms": round(1000 * statistics.median(again), 2),
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    if options.write:
        write(options.write)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        found = measure(Path(folder))
    if options.json:
        json.dump(found, sys.stdout)
        return
    for name, value in found.items():
        print(f"{name:20} {value}")


if __name__ == "__main__":
    main()
