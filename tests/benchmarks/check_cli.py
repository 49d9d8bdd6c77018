"""What `llmfeatures check` costs over 200 prompts of 100 lines: whole processes, and one prompt after a save.

python -m tests.benchmarks.check_cli [PROMPTS]

Processes find the library's bytecode, as those of an installed package do. Beside each time is what the processor
worked in the process and its fork, since other work on a machine prolongs the one and hardly the other.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from llmfeatures.checker.pages import FEATURES
from llmfeatures.checker.session import CheckSession
from llmfeatures.config import find_config
from llmfeatures.registry import load_registry

HEADER = """\
---
description: Number {number} of the benchmark
owner: growth
features:
  user_segment: {{default: unknown}}
  watch_count_30d: {{on_missing: none}}
  last_genre: {{on_missing: none, max_age: 7d}}
  genres: {{default: []}}
  minutes_30d: {{default: 0.0}}
inputs:
  question: {{type: str, max_chars: 500}}
---
{{% from "_shared/parts.j2" import line %}}
{{% message "system" %}}
"""
PART = """\
You recommend titles, in part {part} of prompt {number}. Segment: {{{{ user_segment }}}}.
{{% if last_genre is not none %}}
- likes {{{{ last_genre | upper }}}}
{{% elif user_segment == "casual" %}}
{{{{ line("minutes", minutes_30d) }}}}
{{% endif %}}
{{% for genre in genres %}}
- {{{{ loop.index }}}}. {{{{ genre }}}}
{{% endfor %}}
{{% if watch_count_30d is not none and watch_count_30d > {part} %}}Heavy: {{{{ watch_count_30d }}}}{{% endif %}}
"""
FOOTER = '{% endmessage %}\n{% message "user" %}\n{% data %}\n{{ question }}\n{% enddata %}\n{% endmessage %}\n'
ROUNDS = 5


def make(root: Path, prompts: int) -> None:
    """A project with so many prompts of 100 lines, which share one partial."""
    (root / "llmfeatures.toml").write_text('[project]\nname = "bench"\nregistry = "features.py"\n')
    (root / "features.py").write_text(FEATURES)
    shared = root / "prompts" / "_shared"
    shared.mkdir(parents=True)
    (shared / "parts.j2").write_text("{% macro line(label, value) %}{{ label }}: {{ value }}{% endmacro %}\n")
    for number in range(prompts):
        parts = "".join(PART.format(part=part, number=number) for part in range(8))
        (root / "prompts" / f"p{number:03}.prompt.j2").write_text(HEADER.format(number=number) + parts + FOOTER)


Taken = tuple[float, float]


def worked() -> float:
    """Seconds of the processor, those of ended processes too."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(run: Callable[[], object]) -> Taken:
    """Milliseconds on the clock, and of the processor."""
    start, before = time.perf_counter(), worked()
    run()
    return (time.perf_counter() - start) * 1e3, (worked() - before) * 1e3


def show(name: str, taken: list[Taken], limit: float) -> None:
    times, works = zip(*taken, strict=True)
    each = " ".join(f"{one:.0f}" for one in times)
    least = f"processor {min(works):.0f}"
    print(f"{name:34} {statistics.median(times):6.0f} ms   of {limit:.0f}   least {min(times):.0f}, {least}   ({each})")


def main() -> None:
    """Print medians over the rounds beside what is asked of them."""
    prompts = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, prompts)
        command = [sys.executable, "-m", "llmfeatures", "check", "--no-sources", "--project", str(root)]

        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(root / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}

        def check(*more: str) -> Taken:
            return timed(
                lambda: subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL, env=environment)
            )

        check("--no-cache")
        show("cold", [check("--no-cache") for _ in range(ROUNDS)], 1500)
        check()
        show("nothing changed", [check() for _ in range(ROUNDS)], 300)
        one = root / "prompts" / "p007.prompt.j2"
        text = one.read_text()

        def save(number: int) -> None:
            one.write_text(text + f"{{# {number} #}}\n")

        taken: list[Taken] = []
        for number in range(ROUNDS):
            save(number)
            taken.append(check())
        show("one prompt changed, whole process", taken, 1000)
        config = find_config(root)
        session = CheckSession(load_registry(config.project.registry, config.root), config.prompts)
        session.findings()
        taken = []
        for number in range(20):
            save(number + 100)
            taken.append(timed(lambda: session.findings([one.name.removesuffix(".prompt.j2")])))
        show("one prompt changed, session", taken, 20)


if __name__ == "__main__":
    main()
