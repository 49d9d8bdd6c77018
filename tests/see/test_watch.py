"""``context --watch`` as a user runs it: a process, real saves, a pipe or a terminal."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import Project
from llmfeatures.cli.watched import Files
from tests.benchmarks.see import WAYS
from tests.projects import at, make_project, segment, watched

PROMPT = """---
features:
  segment: {default: unknown}
  watched: {default: 0}
---
{% include "_shared/tone.j2" %}

They are {{ segment }} and watched {{ watched }}.
"""
LONG = 30.0  # seconds; nothing here depends on how fast it is


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = make_project(
        tmp_path,
        segments=[segment("ada", "casual", at())],
        counts=[watched("ada", 47, at())],
        prompts={"home": PROMPT},
    )
    (made / "prompts" / "_shared").mkdir()
    (made / "prompts" / "_shared" / "tone.j2").write_text("Be kind.\n")
    Project.load(made).materialize()
    return made


@contextmanager
def watching(root: Path, *options: str) -> Generator[tuple[subprocess.Popen[str], Callable[[str], str]]]:
    """A watching process, and a function that reads its output up to and with a line that holds some text."""
    command = [sys.executable, "-m", "llmfeatures", "context", "home", "user_id=ada", "--watch", *options]
    process = subprocess.Popen(
        [*command, "--project", str(root)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    out = process.stdout.fileno()
    waiting = ""  # what came after the line that was asked for

    def read(text: str) -> str:
        nonlocal waiting
        found, waiting = waiting, ""
        deadline = time.monotonic() + LONG
        while "\n" not in found[max(found.find(text), 0) :] or text not in found:
            ready = select.select([out], [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, f"no {text!r} in {found!r}"
            more = os.read(out, 65536).decode()  # past Python's own buffer, which select does not see
            assert more, f"ended after {found!r}"
            found += more
        end = found.index("\n", found.index(text)) + 1
        found, waiting = found[:end], found[end:]
        return found

    try:
        yield process, read
    finally:
        process.kill()
        process.communicate()


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    return process.returncode, err


def test_each_save_is_a_version_and_errors_leave_the_last_one(root: Path) -> None:
    prompt, tone = root / "prompts" / "home.prompt.j2", root / "prompts" / "_shared" / "tone.j2"
    with watching(root, "--json") as (process, read):

        def version(mark: str) -> dict[str, Any]:
            return json.loads(read(mark).splitlines()[-1])

        first = version("casual and watched 47")
        assert (first["saved"], first["problem"], first["milliseconds"]) == ([], None, None)
        for name, save in WAYS.items():
            save(prompt, PROMPT.replace("They are", f"Saved {name}:"))
            assert version(f"Saved {name}:")["saved"] == ["prompts/home.prompt.j2"]
        tone.write_text("Be brief.\n")
        assert version("Be brief.")["saved"] == ["prompts/_shared/tone.j2"]
        prompt.write_text(PROMPT.replace("{{ watched }}", "{{ wached }}"))
        broken = version("wached")
        assert broken["context"] is None
        assert broken["problem"] or [one["line"] for one in broken["findings"] if one["severity"] == "error"] == [8]
        prompt.unlink()
        assert version('"context": null')["context"] is None
        prompt.write_text(PROMPT)
        assert "Be brief.\\nThey are casual" in json.dumps(version("Be brief."))
        registry = root / "features.yaml"
        registry.write_text(registry.read_text().replace("watched: int", "seen: int"))
        assert version("features.yaml")["context"] is None
        registry.write_text(registry.read_text().replace("seen: int", "watched: int"))
        assert version("casual and watched 47")["saved"] == ["features.yaml"]
        assert interrupted(process) == (0, "")


def test_in_a_pipe_it_prints_each_version_without_control_codes(root: Path) -> None:
    prompt = root / "prompts" / "home.prompt.j2"
    with watching(root) as (process, read):
        first = read("watched 47.")
        assert first == "== prompts/home.prompt.j2\nBe kind.\nThey are casual and watched 47.\n"
        prompt.write_text(PROMPT.replace("They are", "She is"))
        assert read("+{+She is+} casual") == (
            "\n== saved prompts/home.prompt.j2\nBe kind.\nShe is casual and watched 47.\n\nchanged:\n"
            "-[-They are-] casual and watched 47.\n+{+She is+} casual and watched 47.\n"
        )
        assert interrupted(process) == (0, "")


def test_a_registry_that_is_no_file_keeps_nobody_waiting(root: Path) -> None:
    config = root / "llmfeatures.toml"
    (root / "see_registry").mkdir()
    (root / "see_registry" / "__init__.py").write_text(
        "from llmfeatures.registry import registry_from_yaml\n"
        f"made = registry_from_yaml({(root / 'features.yaml').read_text()!r})\n"
    )
    config.write_text(config.read_text().replace('"features.yaml"', '"see_registry:made"'))
    files = Files(Project.load(root), "home")
    files.prompt.write_text("Hello.")
    assert not files._is_half_saved(files.look())
    assert files.changed() == [files.prompt]
    assert files.changed() == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo terminal")
def test_in_a_terminal_q_ends_it_and_leaves_the_terminal_as_it_was(root: Path) -> None:
    import pty
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "llmfeatures", "context", "home", "user_id=ada", "--watch", "--project", str(root)]
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    out = b""
    deadline = time.monotonic() + LONG
    while b"q ends" not in out and time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            out += os.read(ours, 65536)
    assert b"\x1b[2J" in out
    assert b"casual" in out
    os.write(ours, b"q")
    assert process.wait(timeout=LONG) == 0
    after = termios.tcgetattr(theirs)
    assert after[:4] == before[:4]
    os.close(ours)
    os.close(theirs)
