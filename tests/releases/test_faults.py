"""Processes that are killed while they apply, and disks that take no more."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmfeatures import Project
from llmfeatures.releases.kept import Releases
from llmfeatures.state import FolderState
from tests.projects import make_project

APPLYING = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from llmfeatures.prompts.texts import PromptTexts
from llmfeatures.registry import load_registry
from llmfeatures.releases.applying import apply, roll_back
from llmfeatures.releases.kept import Releases
from llmfeatures.state import FolderState

root = Path(sys.argv[1])
registry = load_registry("features.yaml", root)
releases = Releases(FolderState(root / ".llmfeatures"))
print("ready", flush=True)
for number in range(100_000):
    (root / "prompts" / "home.prompt.j2").write_text(f"{sys.argv[2]} {number} " + "words " * 20_000)
    apply(releases, registry, root / "prompts", check=lambda: None, now=datetime.now(UTC))
    if number % 3 == 2:
        roll_back(releases, registry, "previous", now=datetime.now(UTC))
"""


@pytest.mark.heavy
def test_whoever_is_killed_while_applying_leaves_a_release_that_is_whole(tmp_path: Path) -> None:
    root = make_project(tmp_path)
    Project.load(root).apply()
    chance = random.Random(7)
    folder = root / ".llmfeatures" / "releases"
    seen = 0
    for round_ in range(40):
        child = subprocess.Popen(
            [sys.executable, "-c", APPLYING, str(root), str(round_)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0, 0.15))
        child.kill()
        assert child.communicate(timeout=30)[1] == b""
        releases = Releases(FolderState(root / ".llmfeatures"))
        active = releases.active()
        assert active is not None
        records = releases.activations()
        assert [one.at for one in records] == sorted(one.at for one in records)
        assert {one.release for one in records} <= set(releases.ids())
        assert releases.newest_first()  # each of them is what was written
        seen = max(seen, len(records))
        if round_ % 10 == 0:  # nobody holds the lock any more
            (root / "prompts" / "home.prompt.j2").write_text(f"after {round_}")
            project = Project.load(root)
            assert project.apply().changed
            project.close()
    assert seen > 20, "no process came far enough to be interrupted"
    assert len(list(folder.glob("*.part"))) <= 40


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from llmfeatures.cli.app import run
sys.exit(run(["apply", "--project", sys.argv[1]]))
"""


def test_a_disk_that_takes_no_more_leaves_the_old_release_active(tmp_path: Path) -> None:
    root = make_project(tmp_path)
    project = Project.load(root)
    old = project.apply().release
    (root / "prompts" / "home.prompt.j2").write_text("words " * 10_000)
    done = subprocess.run([sys.executable, "-c", FULL, str(root)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert project.releases.active() == old
    assert Releases(FolderState(root / ".llmfeatures")).ids() == [old.id]
    assert not list((root / ".llmfeatures" / "releases").glob(".*"))
    assert Project.load(root).apply().changed
    project.close()
