"""How long one waits to see a prompt: its timeline, and the next version while it is watched.

    python -m tests.benchmarks.see [timeline | watch] [--users 20] [--saves 40] [--data DIR]

``timeline``: that of one user among 100,000 with 9,000,000 rows of history, over all of it, user by user, on a store
that is open. ``watch``: a prompt of a hundred lines with a partial, in a project with an embedded store and 100 users;
it is saved in each of the ways of editors, in turns, and the time runs from before the save until a process of
``llmfeatures context --watch`` has printed the new version.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from llmfeatures import Project
from tests.benchmarks.workload import DATA, SIZES, write_history


def said(name: str, seconds: Sequence[float]) -> None:
    """Print one line of figures, in milliseconds."""
    ordered = sorted(seconds)
    figures = {
        "least": ordered[0],
        "median": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))],
        "max": ordered[-1],
    }
    print(f"{name:26}", "".join(f"{label:>9} {value * 1e3:7.1f} ms" for label, value in figures.items()))


def timelines(folder: Path, users: int) -> None:
    """Time timelines of a few users."""
    size = SIZES["small"]
    write_history(folder / size.name, size)
    project = Project.load(folder / size.name)
    taken: list[float] = []
    entries = moments = 0
    for number in range(users):
        start = time.perf_counter()
        made = project.timeline("recommender", user_id=f"u{number * 4_001:08d}", since="2026-01-01", until="2026-05-01")
        taken.append(time.perf_counter() - start)
        entries, moments = entries + len(made), moments + made.moments
    said(f"timeline ({moments // users} moments)", taken)
    print(f"{'':28} {entries / users:.1f} entries each; the first one of a process {taken[0] * 1e3:.1f} ms")
    project.close()


# -- watch -----------------------------------------------------------------------------------------------------------

LINES = "".join(f"{{% if watched > {number} %}}{{{{ segment }}}} {number}{{% endif %}}\n" for number in range(90))
PROMPT = f"""---
features:
  segment: {{default: unknown}}
  watched: {{default: 0}}
---
MARK
{{% include "_shared/tone.j2" %}}
{LINES}"""


def in_place(path: Path, text: str) -> None:
    """One write."""
    path.write_text(text)


def replaced(path: Path, text: str) -> None:
    """A new file is moved over the old one."""
    other = path.with_name(".tmp-save")
    other.write_text(text)
    other.replace(path)


def removed(path: Path, text: str) -> None:
    """The file is removed and made again."""
    path.unlink()
    path.write_text(text)


def twice(path: Path, text: str) -> None:
    """Two writes, the first one cut short."""
    with path.open("w") as out:
        out.write(text[: len(text) // 2])
        out.flush()
        os.fsync(out.fileno())
        out.seek(0)
        out.truncate()
        out.write(text)


WAYS: dict[str, Callable[[Path, str], None]] = {
    "in place": in_place, "replaced": replaced, "removed and made": removed, "written twice": twice
}  # fmt: skip


def watch(saves: int) -> None:
    """Time saves."""
    from tests.projects import at, make_project, segment, watched

    with tempfile.TemporaryDirectory() as folder:
        root = make_project(
            Path(folder),
            segments=[segment(f"u{number}", "casual", at()) for number in range(100)],
            counts=[watched(f"u{number}", number, at()) for number in range(100)],
            prompts={"home": PROMPT},
        )
        shared = root / "prompts" / "_shared" / "tone.j2"
        shared.parent.mkdir()
        shared.write_text("Be kind.\n")
        Project.load(root).materialize()
        command = [sys.executable, "-m", "llmfeatures", "context", "home", "user_id=u42", "--watch", "--json"]
        process = subprocess.Popen(
            [*command, "--project", str(root)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        taken: dict[str, list[float]] = {name: [] for name in (*WAYS, "a partial")}
        for number in range(saves):
            for name, seconds in taken.items():
                time.sleep(0.1 + 0.007 * (number % 5))
                mark = f"mark {name} {number}"
                start = time.perf_counter()
                if name == "a partial":
                    shared.write_text(f"{mark}\n")
                else:
                    WAYS[name](root / "prompts" / "home.prompt.j2", PROMPT.replace("MARK", mark))
                while True:
                    version = json.loads(process.stdout.readline())
                    if version["context"] and mark in version["context"]["messages"][0]["content"]:
                        break
                seconds.append(time.perf_counter() - start)
        process.terminate()
        process.wait()
    for name, each in taken.items():
        said(f"watch, {name}", each)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="Times what shows a prompt.")
    parser.add_argument("what", nargs="?", choices=["timeline", "watch"])
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--saves", type=int, default=40)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    if options.what != "watch":
        timelines(options.data, options.users)
    if options.what != "timeline":
        watch(options.saves)


if __name__ == "__main__":
    main()
