"""A project in a git repository whose prompts changed since the last commit."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from llmfeatures.project import Project
from tests.projects import at, make_project, segment, watched

HOSTILE = "@bob <b>bold</b> `code` ``` | #12 [x](y) & *em*"
OLD = """---
features:
  segment: {default: unknown}
  watched: {default: 0}
inputs:
  question: {type: str}
---
{% message "system" %}
You recommend shows for a streaming service.

Viewer: {{ segment }}, watched {{ watched }} titles{% if watched > 20 %} (heavy viewer){% endif %}.

Suggest 3 titles in a short, friendly message.
{% endmessage %}
{% message "user" %}
{{ question }}
{% endmessage %}
"""


def git(root: Path, *arguments: str) -> str:
    """What git says, with a person's name and no configuration of this machine's."""
    command = [
        "git",
        "-c",
        "user.name=n",
        "-c",
        "user.email=n@example.com",
        "-c",
        "init.defaultBranch=main",
        *arguments,
    ]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path, message: str = "x") -> str:
    """Commit all files; gives the commit."""
    git(root, "add", "-A")
    git(root, "commit", "-qm", message)
    return git(root, "rev-parse", "HEAD").strip()


Made = Callable[..., Project]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Makes a project with these prompts, commits it, and then writes the later ones."""

    def make(old: Mapping[str, str], new: Mapping[str, str], extra: Mapping[str, str] | None = None) -> Project:
        chance = random.Random(3)
        words = ["casual", "power user", None, HOSTILE, "in the short message"]
        segments = [
            segment(f"u{number}", chance.choice(words), at(chance.randrange(24), day=chance.randrange(1, 7)))
            for number in range(40)
        ]
        counts = [
            watched(f"u{number}", chance.choice([0, 3, 20, 21, 1234]), at(chance.randrange(24), day=day))
            for number in range(40)
            for day in range(1, 7)
        ]
        root = make_project(tmp_path / "project", segments=segments, counts=counts, prompts=old)
        config = root / "llmfeatures.toml"
        config.write_text(config.read_text().replace("[project]\n", '[project]\nnow = "2026-05-07T23:00:00Z"\n'))
        for name, text in (extra or {}).items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        git(root, "init", "-q")
        commit(root)
        for name, text in new.items():
            path = root / "prompts" / f"{name}.prompt.j2"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return Project.load(root)

    return make
